"""The curve suite: which k at which load. One start for each k; every load is measured on it.

All cells of a server are measured on its start, and `none` once for all drafters.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from harness.config.cells import Cell, server_spec, without_drafts
from harness.config.stack import Stack
from harness.engine.spelling import SCHEDULE, check, takes_schedule
from harness.errors import BadInput
from harness.judge.curve import (
    Curve,
    Grid,
    Measured,
    Point,
    advice,
    candidates,
    curve,
    flaws,
    measured,
    sentences,
)
from harness.judge.throughput import figures as throughput_figures
from harness.measure.measurement import Measurement
from harness.results.records import CellRecord, load
from harness.run import Run
from harness.suites.load import Bound, goodput, passes
from harness.suites.runner import Bench, Outcome, Suite
from harness.text.numbers import DASH, duration, number
from harness.text.render import text_table

_Records = TypeVar("_Records", bound=Mapping[Any, CellRecord])
_PAIRS = "pairs"
FEWEST = 4
"""Requests that a load is timed with."""


def _plan(run: Run, cells: Sequence[Cell]) -> list[str]:
    levels = run.options.levels
    run.refuse_in_flight(cells, max(levels))
    every = {one.spec: one for cell in cells for one in _column(run, cell)}
    for spec in every:
        check(spec)
    measured = {(one.name, one.spec): one for cell in cells for one in _column(run, cell)}
    asked = {one: sum(_asked(run, one, level) for level in levels) for one in measured.values()}
    seconds = run.pace.starts_s(every.values())
    seconds += sum(run.pace.answers_s(_at(one, 1), count) for one, count in asked.items())
    ks, pairs = sorted({one.name.k for one in asked}), _pairs(run)
    text = f"curve: k {', '.join(map(str, ks))} at {', '.join(map(str, levels))} in flight: {len(every)} "
    text += f"starts, {sum(asked.values())} requests; less than {duration(seconds)}, which is what they take "
    text += (
        f"one at a time; then the best k of each load, its neighbours and none {pairs} times each, in turn"
    )
    return [text]


def _largest(cell: Cell, stack: Stack, _: str) -> bool:
    """A drafter has one curve in a place: asked for by the cell with the largest of its k."""
    return cell.name.k == max(stack.drafters[cell.name.drafter].k)


SUITE = Suite(name="curve", by_path=True, own_servers=True, drafting=True, takes=_largest, plan=_plan)


def _column(run: Run, cell: Cell) -> list[Cell]:
    """The cells of a curve: `none`, and the drafter with every k."""
    stack = run.options.stack
    drafter, cache = stack.drafters[cell.name.drafter], cell.profile.cache != "off"
    ks = sorted(set(run.options.ks or {k for k in (1, 2, 4, 8) if k < cell.name.k} | {*drafter.k}))
    return [
        without_drafts(cell, stack),
        *(
            dataclasses.replace(
                cell,
                name=cell.name.model_copy(update={"k": k}),
                spec=server_spec(stack, drafter, k, prefix_cache=cache),
            )
            for k in ks
        ),
    ]


def _at(cell: Cell, in_flight: int) -> Cell:
    return dataclasses.replace(cell, profile=cell.profile.model_copy(update={"concurrency": in_flight}))


def _deepest(run: Run, cell: Cell, in_flight: int) -> bool:
    """Acceptance is read here: all prompts are asked."""
    return in_flight == run.options.levels[0] and cell.name == _column(run, cell)[-1].name


def _asked(run: Run, cell: Cell, in_flight: int) -> int:
    """Requests at a load."""
    there = len(run.prompts(cell))
    if cell.name.k and _deepest(run, cell, in_flight):
        return max(there, _timed(there, in_flight))
    return _timed(there, in_flight)


def _timed(there: int, in_flight: int) -> int:
    """Requests that a load is timed with, of so many prompts."""
    wanted = max(FEWEST, 2 * in_flight)
    return wanted if wanted <= there else there * passes(in_flight, there)


def k_by_load(bench: Bench, cell: Cell) -> Outcome:
    """Time every k of a drafter at every load.

    Raises:
        BadInput, ServerFailed: see `Bench.measured`; or nothing was timed.
    """
    run = bench.run
    if not run.timed:
        raise BadInput("several workers share this device: no time means anything", code="nothing-timed")
    alike = [c for c in bench.cells if c.spec == cell.spec] or [cell]
    found = Outcome(suite=SUITE.name, cell=str(cell))
    columns = {place: _column(run, place) for place in alike}
    grids = {place: {} for place in alike}  # type: dict[Cell, dict[tuple[int, int], CellRecord]]
    for at in range(len(columns[cell])):
        for place, column in columns.items():
            for level in run.options.levels:
                asked = _asked(run, column[at], level)
                record = _measured(bench, column[at], level, asked, f"{SUITE.name}/{level:02d}")
                grids[place][record.cell.k, level] = record
    try:
        curves = {place: curve(_sound(grid)) for place, grid in grids.items()}
        starts = _in_turn(bench, columns, candidates(curves.values()))
        again = measured(_sound(starts[cell]))
    except ValueError as error:
        return found.model_copy(update={"kind": "invalid", "sentence": f"not a measurement: {error}"})
    bound = Bound(ttft_s=run.options.ttft_s, tpot_s=run.options.tpot_s)
    mine = curves[cell]
    table = report(mine, grids[cell], again, bound, may_schedule=takes_schedule(cell.spec))
    said = "; ".join([*sentences(mine), *advice(again)])
    return found.model_copy(update={"sentence": said, "table": table, "figures": figures(mine, again)})


def _sound(grid: _Records) -> _Records:
    """The same; ValueError where one of them is no measurement."""
    if wrong := flaws(grid.values()):
        raise ValueError(wrong[0])
    return grid


def _in_turn(
    bench: Bench, columns: Mapping[Cell, Sequence[Cell]], ks: Sequence[int]
) -> dict[Cell, dict[tuple[int, int, int], CellRecord]]:
    """Each of some k on a start of its own, pair by pair up and down; by pair, k and load."""
    starts: dict[Cell, dict[tuple[int, int, int], CellRecord]] = {place: {} for place in columns}
    drafter = next(iter(columns)).name.drafter  # `none` runs again for each
    for pair in range(_pairs(bench.run)):
        for k in ks if pair % 2 == 0 else reversed(ks):
            fresh = False
            for place, column in columns.items():
                one = next(c for c in column if c.name.k == k)
                for level in bench.run.options.levels:
                    suite = f"{SUITE.name}/{_PAIRS}/{drafter}/{pair:02d}/{level:02d}"
                    asked = _timed(len(bench.run.prompts(one)), level)
                    if not fresh and bench.run.finished_cell(suite, one) is None:
                        bench.slot.close()
                        fresh = True
                    starts[place][pair, k, level] = _measured(bench, one, level, asked, suite)
    return starts


def _pairs(run: Run) -> int:
    """Half as many as the speed suite has: a curve has several k and loads in each."""
    return max(2, run.options.pairs // 2)


def _measured(bench: Bench, cell: Cell, in_flight: int, asked: int, suite: str) -> CellRecord:
    one, there = _at(cell, in_flight), len(bench.run.prompts(cell))
    repeats = max(1, asked // there)
    return bench.measured(
        one,
        suite=suite,
        prompts=bench.run.prompts(one)[: asked // repeats],
        repeats=repeats,
        timed=True,
        passes=Measurement.all_passes,
    )


def report(found: Curve, grid: Grid, again: Sequence[Measured], bound: Bound, *, may_schedule: bool) -> str:
    """The table of a curve, a row for each k and load, and what it says."""
    cell, lines = found.deepest.cell, []
    times = f"acceptance from k = {cell.k}, times from one start of each k"
    lines.append(f"{'-'.join(cell.place)} {cell.drafter}: {times}; goodput is requests a second with {bound}")
    header = ["in flight", "k", "tok/step", "ms/step", "tok/s", "tokens x", "time x", "utility", "95 % CI"]
    rows = []
    for point in found.points:
        good = goodput(grid[point.k, point.in_flight].prompts, bound)
        rows.append([*_row(point), "◀" * (point == found.best(point.in_flight)), number(good)])
    lines.append(text_table([*header, "", "goodput"], rows))
    note = "utility is tokens gained over time added (tokens x / time x); its interval is of acceptance alone"
    lines += [f"{note}; ◀ the best k of a load", *sentences(found), *advice(again)]
    if may_schedule:
        schedule = json.dumps(found.schedule())
        lines.append(f"for [drafters.{cell.drafter}] of the stack: {SCHEDULE} = {schedule}")
    return "\n".join(lines)


def _row(point: Point) -> list[str]:
    ends = point.interval
    return [
        str(point.in_flight),
        str(point.k),
        number(point.tokens_per_step),
        number(point.work.seconds / point.work.steps, 1, scale=1e3),
        number(point.work.rate, 1),
        number(point.gained),
        number(point.added),
        number(point.utility),
        f"{number(ends[0])}..{number(ends[1])}" if ends else DASH,
    ]


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
            {"k": m.k, "in_flight": m.in_flight, **throughput_figures(m.split)} for m in again
        ],
    }  # fmt: skip


def of_run(folder: Path) -> Iterator[tuple[Curve, Grid, list[Measured]]]:
    """The curves whose records a run holds, and what starts in turn said of each: nothing where it has none.

    Raises:
        BadInput: it holds none, or one whose records are not all there, or are no measurement.
        BadRecord: a file is damaged.
    """
    records = [load(path, CellRecord) for path in sorted(folder.glob(f"{SUITE.name}/*/*.json"))]
    if not records:
        raise BadInput(
            f"{folder} holds no records of a curve: pytest bench_suites/test_curve.py makes them",
            code="no-cells",
        )
    if wrong := flaws(records):
        raise BadInput(f"{folder}: not a measurement: {wrong[0]}", code="no-cells")
    plain: dict[tuple[str, ...], dict[int, CellRecord]] = {}
    drafters: dict[tuple[str, ...], dict[tuple[int, int], CellRecord]] = {}
    for record in records:
        name, level = record.cell, int(record.suite.rpartition("/")[2])
        if name.k:
            drafters.setdefault((*name.place, name.drafter), {})[name.k, level] = record
        else:
            plain.setdefault(name.place, {})[level] = record
    for (*place, drafter), of_drafter in drafters.items():
        none: Mapping[int, CellRecord] = plain.get(tuple(place), {})
        grid = {**{(0, level): record for level, record in none.items()}, **of_drafter}
        starts = _starts_of(folder, drafter, tuple(place))
        try:
            yield curve(grid), grid, measured(_sound(starts)) if starts else []
        except ValueError as error:
            where = f"{'-'.join(place)}-{drafter}"
            raise BadInput(f"{folder}: the curve of {where} is not whole: {error}", code="no-cells") from None


def _starts_of(folder: Path, drafter: str, place: tuple[str, ...]) -> dict[tuple[int, int, int], CellRecord]:
    """The records of starts in turn, by pair, k and load."""
    records = [
        load(p, CellRecord) for p in sorted(folder.glob(f"{SUITE.name}/{_PAIRS}/{drafter}/*/*/*.json"))
    ]
    return {
        (int(pair), record.cell.k, int(level)): record
        for record in records
        if record.cell.place == place
        for pair, level in [record.suite.split("/")[-2:]]
    }
