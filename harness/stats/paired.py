"""Paired ratio estimates, their tests and intervals, and what a sample could have seen.

Pure: arrays and numbers in, numbers out; the verdicts made from them are `gate.py`'s.

The unit is the prompt: steps inside one are not independent, so the caller sums the seeds of a
prompt, and every standard error comes from the scatter between prompts. A side is two arrays of
shape (m,), `x` over `n`: tokens over decode steps, or the verify steps that accepted position j
over those that reached it. Side 0 is the baseline. Capitals are sums over prompts, r = X / N.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray
from scipy import special  # not scipy.stats, which takes half a second to import

FloatArray = NDArray[np.float64]

# Policy. Noise makes a verdict inconclusive; it never makes a margin wider.
MARGIN = 0.02
"""Share of tokens per step that may be lost."""
LOG_MARGIN = -math.log(1 - MARGIN)
"""The same on the log scale: L. Non-inferior is an estimate that lies surely above -L."""
MARGIN_POSITION = 0.02
"""Conditional acceptance that a position may lose, absolute."""
ALPHA_PRIMARY = 0.0008  # one-sided false alarms of a cell: on its primary metric
ALPHA_POSITION = 0.0002  # and on all its positions together, Holm-corrected
ALPHA_CELL = ALPHA_PRIMARY + ALPHA_POSITION
ALPHA_OK = 0.05  # one-sided: how often a loss of exactly the margin may be called non-inferior
POWER = 0.8

# Below these the t distribution claims more than the data can: nothing is tested.
MIN_PROMPTS = 8
MIN_PROMPTS_POSITION = 20
MIN_EVENTS = 20  # accepted, and refused, on each side of a position
MIN_DIFFERING = 10

# One-sided z at each look, that spend ALPHA_PRIMARY and ALPHA_OK over all five.
LOOKS = (16, 24, 40, 56, 80)
REGRESSED_Z = (4.00, 3.91, 3.63, 3.49, 3.29)
OK_Z = (2.88, 2.72, 2.33, 2.09, 1.76)

_ENUMERATE_UP_TO = 16  # 65,536 sign patterns


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairedRatio:
    """The change from r0 to r1 over the prompts that both sides have, with its standard error."""

    r0: float
    r1: float
    estimate: float
    """ln(r1/r0), or r1 - r0: the function that made it says which. Below 0 is a loss."""
    se: float
    m: int
    """Prompts that say something: one with n = 0 on both sides is not among them."""
    differing: int
    """Prompts whose (x, n) differ between the sides: all of them, where one side has more seeds."""

    @property
    def df(self) -> int:
        """Degrees of freedom of se."""
        return self.m - 1

    @property
    def identical(self) -> bool:
        """No prompt differs: `share_bound(m)` says what that is worth, since se cannot."""
        return self.differing == 0

    def ci(self, level: float = 0.95) -> tuple[float, float]:
        """Two-sided Student interval; a point where se is 0. ValueError: level outside (0, 1)."""
        _require_share("level", level)
        half = _t((1 + level) / 2, self.m) * self.se
        return self.estimate - half, self.estimate + half

    def lower_bound(self, level: float = 1 - ALPHA_OK) -> float:
        """One-sided: estimate - t(level, m-1) * se. ValueError: level outside (0, 1)."""
        return self.estimate - _t(level, self.m) * self.se

    def p_loss(self) -> float:
        """One-sided p of a loss: how often a t this low or lower would come of no change.

        Where every prompt changed alike (se is 0): 0 for a loss, and 1 for a gain or no change.
        """
        return self._p_at_most(self.estimate)

    def p_gain(self) -> float:
        """One-sided p of a gain: the mirror of `p_loss`."""
        return self._p_at_most(-self.estimate)

    def _p_at_most(self, estimate: float) -> float:
        return float(special.stdtr(self.df, estimate / self.se) if self.se else estimate >= 0)


def paired_log_ratio(x0: ArrayLike, n0: ArrayLike, x1: ArrayLike, n1: ArrayLike) -> PairedRatio:
    """The primary, d = ln(r1/r0): the relative change of tokens per step.

    e_i = (x1_i - r1*n1_i) / mean(x1) - (x0_i - r0*n0_i) / mean(x0), and se = sd(e) / sqrt(m): the
    linearised (Taylor) ratio estimator, Cochran 1977 ch. 6, with the covariance of the pairs in it.

    Raises:
        ValueError: shapes differ; a count is negative, not finite, or counted over no steps; a side
            has no steps; fewer than two prompts have any; a rate is 0, which has no logarithm.
    """
    x0, n0, x1, n1 = _counts(x0, n0, x1, n1)
    for side, x in (("baseline", x0), ("new", x1)):
        if not x.any():
            raise ValueError(f"the {side} rate is 0: a log ratio needs both rates above 0")
    e = len(x0) * (_residuals(x1, n1) / (x1.sum() * n1.sum()) - _residuals(x0, n0) / (x0.sum() * n0.sum()))
    estimate = math.log((x1.sum() * n0.sum()) / (x0.sum() * n1.sum()))
    return _paired(x0, n0, x1, n1, estimate=estimate, e=e)


def paired_difference(x0: ArrayLike, n0: ArrayLike, x1: ArrayLike, n1: ArrayLike) -> PairedRatio:
    """Conditional acceptance at one position, d = r1 - r0: the absolute change.

    e_i = (x1_i - r1*n1_i) / mean(n1) - (x0_i - r0*n0_i) / mean(n0), and se = sd(e) / sqrt(m): the
    linearised (Taylor) ratio estimator, Cochran 1977 ch. 6.

    Raises:
        ValueError: as `paired_log_ratio`, but here a rate of 0 is a rate.
    """
    x0, n0, x1, n1 = _counts(x0, n0, x1, n1)
    e = len(x0) * (_residuals(x1, n1) / n1.sum() ** 2 - _residuals(x0, n0) / n0.sum() ** 2)
    estimate = float((x1.sum() * n0.sum() - x0.sum() * n1.sum()) / (n0.sum() * n1.sum()))
    return _paired(x0, n0, x1, n1, estimate=estimate, e=e)


def sign_flip_p(
    x0: ArrayLike, n0: ArrayLike, x1: ArrayLike, n1: ArrayLike, *, rng: Generator, flips: int = 10_000
) -> float:
    """One-sided p of a loss by permutation (Fisher 1935): the cross-check of `p_loss`.

    Prompt i adds z_i = (x1_i - r*n1_i) - (x0_i - r*n0_i) to the change, r = (X0 + X1) / (N0 + N1).
    Swapping its sides only negates z_i, since r stays, and sum(z) has the sign of r1 - r0. (The e_i
    above would not do: they sum to 0 whatever the change.) p is the share of sign patterns whose
    sum is as low as observed or lower: of all patterns where at most 16 prompts have z_i != 0; else
    of `flips` random ones and the observed one, so never 0 (Phipson and Smyth 2010).

    Both sides need the same number of seeds. For a gain, hand the sides over the other way round.

    Raises:
        ValueError: as `paired_difference`, or flips is below 1.
    """
    if flips < 1:
        raise ValueError(f"flips must be at least 1, not {flips}")
    x0, n0, x1, n1 = _counts(x0, n0, x1, n1)
    # Times N0 + N1, so that counts stay whole and ties stay ties.
    z = (x1 - x0) * (n0.sum() + n1.sum()) - (n1 - n0) * (x0.sum() + x1.sum())
    z = z[z != 0]
    at_most = z.sum() + 1e-12 * np.abs(z).sum()
    if len(z) <= _ENUMERATE_UP_TO:
        swapped = (np.arange(2 ** len(z))[:, np.newaxis] >> np.arange(len(z))) & 1
        return float(np.mean((1 - 2 * swapped) @ z <= at_most))
    swapped = rng.integers(0, 2, size=(flips, len(z)), dtype=np.int8)
    return (1 + int(np.count_nonzero((1 - 2 * swapped) @ z <= at_most))) / (1 + flips)


def wilson(successes: float, trials: float, level: float = 0.95) -> tuple[float, float]:
    """Interval for showing one rate (Wilson 1927). It ignores prompts: no verdict rests on it.

    Raises:
        ValueError: no trials, successes outside 0..trials, or level outside (0, 1).
    """
    _require_share("level", level)
    if not (0 <= successes <= trials < math.inf and trials > 0):
        raise ValueError(f"{successes} successes in {trials} trials are not a rate")
    p = successes / trials
    z2n = float(special.ndtri((1 + level) / 2)) ** 2 / trials
    half = math.sqrt(z2n * (p * (1 - p) + z2n / 4))
    return max(0.0, (p + z2n / 2 - half) / (1 + z2n)), min(1.0, (p + z2n / 2 + half) / (1 + z2n))


def holm(pvalues: Sequence[float]) -> tuple[float, ...]:
    """Adjusted p-values in the order given, each to be held against the whole alpha (Holm 1979).

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


