"""Does acceptance fall faster at depth than the loss at position 0 explains?

Pure. Conditional acceptance at position j is c_j = sum A_(j+1) / sum A_j over prompts; A_j counts the verify
steps that accepted at least j tokens. Were a change of the target alike at every position, all c_j would
change by one factor. So what is at depth beyond that, the excess, is

    D_j = ln(c_j / c_j of the baseline) - ln(c_0 / c_0 of the baseline),    j = 1, 2, ...

and over all depths its mean, weighted by the baseline's verify steps that reach each. Below 0, acceptance
falls faster at depth. Standard errors are those of the delete-one jackknife over prompts (Miller 1974).
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.stats.paired import MIN_EVENTS, MIN_PROMPTS_POSITION, MOST, effective_df, jackknife, student


@dataclasses.dataclass(frozen=True, kw_only=True)
class Excess:
    """A change beyond that of position 0, as a logarithm."""

    position: int | None
    """None: of all depths together."""
    estimate: float
    se: float
    df: float

    @property
    def ci(self) -> tuple[float, float]:
        """Student's 95 % interval of exp(estimate) - 1, the relative change."""
        half = student(0.975, self.df) * self.se if self.se else 0.0
        return math.expm1(self.estimate - half), math.expm1(min(self.estimate + half, 50.0))

    @property
    def change(self) -> float:
        """exp(estimate) - 1."""
        return math.expm1(self.estimate)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mechanism:
    """How conditional acceptance changed at position 0, and at depth beyond that."""

    first: Excess
    """At position 0 itself."""
    together: Excess
    """Over all depths that could be tested."""
    depths: tuple[Excess, ...]


def mechanism(before: ArrayLike, after: ArrayLike) -> Mechanism | None:
    """The change at position 0, and the excess at each depth and over all.

    Args:
        before: verify steps that accepted at least j tokens: shape (k + 1, m), a column for each prompt.
        after: of the same prompts on the other side.

    Returns:
        None where it cannot be told: fewer than MIN_PROMPTS_POSITION prompts, or no depth with MIN_EVENTS
        accepted, not all on one prompt, and as many refused on both sides; or what is no count.
    """
    sides = [np.asarray(side, dtype=np.float64) for side in (before, after)]
    if not all(((side >= 0) & (side <= MOST)).all() for side in sides):
        return None
    with_steps = (sides[0][0] > 0) | (sides[1][0] > 0)
    sides = [side[:, with_steps] for side in sides]
    if sides[0].shape[1] < MIN_PROMPTS_POSITION:
        return None
    enough = [_enough(side) for side in sides]
    known = next((j for j, good in enumerate(zip(*enough, strict=True)) if not all(good)), len(enough[0]))
    if known < 2:  # noqa: PLR2004 - position 0 and one depth
        return None
    reached = sides[0].sum(axis=1)[1:known]
    whole = _beyond([side.sum(axis=1)[:, None] for side in sides], known, reached)[:, 0].tolist()
    without = _beyond([side.sum(axis=1)[:, None] - side for side in sides], known, reached)
    df = effective_df(sides[0][0] + sides[1][0])
    places = (0, None, *range(1, known))
    first, together, *depths = (
        Excess(position=place, estimate=value, se=jackknife(rest, value), df=df)
        for place, value, rest in zip(places, whole, without, strict=True)
    )
    return Mechanism(first=first, together=together, depths=tuple(depths))


def _enough(side: NDArray[np.float64]) -> NDArray[np.bool_]:
    """At which positions enough was accepted, not all of it on one prompt, and enough refused."""
    total = side.sum(axis=1)
    several = total > side.max(axis=1)
    enough: NDArray[np.bool_] = (
        (total[1:] >= MIN_EVENTS) & (total[:-1] - total[1:] >= MIN_EVENTS) & several[1:]
    )
    return enough


def _beyond(sums: list[NDArray[np.float64]], known: int, reached: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows: the change at position 0, the weighted mean of the excess, the excess at each depth."""
    before, after = (np.log(side[1 : known + 1] / side[:known]) for side in sums)
    changes = after - before
    depths = changes[1:] - changes[0]
    together = (reached @ depths / reached.sum())[None]
    return np.vstack([changes[:1], together, depths])
