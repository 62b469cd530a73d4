"""Paired ratio estimates, with their tests and intervals.

Pure: arrays and numbers in, numbers out. `judge/verdict.py` makes verdicts of them.

The unit is the prompt. Steps inside one are not independent, so the caller sums the seeds of a prompt, and
every standard error comes from the scatter between prompts. A side is two arrays of shape (m,), `x` over `n`:
tokens over decode steps, or the verify steps that accepted position j over those that reached it. Side 0 is
the baseline. Capitals are sums over prompts, r = X / N.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import special  # not scipy.stats, which takes half a second to import

from harness.stats.acceptance import FloatArray

# Policy. Noise makes a verdict inconclusive; it never makes a margin wider.
MARGIN = 0.02
"""Share of tokens per step that may be lost."""
LOG_MARGIN = -math.log(1 - MARGIN)
"""The same on the log scale: L. A side is ok if its change lies surely above -L."""
MARGIN_POSITION = 0.02
"""Conditional acceptance that a position may lose, absolute."""
ALPHA_PRIMARY = 0.0008  # one-sided false alarms of a cell: on its primary metric
ALPHA_POSITION = 0.0002  # on all its positions together, Holm-corrected
ALPHA_PROMPTS = 0.0002  # and on all its prompts one by one, Bonferroni
ALPHA_WHOLE = 0.0002  # of ALPHA_PRIMARY, for whole answers where the primary is of their beginnings
ALPHA_CELL = ALPHA_PRIMARY + ALPHA_POSITION + ALPHA_PROMPTS
ALPHA_OK = 0.05  # one-sided: how often a loss of exactly the margin may be called ok,
ALPHA_OK_FEW = 0.01  # and below ENOUGH_PROMPTS prompts, where the t distribution promises too much
ENOUGH_PROMPTS = 80
ALPHA_CONFIRM = 0.05  # one-sided: a loss that a cell showed, again on prompts of its own
POWER = 0.8

# Below these nothing is tested: the t distribution claims more than so few data can show.
MIN_PROMPTS = 8
MIN_PROMPTS_POSITION = 20
MIN_EVENTS = 20  # accepted, and refused, on each side of a position
MIN_DIFFERING = 10

# One-sided z at each look. Together the five spend ALPHA_PRIMARY, and ALPHA_OK; below ENOUGH_PROMPTS no look
# spends more than ALPHA_OK_FEW on `ok`.
LOOKS = (16, 24, 40, 56, 80)
REGRESSED_Z = (4.00, 3.91, 3.63, 3.49, 3.29)
OK_Z = (2.88, 2.72, 2.33, 2.33, 1.72)
INTERVAL_Z = (3.10, 2.95, 2.60, 2.38, 2.09)  # two-sided: all five intervals hold the truth, with 95 %

MOST = 2**53  # what a float still holds exactly; 1 / MOST is as far from 1 on the other side
_MOST_CHANGE = math.log(1000)  # an interval that reaches further says nothing
_ROUNDING = 1e-12


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairedRatio:
    """The change from r0 to r1 over the prompts that both sides have, with its standard error."""

    r0: float
    r1: float
    estimate: float
    """ln(r1/r0) or r1 - r0, by the function that made it. Below 0 is a loss."""
    se: float
    m: int
    """Prompts with n > 0 on a side."""
    differing: int
    """Prompts whose (x, n) differ between the sides. Where one side has more seeds, all do."""
    df: float
    """Degrees of freedom of se: the effective number of prompts less one, 1 / sum w_i^2 - 1 (Kish 1965),
    where w_i is a prompt's share of the steps of both sides. m - 1 where all answers are of one length."""

    @property
    def identical(self) -> bool:
        """No prompt differs. Then se is 0, and `share_bound(m)` bounds what may still differ."""
        return self.differing == 0

    @property
    def change(self) -> float:
        """Of an estimate ln(r1/r0), the relative change r1/r0 - 1."""
        return math.expm1(self.estimate)

    def change_ci(self, look: int | None = None) -> tuple[float, float] | None:
        """The 95 % interval of `change`, at a look that of `repeated_ci`.

        None where these prompts bound it nowhere: a few hold nearly all steps.
        """
        low, high = self.ci() if look is None else self.repeated_ci(look)
        return (math.expm1(low), math.expm1(high)) if -_MOST_CHANGE < low <= high < _MOST_CHANGE else None

    def interval(self) -> tuple[float, float] | None:
        """`ci`; None where it is infinite, since a few prompts hold nearly all steps."""
        return ends if math.isfinite((ends := self.ci())[0]) else None

    def ci(self) -> tuple[float, float]:
        """Two-sided Student interval of 95 %; a point where se is 0, infinite where df is below 1."""
        return self._around(student(0.975, self.df))

    def repeated_ci(self, look: int) -> tuple[float, float]:
        """The 95 % interval at one of LOOKS that holds however often was looked.

        estimate +- z * se, with INTERVAL_Z as t quantiles (Jennison and Turnbull 2000 ch. 9).
        """
        return self._around(-student(tail(INTERVAL_Z[LOOKS.index(look)]), self.df))

    def _around(self, t: float) -> tuple[float, float]:
        half = t * self.se if self.se else 0.0
        return self.estimate - half, self.estimate + half

    def lower_bound(self, level: float | None = None) -> float:
        """One-sided: estimate - t(level, df) * se; without a level that of `ok`, 1 - `alpha_ok(m)`.

        Raises:
            ValueError: level outside (0, 1).
        """
        level = 1 - alpha_ok(self.m) if level is None else level
        t = student(level, self.df)
        return self.estimate - t * self.se if self.se else self.estimate

    @property
    def moved(self) -> bool:
        """It changed by more than its noise, up or down and however little.

        One-sided p <= `ALPHA_PRIMARY` either way, and as many differing prompts as the gate asks for.
        """
        p = min(self.p_loss(), self.p_gain())
        return p <= ALPHA_PRIMARY and self.differing >= min(MIN_DIFFERING, self.m)

    def p_loss(self) -> float:
        """One-sided p of a loss: how often a t this low or lower comes without a change.

        If every prompt changed alike (se is 0), it is 0 for a loss, and 1 for a gain or no change.
        """
        return self._p_at_most(self.estimate)

    def p_gain(self) -> float:
        """One-sided p of a gain: the mirror of `p_loss`."""
        return self._p_at_most(-self.estimate)

    def _p_at_most(self, estimate: float) -> float:
        return float(special.stdtr(self.df, estimate / self.se) if self.se else estimate >= 0)