def cell_p(primary: float, positions: float = 1.0) -> float:
    """One p-value of a loss from a cell's two tests: at most ALPHA_CELL just where one is significant.

    min(1, p_primary * ALPHA_CELL / ALPHA_PRIMARY, p_positions * ALPHA_CELL / ALPHA_POSITION): Bonferroni,
    weighted as alpha is split between them (Rosenthal and Rubin 1983).

    Raises:
        ValueError: a p-value outside 0..1.
    """
    if not (0 <= primary <= 1 and 0 <= positions <= 1):
        raise ValueError(f"p-values must lie in 0..1: {primary}, {positions}")
    return min(1.0, primary * ALPHA_CELL / ALPHA_PRIMARY, positions * ALPHA_CELL / ALPHA_POSITION)


def minimum_detectable_loss(
    se: float, m: int, *, alpha: float = ALPHA_PRIMARY, log_margin: float = LOG_MARGIN, power: float = POWER
) -> float:
    """The smallest true loss, as a fraction of r0, that would be called regressed with chance `power`.

    1 - exp(-max[(t(1-alpha, m-1) + t(power, m-1)) * se, L + z(power) * se]), with se that of the log
    ratio over m prompts: the estimate must be significant at one-sided alpha, and be at least the
    margin, so that a loss of just the margin is found at most half the time (`stats.md`).

    Raises:
        ValueError: se or log_margin negative or not finite, m < 2, alpha or power outside (0, 1).
    """
    _require_scale(se, log_margin)
    significant = (_t(power, m) - _t(alpha, m)) * se  # -t(alpha) is t(1-alpha), exact for a tiny alpha
    return -math.expm1(-max(significant, log_margin + float(special.ndtri(power)) * se))


