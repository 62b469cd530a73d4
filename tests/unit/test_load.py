"""What a load suite says: goodput, losses, and whether acceptance moved with the load."""

from __future__ import annotations

from typing import Any

import pytest

from harness import options
from harness.errors import BadInput
from harness.results.records import MOST_K, Finding, PromptRecord
from harness.suites import load
from harness.suites.load import Bound, Level
from tests.factories.records import failed_record, prompt_record
from tests.factories.runs import answer, cell, level
from tests.factories.tables import texts_of

BOUND = Bound(ttft_s=1.0, tpot_s=0.1)


def timed(prompt: str, began: float = 0.0, **changes: Any) -> PromptRecord:
    """21 tokens: the first after half a second, then one every 50 ms."""
    known = {"output_tokens": 21, "began_s": began, "ttft_s": 0.5, "total_s": 1.5}
    return prompt_record(prompt, **(known | changes))


def at(in_flight: int, **changes: Any) -> Level:
    return level(in_flight, cell(identity={"concurrency": in_flight}, **changes))


def test_goodput_counts_what_is_answered_and_in_time() -> None:
    records = [
        timed("in time"),
        timed("late at first", ttft_s=1.1, total_s=1.4),
        timed("slow after it", total_s=2.7),
        timed("just in time", 2.0, ttft_s=1.0, total_s=3.0),
        failed_record("no answer"),
    ]

    assert [BOUND.kept(r) for r in records] == [True, False, False, True, False]
    assert load.goodput(records, BOUND) == pytest.approx(2 / 5)  # from 0.0 to 2.0 + 3.0
    assert load.per_second(records) == pytest.approx(4 / 5)


def test_an_answer_of_one_token_has_no_time_after_it() -> None:
    assert BOUND.kept(timed("one", output_tokens=1, ttft_s=0.9, total_s=0.9))


def test_what_was_not_timed_has_no_rate() -> None:
    records = [timed("a", None, ttft_s=None, total_s=None)]  # type: ignore[arg-type]

    assert load.goodput(records, BOUND) is load.per_second(records) is None
    header, rows = texts_of(load.table([level(1, cell(prompts=tuple(records)))], BOUND))
    assert rows[0][header.index("req/s") :] == ["—"] * 5


def test_without_first_tokens_no_goodput_is_known() -> None:
    unseen = [timed("a", ttft_s=None), timed("b", 1.0, ttft_s=None)]  # type: ignore[arg-type]

    assert load.goodput([*unseen, failed_record("c")], BOUND) is None
    assert load.goodput([timed("seen"), unseen[1]], BOUND) is None
    assert load.goodput([failed_record("c")], BOUND) == load.per_second([failed_record("c")])
    assert load.per_second(unseen)


def test_of_an_answer_whose_first_token_was_not_seen_its_end_may_tell() -> None:
    """The first one may take 1 s, the 20 after it 2 s."""
    ends = (0.9, 1.1, 2.9, 3.1)
    records = [timed("a", ttft_s=None, total_s=end) for end in ends]  # type: ignore[arg-type]

    assert [BOUND.kept(r) for r in records] == [True, None, None, False]


def test_the_bound_is_said() -> None:
    assert str(Bound()) == "TTFT <= 2000 ms and TPOT <= 200 ms"


@pytest.mark.parametrize(
    ("in_flight", "prompts", "times"), [(1, 8, 1), (4, 8, 1), (16, 8, 4), (64, 8, 16), (64, 120, 2)]
)
def test_a_level_has_two_requests_for_each_in_flight(in_flight: int, prompts: int, times: int) -> None:
    assert load.passes(in_flight, prompts) == times


def test_a_sound_load_has_no_fault_and_nothing_to_say() -> None:
    levels = load.against_first([at(1), at(4), at(16)])

    assert load.faults(levels) == load.sentences(levels) == load.notes(levels) == []
    header, rows = texts_of(load.table(levels, BOUND))
    assert [row[header.index("in flight")] for row in rows] == ["1", "4", "16"]
    assert [row[header.index("change %") + 2] for row in rows] == ["", "=", "="]


def test_a_request_without_an_answer_is_a_fault() -> None:
    finding = Finding(code="request-failed", hard=True, text="instruct-001: the server answered 503")
    failed = failed_record("instruct-001").model_copy(update={"findings": (finding,)})
    record = cell(prompts=(failed, *cell().prompts[2:]), findings=(finding,))

    assert load.faults([at(1), level(4, record)]) == [
        "at 4 in flight 1 of 23 requests had no answer: instruct-001: the server answered 503"
    ]


def test_a_lost_record_is_a_fault() -> None:
    record = cell(prompts=cell().prompts[:-2])

    assert load.faults([at(1), level(4, record, asked=24)]) == [
        "at 4 in flight 24 requests were sent, 22 have a record"
    ]
    header, rows = texts_of(load.table([at(1), level(4, record, asked=24)], BOUND))
    assert rows[1][header.index("lost")] == "2"