def paired_log_ratio(x0: ArrayLike, n0: ArrayLike, x1: ArrayLike, n1: ArrayLike) -> PairedRatio:
    """The primary, d = ln(r1/r0): the relative change of tokens per step.

    se is that of the delete-one jackknife (Miller 1974): d_(i) is d without prompt i, and
    se^2 = (m-1)/m * sum (d_(i) - mean d_(.))^2. It has the covariance of the pairs in it.

    Raises:
        ValueError: shapes differ; a count is negative, not finite, or counted over no steps; a side
            has no steps; fewer than two prompts have any; a rate is 0, which has no logarithm; one prompt
            holds all that a side counts.
    """
    counts, sums = _counts(x0, n0, x1, n1)
    sum_x0, sum_n0, sum_x1, sum_n1 = sums
    for side, x in (("baseline", sum_x0), ("new", sum_x1)):
        if not x:
            raise ValueError(f"the {side} rate is 0: a log ratio needs both rates above 0")
    without = np.array(sums)[:, None] - counts
    if not without.all():
        raise ValueError("one prompt holds all that a side counts: there is no scatter between prompts")
    estimate = math.log((sum_x1 * sum_n0) / (sum_x0 * sum_n1))
    ratios = without[2] * without[1] / (without[0] * without[3])
    return _paired(counts, sums, estimate=estimate, without=np.log(ratios))


