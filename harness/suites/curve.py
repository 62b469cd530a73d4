"""The curve suite: which k at which load. One start for each k; every load is measured on it.

All cells of a server are measured on its start, and `none` once for all drafters.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from harness.config.cells import Cell, with_k, without_drafts
from harness.config.stack import Stack
from harness.engine.spelling import SCHEDULE, check, takes_schedule
from harness.errors import BadInput, BadRecord
from harness.judge.curve import Curve, Grid, Point, busy, curve, flaws, sentences
from harness.judge.in_turn import SCHEDULED, Measured, Starts, advice, candidates, measured
from harness.judge.throughput import figures as throughput_figures
from harness.measure.measurement import Measurement
from harness.results.records import CellRecord, load
from harness.run import Run
from harness.suites.load import Bound, goodput, passes
from harness.suites.runner import Bench, Kind, Outcome, Suite
from harness.text.numbers import DASH, duration, number
from harness.text.render import Block, Piece

_Found = tuple[Curve, Grid, list[Measured]]
_Records = TypeVar("_Records", bound=Mapping[Any, CellRecord])
_PAIRS, _SCHEDULED = "pairs", "scheduled"
_NEXT = 3
"""The best k and its neighbours."""
FEWEST = 4
"""Requests that a load is timed with."""
_HEADER = (
    *("in flight", "k", "tok/step", "ms/step", "tok/s", "tokens x", "time x", "utility", "95 % CI"),
    *("", "goodput"),
)
_RANKS = (0, 0, 0, 2, 0, 3, 3, 0, 1, 0, 2)


def _plan(run: Run, cells: Sequence[Cell]) -> list[str]:
    levels, pairs = run.options.levels, _pairs(run)
    run.refuse_in_flight(cells, max(levels))
    every = {one.spec: one for cell in cells for one in _column(run, cell)}
    for spec in every:
        check(spec)
    measured = {(one.name, one.spec): one for cell in cells for one in _column(run, cell)}
    asked = {(one, level): _asked(run, one, level) for one in measured.values() for level in levels}

    def answers_s(one: Cell, level: int, count: int) -> float:
        warming = one.profile.warmups if level == levels[0] else 0
        return run.pace.answers_s(_at(one, level), count + warming)

    seconds = run.pace.starts_s(every.values())
    seconds += sum(answers_s(*where, count) for where, count in asked.items())
    again = [[*_column(run, cell)[:1], *_column(run, cell)[1:][-_NEXT:]] for cell in cells]
    in_turn = sum(run.pace.starts_s(column, first=False) for column in again)
    in_turn += sum(
        answers_s(one, level, _timed(len(run.prompts(one)), level))
        for column in again
        for one in column
        for level in levels
    )
    ks = sorted({one.name.k for one, _ in asked})
    text = f"curve: k {', '.join(map(str, ks))} at {', '.join(map(str, levels))} in flight: {len(every)} "
    text += f"starts, {sum(asked.values())} requests; about {duration(seconds)}"
    text += f"; then the best k of each load, its neighbours and none {pairs} times each, in turn; about "
    return [text + duration(pairs * in_turn)]


def _largest(cell: Cell, stack: Stack, _: str) -> bool:
    """A drafter has one curve in a place: asked for by the cell with the largest of its k."""
    return cell.name.k == max(stack.drafters[cell.name.drafter].k)


SUITE = Suite(
    name="curve",
    by_path=True,
    own_servers=True,
    one_server="a server that runs already has one k, so it has no curve",
    drafting=True,
    takes=_largest,
    plan=_plan,
)


def _column(run: Run, cell: Cell) -> list[Cell]:
    """The cells of a curve: `none`, and the drafter with every k."""
    drafter = run.options.stack.drafters[cell.name.drafter]
    ks = sorted(set(run.options.ks or {k for k in (1, 2, 4, 8) if k < cell.name.k} | {*drafter.k}))
    return [without_drafts(cell), *(with_k(cell, k) for k in ks)]


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
        what = "several workers share this device, so no time means anything: use one worker"
        raise BadInput(what, code="nothing-timed")
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
        starts = _in_turn(bench, columns, curves)
        again = measured(_sound(starts[cell]))
    except ValueError as error:
        return found.model_copy(update={"kind": "invalid", "sentence": f"not a measurement: {error}"})
    bound = Bound(ttft_s=run.options.ttft_s, tpot_s=run.options.tpot_s)
    mine, noisy = curves[cell], busy(grids[cell])
    table = report(mine, grids[cell], again, bound, may_schedule=takes_schedule(cell.spec))
    said = "; ".join([*noisy, *sentences(mine), *advice(again)])
    kind: Kind = "unsure" if noisy or any(one.disturbed for one in again) else "fine"
    return found.model_copy(
        update={"kind": kind, "sentence": said, "table": table, "figures": figures(mine, again)}
    )


def _sound(grid: _Records) -> _Records:
    """The same; ValueError where one of them is no measurement."""
    if wrong := flaws(grid.values()):
        raise ValueError(wrong[0])
    return grid


def _in_turn(
    bench: Bench, columns: Mapping[Cell, Sequence[Cell]], curves: Mapping[Cell, Curve]
) -> dict[Cell, dict[tuple[int, int, int], CellRecord]]:
    """Each k on a start of its own, at the loads where it may be the best, pair by pair up and down.

    The last of them is the schedule that the curve says, where the engine takes one.
    """
    where = candidates(curves.values())
    scheduled = {place: _scheduled(column[-1], curves[place]) for place, column in columns.items()}
    ks = [*where, *[SCHEDULED] * any(scheduled.values())]
    starts: dict[Cell, dict[tuple[int, int, int], CellRecord]] = {place: {} for place in columns}
    drafter = next(iter(columns)).name.drafter  # `none` runs again for each
    times = {
        (place, level): max(point.work.times for point in found.points if point.in_flight == level)
        for place, found in curves.items()
        for level in found.levels
    }
    for pair in range(_pairs(bench.run)):
        for k in ks if pair % 2 == 0 else reversed(ks):
            fresh = False
            for place, column in columns.items():
                fixed = next((c for c in column if c.name.k == k), None)
                if (one := scheduled[place] if k == SCHEDULED else fixed) is None:
                    continue
                for level in sorted(where.get(k, curves[place].levels)):
                    suite = f"{SUITE.name}/{_PAIRS if one is fixed else _SCHEDULED}"
                    suite += f"/{drafter}/{pair:02d}/{level:02d}"
                    asked = _timed(len(bench.run.prompts(one)), level) * times[place, level]
                    if not fresh and bench.run.finished_cell(suite, one) is None:
                        bench.slot.close()
                        fresh = True
                    starts[place][pair, k, level] = _measured(bench, one, level, asked, suite)
    return starts


def _scheduled(deepest: Cell, found: Curve) -> Cell | None:
    """The cell of the largest k with the curve's schedule; None where the engine has none to follow."""
    schedule = found.schedule()
    if len(schedule) == 1 or not takes_schedule(deepest.spec):
        return None
    drafter = {**(deepest.spec.speculative or {}), SCHEDULE: schedule}
    return dataclasses.replace(deepest, spec=dataclasses.replace(deepest.spec, speculative=drafter))


