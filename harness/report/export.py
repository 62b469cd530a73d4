"""A comparison as CSV or JSON: everything it holds, unrounded, a line for each cell."""

from __future__ import annotations

import dataclasses
from typing import Any

from harness.judge.collect import Entry
from harness.judge.compare import CellComparison, Comparison, Figures, Row
from harness.report.run_table import Values, figure_values, part_values, stretch_values, verdict_values

_NAME = ("suite", "endpoint", "language", "workload", "thinking", "drafter", "k")
_FIGURES = ("tokens_per_step", "tau", "accepted_per_draft", "pos_0", "tok_s", "speed_up")
_SIDES = ("base", "new")

Value = str | float | None


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
    return header, [[line.get(name) for name in header] for line in lines]


def _named(side: str, name: str, entry: Entry) -> Values:
    return _of_side(side, {"side": name, "suite": entry.suite, **entry.cell.model_dump()})


def _of_side(side: str, values: Values) -> Values:
    return {f"{side}_{name}": value for name, value in values.items()}


def _compared(row: Row, a: CellComparison, *, judged: bool) -> Values:
    """Tokens per step over the pairs, the rest over all prompts; the speeds are each side's own."""
    v, primary = a.verdict, a.verdict.primary
    sides = {"base": row.figures, "new": a.figures}
    findings = [f"{side}: {finding}" for side, figures in sides.items() for finding in figures.findings]
    notes = "; ".join([v.text, *row.notes, *a.notes, *findings])
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
    where = {"suite": entry.suite, "profile": entry.profile, "stack": entry.stack, "device": entry.device}
    for name in ("stretches", "parts"):
        fields[name] = [dataclasses.asdict(span) for span in getattr(figures, name)]
    return {"cell": entry.cell.model_dump(), **where, "path": str(entry.path), **fields}


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
        "notes": list(a.notes),
    }
