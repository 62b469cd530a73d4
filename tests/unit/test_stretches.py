"""Tokens per decode step along an answer, shown and judged."""

from __future__ import annotations

import numpy as np
import pytest

from harness.results.stretches import name_of, reached, split, stretches_of
from tests.factories.records import prompt_record
from tests.factories.simulated import cell, dead_after, drafter

LONG = 1500


def test_a_stretch_is_named_by_its_tokens() -> None:
    assert [name_of(start) for start in (0, 100, 1000)] == ["0-99", "100-499", "1000+"]


def test_a_step_counts_where_its_first_token_lies() -> None:
    """The first token comes before any step; of 3 each, the 33rd step begins at token 97 and the 34th at 100."""
    steps = (3,) * 40
    r = prompt_record(
        accepted=(2,) * 40, drafted=(4,) * 40, histogram=(0, 0, 40, 0, 0), undrafted=0, output_tokens=121
    )
    assert r.committed == steps
    tokens, decode_steps = split([[r]])[:, :, 0].T
    assert tokens.tolist() == [99, 21, 0, 0]
    assert decode_steps.tolist() == [33, 7, 0, 0]


@pytest.mark.parametrize(("finish", "last"), [("length", 4), ("stop", 2)])
def test_the_last_step_counts_in_every_sum_alike(finish: str, last: int) -> None:
    r = prompt_record(
        accepted=(3, 3), drafted=(4, 4), histogram=(0, 0, 0, 2, 0), undrafted=0, output_tokens=7, finish=finish
    )
    assert split([[r]])[0, 0, 0] == 4 + last == r.tally.committed


def test_undrafted_steps_are_placed_where_the_stream_placed_them() -> None:
    steps = (1,) * 120 + (5,) * 4
    r = prompt_record(
        accepted=(4,) * 4, drafted=(4,) * 4, histogram=(0, 0, 0, 0, 4), undrafted=120, steps=steps,
        output_tokens=141,
    )  # fmt: skip
    assert split([[r]])[:, 1, 0].tolist() == [99, 25, 0, 0]


def test_the_seeds_of_a_prompt_are_summed_and_other_prompts_are_not() -> None:
    record = cell(drafter(1, prompts=3, tokens=200))
    a, b, c = record.prompts
    together, apart = split([[a, b], [c]]), split([[a], [b], [c]])
    assert np.array_equal(together[..., 0], apart[..., 0] + apart[..., 1])
    assert np.array_equal(together[..., 1], apart[..., 2])


def test_the_stretches_of_a_cell_add_up_to_it() -> None:
    record = cell(drafter(1, prompts=12, tokens=LONG))
    sums = split([[r] for r in record.prompts]).sum(axis=(0, 2))
    assert sums[0] == sum(r.tally.committed for r in record.prompts)
    assert sums[1] == sum(r.tally.decode_steps for r in record.prompts)
    found = stretches_of(record.prompts)
    assert [(s.start, s.prompts) for s in found] == [(0, 12), (100, 12), (500, 12), (1000, 12)]
    for s in found:
        assert s.tokens_per_step
        assert s.interval
        assert 1 < s.interval[0] < s.tokens_per_step < s.interval[1] < 5


def test_a_drafter_that_died_shows_where() -> None:
    found = stretches_of(cell(dead_after(drafter(1, prompts=12, tokens=LONG), 500)).prompts)
    rates = [s.tokens_per_step for s in found]
    assert [rate == 1 for rate in rates] == [False, False, True, True]
    assert [s.interval is None for s in found] == [False, False, True, True]


def test_short_answers_have_no_stretches() -> None:
    assert stretches_of(cell(drafter(1, prompts=12)).prompts) == ()
    assert stretches_of(()) == ()


def test_what_is_not_known_is_none() -> None:
    unknown = {"accepted": None, "drafted": None}
    record = cell(drafter(1, prompts=3, tokens=600))
    blind = [r.model_copy(update=unknown) for r in record.prompts]
    assert reached(blind) == (0, 100, 500)
    assert [(s.prompts, s.tokens_per_step, s.interval) for s in stretches_of(blind)] == [(0, None, None)] * 3
    one = stretches_of([record.prompts[0], *blind[1:]])
    assert all(s.prompts == 1 and s.tokens_per_step and s.interval is None for s in one)


@pytest.mark.parametrize("tokens", [600])
def test_the_interval_holds_the_truth_as_often_as_it_says(tokens: int) -> None:
    """12 prompts of 400 that are the truth: 95 %, with room for 200 draws and a jackknife of few."""
    truth = stretches_of(cell(drafter(7, prompts=400, tokens=tokens)).prompts)[1].tokens_per_step
    records = cell(drafter(7, prompts=400, tokens=tokens)).prompts
    rng, held = np.random.default_rng(0), 0
    for _ in range(200):
        drawn = [records[i] for i in rng.choice(400, 12, replace=False)]
        interval = stretches_of(drawn)[1].interval
        assert interval
        held += interval[0] <= (truth or 0) <= interval[1]
    assert 180 <= held <= 198
