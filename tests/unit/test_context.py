"""What the context suite says: which lengths, what moved, what was faster, and what is no measurement."""

from __future__ import annotations

from typing import Any

import pytest

from harness.config.cells import cells_of
from harness.config.stack import NO_DRAFTER, Drafter, Profile
from harness.results.records import CellRecord, Finding
from harness.suites import context
from harness.suites.beside_none import sparing
from harness.suites.context import Length
from harness.suites.long_prompts import LENGTHS, lengths, window_of
from harness.text.render import lay_out
from tests.factories import benches
from tests.factories.runs import answer, cell, plain

TIMED = {"ttft_s": 0.5}


def drafted(*, worse: int = 0, seconds: float = 1.0, prompts: int = 24, **changes: Any) -> CellRecord:
    """A cell whose answers took `seconds` after their first token."""
    own = tuple(
        answer(i, worse=worse if i % 3 else 0, total_s=0.5 + seconds, **TIMED) for i in range(prompts)
    )
    return cell(prompts=own, **changes)


def undrafted(*, seconds: float = 2.0, **changes: Any) -> CellRecord:
    own = tuple(answer(i, k=0, total_s=0.5 + seconds, **TIMED) for i in range(24))
    return plain(prompts=own, **changes)


def at(tokens: int, record: CellRecord, none: CellRecord | None = None) -> Length:
    return Length(tokens=tokens, record=record, plain=none)


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (None, LENGTHS),
        (40_000, LENGTHS),
        (16_384 + 64, LENGTHS),
        (16_384, (256, 1024, 4096, 12_240)),
        (2048, (256, 1024, 1488)),
        (1400, (256, 1024)),
        (500, (256, 327)),
        (400, (256,)),
        (300, ()),
        (10, ()),
    ],
)
def test_lengths_go_as_far_as_the_model(window: int | None, expected: tuple[int, ...]) -> None:
    assert lengths(window, 64) == expected


@pytest.mark.parametrize(
    ("args", "window"),
    [
        ({"max_model_len": 2048}, 2048),
        ({"max-model-len": "2048"}, 2048),
        ({"max_model_len": -1}, None),
        ({"max_model_len": "auto"}, None),
        ({"max_model_len": True}, None),
        ({}, None),
    ],
)
def test_a_stack_may_say_how_long_a_context_is(args: dict[str, Any], window: int | None) -> None:
    assert window_of(args) == window


@pytest.mark.parametrize(
    ("words", "taken"),
    [
        ("bench_suites/test_context.py", ["chat-en-head-k4", "chat-en-other-k2"]),
        ("-m zh", ["chat-en-head-k4", "chat-en-other-k2", "chat-zh-head-k4", "chat-zh-other-k2"]),
        ("-m k1", ["chat-en-head-k1", "chat-en-head-k4", "chat-en-other-k2"]),
        ("-m raw", ["chat-en-head-k4", "chat-en-other-k2", "raw-en-head-k4", "raw-en-other-k2"]),
        ("--results bench", ["chat-en-head-k4", "chat-en-other-k2"]),
    ],
)
def test_one_place_and_one_k_of_each_drafter_are_enough(words: str, taken: list[str]) -> None:
    drafters = {
        "none": NO_DRAFTER,
        "head": Drafter(name="head", method="eagle3", model="m", k=(1, 4)),
        "other": Drafter(name="other", method="ngram", k=(2, 8), selected=(2,)),
    }
    stack = benches.stack(drafters=drafters)
    cells = cells_of(stack, "quick", Profile(prompts=8, max_tokens=64), workloads=("instruct",))
    found = [
        str(cell).replace("instruct-", "") for cell in cells if cell.name.k and sparing(cell, stack, words)
    ]

    assert sorted(found) == taken


def test_acceptance_that_stays_has_nothing_to_say() -> None:
    found = [at(256, drafted()), at(1024, drafted())]

    assert context.sentences(found) == context.faults(found) == []
    assert "≠" not in lay_out(context.report(found, ""))


def test_acceptance_that_falls_with_the_context_is_said() -> None:
    found = [at(256, drafted()), at(1024, drafted(worse=4))]

    (said,) = context.sentences(found)
    assert said.startswith("at 1024 tokens of context acceptance is not that of 256, beyond its noise:")
    assert context.figures(found[0], found[1])["moved"]
    assert lay_out(context.report(found, "")).count("≠") == 1


def test_few_prompts_are_not_compared() -> None:
    found = [at(n, drafted(prompts=7)) for n in (256, 1024)]

    assert context.change(*found) is None
    assert len(context.sentences(found)) == 1


def test_speed_and_step_are_those_of_none_on_the_same_prompts() -> None:
    found = at(256, drafted(seconds=1.0), undrafted(seconds=2.0))
    shown = context.figures(found, found)

    tokens = sum(r.output_tokens - 1 for r in found.record.prompts)
    assert shown["speed_up"] == pytest.approx((tokens / 24) / (30 * 24 / 48))
    assert shown["speed_up_ci"][0] < shown["speed_up"] < shown["speed_up_ci"][1]
    steps = sum(r.tally.decode_steps for r in found.record.prompts)
    assert shown["none_step_ms"] == pytest.approx(2000 / 30)
    assert shown["step_ms"] == pytest.approx(24_000 / steps)
    assert shown["none_ttft_ms"] == shown["ttft_ms"] == 500


def test_a_server_that_was_given_has_no_figures_of_none() -> None:
    found = at(256, drafted())
    shown = context.figures(found, found)

    assert [shown[name] for name in ("speed_up", "step_ms", "none_ttft_ms", "same_text")] == [None] * 4
    assert "—" in lay_out(context.report([found, found], ""))


def test_loops_make_no_claim_about_speed() -> None:
    loops = Finding(code="mostly-loops", hard=False, text="20 of 24 answers end in a loop")
    found = at(256, drafted(), undrafted(findings=(loops,)))

    assert found.speed_up is None
    assert found.step is None


def test_texts_that_are_those_of_none_are_counted() -> None:
    other = drafted()
    prompts = (*other.prompts[:-1], other.prompts[-1].model_copy(update={"text_hash": "other"}))

    assert at(256, other.model_copy(update={"prompts": prompts}), undrafted()).same_text == 23


def test_what_is_no_measurement_is_a_fault_on_either_side() -> None:
    busy = Finding(code="foreign-traffic", hard=True, text="the server finished 30 requests while 24 ran")
    found = [at(256, drafted(), undrafted(findings=(busy,))), at(1024, drafted(findings=(busy,)))]

    assert len(context.faults(found)) == 2


@pytest.mark.parametrize(
    ("planned", "there", "left_out"),
    [
        (LENGTHS, LENGTHS, ""),
        ((256, 1024, 1488), (256, 1024, 1488), "left out: 4,096, 16,384: max_model_len ends before"),
        (LENGTHS, (1024, 4096, 16384), "left out: 256: the prompts alone are longer"),
        (LENGTHS, (256, 1024, 1488), "left out: 4,096, 16,384: max_model_len ends before"),
    ],
)
def test_lengths_that_are_left_out_are_named(
    planned: tuple[int, ...], there: tuple[int, ...], left_out: str
) -> None:
    assert context.left_out(planned, there) == left_out
