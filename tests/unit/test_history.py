"""`draftgate history`: each cell over time, what is never put into one line, and where a figure changed."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt

from harness.cli import main
from harness.report.history import changes_of, history
from harness.results.records import CellRecord, Finding
from tests.factories import simulated
from tests.factories.runs import cell, plain, write_run

pytestmark = pytest.mark.usefixtures("here")

WEEKS = 52


def day(number: int) -> str:
    return (dt.datetime(2026, 1, 1, 4, tzinfo=dt.UTC) + dt.timedelta(days=number)).isoformat()


def runs(*cells: CellRecord, folder: str = "results") -> None:
    """A run a day, each of one cell; their names are not in the order of time."""
    for i, record in enumerate(cells):
        write_run(Path(folder) / f"run-{(7 * i) % 10}{i}", record, began=day(i))


def data(*words: str) -> dict[str, Any]:
    assert main(["history", *words, "--format", "json", "--output", "history.json"]) == 0
    found: dict[str, Any] = json.loads(Path("history.json").read_text(encoding="utf-8"))
    return found


# Change points


def a_year(loss_a_week: float) -> list[Path]:
    """52 weekly runs of a sampled drafter: other answers each week, which scatter by some 2 %."""
    table = simulated.drafter(3, prompts=48)
    tokens = simulated.cell(table).prompts
    steps = sum(p.tally.decode_steps for p in tokens)
    rate = sum(p.tally.committed for p in tokens) / steps
    found = []
    for week in range(WEEKS):
        share = rate * (1 - (1 - loss_a_week) ** week) / (rate - 1)
        told = simulated.worse(simulated.other_text(table, 100 + week), share, seed=week)
        record = simulated.cell(told, text=f"w{week}", identity=simulated.SAMPLED)
        found.append(write_run(Path(f"year-{loss_a_week}") / f"w{week:02}", record, began=day(7 * week)))
    return found


def test_a_slow_drift_is_found_in_a_year_and_a_steady_year_has_none() -> None:
    (drifting,) = history(a_year(0.005)).series
    (steady,) = history(a_year(0.0)).series
    values = [[p.figures.tokens_per_step for p in one.points] for one in (drifting, steady)]
    assert np.std(np.log(values[1])) > 0.01  # it does scatter
    assert values[0][-1] / values[0][0] == pytest.approx(0.995**51, abs=0.05)
    assert steady.changes == ()
    assert len(drifting.changes) > 1
    for change in drifting.changes:
        assert change.figure == "tokens_per_step"
        assert change.change < -0.02
        assert change.p < 1e-5
        assert change.after < change.before


@pytest.mark.parametrize("length", [0, 1, 2, 3, 30])
def test_a_history_that_does_not_move_has_no_change(length: int) -> None:
    assert changes_of("tok_s", [2.0] * length) == []


def test_a_change_is_where_it_happened() -> None:
    values = [*[2.0] * 9, None, *[1.9] * 8]
    (change,) = changes_of("tok_s", values)
    assert (change.at, change.before) == (10, 2.0)
    assert change.after == pytest.approx(1.9)
    assert changes_of("tok_s", [*[2.0] * 9, *[1.995] * 9]) == []  # less than what anybody acts on


# What a history shows


def test_each_run_has_its_engine_and_its_commit(capsys: pytest.CaptureFixture[str]) -> None:
    def of(engine: str, commit: str, worse: int) -> CellRecord:
        subject = {"drafter": "ngram", "k": 4, "engine": engine, "settings": {}}
        return cell(worse=worse, subject=subject, provenance={"commit": commit * 40, "dirty": worse > 0})

    runs(*(of("0.31.0", "a", 0) for _ in range(6)), *(of("0.32.0", "b", 3) for _ in range(6)))
    (series,) = data("results")["series"]
    points = series["points"]
    assert [p["when"] for p in points] == [day(i) for i in range(12)]
    assert [(p["engine"], p["commit"][0], p["dirty"]) for p in points[5:7]] == [
        ("0.31.0", "a", False),
        ("0.32.0", "b", True),
    ]
    assert {c["figure"] for c in series["changes"]} == {"tokens_per_step", "tok_s"}
    for change in series["changes"]:
        assert (change["from"], change["to"]) == (points[5]["run"], points[6]["run"])
    assert main(["history", "results"]) == 0
    said = capsys.readouterr().out
    assert "0.31.0" in said
    assert "aaaaaaaaa " in said
    assert "bbbbbbbbb+" in said
    assert main(["history", "results", "--output", "history.md"]) == 0
    tokens = MarkdownIt("commonmark").enable("table").parse(Path("history.md").read_text(encoding="utf-8"))
    assert [t.type for t in tokens].count("table_open") == 2


def test_a_run_is_there_once_however_it_is_named() -> None:
    runs(cell(), cell())
    (series,) = data("results", "results/run-00", "results/../results")["series"]
    assert len(series["points"]) == 2


def test_a_copy_counts_once() -> None:
    """As the shards of a merged run do."""
    first = write_run(Path("results/a"), cell(provenance={"time": day(0)}), began=day(0))
    shutil.copytree(first, "results/copy")
    write_run(Path("results/b"), cell(provenance={"time": day(1)}), began=day(1))
    found = data("results")
    assert [p["run"] for p in found["series"][0]["points"]] == ["a", "b"]
    (note,) = found["notes"]
    assert note.startswith("copy: 1 ")


def test_servers_elsewhere_are_told_apart_by_their_address() -> None:
    record = cell(environment={"cpu": "unverified"})
    for i, url in enumerate(("http://one:8000", "http://two:8000", "http://one:8000")):
        file = write_run(Path("results") / str(i), record, began=day(i)) / "run.json"
        run = json.loads(file.read_text(encoding="utf-8")) | {"options": {"server_url": url}}
        file.write_text(json.dumps(run), encoding="utf-8")
    assert [len(one["points"]) for one in data("results")["series"]] == [2, 1]


def other_prompts() -> CellRecord:
    record = cell()
    last = record.prompts[-1].model_copy(update={"prompt_hash": "edited"})
    return record.model_copy(update={"prompts": (*record.prompts[:-1], last)})


@pytest.mark.parametrize(
    "other",
    [
        lambda: cell(environment={"cpu": "Another CPU", "threads": 2, "gpus": []}),
        lambda: cell(environment={"cpu": "A CPU", "threads": 4, "gpus": []}),
        lambda: cell(environment={"cpu": "A CPU", "threads": 2, "gpus": [{"name": "NVIDIA H200"}]}),
        lambda: cell(stack="another"),
        lambda: cell(profile="gate"),
        lambda: cell(identity={"quantization": "fp8"}),
        lambda: cell(temperature=0.7),
        lambda: cell(drafter="eagle3"),
        lambda: cell(k=3),
        other_prompts,
        lambda: cell(prompts=cell().prompts[:20]),
    ],
)
def test_what_is_unlike_is_never_in_one_line(other: Callable[[], CellRecord]) -> None:
    runs(cell(), other(), cell(), other())
    found = data("results")["series"]
    assert [[p["when"] for p in one["points"]] for one in found] in (
        [[day(0), day(2)], [day(1), day(3)]],
        [[day(1), day(3)], [day(0), day(2)]],
    )


def test_another_engine_or_drafter_goes_on_in_the_line() -> None:
    subject = {"drafter": "ngram", "k": 4, "engine": "0.33.0", "weights": "other", "settings": {}}
    runs(cell(), cell(subject=subject))
    assert len(data("results")["series"]) == 1


def test_why_a_line_ends_is_said() -> None:
    runs(cell(), cell(environment={"cpu": "Another CPU", "threads": 2, "gpus": []}))
    assert [one["apart"] for one in data("results")["series"]] == [None, "cpu A CPU -> Another CPU"]


# Bad input


def test_an_unfinished_run_and_a_bad_cell_are_shown_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    hard = Finding(code="loops", hard=True, text="nothing but loops")
    write_run(Path("results/a"), cell(), began=day(0))
    write_run(Path("results/b"), cell(findings=(hard,)), began=day(1))
    write_run(Path("results/c"), cell(), began=day(2), finished=False)
    (series,) = data("results")["series"]
    assert [(p["finished"], p["invalid"], p["tok_s"] is None) for p in series["points"]] == [
        (True, None, False),
        (True, "nothing but loops", True),
        (False, None, False),
    ]
    assert main(["history", "results"]) == 0
    said = capsys.readouterr().out
    assert "nothing but loops" in said
    assert "c is not finished" in said


def test_a_damaged_cell_takes_no_other_with_it() -> None:
    write_run(Path("results/a"), cell(), plain(), began=day(0))
    path = Path("results/a/acceptance/chat-en-instruct-none.json")
    path.write_text(path.read_text(encoding="utf-8").replace('"output_tokens"', '"tokens"'), encoding="utf-8")
    found = data("results")
    assert [one["cell"]["drafter"] for one in found["series"]] == ["ngram"]
    (note,) = found["notes"]
    assert str(path) in note


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("run.json", "{"),
        ("run.json", None),
        ("acceptance/chat-en-instruct-ngram-k4.json", '{"schema": 1,'),
    ],
)
def test_a_damaged_run_is_named_and_the_others_are_shown(file: str, text: str | None) -> None:
    for i, name in enumerate("abc"):
        write_run(Path("results") / name, cell(), began=None if (name, text) == ("b", None) else day(i))
    if text is not None:
        (Path("results/b") / file).write_text(text, encoding="utf-8")
    found = data("results")
    assert [p["run"] for p in found["series"][0]["points"]] == ["a", "c"]
    (note,) = found["notes"]
    assert f"results/b/{file}" in note


@pytest.mark.parametrize(
    "folder", ["empty", "missing", "damaged", "cells", "cells/acceptance/chat-en-instruct-none.json"]
)
def test_nothing_to_show_is_one_sentence(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    write_run(Path("damaged/a"), cell(), began=day(0)).joinpath("run.json").write_text("{", encoding="utf-8")
    write_run(Path("cells"), plain(), began=day(0)).joinpath("run.json").unlink()
    assert main(["history", folder]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.endswith("[no-cells]\n")
    assert said.err.count("\n") == 1


def test_without_its_package(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    runs(cell())
    monkeypatch.setitem(sys.modules, "otava.analysis", None)
    assert main(["history", "results"]) == 2
    assert "[extra-missing]" in capsys.readouterr().err


def test_a_hostile_name_acts_on_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    write_run(Path("a\x1b[31m\u202e|b"), cell(provenance={"commit": "\x1b[2J"}), began=day(0))
    for form in ("table", "markdown", "json"):
        assert main(["history", ".", "--format", form]) == 0
        said = capsys.readouterr().out
        assert not {"\x1b", "\u202e"} & set(said)
