from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, strategies as st

from harness.stats.acceptance import (
    EMPTY,
    UNDRAFTED,
    Tally,
    added,
    histogram_from_positions,
    histogram_of,
    overshoot_of,
    steps_of_pieces,
    tallies_of,
    tally_of,
    undrafted_steps,
    with_undrafted,
)


@dataclasses.dataclass(frozen=True)
class Answer:
    """One answer as an engine makes it: the truth, and what a client sees of it."""

    k: int
    steps: tuple[int, ...]
    """Accepted tokens per decode step, `UNDRAFTED` where there were no drafts."""
    trimmed: int
    """Tokens of the last step that a stop or max_tokens took away again."""
    stopped: bool

    @property
    def accepted(self) -> list[int]:
        return [step for step in self.steps if step != UNDRAFTED]

    @property
    def undrafted(self) -> int:
        return self.steps.count(UNDRAFTED)

    @property
    def output_tokens(self) -> int:
        return 1 + sum(max(step, 0) + 1 for step in self.steps) - self.trimmed


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    k = draw(st.integers(1, 6))
    steps = tuple(draw(st.lists(st.integers(UNDRAFTED, k), max_size=30)))
    trimmed = draw(st.integers(0, max(steps[-1], 0))) if steps else 0
    return Answer(k=k, steps=steps, trimmed=trimmed, stopped=draw(st.booleans()))


def guess(answer: Answer, *, seen: int | None, last_known: bool = True) -> int:
    last = answer.accepted[-1] if answer.accepted and last_known else None
    return undrafted_steps(
        histogram=histogram_of(answer.accepted, answer.k),
        last_accepted=last,
        output_tokens=answer.output_tokens,
        decode_steps_seen=seen,
    )


def overshoot(answer: Answer, undrafted: int) -> int:
    histogram = histogram_of(answer.accepted, answer.k)
    return overshoot_of(histogram, undrafted=undrafted, output_tokens=answer.output_tokens)


def test_a_histogram_counts_steps_by_accepted_tokens() -> None:
    assert histogram_of([0, 3, 3, 1, 0, 0], 4) == (3, 1, 0, 2, 0)


def test_a_histogram_of_no_steps_is_all_zero() -> None:
    assert histogram_of([], 2) == (0, 0, 0)


@pytest.mark.parametrize("tokens", [-1, 3])
def test_a_histogram_refuses_steps_that_cannot_be(tokens: int) -> None:
    with pytest.raises(ValueError, match=f"accepted {tokens} tokens, but k is 2"):
        histogram_of([0, tokens], 2)


def test_counters_per_position_give_the_same_histogram() -> None:
    # Accepted per step: 0, 0, 1, 2, 2, 2, 4.
    assert histogram_from_positions(7, (5, 4, 1, 1)) == (2, 1, 3, 0, 1)


def test_counters_of_a_server_that_drafts_nothing_give_a_histogram_of_one() -> None:
    assert histogram_from_positions(0, ()) == (0,)


@pytest.mark.parametrize("per_position", [(3, 4), (8, 1)])
def test_counters_that_rise_with_the_position_are_refused(per_position: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="per position rise: 7 drafts"):
        histogram_from_positions(7, per_position)


@given(st.integers(1, 6).flatmap(lambda k: st.tuples(st.just(k), st.lists(st.integers(0, k)))))
def test_both_ways_to_a_histogram_agree(example: tuple[int, list[int]]) -> None:
    k, accepted = example
    per_position = [sum(tokens > i for tokens in accepted) for i in range(k)]

    assert histogram_from_positions(len(accepted), per_position) == histogram_of(accepted, k)


@given(answers())
def test_every_undrafted_step_is_found_where_every_step_was_seen(answer: Answer) -> None:
    assert guess(answer, seen=len(answer.steps)) == answer.undrafted
    assert guess(answer, seen=len(answer.steps), last_known=False) == answer.undrafted


@given(answers())
def test_untrimmed_answers_need_no_step_counts(answer: Answer) -> None:
    whole = dataclasses.replace(answer, trimmed=0)

    assert guess(whole, seen=None) == whole.undrafted


