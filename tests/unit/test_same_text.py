from __future__ import annotations

import math

import pytest
from scipy import stats

from harness.stats.same_text import matched, p_of, unseen_loss


def test_steps_are_matched_where_they_begin_at_the_same_token() -> None:
    assert matched([3, 2, 1], [3, 2, 1]) == (0, 3)
    # 3 2 1 begin at 0 3 5; 1 2 2 1 at 0 1 3 5.
    assert matched([3, 2, 1], [1, 2, 2, 1]) == (1, 3)
    assert matched([2, 2], [1, 2, 1]) == (1, 1)
    assert matched([], [1]) == (0, 0)


def test_a_dead_drafter_loses_at_every_step_that_accepted_something() -> None:
    assert matched([5, 1, 4, 1], [1] * 11) == (2, 4)


@pytest.mark.parametrize(("fewer", "steps"), [(0, 0), (0, 40), (1, 40), (8, 40), (40, 40)])
def test_p_is_the_tail_of_the_binomial(fewer: int, steps: int) -> None:
    assert p_of(fewer, steps) == pytest.approx(stats.binom.sf(fewer - 1, steps, 0.05))


@pytest.mark.parametrize(("fewer", "steps"), [(-1, 3), (4, 3)])
def test_what_is_no_count_is_refused(fewer: int, steps: int) -> None:
    with pytest.raises(ValueError, match="no count"):
        p_of(fewer, steps)


def test_the_loss_that_may_hide() -> None:
    share = 1 - math.pow(0.05, 1 / 120)
    assert unseen_loss(2.3, share) == pytest.approx(0.031, abs=0.001)
    assert unseen_loss(2.3, 1 - math.pow(0.05, 1 / 8)) == pytest.approx(0.28, abs=0.01)
    assert unseen_loss(1.0, share) == 0
