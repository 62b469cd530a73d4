"""What `draftgate compare` writes for other programs is read by the reader that they use."""

from __future__ import annotations

import csv
import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from markdown_it import MarkdownIt
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus
from pytest_benchmark.cli import main as pytest_benchmark_main

from harness.cli import main
from harness.results.records import Finding
from harness.text import render
from tests.factories.runs import HARD, answer, cell, plain, write_cell, write_run

pytestmark = pytest.mark.usefixtures("here")

NGRAM = "smollm2-cpu/cpu/quick/acceptance/chat-en-instruct-ngram-k4"


@pytest.fixture
def worse() -> str:
    return str(write_run(Path("worse"), plain(seconds=4.0), cell(worse=3), cell("zh", findings=(HARD,))))


def written(form: str, *arguments: str, name: str = "out") -> str:
    main(["compare", *arguments, "--format", form, "--output", name])
    return Path(name).read_text(encoding="utf-8")


def read_by_both(text: str) -> dict[str, Metric]:
    """By the parser of OpenMetrics, and by that of the text format, which node-exporter's collector reads."""
    first, second = ({m.name: m for m in parser(text)} for parser in (openmetrics, prometheus))
    assert {n: (m.documentation, m.type, m.samples) for n, m in first.items()} == {
        n: (m.documentation, m.type, m.samples) for n, m in second.items()
    }
    return first


def test_openmetrics_is_read_by_prometheus(base: str, worse: str) -> None:
    metrics = read_by_both(written("openmetrics", base, worse))
    assert {(m.type, s.timestamp) for m in metrics.values() for s in m.samples} == {("gauge", None)}

    def of(name: str, language: str, drafter: str = "ngram") -> list[float]:
        found = metrics[f"draftgate_{name}"].samples
        return [s.value for s in found if s.labels["language"] == language and s.labels["drafter"] == drafter]

    (data,) = json.loads(written("json", base, worse))["cells"][1]["against"]
    assert of("tokens_per_step", "en") == [data["new"]["tokens_per_step"]]
    assert of("tokens_per_step_low", "en") < of("tokens_per_step", "en") < of("tokens_per_step_high", "en")
    assert of("tokens_per_step_low", "en", "none") == []  # nothing varies
    assert of("change_ratio", "en") == [data["change"]]
    assert [*of("change_ratio_low", "en"), *of("change_ratio_high", "en")] == data["change_ci"]
    assert of("acceptance_ratio", "en") == data["new"]["acceptance"]
    assert of("valid", "en") == [1]
    # Not a measurement, so it has no figure.
    assert (of("valid", "zh"), of("tokens_per_step", "zh"), of("output_tokens_per_second", "zh")) == (
        [0],
        [],
        [],
    )
    verdicts = {(s.labels["language"], s.labels["verdict"]) for s in metrics["draftgate_verdict"].samples}
    assert {("en", "regressed"), ("zh", "invalid")} <= verdicts
    (about,) = metrics["draftgate_run_info"].samples
    assert (about.labels["run"], about.labels["base"]) == ("worse", "base")


def test_series_are_the_same_in_every_run(base: str, worse: str) -> None:
    def series(run: str) -> set[str]:
        lines = written("openmetrics", run, name="draftgate.prom").splitlines()
        return {x.rpartition(" ")[0] for x in lines if not x.startswith(("#", "draftgate_run_info"))}

    assert series(worse) < series(base)


def test_the_benchmark_action_gets_value_unit_and_interval(base: str, worse: str) -> None:
    entries = {entry["name"]: entry for entry in json.loads(written("github-benchmark", base, worse))}
    for entry in entries.values():  # the schema of the action's `customBiggerIsBetter`
        assert entry.keys() - {"range"} == {"name", "value", "unit", "extra"}
        assert isinstance(entry["value"], float)
        assert all(isinstance(text, str) for name, text in entry.items() if name != "value")
    (data,) = json.loads(written("json", base, worse))["cells"][1]["against"]
    low, high = data["new"]["tokens_per_step_ci"]
    entry = entries[f"{NGRAM}: tokens per step"]
    assert (entry["value"], entry["unit"]) == (data["new"]["tokens_per_step"], "tokens/step")
    assert entry["range"] == f"95 % CI {low:.2f}..{high:.2f}"
    assert data["text"] in entry["extra"]
    assert not any("zh" in name for name in entries)  # not a measurement


