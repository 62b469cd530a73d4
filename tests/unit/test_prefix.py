"""What the prefix suite says of the hits that a drafter loses, and of the time that the cache saves."""

from __future__ import annotations

from typing import Any

import pytest

from harness.config.prompts import Prompt
from harness.measure.contexts import SEPARATOR, behind_one_text
from harness.results.records import CellRecord, Finding
from harness.suites.prefix import Side, figures, judged, report
from harness.text.render import lay_out
from tests.factories.runs import answer, cell, plain

BUSY = Finding(code="foreign-traffic", hard=True, text="the server finished 30 requests while 8 ran")


def side(hits: int, *, drafts: bool = True, ttft_s: float = 0.2, finished: int = 8, **changes: Any) -> Side:
    """Eight prompts: the first fills the cache in 2 s, the others find `hits` tokens in all."""

    def record(cached: int, later_s: float) -> CellRecord:
        k, make = (4, cell) if drafts else (0, plain)
        prompts = tuple(answer(i, k=k, ttft_s=later_s if i else 2.0, total_s=4.0) for i in range(8))
        counters = {"cached": cached, "queried": 8000, "finished": finished}
        return make(prompts=prompts, counters=counters, **changes)

    return Side(cold=record(0, 2.0), shared=record(hits, ttft_s))


def none(hits: int = 7000, **changes: Any) -> Side:
    return side(hits, drafts=False, **changes)


@pytest.mark.parametrize(
    ("hits", "kind"),
    [
        (7000, "fine"),
        (7100, "fine"),
        (6999, "noteworthy"),
        (3501, "noteworthy"),
        (3500, "failed"),
        (0, "failed"),
    ],
)
def test_hits_that_a_drafter_loses_are_said_and_half_of_them_fail(hits: int, kind: str) -> None:
    assert judged(none(), side(hits))[0] == kind


def test_the_sentence_has_the_counts() -> None:
    _, said = judged(none(7000), side(6104))

    assert said.startswith(
        "loses 896 of 7000 cached tokens that `none` finds in 7 requests, 128 a request (13%)"
    )


def test_a_cache_in_which_nothing_is_found_compares_nothing() -> None:
    assert judged(none(0), side(0))[0] == "unchecked"


def test_an_interrupted_measurement_filled_the_cache_twice() -> None:
    assert judged(none(), side(6000, finished=3))[0] == "unsure"


def test_what_is_no_measurement_is_judged_on_neither_side() -> None:
    assert judged(none(findings=(BUSY,)), side(7000))[0] == "invalid"
    assert judged(none(), side(0, findings=(BUSY,)))[0] == "invalid"


def test_the_time_that_the_cache_saves_leaves_out_the_request_that_fills_it() -> None:
    shown = figures(side(7000, ttft_s=0.5))

    assert shown["cold_ttft_ms"] == pytest.approx(2000)
    assert shown["shared_ttft_ms"] == pytest.approx(500)
    assert shown["ttft_change"] == pytest.approx(-0.75)
    assert (shown["requests"], shown["hits_a_request"], shown["hit_rate"]) == (7, 1000, 7 / 8)


def test_a_table_has_a_row_for_each_side_and_no_time_that_was_not_taken() -> None:
    untimed = side(6104)
    prompts = tuple(
        r.model_copy(update={"began_s": None, "ttft_s": None, "total_s": None})
        for r in untimed.shared.prompts
    )
    shared = untimed.shared.model_copy(update={"prompts": prompts})
    lines = lay_out(report(none(), Side(cold=untimed.cold, shared=shared), "loses")).splitlines()

    assert lines[2].startswith("none")
    assert lines[3].split()[-4:] == ["—"] * 4
    assert lines[4:] == ["loses"]


def test_prompts_share_one_text_and_none_is_too_long() -> None:
    prompts = [Prompt(id=str(n), language="en", text="why " * n) for n in (3, 9, 1)]
    found = behind_one_text(prompts, ["one two three four five"], 64, lambda text: len(text.split()))

    (shared,) = {prompt.text.partition(SEPARATOR)[0] for prompt in found}
    assert [len(prompt.text.split()) for prompt in found] == [58, 64, 56]
    assert len(shared.split()) == 54
