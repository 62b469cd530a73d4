"""The curve suite: which k at which load, of all drafters beside one `none`, in blocks of server starts.

The first block starts `none` and each k of each drafter, and times each at every load. The later blocks start
again what that leaves open, in turn.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence

from harness.config.cells import Cell, ServerSpec, with_k, with_profile, without_drafts
from harness.config.stack import Stack
from harness.engine import forward
from harness.engine.spelling import SCHEDULE, check, takes_schedule
from harness.errors import BadInput, DraftgateError
from harness.judge.curve import Curve, Grid, busy, curve, sentences, sound
from harness.judge.in_turn import SCHEDULED, advice, candidates, measured, with_first
from harness.measure.measurement import Measurement
from harness.results.records import CellRecord
from harness.results.timing import times_of, work_of
from harness.run import Run
from harness.suites.beside_none import sparing
from harness.suites.curve_report import NAME, ONCE, PAIRS, WITH_SCHEDULE, Found, alone, figures, report
from harness.suites.load import Bound
from harness.suites.runner import Bench, Kind, Outcome, Suite
from harness.text.numbers import duration

FEWEST = 4
"""Requests that a load is timed with, at least."""
_ONE_WAVE = 16
"""From so many in flight on, a load is timed with one request for each, below with two."""


def _plan(run: Run, cells: Sequence[Cell]) -> list[str]:
    levels, blocks = run.options.levels, _blocks(run)
    run.refuse_in_flight(cells, max(levels))
    columns = [_column(run, cell) for cell in cells]
    every = list(dict.fromkeys(one for column in columns for one in column))
    servers = dict.fromkeys(one.spec for one in every)
    for spec in servers:
        check(spec)

    deepest = {column[-1].name for column in columns}

    def count(one: Cell, *, first: bool) -> int:
        plain_s = run.pace.answers_s(without_drafts(one), math.prod(_asked(run, one)))
        return math.prod(_asked(run, one, times=times_of(plain_s), deepest=first and one.name in deepest))

    def seconds(ones: Sequence[Cell], *, first: bool = False) -> float:
        """Of one start of each server, with these cells at every load."""
        at = [with_profile(one, concurrency=level) for one in ones for level in reversed(levels)]
        return run.pace.cells_s({one: count(one, first=first) for one in at}, first=first)

    first_s = seconds(every, first=True)
    again_s = seconds([one for one in every if not one.name.k])
    for column in columns:  # of a best k and its neighbours one is settled at most loads
        again_s += seconds(column[1:][-2:]) + run.pace.starts_s(column[1:][-3:-2], first=False)
    following = [column[-1] for column in columns if takes_schedule(column[-1].spec) and len(levels) > 1]
    total = first_s + blocks * seconds(following) + (blocks - 1) * again_s
    alone = [
        one
        for column in columns
        if forward.times_forward(column[-1].spec)
        for one in column[:1] + column[-2:]
    ]
    total += run.pace.starts_s(alone, first=False)
    ks = ", ".join(map(str, sorted({one.name.k for one in every})))
    text = f"curve: k {ks} at {', '.join(map(str, levels))} in flight, {len(servers)} servers: "
    text += f"each once, about {duration(first_s)}; "
    text += f"then what that leaves open {blocks - 1} times again, in turn"
    text += ", and a schedule of k" * bool(following) + ", and forward passes alone" * bool(alone)
    return [f"{text}; about {duration(total)} in all"]


def _largest(cell: Cell, stack: Stack, words: str) -> bool:
    """A drafter has one curve in a place: asked for by the cell with the largest of its k."""
    return cell.name.k == max(stack.drafters[cell.name.drafter].k) and sparing(cell, stack, words)


SUITE = Suite(
    name=NAME,
    by_path=True,
    own_servers=True,
    one_server="a server that runs already has one k, so it has no curve",
    drafting=True,
    beside_none=True,
    takes=_largest,
    plan=_plan,
)


def _column(run: Run, cell: Cell) -> list[Cell]:
    """The cells of a curve: `none`, and the drafter with every k."""
    drafter = run.options.stack.drafters[cell.name.drafter]
    ks = sorted(set(run.options.ks or {k for k in (1, 2, 4, 8) if k < cell.name.k} | {*drafter.k}))
    return [without_drafts(cell), *(with_k(cell, k) for k in ks)]


def _asked(run: Run, one: Cell, *, times: int = 1, deepest: bool = False) -> tuple[int, int]:
    """How many prompts a cell asks at its load, and how often each.

    Where no load needs all prompts, the `deepest` asks them at the first one: acceptance is read there.
    """
    there, levels, in_flight = len(run.prompts(one)), run.options.levels, one.profile.concurrency
    if deepest and in_flight == levels[0] and all(_requests(n) < there for n in levels):
        return there, times
    few = min(_requests(in_flight), there)
    return few, math.ceil(_requests(in_flight) / few) * times


def _requests(in_flight: int) -> int:
    """That a load is timed with."""
    return max(FEWEST, in_flight if in_flight >= _ONE_WAVE else 2 * in_flight)


def _blocks(run: Run) -> int:
    """Half as many as the speed suite has pairs: a curve has several k and loads in each."""
    return max(2, run.options.pairs // 2)


def k_by_load(bench: Bench, cell: Cell) -> Outcome:
    """Time every k of a drafter at every load, with all drafters that share its `none`.

    Raises:
        BadInput, ServerFailed: see `Bench.measured`; or nothing was timed.
    """
    run = bench.run
    if not run.timed:
        what = "several workers share this device, so no time means anything: use one worker"
        raise BadInput(what, code="nothing-timed")
    plain = without_drafts(cell).spec
    if (key := f"{NAME}/{plain.key}") not in bench.shared:
        alike = [c for c in bench.cells if without_drafts(c).spec == plain] or [cell]
        bench.shared[key] = _Blocks(bench, alike).all()
    mine: Found | Exception = bench.shared[key][cell]
    found = Outcome(suite=NAME, cell=str(cell))
    if isinstance(mine, ValueError):
        return found.model_copy(update={"kind": "invalid", "sentence": f"not a measurement: {mine}"})
    if isinstance(mine, Exception):
        raise mine
    own, grid, again = mine
    noisy, bound = busy(grid), Bound(ttft_s=run.options.ttft_s, tpot_s=run.options.tpot_s)
    kind: Kind = "unsure" if noisy or any(one.disturbed for one in again) else "fine"
    changes = {
        "kind": kind,
        "sentence": "; ".join([*noisy, *sentences(own), *advice(again)]),
        "table": (
            *report(own, grid, again, bound, may_schedule=takes_schedule(cell.spec)),
            *alone(own, forward.kept_in(run.folder)),
        ),
        "figures": figures(own, again),
    }
    return found.model_copy(update=changes)


class _Blocks:
    """Measures the curves that share a `none`, block by block."""

    def __init__(self, bench: Bench, cells: Sequence[Cell]) -> None:
        self._bench = bench
        self._levels = bench.run.options.levels
        self._columns = {cell: _column(bench.run, cell) for cell in cells}
        self._every = dict.fromkeys(one for column in self._columns.values() for one in column)
        self._found: dict[Cell, Found | Exception] = {}
        self._seen: dict[tuple[int, Cell, int], CellRecord] = {}
        """By block, cell and requests in flight."""
        self._times: dict[int, int] = {}

    def all(self) -> dict[Cell, Found | Exception]:
        """Each curve; or why there is none: a ValueError where what was measured makes none.

        Raises:
            BadInput, ServerFailed: `none` could not be measured.
        """
        self._times = self._lasting(next(iter(self._every)))
        self._block(0, dict.fromkeys(self._every, self._levels))
        curves: dict[Cell, tuple[Curve, Grid]] = {}
        for cell, column in self._columns.items():
            if cell in self._found:
                continue
            grid = {(one.name.k, n): self._seen[0, one, n] for one in column for n in self._levels}
            try:
                curves[cell] = curve(sound(grid)), grid
            except ValueError as error:
                self._found[cell] = error
        again: dict[Cell, set[int]] = {one: set() for one in self._every}
        following: dict[Cell, Cell] = {}
        for cell, (found, _) in curves.items():
            plain, *_ = column = self._columns[cell]
            for k, levels in candidates(found).items():
                again[next(one for one in column if one.name.k == k)] |= levels
            if one := _with_schedule(column[-1], found):
                following[cell] = one
                again[one] = found.starts_of_ranges()
                again[plain] |= again[one]
        self._block(0, {one: again[one] for one in following.values()})
        for number in range(1, _blocks(self._bench.run)):
            self._block(number, again)
        for cell, own in curves.items():
            starts = {
                (number, one.name.k if one in self._every else SCHEDULED, level): record
                for (number, one, level), record in self._seen.items()
                if one == following.get(cell) or (number and one in self._columns[cell])
            }
            try:
                in_turn = measured(sound(with_first(own[1], starts))) if starts else []
                self._found.setdefault(cell, (*own, in_turn))
            except ValueError as error:
                self._found[cell] = error
        self._alone({cell: found for cell, (found, _) in curves.items()})
        return self._found

    def _alone(self, curves: Mapping[Cell, Curve]) -> None:
        """Time the forward passes of `none` and of the best k of each load, where the engine can."""
        for cell, found in curves.items():
            plain, *drafted = self._columns[cell]
            answers = [r for n in self._levels for r in self._seen[0, plain, n].prompts if not r.failed]
            context = round(sum(r.prompt_tokens + r.output_tokens / 2 for r in answers) / len(answers))
            best = {found.best_drafting(level).k for level in found.levels}
            own = [plain, *(one for one in drafted if one.name.k in best)]
            if all(forward.times_forward(one.spec) for one in own):
                self._bench.slot.close()
                self._timed_alone([one.spec for one in own], context)

    def _timed_alone(self, specs: Sequence[ServerSpec], context: int) -> None:
        folder, say = self._bench.run.folder / "servers", self._bench.say
        try:
            for spec in specs:
                forward.measured(spec, self._levels, context=context, folder=folder, say=say)
        except DraftgateError as error:  # the curve has its times from requests all the same
            say(f"draftgate: {str(error).splitlines()[0]}")

    def _lasting(self, plain: Cell) -> dict[int, int]:
        """How often each load's requests are asked, so that a pass of `none` lasts."""
        times, wave_s = dict.fromkeys(self._levels, 1), 0.0
        for level in self._levels:
            one = with_profile(plain, concurrency=level)
            waves = math.prod(_asked(self._bench.run, one)) / level
            if wave_s and times_of(2 * waves * wave_s) == 1:  # a wave of more requests takes longer still
                continue
            few = min(level, len(self._bench.run.prompts(one)))
            work = work_of(self._measured(one, (few, math.ceil(level / few)), f"{ONCE}/{level:02d}"))
            wave_s = work.seconds if work else math.inf
            times[level] = times_of(waves * wave_s)
        return times

    def _block(self, number: int, wanted: Mapping[Cell, Collection[int]]) -> None:
        """Start each server once and measure its cells at these loads; every other block backwards."""
        specs = list(dict.fromkeys(one.spec for one, levels in wanted.items() if levels))
        deepest = [column[-1] for column in self._columns.values()]
        for spec in reversed(specs) if number % 2 else specs:
            own = [cell for cell in self._columns if cell.name.drafter == spec.drafter]
            if any(isinstance(self._found.get(cell), DraftgateError) for cell in own):
                continue
            fresh = not number
            try:
                for one in (one for one in wanted if one.spec == spec):
                    for level in sorted(wanted[one], reverse=True):  # warm-ups at once
                        suite = self._suite(number, one, level)
                        if not fresh and self._bench.run.finished_cell(f"{NAME}/{suite}", one) is None:
                            self._bench.slot.close()
                            fresh = True
                        at, times = with_profile(one, concurrency=level), self._times[level]
                        asked = _asked(
                            self._bench.run, at, times=times, deepest=not number and one in deepest
                        )
                        self._seen[number, one, level] = self._measured(at, asked, suite)
            except DraftgateError as error:  # the other drafters have their curves all the same
                if not own:
                    raise
                self._found.update(dict.fromkeys(own, error))

    def _measured(self, one: Cell, asked: tuple[int, int], suite: str) -> CellRecord:
        return self._bench.measured(
            one,
            suite=f"{NAME}/{suite}",
            prompts=self._bench.run.prompts(one)[: asked[0]],
            repeats=asked[1],
            timed=True,
            passes=Measurement.all_passes,
        )

    def _suite(self, number: int, one: Cell, level: int) -> str:
        """Where a block's record lies."""
        of = PAIRS if one in self._every else WITH_SCHEDULE
        if number or of == WITH_SCHEDULE:
            return f"{of}/{one.name.drafter}/{number:02d}/{level:02d}"
        return f"{level:02d}"


def _with_schedule(deepest: Cell, found: Curve) -> Cell | None:
    """The cell of the largest k with the curve's schedule; None where the engine has none to follow."""
    schedule = found.schedule()
    if len(schedule) == 1 or not takes_schedule(deepest.spec):
        return None
    drafter = {**(deepest.spec.speculative or {}), SCHEDULE: schedule}
    return dataclasses.replace(deepest, spec=dataclasses.replace(deepest.spec, speculative=drafter))