def test_the_same_record_twice_does_not_stand_for_a_lost_one() -> None:
    record = cell(prompts=(*cell().prompts[:-1], cell().prompts[0]))

    assert level(4, record, asked=24).lost == 1


@pytest.mark.parametrize(("silent", "faults"), [(1, 0), (2, 1)])
def test_answers_that_became_empty_under_load_are_a_fault(silent: int, faults: int) -> None:
    empty = {"output_tokens": 1, "histogram": (0,) * 5, "undrafted": 0}
    prompts = tuple(answer(i, **(empty if i < silent else {})) for i in range(24))

    assert len(load.faults([at(1), level(4, cell(prompts=prompts))])) == faults


def test_what_is_no_measurement_is_a_fault() -> None:
    finding = Finding(code="foreign-traffic", hard=True, text="the server finished 30 requests while 24 ran")

    assert load.faults([at(1), at(4, findings=(finding,))]) == [
        "at 4 in flight: not a measurement: the server finished 30 requests while 24 ran"
    ]


def test_acceptance_that_falls_with_the_load_is_said_and_is_no_fault() -> None:
    levels = load.against_first([at(1), at(4), at(16, worse=4)])

    (said,) = load.sentences(levels)
    assert said.startswith("at 16 in flight acceptance is not that of 1, beyond its noise: tokens per step")
    assert "paired over 24 prompts" in said
    assert load.faults(levels) == []
    header, rows = texts_of(load.table(levels, BOUND))
    assert [row[header.index("change %") + 2] for row in rows] == ["", "=", "≠"]


def test_a_small_change_beyond_its_noise_is_said_too_in_both_directions() -> None:
    """Inside the gate's margin: it fails nothing there, but the load did change acceptance."""
    base = cell("en", prompts=tuple(answer(i, undrafted=2 * i) for i in range(24)))
    less = cell(
        prompts=tuple(answer(i, undrafted=2 * i + 1, output_tokens=r.output_tokens + 1)
                      for i, r in enumerate(base.prompts)),
        identity={"concurrency": 4},
    )  # fmt: skip

    down, up = load.compared(level(1, base), level(4, less)), load.compared(level(1, less), level(4, base))
    assert down.change is not None
    assert -0.02 < down.change < 0
    assert load.moved(down)
    assert load.moved(up)


def test_noise_is_not_said() -> None:
    """A few answers moved, this way and that."""
    other = cell(
        prompts=tuple(answer(i, worse=(1, -1)[i % 2] if i < 12 else 0) for i in range(24)),
        identity={"concurrency": 16},
    )

    assert load.sentences(load.against_first([at(1), level(16, other)])) == []


def test_few_prompts_are_not_compared_and_that_is_said() -> None:
    few = cell().prompts[:5]
    levels = load.against_first([level(n, cell(prompts=few, identity={"concurrency": n})) for n in (1, 4)])

    (said,) = load.sentences(levels)
    assert said.startswith("at 4 in flight acceptance is not compared:")
    assert "5 prompts are too few" in said
    header, rows = texts_of(load.table(levels, BOUND))
    assert rows[1][header.index("change %") : header.index("change %") + 3] == ["—", "—", "✗"]


def test_a_drafter_that_remembers_answers_is_not_compared_with_itself() -> None:
    subject = {"drafter": "suffix", "method": "suffix", "settings": {}}

    (said,) = load.sentences(load.against_first([at(1, subject=subject), at(4, subject=subject)]))
    assert "drafts from earlier answers" in said


def test_notes_name_the_levels() -> None:
    note = Finding(code="loops", hard=False, text="2 of 24 answers end in a loop")
    levels = [at(1, findings=(note,)), at(4), at(16, findings=(note,))]

    assert load.notes(levels) == ["note: at 1, 16 in flight: 2 of 24 answers end in a loop"]
    trusted = [at(1, subject={"trust_remote_code": True})]
    assert load.notes(trusted) == [f"note: at 1 in flight: {trusted[0].record.trusted[0]}"]


@pytest.mark.parametrize("levels", ["", "4,1", "1,1", "0,4", "1,,4", "1,x", "-1", "1.5", "²", "9" * 5000])
def test_levels_rise(levels: str) -> None:
    with pytest.raises(BadInput, match="rising numbers of requests"):
        options._rising("--levels", levels)


def test_no_engine_drafts_as_many_tokens_as_a_record_cannot_hold() -> None:
    assert options._rising("--ks", "1,1024", most=MOST_K) == (1, 1024)
    with pytest.raises(BadInput, match="at most 1024"):
        options._rising("--ks", "1,1025", most=MOST_K)
