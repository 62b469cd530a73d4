"""Which k at which load: tokens gained by drafting over time added, from the records of a curve.

Acceptance comes from the records at the largest k: with a smaller one, a step that accepted a of its drafts
would have accepted min(a, k), so tokens per step are 1 + E[min(a, k)]. Only the times are measured at every k
and load. A curve is of one start each: it says where to look, and claims nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from harness.judge.throughput import disturbed_in
from harness.measure.validity import countable, mostly_degenerate
from harness.results.records import CellName, CellRecord, PromptRecord
from harness.results.stretches import sums_of
from harness.results.timing import Work, work_of
from harness.stats.acceptance import overshoot_of
from harness.stats.paired import paired_log_ratio

Grid = Mapping[tuple[int, int], CellRecord]
"""Records by k and requests in flight; k = 0 is `none`."""
Records = TypeVar("Records", bound=Mapping[Any, CellRecord])
MOST_BATCH = 1_000_000
"""Where a schedule's last range ends; an engine cuts it at its own largest batch."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """One k at one load."""

    k: int
    in_flight: int
    tokens_per_step: float
    """1 + E[min(a, k)], from the records at the largest k."""
    work: Work
    """Of the requests that were timed."""
    gained: float
    """Tokens a step over those without drafts; the step that reads the prompt counts too."""
    added: float
    """Seconds a step over those without drafts."""
    spread: float
    """Half of the 95 % interval of log `gained`, from the scatter between prompts; 0 for k = 0."""

    @property
    def utility(self) -> float:
        """Tokens gained over time added (Cascade, arXiv 2506.20675). Above 1 drafting pays."""
        return self.gained / self.added

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of `utility` from acceptance alone; None where there is none."""
        if not self.spread or not math.isfinite(self.spread):
            return None
        return self.utility * math.exp(-self.spread), self.utility * math.exp(self.spread)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """A drafter in one place, at every k and load."""

    points: tuple[Point, ...]
    """By load, then by k; each load begins with k = 0."""
    deepest: CellRecord
    """At the largest k, where acceptance is read from."""
    ideal: Mapping[int, float]
    """By load: utility if every step drafted just as many tokens as are accepted."""
    right: Mapping[int, float]
    """By load: the largest utility of a drafter whose every guess is right."""

    @property
    def name(self) -> str:
        """Its place and its drafter."""
        return f"{'-'.join(self.deepest.cell.place)}-{self.deepest.cell.drafter}"

    @property
    def levels(self) -> tuple[int, ...]:
        """Requests in flight."""
        return tuple(dict.fromkeys(point.in_flight for point in self.points))

    def best(self, in_flight: int) -> Point:
        """The k with the largest utility; k = 0 has 1."""
        return max((p for p in self.points if p.in_flight == in_flight), key=lambda p: p.utility)

    def best_drafting(self, in_flight: int) -> Point:
        """The best k of a load that drafts at all."""
        there = (p for p in self.points if p.in_flight == in_flight and p.k)
        return max(there, key=lambda p: p.utility)

    def holds(self, cell: CellName) -> bool:
        """A record of that name is one of its points, or of `none` beside them."""
        own = self.deepest.cell
        return cell.place == own.place and (not cell.k or cell.drafter == own.drafter)

    @property
    def crossover(self) -> int | None:
        """The load from which on no k pays; None where one pays at the highest."""
        off = [level for level in self.levels if not self.best(level).k]
        on = [level for level in self.levels if self.best(level).k]
        return next((level for level in off if level > max(on, default=0)), None)

    def starts_of_ranges(self) -> set[int]:
        """The load where each range of the schedule begins; the lowest for the first."""
        return {self.levels[0], *(first for first, *_ in self.schedule()[1:])}

    def schedule(self) -> list[list[int]]:
        """Ranges of batch sizes with the k that is best at the load where each begins: [first, last, k]."""
        ranges: list[list[int]] = []
        for level in self.levels:
            k, first = self.best(level).k, level if ranges else 1
            if ranges and ranges[-1][2] == k:
                continue
            if ranges:
                ranges[-1][1] = first - 1
            ranges.append([first, MOST_BATCH, k])
        return ranges


def curve(grid: Grid) -> Curve:
    """The curve of a drafter in one place.

    Args:
        grid: with k = 0 at every load, and the largest k at the lowest one. Acceptance is read at the largest
            k, at the first load that asked most prompts.

    Raises:
        ValueError: one of these is missing, or nothing was timed or drafted there.
    """
    levels, ks = sorted({n for _, n in grid}), sorted({k for k, _ in grid})
    if not levels or ks[0] != 0 or ks == [0]:
        raise ValueError("a curve needs none, and a drafter beside it")
    if (ks[-1], levels[0]) not in grid:
        raise ValueError(f"the records at k = {ks[-1]} and {levels[0]} in flight are missing")
    deep = {n: grid[ks[-1], n] for n in levels if (ks[-1], n) in grid}
    deepest = max(deep.values(), key=lambda record: len({r.prompt for r in record.prompts}))
    works = {where: work for where, record in grid.items() if (work := work_of(record))}
    for n, record in deep.items():  # prompts that `none` was not asked are there for acceptance alone
        alike = {r.prompt for r in grid[0, n].prompts} if (0, n) in grid else ()
        timed = tuple(r for r in record.prompts if r.prompt in alike)
        if work := work_of(record.model_copy(update={"prompts": timed})):
            works[ks[-1], n] = work
    if (ks[-1], levels[0]) not in works:
        raise ValueError(f"k = {ks[-1]} was not timed at {levels[0]} in flight")
    if lacking := [n for n in levels if (0, n) not in works]:
        raise ValueError(f"none was not timed at {lacking[0]} in flight")
    answers = [r for r in deepest.prompts if countable(r)]
    if not answers:
        raise ValueError("no answer reached a decode step")
    points, ideal, right = [], {}, {}
    for level in levels:
        seconds = {k: works[k, level].seconds / works[k, level].steps for k in ks if (k, level) in works}
        for k, spent in seconds.items():
            rate, spread = accepted_at(answers, k)
            points.append(
                Point(
                    k=k, in_flight=level, tokens_per_step=rate, work=works[k, level],
                    gained=_gained(answers, rate), added=spent / seconds[0], spread=spread,
                )
            )  # fmt: skip
        ideal[level] = _ideal(answers, seconds)
        right[level] = max(_gained(answers, k + 1) * seconds[0] / s for k, s in seconds.items())
    return Curve(points=tuple(points), deepest=deepest, ideal=ideal, right=right)


def accepted_at(answers: Sequence[PromptRecord], k: int) -> tuple[float, float]:
    """Tokens per step with so few drafts a step, and half of the 95 % interval of its log.

    Raises:
        ValueError: no answer has a decode step.
    """
    sums = sums_of(answers, lambda r: (r.tally.decode_steps, _accepted(r, k)))
    steps, more = np.array(list(sums.values()), dtype=np.float64).reshape(-1, 2).T
    if not steps.sum():
        raise ValueError("no answer reached a decode step")
    rate = float((steps + more).sum() / steps.sum())
    try:
        low, high = paired_log_ratio(steps, steps, steps + more, steps).ci()
    except ValueError:  # one answer holds all steps
        return rate, math.inf
    return rate, (high - low) / 2


def _accepted(answer: PromptRecord, k: int) -> int:
    """Drafts accepted with so few a step; none of those after a stop token, which the engine counts too."""
    accepted = sum(min(j, k) * n for j, n in enumerate(answer.histogram))
    if answer.finish == "length":
        return accepted
    over = overshoot_of(answer.histogram, undrafted=answer.undrafted, output_tokens=answer.output_tokens)
    last = answer.accepted[-1] if answer.accepted else over
    return accepted - (min(last, k) - min(max(0, last - over), k))


def _gained(answers: Sequence[PromptRecord], rate: float) -> float:
    """Tokens a step, the first step of each answer included, at so many tokens a decode step."""
    tokens = sum(r.output_tokens for r in answers)
    return tokens / (len(answers) + (tokens - len(answers)) / rate)


def _ideal(answers: Sequence[PromptRecord], seconds: Mapping[int, float]) -> float:
    """Utility if each step drafted just what is accepted, at the times of the k that were measured."""
    ks = sorted(seconds)

    def at(k: int) -> float:
        return float(np.interp(k, ks, [seconds[one] for one in ks]))

    most = max(ks)
    spent = sum(
        seconds[0] * (1 + r.undrafted) + sum(n * at(min(j, most)) for j, n in enumerate(r.histogram))
        for r in answers
    )
    made = sum(
        1 + r.undrafted + sum(n * (1 + min(j, most)) for j, n in enumerate(r.histogram)) for r in answers
    )
    return made * seconds[0] / spent


def sentences(found: Curve) -> list[str]:
    """What to run, where it stops to pay, and what a better policy or drafter could be worth."""
    said = [f"at {level} in flight: {_advice(found, level)}" for level in found.levels]
    if found.crossover is not None:
        said.append(f"from {found.crossover} in flight on: off")
    for level in found.levels:
        best = found.best(level).utility
        ideal, right = _more(found.ideal[level], best), _more(found.right[level], best)
        perfect = f"a perfect choice of k at every step could gain {ideal} over that"
        said.append(f"at {level} in flight {perfect}, a drafter that is always right {right}")
    if mostly_degenerate(found.deepest.findings):
        said.append("most answers end in a loop: acceptance is higher than in use")
    return said


def _advice(found: Curve, in_flight: int) -> str:
    best = found.best_drafting(in_flight)
    how = f"k = {best.k}, utility {best.utility:.2f}"
    return how if found.best(in_flight).k else f"off (the best is {how})"


def _more(most: float, best: float) -> str:
    return f"{max(0.0, 100 * (most / best - 1)):.0f} %"


def busy(grid: Grid) -> list[str]:
    """What the times are worth, where the machine was busy while they were taken."""
    why = disturbed_in((k, record) for (k, _), record in grid.items())
    return [f"these are not the times of an idle machine: {why}"] if why else []


def sound(grid: Records) -> Records:
    """The same.

    Raises:
        ValueError: one of these is no measurement.
    """
    for record in grid.values():
        if not record.valid:
            raise ValueError(f"{record.suite}/{record.cell}: {record.why_invalid}")
    return grid