def paired_difference(x0: ArrayLike, n0: ArrayLike, x1: ArrayLike, n1: ArrayLike) -> PairedRatio:
    """Conditional acceptance at one position, d = r1 - r0: the absolute change; se as in `paired_log_ratio`.

    Raises:
        ValueError: as `paired_log_ratio`, but here a rate of 0 is a rate.
    """
    counts, sums = _counts(x0, n0, x1, n1)
    sum_x0, sum_n0, sum_x1, sum_n1 = sums
    without = np.array(sums)[:, None] - counts
    if not without[1::2].all():
        raise ValueError("one prompt holds all steps of a side: there is no scatter between prompts")
    estimate = (sum_x1 * sum_n0 - sum_x0 * sum_n1) / (sum_n0 * sum_n1)
    changes = without[2] / without[3] - without[0] / without[1]
    return _paired(counts, sums, estimate=estimate, without=changes)


def holm(pvalues: Sequence[float]) -> tuple[float, ...]:
    """Adjusted p-values in the order given. Compare each with the whole alpha (Holm 1979).

    The k-th smallest of m becomes the largest (m - i + 1) * p_(i) over i <= k, and at most 1.

    Raises:
        ValueError: a p-value outside 0..1.
    """
    if not all(0 <= p <= 1 for p in pvalues):
        raise ValueError(f"p-values must lie in 0..1: {list(pvalues)}")
    order = sorted(range(len(pvalues)), key=lambda i: pvalues[i])
    steps = ((len(order) - rank) * pvalues[i] for rank, i in enumerate(order))
    adjusted = dict(zip(order, itertools.accumulate(steps, max), strict=True))
    return tuple(min(1.0, adjusted[i]) for i in range(len(pvalues)))


def cell_p(primary: float, *, positions: float = 1.0, prompts: float = 1.0) -> float:
    """One p-value of a loss from a cell's three tests: at most ALPHA_CELL just where one is significant.

    min(1, p_test * ALPHA_CELL / ALPHA_test) over the tests: Bonferroni, weighted as alpha is split between
    them (Rosenthal and Rubin 1983).

    Args:
        primary: of tokens per step.
        positions: the smallest of all positions, Holm-corrected.
        prompts: the smallest of the prompts one by one (`same_text.p_of`), Bonferroni-corrected.

    Raises:
        ValueError: a p-value outside 0..1.
    """
    tests = ((primary, ALPHA_PRIMARY), (positions, ALPHA_POSITION), (prompts, ALPHA_PROMPTS))
    if not all(0 <= p <= 1 for p, _ in tests):
        raise ValueError(f"p-values must lie in 0..1: {primary}, {positions}, {prompts}")
    return min(1.0, *(p * ALPHA_CELL / alpha for p, alpha in tests))


def alpha_ok(m: int) -> float:
    """How often a loss of exactly the margin may be called ok over m prompts."""
    return ALPHA_OK if m >= ENOUGH_PROMPTS else ALPHA_OK_FEW


def share_bound(m: int, *, seen: int = 0) -> float:
    """Upper 95 % bound on the share of prompts that would differ, when `seen` of m did.

    The one-sided bound of Clopper and Pearson 1934; for none of m it is 1 - 0.05^(1/m).

    Raises:
        ValueError: m < 1 or above 2**53, or `seen` is not within 0..m.
    """
    if not (1 <= m <= MOST and 0 <= seen <= m):
        raise ValueError(f"{seen} of {m} prompts bound nothing")
    if seen:
        return float(special.betaincinv(seen + 1, m - seen, 0.95)) if seen < m else 1.0
    return -math.expm1(math.log(0.05) / m)


def sequential_thresholds(look: int, df: float) -> tuple[float, float]:
    """Standard errors that a verdict takes at a look, one of LOOKS: (regressed, ok).

    Regressed needs estimate <= -regressed * se, ok needs estimate - ok * se > -L. Each is the t with df
    degrees of freedom that has the tail of its z (group sequential boundaries, Jennison and Turnbull 2000
    ch. 2 and 3).

    Raises:
        ValueError: no such look, df not above 0 or not finite.
    """
    if look not in LOOKS:
        raise ValueError(f"no look at {look} prompts: looks are at {LOOKS}")
    regressed, ok = (-student(tail(z[LOOKS.index(look)]), df) for z in (REGRESSED_Z, OK_Z))
    return regressed, ok


