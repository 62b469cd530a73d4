"""A history as tables, and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from harness.report.history import FOLLOWED, LEAST, MAX_P, History, Point, Series
from harness.report.labels import PLACE, varying, where
from harness.text.numbers import DASH, interval, number, numbered, percent
from harness.text.render import Block, Document, by_text

_SHORT = 9
"""Digits of a commit."""


def as_data(found: History) -> dict[str, Any]:
    """Everything, as JSON holds it."""
    return {
        "schema": 1,
        "max_p": MAX_P,
        "least_change": LEAST,
        "runs": found.runs,
        "series": [_series_data(one) for one in found.series],
        "notes": list(found.notes),
    }


def _series_data(one: Series) -> dict[str, Any]:
    entry = one.entry
    names = ("prompts", "tokens_per_step", "tokens_per_step_ci", "tau", "accepted_per_draft")
    return {
        "cell": entry.cell.model_dump(),
        **where(entry),
        "apart": one.apart or None,
        "points": [
            {
                **{f.name: getattr(p, f.name) for f in dataclasses.fields(p) if f.name != "figures"},
                "when": p.when.isoformat(),
                "path": str(p.figures.entry.path),
                "invalid": p.figures.invalid,
                **{name: getattr(p.figures, name) for name in (*names, "acceptance", "tok_s")},
            }
            for p in one.points
        ],
        "changes": [
            {
                "figure": c.figure, "from": one.points[c.at - 1].run, "to": one.points[c.at].run,
                "before": c.before, "after": c.after, "change": c.change, "p": c.p,
            }
            for c in one.changes
        ],
    }  # fmt: skip


def document(found: History) -> Document:
    """A row for each series, and below a table of each with a row for each run."""
    parts = varying([one.entry for one in found.series])
    changed = [_name(one, parts) for one in found.series if one.changes]
    rest = f"{len(changed)} changed: {', '.join(changed)}" if changed else "no change found"
    invalid = ((f"{p.run} {p.figures.entry.cell}", p.figures.invalid) for s in found.series for p in s.points)
    said = by_text((name, why) for name, why in invalid if why)
    notes = [f"no measurement in {', '.join(names)}: {why}" for why, names in said.items()]
    return Document(
        sentence=f"{len(found.series)} series of {numbered(found.runs, 'run')}: {rest}",
        title="history",
        blocks=(_overview(found, parts), *(_table(one) for one in found.series)),
        notes=(*notes, *found.notes),
        sentences=(
            f"A change is {LEAST:.1%} or more between two stretches of a series, with p below {MAX_P:g}.",
            "tok/s: one server start a run, on one machine; a description, no claim.",
        ),
    )


def as_page(found: History) -> dict[str, Any] | None:
    """The series of several runs, for the page of `draftgate report`; None where there is none."""
    series = tuple(one for one in found.series if len(one.points) > 1)
    if not series:
        return None
    shown = document(dataclasses.replace(found, series=series, notes=()))
    return {
        "sentence": shown.sentence,
        "tables": [
            {"title": table.title, "header": table.header, "align": table.align, "rows": table.rows}
            for table in shown.blocks
        ],
        "series": [
            {
                "name": table.title,
                "points": [
                    {
                        "run": f"{p.when:%Y-%m-%d %H:%M}",
                        "rate": p.figures.tokens_per_step,
                        "interval": p.figures.tokens_per_step_ci,
                        "changed": any(c.at == i and c.figure == "tokens_per_step" for c in one.changes),
                    }
                    for i, p in enumerate(one.points)
                ],
            }
            for one, table in zip(series, shown.blocks[1:], strict=True)
            if one.entry.cell.k  # without drafts every step gives one token
        ],
        "notes": [*shown.notes, *shown.sentences],
    }


def _name(one: Series, parts: Sequence[str] = PLACE) -> str:
    return "/".join([*(getattr(one.entry, part) for part in parts), str(one.entry.cell)])


def _overview(found: History, parts: Sequence[str]) -> Block:
    rows = []
    for one in found.series:
        ends = one.points[0], one.points[-1]
        rows.append(
            (
                _name(one, parts),
                str(len(one.points)),
                *(f"{p.when:%Y-%m-%d}" for p in ends),
                *(" → ".join(_of(p, name) for p in ends) for name in FOLLOWED),
                str(len(one.changes)),
            )
        )
    header = ("cell", "runs", "from", "to", *FOLLOWED.values(), "changes")
    ranks = (0, 2, 3, 0, 1, 2, 0)
    return Block(header=header, rows=tuple(rows), align="lrll" + "r" * len(FOLLOWED) + "r", ranks=ranks)


def _of(point: Point, figure: str) -> str:
    return number(getattr(point.figures, figure), 2 if figure == "tokens_per_step" else 1)


def _table(one: Series) -> Block:
    rows = []
    for i, p in enumerate(one.points):
        commit = (p.commit[:_SHORT] if p.commit else DASH) + "+" * p.dirty
        said = [f"{FOLLOWED[c.figure]} {percent(c.change)}" for c in one.changes if c.at == i]
        said += [] if p.finished else ["not finished"]
        rows.append(
            (
                f"{p.when:%Y-%m-%d %H:%M}", p.engine or DASH, commit, _of(p, "tokens_per_step"),
                interval(p.figures.tokens_per_step_ci), _of(p, "tok_s"),
                "no measurement" if p.figures.invalid else ", ".join(said), p.run,
            )
        )  # fmt: skip
    header = ("when", "vLLM", "commit", "tok/step", "95 % CI", "tok/s", "change", "run")
    title = _name(one) + (f" (apart from the series before: {one.apart})" if one.apart else "")
    ranks = (0, 1, 3, 0, 2, 1, 0, 4)
    return Block(header=header, rows=tuple(rows), align="lllrrrll", title=title, ranks=ranks)
