"""The tools suite as a user runs it, on fake servers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.results.records import CellRecord, load
from harness.suites.runner import kept
from tests.component.fake_engine import Fake, bench
from tests.component.vllm_like import VllmLike, serving
from tests.factories.streams import CHAT, PIECES

WORDS = ("bench_suites/test_tools.py", "-k", "test_tools")


class Calling(VllmLike):
    """It calls the first tool without arguments, and answers a schema with an empty object."""

    def good(self, asked: dict[str, Any]) -> Iterator[Any]:  # type: ignore[override]
        for event in super().good(asked):
            if event.get("choices") and event is not PIECES[0]:
                choice, delta = event["choices"][0], {}
                if choice["delta"]["content"] == "Bread" and "tools" in asked:
                    function = {"name": asked["tools"][0]["function"]["name"], "arguments": "{}"}
                    delta = {"tool_calls": [{"index": 0, "function": function}]}
                yield {**event, "choices": [{**choice, "delta": delta}]}
            else:
                yield event


def test_answers_of_a_given_server_are_looked_at_one_by_one(fake: Fake, tmp_path: Path) -> None:
    vllm = Calling(2)
    with serving(vllm) as server:
        code, output = bench(fake, tmp_path, *WORDS, "--server-url", server.url)

    assert code == 0, output
    (run,) = (path.parent for path in tmp_path.glob("results/*/run.json"))
    (outcome,) = kept(run).values()
    assert [(row["kind"], row["prompts"], row["valid"]) for row in outcome.figures["answers"]] == [
        ("call", 2, 0), ("schema", 1, 0), ("all", 3, 0),
    ]  # fmt: skip
    bodies = [
        body for path, _, body in vllm.requests if path == CHAT and body.keys() & {"tools", "response_format"}
    ]
    assert sorted(str(body.get("tool_choice")) for body in bodies) == ["None", "required", "required"]
    assert load(run / "tools" / "chat-en-tools-ngram-k2.json", CellRecord).valid


def test_none_is_asked_first_and_a_target_that_answers_nothing_valid_is_skipped(
    fake: Fake, tmp_path: Path
) -> None:
    code, output = bench(fake, tmp_path, *WORDS)

    assert code == 0, output
    assert "1 skipped" in output
    (run,) = (path.parent for path in tmp_path.glob("results/*/run.json"))
    assert {path.stem for path in run.glob("tools/*.json")} == {
        "chat-en-tools-none",
        "chat-en-tools-ngram-k2",
    }


MAY_CALL = {"text": "Where?", "tools": [{"type": "function", "function": {"name": "find"}}]}


@pytest.mark.parametrize(
    ("suite", "row", "code"),
    [
        ("tools", MAY_CALL, "no-tool-parser"),
        ("acceptance", MAY_CALL, "no-tool-parser"),
        ("tools", {"text": "Where?"}, "no-prompts"),
        (
            "tools",
            {"text": "Where?", "response_format": {"type": "json_schema", "json_schema": []}},
            "prompt-row",
        ),
        ("endpoints", {"turns": ["Where?", "And when?"]}, "not-a-text"),
        ("prefix", {"turns": ["Where?", "And when?"]}, "not-a-text"),
    ],
)
def test_own_prompts_that_cannot_be_asked_are_refused_before_anything_starts(
    fake: Fake, tmp_path: Path, suite: str, row: dict[str, Any], code: str
) -> None:
    own = tmp_path / "own.jsonl"
    own.write_text(json.dumps(row) + "\n", encoding="utf-8")
    words = f"bench_suites/test_{suite}.py", "-k", f"test_{suite}", "--prompts-file", str(own)
    done, output = bench(fake, tmp_path, *words)

    assert done == pytest.ExitCode.USAGE_ERROR, output
    assert f"[{code}]" in output
    assert not (tmp_path / "results").exists()
