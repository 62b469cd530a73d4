"""Tokens per decode step in parts of an answer: along it, and while the target thinks and when it answers."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.results.grouping import grouped
from harness.results.records import PromptRecord
from harness.stats import shares
from harness.stats.acceptance import FloatArray, Tallies
from harness.stats.paired import MIN_PROMPTS, paired_log_ratio

STARTS = (0, 100, 500, 1000)
"""Tokens before each stretch. Answers of the profiles `quick` and `gate` lie within the first."""

PARTS = ("thinking", "answer")
MOST_LOG = 700.0
"""Its exponential is still a number."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Span:
    """What the steps that began in one place of the answers committed."""

    prompts: int
    """Those with a step there whose tokens are known."""
    tokens_per_step: float | None
    """None where the records do not say what each step committed."""
    interval: tuple[float, float] | None
    """95 %, from the scatter between prompts. None where nothing varied, or fewer than 8 got there."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stretch(Span):
    """Those of one stretch."""

    start: int
    """One of STARTS."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part(Span):
    """Those of one part."""

    part: str
    """One of PARTS."""


def name_of(start: int) -> str:
    """`100-499`, `1000+`: the tokens of a stretch, counted from 0."""
    ends = dict(itertools.pairwise(STARTS))
    return f"{start}-{ends[start] - 1}" if start in ends else f"{start}+"


def reached(records: Sequence[PromptRecord]) -> tuple[int, ...]:
    """The stretches that the longest of these answers has, by their starts."""
    longest = max((r.output_tokens for r in records), default=0)
    return tuple(start for start in STARTS if start < longest)


def split(groups: Sequence[Sequence[PromptRecord]]) -> FloatArray:
    """Tokens committed and decode steps in each stretch; a step counts where its first token lies.

    An answer whose steps are not known counts nowhere.

    Args:
        groups: the answers of each of m prompts.

    Returns:
        Shape (stretches, 2, m).
    """
    return _summed(groups, len(STARTS), lambda _, begins: np.searchsorted(STARTS, begins, side="right") - 1)


def _summed(
    groups: Sequence[Sequence[PromptRecord]],
    places: int,
    place: Callable[[PromptRecord, FloatArray], NDArray[np.intp] | None],
) -> FloatArray:
    """Tokens committed and decode steps in each of so many places.

    Args:
        groups: the answers of each of m prompts.
        places: how many there are.
        place: that of each step of an answer, by the token with which it begins; None where it is not known.

    Returns:
        Shape (places, 2, m).
    """
    sums = np.zeros((places, 2, len(groups)))
    for i, group in enumerate(groups):
        for r in group:
            steps = np.array(r.committed or (), dtype=np.float64)
            if not steps.size:
                continue
            overshot = r.tally.committed - steps.sum()  # counts as in every sum
            steps[-1] += overshot
            if steps.min() < 1 or abs(overshot) >= len(r.histogram):  # not the steps of this answer
                continue
            at = place(r, 1 + steps.cumsum() - steps)
            if at is not None:
                sums[:, 0, i] += np.bincount(at, steps, places)
                sums[:, 1, i] += np.bincount(at, minlength=places)
    return sums


def stretches_of(records: Sequence[PromptRecord]) -> tuple[Stretch, ...]:
    """The stretches of a cell's answers; none where no answer leaves the first."""
    starts = reached(records)
    if len(starts) <= 1:
        return ()
    found = zip(starts, split(_by_unit(records)), strict=False)
    return tuple(Stretch(start=start, **_span(*sums)) for start, sums in found)


def parts_of(records: Sequence[PromptRecord]) -> tuple[Part, ...]:
    """Thinking and answer of a cell's answers; none where none of them thought."""
    if not any(name == "reasoning" for r in records for name, _ in r.parts or ()):
        return ()
    found = zip(PARTS, _summed(_by_unit(records), len(PARTS), _part), strict=True)
    return tuple(Part(part=part, **_span(*sums)) for part, sums in found)


Interval = tuple[float, float]


def intervals_of(
    records: Sequence[PromptRecord], sums: Tallies
) -> tuple[Interval | None, tuple[Interval | None, ...]]:
    """Of whole answers, whose sums are `sums`: `Span.interval`, and those of `Tally.acceptance`.

    These are of 95 % too, and None where nothing varied, or fewer than 8 prompts have a verify step.
    """
    counts = np.array((sums.committed, sums.decode_steps, *sums.at_least))
    units = [r.unit for r in records]
    places = {unit: i for i, unit in enumerate(dict.fromkeys(units))}
    if len(places) < len(units):  # the seeds and turns of each added up
        at = np.array([places[unit] for unit in units], dtype=np.intp)
        counts = np.array([np.bincount(at, count, len(places)) for count in counts])
    return _span(counts[0], counts[1])["interval"], shares.intervals(counts[3:], counts[2])


def _part(record: PromptRecord, begins: FloatArray) -> NDArray[np.intp] | None:
    if record.parts is None:
        return np.full(begins.shape, PARTS.index("answer"))
    if record.part_tokens is None:
        return None
    parts = np.array([name != "reasoning" for name, _ in record.parts], dtype=np.intp)
    at = np.searchsorted(np.cumsum(record.part_tokens), begins, side="right")
    found: NDArray[np.intp] = parts[np.minimum(at, len(parts) - 1)]  # a last step may overshoot the answer
    return found


def sums_of(
    records: Iterable[PromptRecord], what: Callable[[PromptRecord], tuple[float, ...]]
) -> dict[str, tuple[float, ...]]:
    """Some figures of answers, summed over the seeds and turns of each unit."""
    groups = grouped(records, lambda r: r.unit)
    return {unit: tuple(map(sum, zip(*map(what, own), strict=True))) for unit, own in groups.items()}


def _by_unit(records: Sequence[PromptRecord]) -> list[list[PromptRecord]]:
    return list(grouped(records, lambda r: r.unit).values())


def _span(tokens: FloatArray, steps: FloatArray) -> dict[str, Any]:
    count, interval = int(np.count_nonzero(steps)), None
    if count >= MIN_PROMPTS:
        # The error of one rate is that of its change from one token a step, which has no scatter.
        change = paired_log_ratio(steps, steps, tokens, steps)
        ends = change.interval() if change.se else None
        interval = (math.exp(ends[0]), math.exp(min(ends[1], MOST_LOG))) if ends else None
    rate = float(tokens.sum() / steps.sum()) if count else None
    return {"prompts": count, "tokens_per_step": rate, "interval": interval}
