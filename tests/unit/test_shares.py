"""Shares of good answers against published values, and the test of two of them against its definition."""

from __future__ import annotations

import math

import pytest

from harness.stats.shares import mcnemar, wilson


@pytest.mark.parametrize(
    ("good", "of", "low", "high"),
    # Newcombe 1998, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_is_what_newcombe_published(good: int, of: int, low: float, high: float) -> None:
    assert wilson(good, of) == pytest.approx((low, high), abs=5e-5)


def test_all_good_is_the_mirror_of_none() -> None:
    assert wilson(20, 20) == pytest.approx((1 - 0.1611, 1.0), abs=5e-5)


@pytest.mark.parametrize(("good", "of"), [(0, 0), (3, 2), (-1, 2)])
def test_what_is_no_share_has_no_interval(good: int, of: int) -> None:
    with pytest.raises(ValueError, match="no share"):
        wilson(good, of)


@pytest.mark.parametrize(("lost", "won"), [(1, 0), (9, 0), (10, 0), (6, 6), (12, 3), (0, 5)])
def test_mcnemar_is_the_tail_of_a_fair_coin(lost: int, won: int) -> None:
    n = lost + won
    exact = sum(math.comb(n, i) for i in range(lost, n + 1)) / 2**n

    assert mcnemar(lost, won) == pytest.approx(exact)


def test_nothing_lost_is_no_loss() -> None:
    assert mcnemar(0, 0) == 1
    with pytest.raises(ValueError, match="no counts"):
        mcnemar(-1, 0)
