from __future__ import annotations

import asyncio
import dataclasses

import pytest
from hypothesis import example, given, strategies as st

from harness.engine.metrics import SpecCounters, parse, settled
from harness.errors import ServerFailed
from tests.factories.metrics_page import PAGE, READ


def test_a_page_of_two_engines_is_summed_and_creation_times_are_not_counted() -> None:
    assert parse(PAGE) == READ


def test_positions_may_stand_in_any_order() -> None:
    assert parse("\n".join(reversed(PAGE.splitlines())) + "\n").per_position == (20, 11, 5)


def test_a_server_that_drafts_nothing_has_no_speculative_counters() -> None:
    counters = parse("".join(line for line in PAGE.splitlines(keepends=True) if "spec_decode" not in line))

    assert not counters.present
    assert (counters.drafts, counters.per_position, counters.histogram) == (0, (), (0,))
    assert counters.generated == 90


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no vllm:generation_tokens_total: not vLLM, or --disable-log-stats"),
        ("# TYPE go_goroutines gauge\ngo_goroutines 12\n", "has no vllm:generation_tokens_total"),
        ("<html>", "not readable as Prometheus text"),
        (PAGE + 'vllm:generation_tokens_total{engine="2"} NaN\n', "not readable as Prometheus text"),
        (PAGE + 'vllm:generation_tokens_total{engine="2"} +Inf\n', "not readable as Prometheus text"),
        (
            PAGE + 'vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",position="9"} 1\n',
            "not readable as Prometheus text",
        ),
        (
            PAGE + 'vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",position="x"} 1\n',
            "not readable as Prometheus text",
        ),
        (PAGE + 'vllm:generation_tokens_total{engine="2', "a number in it is none, or it is cut off"),
        (
            PAGE + 'vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0"} 1\n',
            "not readable as Prometheus text",
        ),
    ],
)
def test_a_page_that_is_not_vllms_is_refused(text: str, says: str) -> None:
    with pytest.raises(ServerFailed, match=says) as caught:
        parse(text)
    for word in ("KeyError", "literal", "could not convert"):
        assert word not in str(caught.value)


@example("{")
@example('a{b="\\')
@example("# TYPE")
@example("a 1 1 1 1")
@given(st.text())
def test_any_text_is_counters_or_refused(text: str) -> None:
    with pytest.raises(ServerFailed):
        parse(text)


@given(st.integers(0, len(PAGE)), st.integers(0, 40), st.text(max_size=10) | st.sampled_from('"{}\\\n# =,'))
def test_a_damaged_page_is_counters_or_refused(at: int, cut: int, put: str) -> None:
    try:
        counters = parse(PAGE[:at] + put + PAGE[at + cut :])
    except ServerFailed as error:
        assert "/metrics" in str(error)  # noqa: PT017 - success is allowed too
    else:
        assert isinstance(counters, SpecCounters)


# What moved


def test_a_difference_is_what_moved_and_gauges_as_they_are_now() -> None:
    later = dataclasses.replace(
        READ, drafts=34, draft_tokens=102, accepted=42, per_position=(23, 13, 6), generated=100, prompted=150,
        finished=11, iterations=41, cached=16, running=0, waiting=0, kv_usage=0.5,
    )  # fmt: skip

    assert later - READ == SpecCounters(
        present=True, drafts=4, draft_tokens=12, accepted=6, per_position=(3, 2, 1), generated=10,
        prompted=10, finished=1, iterations=5, cached=0, running=0, waiting=0,
        kv_usage=0.5, started=1763719203.0, engines=READ.engines,
    )  # fmt: skip


def test_what_moved_gives_a_histogram() -> None:
    later = dataclasses.replace(READ, drafts=34, per_position=(23, 13, 6))

    assert (later - READ).histogram == (1, 1, 1, 1)


def test_positions_that_appear_with_the_first_draft_count_from_zero() -> None:
    before = dataclasses.replace(READ, drafts=0, per_position=())

    assert (READ - before).per_position == (20, 11, 5)


