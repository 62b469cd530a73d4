"""A comparison for a spreadsheet or a program: everything, unrounded, a line a cell; no pivot."""

from __future__ import annotations

import dataclasses
from typing import Any

from harness.judge.collect import Entry
from harness.judge.compare import CellComparison, Comparison, Figures, Row

_NAME = ("suite", "endpoint", "language", "workload", "drafter", "k")
_FIGURES = ("tokens_per_step", "tau", "accepted_per_draft", "pos_0", "tok_s", "speed_up")
_SIDES = ("base", "new")

Value = str | float | None


def csv_rows(comparison: Comparison) -> tuple[list[str], list[list[Value]]]:
    """Header and lines: a cell against a side each; of a single side, its cells alone.

    Of a refused pair no figures: they must not stand side by side.
    """
    depth = max((len(a.positions) for row in comparison.rows for a in row.others if a), default=0)
    header = [f"{side}_{part}" for side in _SIDES for part in ("side", *_NAME)]
    header += ["verdict", "prompts", "same_text", "change", "ci_low", "ci_high", "p_loss"]
    header += [f"{side}_{part}" for side in _SIDES for part in _FIGURES]
    header += [f"{side}_conditional_{i}" for i in range(depth) for side in _SIDES]
    base, *others = (column.name for column in comparison.columns)
    rows = []
    for row in comparison.rows:
        if not others:
            values = [base, *_name(row.figures.entry), *[None] * (len(_NAME) + 8), *_figures(row.figures)]
            rows.append([*values, *[None] * len(_FIGURES), "; ".join(row.figures.findings)])
        for side, a in zip(others, row.others, strict=True):
            if a is not None:
                values = [base, *_name(row.figures.entry), side, *_name(a.figures.entry)]
                values += [*_judged(a, judged=comparison.judged), *_side_by_side(row.figures, a)]
                positions = [value for p in a.positions for value in (p.old, p.new)]
                values += [*positions, *[None] * (2 * depth - len(positions))]
                rows.append([*values, "; ".join([a.verdict.text, *row.notes, *a.notes, *_findings(row, a)])])
    return [*header, "notes"], rows


def _name(entry: Entry) -> list[Value]:
    c = entry.cell
    return [entry.suite, c.endpoint, c.language, c.workload, c.drafter, c.k]


def _findings(row: Row, a: CellComparison) -> list[str]:
    sides = zip(_SIDES, (row.figures, a.figures), strict=True)
    return [f"{side}: {finding}" for side, figures in sides for finding in figures.findings]


def _judged(a: CellComparison, *, judged: bool) -> list[Value]:
    v, primary = a.verdict, a.verdict.primary
    if primary is None:
        return [v.kind, *[None] * 6]
    low, high = v.interval or (None, None)
    return [v.kind if judged else None, v.prompts, v.same_text, v.change, low, high, primary.p_loss()]


def _side_by_side(base: Figures, a: CellComparison) -> list[Value]:
    """Tokens per step over the pairs; the rest over all prompts; no speed across environments."""
    primary = a.verdict.primary
    if primary is None:
        return [None for _ in 2 * _FIGURES]
    old, new = ([r, *_figures(f)[1:]] for r, f in ((primary.r0, base), (primary.r1, a.figures)))
    return [*old, *new] if a.same_environment else [*old[:-2], None, None, *new[:-2], None, None]


def _figures(figures: Figures) -> list[Value]:
    pos_0 = figures.acceptance[0] if figures.acceptance else None
    rates = (figures.tokens_per_step, figures.tau, figures.accepted_per_draft, pos_0)
    return [*rates, figures.tok_s, figures.speed_up]


def as_data(comparison: Comparison, *, exit_code: int) -> dict[str, Any]:
    """Everything, for a program."""
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
        "tokens_per_step": [primary.r0, primary.r1] if primary else None,
        "estimate": primary.estimate if primary else None,
        "se": primary.se if primary else None,
        "ci": list(primary.ci()) if primary else None,
        "p_loss": primary.p_loss() if primary else None,
        "p_gain": primary.p_gain() if primary else None,
        "change": v.change,
        "change_ci": list(v.interval) if v.interval else None,
        "positions": [dataclasses.asdict(p) for p in a.positions],
        "same_environment": a.same_environment,
        "notes": list(a.notes),
    }
