"""Prompts that the user brings, in whole runs on a server that speaks the protocol."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest

from harness.plugin import DATA
from harness.results.records import CellRecord, load
from tests.component import in_process
from tests.component.vllm_like import vllm_like
from tests.factories.streams import CHAT

STACK = """\
schema = 1
name = "tiny"
[target]
model = "org/tiny"
[drafters.none]
"""


pytestmark = pytest.mark.usefixtures("own_signals")


def measured(
    pytester: pytest.Pytester, rows: list[dict[str, Any]]
) -> tuple[CellRecord, list[dict[str, Any]]]:
    """The cell of a file of these rows, and the bodies of the requests that were sent."""
    pytester.path.joinpath("tiny.toml").write_text(STACK, encoding="utf-8")
    pytester.path.joinpath("mine.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    shutil.copy(DATA.parent / "bench_suites" / "test_acceptance.py", pytester.mkdir("bench_suites"))
    with vllm_like() as server:
        done = in_process.run(
            pytester, "--stack", "./tiny.toml", "--server-url", server.url, "--gate", "off",
            "--prompts-file", "mine.jsonl", "--concurrency", "3",
        )  # fmt: skip
        asked = [body for path, _, body in server.requests if path == CHAT]
    assert done.ret == 0, done.outlines
    return load(next(pytester.path.glob("results/*/acceptance/chat-any-mine-none.json")), CellRecord), asked


def test_turns_are_asked_in_order_and_follow_the_models_own_answers(pytester: pytest.Pytester) -> None:
    rows = [{"question_id": n, "category": "c", "turns": [f"first {n}", f"then {n}"]} for n in (1, 2, 3)]

    cell, asked = measured(pytester, rows)

    assert [r.prompt for r in cell.prompts] == ["1", "1#2", "2", "2#2", "3", "3#2"]
    assert {r.category for r in cell.prompts} == {"c"}
    assert [r.unit for r in cell.prompts] == ["1", "1", "2", "2", "3", "3"]
    text = {r.prompt: r.text for r in cell.prompts}
    for n in (1, 2, 3):
        turn = next(body["messages"] for body in asked if body["messages"][-1]["content"] == f"then {n}")
        assert [m["content"] for m in turn] == [f"first {n}", text[str(n)], f"then {n}"]


def test_tools_and_a_schema_of_the_answer_go_into_the_request_and_the_prompts_identity(
    pytester: pytest.Pytester,
) -> None:
    fields: dict[str, Any] = {
        "tools": [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}],
        "tool_choice": "required",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "a", "schema": {"type": "object"}},
        },
    }
    rows = [{"id": name, "text": "Hi", name: value} for name, value in fields.items()]

    cell, asked = measured(pytester, [{"id": "plain", "text": "Hi"}, *rows])

    for name, value in fields.items():
        assert [body[name] for body in asked if name in body] == [value]
    assert len({r.prompt_text_hash for r in cell.prompts}) == 4


def test_a_language_that_pytest_would_take_for_a_marker_is_refused(pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("tiny.toml").write_text(STACK, encoding="utf-8")
    pytester.path.joinpath("mine.jsonl").write_text('{"text": "Hi", "language": "skip"}', encoding="utf-8")

    done = pytester.runpytest_inprocess(
        "-p", "harness.plugin", "-p", "fixtures.bench", "--stack", "./tiny.toml",
        "--prompts-file", "mine.jsonl",
    )  # fmt: skip

    assert done.ret == pytest.ExitCode.USAGE_ERROR
    assert "[prompt-row]" in done.stderr.str()
