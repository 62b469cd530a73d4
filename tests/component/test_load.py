"""A load as a user runs it, and that its requests are in flight at once."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.config.cells import Cell
from harness.config.prompts import Prompt
from harness.config.stack import Profile
from harness.engine.server import Server
from harness.measure.client import Client
from harness.measure.measurement import Measurement
from harness.plugin import DATA
from harness.results.records import PromptRecord
from tests.component import in_process
from tests.component.vllm_like import Reply, vllm_like
from tests.factories.metrics_page import PAGE
from tests.factories.records import cell_name, prompt_record, server_spec
from tests.factories.runs import level

# The suite is collected as the others are

SUITE = DATA.parent / "bench_suites" / "test_load.py"


@pytest.fixture
def collected(own_signals: None, pytester: pytest.Pytester) -> Callable[..., pytest.RunResult]:
    shutil.copy(SUITE, pytester.mkdir("bench_suites"))

    def run(*words: str) -> pytest.RunResult:
        return in_process.run(pytester, "--strict-markers", "--collect-only", "-q", *words)

    return run


def test_a_load_is_run_by_its_path_alone(collected: Callable[..., pytest.RunResult]) -> None:
    assert collected("bench_suites").parseoutcomes().get("deselected")
    named = collected("bench_suites/test_load.py", "-m", "chat and en and ngram and k4")
    assert [line for line in named.outlines if "::" in line] == [
        "bench_suites/test_load.py::test_load[chat-en-instruct-ngram-k4]"
    ]
    assert any("1, 4, 16, 64 in flight, 176 requests; less than" in line for line in named.outlines)


def test_levels_that_cannot_be_are_a_usage_error(collected: Callable[..., pytest.RunResult]) -> None:
    done = collected("bench_suites/test_load.py", "--levels=4,1")

    text = "\n".join([*done.outlines, *done.errlines])
    assert "--levels 4,1: rising numbers of requests, like 1,4,16" in text
    assert "Traceback" not in text


# A level is one stream


def test_more_requests_than_prompts_are_in_flight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three prompts, four times, five in flight: no pass waits for the one before."""
    flying, most = 0, 0

    async def ask(_: Client, prompt: Prompt, *, repeat: int, **__: object) -> PromptRecord:
        nonlocal flying, most
        flying += 1
        most = max(most, flying)
        await asyncio.sleep(0.01)
        flying -= 1
        return prompt_record(prompt.id, repeat=repeat, histogram=(0,), accepted=None, drafted=None)

    monkeypatch.setattr(Client, "ask", ask)
    spec = server_spec(drafter="none", k=0, speculative=None)
    name = cell_name(drafter="none", k=0)
    profile = Profile(prompts=3, max_tokens=4, concurrency=5)
    idle = re.sub(r"^(vllm:num_requests_\w+\{.*\}) .*$", r"\1 0.0", PAGE, flags=re.MULTILINE)
    with vllm_like(metrics=Reply(idle.encode())) as fake:
        measurement = Measurement(
            server=Server(
                url=fake.url, key="sk", spec=spec, model="tiny", start_id="f00d", version="0.32.0",
                attached=True, per_request=True, log=None,
            ),
            cell=Cell(name=name, spec=spec, profile_name="test", profile=profile),
            suite="load-05",
            prompts=[Prompt(id=f"p{i}", language="en", text=f"say {i}") for i in range(3)],
            warmups=(),
            repeats=4,
            seed=0,
            timed=True,
            folder=tmp_path / "load-05",
            progress=lambda *_: None,
        )  # fmt: skip
        measurement.prepare()
        measurement.all_passes()
        record = measurement.finish()

    assert most == 5
    assert level(5, record, asked=12).lost == 0
