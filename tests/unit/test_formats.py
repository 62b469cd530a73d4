"""What `draftgate compare` writes for other programs is read by the reader that they use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from harness.cli import main
from harness.results.records import Finding
from harness.text import render
from tests.factories.runs import cell, plain, write_cell, write_run

HARD = Finding(code="loops", hard=True, text="nothing but loops")
NGRAM = "smollm2-cpu/cpu/quick/acceptance/chat-en-instruct-ngram-k4"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def base() -> str:
    return str(write_run(Path("base"), plain(seconds=4.0), cell(), cell("zh")))


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


@pytest.mark.parametrize("form", ["openmetrics", "github-benchmark"])
def test_a_series_has_one_value(form: str, base: str, worse: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", base, worse, worse, "--format", form]) == 2
    assert "[compare-option]" in capsys.readouterr().err
    assert main(["compare", ".", "--format", form]) == 2
    assert "[no-cells]" in capsys.readouterr().err


def test_nothing_to_follow_is_no_empty_list(capsys: pytest.CaptureFixture[str]) -> None:
    write_cell(Path("bad"), cell(findings=(HARD,)))
    assert main(["compare", "bad", "--format", "github-benchmark"]) == 2
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


@pytest.mark.parametrize("text", ["line\n" * 300_000, "x" * 2**21])
def test_the_tables_of_one_run_fit_too(text: str) -> None:
    shown = render.fenced(text)
    assert len(shown.encode()) < 2**20
    (fence,) = MarkdownIt().parse(shown)
    assert fence.type == "fence"
    assert "more lines" in fence.content