@pytest.mark.parametrize("form", ["openmetrics", "github-benchmark"])
def test_a_hostile_name_stays_a_value(form: str) -> None:
    name = 'a"b\\ \n# EOF\u202e{x="1"}'
    write_cell(Path(name), cell(findings=(Finding(code="loops", hard=False, text=name),)))
    text = written(form, name)
    assert "\u202e" not in text
    if form == "openmetrics":
        (about,) = read_by_both(text)["draftgate_run_info"].samples
        assert "# EOF" in about.labels["run"]
        assert text.count("\n# EOF") == 1
    else:
        assert all(entry["name"].isprintable() for entry in json.loads(text))


@pytest.mark.parametrize("form", ["openmetrics", "github-benchmark", "pytest-benchmark"])
def test_a_series_has_one_value(form: str, base: str, worse: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", base, worse, worse, "--format", form]) == 2
    assert "[compare-option]" in capsys.readouterr().err
    assert main(["compare", ".", "--format", form]) == 2
    assert "[no-cells]" in capsys.readouterr().err


def test_nothing_to_follow_is_no_empty_list(capsys: pytest.CaptureFixture[str]) -> None:
    write_cell(Path("bad"), cell(findings=(HARD,)))
    assert main(["compare", "bad", "--format", "github-benchmark"]) == 2
    assert "[no-cells]" in capsys.readouterr().err


# The long form


def frame(form: str, *arguments: str) -> Any:
    """As pandas reads it. No format writes a text where nothing stands."""
    written(form, *arguments) if form != "parquet" else main(
        ["compare", *arguments, "--output", "out.parquet"]
    )
    pd = importlib.import_module("pandas")  # a second, for these tests alone
    return pd.read_csv("out") if form == "long-csv" else pd.read_parquet("out.parquet")


@pytest.mark.parametrize("form", ["long-csv", "parquet"])
def test_pandas_reads_a_figure_a_row(base: str, worse: str, form: str) -> None:
    table = frame(form, base, worse)
    assert len(table.columns) == 22
    keys = [
        name
        for name in table.columns
        if name not in ("value", "low", "high", "n", "unit", "verdict", "notes")
    ]
    assert not table.duplicated(keys).any()
    assert table.unit.notna().all()
    assert table.groupby("figure").unit.nunique().max() == 1

    def one(figure: str, run: str, language: str = "en", *, position: int | None = None) -> Any:
        of = table[(table.figure == figure) & (table.run == run) & (table.language == language)]
        of = of[of.drafter == "ngram"]
        (row,) = of[of.position.isna() if position is None else of.position == position].iloc
        return row

    (data,) = json.loads(written("json", base, worse))["cells"][1]["against"]
    assert one("tokens_per_step", "worse").value == data["new"]["tokens_per_step"]
    assert [one("tokens_per_step", "worse")[end] for end in ("low", "high")] == data["new"][
        "tokens_per_step_ci"
    ]
    assert (one("tokens_per_step", "worse").n, one("tokens_per_step", "worse").k) == (24, 4)
    assert one("acceptance", "worse", position=2).value == data["new"]["acceptance"][2]
    assert one("tok_s", "base").unit == "tokens/s"
    change = one("change", "worse")
    assert [change.value, change.low, change.high, change.base, change.verdict] == [
        data["change"], *data["change_ci"], "base", "regressed"
    ]  # fmt: skip
    assert one("valid", "worse", "zh").value == 0
    assert "nothing but loops" in one("valid", "worse", "zh").notes
    assert one("change", "worse", "zh").verdict == "invalid"
    measured = table[(table.run == "worse") & (table.language == "zh") & table.base.isna()]
    assert set(measured.figure) == {"valid"}


def test_runs_of_one_name_are_told_apart() -> None:
    one, two = (str(write_run(Path(f) / "run", cell(worse=w))) for f, w in (("one", 0), ("two", 3)))
    table = frame("long-csv", one, two, two)
    assert set(table.run) == {"one/run", "two/run"}
    assert set(table.base.dropna()) == {"one/run"}


def test_parquet_has_the_types_of_its_columns(base: str) -> None:
    assert main(["compare", base, "--output", "out.parquet"]) == 0
    table = pyarrow.parquet.read_table("out.parquet")
    kinds = {field.name: str(field.type) for field in table.schema}
    assert {name for name, kind in kinds.items() if kind == "double"} == {"value", "low", "high"}
    assert {name for name, kind in kinds.items() if kind == "int64"} == {"k", "position", "n"}
    assert set(kinds.values()) == {"double", "int64", "string"}
    assert table.column("drafter").to_pylist()[0] == "none"
    with Path("out").open("w", encoding="utf-8") as file:
        file.write(written("long-csv", base))
    with Path("out").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["figure"] for row in rows] == table.column("figure").to_pylist()


