from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from harness.stats import blocks
from harness.stats.blocks import NEW, OLD, detectable, order, over_blocks, over_sessions, power, settled_by


def test_a_block_takes_each_side_twice_and_the_other_side_first_in_turn() -> None:
    assert [order(n) for n in range(3)] == [
        (OLD, NEW, NEW, OLD),
        (NEW, OLD, OLD, NEW),
        (OLD, NEW, NEW, OLD),
    ]


def test_the_change_is_students_t_over_the_blocks_differences_of_mean_logs() -> None:
    old, new = [(10.0, 12.0), (11.0, 11.0), (9.0, 10.0)], [(9.0, 9.5), (10.0, 10.0), (9.0, 9.0)]
    differences = [np.log(b).mean() - np.log(a).mean() for a, b in zip(old, new, strict=True)]

    found = over_blocks(old, new)

    test = stats.ttest_1samp(differences, 0, alternative="less")
    assert found.estimate == pytest.approx(np.mean(differences))
    assert found.p_loss() == pytest.approx(test.pvalue)
    assert found.ci() == pytest.approx(tuple(stats.ttest_1samp(differences, 0).confidence_interval()))
    assert (found.m, found.df) == (3, 2)
    assert found.r1 / found.r0 == pytest.approx(math.exp(found.estimate))


@pytest.mark.parametrize("step", [0.05, -0.2])
def test_a_drift_along_the_starts_cancels(step: float) -> None:
    """The machine gets slower, or faster, from start to start; the sides are alike."""
    sides: dict[int, list[list[float]]] = {OLD: [], NEW: []}
    for block in range(4):
        both: dict[int, list[float]] = {OLD: [], NEW: []}
        for at, side in enumerate(order(block)):
            both[side].append(math.exp(step * (4 * block + at)))
        for side, values in both.items():
            sides[side].append(values)

    assert over_blocks(sides[OLD], sides[NEW]).estimate == pytest.approx(0, abs=1e-12)


def test_starts_that_are_all_alike_have_no_error() -> None:
    assert over_blocks([(2.0, 2.0)] * 4, [(1.0, 1.0)] * 4).se == 0
    assert over_blocks([(2.0, 2.0)] * 4, [(2.0, 2.0)] * 4).identical


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ([(1.0,)], [(1.0,)]),
        ([(1.0,)] * 2, [(1.0,)] * 3),
        ([(1.0,), (0.0,)], [(1.0,)] * 2),
        ([(), ()], [(), ()]),
    ],
)
def test_what_is_no_two_blocks_of_speeds_is_refused(old: list[list[float]], new: list[list[float]]) -> None:
    with pytest.raises(ValueError, match=r"blocks|above 0"):
        over_blocks(old, new)


def test_sessions_are_compared_as_welch_has_it() -> None:
    old, new = [10.0, 10.2, 9.9, 10.1, 10.0], [9.0, 9.4, 9.1, 9.2]

    found = over_sessions([[x * 0.9, x / 0.9] for x in old], [[x] for x in new])

    test = stats.ttest_ind(np.log(new), np.log(old), equal_var=False, alternative="less")
    assert found.p_loss() == pytest.approx(test.pvalue)
    assert found.df == pytest.approx(test.df)


@pytest.mark.parametrize(
    ("of", "loss", "found"), [(4, 0.05, 0.54), (4, 0.1, 0.99), (6, 0.05, 0.998), (6, 0.1, 1)]
)
def test_a_plan_knows_what_its_blocks_see(of: int, loss: float, found: float) -> None:
    """As 40,000 simulated sessions a row show it: `python -m tests.perf.blocks`."""
    assert power(of, loss) == pytest.approx(found, abs=0.005)


@pytest.mark.parametrize("of", [2, 4, 6, 20])
def test_the_loss_that_is_found_four_times_in_five(of: int) -> None:
    loss = detectable(of)

    assert power(of, loss) == pytest.approx(0.8, abs=1e-6)
    assert loss > blocks.MARGIN
    assert power(of, blocks.MARGIN) <= 0.5


def test_blocks_that_would_settle_it_are_more_than_there_are() -> None:
    found = over_blocks([(1.0, 1.02), (1.01, 0.98), (1.0, 1.0)], [(0.95, 0.94), (0.97, 0.95), (0.93, 0.95)])
    more = settled_by(found)

    assert more is not None
    assert more > 3
    loss = 1 - math.exp(found.estimate)
    assert power(more, loss, scatter=blocks.scatter_of(found)) >= 0.8
    assert power(more - 1, loss, scatter=blocks.scatter_of(found)) < 0.8
