from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given, settings, strategies as st
from numpy.typing import NDArray

from harness.stats import paired, planning
from harness.stats.paired import PairedRatio, paired_difference, paired_log_ratio

Arms = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
Estimator = Callable[..., PairedRatio]

BOTH = pytest.mark.parametrize("estimator", [paired_log_ratio, paired_difference])
repeatable = settings(derandomize=True, database=None, deadline=None, max_examples=40)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def allowed(rate: float, runs: int) -> tuple[int, int]:
    """Counts outside of which a right method lies once in a thousand seeds."""
    return int(scipy.stats.binom.ppf(0.0005, runs, rate)), int(scipy.stats.binom.ppf(0.9995, runs, rate))


@st.composite
def arms(draw: st.DrawFn, min_prompts: int = 2) -> Arms:
    """Whole counts of both sides, with 0 < x <= 5n, as k=4 has them."""
    steps = st.integers(1, 200)
    side = st.tuples(steps, st.floats(0, 1)).map(lambda s: (1 + round((5 * s[0] - 1) * s[1]), s[0]))
    rows = draw(st.lists(st.tuples(side, side), min_size=min_prompts, max_size=30))
    return split(np.array(rows, dtype=float).reshape(-1, 4))


def split(rows: NDArray[np.float64]) -> Arms:
    return rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3]


