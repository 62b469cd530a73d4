"""What a run may do to a terminal, and what it sends to a server that redirects."""

from __future__ import annotations

import pytest

from harness.engine.attached import attach
from harness.errors import ServerFailed
from tests.component import in_process
from tests.component.vllm_like import Reply, as_json, vllm_like
from tests.factories.records import server_spec
from tests.factories.stacks import HEAD, NGRAM, stack


def test_a_key_is_not_sent_where_a_redirect_leads() -> None:
    with vllm_like(v1_models=as_json({"data": []})) as other, vllm_like() as asked:
        there = f"HTTP/1.1 302 Found\r\nLocation: {other.url}/v1/models\r\nContent-Length: 0\r\n\r\n"
        asked.replies["/v1/models"] = Reply(raw=there.encode())
        with pytest.raises(ServerFailed):
            attach(asked.url, server_spec(), key="sk-secret")
        assert asked.requests[0][1]["authorization"] == "Bearer sk-secret"
        assert "authorization" not in other.requests[0][1]


# What pytest shows of texts that engines and models wrote

TOLD = """
import pytest
from harness.errors import BadInput, GateWarning

HOSTILE = "the server says: \\x1b[31m\\x9b1m\\u202e<script>"


@pytest.mark.cells
def test_told(cell, request, say):
    say(f"said {HOSTILE}")
    if cell.name.k == 0:
        pytest.fail(f"failed {HOSTILE}", pytrace=False)
    if cell.name.k == 2:
        raise BadInput(f"raised {HOSTILE}")
    if cell.name.k == 4:
        request.node.warn(GateWarning(f"warned {HOSTILE}"))
    pytest.skip(f"skipped {HOSTILE}")
"""


@pytest.mark.usefixtures("own_signals")
def test_no_message_of_a_run_acts_on_a_terminal(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_told=TOLD)
    stack(pytester.path, HEAD + "[drafters.none]\n" + NGRAM.replace("[2]", "[2, 4]"))
    done = in_process.run(
        pytester, "-rA", "--stack", "./tiny.toml", "-k", "chat and en", "--junitxml", "junit.xml",
        "test_told.py",
    )  # fmt: skip
    text = "\n".join([*done.outlines, *done.errlines])
    for what in ("said", "failed", "raised", "warned", "skipped"):
        assert rf"{what} the server says: \x1b[31m\x9b1m\u202e<script>" in text
    assert not {"\x1b", "\x9b", "\u202e"} & set(text)
    assert not {"\x1b", "\x9b", "\u202e"} & set((pytester.path / "junit.xml").read_text(encoding="utf-8"))
