"""A comparison as CSV, Parquet or JSON: everything it holds, unrounded.

CSV has a line for each cell; its long form, which is Parquet's too, has one for each figure of each cell.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from harness.errors import library
from harness.judge.collect import Entry
from harness.judge.compare import CellComparison, Column, Comparison, Figures, Row
from harness.report.labels import where
from harness.report.run_table import Values, figure_values, part_values, stretch_values, verdict_values
from harness.results.stretches import Span
from harness.text.render import visible

_NAME = ("suite", "endpoint", "language", "workload", "thinking", "variant", "drafter", "k")
_FIGURES = ("tokens_per_step", "tau", "accepted_per_draft", "pos_0", "tok_s", "speed_up")
_SIDES = ("base", "new")

Value = str | float | None

_CELL = ("stack", "device", "profile", *_NAME)
_LONG: dict[str, type] = {
    "run": str, "base": str, "vllm": str, **dict.fromkeys(_CELL, str), "k": int,
    "figure": str, "position": int, "value": float, "low": float, "high": float, "n": int, "unit": str,
    "verdict": str, "notes": str,
}  # fmt: skip
"""The columns of the long form, and what is in them."""
_UNITS = {
    "valid": "1 or 0", "tau": "tokens/verify step", "accepted_per_draft": "tokens/draft", "tok_s": "tokens/s",
    "speed_up": "ratio", "acceptance": "share", "conditional_acceptance": "share", "change": "share",
    "p_loss": "probability",
}  # fmt: skip
"""Of each figure; every other one is in tokens/step."""


def csv_rows(comparison: Comparison) -> tuple[list[str], list[list[Value]]]:
    """Header and lines: one for each cell and side that it was compared with; of a single side, its cells.

    A pair that was refused has no figures, since they must not stand side by side.
    """
    depth = max((len(a.positions) for row in comparison.rows for a in row.others if a), default=0)
    header = [f"{side}_{part}" for side in _SIDES for part in ("side", *_NAME)]
    header += ["verdict", "prompts", "same_text", "common_beginning", "change", "ci_low", "ci_high", "p_loss"]
    header += [f"{side}_{part}" for side in _SIDES for part in _FIGURES]
    header += [f"{side}_conditional_{i}" for i in range(depth) for side in _SIDES]
    shown = [f for row in comparison.rows for f in (row.figures, *(a.figures for a in row.others if a))]
    along = {name: None for figures in shown for name in stretch_values(figures.stretches)}
    along |= {name: None for figures in shown for name in part_values(figures.parts)}
    header += [f"{side}_{name}" for name in along for side in _SIDES]
    header.append("notes")
    base, *others = (column.name for column in comparison.columns)
    lines: list[Values] = []
    for row in comparison.rows:
        left = _named("base", base, row.figures.entry)
        if not others:
            own = _of_side("base", figure_values(row.figures))
            lines.append({**left, **own, "notes": "; ".join(row.figures.findings)})
        for side, a in zip(others, row.others, strict=True):
            if a is not None:
                new = _named("new", side, a.figures.entry)
                lines.append({**left, **new, **_compared(row, a, judged=comparison.judged)})
    return _table(header, lines)


def _table(header: Iterable[str], lines: Sequence[Values]) -> tuple[list[str], list[list[Value]]]:
    """Header and rows; the variant has a column where a cell is of one."""
    told = [name for name in header if not name.endswith("variant") or any(name in line for line in lines)]
    return told, [[line.get(name) for name in told] for line in lines]


def _named(side: str, name: str, entry: Entry) -> Values:
    return _of_side(side, {"side": name, "suite": entry.suite, **entry.cell.model_dump()})


def _of_side(side: str, values: Values) -> Values:
    return {f"{side}_{name}": value for name, value in values.items()}


def _compared(row: Row, a: CellComparison, *, judged: bool) -> Values:
    """Tokens per step over the pairs, the rest over all prompts; the speeds are each side's own."""
    v, primary = a.verdict, a.verdict.primary
    sides = {"base": row.figures, "new": a.figures}
    findings = [f"{side}: {finding}" for side, figures in sides.items() for finding in figures.findings]
    notes = "; ".join([v.text, *row.notes, *a.told, *findings])
    if primary is None:
        return {"verdict": v.kind, "notes": notes}
    line = {**verdict_values(v), "verdict": v.kind if judged else None, "prompts": v.prompts, "notes": notes}
    low, high = v.interval or (None, None)
    line |= {"ci_low": low, "ci_high": high, "p_loss": primary.p_loss()}
    for side, rate in zip(_SIDES, (primary.r0, primary.r1), strict=True):
        figures = figure_values(sides[side])
        line |= _of_side(side, figures | {"tokens_per_step": rate})
    for p in a.positions:
        line |= {f"base_conditional_{p.index}": p.old, f"new_conditional_{p.index}": p.new}
    return line


