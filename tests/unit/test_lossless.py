"""Whether a drafter changes what the target says: the judges."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from harness.suites import lossless
from harness.suites.lossless import Divergence, Ids


def test_the_first_difference() -> None:
    assert lossless.first_difference([1, 2, 3], [1, 2, 3]) is None
    assert lossless.first_difference([1, 2, 3], [1, 9, 3]) == 1
    assert lossless.first_difference([1, 2], [1, 2, 3]) == 2


def parted(*gaps: float) -> list[Divergence]:
    return [Divergence(prompt=f"p{i}", at=5 + i, gap=gap) for i, gap in enumerate(gaps)]


def test_at_zero_only_ties_may_part() -> None:
    assert lossless.judge_greedy([], 0, 8)[0] == "ok"
    assert lossless.judge_greedy(parted(0.01), 0, 8)[0] == "ok"
    outcome, text = lossless.judge_greedy(parted(0.01, 3.2), 0, 8)
    assert outcome == "broken"
    assert "token 6 of p1" in text


@pytest.mark.parametrize("prompts", [8, 120, 520, 1_000, 10_000])
def test_the_noise_is_judged_alike_however_many_prompts(prompts: int) -> None:
    """The counts of ways overflow from about 520 on; a third more than the noise is not noise for long."""
    differing, noise = prompts // 2, prompts // 4
    table = [[differing, prompts - differing], [noise, prompts - noise]]
    exact = stats.fisher_exact(table, alternative="greater").pvalue
    assert lossless._more_than(differing, noise, prompts) == pytest.approx(exact, rel=1e-6, abs=1e-300)
    outcome = lossless.judge_greedy(parted(*[0.01] * differing), noise, prompts)[0]
    assert outcome == ("ok" if exact > lossless.ALPHA else "broken")


@pytest.mark.parametrize("differing", [0, 3, 8])
def test_as_many_as_the_noise_is_no_more_than_it(differing: int) -> None:
    assert lossless._more_than(differing, differing, 8) > 0.4


def test_at_zero_many_ties_are_judged_against_the_noise_of_none() -> None:
    assert lossless.judge_greedy(parted(*[0.01] * 8), 0, 8)[0] == "broken"
    assert lossless.judge_greedy(parted(*[0.01] * 8), 6, 8)[0] == "ok"


def answers(rng: np.random.Generator, first: float, count: int = 64) -> dict[str, list[Ids]]:
    """Four tokens of two kinds each, the first kind with this probability but for the first token."""
    said = {}
    for prompt in ("a", "b", "c", "d"):
        draws = rng.random((count, 4)) < np.array([0.6, first, first, first])
        said[prompt] = [tuple(int(x) for x in row) for row in draws]
    return said


def test_an_honest_engine_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lossless, "PERMUTATIONS", 1999)  # enough for a p of half of ALPHA
    assert 1 / (1 + lossless.PERMUTATIONS) <= lossless.ALPHA / 2
    rng = np.random.default_rng(2)
    found = [
        lossless.judge_sampled(answers(rng, 0.7), answers(rng, 0.7), checked=9, rng=rng)[0] for _ in range(20)
    ]
    assert found == ["ok"] * 20


def test_another_distribution_is_found() -> None:
    rng = np.random.default_rng(3)
    outcome, text = lossless.judge_sampled(answers(rng, 0.9), answers(rng, 0.6), checked=9, rng=rng)
    assert outcome == "broken"
    assert "p = 0.0001" in text


def test_where_nothing_was_drafted_nothing_is_claimed() -> None:
    rng = np.random.default_rng(4)
    outcome, text = lossless.judge_sampled(answers(rng, 0.9), answers(rng, 0.1), checked=0, rng=rng)
    assert outcome == "not checked"
    assert text.startswith("—")


def test_a_token_that_is_not_told_is_at_most_as_likely_as_the_last() -> None:
    assert lossless.gap_at({1: -0.1, 2: -3.0}, 1, 7) == pytest.approx(2.9)
    assert lossless.gap_at({1: -0.1}, 1, None) == 0