def tail(z: float) -> float:
    """P(a standard normal lies above z)."""
    return float(special.ndtr(-z))


def student(p: float, df: float) -> float:
    """Student's quantile at p; infinite below one degree of freedom, where scipy's is wrong.

    Raises:
        ValueError: p outside (0, 1), df not above 0 or not finite.
    """
    if not 0 < p < 1:
        raise ValueError(f"a level must lie between 0 and 1, not {p}")
    require_df(df)
    return float(special.stdtrit(df, p)) if df >= 1 or p == 0.5 else math.copysign(math.inf, p - 0.5)  # noqa: PLR2004


def _paired(
    counts: FloatArray, sums: Sequence[float], *, estimate: float, without: FloatArray
) -> PairedRatio:
    """The estimate with its jackknife error; `without` is the estimate without each prompt."""
    x0, n0, x1, n1 = counts
    return PairedRatio(
        r0=sums[0] / sums[1],
        r1=sums[2] / sums[3],
        estimate=estimate,
        se=jackknife(without, estimate),
        m=len(without),
        differing=int(np.count_nonzero((x0 != x1) | (n0 != n1))),
        df=effective_df(n0 + n1),
    )


def jackknife(without: FloatArray, estimate: float) -> float:
    """The standard error, of the estimates without each prompt."""
    m = len(without)
    scatter = without - without.sum() / m
    se = math.sqrt((m - 1) / m * float(scatter @ scatter))
    # Scatter of this size is rounding alone: all prompts changed alike, or none did.
    return se if se > _ROUNDING * max(1.0, abs(estimate)) else 0.0


def effective_df(steps: FloatArray) -> float:
    """`PairedRatio.df`, of the steps of each prompt."""
    df = float(steps.sum() ** 2 / (steps @ steps)) - 1
    require_df(df)
    return df


def _counts(*arrays: ArrayLike) -> tuple[FloatArray, list[float]]:
    """x0, n0, x1, n1 as rows, checked, without the prompts that have no steps on either side; their sums."""
    x0, n0, x1, n1 = (np.asarray(a, dtype=np.float64) for a in arrays)
    if x0.ndim != 1 or not x0.shape == n0.shape == x1.shape == n1.shape:
        raise ValueError(f"one value a prompt is needed: {x0.shape}, {n0.shape}, {x1.shape}, {n1.shape}")
    together = np.array((x0, n0, x1, n1))
    good = (together == 0) | ((together >= 1 / MOST) & (together <= MOST))
    if not good.all():
        row, i = np.argwhere(~good)[0]
        name = ("x0", "n0", "x1", "n1")[row]
        raise ValueError(f"{name}[{i}] is {together[row, i]}: a count is not negative, and at most 2**53")
    stepless = together[1::2] == 0
    if stepless.any() or not stepless.size:
        for side, x, none in (("baseline", x0, stepless[0]), ("new", x1, stepless[1])):
            if (none & (x > 0)).any():
                raise ValueError(f"a prompt of the {side} side counts something over no steps")
            if none.all():
                raise ValueError(f"the {side} side has no steps, and so no rate")
        together = np.ascontiguousarray(together[:, ~stepless.all(axis=0)])  # summed as any other rows
    require_two(together.shape[1])
    return together, together.sum(axis=1).tolist()


def require_two(m: int) -> None:
    """ValueError: fewer than two prompts."""
    if m < 2:  # noqa: PLR2004
        raise ValueError(f"a scatter between prompts needs at least 2 of them, not {m}")


def require_df(df: float) -> None:
    """ValueError: degrees of freedom that are not above 0, or not finite."""
    if not 0 < df < math.inf:
        raise ValueError(f"degrees of freedom must be finite and above 0: {df}")
