"""What a sample of prompts could have seen, and how many prompts would give a verdict."""

from __future__ import annotations

import bisect
import math

from scipy import special

from harness.stats.paired import (
    ALPHA_PRIMARY,
    LOG_MARGIN,
    MIN_PROMPTS,
    POWER,
    alpha_ok,
    require_df,
    require_two,
    student,
)

MOST_PLANNED = 100_000
"""Prompts that anyone would run."""


def minimum_detectable_loss(se: float, df: float, *, alpha: float = ALPHA_PRIMARY) -> float:
    """The smallest true loss, as a fraction of r0, that would be called regressed with chance POWER.

    1 - exp(-max[(t(1-alpha, df) + t(POWER, df)) * se, L + z(POWER) * se]), with se that of the log ratio and
    df its degrees of freedom: the estimate must be significant at one-sided alpha, and be at least the
    margin, so that a loss of just the margin is found at most half the time.

    Raises:
        ValueError: se negative or not finite, df not above 0, alpha outside (0, 1).
    """
    _require_scale(se)
    require_df(df)
    # -t(alpha) is t(1-alpha), exact for a tiny alpha.
    significant = (student(POWER, df) - student(alpha, df)) * se if se else 0.0
    return -math.expm1(-max(significant, LOG_MARGIN + float(special.ndtri(POWER)) * se))


def prompts_to_settle(
    estimate: float, se: float, m: int, df: float, *, alpha: float = ALPHA_PRIMARY
) -> int | None:
    """How many prompts like these m would give a verdict, if the true log ratio were `estimate`.

    The smallest n in MIN_PROMPTS..MOST_PLANNED for which, with se_n = se * sqrt(m / n), df_n =
    (df + 1) * n / m - 1 and chance POWER, above -L the verdict is ok: estimate - (t(1 - alpha_ok(n), df_n) +
    t(POWER, df_n)) * se_n > -L; from -L down it is regressed: the loss is at least
    `minimum_detectable_loss(se_n, df_n)`. None where so many are too few, as at a loss of the margin itself.
    For a 3 % loss, give the estimate log(0.97).

    Raises:
        ValueError: as `minimum_detectable_loss`, m < 2, or the estimate is not finite.
    """
    _require_scale(se)
    require_df(df)
    require_two(m)
    if not math.isfinite(estimate):
        raise ValueError(f"an estimate of {estimate} is not finite: nothing can be planned")

    def settled(n: int) -> bool:
        se_n, df_n = se * math.sqrt(m / n), (df + 1) * n / m - 1
        if df_n <= 0:  # worth less than one prompt of equal length
            return False
        if estimate > -LOG_MARGIN:
            half = (student(1 - alpha_ok(n), df_n) + student(POWER, df_n)) * se_n if se_n else 0.0
            return estimate - half > -LOG_MARGIN
        return minimum_detectable_loss(se_n, df_n, alpha=alpha) <= -math.expm1(estimate)

    sizes = range(MIN_PROMPTS, MOST_PLANNED + 1)
    first = bisect.bisect_left(sizes, x=True, key=settled)
    return sizes[first] if first < len(sizes) else None


def _require_scale(se: float) -> None:
    if not 0 <= se < math.inf:
        raise ValueError(f"se must be finite and not negative: {se}")