def clustered(seed: int, runs: int, m: int, *, effect: float = 1.0, jitter: float = 0.2) -> Arms:
    """Both sides of `runs` simulated cells of m prompts, arrays of shape (runs, m).

    A prompt has an acceptance of its own, a side's text moves it by up to `jitter`, and prompts that
    accept more need fewer steps. With theta = 0.8 Beta(2, 2): E theta = 0.4, E theta^2 = 0.192.
    """
    g = rng(seed)
    theta = 0.8 * g.beta(2, 2, size=(runs, m))

    def side(factor: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        n = 20 + g.binomial(60, 1 - theta)
        moved = theta * g.uniform(1 - jitter, 1 + jitter, size=theta.shape) * factor
        return (n + g.binomial(4 * n, moved)).astype(float), n.astype(float)

    return *side(1.0), *side(effect)


def true_rate(effect: float) -> float:
    """The ratio that `clustered` estimates: 1 + 4 E(n theta) / E(n) times the effect."""
    return 1 + 4 * effect * (20 * 0.4 + 60 * (0.4 - 0.192)) / (20 + 60 * 0.6)


# --- estimates and standard errors -------------------------------------------------------------


def test_three_prompts_by_hand() -> None:
    # r0 = 2 in every prompt; r1 = 15/6, with residuals 0.5, -1, 0.5.
    data = (2, 4, 6), (1, 2, 3), (3, 4, 8), (1, 2, 3)
    log = paired_log_ratio(*data)
    assert (log.r0, log.r1, log.m, log.differing) == (2.0, 2.5, 3, 2)
    assert log.df == pytest.approx(12**2 / (2**2 + 4**2 + 6**2) - 1)  # Kish: each prompt by its steps
    assert log.estimate == pytest.approx(math.log(1.25))
    # Without a prompt r1 is 12/5, 11/4 and 7/3; r0 stays 2.
    left_out = np.log(np.array([12 / 5, 11 / 4, 7 / 3]) / 2)
    assert log.se == pytest.approx(math.sqrt(2 / 3 * ((left_out - left_out.mean()) ** 2).sum()))
    difference = paired_difference(*data)
    assert difference.estimate == pytest.approx(0.5)
    left_out = np.array([12 / 5, 11 / 4, 7 / 3]) - 2
    student = scipy.stats.t(log.df)
    assert difference.se == pytest.approx(math.sqrt(2 / 3 * ((left_out - left_out.mean()) ** 2).sum()))
    assert difference.p_loss() == pytest.approx(student.cdf(difference.estimate / difference.se))
    half = student.ppf(0.975) * difference.se
    assert difference.ci() == pytest.approx((0.5 - half, 0.5 + half))
    assert difference.lower_bound(0.95) == pytest.approx(0.5 - student.ppf(0.95) * difference.se)


@pytest.mark.parametrize(("m", "level"), [(79, 0.99), (80, 0.95)])
def test_the_bound_of_a_verdict_is_stricter_where_prompts_are_few(m: int, level: float) -> None:
    ones = np.ones(m)
    change = paired_log_ratio(2 * ones, ones, 2 + np.arange(m) % 2 / 10, ones)
    assert change.lower_bound() == change.lower_bound(level)


@repeatable
@given(arms())
def test_with_one_step_a_prompt_the_difference_is_the_paired_t_test(data: Arms) -> None:
    x0, _, x1, _ = data
    ones = np.ones_like(x0)
    ours = paired_difference(x0, ones, x1, ones)
    if ours.se < 1e-9:
        return  # scipy gives nan
    less = scipy.stats.ttest_1samp(x1 - x0, 0.0, alternative="less")
    assert ours.estimate / ours.se == pytest.approx(less.statistic)
    assert ours.p_loss() == pytest.approx(less.pvalue)
    assert ours.p_gain() == pytest.approx(1 - less.pvalue)
    interval = scipy.stats.ttest_1samp(x1 - x0, 0.0).confidence_interval(0.95)
    assert ours.ci() == pytest.approx((interval.low, interval.high))


def test_standard_errors_are_near_those_of_the_delta_method_where_no_prompt_dominates() -> None:
    data = x0, n0, x1, n1 = [a[0] for a in clustered(1, 5, 400, jitter=0.1)]
    covariance = np.cov(np.stack(data)) / len(x0)
    r0, r1 = x0.sum() / n0.sum(), x1.sum() / n1.sum()
    log_gradient = np.array([-1 / x0.mean(), 1 / n0.mean(), 1 / x1.mean(), -1 / n1.mean()])
    gradient = np.array([-1 / n0.mean(), r0 / n0.mean(), 1 / n1.mean(), -r1 / n1.mean()])
    assert paired_log_ratio(*data).se ** 2 == pytest.approx(
        log_gradient @ covariance @ log_gradient, rel=0.03
    )
    assert paired_difference(*data).se ** 2 == pytest.approx(gradient @ covariance @ gradient, rel=0.03)


def test_pairing_takes_out_what_both_sides_share() -> None:
    x0, n0, x1, n1 = (a[0] for a in clustered(1, 1, 80, jitter=0.01))
    shuffled = rng(2).permutation(80)
    together, apart = paired_log_ratio(x0, n0, x1, n1), paired_log_ratio(x0, n0, x1[shuffled], n1[shuffled])
    assert together.se < apart.se / 2
    assert together.estimate == pytest.approx(apart.estimate)


# --- invariances -------------------------------------------------------------------------------


def near(change: PairedRatio) -> dict[str, object]:
    return {k: pytest.approx(v, rel=1e-9, abs=1e-12) for k, v in dataclasses.asdict(change).items()}


@BOTH
@repeatable
@given(data=arms(), seed=st.integers(0, 1000))
def test_the_order_of_prompts_does_not_matter(estimator: Estimator, data: Arms, seed: int) -> None:
    order = rng(seed).permutation(len(data[0]))
    assert dataclasses.asdict(estimator(*(a[order] for a in data))) == near(estimator(*data))


@BOTH
@repeatable
@given(data=arms())
def test_swapping_the_sides_flips_the_sign(estimator: Estimator, data: Arms) -> None:
    x0, n0, x1, n1 = data
    there, back = estimator(x0, n0, x1, n1), estimator(x1, n1, x0, n0)
    assert (back.r0, back.r1) == (there.r1, there.r0)
    assert back.estimate == pytest.approx(-there.estimate, abs=1e-12)
    assert back.se == pytest.approx(there.se, abs=1e-12)
    assert back.p_gain() == pytest.approx(there.p_loss(), abs=1e-9)
    assert back.ci() == pytest.approx([-bound for bound in reversed(there.ci())], abs=1e-9)


@BOTH
@repeatable
@given(data=arms(), seeds=st.integers(2, 5))
def test_more_seeds_of_the_same_outcome_on_one_side_change_nothing(
    estimator: Estimator, data: Arms, seeds: int
) -> None:
    x0, n0, x1, n1 = data
    once, often = estimator(*data), estimator(x0, n0, seeds * x1, seeds * n1)
    assert (often.r1, often.estimate, often.se) == pytest.approx((once.r1, once.estimate, once.se), abs=1e-12)


@repeatable
@given(data=arms(), unit=st.sampled_from([0.5, 3.0, 7.0]))
def test_another_unit_scales_the_difference_and_not_the_log_ratio(data: Arms, unit: float) -> None:
    x0, n0, x1, n1 = data
    scaled = unit * x0, n0, unit * x1, n1
    log, difference = paired_log_ratio(*data), paired_difference(*data)
    assert paired_log_ratio(*scaled).estimate == pytest.approx(log.estimate, abs=1e-12)
    assert paired_log_ratio(*scaled).se == pytest.approx(log.se, abs=1e-12)
    assert paired_difference(*scaled).estimate == pytest.approx(unit * difference.estimate, abs=1e-12)
    assert paired_difference(*scaled).se == pytest.approx(unit * difference.se, abs=1e-12)


@BOTH
@repeatable
@given(data=arms())
def test_prompts_without_steps_on_either_side_do_not_count(estimator: Estimator, data: Arms) -> None:
    with_empty = (np.concatenate([[0.0], a, [0.0]]) for a in data)
    assert estimator(*with_empty) == estimator(*data)


def test_a_prompt_with_steps_on_one_side_only_counts() -> None:
    change = paired_difference((2, 0, 3), (4, 0, 6), (1, 2, 4), (4, 2, 6))
    assert (change.m, change.differing) == (3, 3)
    assert (change.r0, change.r1) == (0.5, 7 / 12)


# --- degenerate cases --------------------------------------------------------------------------


@BOTH
@repeatable
@given(data=arms())
def test_identical_sides_are_identical_and_prove_nothing(estimator: Estimator, data: Arms) -> None:
    x, n, _, _ = data
    change = estimator(x, n, x, n)
    assert (change.estimate, change.se, change.differing, change.identical) == (0, 0, 0, True)
    assert (change.p_loss(), change.p_gain(), change.ci()) == (1.0, 1.0, (0.0, 0.0))


@BOTH
@repeatable
@given(data=arms())
def test_a_loss_common_to_all_prompts_is_certain(estimator: Estimator, data: Arms) -> None:
    _, n, _, _ = data
    loss, gain = estimator(10 * n, n, 9 * n, n), estimator(9 * n, n, 10 * n, n)
    assert (loss.se, gain.se) == (0, 0)
    assert (loss.p_loss(), loss.p_gain(), gain.p_loss(), gain.p_gain()) == (0, 1, 1, 0)
    assert loss.ci() == (loss.estimate, loss.estimate)
    assert loss.differing == len(n)
    assert not loss.identical


@BOTH
def test_the_same_rates_with_other_counts_are_no_change_but_not_identical(estimator: Estimator) -> None:
    change = estimator((3, 9), (1, 3), (6, 18), (2, 6))
    assert (change.estimate, change.se, change.p_loss(), change.p_gain()) == (0, 0, 1, 1)
    assert (change.differing, change.identical) == (2, False)


def test_differing_counts_prompts_of_the_same_x_over_another_n() -> None:
    change = paired_log_ratio((4, 4, 4), (2, 2, 2), (4, 4, 4), (2, 1, 2))
    assert (change.differing, change.identical) == (1, False)


@BOTH
@pytest.mark.parametrize(
    ("data", "says"),
    [
        (((1, 2), (1, 2), (1, 2), (1,)), "one value a prompt"),
        ((1, 1, 1, 1), "one value a prompt"),
        (([[1, 2]], [[1, 2]], [[1, 2]], [[1, 2]]), "one value a prompt"),
        (((1, 2), (1, 2), (1, -2), (1, 2)), r"x1\[1\] is -2"),
        (((1, 2), (math.nan, 2), (1, 2), (1, 2)), r"n0\[0\] is nan"),
        (((1, math.inf), (1, 2), (1, 2), (1, 2)), r"x0\[1\] is inf"),
        (((1, 2), (1, 2), (1, 2), (0, 2)), "new side counts something over no steps"),
        (((0, 0), (0, 0), (1, 2), (1, 2)), "baseline side has no steps"),
        (((1, 2), (1, 2), (0, 0), (0, 0)), "new side has no steps"),
        (((), (), (), ()), "no steps"),
        (((1,), (1,), (1,), (1,)), "at least 2"),
        (((1, 0), (1, 0), (1, 0), (1, 0)), "at least 2"),
    ],
)
def test_input_that_no_rate_can_come_from_is_refused(
    estimator: Estimator, data: tuple[object, ...], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        estimator(*data)


def test_a_rate_of_zero_has_a_difference_but_no_logarithm() -> None:
    with pytest.raises(ValueError, match="new rate is 0"):
        paired_log_ratio((1, 2), (2, 2), (0, 0), (2, 2))
    with pytest.raises(ValueError, match="baseline rate is 0"):
        paired_log_ratio((0, 0), (2, 2), (1, 2), (2, 2))
    assert paired_difference((1, 2), (2, 2), (0, 0), (2, 2)).estimate == -0.75


@pytest.mark.parametrize("level", [0, 1, -0.5, 95, math.nan])
def test_a_level_that_is_no_share_is_refused(level: float) -> None:
    change = paired_log_ratio((2, 4, 6), (1, 2, 3), (3, 4, 8), (1, 2, 3))
    with pytest.raises(ValueError, match="between 0 and 1"):
        change.lower_bound(level)


def test_the_t_test_agrees_with_a_permutation_test_on_clustered_prompts() -> None:
    """Swapping the sides of prompt i negates its share z_i of the change (Fisher 1935)."""
    for effect, cell in itertools.product((1.0, 0.99, 1.01), range(4)):
        x0, n0, x1, n1 = (a[0] for a in clustered(40 + cell, 1, 80, effect=effect))
        z = (x1 - x0) * (n0.sum() + n1.sum()) - (n1 - n0) * (x0.sum() + x1.sum())
        signs = rng(cell).choice([-1, 1], size=(4000, 80))
        flips = np.mean(signs @ z <= z.sum())
        assert flips == pytest.approx(paired_log_ratio(x0, n0, x1, n1).p_loss(), abs=0.03)


# --- many tests ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "adjusted"),
    [
        ((0.01, 0.04, 0.03, 0.005), (0.03, 0.06, 0.06, 0.02)),
        ((0.7, 0.6), (1.0, 1.0)),
        ((0.02, 0.02), (0.04, 0.04)),
        ((0.3,), (0.3,)),
        ((), ()),
    ],
)
def test_holm_by_hand(raw: tuple[float, ...], adjusted: tuple[float, ...]) -> None:
    assert paired.holm(raw) == pytest.approx(adjusted)


@repeatable
@given(st.lists(st.floats(0, 1), max_size=8), st.floats(0.001, 0.999))
def test_holm_rejects_what_the_step_down_procedure_rejects(raw: list[float], alpha: float) -> None:
    rejected: set[int] = set()
    for i in sorted(range(len(raw)), key=lambda i: raw[i]):
        if raw[i] * (len(raw) - len(rejected)) > alpha:
            break
        rejected.add(i)
    assert {i for i, p in enumerate(paired.holm(raw)) if p <= alpha} == rejected


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan])
def test_holm_refuses_what_is_no_p_value(bad: float) -> None:
    with pytest.raises(ValueError, match=r"0\.\.1"):
        paired.holm([0.5, bad])


