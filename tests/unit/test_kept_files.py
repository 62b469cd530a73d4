"""Baselines, runs and drafters that an earlier version wrote still compare, gate and load."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.cli import main
from harness.config.prompts import load_held_out
from harness.judge import baselines
from harness.judge.verdict import judge
from harness.results import prediction
from harness.results.journal import Journal
from harness.results.records import CellRecord, RunRecord, load
from training.export import export
from training.recipe import load_recipe

KEPT = Path(__file__).parents[1] / "data" / "kept"
CELLS = KEPT / "run" / "acceptance"
NAME = "chat-en-instruct-eagle3r1-k4"


def measured() -> CellRecord:
    return load(CELLS / f"{NAME}.json", CellRecord)


def test_a_run_has_its_baselines_and_is_gated_as_it_was() -> None:
    """The figures are those that the earlier version gave."""
    record = measured()
    for find in (baselines.find, baselines.find_anchor):
        baseline = find(KEPT / "baselines", record)
        assert baseline is not None
        verdict = judge(baseline, record)
        assert verdict.kind == "regressed"
        assert verdict.primary is not None
        assert verdict.primary.estimate == pytest.approx(-0.7553140006813797)
        assert verdict.p == pytest.approx(5.4447192908674936e-08)
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
    head = {"cell": str(record.cell), "identity": record.identity, "seed": 0}
    assert Journal(Path(path), head).records == list(record.prompts[:3])


def test_a_drafter_has_its_records_its_recipe_and_its_prediction() -> None:
    drafter = KEPT / "drafter"
    assert export.load(drafter)["drafter"] == "eagle3r1"
    assert load_recipe(drafter / "recipe.toml").drafter == "eagle3r1"
    lines = prediction.load(drafter / "validation.jsonl")
    assert {line.id for line in lines} == {prompt.id for prompt in load_held_out(drafter / "held_out.jsonl")}
    assert prediction.summarise(lines, k=4, max_tokens=400)
