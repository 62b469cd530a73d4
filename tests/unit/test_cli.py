from __future__ import annotations

import csv
import importlib.metadata
import io
import json
from pathlib import Path
from typing import Any

import pytest

import harness.commands
from harness import cli
from harness.cli import main
from harness.judge.baselines import ANCHOR
from harness.report.sentence import MARKS
from harness.results.records import CellRecord, Finding, load
from harness.text import render
from tests.factories.records import prompt_record
from tests.factories.runs import answer, cell, plain, write_cell, write_run

pytestmark = pytest.mark.usefixtures("here")

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
ROOT = Path(__file__).parents[2]
LOOPS = Finding(code="loops", hard=False, text="1 of 24 answers end in a loop")
HOSTILE = "a|b<script>`x`\x1b[31m\nc"


@pytest.fixture
def before() -> str:
    return str(write_run(Path("before"), plain(seconds=4.0), cell(), cell("zh")))


@pytest.fixture
def after() -> str:
    """English lost, Chinese is the same, one cell is new."""
    return str(
        write_run(
            Path("after"),
            plain(seconds=4.0),
            cell(worse=3, findings=(LOOPS,)),
            cell("zh"),
            cell(endpoint="raw"),
        )
    )


def test_ctrl_c_ends_without_a_traceback(
    before: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "compare", interrupted)
    assert main(["compare", before, before]) == 130
    assert len(capsys.readouterr().err.splitlines()) == 1


def output_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(["compare", *arguments])
    out, err = capsys.readouterr()
    assert not err
    return code, out


