"""Tokens per decode step along an answer, in stretches: a drafter may fade far from the beginning."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

from harness.results.records import PromptRecord
from harness.stats.acceptance import FloatArray
from harness.stats.paired import MIN_PROMPTS, paired_log_ratio

STARTS = (0, 100, 500, 1000)
"""Tokens before each stretch. Answers of the profiles `quick` and `gate` lie within the first."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stretch:
    """What the steps that began within one stretch of the answers committed."""

    start: int
    """One of STARTS."""
    prompts: int
    """Those with a step there whose tokens are known."""
    tokens_per_step: float | None
    """None where the records do not say what each step committed."""
    interval: tuple[float, float] | None
    """95 %, from the scatter between prompts. None where nothing varied, or fewer than 8 got there."""


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
    sums = np.zeros((len(STARTS), 2, len(groups)))
    for i, group in enumerate(groups):
        for r in group:
            steps = np.array(r.committed or (), dtype=np.float64)
            if not steps.size:
                continue
            overshot = r.tally.committed - steps.sum()  # counts as in every sum
            steps[-1] += overshot
            if steps.min() < 1 or abs(overshot) >= len(r.histogram):  # not the steps of this answer
                continue
            begins = 1 + steps.cumsum() - steps
            at = np.searchsorted(STARTS, begins, side="right") - 1
            sums[:, 0, i] += np.bincount(at, steps, len(STARTS))
            sums[:, 1, i] += np.bincount(at, minlength=len(STARTS))
    return sums


def stretches_of(records: Sequence[PromptRecord]) -> tuple[Stretch, ...]:
    """The stretches of a cell's answers; none where no answer leaves the first."""
    starts = reached(records)
    if len(starts) <= 1:
        return ()
    groups: dict[str, list[PromptRecord]] = {}
    for r in records:
        groups.setdefault(r.prompt, []).append(r)
    found = zip(starts, split(list(groups.values())), strict=False)
    return tuple(_stretch(start, tokens, steps) for start, (tokens, steps) in found)


def _stretch(start: int, tokens: FloatArray, steps: FloatArray) -> Stretch:
    count, interval = int(np.count_nonzero(steps)), None
    if count >= MIN_PROMPTS:
        # The error of one rate is that of its change from one token a step, which has no scatter.
        change = paired_log_ratio(steps, steps, tokens, steps)
        ends = change.interval() if change.se else None
        interval = (math.exp(ends[0]), math.exp(ends[1])) if ends else None
    rate = float(tokens.sum() / steps.sum()) if count else None
    return Stretch(start=start, prompts=count, tokens_per_step=rate, interval=interval)