@pytest.mark.parametrize(
    ("primary", "positions", "prompts", "p"),
    [
        (0.0008, 1.0, 1.0, 0.0012),
        (1.0, 0.0002, 1.0, 0.0012),
        (1.0, 1.0, 0.0002, 0.0012),
        (0.5, 0.02, 1.0, 0.12),  # 6 times that of the positions, which have a sixth of alpha
        (0.04, 0.02, 0.005, 0.03),  # 6 times that of the prompts; 3/2 times that of the primary is more
        (0.9, 0.9, 0.9, 1.0),
        (0.0, 1.0, 1.0, 0.0),
    ],
)
def test_the_p_of_a_cell_by_hand(primary: float, positions: float, prompts: float, p: float) -> None:
    assert paired.cell_p(primary, positions=positions, prompts=prompts) == pytest.approx(p)


@repeatable
@given(st.floats(0, 0.002), st.floats(0, 0.002), st.floats(0, 0.002))
def test_a_cell_is_significant_where_one_of_its_tests_is(
    primary: float, positions: float, prompts: float
) -> None:
    tests = (
        (primary, paired.ALPHA_PRIMARY),
        (positions, paired.ALPHA_POSITION),
        (prompts, paired.ALPHA_PROMPTS),
    )
    assume(all(abs(p - alpha) > 1e-12 for p, alpha in tests))
    p = paired.cell_p(primary, positions=positions, prompts=prompts)
    assert (p <= paired.ALPHA_CELL) == any(p <= alpha for p, alpha in tests)