def test_a_restart_between_two_readings_is_told() -> None:
    with pytest.raises(ServerFailed, match="restarted between two readings"):
        _ = dataclasses.replace(READ, started=1763719999.0) - READ


@pytest.mark.parametrize("name", ["drafts", "accepted", "generated", "finished", "iterations", "cached"])
def test_a_counter_that_fell_is_named(name: str) -> None:
    lower = dataclasses.replace(READ, **{name: getattr(READ, name) - 1})

    with pytest.raises(ServerFailed, match=f"fell between two readings: {name};"):
        _ = lower - READ


def test_a_position_that_fell_is_named() -> None:
    with pytest.raises(ServerFailed, match="fell between two readings: per_position;"):
        _ = dataclasses.replace(READ, per_position=(20, 10, 5)) - READ


def test_positions_that_vanished_are_named() -> None:
    with pytest.raises(ServerFailed, match="fell between two readings: per_position;"):
        _ = dataclasses.replace(READ, per_position=(20,)) - READ


def test_counters_that_rise_with_the_position_are_no_histogram() -> None:
    with pytest.raises(ValueError, match="per position rise"):
        _ = dataclasses.replace(READ, per_position=(5, 11, 20)).histogram


# Settling

IDLE = dataclasses.replace(READ, running=0, waiting=0)


class ScriptedReader:
    """Fake of /metrics: gives its readings one after the other, the last one for ever."""

    def __init__(self, *readings: SpecCounters) -> None:
        self.readings = list(readings)
        self.read = 0

    def __call__(self) -> SpecCounters:
        self.read += 1
        return self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]


def test_an_idle_server_settles_at_its_second_reading() -> None:
    reader = ScriptedReader(IDLE)

    assert asyncio.run(settled(reader, pause_s=0)) == IDLE
    assert reader.read == 2


def test_the_last_step_that_is_counted_late_is_waited_for() -> None:
    late = dataclasses.replace(IDLE, drafts=31)
    reader = ScriptedReader(IDLE, late, late)

    assert asyncio.run(settled(reader, pause_s=0)) == late
    assert reader.read == 3


def test_running_and_waiting_requests_are_waited_for() -> None:
    running = dataclasses.replace(IDLE, running=1)
    waiting = dataclasses.replace(IDLE, waiting=1)
    reader = ScriptedReader(running, running, waiting, waiting, IDLE, IDLE)

    assert asyncio.run(settled(reader, pause_s=0)) == IDLE


def test_a_server_that_others_use_is_given_up() -> None:
    with pytest.raises(ServerFailed, match="not idle: 3 requests running, 4 waiting, none of them ours"):
        asyncio.run(settled(ScriptedReader(READ), patience_s=0, pause_s=0))


def test_a_server_that_cannot_be_read_is_not_settled() -> None:
    def broken() -> SpecCounters:
        raise ServerFailed("no answer")

    with pytest.raises(ServerFailed, match="no answer"):
        asyncio.run(settled(broken, pause_s=0))


def test_the_engines_own_times_are_kept_where_it_tells_them() -> None:
    times = "".join(
        f'vllm:request_{part}_time_seconds_sum{{engine="{engine}"}} {seconds}\n'
        for part, seconds in (("queue", 0.25), ("prefill", 1.5), ("decode", 8.0))
        for engine in "01"
    )
    timed = parse(PAGE + times)

    assert (timed - parse(PAGE)).kept() == {
        **dict.fromkeys(("drafts", "draft_tokens", "accepted", "generated", "prompted", "finished"), 0),
        "cached": 0,
        "queried": 0,
        "queue_us": 500_000,
        "prefill_us": 3_000_000,
        "decode_us": 16_000_000,
    }
    assert "queue_us" not in (READ - READ).kept()
    with pytest.raises(ServerFailed, match="decode_us"):
        _ = parse(PAGE) - timed
