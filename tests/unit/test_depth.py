"""What acceptance at depth loses beyond the loss at position 0."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.stats.depth import Excess, Mechanism, mechanism

Rates = tuple[float, ...]
BEFORE: Rates = (0.6, 0.55, 0.5, 0.45)


def counts(rates: Rates, *, m: int, seed: int, steps: int = 40, spread: float = 0.0) -> NDArray[np.float64]:
    """Steps that accepted at least j, of m prompts whose rates scatter; `seed` of the prompts is shared."""
    own = np.random.default_rng(7).normal(0, spread, m)
    drawn = np.random.default_rng(seed)
    rows = [np.full(m, steps)]
    for rate in rates:
        rows.append(drawn.binomial(rows[-1], np.clip(rate * np.exp(own), 0.02, 0.98)))
    return np.array(rows, dtype=np.float64)


def test_the_estimate_is_what_the_formula_says() -> None:
    before, after = counts(BEFORE, m=30, seed=1), counts((0.5, 0.4, 0.4, 0.4), m=30, seed=2)
    found = mechanism(before, after)
    assert found
    rates = [side.sum(1)[1:] / side.sum(1)[:-1] for side in (before, after)]
    change = np.log(rates[1] / rates[0])
    assert found.first.estimate == pytest.approx(change[0])
    assert [d.estimate for d in found.depths] == pytest.approx(list(change[1:] - change[0]))
    reached = before.sum(1)[1:4]
    assert found.together.estimate == pytest.approx(float((change[1:] - change[0]) @ reached / reached.sum()))
    assert found.together.change == pytest.approx(math.expm1(found.together.estimate))


def test_the_same_twice_shows_exactly_nothing() -> None:
    same = counts(BEFORE, m=30, seed=1)
    found = mechanism(same, same)
    assert found
    assert {e.estimate for e in (found.first, found.together, *found.depths)} == {0.0}
    assert found.together.ci == (0.0, 0.0)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_position_at_which_one_prompt_holds_all_that_was_accepted_is_not_told(position: int) -> None:
    side = counts(BEFORE, m=30, seed=1)
    side[position + 1 :, 1:] = 0
    side[:, 0] = (400, 300, 200, 100, 50)
    found = mechanism(side, side)
    assert len(found.depths if found else ()) == max(0, position - 1)
    assert all(math.isfinite(end) for e in (found.depths if found else ()) for end in e.ci)


def test_one_factor_at_every_position_is_no_excess_and_more_at_depth_is_one() -> None:
    before = counts(BEFORE, m=400, seed=1, spread=0.2)
    alike = mechanism(before, counts(tuple(0.8 * rate for rate in BEFORE), m=400, seed=2, spread=0.2))
    deeper = mechanism(before, counts((0.48, 0.36, 0.33, 0.3), m=400, seed=3, spread=0.2))
    assert alike
    assert deeper
    assert alike.first.ci[1] < -0.15
    assert alike.together.ci[0] < 0 < alike.together.ci[1]
    assert deeper.together.ci[1] < -0.1


def parts(found: Mechanism) -> tuple[Excess, ...]:
    return (found.first, found.together, *found.depths)


@pytest.mark.parametrize(("m", "depth"), [(24, 0.45), (80, 0.45), (80, 0.25)])
def test_the_interval_holds_the_truth_as_often_as_it_says(m: int, depth: float) -> None:
    """At position 0, at each depth and over all: in 92.5 to 97.5 % of 400 trials, as so many can tell."""
    after = (0.5, 0.5, depth, depth)
    truth = mechanism(
        counts(BEFORE, m=20_000, seed=0, spread=0.2), counts(after, m=20_000, seed=1, spread=0.2)
    )
    assert truth
    missed = np.zeros(5, dtype=int)
    for trial in range(400):
        found = mechanism(
            counts(BEFORE, m=m, seed=2 * trial + 2, spread=0.2),
            counts(after, m=m, seed=2 * trial + 3, spread=0.2),
        )
        assert found
        for i, (one, true) in enumerate(zip(parts(found), parts(truth), strict=True)):
            low, high = one.ci
            missed[i] += not low <= true.change <= high
    assert missed.min() >= 10
    assert missed.max() <= 30


def test_too_little_says_nothing() -> None:
    few, many = counts(BEFORE, m=19, seed=1), counts(BEFORE, m=30, seed=1)
    assert mechanism(few, few) is None
    never = many.copy()
    never[2:] = 0
    assert mechanism(many, never) is None
    assert mechanism(many[:2], many[:2]) is None


def test_a_depth_with_too_few_events_ends_the_depths() -> None:
    before = counts(BEFORE, m=30, seed=1)
    before[3:] = 0
    found = mechanism(before, before)
    assert found
    assert [depth.position for depth in found.depths] == [1]