def long_rows(comparison: Comparison) -> tuple[list[str], list[list[Value]]]:
    """Header and lines: one for each cell, figure and position. A figure that a cell does not have has none.

    The lines of a comparison name its `base`; a run's own figures have none, and stand once.
    """
    lines: list[Values] = []
    names = [column.name for column in comparison.columns]
    base, *others = (
        column if names.count(column.name) == 1 else dataclasses.replace(column, name=column.path)
        for column in comparison.columns
    )
    for row in comparison.rows:
        lines += _own(base, row.figures)
        for column, a in zip(others, row.others, strict=True):
            if a is not None:
                lines += _own(column, a.figures)
                lines += _changed(base, column, row, a, judged=comparison.judged)
    return _table(_LONG, lines)


def _own(column: Column, figures: Figures) -> Iterator[Values]:
    """The lines of one cell. What it did not measure has none."""
    named = _long_name(column, figures.entry) | {"n": figures.prompts}
    notes = "; ".join([*([figures.invalid] if figures.invalid else []), *figures.findings])
    yield named | _figure("valid", 0 if figures.invalid else 1) | {"notes": notes or None}
    found = [_figure("tokens_per_step", figures.tokens_per_step, figures.tokens_per_step_ci)]
    found += [_figure(name, getattr(figures, name)) for name in ("tau", "accepted_per_draft")]
    rates = zip(figures.acceptance, figures.acceptance_ci, strict=True)
    found += [_figure("acceptance", rate, ends, position=i) for i, (rate, ends) in enumerate(rates)]
    spans: list[tuple[str, Span]] = [(f"from_{s.start}", s) for s in figures.stretches]
    spans += [(f"in_{p.part}", p) for p in figures.parts]
    for name, span in spans:
        line = _figure(f"tokens_per_step_{name}", span.tokens_per_step, span.interval)
        found.append(line | {"n": span.prompts})
    found += [_figure(name, getattr(figures, name)) for name in ("tok_s", "speed_up")]
    yield from (named | line for line in found if line["value"] is not None)


def _changed(base: Column, column: Column, row: Row, a: CellComparison, *, judged: bool) -> Iterator[Values]:
    """The lines of a pair: what changed, and the figures over the prompts that both sides have."""
    v, primary = a.verdict, a.verdict.primary
    verdict = v.kind if judged or v.kind == "invalid" else None
    named = _long_name(column, a.figures.entry) | {"base": base.name, "n": v.prompts, "verdict": verdict}
    notes = "; ".join([v.text, *row.notes, *a.told])
    yield named | _figure("change", v.change, v.interval) | {"notes": notes}
    if primary is None:
        return
    found = [_figure("p_loss", primary.p_loss())]
    found += [
        _figure(f"{side}_tokens_per_step", r)
        for side, r in zip(_SIDES, (primary.r0, primary.r1), strict=True)
    ]
    for p in a.positions:
        for side, rate in zip(_SIDES, (p.old, p.new), strict=True):
            found.append(
                _figure("conditional_acceptance", rate, position=p.index)
                | {"figure": f"{side}_conditional_acceptance"}
            )
    yield from (named | line for line in found if line["value"] is not None)