@pytest.mark.parametrize("ps", [(-0.1, 1.0, 1.0), (0.5, 1.1, 1.0), (0.5, 1.0, 2.0), (math.nan, 0.5, 0.5)])
def test_the_p_of_a_cell_refuses_what_is_no_p_value(ps: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match=r"0\.\.1"):
        paired.cell_p(ps[0], positions=ps[1], prompts=ps[2])


def test_share_bound_is_where_seeing_no_difference_has_a_chance_of_5_percent() -> None:
    for m in (1, 8, 80, 120):
        assert (1 - paired.share_bound(m)) ** m == pytest.approx(0.05)
    exact = scipy.stats.binomtest(0, 120, alternative="less").proportion_ci(0.95, method="exact")
    assert paired.share_bound(120) == pytest.approx(exact.high)
    with pytest.raises(ValueError, match="bound nothing"):
        paired.share_bound(0)


# --- what a sample could have seen -------------------------------------------------------------


def test_detectable_loss_by_hand() -> None:
    t = scipy.stats.t.ppf
    noisy = 1 - math.exp(-(t(1 - 0.0008, 79) + t(0.8, 79)) * 0.02)
    assert planning.minimum_detectable_loss(0.02, 79) == pytest.approx(noisy)
    quiet = 1 - 0.98 * math.exp(-0.8416212 * 0.001)
    assert planning.minimum_detectable_loss(0.001, 79) == pytest.approx(quiet)
    assert planning.minimum_detectable_loss(0.0, 79) == pytest.approx(0.02)


