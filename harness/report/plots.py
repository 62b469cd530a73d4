"""What the picture of a comparison shows, as values: each figure with its interval, and a text of them all.

`drawing.py` draws them. The numbers are those of the tables.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from harness.errors import NoCells
from harness.judge.collect import Entry
from harness.judge.compare import CellComparison, Comparison, Row
from harness.judge.curve import Curve
from harness.judge.over_none import Evidence
from harness.judge.pairing import drafting
from harness.judge.recipe import ONE_START
from harness.measure.validity import MARK
from harness.report.labels import Labels
from harness.report.run_table import LEGEND
from harness.report.sentence import MARKS
from harness.stats.paired import MARGIN
from harness.text.numbers import interval, number, percent, ranged, share, signed
from harness.text.render import visible

CURVE = "curve"
"""The suite whose cells are points of curves."""
MOST_ROWS = 100
"""Rows of one part."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """A figure, and the ends of its 95 % interval."""

    value: float
    ends: tuple[float, float] | None
    kind: str = ""
    """Of a verdict."""
    old: bool = False
    """Of the first side, where there are others."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """A row of a forest plot: a point for each side that has one."""

    label: str
    text: str
    """The figures, or why there are none."""
    points: tuple[Point, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forest:
    """Rows that share an axis."""

    title: str
    axis: str
    lines: tuple[Line, ...]
    none: float
    """Where nothing changed, or nothing is gained."""
    margin: float | None = None
    """Another line across."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """A line of a panel; what it is about decides its colour and marker in all of them."""

    label: str
    subject: str
    points: Mapping[int, Point]
    """By position, or by load."""
    side: int = 0
    """0 for the only one; else counted from the last back, so that the first is the largest."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Panel:
    """Series that share both axes."""

    title: str
    series: tuple[Series, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Panels:
    """Panels side by side."""

    title: str
    axis: str
    panels: tuple[Panel, ...]
    unit: Literal["share", "ratio"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """Everything that one picture shows, from top to bottom."""

    title: str
    parts: tuple[Forest | Panels, ...]
    notes: tuple[str, ...]

    @property
    def text(self) -> str:
        """All that it shows, for a reader who cannot see it."""
        return "\n".join([self.title, *self._lines(), *self.notes])

    def _lines(self) -> Iterator[str]:
        for part in self.parts:
            yield part.title
            if isinstance(part, Forest):
                for line in part.lines:
                    show = signed if part.none == 0 else number
                    ends = [interval(p.ends, show) if p.ends or not part.none else "" for p in line.points]
                    yield f"{line.label}: {line.text}" + f" ({', '.join(ends)})" * any(ends)
                continue
            figure = share if part.unit == "share" else number
            for panel in part.panels:
                for one in panel.series:
                    points = [f"{at}: {ranged(p.value, p.ends, figure)}" for at, p in one.points.items()]
                    yield f"{panel.title}, {one.label}: {', '.join(points)}"


def picture(
    comparison: Comparison, *, speeds: Sequence[tuple[Evidence, bool]] = (), curves: Sequence[Curve] = ()
) -> Picture:
    """What a comparison shows, or a single side.

    Args:
        comparison: of it.
        speeds: what its sides say of speed, and whether each is of the first of several sides.
        curves: which k is worth what at which load; their cells have no rows of their own.

    Raises:
        BadInput: there are more cells than a picture can hold.
    """
    rows = [row for row in comparison.rows if not in_a_curve(row.figures.entry, curves)]
    comparison = dataclasses.replace(comparison, rows=tuple(filter(_worth_a_row, rows)))
    labels = Labels(comparison)
    several = bool(comparison.columns[1:])
    cells = _changes(comparison, labels) if several else _rates(comparison, labels)
    parts = (cells, _positions(comparison, labels), _speeds(speeds), _curves(curves))
    if (most := max(len(p.lines) for p in parts if isinstance(p, Forest))) > MOST_ROWS:
        raise NoCells(f"a picture holds {MOST_ROWS} rows, and these are {most}: name a narrower folder")
    shown = "".join(line.label + line.text for line in cells.lines)
    marks = [f"{MARK} most answers are degenerate: acceptance is higher than in use"]
    marks = [mark for mark in (*LEGEND.split("  "), *marks) if mark[0] in shown]
    paths = dict.fromkeys(f"speed-up: {text}" for one, _ in speeds for text in one.paths)
    return Picture(
        title=visible(labels.title(None)),
        parts=tuple(p for p in parts if (p.lines if isinstance(p, Forest) else p.panels)),
        notes=tuple(
            map(visible, [*(["  ".join(marks)] if marks else []), *paths, *labels.above(), *comparison.notes])
        ),
    )


def in_a_curve(entry: Entry, curves: Sequence[Curve]) -> bool:
    """The cell is a point of one of them."""
    return entry.suite.startswith(f"{CURVE}/") and any(curve.holds(entry.cell) for curve in curves)


def _worth_a_row(row: Row) -> bool:
    """It drafts, or something is wrong with it: without drafts every step commits one token."""
    kinds = {a.verdict.kind for a in row.others if a}
    drafts = row.figures.drafts or any(a.figures.drafts for a in row.others if a)
    return drafts or bool(row.figures.invalid) or "invalid" in kinds


def _pairs(comparison: Comparison) -> Iterator[tuple[Row, int, CellComparison]]:
    return ((row, side, a) for row in comparison.rows for side, a in enumerate(row.others, start=1) if a)


def _changes(comparison: Comparison, labels: Labels) -> Forest:
    lines = []
    for row, side, a in _pairs(comparison):
        label = labels.row(row) + f" ({labels.columns[side]})" * bool(comparison.columns[2:])
        v, mark = a.verdict, MARKS[a.verdict.kind]
        if v.primary is None or v.change is None:
            lines.append(Line(label=visible(label), text=f"{mark} not comparable"))
            continue
        kind = v.kind if comparison.judged else ""
        text = f"{number(v.primary.r0)} → {number(v.primary.r1)}  {percent(v.change)} {mark if kind else ''}"
        point = Point(value=v.change, ends=v.interval, kind=kind)
        lines.append(Line(label=visible(label), text=text.rstrip(), points=(point,)))
    return Forest(
        title="paired difference of each cell, 95 % CI",
        axis="change of tokens per step, %",
        lines=tuple(lines),
        none=0,
        margin=-MARGIN if comparison.judged else None,
    )


def _rates(comparison: Comparison, labels: Labels) -> Forest:
    lines = []
    for row in comparison.rows:
        f = row.figures
        points: tuple[Point, ...] = ()
        text = "no decode step" if f.invalid is None else f"{MARKS['invalid']} not a measurement"
        if f.tokens_per_step is not None:
            text = number(f.tokens_per_step)
            points = (Point(value=f.tokens_per_step, ends=f.tokens_per_step_ci),)
        lines.append(Line(label=visible(labels.row(row)), text=text, points=points))
    return Forest(title="tokens per step, 95 % CI", axis="tokens per step", lines=tuple(lines), none=1)


def _positions(comparison: Comparison, labels: Labels) -> Panels:
    found: dict[str, dict[str, Series]] = {}
    for row in comparison.rows:
        # Cells that may not be compared have no figures side by side.
        others = [(side, a.figures) for side, a in enumerate(row.others, start=1) if a and a.verdict.primary]
        for side, f in [(0, row.figures), *others] if others or not row.others else ():
            name = drafting(f.entry.cell)
            column = labels.columns[side]
            points = {
                i: Point(value=rate, ends=ends)
                for i, (rate, ends) in enumerate(zip(f.acceptance, f.acceptance_ci, strict=True))
                if rate is not None
            }
            label = name if not row.others or name == column else f"{name} ({column})"
            if points:
                panel = found.setdefault(visible(labels.place(f.entry, "drafter")), {})
                age = len(row.others) - side
                panel.setdefault(label, Series(label=visible(label), subject=name, points=points, side=age))
    return Panels(
        title="accepted at each position, % of verify steps, 95 % CI", axis="position", unit="share",
        panels=tuple(Panel(title=name, series=tuple(own.values())) for name, own in found.items()),
    )  # fmt: skip


def _speeds(speeds: Sequence[tuple[Evidence, bool]]) -> Forest:
    lines: dict[str, Line] = {}
    for one, old in speeds:
        if one.sound and one.speed:
            over = f", {one.speed.m} pairs of starts" * one.starts
            label = visible(f"{one.cell}, {one.in_flight} in flight{over}")
            before = lines.get(label, Line(label=label, text=""))
            text = " → ".join([*([before.text] if before.text else []), f"{number(one.gain)}×"])
            point = Point(value=one.gain, ends=one.ends, old=old)
            lines[label] = Line(label=label, text=text, points=(*before.points, point))
    claims = all(one.starts for one, _ in speeds)
    return Forest(
        title="speed-up, 95 % CI" + ("" if claims else f" ({ONE_START})"),
        axis="times as fast as none",
        lines=tuple(lines.values()),
        none=1,
    )


def _curves(curves: Sequence[Curve]) -> Panels:
    panels = []
    for curve in curves:
        cell, series = curve.deepest.cell, []
        for k in sorted({p.k for p in curve.points if p.k}):
            points = {p.in_flight: Point(value=p.utility, ends=p.interval) for p in curve.points if p.k == k}
            series.append(Series(label=f"k = {k}", subject=f"k = {k}", points=points))
        panels.append(Panel(title=visible(f"{'-'.join(cell.place)} {cell.drafter}"), series=tuple(series)))
    return Panels(
        title="utility: tokens gained over time added, of one start each; intervals of acceptance alone",
        axis="requests in flight", panels=tuple(panels), unit="ratio",
    )  # fmt: skip
