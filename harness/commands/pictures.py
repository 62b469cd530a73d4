"""Gathers what `draftgate compare --format png|svg|pdf` draws beside the cells: speed-ups and curves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.commands.recipe import SUITES, starts_of
from harness.errors import BadRecord
from harness.judge.compare import Comparison
from harness.judge.curve import Curve
from harness.judge.over_none import Evidence, of_cell, plain_of
from harness.report.drawing import draw
from harness.report.plots import in_a_curve, picture
from harness.results.records import CellRecord, load
from harness.suites.curve_report import NAME, of_run
from harness.text.console import complain


def drawn(comparison: Comparison, form: str) -> bytes:
    """The picture of a comparison, or of a single run.

    Raises:
        BadInput: see `picture` and `draw`.
        BadRecord: a file is damaged.
    """
    runs = [] if comparison.columns[1:] else [Path(comparison.columns[0].path)]
    starts = [one for run in runs for one in starts_of(run) if not one.schedule]  # a point has one k
    curves = [one for run in runs for one in _curves(run)]
    speeds = [*((one, False) for one in starts), *_speeds(comparison, curves)]
    return draw(picture(comparison, speeds=speeds, curves=curves), form, complain)


def _speeds(comparison: Comparison, curves: Sequence[Curve]) -> Iterator[tuple[Evidence, bool]]:
    """Of one start each, but for points of `curves`; of two sides only where both ran in one environment."""
    for row in comparison.rows:
        others = [a.figures for a in row.others if a and a.same_environment and a.verdict.primary]
        for figures in (row.figures, *others) if others or not row.others else ():
            entry, old = figures.entry, bool(row.others) and figures is row.figures
            asks = entry.suite.partition("/")[0] in SUITES and not in_a_curve(entry, curves)
            if entry.cell.k and asks and (none := plain_of(entry)):
                yield of_cell(entry.suite, load(entry.path, CellRecord), none), old


def _curves(run: Path) -> list[Curve]:
    """The curves of a run. The cells of one that is not whole are rows."""
    if not (run / NAME).is_dir():
        return []
    found, broken = of_run(run)
    for why in broken:
        if isinstance(why, BadRecord):
            raise why
        complain(f"not drawn: {why}")
    return [curve for curve, _, _ in found]
