"""The axis of thinking, in a whole run on a server that speaks the protocol."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from harness.config.prompts import Prompt
from harness.config.stack import Profile
from harness.engine.server import Server
from harness.measure.probe import ask
from harness.plugin import DATA
from harness.results.records import CellRecord, load
from tests.component import in_process
from tests.component.vllm_like import vllm_like
from tests.factories.records import server_spec
from tests.factories.streams import CHAT, chunk, usage

STACK = """\
schema = 1
name = "tiny"
languages = ["en"]
thinking = ["on", "off"]
[target]
model = "org/tiny"
[drafters.none]
"""


def answer(asked: dict[str, Any]) -> list[Any]:
    """It thinks, or not, as the template is told."""
    deltas = [{"content": "A lamp."}, {"content": " It shines."}]
    if asked.get("chat_template_kwargs") == {"enable_thinking": True}:
        deltas = [{"reasoning": "A lamp, I think."}, *deltas]
    events = [chunk(ids=(at,)) for at in range(1, len(deltas) + 1)]
    for event, delta in zip(events, deltas, strict=True):
        event["choices"][0]["delta"] = delta
    return [*events, chunk(finish="stop"), usage(len(deltas))]


@pytest.mark.usefixtures("own_signals")
@pytest.mark.parametrize("thinking", ["on", "off"])
def test_a_cell_is_named_selected_asked_and_kept_by_its_thinking(
    pytester: pytest.Pytester, thinking: str
) -> None:
    pytester.path.joinpath("tiny.toml").write_text(STACK, encoding="utf-8")
    shutil.copy(DATA.parent / "bench_suites" / "test_acceptance.py", pytester.mkdir("bench_suites"))

    with vllm_like() as server:
        server.answer = answer
        done = in_process.run(
            pytester, "--stack", "./tiny.toml", "--server-url", server.url, "--gate", "off", "--prompts", "2",
            "-m", f"think_{thinking}",
        )  # fmt: skip
        asked = [body for path, _, body in server.requests if path == CHAT]

    assert done.ret == 0, done.outlines
    assert {str(body["chat_template_kwargs"]) for body in asked} == {
        str({"enable_thinking": thinking == "on"})
    }
    [path] = pytester.path.glob("results/*/acceptance/*.json")
    assert path.name == f"chat-en-instruct-think_{thinking}-none.json"
    record = load(path, CellRecord)
    assert record.identity.thinking == thinking
    assert [r.parts is None for r in record.prompts] == [thinking == "off"] * 2


def test_a_suite_that_asks_by_itself_tells_the_template_too() -> None:
    with vllm_like(k=2) as vllm:
        ask(
            Server(url=vllm.url, key="sk", spec=server_spec(k=2), model="tiny", start_id="f00d",
                   version="0.32.0", attached=True, per_request=True, log=None),
            [Prompt(id="a", language="en", text="Hi")],
            Profile(prompts=1, max_tokens=8),
            template={"enable_thinking": False},
        )  # fmt: skip
        [body] = [body for path, _, body in vllm.requests if path == CHAT]

    assert body["chat_template_kwargs"] == {"enable_thinking": False}
