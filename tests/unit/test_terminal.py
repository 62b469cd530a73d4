"""What a terminal shows: the sentence of a run, tables that fit, colour."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from harness.cli import main
from harness.judge.verdict import Kind as VerdictKind
from harness.report.sentence import MARKS, sentence
from harness.results.records import Finding
from harness.suites.ending import ending
from harness.suites.runner import Kind, Outcome, keep
from tests.factories.benches import bench
from tests.factories.runs import cell, plain, write_cell

ROOT = Path(__file__).parents[2]
RECORDINGS = ROOT / "tests" / "data" / "recordings"
BUSY = Finding(code="foreign-traffic", hard=True, text="the server finished 30 requests while 24 ran")
NAME = "chat-en-instruct-ngram-k4"


@pytest.mark.parametrize(
    "kind", [*get_args(VerdictKind), *get_args(Kind), "measured", "alone", "refused", "missing"]
)
def test_every_kind_has_a_sentence(kind: str) -> None:
    text = sentence([("one", "identical"), ("another", kind)])

    assert "2 cells" in text
    assert sentence([("one", "identical")]) not in text


def test_the_sentence_counts_every_cell_and_names_the_bad_ones() -> None:
    found = [(f"cell-{i}", "identical") for i in range(15)] + [("cell-bad", "regressed")]

    text = sentence(found)

    assert text == "▼ 16 cells: 15 unchanged, 1 worse: cell-bad"
    assert sentence([]) == ""


def test_the_sentence_names_a_few_of_many() -> None:
    text = sentence([(f"cell-{i}", "invalid") for i in range(200)])

    assert len(text) < 80
    assert "197 more" in text


@pytest.mark.parametrize("worst", ["identical", "improved", "inconclusive", "regressed", "invalid"])
def test_the_mark_is_that_of_the_worst(worst: str) -> None:
    assert sentence([("a", "identical"), ("b", "ok"), ("c", worst)]).startswith(
        MARKS["ok" if worst == "identical" else worst]
    )


def test_compare_says_the_sentence_first_and_last(capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", str(RECORDINGS / "bfloat16"), str(RECORDINGS / "shy"), "--partial"])
    lines = capsys.readouterr().out.splitlines()

    assert lines[0] == lines[-1]
    assert all(name in lines[0] for name in (NAME, "2 worse", "14 on one side only"))


def test_what_a_run_was_asked_and_did_not_measure_is_said(tmp_path: Path) -> None:
    run = bench(tmp_path).run
    write_cell(run.folder / "acceptance", plain())

    end = ending(run, [("acceptance", str(plain().cell)), ("acceptance", NAME), ("load", NAME)], whole=False)

    assert "3 cells" in end.sentence
    assert "2 not measured" in end.sentence
    assert f"load/{NAME}" in end.sentence


@pytest.mark.parametrize(("gate", "words"), [("off", "1 measured"), ("on", "1 not comparable")])
def test_a_run_that_only_measures_claims_nothing(tmp_path: Path, gate: str, words: str) -> None:
    run = bench(tmp_path, gate=gate).run
    write_cell(run.folder / "acceptance", cell())

    assert words in ending(run, [("acceptance", NAME)], whole=False).sentence


def test_a_cell_that_is_no_measurement_is_invalid_in_the_sentence_under_every_gate(tmp_path: Path) -> None:
    for gate in ("off", "on"):
        run = bench(tmp_path / gate, gate=gate).run
        write_cell(run.folder / "acceptance", cell(findings=[BUSY]))
        assert "1 invalid" in ending(run, (), whole=False).sentence


def test_a_damaged_cell_takes_no_sentence_from_the_others(tmp_path: Path) -> None:
    run = bench(tmp_path).run
    keep(run.folder, Outcome(suite="load", cell=NAME, table="a table"))
    (run.folder / "acceptance").mkdir()
    (run.folder / "acceptance" / f"{NAME}.json").write_text("{")

    end = ending(run, (), whole=False)

    assert NAME in end.fault
    assert end.sections[1:] == (("load", "a table"),)
    assert "1 fine" in end.sentence