@pytest.mark.parametrize("se", [0.002, 0.03])
@pytest.mark.parametrize("m", [30, 120])
def test_a_detectable_loss_is_found_with_the_power_that_it_claims(se: float, m: int) -> None:
    runs = 20_000
    loss = planning.minimum_detectable_loss(se, m - 1)
    g = rng(6)
    estimate = math.log(1 - loss) + se * g.standard_normal(runs)
    estimated_se = se * np.sqrt(g.chisquare(m - 1, runs) / (m - 1))
    significant = scipy.stats.t.cdf(estimate / estimated_se, m - 1) <= paired.ALPHA_PRIMARY
    found = int(np.count_nonzero(significant & (estimate <= -paired.LOG_MARGIN)))
    # Adding two t quantiles is close, and not exact: half a percent either way.
    assert allowed(0.795, runs)[0] <= found <= allowed(0.805, runs)[1]


@repeatable
@given(st.floats(0, 0.1), st.floats(1e-4, 0.1), st.integers(8, 500))
def test_more_noise_and_less_alpha_make_the_detectable_loss_larger(se: float, more: float, df: float) -> None:
    loss = planning.minimum_detectable_loss(se, df)
    assert paired.MARGIN - 1e-12 <= loss < planning.minimum_detectable_loss(se + more, df)
    assert planning.minimum_detectable_loss(se, df + 1) <= loss
    assert planning.minimum_detectable_loss(se, df, alpha=0.0001) >= loss


