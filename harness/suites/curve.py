"""The curve suite: which k at which load. One start for each k; every load is measured on it.

All cells of a server are measured on its start, and `none` once for all drafters.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from harness.config.cells import Cell, server_spec, without_drafts
from harness.config.stack import Stack
from harness.engine.spelling import SCHEDULE, check, takes_schedule
from harness.errors import BadInput
from harness.judge.curve import Curve, Grid, Point, curve, flaws, sentences
from harness.measure.measurement import Measurement
from harness.results.records import CellRecord, load
from harness.run import Run
from harness.suites.load import Bound, goodput, passes
from harness.suites.runner import Bench, Outcome, Suite
from harness.text.numbers import DASH, duration, number
from harness.text.render import text_table

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
    ks = ", ".join(map(str, sorted({one.name.k for one in asked})))
    text = f"curve: k {ks} at {', '.join(map(str, levels))} in flight: {len(every)} starts, "
    text += f"{sum(asked.values())} requests; less than {duration(seconds)}, "
    return [text + "which is what they take one at a time"]


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
        return there
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
    columns = {place: _column(run, place) for place in alike}
    found = Outcome(suite=SUITE.name, cell=str(cell))
    grid: dict[tuple[int, int], CellRecord] = {}
    for at in range(len(columns[cell])):
        for place, column in columns.items():
            for level in run.options.levels:
                record = _measured(bench, column[at], level)
                if place == cell:
                    grid[record.cell.k, level] = record
    if wrong := flaws(grid.values()):
        return found.model_copy(update={"kind": "invalid", "sentence": f"not a measurement: {wrong[0]}"})
    try:
        mine = curve(grid)
    except ValueError as error:
        return found.model_copy(update={"kind": "invalid", "sentence": f"not a measurement: {error}"})
    said = sentences(mine)
    bound = Bound(ttft_s=run.options.ttft_s, tpot_s=run.options.tpot_s)
    table = report(mine, grid, bound, may_schedule=takes_schedule(cell.spec))
    return found.model_copy(update={"sentence": "; ".join(said), "table": table, "figures": figures(mine)})


def _measured(bench: Bench, cell: Cell, in_flight: int) -> CellRecord:
    one, there = _at(cell, in_flight), len(bench.run.prompts(cell))
    asked = _asked(bench.run, cell, in_flight)
    repeats = max(1, asked // there)
    return bench.measured(
        one,
        suite=f"{SUITE.name}/{in_flight:02d}",
        prompts=bench.run.prompts(one)[: asked // repeats],
        repeats=repeats,
        timed=True,
        passes=Measurement.all_passes,
    )


def report(found: Curve, grid: Grid, bound: Bound, *, may_schedule: bool) -> str:
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
    lines += [f"{note}; ◀ the best k of a load", *sentences(found)]
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


def figures(found: Curve) -> dict[str, object]:
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
    }  # fmt: skip


def of_run(folder: Path) -> Iterator[tuple[Curve, Grid]]:
    """The curves whose records a run holds.

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
        try:
            yield curve(grid), grid
        except ValueError as error:
            where = f"{'-'.join(place)}-{drafter}"
            raise BadInput(f"{folder}: the curve of {where} is not whole: {error}", code="no-cells") from None