def _figure(
    name: str, value: float | None, ends: tuple[float, float] | None = None, *, position: int | None = None
) -> Values:
    low, high = ends or (None, None)
    unit = _UNITS.get(name, "tokens/step")
    return {"figure": name, "position": position, "value": value, "low": low, "high": high, "unit": unit}


def _long_name(column: Column, entry: Entry) -> Values:
    vllm = ", ".join(column.conditions.get("vLLM", ()))
    return {"run": column.name, "vllm": vllm or None, **where(entry), **entry.cell.model_dump()}


def parquet(header: Sequence[str], rows: Sequence[Sequence[Value]]) -> bytes:
    """The long form as a Parquet file.

    Raises:
        BadInput: the package that writes it is not installed.
    """
    pyarrow, writer = (
        library(name, "--format parquet", package="pyarrow", extra="report")
        for name in ("pyarrow", "pyarrow.parquet")
    )
    kinds = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
    schema = pyarrow.schema([(name, kinds[_LONG[name]]) for name in header])
    columns = [
        [visible(value) if isinstance(value, str) else value for value in column]
        for column in zip(*rows, strict=True)
    ]
    table = pyarrow.Table.from_arrays(
        [pyarrow.array(values, field.type) for values, field in zip(columns, schema, strict=True)],
        schema=schema,
    )
    out = io.BytesIO()
    writer.write_table(table, out)
    return out.getvalue()


def as_data(comparison: Comparison, *, exit_code: int) -> dict[str, Any]:
    """Everything, as JSON holds it."""
    means = [comparison.geomean(i) for i in range(len(comparison.columns) - 1)]
    return {
        "schema": 1,
        "across": list(comparison.across),
        "sides": [dataclasses.asdict(column) for column in comparison.columns],
        "cells": [
            {
                "base": _figures_data(row.figures),
                "notes": list(row.notes),
                "against": [
                    _against_data(a, i, judged=comparison.judged)
                    for i, a in enumerate(row.others, start=1)
                    if a
                ],
            }
            for row in comparison.rows
        ],
        "geomean": [{"change": mean[0], "cells": mean[1]} if mean else None for mean in means],
        "notes": list(comparison.notes),
        "exit_code": exit_code,
    }


def _figures_data(figures: Figures) -> dict[str, Any]:
    fields = {f.name: getattr(figures, f.name) for f in dataclasses.fields(figures) if f.name != "entry"}
    entry = figures.entry
    place = {"suite": entry.suite, "profile": entry.profile, "stack": entry.stack, "device": entry.device}
    for name in ("stretches", "parts"):
        fields[name] = [dataclasses.asdict(span) for span in getattr(figures, name)]
    return {"cell": entry.cell.model_dump(), **place, "path": str(entry.path), **fields}


def _against_data(a: CellComparison, side: int, *, judged: bool) -> dict[str, Any]:
    v, primary = a.verdict, a.verdict.primary
    return {
        "side": side,
        "new": _figures_data(a.figures),
        "verdict": v.kind if judged or v.kind == "invalid" else None,
        "lower": v.lower,
        "text": v.text,
        "prompts": v.prompts,
        "same_text": v.same_text,
        "common_beginning": v.share,
        "whole_answers": dataclasses.asdict(v.whole) if v.whole else None,
        "tokens_per_step": [primary.r0, primary.r1] if primary else None,
        "estimate": primary.estimate if primary else None,
        "se": primary.se if primary else None,
        "ci": primary.interval() if primary else None,
        "p_loss": primary.p_loss() if primary else None,
        "p_gain": primary.p_gain() if primary else None,
        "change": v.change,
        "change_ci": list(v.interval) if v.interval else None,
        "positions": [dataclasses.asdict(p) for p in a.positions],
        "stretches": [dataclasses.asdict(s) for s in v.stretches],
        "same_environment": a.same_environment,
        "notes": list(a.told),
    }
