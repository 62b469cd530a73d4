from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.config.cells import Cell
from harness.config.prompts import Prompt
from harness.plugin import DATA
from harness.results.prediction import dump
from harness.results.records import CellRecord
from harness.suites.runner import Bench
from tests.component import in_process
from tests.factories.predictions import TOKENS, predicted, reaches, served, spoiled

STACK = """\
schema = 1
name = "tiny"
[target]
model = "org/tiny"
[drafters.none]
[drafters.ngram]
method = "ngram"
k = [2]
[drafters.eagle3r1]
method = "eagle3"
model = "./drafter"
k = [2, 4]
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> Path:
    """The suite, a stack with a drafter that foretells ten English answers, and no engine."""
    folder = pytester.mkdir("bench_suites")
    shutil.copy(DATA.parent / "bench_suites" / "test_parity.py", folder)
    pytester.path.joinpath("tiny.toml").write_text(STACK)
    drafter = pytester.mkdir("drafter")
    drafter.joinpath("config.json").write_text("{}", encoding="utf-8")
    lines = predicted(reaches(1, prompts=10))
    (drafter / "validation.jsonl").write_text(dump(lines))
    held_out = [{"id": line.id, "language": "en", "text": "Hi"} for line in lines]
    held_out.append({"id": "zh1", "language": "zh", "text": "你好"})  # nothing is predicted for it
    (drafter / "held_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held_out))
    return drafter


def run(pytester: pytest.Pytester, *words: str) -> pytest.RunResult:
    quiet = ["-q"] if "--collect-only" in words else []
    return in_process.run(pytester, *quiet, "--stack", "./tiny.toml", *words)


def collected(result: pytest.RunResult) -> list[str]:
    found = [re.search(r"\[(chat|raw)-(.+)\]$", line) for line in result.outlines]
    return [f"{match[1]}-{match[2]}" for match in found if match]


@pytest.mark.usefixtures("suite")
def test_cells_with_a_prediction_are_the_cases(pytester: pytest.Pytester) -> None:
    result = run(pytester, "--collect-only", "bench_suites/test_parity.py")

    assert collected(result) == ["chat-en-instruct-eagle3r1-k2", "chat-en-instruct-eagle3r1-k4"]


@pytest.mark.usefixtures("suite")
def test_the_suite_runs_by_its_path_alone(pytester: pytest.Pytester) -> None:
    assert collected(run(pytester, "--collect-only", "bench_suites")) == []


def test_without_a_drafter_of_ours_it_says_what_would_have_a_prediction(
    pytester: pytest.Pytester, suite: Path
) -> None:
    (suite / "validation.jsonl").unlink()

    result = run(pytester, "--collect-only", "bench_suites/test_parity.py")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*no drafter of stack tiny comes with a prediction*python -m training*"])


def test_beside_other_suites_a_drafter_without_a_prediction_is_only_said(
    pytester: pytest.Pytester, suite: Path
) -> None:
    (suite / "validation.jsonl").unlink()
    pytester.path.joinpath("bench_suites", "test_other.py").write_text("def test_it(): pass\n")

    result = run(pytester, "bench_suites/test_other.py", "bench_suites/test_parity.py")

    result.assert_outcomes(passed=1, deselected=12, warnings=1)
    result.stdout.fnmatch_lines(["*GateWarning: no drafter of stack tiny comes with a prediction*"])


def test_a_damaged_prediction_is_named(pytester: pytest.Pytester, suite: Path) -> None:
    (suite / "validation.jsonl").write_text("{}\n")

    result = run(pytester, "--collect-only", "bench_suites/test_parity.py")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*validation.jsonl, line 1: field id: it is missing*"])


@pytest.mark.usefixtures("suite")
@pytest.mark.parametrize(
    ("loss", "words", "outcome"),
    [
        (0.0, (), {"passed": 1}),
        (0.6, (), {"failed": 1}),
        (0.6, ("--gate", "warn"), {"passed": 1, "warnings": 1}),
    ],
)
def test_a_case_fails_on_a_break_and_shows_its_table(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    loss: float,
    words: tuple[str, ...],
    outcome: dict[str, int],
) -> None:
    asked: list[Any] = []

    def serve(_: Bench, cell: Cell, *, suite: str, prompts: list[Prompt]) -> CellRecord:
        asked.append((f"{suite}/{cell}", [p.id for p in prompts], cell.profile.max_tokens))
        return served(spoiled(reaches(1, prompts=10), loss))

    monkeypatch.setattr(Bench, "measured", serve)

    result = run(pytester, "-s", "bench_suites/test_parity.py", "-k", "k4", "--self-check", "off", *words)

    result.assert_outcomes(**outcome)
    assert asked == [("parity/chat-en-instruct-eagle3r1-k4", [f"p{i:03}" for i in range(10)], TOKENS)]
    result.stdout.fnmatch_lines(["*trainer*all starts*predicted*served*", "position 0 *", "tokens/step *"])
    if "failed" in outcome:
        result.stdout.fnmatch_lines(["*chat-en-instruct-eagle3r1-k4: broken: tokens per step*"])


@pytest.mark.usefixtures("suite")
def test_a_k_that_nothing_was_predicted_for_is_refused(pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("tiny.toml").write_text(STACK.replace("[2, 4]", "[6]"))

    result = run(pytester, "bench_suites/test_parity.py", "--self-check", "off")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*k is 6, but its validation foretells 4*"])