def refusal_of(capsys: pytest.CaptureFixture[str], *arguments: str, code: str) -> str:
    """The one sentence on standard error, which ends with this code."""
    ended = main(list(arguments))
    out, err = capsys.readouterr()
    assert (ended, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("draftgate: ")
    assert err.endswith(f" [{code}]\n")
    return err


# Tables as they stand on the page


@pytest.mark.parametrize(
    ("golden", "arguments"),
    [
        ("compare.txt", []),
        ("compare.md", ["--format", "markdown"]),
        ("pivot.txt", ["--pivot", "language"]),
        ("across.txt", ["--across", "quantization"]),
    ],
)
def test_a_table_is_as_reviewed(
    golden: str, arguments: list[str], before: str, after: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = output_of(capsys, before, after, *arguments)
    assert out == (GOLDEN / golden).read_text(encoding="utf-8")
    assert code == (0 if "--across" in arguments else 1)


def test_three_columns_set_each_against_the_first(
    before: str, after: str, capsys: pytest.CaptureFixture[str]
) -> None:
    third = str(write_run(Path("third"), cell(), cell("zh", worse=3)))
    code, out = output_of(capsys, before, after, third)
    assert out == (GOLDEN / "three.txt").read_text(encoding="utf-8")
    assert code == 1


def test_one_run_is_shown_by_language(before: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = output_of(capsys, before, "--pivot", "language")
    assert out == (GOLDEN / "single.txt").read_text(encoding="utf-8")
    assert code == 0


def test_two_drafters_stand_in_the_header(capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write_run(Path("a"), cell(k=2)), write_run(Path("b"), cell("en", "suffix", 2))
    _, out = output_of(capsys, str(a), str(b))
    lines = out.splitlines()
    assert lines[2] == "tokens per step: ngram-k2 → suffix-k2"
    assert "ngram-k2: a · drafter ngram-k2" in lines
    assert lines[8].split()[:4] == ["cell", "n", "ngram-k2", "suffix-k2"]
    assert lines[9].split()[0] == "chat-en-instruct"


def test_the_same_cell_twice_has_no_place_in_a_pivot(capsys: pytest.CaptureFixture[str]) -> None:
    for run in ("1", "2"):
        write_run(Path("runs", run), cell())
    error = refusal_of(capsys, "compare", "runs", "--pivot", "language", code="no-cells")
    assert "are the same cell twice: name a narrower folder" in error


def close(value: Any) -> Any:
    """Numbers to nine digits: the last ones are the machine's."""
    if isinstance(value, float):
        return pytest.approx(value, rel=1e-9)
    if isinstance(value, dict):
        return {key: close(inner) for key, inner in value.items()}
    return [close(inner) for inner in value] if isinstance(value, list) else value


def test_json_says_everything(before: str, after: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = output_of(capsys, before, after, "--format", "json")
    data = json.loads(out)
    assert data == close(json.loads((GOLDEN / "compare.json").read_text(encoding="utf-8")))
    assert data["exit_code"] == code == 1


def test_csv_has_a_line_a_cell_with_numbers_in_full(
    before: str, after: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out = output_of(capsys, before, after, "--format", "csv")
    golden = (GOLDEN / "compare.csv").read_text(encoding="utf-8")
    rows, expected = (list(csv.reader(io.StringIO(text))) for text in (out, golden))
    assert rows[0] == expected[0]
    assert [[number(v) for v in row] for row in rows[1:]] == [
        [close(number(v)) for v in row] for row in expected[1:]
    ]
    lost = dict(zip(rows[0], rows[2], strict=True))
    assert lost["verdict"] == "regressed"
    assert float(lost["change"]) == pytest.approx(-0.1175, abs=1e-4)
    assert len(lost["change"]) > 12


def number(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


# Exit codes


def test_nothing_regressed_is_0(before: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert output_of(capsys, before, before, "--strict")[0] == 0


def noisy(language: str = "en") -> CellRecord:
    """As many prompts gained as lost, and much."""
    prompts = tuple(answer(i, worse=6 if i % 2 else 0, language=language) for i in range(24))
    return cell(language, prompts=prompts)


def test_inconclusive_is_3_under_strict_alone(capsys: pytest.CaptureFixture[str]) -> None:
    mirrored = tuple(answer(i, worse=0 if i % 2 else 6) for i in range(24))
    a = str(write_cell(Path("a"), noisy()))
    b = str(write_cell(Path("b"), cell(prompts=mirrored)))
    code, out = output_of(capsys, a, b)
    assert code == 0
    assert "? chat-en-instruct-ngram-k4: " in out
    assert "would settle it" in out
    assert output_of(capsys, a, b, "--strict")[0] == 3


def test_an_invalid_cell_is_2_and_outweighs_a_regressed_one(
    before: str, capsys: pytest.CaptureFixture[str]
) -> None:
    dead = Finding(code="dead-drafter", hard=True, text="no draft was accepted")
    new = str(write_run(Path("new"), cell(worse=3), cell("zh", findings=(dead,))))
    code, out = output_of(capsys, before, new)
    assert code == 2
    assert "✗ chat-zh-instruct-ngram-k4: not comparable: this run is not a measurement: no draft" in out
    assert "▼ chat-en-instruct-ngram-k4: " in out


def test_an_invalid_cell_of_a_single_run_is_2_and_shows_no_figures(
    capsys: pytest.CaptureFixture[str],
) -> None:
    dead = Finding(code="dead-drafter", hard=True, text="no draft was accepted")
    code, out = output_of(capsys, str(write_run(Path("run"), cell(findings=(dead,)))), "--pivot", "language")
    assert code == 2
    assert "✗ chat-en-instruct-ngram-k4: not a measurement: no draft was accepted" in out
    assert [line.split() for line in out.splitlines() if line.startswith("chat-instruct")] == [
        ["chat-instruct-ngram-k4", "—", "—", "—", "—"]
    ]


@pytest.mark.parametrize("arguments", [["--help"], ["compare", "--help"], ["anchor", "--help"]])
def test_help_is_0(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert "usage: draftgate" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [[], ["compare"], ["gate"], ["compare", "a", "--format", "xml"], ["anchor", "a"]]
)
def test_a_wrong_command_line_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "usage: draftgate" in capsys.readouterr().err


# Refusals: one sentence, never a traceback


def test_a_path_that_is_not_there(before: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere" in refusal_of(capsys, "compare", before, "nowhere", code="no-cells")


@pytest.mark.parametrize(
    "words",
    [
        ["compare", "{}"],
        ["compare", "{}/x"],
        ["compare", "x", "--output", "{}/x.md"],
        ["import", "{}", "--output", "o"],
        ["card", "{}"],
        ["curve", "{}"],
        ["history", "{}"],
        ["recipe", "{}"],
        ["report", "{}", "--output", "r.html"],
        ["merge", "{}", "--output", "o"],
        ["claims", "{}", "x"],
        ["anchor", "{}", "--reason", "x"],
        ["tune", "{}.toml"],
        ["list", "prompts", "--stack", "{}.toml"],
        ["init", "--stack", "{}.toml"],
        ["doctor", "--stack", "{}.toml"],
    ],
    ids=" ".join,
)
def test_a_path_that_no_system_takes_is_a_sentence(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    ended = main([word.format("x" * 300) for word in words])

    said = capsys.readouterr().err
    assert (ended, said.count("\n")) == (2, 1), said
    assert "File name too long" in said or "[no-" in said or "[cannot-" in said


def test_a_folder_that_is_gone_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("gone").mkdir()
    monkeypatch.chdir("gone")
    Path("../gone").rmdir()
    for words in (["bench"], ["plan"], ["compare", "x"], ["init"]):
        assert main(words) == 2
        assert "Traceback" not in capsys.readouterr().err


def test_a_folder_without_cells(before: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(Path("empty"))
    assert "empty" in refusal_of(capsys, "compare", before, "empty", code="no-cells")


def test_a_run_file_is_not_a_cell(before: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "run.json" in refusal_of(capsys, "compare", before, "before/run.json", code="no-cells")


def test_one_path_shows_the_tables_of_its_run(before: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = output_of(capsys, before)

    assert code == 0
    for table in ("tok/step", "mean-prompt tok/s", "chat-zh-instruct-ngram-k4"):
        assert table in out
    page = output_of(capsys, before, "--format", "markdown")[1].splitlines()
    for header in ("tok/step", "mean-prompt tok/s"):
        assert any(line.startswith("| cell |") and header in line for line in page)
    rows = [line.split() for line in out.splitlines() if line.startswith("chat-zh-instruct-ngram-k4 ")]
    shown = [line.split(" <!--")[0].replace("|", "").split() for line in page if "<!--" in line]
    assert len(rows) == 2
    assert all(row in shown for row in rows)


def test_a_stack_is_told_how_it_is_compared(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("old.toml", "new.toml"):
        Path(name).write_text("schema = 1\n")

    assert "old.toml" in refusal_of(capsys, "compare", "old.toml", "new.toml", code="compare-option")


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_a_line_a_cell_has_no_pivot_and_one_path_needs_none(
    kind: str, before: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["compare", before, "--pivot", "language", "--format", kind]
    assert kind in refusal_of(capsys, *arguments, code="compare-option")
    code, out = output_of(capsys, before, "--format", kind)
    assert code == 0
    cells = json.loads(out)["cells"] if kind == "json" else out.splitlines()[1:]
    assert len(cells) == 3


def test_a_run_whose_stack_declares_the_subject_is_gated_across_it(
    before: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fp8 = {"quantization": "fp8"}
    after = str(
        write_run(
            Path("after"), cell(worse=3, identity=fp8), cell("zh", identity=fp8), subject=("quantization",)
        )
    )
    code, out = output_of(capsys, before, after, "--across", "quantization")
    assert code == 1
    assert out.splitlines()[2].endswith("(the subject is quantization, as the stack declares)")
    assert "▼ chat-en-instruct-ngram-k4: tokens per step" in out
    assert output_of(capsys, after, before, "--across", "quantization")[0] == 0
    _, out = output_of(capsys, before, after, "--across", "quantization", "--across", "dtype")
    assert "no verdict is given" in out
    data = json.loads(output_of(capsys, before, after, "--across", "quantization", "--format", "json")[1])
    assert [a["verdict"] for c in data["cells"] for a in c["against"]] == ["regressed", "identical"]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: text[: len(text) // 2], "not JSON"),
        (lambda text: text[:-40], "not JSON"),
        (lambda text: text.replace('"schema": 1', '"schema": 2'), "schema is 2"),
        (lambda _: "", "the file is empty"),
        (lambda _: "[]", "schema is None"),
        (lambda text: text.replace('"suite": ', '"sweet": '), "field suite"),
        (lambda text: text.replace('"gpus": []', '"gpus": ["?"]'), "field environment"),
    ],
)
def test_a_damaged_cell_is_named_with_its_reason(
    damage: Any, reason: str, before: str, after: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(after, "acceptance", "chat-en-instruct-ngram-k4.json")
    path.write_text(damage(path.read_text(encoding="utf-8")), encoding="utf-8")
    for arguments in ([before, after], [after, before], [before, str(path)]):
        error = refusal_of(capsys, "compare", *arguments, code="damaged-file")
        assert str(path) in error
        assert reason in error


def test_raw_against_chat_is_refused_with_both_named(capsys: pytest.CaptureFixture[str]) -> None:
    chat, raw = (str(write_cell(Path(e), cell(endpoint=e))) for e in ("chat", "raw"))
    code, out = output_of(capsys, chat, raw)
    assert code == 2
    assert 'not comparable: endpoint differs: "chat" in the baseline, "raw" now' in out
    assert "3.51" not in out
    error = refusal_of(capsys, "compare", "chat", "raw", code="no-cells")
    assert "--across endpoint" in error


def test_across_an_unknown_field_names_those_there_are(
    before: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refusal_of(capsys, "compare", before, before, "--across", "drafter", code="compare-option")
    assert "cache, concurrency" in error


def test_output_that_cannot_be_written(before: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("folder").mkdir()
    arguments = ["compare", before, before, "--output", "folder"]
    assert "folder" in refusal_of(capsys, *arguments, code="cannot-write")


# Output


def test_a_terminal_without_an_em_dash_gets_an_escape(
    before: str, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stream)
    assert main(["compare", before, after]) == 1
    stream.seek(0)
    assert "\\u2014" in stream.read()


def test_output_goes_to_a_file_alone(before: str, capsys: pytest.CaptureFixture[str]) -> None:
    refusal_of(capsys, "compare", before, before, "--output", "deep/table.txt", code="cannot-write")
    assert not Path("deep").exists()  # it may be misspelt
    Path("deep").mkdir()
    code, out = output_of(capsys, before, before, "--output", "deep/table.txt")
    assert (code, out) == (0, "")
    assert "\ntokens per step: base → new\n" in Path("deep/table.txt").read_text(encoding="utf-8")
    assert [p.name for p in Path("deep").iterdir()] == ["table.txt"]


WRITING = {
    "compare": ("before", "before"),
    "history": ("before",),
    "import": ("requests.jsonl",),
    "merge": ("before",),
    "plan": (),
    "recipe": ("before",),
    "report": ("before",),
}
"""Commands with --output, and what they read."""


@pytest.mark.parametrize("command", WRITING)
def test_a_mistyped_folder_for_output_is_refused_before_anything_is_read(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("tables").mkdir()
    error = refusal_of(capsys, command, *WRITING[command], "--output", "tabels/x.md", code="cannot-write")
    assert "did you mean 'tables'?" in error
    assert [path.name for path in Path().iterdir()] == ["tables"]


def test_every_command_that_writes_is_tried() -> None:
    commands = Path(harness.commands.__file__).parent.glob("*.py")
    writing = {path.stem for path in (*commands, Path(cli.__file__)) if '"--output"' in path.read_text()}
    named = {"import": "importing", "compare": "cli"}
    assert writing == {named.get(command, command) for command in WRITING}


@pytest.mark.parametrize(
    ("name", "form"), [("x.md", "markdown"), ("x.csv", "csv"), ("x.json", "json"), ("x.txt", "table")]
)
def test_the_name_of_the_output_says_its_format(
    name: str, form: str, before: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output_of(capsys, before, before, "--output", name)
    assert Path(name).read_text(encoding="utf-8") == output_of(capsys, before, before, "--format", form)[1]
    output_of(capsys, before, before, "--output", name, "--format", "csv")
    assert Path(name).read_text(encoding="utf-8").startswith("base_side,")


def test_a_path_that_is_not_there_is_said_before_all_else(
    before: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["befor"], ["befor", before], [before, "befor"], ["befor", "--old", "a", "--new", "b"]):
        error = refusal_of(capsys, "compare", *arguments, code="no-cells")
        assert "befor: no such file or folder (did you mean 'before'?)" in error


def test_cells_without_a_partner_are_3_unless_that_is_meant(capsys: pytest.CaptureFixture[str]) -> None:
    whole, part = str(write_run(Path("whole"), cell(), cell("zh"))), str(write_run(Path("part"), cell()))
    worse = str(write_run(Path("worse"), cell(worse=3)))
    for sides in ([whole, part], [part, whole]):
        assert output_of(capsys, *sides)[0] == 3
        assert output_of(capsys, *sides, "--partial")[0] == 0
    assert output_of(capsys, whole, worse)[0] == 1
    assert json.loads(output_of(capsys, whole, part, "--format", "json")[1])["exit_code"] == 3


def test_none_is_in_no_geometric_mean(capsys: pytest.CaptureFixture[str]) -> None:
    a = str(write_run(Path("a"), plain(), plain("zh"), cell()))
    b = str(write_run(Path("b"), plain(), plain("zh"), cell(worse=3)))
    data = json.loads(output_of(capsys, a, b, "--format", "json")[1])
    changes = {c["base"]["cell"]["drafter"]: c["against"][0]["change"] for c in data["cells"]}
    assert data["geomean"] == [{"change": pytest.approx(changes["ngram"]), "cells": 1}]


def test_none_with_other_texts_is_not_identical(capsys: pytest.CaptureFixture[str]) -> None:
    other = tuple(answer(i, k=0, text_hash=f"x{i}" if i % 8 > 2 else f"t{i:03d}") for i in range(24))
    a, b = write_run(Path("a"), plain()), write_run(Path("b"), plain(prompts=other))
    for new, kind in ((a, "identical"), (b, "ok")):
        data = json.loads(output_of(capsys, str(a), str(new), "--format", "json")[1])
        assert [x["verdict"] for c in data["cells"] for x in c["against"]] == [kind]


def test_csv_has_the_speeds_that_json_has(capsys: pytest.CaptureFixture[str]) -> None:
    a = str(write_run(Path("a"), plain(seconds=4.0), cell()))
    b = str(write_run(Path("b"), plain(seconds=4.0), cell(environment={"cpu": "another", "gpus": []})))
    found = json.loads(output_of(capsys, a, b, "--format", "json")[1])["cells"][1]
    base, new = found["base"], found["against"]
    line = list(csv.DictReader(io.StringIO(output_of(capsys, a, b, "--format", "csv")[1])))[1]
    for name in ("tok_s", "speed_up"):
        assert float(line[f"base_{name}"]) == pytest.approx(base[name])
        assert float(line[f"new_{name}"]) == pytest.approx(new[0]["new"][name])


def test_what_every_row_has_is_said_once_without_a_marker(capsys: pytest.CaptureFixture[str]) -> None:
    both = tuple(Finding(code=c, hard=False, text=f"constant {c}") for c in "abcdef")
    cells = (cell(findings=(*both, LOOPS)), cell("zh", findings=both), cell(endpoint="raw", findings=both))
    run = str(write_run(Path("a"), *cells))
    _, out = output_of(capsys, run, run)
    rows = [line for line in out.splitlines() if line.startswith(("chat-", "raw-")) and "24/24" in line]
    assert [len(set("¹²³⁴⁵⁶⁷⁸⁹") & set(row)) for row in rows] == [1, 0, 0]
    for finding in both:
        assert out.count(finding.text) == 1
        assert f"note: all 3 rows: {finding.text}" in out


def test_two_drafters_of_one_run_are_one_table_of_all_cells_with_a_twin(
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = [("en", "chat"), ("zh", "chat"), ("en", "raw")]
    drafters = (("ngram", 2), ("ngram", 4), ("head", 4))
    cells = [cell(la, d, k, endpoint=e) for la, e in places for d, k in drafters]
    run = str(write_run(Path("run"), *(plain(la, endpoint=e, seconds=4.0) for la, e in places), *cells))
    arguments = [run, "--old", "ngram", "--new", "head"]
    code, out = output_of(capsys, *arguments, "--format", "json")
    data = json.loads(out)
    pairs = [(c["base"]["cell"], c["against"][0]["new"]["cell"]) for c in data["cells"]]
    assert [(a["drafter"], a["k"], b["drafter"], b["k"]) for a, b in pairs] == [("ngram", 4, "head", 4)] * 3
    assert (code, data["geomean"][0]["cells"]) == (3, 3)  # ngram-k2 has no twin
    assert output_of(capsys, *arguments, "--partial")[0] == 0
    _, table = output_of(capsys, run, "--old", "ngram-k4", "--new", "head-k4")
    assert "speed-up ngram-k4" in table
    output_of(capsys, *arguments, "--output", "pairs.md")
    assert main(["claims", "pairs.md", run]) == 0
    Path("pairs.md").write_text(Path("pairs.md").read_text().replace("| 24/24 |", "| 23/24 |", 1))
    capsys.readouterr()
    assert main(["claims", "pairs.md", run]) == 1
    code, _ = output_of(capsys, run, "--old", "ngram-k2", "--new", "ngram-k4")
    assert code in (0, 1)
    assert "did you mean 'ngram'" in refusal_of(
        capsys, "compare", run, "--old", "ngrm", "--new", "head", code="no-cells"
    )
    refusal_of(capsys, "compare", run, "--old", "ngram", code="compare-option")
    refusal_of(capsys, "compare", run, run, "--old", "ngram", "--new", "head", code="compare-option")


def test_no_sign_is_one_of_benchstats(before: str, after: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "~" not in output_of(capsys, before, after)[1]
    assert "~" not in MARKS.values()


@pytest.mark.parametrize("what", ["stacks", "profiles", "drafters", "prompts", "suites"])
def test_what_can_be_named_is_listed(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", what]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = {"stacks": "smollm2-cpu", "profiles": "gate", "drafters": "ngram", "prompts": "instruct",
             "suites": "test_speed.py"}  # fmt: skip
    assert any(line.split()[0] == names[what] for line in lines[1:])
    assert ("embedded:eagle3r1" in " ".join(lines)) is (what == "drafters")  # as a stack names it
    assert str(ROOT) not in " ".join(lines)
    refusal_of(capsys, "list", "drafters", "--stack", "smolm2-cpu", code="unknown-name")


def test_files_that_nobody_installed_have_commands_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert main(["--version"]) == 0
    assert "not installed" in capsys.readouterr().out


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("draftgate ")


def test_options_may_stand_between_paths(before: str, capsys: pytest.CaptureFixture[str]) -> None:
    expected = output_of(capsys, before, before, "--format", "csv", "--strict")
    assert output_of(capsys, before, "--format", "csv", before, "--strict") == expected


@pytest.fixture
def hostile(capsys: pytest.CaptureFixture[str]) -> Any:
    """The same pair of cells in any format: a drafter, an answer, an engine and a finding that mean ill."""
    found = Finding(code="x", hard=False, text=f"=1+1 {HOSTILE} [l](javascript:x)")
    prompts = tuple(answer(i, text=HOSTILE) for i in range(24))
    new = tuple(answer(i, text=HOSTILE, worse=3) for i in range(24))
    subject = {"drafter": "x", "engine": HOSTILE, "settings": {"\ud800": "\u202e"}}
    for folder, asked in (("a", prompts), ("b", new)):
        record = cell(
            drafter="=cmd()", prompts=asked, findings=(found,), subject=subject, stack="+1", suite="@x"
        )
        Path(folder).mkdir()
        Path(folder, "cell.json").write_text(_dumped(record), encoding="utf-8")

    def render(kind: str) -> str:
        code, out = output_of(capsys, "a/cell.json", "b/cell.json", "--format", kind)
        assert code == 1
        return out

    return render


def _dumped(record: CellRecord) -> str:
    return json.dumps(record.model_dump(by_alias=True))  # ASCII: a lone surrogate is valid JSON


def test_nothing_from_a_record_colours_a_terminal(hostile: Any) -> None:
    out = hostile("table")
    assert "\x1b" not in out
    assert r"a|b<script>`x`\x1b[31m\nc" in out
    assert "chat-en-instruct-=cmd()-k4" in out


def test_nothing_from_a_record_is_markup(hostile: Any) -> None:
    out = hostile("markdown")
    assert not any(bad in out for bad in ("<script", "`", "\x1b", "](javascript"))
    tables = [line for line in out.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables} == {12, 6}
    assert "a&#124;b&lt;script&gt;" in out


def test_nothing_from_a_record_is_a_formula(hostile: Any) -> None:
    header, row = csv.reader(io.StringIO(hostile("csv")))
    named = dict(zip(header, row, strict=True))
    assert named["base_drafter"] == "'=cmd()"
    assert named["base_suite"] == "'@x"
    assert named["change"].startswith("-0.1")
    assert not any(value.startswith(("=", "+", "@")) for value in row)


def test_json_of_hostile_records_is_json(hostile: Any) -> None:
    out = hostile("json")
    assert json.loads(out)["cells"][0]["base"]["cell"]["drafter"] == "=cmd()"
    assert not {"\x1b", "\u202e", "\ud800"} & set(out)


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", "\tx", "\rx"])
def test_a_text_that_would_be_a_formula_gets_an_apostrophe(text: str) -> None:
    out = render.as_csv(["name", "value"], [[text, -1.5]])
    (_, row) = csv.reader(io.StringIO(out))
    assert row[0].startswith("'")
    assert row[1] == "-1.5"


def test_chinese_text_keeps_columns_straight() -> None:
    block = render.Block(header=("cell", "n"), rows=(("中文", "1"), ("en", "22")), align="lr")
    empty: tuple[str, ...] = ()
    page = render.Document(
        title="t", above=empty, blocks=(block,), footnotes=empty, notes=empty, sentences=empty, legend=empty
    )
    assert render.as_text(page) == "t\n\ncell   n\n中文   1\nen    22\n"


# Anchors


def test_an_anchor_moves_for_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    path = write_cell(Path("baselines"), cell())
    assert main(["anchor", str(path), "--reason", "smaller drafter, #123"]) == 0
    anchor = path.with_suffix(ANCHOR)
    assert capsys.readouterr().out == f"anchor {anchor}\n"
    assert load(anchor, CellRecord).provenance["anchor_reason"] == "smaller drafter, #123"


def test_an_anchor_without_reason_or_baseline_does_not_move(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write_cell(Path("baselines"), cell(prompts=(prompt_record(),))))
    assert refusal_of(capsys, "anchor", path, "--reason", " ", code="anchor")
    assert "nowhere.json" in refusal_of(capsys, "anchor", "nowhere.json", "--reason", "x", code="cannot-read")
    assert [p.name for p in Path("baselines").iterdir()] == [Path(path).name]


@pytest.mark.parametrize(
    "words",
    [
        ("compare", "a", "b", "--format", "csv", "--format=json"),
        ("compare", "a", "--old", "x", "b", "--old", "y"),
        ("doctor", "--self-check", "--no-self-check"),
        ("list", "stacks", "--stack", "a", "--stack", "b"),
        ("anchor", "a", "--reason", "b", "--rea", "c"),
    ],
)
def test_an_option_is_not_given_twice(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    assert main(words) == 2

    assert "repeats an option" in capsys.readouterr().err
