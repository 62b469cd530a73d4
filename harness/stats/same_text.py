"""Two answers with the same text, or the same beginning, step against step: did the drafter fail on a prompt?

Where the text is the same, a step that begins at the same token has the same tokens to guess on both sides. A
difference then comes from the drafter, not from the answer. Between two runs of one drafter almost no step
differs: 0 of 119 answers on one machine, 5 of 674 steps (0.7 %) on another kind of CPU (`docs/gating.md`).
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence

from scipy import special

CHANCE = 0.05
"""How often a step may accept fewer tokens by numerics alone: several times what was seen."""


def common_tokens(old: Sequence[object], new: Sequence[object]) -> int:
    """How many tokens two answers have in common before their texts part."""
    pairs = zip(old, new, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(old), len(new)))


def steps_within(by_step: Sequence[int], tokens: int) -> int:
    """How many decode steps of an answer end within its first tokens.

    A step that crosses the end is dropped, on both sides alike. The steps that cross are longer than most, so
    what is left has too few tokens per step, by about var / (mean * tokens): variance and mean of what a step
    commits (renewal theory; 2 % for a mean of 2.3 and texts that part after 43 tokens). Between two runs of
    one drafter these biases cancel, since nothing is sampled, so that the target alone decides where a text
    parts; where a drafter lost 20 %, 0.1 % is left. Between drafters whose steps differ, say in k, up to 2 %
    would be: there whole answers are compared.

    Args:
        by_step: tokens that each decode step accepted, below 0 where it had no draft.
        tokens: of the answer, the first one (of the prefill) included.
    """
    ends = list(itertools.accumulate((1 + max(0, step) for step in by_step), initial=1))
    return max(0, bisect.bisect_right(ends, tokens) - 1)


def matched(old: Sequence[int], new: Sequence[int]) -> tuple[int, int]:
    """Steps that begin at the same token of both answers, and those of them that commit fewer in the new one.

    Args:
        old: tokens that each decode step of the answer committed, in order.
        new: the same of the other side.

    Returns:
        (steps that accept fewer, matched steps).
    """
    before, after = (
        dict(zip(itertools.accumulate(side, initial=0), side, strict=False)) for side in (old, new)
    )
    both = before.keys() & after.keys()
    return sum(after[at] < before[at] for at in both), len(both)


def p_of(fewer: int, steps: int) -> float:
    """How often numerics alone would make so many steps accept fewer: P(Binomial(steps, CHANCE) >= fewer).

    Raises:
        ValueError: `fewer` is not within 0..steps.
    """
    if not 0 <= fewer <= steps:
        raise ValueError(f"{fewer} of {steps} steps is no count")
    # scipy's bdtrc is NaN for many steps; the tail of the binomial is this incomplete beta function.
    return float(special.betainc(float(fewer), float(steps - fewer + 1), CHANCE)) if fewer else 1.0


def unseen_loss(rate: float, share: float) -> float:
    """The loss of tokens per step that would go unseen if such a share of prompts lost every draft.

    s (r - 1) / (1 + s (r - 1)), as a fraction: a dead prompt takes r times the steps for its tokens.

    Args:
        rate: tokens per step, r: 1 or more.
        share: of the prompts, s: `paired.share_bound`.

    Raises:
        ValueError: the rate is not a finite number from 0, or the share not one from 0 to 1.
    """
    if not (0 <= rate < math.inf and 0 <= share <= 1):
        raise ValueError(f"a rate of {rate} and a share of {share} hide no known loss")
    lost = share * max(0.0, rate - 1)
    return lost / (1 + lost)