def test_parquet_is_not_for_a_terminal(base: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", base, "--format", "parquet"]) == 2
    said = capsys.readouterr()
    assert "[compare-option]" in said.err
    assert said.out == ""


def test_parquet_without_its_package(
    base: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(["compare", base, "--output", "out.parquet"]) == 2
    assert "[extra-missing]" in capsys.readouterr().err
    assert not Path("out.parquet").exists()


# pytest-benchmark


def test_pytest_benchmark_compares_two_runs(
    base: str, worse: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    slower = str(write_run(Path("slower"), plain(seconds=4.0), cell(seconds=3.0)))
    for number, run in enumerate((base, slower), start=1):
        assert (
            main(["compare", run, "--format", "pytest-benchmark", "--output", f"000{number}_{run}.json"]) == 0
        )
    capsys.readouterr()
    files = ["0001_base.json", "0002_slower.json"]
    monkeypatch.setattr(
        sys, "argv", ["pytest-benchmark", "compare", *files, "--columns", "mean,rounds", "--sort", "name"]
    )
    pytest_benchmark_main()
    said = re.sub(r"\x1b\[\d+m", "", capsys.readouterr().out)
    groups = re.findall(r"benchmark '([^']+)': (\d) tests", said)
    assert dict(groups)["chat-en-instruct-ngram-k4"] == "2"
    rows = re.findall(r"^(\S+ngram-k4 \S+)\s+([\d,.]+)", said, re.MULTILINE)
    assert [value for name, value in rows if "-en-" in name] == ["2.0000", "3.0000"]
    entry = json.loads(Path(files[0]).read_text(encoding="utf-8"))["benchmarks"][1]
    assert entry["fullname"] == NGRAM
    assert (entry["stats"]["rounds"], entry["stats"]["mean"]) == (24, 2.0)


def test_what_was_not_timed_is_no_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    untimed = tuple(answer(i, began_s=None, total_s=None) for i in range(24))
    write_run(Path("untimed"), cell(prompts=untimed))
    assert main(["compare", "untimed", "--format", "pytest-benchmark"]) == 2
    assert "[no-cells]" in capsys.readouterr().err


# Markdown


def tables_of(text: str) -> list[int]:
    """The rows of each table, by a reader of GitHub's tables."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    return [t.map[1] - t.map[0] - 2 for t in tokens if t.type == "table_open" and t.map]


def page(*rows: int, notes: int = 0) -> render.Document:
    blocks = [
        render.Block(
            header=("cell", "n"), align="lr", rows=tuple((f"cell {i} {'|' * 40}", str(i)) for i in range(n))
        )
        for n in rows
    ]
    return render.Document(
        title="title", above=("one", "two"), blocks=tuple(blocks), footnotes=(), sentences=("the end",),
        legend=(), notes=("n" * 999,) * notes,
    )  # fmt: skip


def test_markdown_fits_into_a_job_summary() -> None:
    text = render.as_markdown(page(7, 20_000))
    assert 900_000 < len(text.encode()) < 2**20
    small, large = tables_of(text)
    (line,) = [line for line in text.splitlines() if "more rows" in line]
    cut = int(line.split()[1].replace(",", ""))
    assert (small, large - 1 + cut) == (7, 20_000)
    assert text.endswith("\n\nthe end\n")
    assert tables_of(render.as_markdown(page(7, 20))) == [7, 20]


def test_notes_that_are_too_long_are_counted() -> None:
    text = render.as_markdown(page(3, notes=2000))
    assert len(text.encode()) < 2**20
    assert tables_of(text) == [3]
    shown = text.count("nnn<br>") + text.count("nnn\n")
    (line,) = [line for line in text.splitlines() if "more lines" in line]
    assert shown + int(line.split()[0].replace(",", "")) == 2000


@pytest.mark.parametrize("run", ["bfloat16", "sampled-0"])
def test_the_tables_of_one_run_hold_against_its_records(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records, page = str(Path(__file__).parents[1] / "data" / "recordings" / run), tmp_path / "run.md"
    assert main(["compare", records, "--output", str(page)]) == 0
    assert main(["claims", str(page), records]) == 0, capsys.readouterr().out
    text = page.read_text()
    assert len(tables_of(text)) >= 2
    tampered = re.sub(r"\| (\d+\.\d\d) \|", "| 9.99 |", text, count=1)
    assert tampered != text
    page.write_text(tampered)
    assert main(["claims", str(page), records]) == 1
