"""`draftgate card`: the figures of a run for a model card, which `draftgate claims` checks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from harness.cli import main
from harness.results.records import Finding
from tests.factories.records import prompt_record
from tests.factories.runs import answer, cell, plain, write_cell, write_run

pytestmark = pytest.mark.usefixtures("here")

LOOPS = Finding(code="loops", hard=False, text="5 of 24 answers end in a loop", values={"count": 5, "of": 24})


def card(capsys: pytest.CaptureFixture[str], path: str, code: int = 0) -> str:
    assert main(["card", path]) == code
    out = capsys.readouterr()
    assert not out.err
    return out.out


def rows_of(text: str) -> list[list[str]]:
    """The cells of each row, by a reader of GitHub's tables."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    flat = [t for t in tokens if t.type in ("tr_open", "inline")]
    rows: list[list[str]] = []
    for token in flat:
        if token.type == "tr_open":
            rows.append([])
        elif rows and token.level > 3:
            rows[-1].append(re.sub("<!--.*?-->", "", token.content).strip())
    return rows


def test_a_run_is_a_row_a_drafters_cell_with_intervals_and_what_limits_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_run(Path("run"), plain(), cell(k=2), cell("zh", findings=(LOOPS,)), cell(drafter="草稿|*x*"))
    text = card(capsys, "run")
    header, *rows = rows_of(text)
    assert header[-1] == "traps"
    assert [row[0] for row in rows] == [
        "ngram",
        "草稿|*x*".replace("|", "&#124;").replace("*", "&#42;"),
        "ngram",
    ]
    assert [row[2] for row in rows] == ["English", "English", "Chinese"]
    assert [row[4:7] for row in rows] == [["24", "0", "2"], ["24", "0", "4"], ["24", "0", "4"]]
    assert all(re.fullmatch(r"\d\.\d\d \(\d\.\d\d\.\.\d\.\d\d\)", row[7]) for row in rows)
    assert rows[0][10] == "—"  # k is 2
    assert [row[-3:] for row in rows] == [["0.32.0", "A CPU", "none"]] * 2 + [["0.32.0", "A CPU", "¹"]]
    assert "¹ 5 of 24 answers end in a loop" in text


def test_claims_checks_every_figure_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    write_run(Path("run"), plain(), cell(), cell("zh", drafter="d -- x"), cell(drafter="草稿", k=2))
    Path("card.md").write_text(card(capsys, "run"), encoding="utf-8")
    assert main(["claims", "card.md", "run"]) == 0
    assert capsys.readouterr().out.split()[1] == str(3 * 16 - 4)  # two positions were not measured
    text = Path("card.md").read_text(encoding="utf-8")
    figures = [
        m for m in re.finditer(r"(?<![\d.])\d+\.\d+(?![\d]|\.\d)|(?<=\.\.)\d+\.\d+", text) if m[0] != "0.32"
    ]
    assert len(figures) == 3 * 15 - 6
    for figure in figures:
        worse = f"{text[: figure.start()]}9{text[figure.start() :]}"
        Path("card.md").write_text(worse, encoding="utf-8")
        assert main(["claims", "card.md", "run"]) == 1, figure
    capsys.readouterr()


def test_a_folder_of_baselines_and_a_single_cell_have_a_card(capsys: pytest.CaptureFixture[str]) -> None:
    path = write_cell(Path("base") / "acceptance", cell())
    for named in ("base", str(path), str(Path("base").absolute())):
        Path("card.md").write_text(card(capsys, named), encoding="utf-8")
        assert main(["claims", "card.md", "base"]) == 0
        capsys.readouterr()


def test_a_cell_that_is_no_measurement_has_no_figures_and_says_why(
    capsys: pytest.CaptureFixture[str],
) -> None:
    hard = Finding(code="loops", hard=True, text="nothing but loops")
    write_run(Path("run"), cell(), cell("zh", findings=(hard,)))
    text = card(capsys, "run", code=2)
    row = rows_of(text)[-1]
    assert row[0].endswith("(not valid)")
    assert set(row[7:12]) == {"—"}
    assert "INVALID: nothing but loops" in text


def test_seeds_of_a_prompt_are_one_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    once = tuple(answer(i, worse=i % 4) for i in range(24))
    twice = tuple(r.model_copy(update={"repeat": repeat}) for r in once for repeat in (0, 1))
    write_run(Path("once"), cell(prompts=once))
    write_run(Path("twice"), cell(prompts=twice))
    shown = [rows_of(card(capsys, run))[1] for run in ("once", "twice")]
    assert shown[0] == shown[1]


@pytest.mark.parametrize("what", ["missing", "empty", "unfinished", "damaged", "plain"])
def test_what_has_no_card_is_one_sentence(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    if what == "empty":
        Path(what).mkdir()
    if what in ("unfinished", "damaged", "plain"):
        write_run(Path(what), plain() if what == "plain" else cell(), finished=what != "unfinished")
    if what == "damaged":
        (path,) = Path(what).glob("*/*.json")
        path.write_text(path.read_text(encoding="utf-8")[:-200], encoding="utf-8")
    assert main(["card", what]) == 2
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err.count("\n") == 1
    assert ("[damaged-file]" if what == "damaged" else "[no-cells]") in out.err


def test_the_load_of_a_run_is_no_row(capsys: pytest.CaptureFixture[str]) -> None:
    write_run(Path("run"), cell(), cell(suite="load/04"), cell(suite="parity"))
    assert [row[3] for row in rows_of(card(capsys, "run"))[1:]] == [
        "benchmark, instruct",
        "held out in training",
    ]


def test_a_card_of_few_prompts_has_no_interval(capsys: pytest.CaptureFixture[str]) -> None:
    write_run(
        Path("run"), cell(prompts=(prompt_record("a", accepted=None), prompt_record("b", accepted=None)))
    )
    assert all("(" not in text for text in rows_of(card(capsys, "run"))[1][7:])