def _pairs(run: Run) -> int:
    """Half as many as the speed suite has: a curve has several k and loads in each."""
    return max(2, run.options.pairs // 2)


def _measured(bench: Bench, cell: Cell, in_flight: int, asked: int, suite: str) -> CellRecord:
    """A cell at a load."""
    one, there = _at(cell, in_flight), len(bench.run.prompts(cell))
    repeats = math.ceil(asked / there)
    return bench.measured(
        one,
        suite=suite,
        prompts=bench.run.prompts(one)[: asked // repeats],
        repeats=repeats,
        timed=True,
        passes=Measurement.all_passes,
    )


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
    note = "utility is tokens gained over time added (tokens x / time x); its interval is of acceptance alone"
    lines = [f"{note}; ◀ the best k of a load", *busy(grid), *sentences(found), *advice(again)]
    if may_schedule:
        schedule = json.dumps(found.schedule())
        lines.append(f"for [drafters.{cell.drafter}] of the stack: {SCHEDULE} = {schedule}")
    return (Block(title=title, header=_HEADER, rows=tuple(rows), ranks=_RANKS), *lines)


def _row(point: Point) -> tuple[str, ...]:
    ends = point.interval
    return (
        str(point.in_flight),
        str(point.k),
        number(point.tokens_per_step),
        number(point.work.seconds / point.work.steps, 1, scale=1e3),
        number(point.work.rate, 1),
        number(point.gained),
        number(point.added),
        number(point.utility),
        f"{number(ends[0])}..{number(ends[1])}" if ends else DASH,
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


def of_run(folder: Path, *, broken: list[BadInput] | None = None) -> Iterator[_Found]:
    """The curves whose records a run holds, and what starts in turn said of each.

    Args:
        folder: of the run.
        broken: takes why a curve, what starts in turn say of it, or a file is left out.

    Raises:
        BadInput: it holds none; or one is not whole or no measurement, and `broken` does not take it.
        BadRecord: a file is damaged, and `broken` does not take it.
    """
    records = _readable(folder.glob(f"{SUITE.name}/*/*.json"), broken)
    if not broken and not any(record.cell.k for record in records):
        raise BadInput(
            f"{folder} holds no records of a curve: pytest bench_suites/test_curve.py makes them",
            code="no-cells",
        )
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
        starts = _starts_of(folder, drafter, tuple(place), broken)
        again, what = list[Measured](), "the curve"
        try:
            whole = curve(_sound(grid))
            what = "what starts in turn say"
            again = measured(_sound(starts)) if starts else []
        except ValueError as error:
            said = f"{folder}: {what} of {'-'.join(place)}-{drafter} is not whole: {error}"
            _take(BadInput(said, code="no-cells"), broken)
            if what == "the curve":
                continue
        yield whole, grid, again


def _readable(files: Iterable[Path], broken: list[BadInput] | None) -> list[CellRecord]:
    found = []
    for path in sorted(files):
        try:
            found.append(load(path, CellRecord))
        except BadRecord as error:
            _take(error, broken)
    return found


def _take(error: BadInput, broken: list[BadInput] | None) -> None:
    if broken is None:
        raise error
    if str(error) not in map(str, broken):
        broken.append(error)


def _starts_of(folder: Path, drafter: str, place: tuple[str, ...], broken: list[BadInput] | None) -> Starts:
    """The records of starts in turn."""
    root = folder / SUITE.name
    files = [path for of in (_PAIRS, _SCHEDULED) for path in root.glob(f"{of}/{drafter}/*/*/*.json")]
    found = {}
    for record in _readable(files, broken):
        if record.cell.place == place:
            *_, of, _, pair, level = record.suite.split("/")
            k = SCHEDULED if of == _SCHEDULED else record.cell.k
            found[int(pair), k, int(level)] = record
    return found