@given(answers(), st.data())
def test_merged_pieces_never_give_more_undrafted_steps_than_there_were(
    answer: Answer, data: st.DataObject
) -> None:
    seen = data.draw(st.integers(0, len(answer.steps)))

    assert 0 <= guess(answer, seen=seen) <= answer.undrafted


@given(answers(), st.integers(-5, 60) | st.none(), st.booleans())
def test_the_overshoot_is_always_one_that_is_possible(
    answer: Answer,
    seen: int | None,
    last_known: bool,  # noqa: FBT001
) -> None:
    found = guess(answer, seen=seen, last_known=last_known)

    assert 0 <= overshoot(answer, found) <= answer.k


@given(answers())
def test_with_the_true_undrafted_steps_the_overshoot_is_what_was_trimmed(answer: Answer) -> None:
    assert overshoot(answer, answer.undrafted) == answer.trimmed


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (None, 1),  # 2 + 4 tokens from verify steps, 1 + 6 + 1 = 8 of output: one more step at least
        (2, 1),  # fewer than the tokens need: pieces were merged
        (3, 1),
        (4, 2),  # one undrafted step more, and one token of the last step trimmed
        (6, 4),  # as much as the last step can have overshot by
        (7, 1),  # more than it can: not believed
    ],
)
def test_steps_seen_settle_what_the_tokens_leave_open(seen: int | None, expected: int) -> None:
    found = undrafted_steps(histogram=(0, 1, 0, 1), last_accepted=3, output_tokens=8, decode_steps_seen=seen)

    assert found == expected


def test_a_last_step_that_accepted_nothing_cannot_have_overshot() -> None:
    # 5 steps seen would leave 3 undrafted and an overshoot of 2; the last verify step committed 1 token.
    found = undrafted_steps(histogram=(1, 0, 0, 1), last_accepted=0, output_tokens=7, decode_steps_seen=5)

    assert found == 1


def test_without_a_verify_step_every_token_is_a_step() -> None:
    assert undrafted_steps(histogram=(0, 0), last_accepted=None, output_tokens=9, decode_steps_seen=3) == 8


def test_an_empty_answer_has_no_steps() -> None:
    assert undrafted_steps(histogram=(0,), last_accepted=None, output_tokens=0, decode_steps_seen=-1) == 0


@pytest.fixture
def tally() -> Tally:
    """Accepted 3, 0, 2, 1 of three drafts each, and two steps without drafts: 1 + 10 + 2 tokens."""
    return tally_of((1, 1, 1, 1), undrafted=2, output_tokens=13, stopped=False, drafted=12)


def test_the_figures_of_a_tally(tally: Tally) -> None:
    assert (tally.k, tally.verify_steps, tally.decode_steps, tally.accepted) == (3, 4, 6, 6)
    assert tally.at_least == (4, 3, 2, 1)
    assert tally.tau == 2.5
    assert tally.tokens_per_step == 2.0
    assert tally.accepted_per_draft == 1.5
    assert tally.token_acceptance == 0.5
    assert tally.acceptance == (0.75, 0.5, 0.25)
    assert list(tally.conditional) == pytest.approx([0.75, 2 / 3, 0.5])


def test_a_drafter_that_proposes_seldom_has_a_high_tau_and_gains_nothing() -> None:
    tally = tally_of((0, 0, 0, 0, 1), undrafted=95, output_tokens=101, stopped=False, drafted=4)

    assert tally.tau == 5.0
    assert tally.tokens_per_step == pytest.approx(100 / 96)


def test_an_answer_cut_at_max_tokens_counts_its_last_step_in_full() -> None:
    tally = tally_of((1, 1, 1, 1), undrafted=2, output_tokens=11, stopped=False, drafted=12)

    assert (tally.committed, tally.output_tokens) == (12, 11)


def test_an_answer_that_stopped_counts_up_to_its_stop() -> None:
    tally = tally_of((1, 1, 1, 1), undrafted=2, output_tokens=11, stopped=True, drafted=12)

    assert (tally.committed, tally.output_tokens) == (10, 11)