def prompts_to_settle(
    estimate: float,
    se: float,
    m: int,
    *,
    alpha: float = ALPHA_PRIMARY,
    log_margin: float = LOG_MARGIN,
    power: float = POWER,
    most: int = 100_000,
) -> int | None:
    """How many prompts like these would give a verdict, if the true log ratio were `estimate`.

    The smallest n in MIN_PROMPTS..most for which, with se_n = se * sqrt(m / n) and chance `power`,
    above -L the verdict is ok: estimate - (t(1 - ALPHA_OK, n-1) + t(power, n-1)) * se_n > -L;
    from -L down it is regressed: the loss is at least `minimum_detectable_loss(se_n, n)`.
    None where `most` is too few, as at a loss of the margin itself. To plan for a 3 % loss, hand in
    log(0.97); power 0.5 asks only that the same figures over more prompts would do.

    Raises:
        ValueError: as `minimum_detectable_loss`, or the estimate is not finite.
    """
    _require_scale(se, log_margin)
    _require_two(m)
    if not math.isfinite(estimate):
        raise ValueError(f"an estimate of {estimate} is nothing to plan from")

    def settled(n: int) -> bool:
        se_n = se * math.sqrt(m / n)
        if estimate > -log_margin:
            return estimate - (_t(1 - ALPHA_OK, n) + _t(power, n)) * se_n > -log_margin
        found = minimum_detectable_loss(se_n, n, alpha=alpha, log_margin=log_margin, power=power)
        return found <= -math.expm1(estimate)

    sizes = range(MIN_PROMPTS, most + 1)
    first = bisect.bisect_left(sizes, x=True, key=settled)
    return sizes[first] if first < len(sizes) else None


