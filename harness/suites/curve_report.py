"""What a curve says, as a table and for a program; and the curves whose records a run holds."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from harness.config.stack import NONE
from harness.engine.forward import Forward
from harness.engine.spelling import SCHEDULE
from harness.errors import BadInput, BadRecord, NoCells
from harness.judge.curve import Curve, Grid, Point, busy, curve, sentences, sound
from harness.judge.in_turn import SCHEDULED, Measured, advice, measured, with_first
from harness.judge.throughput import figures as throughput_figures
from harness.results.records import CellRecord, load
from harness.suites.load import Bound, goodput
from harness.text.numbers import interval, number
from harness.text.render import Block, Piece

NAME = "curve"
"""Of the suite, and of its folder in a run."""
ONCE, PAIRS, WITH_SCHEDULE = "once", "pairs", "scheduled"
"""Folders in it: of a pass that says how long one takes, and of starts in turn by drafter."""
_HEADER = (
    *("in flight", "k", "tok/step", "ms/step", "tok/s", "tokens x", "time x", "utility", "95 % CI"),
    *("", "goodput"),
)
_RANKS = (0, 0, 0, 2, 0, 3, 3, 0, 1, 0, 2)
Found = tuple[Curve, Grid, list[Measured]]


def report(
    found: Curve, grid: Grid, again: Sequence[Measured], bound: Bound, *, may_schedule: bool
) -> tuple[Piece, ...]:
    """The table of a curve, a row for each k and load, and what it says."""
    cell = found.deepest.cell
    times = f"acceptance from k = {cell.k}, times from one start of each k"
    title = f"{'-'.join(cell.place)} {cell.drafter}: {times}; goodput is requests a second with {bound}"
    rows = []
    for point in found.points:
        good = goodput(grid[point.k, point.in_flight].prompts, bound)
        rows.append((*_row(point), "◀" * (point == found.best(point.in_flight)), number(good)))
    steps = (
        "ms/step is the wall time over the steps of all requests: with 4 in flight 4 steps go on at a time"
    )
    note = "utility is tokens gained over time added (tokens x / time x); its interval is of acceptance alone"
    lines = [steps, f"{note}; ◀ the best k of a load", *busy(grid), *sentences(found), *advice(again)]
    if may_schedule:
        schedule = json.dumps(found.schedule())
        lines.append(f"for [drafters.{cell.drafter}] of the stack: {SCHEDULE} = {schedule}")
    return (Block(title=title, header=_HEADER, rows=tuple(rows), ranks=_RANKS), *lines)


def alone(found: Curve, timed: Iterable[Forward]) -> tuple[Piece, ...]:
    """The table of forward passes without a server; nothing where `none` or the drafter has none."""
    cell = found.deepest.cell
    ours = [one for one in timed if one.variant == cell.variant and one.drafter in (NONE, cell.drafter)]
    passes = {one.k: one for one in ours}
    if not {0} < passes.keys():
        return ()
    rows = [
        (
            str(p.in_flight),
            str(p.k),
            number(seconds, scale=1e3),
            number(ratio := seconds / passes[0].seconds[p.in_flight]),
            number(p.added),
            number(p.gained / ratio),
        )
        for p in found.points
        if p.k in passes
        and (seconds := passes[p.k].seconds.get(p.in_flight))
        and p.in_flight in passes[0].seconds
    ]
    at = f"forward passes alone, {passes[0].context} tokens in the cache of each request"
    title = f"{'-'.join(cell.place)} {cell.drafter}: {at}"
    header = ("in flight", "k", "ms/pass", "pass x", "time x", "utility of passes")
    out = "sampling, the check of drafts, the scheduler, HTTP and compiled code are left out"
    note = (
        f"timed by vllm bench forward: {out}, and every draft counts as accepted; pass x is over the pass of"
    )
    note += " k = 0, time x is that of served requests"
    return Block(title=title, header=header, rows=tuple(rows), ranks=(0, 0, 1, 0, 2, 0)), note


def _row(point: Point) -> tuple[str, ...]:
    ms = point.work.seconds / point.work.steps * 1e3
    return (
        str(point.in_flight),
        str(point.k),
        number(point.tokens_per_step),
        number(ms, 1 if ms >= 10 else 2),  # noqa: PLR2004 - on a GPU two digits, as a CPU has
        number(point.work.rate, 1),
        number(point.gained),
        number(point.added),
        number(point.utility),
        interval(point.interval),
    )


def figures(found: Curve, again: Sequence[Measured]) -> dict[str, object]:
    """For a program."""
    return {
        "cell": str(found.deepest.cell),
        "points": [
            {"k": p.k, "in_flight": p.in_flight, "tokens_per_step": p.tokens_per_step, "utility": p.utility,
             "tok_s": p.work.rate} for p in found.points
        ],
        "best": {str(level): found.best(level).k for level in found.levels},
        "crossover": found.crossover,
        "schedule": found.schedule(),
        "measured": [
            {"k": "schedule" if m.k == SCHEDULED else m.k, "in_flight": m.in_flight,
             **throughput_figures(m.split), "drafts": dataclasses.asdict(m.drafts) if m.drafts else None}
            for m in again
        ],
    }  # fmt: skip


def of_run(folder: Path) -> tuple[list[Found], list[BadInput]]:
    """The curves whose records a run holds, with what starts in turn said of each.

    Beside them each reason why a curve, what starts in turn say of it, or a file is left out, or all are; of
    a damaged file it is a BadRecord.
    """
    found, broken = list[Found](), dict[str, BadInput]()

    def leave_out(said: str) -> None:
        broken.setdefault(said, NoCells(said))

    first, later = (defaultdict[Any, dict[Any, CellRecord]](dict) for _ in range(2))
    for path in sorted(folder.glob(f"{NAME}/**/*.json")):
        try:
            record = load(path, CellRecord)
        except BadRecord as error:
            broken.setdefault(str(error), error)
            continue
        name, (_, *where, level) = record.cell, record.suite.split("/")
        if not where:
            first[name.place, name.drafter][name.k, int(level)] = record
        elif where[0] != ONCE:
            _, of, number = where
            k = SCHEDULED if where[0] == WITH_SCHEDULE else name.k
            later[name.place, of][int(number), k, int(level)] = record
    if not broken and not any(drafter != NONE for _, drafter in first):
        leave_out(f"{folder} holds no records of a curve: pytest bench_suites/test_curve.py makes them")
    for place, drafter in [key for key in first if key[1] != NONE]:
        grid = first.get((place, NONE), {}) | first[place, drafter]
        # Runs of older versions have `none` beside each drafter.
        starts = later.get((place, NONE), {}) | later.get((place, drafter), {})
        again, what = list[Measured](), "the curve"
        try:
            whole = curve(sound(grid))
            what = "what starts in turn say"
            again = measured(sound(with_first(grid, starts))) if starts else []
        except ValueError as error:
            leave_out(f"{folder}: {what} of {'-'.join(place)}-{drafter} is not whole: {error}")
            if what == "the curve":
                continue
        found.append((whole, grid, again))
    return found, [*broken.values()]
