"""Does a drafter change what the target says? Output with it against output without. Pure.

At T=0 both must be the same text, but where two tokens are as likely and numerics decide. At a temperature
the texts differ, their distribution must not.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import special

from harness.suites.known_answers import TIE, Outcome

ALPHA = 0.001
"""How often an engine that changes nothing is said to."""
PERMUTATIONS = 9_999
_LEAST = 5
"""Answers that must begin alike, of both sides together, for their number to be compared."""

Ids = tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Divergence:
    """Where two answers to one prompt part."""

    prompt: str
    at: int
    """Index of the first token that differs."""
    gap: float
    """Natural-log odds that the target gives the undrafted token over the drafted one there."""


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """Index of the first token that differs, None where the answers are the same."""
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return index
    return None if len(one) == len(other) else min(len(one), len(other))


def gap_at(told: Mapping[int, float], plain: int | None, drafted: int | None) -> float:
    """The odds of `Divergence.gap`, from the log probabilities of the likeliest tokens at that place.

    A token that is not among them is at most as likely as the last of them; None is an answer that ended.
    """
    least = min(told.values(), default=0.0)
    if plain is None or drafted is None:
        return 0.0  # one was cut by max_tokens, or ended by a token that is not told
    return told.get(plain, least) - told.get(drafted, least)


def judge_greedy(parted: Sequence[Divergence], noise: int, prompts: int) -> tuple[Outcome, str]:
    """At T=0: no answer parts from the undrafted one at a place where the target is sure.

    Args:
        parted: answers that are not the same with and without the drafter.
        noise: prompts whose answers are not the same twice without one.
        prompts: asked.
    """
    said = (
        f"{len(parted)} of {prompts} answers differ from `none`, {noise} of {prompts} of `none` from itself"
    )
    if parted:
        first = min(parted, key=lambda one: one.at)
        said += f"; the first at token {first.at} of {first.prompt}"
    sure = [one for one in parted if one.gap > TIE]
    if sure:
        worst = max(sure, key=lambda one: one.gap)
        odds = f"e^{worst.gap:.1f} to 1"
        return "broken", (
            f"{said}; {len(sure)} of them where the target is sure, as at token {worst.at} of {worst.prompt} "
            f"({odds} for what `none` says)"
        )
    p = _more_than(len(parted), noise, prompts)
    if p <= ALPHA:
        return "broken", f"{said}: more than that noise (p = {p:.2g})"
    return "ok", said + ("; all at ties of two tokens" if parted else "")


def _more_than(differing: int, noise: int, prompts: int) -> float:
    """One-sided p that both differ alike often: Fisher's exact test."""
    total, whole = differing + noise, 2 * prompts
    ways = [
        special.comb(prompts, hits) * special.comb(prompts, total - hits)
        for hits in range(differing, min(total, prompts) + 1)
        if 0 <= total - hits <= prompts
    ]
    return float(sum(ways) / special.comb(whole, total))


def judge_sampled(
    plain: Mapping[str, Sequence[Ids]],
    drafted: Mapping[str, Sequence[Ids]],
    *,
    checked: int,
    rng: Generator,
) -> tuple[Outcome, str]:
    """At a temperature: the first tokens of answers have the same distribution with and without a drafter.

    The statistic adds (a - b)^2 / (a + b) over all beginnings of answers, a and b being how many answers
    of each side begin so: a chi-square over every depth of the tree of answers. Its p comes from exchanging
    answers between the sides within each prompt, so that it is exact however few there are.

    Args:
        plain: the first tokens of answers by prompt, without a drafter, each of another seed.
        drafted: the same with one, as many, of seeds that are not among those.
        checked: draft tokens that were checked within these answers.
        rng: makes the permutations.
    """
    if not checked:
        return "not checked", "— (nothing was drafted in the first tokens of these answers)"
    observed, permuted = 0.0, np.zeros(PERMUTATIONS)
    answers = 0
    for prompt, ours in drafted.items():
        tree = _beginnings([*plain[prompt], *ours])
        sides = np.array([-1.0] * len(plain[prompt]) + [1.0] * len(ours))
        answers += len(sides)
        weights = 1 / tree.sum(axis=0)
        observed += float(((sides @ tree) ** 2 * weights).sum())
        mixed = rng.permuted(np.tile(sides, (PERMUTATIONS, 1)), axis=1)
        permuted += ((mixed @ tree) ** 2 * weights).sum(axis=1)
    p = (1 + int(np.count_nonzero(permuted >= observed - 1e-9))) / (1 + PERMUTATIONS)
    said = (
        f"first tokens of {answers} answers to {len(drafted)} prompts, {checked} drafts checked in them: "
        f"statistic {observed:.0f}, {permuted.mean():.0f} by chance, p = {p:.2g}"
    )
    if p <= ALPHA:
        return "broken", f"{said}: with the drafter the target says other things"
    return "ok", said


def _beginnings(answers: Sequence[Ids]) -> NDArray[np.float64]:
    """Whether answer i begins as beginning j does, for those that several do: shape (answers, beginnings)."""
    begun = Counter(answer[:length] for answer in answers for length in range(1, len(answer) + 1))
    columns = [start for start, count in begun.items() if count >= _LEAST]
    return np.array([[answer[: len(start)] == start for start in columns] for answer in answers], dtype=float)