def share_bound(m: int) -> float:
    """Upper 95 % bound on the share of prompts that would differ, when none of m did.

    1 - 0.05^(1/m): the one-sided bound of Clopper and Pearson 1934 for none of m.

    Raises:
        ValueError: m < 1.
    """
    if m < 1:
        raise ValueError(f"{m} prompts bound nothing")
    return -math.expm1(math.log(0.05) / m)


def sequential_thresholds(look: int, m: int) -> tuple[float, float]:
    """Standard errors that a verdict takes at a look, one of LOOKS: (regressed, ok).

    Regressed needs estimate <= -regressed * se, ok needs estimate - ok * se > -L. Each is the t with
    m-1 degrees of freedom that has the tail of its z; m is the number of pairs that are there, which
    may be fewer than planned (group sequential boundaries, Jennison and Turnbull 2000 ch. 2 and 3).

    Raises:
        ValueError: no such look, or m < 2.
    """
    if look not in LOOKS:
        raise ValueError(f"no look at {look} prompts: looks are at {LOOKS}")
    regressed, ok = (-_t(float(special.ndtr(-z[LOOKS.index(look)])), m) for z in (REGRESSED_Z, OK_Z))
    return regressed, ok


def _t(p: float, m: int) -> float:
    """Student's quantile at p for a mean over m prompts."""
    _require_share("a level", p)
    _require_two(m)
    return float(special.stdtrit(m - 1, p))


def _residuals(x: FloatArray, n: FloatArray) -> FloatArray:
    """N * (x_i - r*n_i): exact for counts, so that prompts that changed alike have a se of exactly 0."""
    residuals: FloatArray = x * n.sum() - x.sum() * n
    return residuals


def _paired(
    x0: FloatArray, n0: FloatArray, x1: FloatArray, n1: FloatArray, *, estimate: float, e: FloatArray
) -> PairedRatio:
    scatter = e - e.sum() / len(e)  # numpy's own std takes several times as long for a hundred numbers
    return PairedRatio(
        r0=float(x0.sum() / n0.sum()),
        r1=float(x1.sum() / n1.sum()),
        estimate=estimate,
        se=math.sqrt(float(scatter @ scatter) / (len(e) - 1) / len(e)),
        m=len(e),
        differing=int(np.count_nonzero((x0 != x1) | (n0 != n1))),
    )


def _counts(*arrays: ArrayLike) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """x0, n0, x1, n1, checked, and without the prompts that have no steps on either side."""
    x0, n0, x1, n1 = (np.asarray(a, dtype=np.float64) for a in arrays)
    if x0.ndim != 1 or not x0.shape == n0.shape == x1.shape == n1.shape:
        raise ValueError(f"one value a prompt is needed: {x0.shape}, {n0.shape}, {x1.shape}, {n1.shape}")
    together = np.array((x0, n0, x1, n1))
    good = (together >= 0) & (together < math.inf)
    if not good.all():
        row, i = np.argwhere(~good)[0]
        name = ("x0", "n0", "x1", "n1")[row]
        raise ValueError(f"{name}[{i}] is {together[row, i]}: a count is finite and not negative")
    stepless = together[1::2] == 0
    if stepless.any() or not stepless.size:
        for side, x, none in (("baseline", x0, stepless[0]), ("new", x1, stepless[1])):
            if (none & (x > 0)).any():
                raise ValueError(f"a prompt of the {side} side counts something over no steps")
            if none.all():
                raise ValueError(f"the {side} side has no steps, and so no rate")
        together = together[:, ~stepless.all(axis=0)]
    _require_two(together.shape[1])
    x0, n0, x1, n1 = together
    return x0, n0, x1, n1


def _require_two(m: int) -> None:
    if m < 2:  # noqa: PLR2004
        raise ValueError(f"a scatter between prompts needs at least 2 of them, not {m}")


def _require_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} must lie between 0 and 1, not {value}")


def _require_scale(se: float, log_margin: float) -> None:
    if not (0 <= se < math.inf and 0 <= log_margin < math.inf):
        raise ValueError(f"se and margin must be finite and not negative: {se}, {log_margin}")
