"""Writes a run's cells for tools that follow them over time: OpenMetrics, and two formats of benchmarks.

The names of series are the same in every run, so they hold neither the run's name nor a path.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.openmetrics.exposition import generate_latest

from harness.errors import BadInput, NoCells
from harness.judge.collect import Entry
from harness.judge.compare import CellComparison, Comparison, Figures
from harness.report.labels import PLACE, where
from harness.results.records import CellRecord, load
from harness.text.numbers import interval
from harness.text.render import visible

_CELL = ("endpoint", "language", "workload", "thinking", "variant", "drafter", "k")
_GAUGES = {
    "valid": "1 where the cell is a measurement, 0 where it is not.",
    "prompts": "Prompts whose answer has a decode step.",
    "tokens_per_step": "Tokens that a decode step of the target commits.",
    "tokens_per_step_low": "Lower end of its 95 % interval, from the scatter between prompts.",
    "tokens_per_step_high": "Upper end of its 95 % interval, from the scatter between prompts.",
    "accepted_tokens_per_draft": "Drafted tokens that a verify step accepts.",
    "acceptance_ratio": "Share of verify steps that accept the draft at a position, counted from 0.",
    "output_tokens_per_second": "Of all prompts together, of one server start.",
    "change_ratio": "Tokens per step over those of the base, less 1, paired by prompt.",
    "change_ratio_low": "Lower end of its 95 % interval.",
    "change_ratio_high": "Upper end of its 95 % interval.",
    "verdict": "1 for the verdict that the label names.",
}
"""Of each cell, and what it says. No quotation mark: the two text formats escape it in different ways."""


def benchmark_data(comparison: Comparison) -> list[dict[str, Any]]:
    """What github-action-benchmark reads as `customBiggerIsBetter`: tokens per step, and tokens a second.

    Raises:
        BadInput: there is more than one run to follow, a cell twice, or no figure.
    """
    found = []
    for place, figures, a in _followed(comparison):
        name = visible("/".join((*(place[part] for part in PLACE), str(figures.entry.cell))))
        said = [f"{figures.prompts} prompts", *([a.verdict.text] if a else []), *figures.findings]
        extra = "\n".join(map(visible, said))
        if figures.tokens_per_step is not None and figures.entry.cell.k:
            ends = figures.tokens_per_step_ci
            found.append(
                {"name": f"{name}: tokens per step", "unit": "tokens/step", "value": figures.tokens_per_step}
                | ({"range": f"95 % CI {interval(ends)}"} if ends else {})
                | {"extra": extra}
            )
        if figures.tok_s is not None:
            speed = {"name": f"{name}: output tokens per second", "unit": "tokens/s", "value": figures.tok_s}
            found.append({**speed, "extra": extra})
    if not found:
        raise NoCells("no cell has a figure that github-action-benchmark could follow: name a valid run")
    return found


def pytest_benchmark(comparison: Comparison) -> dict[str, Any]:
    """What `pytest-benchmark compare` reads: a benchmark for each cell, whose rounds are its prompts.

    A round takes the seconds from the request to the end of the answer.

    Raises:
        BadInput: there is more than one run to follow, a cell twice, or nothing was timed.
    """
    from pytest_benchmark.stats import Stats  # noqa: PLC0415 - half a second, for one format

    benchmarks: list[dict[str, Any]] = []
    about: dict[str, Any] = {"machine_info": {}, "commit_info": {}, "datetime": ""}
    for place, figures, a in _followed(comparison):
        record = load(figures.entry.path, CellRecord)
        stats = Stats()
        for answer in record.prompts if record.valid else ():
            if answer.total_s and not answer.failed:
                stats.update(answer.total_s)
        if not stats:
            continue
        gpus = ", ".join(gpu.name or "GPU" for gpu in record.environment.gpus)
        cpu = {"brand_raw": visible(record.environment.cpu or ""), "count": record.environment.threads}
        about["machine_info"] = {"node": "", "cpu": cpu, "gpus": visible(gpus)}
        commit = {"id": record.provenance.get("commit"), "dirty": record.provenance.get("dirty")}
        about |= {"commit_info": commit, "datetime": str(record.provenance.get("time", ""))}
        cell = visible(str(figures.entry.cell))
        ends = figures.tokens_per_step_ci
        benchmarks.append(
            {
                "group": cell,
                "name": cell,
                "fullname": visible("/".join((*(place[part] for part in PLACE), cell))),
                "params": None,
                "param": None,
                "extra_info": {
                    "tokens_per_step": figures.tokens_per_step,
                    "tokens_per_step_ci": list(ends) if ends else None,
                    "output_tokens_per_second": figures.tok_s,
                    "verdict": visible(a.verdict.text) if a else None,
                },
                "options": {"timer": "perf_counter", "disable_gc": False, "warmup": False},
                "stats": stats.as_dict() | {"iterations": 1},
            }
        )
    if not benchmarks:
        raise NoCells("no cell has times that pytest-benchmark could compare: name a timed run")
    return {**about, "benchmarks": benchmarks, "version": version("pytest-benchmark")}


def openmetrics(comparison: Comparison) -> str:
    """OpenMetrics that Prometheus's text parser reads too, so also node-exporter's textfile collector.

    Raises:
        BadInput: there is more than one run to follow, or a cell twice.
    """
    own = {"acceptance_ratio": "position", "verdict": "verdict"}
    labels = {name: [*PLACE, *_CELL, *([own[name]] if name in own else [])] for name in _GAUGES}
    families = {n: GaugeMetricFamily(f"draftgate_{n}", t, labels=labels[n]) for n, t in _GAUGES.items()}
    for place, figures, a in _followed(comparison):
        values = [visible(value) for value in place.values()]
        for name, value in _values(figures, a):
            if value is not None:
                families[name].add_metric(values, value)
        for position, rate in enumerate(figures.acceptance):
            if rate is not None:
                families["acceptance_ratio"].add_metric([*values, str(position)], rate)
        if a and (comparison.judged or a.verdict.kind == "invalid"):
            families["verdict"].add_metric([*values, a.verdict.kind], 1)
    *base, followed = comparison.columns
    about = {"run": followed.name, "base": base[0].name if base else ""}
    about["vllm"] = ", ".join(followed.conditions.get("vLLM", ()))
    about["notes"] = "; ".join(comparison.notes)
    info = GaugeMetricFamily("draftgate_run_info", "The run that was measured.", labels=list(about))
    info.add_metric(list(map(visible, about.values())), 1)
    shown = [info, *(family for family in families.values() if family.samples)]
    text: bytes = generate_latest(types.SimpleNamespace(collect=lambda: shown))  # type: ignore[no-untyped-call]
    return text.decode()


def _values(figures: Figures, a: CellComparison | None) -> Iterator[tuple[str, float | None]]:
    yield "valid", 0 if figures.invalid else 1
    yield "prompts", figures.prompts
    yield "tokens_per_step", figures.tokens_per_step
    yield "tokens_per_step_low", figures.tokens_per_step_ci[0] if figures.tokens_per_step_ci else None
    yield "tokens_per_step_high", figures.tokens_per_step_ci[1] if figures.tokens_per_step_ci else None
    yield "accepted_tokens_per_draft", figures.accepted_per_draft
    yield "output_tokens_per_second", figures.tok_s
    if a:
        low, high = a.verdict.interval or (None, None)
        yield "change_ratio", a.verdict.change
        yield "change_ratio_low", low
        yield "change_ratio_high", high


def _followed(comparison: Comparison) -> Iterator[tuple[dict[str, str], Figures, CellComparison | None]]:
    """The cells of the last side, each by what names it in every run."""
    if len(comparison.columns) > 2:  # noqa: PLR2004
        raise BadInput(
            "a dashboard follows one run: give RUN, or BASE and RUN, and write a file for each further run",
            code="compare-option",
        )
    seen: dict[tuple[str, ...], Entry] = {}
    for row in comparison.rows:
        if row.others and row.figures.entry.cell.reference:
            continue
        a = row.others[0] if row.others else None
        figures = a.figures if a else row.figures
        entry, cell = figures.entry, figures.entry.cell.model_dump()
        place = where(entry)
        place |= {part: str("" if cell.get(part) is None else cell[part]) for part in _CELL}
        other = seen.setdefault(tuple(place.values()), entry)
        if other is not entry:
            raise NoCells(f"{other.path} and {entry.path} are the same cell twice: name a narrower folder")
        yield place, figures, a
