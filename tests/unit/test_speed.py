from __future__ import annotations

from typing import Any

import pytest

from harness.results.timing import speed_of
from tests.factories.records import failed_record, prompt_record


def test_the_speed_of_two_prompts_one_after_the_other() -> None:
    records = [
        prompt_record("a", output_tokens=21, began_s=0.0, ttft_s=0.5, total_s=2.5),
        prompt_record("b", output_tokens=11, began_s=3.0, ttft_s=0.1, total_s=1.0),
    ]

    speed = speed_of(records)

    assert speed is not None
    assert speed.aggregate == 8.0  # 32 tokens in 4 s, the half second between the prompts included
    assert speed.mean_prompt == pytest.approx(9.7)  # of 8.4 and 11
    assert speed.ttft_s == pytest.approx(0.3)
    assert speed.tpot_s == pytest.approx(2.9 / 30)


def test_prompts_in_flight_together_share_their_time() -> None:
    records = [prompt_record(p, output_tokens=20, began_s=1.0, ttft_s=0.5, total_s=2.0) for p in "abcd"]
    speed = speed_of(records)

    assert speed is not None
    assert speed.aggregate == pytest.approx(40.0)
    assert speed.mean_prompt == pytest.approx(10.0)


def test_the_time_between_two_segments_of_a_resumed_cell_does_not_count() -> None:
    records = [
        prompt_record("a", output_tokens=20, segment=0, began_s=0.0, ttft_s=0.5, total_s=2.0),
        prompt_record("b", output_tokens=20, segment=1, began_s=0.5, ttft_s=0.5, total_s=2.0),
    ]
    speed = speed_of(records)

    assert speed is not None
    assert speed.aggregate == pytest.approx(10.0)


def test_the_time_between_two_passes_does_not_count() -> None:
    records = [
        prompt_record("a", output_tokens=20, repeat=0, began_s=0.0, ttft_s=0.5, total_s=2.0),
        prompt_record("a", output_tokens=20, repeat=1, began_s=100.0, ttft_s=0.5, total_s=2.0),
    ]
    speed = speed_of(records)

    assert speed is not None
    assert speed.aggregate == pytest.approx(10.0)


def test_passes_that_run_together_share_their_time() -> None:
    """The requests of a load are one stream: a pass begins before the one before it has ended."""
    records = [
        prompt_record("a", output_tokens=20, repeat=0, began_s=0.0, ttft_s=0.5, total_s=3.0),
        prompt_record("a", output_tokens=20, repeat=1, began_s=1.0, ttft_s=0.5, total_s=3.0),
        prompt_record("b", output_tokens=20, repeat=1, began_s=2.0, ttft_s=0.5, total_s=1.0),
        prompt_record("b", output_tokens=20, repeat=2, began_s=1.5, ttft_s=0.5, total_s=1.0),
    ]
    speed = speed_of(records)

    assert speed is not None
    assert speed.aggregate == pytest.approx(20.0)  # 80 tokens in 4 s


def test_failed_and_untimed_prompts_do_not_count() -> None:
    good = prompt_record("a", output_tokens=20, began_s=0.0, ttft_s=0.5, total_s=2.0)
    untimed = prompt_record("b", began_s=None, ttft_s=None, total_s=None)

    assert speed_of([good, failed_record("c"), untimed]) == speed_of([good])


@pytest.mark.parametrize(
    "changes",
    [{"began_s": None}, {"total_s": None}, {"total_s": 0.0}, {"output_tokens": 1}],
)
def test_what_was_not_timed_has_no_speed(changes: dict[str, Any]) -> None:
    assert speed_of([prompt_record(**changes)]) is None


def test_nothing_has_no_speed() -> None:
    assert speed_of([]) is None


def test_waiting_for_the_counters_between_two_prompts_is_nobodys_time() -> None:
    """Read from /metrics, prompts run one at a time and each waits until the counters have settled."""
    times = {"source": "counters", "ttft_s": 0.1, "total_s": 1.0}
    first = prompt_record("a", output_tokens=11, began_s=0.0, **times)
    second = prompt_record("b", output_tokens=9, began_s=5.0, **times)

    speed = speed_of([first, second])

    assert speed is not None
    assert speed.aggregate == 10.0


def test_answers_that_do_not_show_their_first_token_count_in_tokens_per_second_alone() -> None:
    shown = prompt_record("a", output_tokens=21, began_s=0.0, ttft_s=0.5, total_s=2.5)
    unseen = prompt_record("b", output_tokens=11, began_s=2.5, ttft_s=None, total_s=1.5)

    speed, most, none = (speed_of(r) for r in ([shown, unseen], [shown, shown, unseen], [unseen]))

    assert speed is not None
    assert (speed.aggregate, speed.ttft_s, speed.tpot_s) == (8.0, None, None)
    assert most is not None
    assert (most.ttft_s, most.tpot_s) == (0.5, pytest.approx(0.1))
    assert none is not None
    assert (none.mean_prompt, none.ttft_s, none.tpot_s) == (pytest.approx(11 / 1.5), None, None)
