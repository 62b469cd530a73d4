"""Shares of answers that are good: the interval of one, and the test of two on the same prompts."""

from __future__ import annotations

import math

from scipy import special  # not scipy.stats, which takes half a second to import

from harness.stats.acceptance import FloatArray
from harness.stats.paired import MIN_PROMPTS, MOST, effective_df, jackknife, student

ALPHA = 0.001
"""How often a pair of sides that differ by chance alone is said to differ. Policy."""
_Z = 1.959964
"""Of a two-sided interval of 95 %."""


def wilson(good: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927).

    Raises:
        ValueError: there are none, more are good than there are, or more than a count can be.
    """
    if not (0 <= good <= of <= MOST and of >= 1):
        raise ValueError(f"{good} of {of} is no share")
    share, z2 = good / of, _Z**2
    middle = (share + z2 / (2 * of)) / (1 + z2 / of)
    half = _Z / (1 + z2 / of) * math.sqrt(share * (1 - share) / of + z2 / (4 * of**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def mcnemar(lost: int, won: int) -> float:
    """One-sided p that as many pairs or more are lost where losing is as likely as winning.

    McNemar's test of paired shares in its exact form: P(Bin(lost + won, 0.5) >= lost).

    Raises:
        ValueError: a count is negative, or more than one can be.
    """
    if not all(0 <= count <= MOST for count in (lost, won)):
        raise ValueError(f"{lost} lost and {won} won are no counts")
    # scipy's bdtrc is NaN for huge counts; the tail of the binomial is this incomplete beta function.
    return float(special.betainc(float(lost), float(won) + 1, 0.5)) if lost else 1.0


def change_interval(lost: int, won: int, both: int, neither: int) -> tuple[float, float]:
    """The 95 % interval of how much a share of the same n pairs changed: after less before.

    Newcombe 1998 (Statistics in Medicine 17:2635), method 10: the Wilson intervals of the two shares, joined
    with the correlation of the pairs, which is corrected for continuity where it is above 0.

    Args:
        lost: pairs that are good before alone.
        won: pairs that are good after alone.
        both: pairs that are good on both sides.
        neither: pairs that are good on none.

    Raises:
        ValueError: a count is negative, all are 0, or they are more than a count can be.
    """
    of = lost + won + both + neither
    if not (1 <= of <= MOST and min(lost, won, both, neither) >= 0):
        raise ValueError(f"{lost} lost, {won} won, {both} and {neither} are no pairs")
    shares, ends = [], []
    for good in (both + won, both + lost):
        low, high = wilson(good, of)
        shares.append(good / of)
        ends.append((good / of - low, high - good / of))
    (below, above), (below_before, above_before) = ends
    across = math.prod((both + won, of - both - won, both + lost, of - both - lost))
    excess = float(both * neither - lost * won)
    excess = max(excess - of / 2, 0.0) if excess > 0 else excess
    phi = excess / math.sqrt(across) if across else 0.0
    down, up = (
        math.sqrt(max(0.0, a**2 - 2 * phi * a * b + b**2))
        for a, b in ((below, above_before), (above, below_before))
    )
    change = shares[0] - shares[1]
    return max(-1.0, change - down), min(1.0, change + up)


def intervals(x: FloatArray, n: FloatArray) -> tuple[tuple[float, float] | None, ...]:
    """The 95 % intervals of shares X / N, within 0..1, from the scatter between prompts.

    The error of one share is that of its change from 0, which has no scatter: see `paired.paired_difference`.

    Args:
        x: shape (shares, m), each at most `n`.
        n: shape (m,).

    Returns:
        None for a share that does not vary, and for all where fewer than `MIN_PROMPTS` prompts count, or
        nearly all is in a few.

    Raises:
        ValueError: these are no such counts, or one prompt holds all of `n`.
    """
    if not ((x >= 0) & (x <= n)).all() or not ((n == 0) | ((n >= 1 / MOST) & (n <= MOST))).all():
        raise ValueError("shares need counts from 0 to 2**53, and no more of a part than of the whole")
    some = n > 0
    x, n = x[:, some], n[some]
    t = student(0.975, effective_df(n)) if len(n) >= MIN_PROMPTS else math.inf
    if not math.isfinite(t):
        return (None,) * len(x)
    sums, rest = x.sum(axis=1), n.sum() - n
    if not rest.all():
        raise ValueError("one prompt holds all steps: there is no scatter between prompts")
    shares = (sums / n.sum()).tolist()
    errors = map(jackknife, (sums[:, None] - x) / rest, shares)
    return tuple(
        (max(0.0, share - t * se), min(1.0, share + t * se)) if se else None
        for share, se in zip(shares, errors, strict=True)
    )