def test_where_nothing_was_drafted_there_is_no_tau() -> None:
    tally = tally_of((0, 0, 0), undrafted=7, output_tokens=8, stopped=True, drafted=0)

    assert tally.tokens_per_step == 1.0
    assert (tally.tau, tally.accepted_per_draft, tally.token_acceptance) == (None, None, None)
    assert tally.acceptance == (None, None)
    assert tally.conditional == (None, None)


def test_positions_behind_one_that_accepted_nothing_have_no_conditional_acceptance() -> None:
    tally = tally_of((3, 1, 0, 0), undrafted=0, output_tokens=6, stopped=True, drafted=12)

    assert tally.acceptance == (0.25, 0.0, 0.0)
    assert tally.conditional == (0.25, 0.0, None)


def test_an_answer_of_one_token_has_no_tokens_per_step() -> None:
    tally = tally_of((0,), undrafted=0, output_tokens=1, stopped=True, drafted=0)

    assert tally.tokens_per_step is None


def test_where_the_engine_does_not_say_what_it_drafted_token_acceptance_is_unknown() -> None:
    tally = tally_of((0, 2), undrafted=0, output_tokens=5, stopped=True, drafted=None)

    assert tally.token_acceptance is None
    assert tally.tau == 2.0


@given(answers().filter(lambda a: bool(a.accepted)))
def test_tau_is_tokens_per_step_where_every_step_drafts_and_nothing_is_trimmed(answer: Answer) -> None:
    drafting = dataclasses.replace(answer, steps=tuple(answer.accepted), trimmed=0)
    tally = tally_of(
        histogram_of(drafting.accepted, drafting.k),
        undrafted=0,
        output_tokens=drafting.output_tokens,
        stopped=drafting.stopped,
        drafted=None,
    )

    assert tally.tau == pytest.approx(tally.tokens_per_step)


@given(answers())
def test_figures_stay_in_their_ranges(answer: Answer) -> None:
    tally = tally_of(
        histogram_of(answer.accepted, answer.k),
        undrafted=answer.undrafted,
        output_tokens=answer.output_tokens,
        stopped=answer.stopped,
        drafted=answer.k * len(answer.accepted),
    )
    rates = [r for r in (*tally.acceptance, *tally.conditional, tally.token_acceptance) if r is not None]

    assert all(0 <= rate <= 1 for rate in rates)
    assert tally.tau is None or 1 <= tally.tau <= answer.k + 1
    assert tally.decode_steps == len(answer.steps)
    assert tally.tokens_per_step is None or 0 < tally.tokens_per_step <= answer.k + 1


tallies = st.integers(0, 6).flatmap(
    lambda k: st.builds(
        tally_of,
        st.lists(st.integers(0, 50), min_size=k + 1, max_size=k + 1),
        undrafted=st.integers(0, 50),
        output_tokens=st.integers(1, 400),
        stopped=st.booleans(),
        drafted=st.none() | st.integers(0, 400),
    )
)


@given(tallies, tallies, tallies)
def test_tallies_add_up_in_any_order(a: Tally, b: Tally, c: Tally) -> None:
    assert added((added((a, b)), c)) == added((a, added((b, c)))) == added((a, b, c))
    assert added((a, b)) == added((b, a))


@given(tallies)
def test_adding_nothing_changes_nothing(tally: Tally) -> None:
    assert added((tally, EMPTY)) == tally
    assert added((EMPTY, tally)) == tally


def test_a_smaller_k_adds_as_positions_never_reached() -> None:
    small = tally_of((1, 1), undrafted=1, output_tokens=5, stopped=False, drafted=2)
    large = tally_of((0, 0, 0, 2), undrafted=0, output_tokens=9, stopped=False, drafted=6)

    assert added((small, large)) == Tally(
        at_least=(4, 3, 2, 2), undrafted=1, committed=12, output_tokens=14, drafted=8
    )


def test_a_sum_with_an_unknown_number_of_drafts_is_unknown() -> None:
    known = tally_of((1, 1), undrafted=0, output_tokens=4, stopped=False, drafted=2)
    unknown = tally_of((1, 1), undrafted=0, output_tokens=4, stopped=False, drafted=None)

    assert added((known, unknown)).drafted is None
    assert added((known, known)).drafted == 4


