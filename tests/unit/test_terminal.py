"""What a terminal shows: the sentence of a run, tables that fit, colour."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from wcwidth import wcswidth

from harness.cli import main
from harness.commands import doctor
from harness.judge.verdict import Kind as VerdictKind
from harness.report.sentence import MARKS, sentence
from harness.results.records import Finding
from harness.suites.ending import ending
from harness.suites.runner import Kind, Outcome, keep
from harness.text.console import coloured, painted
from harness.text.render import Block, lay_out
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


# Tables that fit


def table(columns: int, *, name: str = "chat-en-instruct-ngram-k4", cell: str = "0.123456") -> Block:
    return Block(
        header=("cell", *(f"column {i}" for i in range(columns))),
        rows=((name, *[cell] * columns),),
        ranks=(0, *range(columns)),
    )


def widths(text: str) -> list[int]:
    return [wcswidth(line) for line in text.splitlines()]


@pytest.mark.parametrize("columns", [1, 3, 8, 40])
@pytest.mark.parametrize("width", [80, 100])
def test_a_table_that_is_too_wide_loses_columns_and_says_which(columns: int, width: int) -> None:
    wide, text = lay_out([table(columns)]), lay_out([table(columns)], width)

    assert max(widths(text)) <= width
    shown = text.splitlines()[0].split("  ")
    named = text.splitlines()[-1]
    more = re.search(r" and (\d+) more", named)
    assert text.count("column ") + int(more[1] if more else 0) == columns
    if max(widths(wide)) <= width:
        assert text == wide
    else:
        assert "--wide" in text
        assert f"column {columns - 1}" not in shown
        assert max(widths(text)[:2]) > width - len("column 99  "), "a column that fits was left out"


def test_columns_of_one_rank_go_together() -> None:
    block = Block(header=("cell", "old", "new"), rows=(("a" * 70, "1.00", "2.00"),), ranks=(0, 1, 1))

    assert "1.00" not in lay_out([block], 80)
    assert "2.00" not in lay_out([block], 80)


@pytest.mark.parametrize("name", ["中文" * 40, "a" * 200, "中" * 39 + "ab" * 10, "e\u0301" * 100])
def test_a_name_that_is_too_long_keeps_both_ends(name: str) -> None:
    text = lay_out([table(3, name=f"<{name}>")], 80)

    assert max(widths(text)) <= 80
    assert "…" in text
    assert re.search(r"^<.*>", text, re.MULTILINE)


def test_chinese_counts_two_columns() -> None:
    block = Block(header=("name", "n"), rows=(("中文", "1"), ("abcd", "2")))

    lines = lay_out([block]).splitlines()

    assert len(set(map(wcswidth, lines))) == 1


def test_lines_are_folded_between_words() -> None:
    path = "/a/" + "long/" * 30
    text = lay_out([f"note: {'word ' * 40}{path}"], 80)

    assert path in text
    assert all(width <= 80 for width in widths(text.replace(path, "")))
    assert lay_out(["note: " + "word " * 40]).count("\n") == 0


NARROW = (
    ["compare", "bfloat16", "shy"],
    ["compare", "bfloat16", "aa", "shy"],
    ["compare", "bfloat16"],
    ["compare", "bfloat16", "--pivot", "drafter"],
    ["compare", "bfloat16", "aa", "--pivot", "language"],
    ["compare", "bfloat16", "--old", "ngram-k2", "--new", "ngram-k4"],
)


@pytest.mark.parametrize("arguments", NARROW, ids=" ".join)
def test_compare_fits_a_narrow_terminal_and_a_file_has_all(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(RECORDINGS)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    main(arguments)
    assert max(widths(capsys.readouterr().out)) <= 80
    main([*arguments, "--wide"])
    wide = capsys.readouterr().out
    assert "--wide" not in wide
    assert main([*arguments, "--output", str(tmp_path / "out.txt")]) in (0, 1, 3)
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == wide
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    main(arguments)
    assert capsys.readouterr().out == wide


def test_the_lines_of_doctor_fit_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = " ".join(["草稿模型", "weights"] * 20)
    monkeypatch.setattr(doctor, "checks", lambda *_, **__: iter([doctor.Line("ok", "target", words)]))
    monkeypatch.setattr(doctor.ceiling, "block", lambda _: iter([words]))
    assert main(["doctor", "--ceiling"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["doctor", "--ceiling"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert 60 < max(map(wcswidth, lines)) <= 80
    assert [line[18] for line in lines[1:4]] == [line[18:].strip()[0] for line in lines[1:4]]


@pytest.mark.parametrize("what", ["stacks", "profiles", "drafters", "prompts", "suites"])
def test_a_list_fits_a_narrow_terminal(
    what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    main(["list", what])
    narrow = capsys.readouterr().out
    main(["list", what, "--wide"])
    wide = capsys.readouterr().out

    assert max(widths(narrow)) <= 80
    assert {line.split()[0] for line in wide.splitlines()} <= set(narrow.split())
    if what == "suites":
        assert narrow.split() == wide.split(), "a question was cut"


def test_sentences_are_folded_in_their_column() -> None:
    block = Block(header=("a", "why"), rows=(("one", "word " * 30), ("two", "short")), align="ll", prose=True)

    lines = lay_out([block], 60).splitlines()

    assert max(map(wcswidth, lines)) <= 60
    assert lines[2].startswith(" " * 5 + "word")
    assert lines[-1] == "two  short"


def test_quiet_says_the_sentence_alone(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["compare", str(RECORDINGS / "bfloat16"), str(RECORDINGS / "shy"), "--quiet"])

    assert code == 1
    assert "2 worse" in capsys.readouterr().out.strip()
    main(["compare", str(RECORDINGS / "bfloat16"), str(RECORDINGS / "shy"), "-q"])
    assert len(capsys.readouterr().out.splitlines()) == 1


# Colour


class Stream:
    def __init__(self, *, terminal: bool) -> None:
        self.isatty: Callable[[], bool] = lambda: terminal


@pytest.mark.parametrize(
    ("environment", "terminal", "colour"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, True, False),
    ],
)
def test_colour_is_for_terminals(
    environment: dict[str, str], *, terminal: bool, colour: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert ("\x1b[" in coloured("▼ 1 cell: 1 worse", Stream(terminal=terminal))) == colour


def test_only_marks_that_stand_alone_are_coloured() -> None:
    assert painted("what? a▼b T=0 ngram-k4") == "what? a▼b T=0 ngram-k4"
    assert re.sub(r"\x1b\[\d+m", "", painted("▼ a: x  ?\n-7.9  ✓")) == "▼ a: x  ?\n-7.9  ✓"


# The tables of the suites


def test_an_old_outcome_with_a_text_as_table_is_shown(tmp_path: Path) -> None:
    run = bench(tmp_path).run
    keep(run.folder, Outcome(suite="load", cell=NAME, table="one  two\n1    2"))

    assert ("load", "one  two\n1    2") in ending(run, (), whole=False, width=80).sections


def test_the_table_of_an_outcome_is_kept_whole_and_shown_as_wide_as_the_terminal(tmp_path: Path) -> None:
    run = bench(tmp_path).run
    keep(run.folder, Outcome(suite="load", cell=NAME, table=(table(40), "a line")))

    narrow, wide = (ending(run, (), whole=False, width=width).sections[1][1] for width in (80, None))

    assert max(widths(narrow)) <= 80 < max(widths(wide))
    assert wide.endswith("a line")
