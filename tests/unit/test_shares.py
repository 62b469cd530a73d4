"""Shares of good answers against published values, and the test of two of them against its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from harness.stats.shares import ALPHA, change_interval, mcnemar, wilson


@pytest.mark.parametrize(
    ("good", "of", "low", "high"),
    # Newcombe 1998, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_is_what_newcombe_published(good: int, of: int, low: float, high: float) -> None:
    assert wilson(good, of) == pytest.approx((low, high), abs=5e-5)


def test_all_good_is_the_mirror_of_none() -> None:
    assert wilson(20, 20) == pytest.approx((1 - 0.1611, 1.0), abs=5e-5)


@pytest.mark.parametrize(("of", "least"), [(12, 0.84), (24, 0.89), (60, 0.91), (120, 0.92)])
def test_the_interval_of_a_share_holds_it_as_often_as_it_says(of: int, least: float) -> None:
    """Exactly, by the binomial: 95 % over all shares from 1 to 99 %, and less at the worst of them."""
    low, high = np.array([wilson(good, of) for good in range(of + 1)]).T
    true = np.linspace(0.01, 0.99, 197)[:, np.newaxis]
    chances = scipy.stats.binom.pmf(np.arange(of + 1), of, true)
    covered = (chances * ((low <= true) & (true <= high))).sum(axis=1)
    assert 0.95 <= covered.mean() <= 0.955
    assert covered.min() >= least


@pytest.mark.parametrize("of", [10, 20, 60, 500])
def test_mcnemar_cries_wolf_no_more_often_than_its_alpha(of: int) -> None:
    found = np.array([mcnemar(lost, of - lost) <= ALPHA for lost in range(of + 1)])
    assert scipy.stats.binom.pmf(np.arange(of + 1), of, 0.5)[found].sum() <= ALPHA


@pytest.mark.parametrize(("good", "of"), [(0, 0), (3, 2), (-1, 2)])
def test_what_is_no_share_has_no_interval(good: int, of: int) -> None:
    with pytest.raises(ValueError, match="no share"):
        wilson(good, of)


@pytest.mark.parametrize(("lost", "won"), [(1, 0), (9, 0), (10, 0), (6, 6), (12, 3), (0, 5)])
def test_mcnemar_is_the_tail_of_a_fair_coin(lost: int, won: int) -> None:
    n = lost + won
    exact = sum(math.comb(n, i) for i in range(lost, n + 1)) / 2**n

    assert mcnemar(lost, won) == pytest.approx(exact)


@pytest.mark.parametrize(("lost", "won"), [(2**31, 0), (2**40, 2**39)])
def test_mcnemar_of_huge_counts_is_a_number(lost: int, won: int) -> None:
    assert mcnemar(lost, won) == 0
    assert mcnemar(won, lost) == 1


def test_nothing_lost_is_no_loss() -> None:
    assert mcnemar(0, 0) == 1
    with pytest.raises(ValueError, match="no counts"):
        mcnemar(-1, 0)


def test_the_interval_of_a_change_is_the_mirror_of_that_of_its_opposite() -> None:
    low, high = change_interval(9, 2, 30, 19)
    assert low < (2 - 9) / 60 < high
    assert change_interval(2, 9, 30, 19) == pytest.approx((-high, -low))


def test_of_pairs_that_all_agree_the_interval_is_around_no_change() -> None:
    low, high = change_interval(0, 0, 6, 54)
    assert low == pytest.approx(-high)
    assert 0 < high < 0.1


@pytest.mark.parametrize(("before", "flip"), [(0.1, 0.03), (0.1, 0.15), (0.5, 0.1), (0.9, 0.3)])
def test_the_interval_of_a_change_holds_the_truth_as_often_as_it_says(before: float, flip: float) -> None:
    rng, n, cells = np.random.default_rng(7), 60, 4000
    # before: good; of the good so many become bad, of the bad as many become good
    chances = [before * flip, (1 - before) * flip, before * (1 - flip), (1 - before) * (1 - flip)]
    truth = chances[1] - chances[0]
    ends = [change_interval(*map(int, counts)) for counts in rng.multinomial(n, chances, size=cells)]
    assert sum(low <= truth <= high for low, high in ends) / cells > 0.93


@pytest.mark.parametrize("counts", [(0, 0, 0, 0), (-1, 0, 2, 2)])
def test_what_are_no_pairs_have_no_interval(counts: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="no pairs"):
        change_interval(*counts)