Counted = tuple[tuple[int, ...], int, int, bool, int | None]
counted: st.SearchStrategy[Counted] = st.tuples(
    st.lists(st.integers(0, 50), min_size=1, max_size=7).map(tuple),
    st.integers(0, 50),
    st.integers(1, 400),
    st.booleans(),
    st.none() | st.integers(0, 400),
)


@given(st.lists(st.lists(counted, min_size=1, max_size=3), max_size=6))
def test_many_tallies_at_once_are_those_of_each(groups: list[list[Counted]]) -> None:
    flat = [answer for group in groups for answer in group]
    histograms, undrafted, output_tokens, stopped, drafted = zip(*flat, strict=True) if flat else ((),) * 5
    many = tallies_of(
        histograms, undrafted=undrafted, output_tokens=output_tokens, stopped=stopped, drafted=drafted
    )
    each = [
        [tally_of(h, undrafted=u, output_tokens=n, stopped=s, drafted=d) for h, u, n, s, d in group]
        for group in groups
    ]

    assert many.total() == added(tally for group in each for tally in group)
    summed = many.grouped([len(group) for group in groups])
    wanted = [added(group) for group in each]
    assert summed.committed.tolist() == [tally.committed for tally in wanted]
    assert summed.decode_steps.tolist() == [tally.decode_steps for tally in wanted]
    for i, tally in enumerate(wanted):
        reached = (*tally.at_least, *[0] * (len(summed.at_least) - len(tally.at_least)))
        assert tuple(summed.at_least[:, i]) == reached


def pieces_of(answer: Answer) -> list[int]:
    """Tokens of each piece of its stream, where none arrive merged."""
    pieces = [1, *(max(step, 0) + 1 for step in answer.steps)]
    pieces[-1] -= answer.trimmed
    return pieces


@given(answers())
def test_the_pieces_of_a_stream_tell_each_step(answer: Answer) -> None:
    found = steps_of_pieces(pieces_of(answer), histogram_of(answer.accepted, answer.k))

    assert found == (None if answer.undrafted else tuple(answer.steps))


@given(answers(), st.data())
def test_steps_that_arrive_merged_are_not_guessed(answer: Answer, data: st.DataObject) -> None:
    pieces = pieces_of(answer)
    if len(pieces) == 1:
        return
    at = data.draw(st.integers(0, len(pieces) - 2))
    pieces[at : at + 2] = [sum(pieces[at : at + 2])]

    found = steps_of_pieces(pieces, histogram_of(answer.accepted, answer.k))

    assert found is None or histogram_of(found, answer.k) == histogram_of(answer.accepted, answer.k)
    assert found is None or answer.undrafted


@pytest.mark.parametrize("pieces", [[], [2, 1], [1, 9], [1, 1, 1], [0, 1], [1, 3, 1]])
def test_pieces_that_do_not_make_the_histogram_tell_nothing(pieces: list[int]) -> None:
    assert steps_of_pieces(pieces, (0, 1, 0)) is None


@given(answers())
def test_pieces_and_verify_steps_tell_which_steps_had_no_draft(answer: Answer) -> None:
    found = with_undrafted(pieces_of(answer)[1:], answer.accepted)

    assert found is not None
    assert [step for step in found if step != UNDRAFTED] == answer.accepted
    assert found.count(UNDRAFTED) == answer.undrafted
    # Only among neighbours of one token each nobody knows.
    assert [max(step, 0) for step in found] == [max(step, 0) for step in answer.steps]


@pytest.mark.parametrize(
    ("steps", "accepted"),
    [([2, 1], [0, 1]), ([1, 1], [2, 0]), ([3], [1]), ([0, 1], [0]), ([1, 1], [0, 0, 0]), ([], [1])],
)
def test_steps_that_are_not_those_that_accepted_are_not_placed(steps: list[int], accepted: list[int]) -> None:
    assert with_undrafted(steps, accepted) is None
