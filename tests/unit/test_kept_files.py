"""Baselines, runs and drafters that an earlier version wrote still compare, gate and load."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.config.prompts import load_held_out
from harness.judge import baselines
from harness.judge.verdict import judge
from harness.results import prediction
from harness.results.journal import Journal
from harness.results.records import CellRecord, RunRecord, dump_cell, load
from tests.factories import runs
from training.export import export
from training.recipe import load_recipe

KEPT = Path(__file__).parents[1] / "data" / "kept"
CELLS = KEPT / "run" / "acceptance"
RECORDINGS = KEPT.parent / "recordings"
NAME = "chat-en-instruct-eagle3r1-k4"


def measured() -> CellRecord:
    return load(CELLS / f"{NAME}.json", CellRecord)


@pytest.mark.parametrize("path", [CELLS / f"{NAME}.json", *sorted(RECORDINGS.rglob("*.json"))], ids=str)
def test_what_is_compared_is_written_as_it_was_read(path: Path) -> None:
    raw = json.loads(path.read_text(encoding="utf-8"))
    record = load(path, CellRecord)
    written = json.loads(dump_cell(record))
    for part in ("identity", "subject", "environment"):
        assert written[part] == raw[part]
    unknown: dict[str, Any] = raw | {"identity": raw["identity"] | {"new": [1]}}
    other = CellRecord.model_validate_json(json.dumps(unknown))
    assert json.loads(dump_cell(other))["identity"]["new"] == [1]
    assert other.identity.differences(record.identity) == {"new": ([1], None)}


def test_a_run_has_its_baselines_and_is_gated_as_it_was() -> None:
    """The figures are those that the earlier version gave."""
    record = measured()
    for find in (baselines.find, runs.anchor):
        baseline = find(KEPT / "baselines", record)
        assert baseline is not None
        verdict = judge(baseline, record)
        assert verdict.kind == "regressed"
        assert verdict.primary is not None
        assert verdict.primary.estimate == pytest.approx(-0.7553140006813797)
        assert verdict.primary.p_loss() == pytest.approx(8.364585326311631e-08)
        assert judge(baseline, baseline).kind == "identical"


def test_a_run_compares_with_baselines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(KEPT / "baselines"), str(KEPT / "run")]) == 1
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{NAME} "))
    assert "▼" in line

    assert main(["compare", str(KEPT / "run"), str(KEPT / "run")]) == 0
    assert load(KEPT / "run" / "run.json", RunRecord).finished


def test_a_journal_goes_on(tmp_path: Path) -> None:
    record = measured()
    path = shutil.copy(CELLS / f"{NAME}.jsonl", tmp_path)
    head = {"cell": str(record.cell), "identity": record.identity.model_dump(), "seed": 0}
    assert Journal(Path(path), head).records == list(record.prompts[:3])


def test_a_drafter_has_its_records_its_recipe_and_its_prediction() -> None:
    drafter = KEPT / "drafter"
    assert export.load(drafter)["drafter"] == "eagle3r1"
    assert load_recipe(drafter / "recipe.toml").drafter == "eagle3r1"
    lines = prediction.load(drafter / "validation.jsonl")
    assert {line.id for line in lines} == {prompt.id for prompt in load_held_out(drafter / "held_out.jsonl")}
    assert prediction.summarise(lines, k=4, max_tokens=400)