def test_tighter_demands_really_move_the_detectable_loss() -> None:
    loss = planning.minimum_detectable_loss(0.02, 79)
    assert planning.minimum_detectable_loss(0.02, 79, alpha=0.0001) > loss + 0.005


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"se": -0.1}, "not negative"),
        ({"se": math.nan}, "not negative"),
        ({"df": 0.0}, "above 0"),
        ({"df": math.nan}, "above 0"),
        ({"alpha": 1.0}, "between 0 and 1"),
    ],
)
def test_plans_refuse_what_means_nothing(change: dict[str, float], says: str) -> None:
    arguments = {"se": 0.02, "df": 79.0, **change}
    with pytest.raises(ValueError, match=says):
        planning.minimum_detectable_loss(**arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=says):
        planning.prompts_to_settle(estimate=-0.05, m=80, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("estimate", [math.nan, -math.inf])
def test_nothing_settles_an_estimate_that_is_no_number(estimate: float) -> None:
    with pytest.raises(ValueError, match="nothing can be planned"):
        planning.prompts_to_settle(estimate, 0.02, 80, 79)


@pytest.mark.parametrize("loss", [0.025, 0.03, 0.08])
@pytest.mark.parametrize("se", [0.006, 0.02])
def test_prompts_to_settle_a_loss_are_the_fewest_that_detect_it(loss: float, se: float) -> None:
    n = planning.prompts_to_settle(math.log(1 - loss), se, 80, 79)
    assert n is not None
    assert planning.minimum_detectable_loss(se * math.sqrt(80 / n), n - 1) <= loss
    assert n == 8 or planning.minimum_detectable_loss(se * math.sqrt(80 / (n - 1)), n - 2) > loss


@pytest.mark.parametrize("estimate", [-0.01, 0.0, 0.01])
def test_prompts_to_settle_no_loss_are_the_fewest_that_show_it(estimate: float) -> None:
    def shown(n: int) -> float:
        quantiles = scipy.stats.t.ppf(0.95, n - 1) + scipy.stats.t.ppf(0.8, n - 1)
        return float(estimate - quantiles * 0.02 * math.sqrt(80 / n))

    n = planning.prompts_to_settle(estimate, 0.02, 80, 79)
    assert n is not None
    assert shown(n) > math.log(0.98) >= shown(n - 1)


def test_less_alpha_takes_more_prompts_to_settle_a_loss() -> None:
    base = planning.prompts_to_settle(-0.06, 0.02, 80, 79)
    other = planning.prompts_to_settle(-0.06, 0.02, 80, 79, alpha=1e-5)
    assert base is not None
    assert other is not None
    assert other > base


def test_no_number_of_prompts_settles_a_loss_of_just_the_margin() -> None:
    for estimate in (-paired.LOG_MARGIN, -paired.LOG_MARGIN + 1e-6, -paired.LOG_MARGIN - 1e-6):
        assert planning.prompts_to_settle(estimate, 0.02, 80, 79) is None


def test_answers_of_unequal_length_take_more_prompts() -> None:
    """120 prompts of which a few hold most of the steps are worth 20: df is 19."""
    for estimate in (-0.06, 0.0):
        equal, unequal = (planning.prompts_to_settle(estimate, 0.05, 120, df) for df in (119, 19))
        assert equal is not None
        assert unequal is not None
        assert unequal > equal
        with pytest.raises(ValueError, match="at least 2"):
            planning.prompts_to_settle(estimate, 0.05, 1, 1.0)


def test_prompts_to_settle_stops_at_the_most_that_anyone_would_run(monkeypatch: pytest.MonkeyPatch) -> None:
    n = planning.prompts_to_settle(0.0, 0.02, 80, 79)
    assert n is not None
    monkeypatch.setattr(planning, "MOST_PLANNED", n)
    assert planning.prompts_to_settle(0.0, 0.02, 80, 79) == n
    monkeypatch.setattr(planning, "MOST_PLANNED", n - 1)
    assert planning.prompts_to_settle(0.0, 0.02, 80, 79) is None


@pytest.mark.parametrize("estimate", [-0.5, 0.0])
def test_without_noise_the_fewest_prompts_that_count_will_do(estimate: float) -> None:
    assert planning.prompts_to_settle(estimate, 0.0, 80, 79) == paired.MIN_PROMPTS


# --- sequential --------------------------------------------------------------------------------


@pytest.mark.parametrize("look", paired.LOOKS)
def test_each_look_keeps_the_tail_of_its_z(look: int) -> None:
    at = paired.LOOKS.index(look)
    for pairs in (look, look - 2):
        regressed, ok = paired.sequential_thresholds(look, pairs - 1)
        assert scipy.stats.t.sf(regressed, pairs - 1) == pytest.approx(
            scipy.stats.norm.sf(paired.REGRESSED_Z[at])
        )
        assert scipy.stats.t.sf(ok, pairs - 1) == pytest.approx(scipy.stats.norm.sf(paired.OK_Z[at]))


def test_all_looks_together_spend_the_alpha_of_one_test() -> None:
    runs = 400_000
    looks = np.array(paired.LOOKS)
    sums = np.cumsum(rng(7).standard_normal((runs, 5)) * np.sqrt(np.diff(looks, prepend=0)), axis=1)
    z = sums / np.sqrt(looks)
    for bounds, alpha in ((paired.REGRESSED_Z, paired.ALPHA_PRIMARY), (paired.OK_Z, paired.ALPHA_OK)):
        crossed = int((z > np.array(bounds)).any(axis=1).sum())
        low, high = allowed(alpha, runs)
        assert low <= crossed <= high


@pytest.mark.parametrize(("look", "z"), list(zip(paired.LOOKS, paired.OK_Z, strict=True)))
def test_no_look_allows_ok_more_often_than_as_many_prompts_do(look: int, z: float) -> None:
    """Below 80 prompts 1 %, since the t distribution promises too much of so few."""
    assert scipy.stats.norm.sf(z) <= paired.alpha_ok(look)


def test_a_look_that_was_not_planned_is_refused() -> None:
    with pytest.raises(ValueError, match="no look at 30"):
        paired.sequential_thresholds(30, 30)
    with pytest.raises(ValueError, match="above 0"):
        paired.sequential_thresholds(16, 0)


# --- policy ------------------------------------------------------------------------------------


def test_policy_is_what_the_documents_promise() -> None:
    assert (paired.MARGIN, paired.MARGIN_POSITION) == (0.02, 0.02)
    assert math.exp(-paired.LOG_MARGIN) == pytest.approx(0.98)
    assert (paired.ALPHA_PRIMARY, paired.ALPHA_POSITION) == (0.0008, 0.0002)
    assert (paired.MIN_PROMPTS, paired.MIN_PROMPTS_POSITION) == (8, 20)
    assert (paired.MIN_EVENTS, paired.MIN_DIFFERING) == (20, 10)


# --- truth, by simulation ----------------------------------------------------------------------


@pytest.mark.parametrize("m", [8, 20, 80])
@pytest.mark.parametrize("effect", [1.0, 0.9])
def test_intervals_cover_the_truth_as_often_as_they_say(m: int, effect: float) -> None:
    runs = 1500
    truth_0, truth_1 = true_rate(1.0), true_rate(effect)
    cells = zip(*clustered(100 + m, runs, m, effect=effect), strict=True)
    covered_log = covered_difference = 0
    for cell in cells:
        low, high = paired_log_ratio(*cell).ci()
        covered_log += low <= math.log(truth_1 / truth_0) <= high
        low, high = paired_difference(*cell).ci()
        covered_difference += low <= truth_1 - truth_0 <= high
    fewest, most = allowed(0.95, runs)
    assert fewest <= covered_log <= most
    assert fewest <= covered_difference <= most


def test_two_runs_of_the_same_raise_alarms_at_alpha() -> None:
    runs = 8000
    changes = [paired_log_ratio(*cell) for cell in zip(*clustered(9, runs, 20), strict=True)]
    losses, gains = [c.p_loss() for c in changes], [c.p_gain() for c in changes]
    for alpha in (0.1, 0.01, 0.001):
        fewest, most = allowed(alpha, runs)
        assert fewest <= np.count_nonzero(np.array(losses) <= alpha) <= most
        assert fewest <= np.count_nonzero(np.array(gains) <= alpha) <= most
