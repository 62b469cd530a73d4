from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from harness.measure.validity import (
    MARK,
    countable,
    findings,
    mostly_degenerate,
    remembers,
    speed_up,
    total,
)
from harness.results.conditions import Patch, Subject
from harness.results.records import Finding, PromptRecord
from tests.factories.records import cell_name, failed_record, prompt_record as cut_off
from tests.factories.runs import cell, plain
from tests.factories.texts import CHINESE, CODE

LOOP = "la " * 30


def prompt_record(prompt: str = "instruct-001", **changes: Any) -> PromptRecord:
    """One that ended by itself."""
    return cut_off(prompt, **{"finish": "stop", **changes})


# Findings of a cell


def moved(**changes: int) -> dict[str, int]:
    """What /metrics moves by for two records as `prompt_record` makes them."""
    values = {
        "drafts": 12,
        "draft_tokens": 48,
        "accepted": 22,
        "generated": 40,
        "prompted": 22,
        "finished": 2,
    }
    return {**values, "cached": 0, **changes}


def pair(**changes: Any) -> list[PromptRecord]:
    return [prompt_record("instruct-001", **changes), prompt_record("instruct-002", **changes)]


def judged(records: list[PromptRecord], **changes: Any) -> dict[str, Finding]:
    """Findings by code, each at most once."""
    values: dict[str, Any] = {"moved": moved(), "cache": "cold", "patches": ()}
    values |= changes
    cell = values.pop("cell", cell_name())
    found = findings(cell, records, **values)
    by_code = {finding.code: finding for finding in found}
    assert len(by_code) == len(found), found
    return by_code


def test_a_clean_cell_has_no_findings() -> None:
    assert judged(pair()) == {}


def test_a_clean_cell_without_a_drafter_has_no_findings() -> None:
    plain = pair(source="none", accepted=None, drafted=None, histogram=(0,), draft_tokens=0, undrafted=19)
    nothing = moved(drafts=0, draft_tokens=0, accepted=0)

    assert judged(plain, cell=cell_name(drafter="none", k=0), moved=nothing) == {}


def test_a_clean_chinese_cell_has_no_findings() -> None:
    assert judged(pair(language="zh", text=CHINESE), cell=cell_name(language="zh")) == {}


def test_counters_that_were_not_read_are_not_compared() -> None:
    assert judged(pair(), moved=None) == {}


def test_an_answer_that_stopped_inside_its_last_step_is_clean() -> None:
    assert judged(pair(output_tokens=16, finish="stop"), moved=moved(generated=32)) == {}


SPRUNG: list[tuple[str, bool, Callable[[], dict[str, Finding]], str]] = [
    (
        "request-failed",
        True,
        lambda: judged(
            [prompt_record(findings=[{"code": "request-failed", "hard": True, "text": "it died"}])],
            moved=None,
        ),
        "it died",
    ),
    (
        "not-reconciled",
        True,
        lambda: judged(
            [prompt_record(), prompt_record("instruct-002", output_tokens=21)], moved=moved(generated=41)
        ),
        ("instruct-002", "21 output tokens", "1 + 19"),
    ),
    (
        "not-reconciled",
        True,
        lambda: judged(
            [prompt_record(), prompt_record("instruct-002", output_tokens=15)], moved=moved(generated=35)
        ),
        ("instruct-002", "15 output tokens", "1 + 19"),
    ),
    (
        "foreign-traffic",
        True,
        lambda: judged(pair(), moved=moved(finished=3)),
        ("3 requests", "2"),
    ),
    (
        "counters-disagree",
        True,
        lambda: judged(pair(), moved=moved(drafts=13, accepted=21)),
        ("drafts 13", "12", "accepted 21", "22"),
    ),
    (
        "counters-disagree",
        True,
        lambda: judged(pair(), moved=moved(generated=41)),
        ("generated 41", "40"),
    ),
    (
        "warm-cache",
        True,
        lambda: judged(pair(), moved=moved(cached=16)),
        ("16 prompt tokens", "cold"),
    ),
    (
        "no-drafts",
        True,
        lambda: judged(
            pair(accepted=(), drafted=(), histogram=(0,) * 5, draft_tokens=0, undrafted=19),
            moved=moved(drafts=0, draft_tokens=0, accepted=0),
        ),
        (),
    ),
    (
        "dead-drafter",
        True,
        lambda: judged(
            pair(accepted=None, drafted=None, histogram=(25, 0, 0, 0, 0), undrafted=0, output_tokens=26),
            moved=moved(drafts=50, accepted=0, generated=52),
        ),
        ("50 drafts",),
    ),
    (
        "other-language",
        False,
        lambda: judged([prompt_record(), prompt_record("instruct-002", text=CHINESE)]),
        ("1 of 2 answers", "(en)"),
    ),
    (
        "loops",
        False,
        lambda: judged([prompt_record(), prompt_record("instruct-002", text=LOOP)]),
        ("1 of 2 answers", "2.38 (with: 2.38)", "66.7 / 50.0 / 50.0 / 16.7 %"),
    ),
    (
        "mostly-loops",
        False,
        lambda: judged(pair(text=LOOP)),
        ("2 of 2 answers", MARK),
    ),
    (
        "cut-off",
        False,
        lambda: judged([prompt_record(), cut_off("instruct-002")], max_tokens=20),
        ("1 of 2 answers",),
    ),
    (
        "warm-suffix-cache",
        True,
        lambda: judged([prompt_record(), prompt_record(repeat=1)], remembers=True),
        ("1 prompts", "cold"),
    ),
    (
        "left-out",
        False,
        lambda: judged(
            [
                *pair(),
                prompt_record(
                    "instruct-003",
                    accepted=(),
                    drafted=(),
                    histogram=(0,) * 5,
                    draft_tokens=0,
                    undrafted=0,
                    output_tokens=1,
                ),
            ],
            moved=moved(generated=41, finished=3),
        ),
        ("1 of 3 answers",),
    ),
    (
        "engine-mended",
        False,
        lambda: judged(pair(), patches=[Patch(fault="cpu-temperature", patched=True)]),
        ("cpu-temperature",),
    ),
]


@pytest.mark.parametrize(("code", "hard", "sprung", "figures"), SPRUNG)
def test_each_finding_is_sprung_alone(
    code: str,
    hard: bool,  # noqa: FBT001
    sprung: Callable[[], dict[str, Finding]],
    figures: tuple[str, ...],
) -> None:
    found = sprung()

    assert set(found) == {code}
    assert found[code].hard is hard
    assert all(figure in found[code].text for figure in figures)


def test_few_drafts_without_a_hit_may_be_bad_luck() -> None:
    unlucky = pair(accepted=None, drafted=None, histogram=(24, 0, 0, 0, 0), undrafted=0, output_tokens=25)

    assert judged(unlucky, moved=moved(drafts=48, accepted=0, generated=50)) == {}


def test_a_cell_with_a_failed_request_is_not_compared_with_the_counters_token_by_token() -> None:
    # What the failed one made the server count is unknown; that it counts as a request is not.
    assert judged([prompt_record(), failed_record("instruct-002")], moved=moved(drafts=99)) == {}
    assert set(judged([prompt_record(), failed_record()], moved=moved(finished=3))) == {"foreign-traffic"}


def test_a_warm_cache_is_no_finding_where_the_profile_wants_it() -> None:
    assert judged(pair(), cache="warm", moved=moved(cached=16)) == {}
    assert set(judged(pair(), cache="off", moved=moved(cached=16))) == {"warm-cache"}


def test_answers_in_code_have_their_own_language() -> None:
    assert judged(pair(text=CODE, language="zh"), cell=cell_name(workload="code", language="zh")) == {}


def test_an_engine_that_was_only_probed_is_no_finding() -> None:
    assert judged(pair(), patches=[Patch(fault="cpu-temperature", patched=False)]) == {}


def test_only_answers_with_a_decode_step_count() -> None:
    short = prompt_record("instruct-002", output_tokens=1, histogram=(0,) * 5, accepted=(), drafted=(),
                          undrafted=0, draft_tokens=0)  # fmt: skip
    records = [prompt_record(), short, failed_record("instruct-003")]

    assert [countable(record) for record in records] == [True, False, False]
    assert (total(records).committed, total(records).output_tokens) == (19, 20)


def test_the_total_of_nothing_has_no_figures() -> None:
    assert total([]).tau is None


def test_the_others_alone_are_counted_without_what_the_loops_gained() -> None:
    stuck = prompt_record(
        "instruct-002", text=LOOP, accepted=None, drafted=None, histogram=(0, 0, 0, 0, 4), undrafted=0,
        draft_tokens=16, output_tokens=21,
    )  # fmt: skip
    both = judged([prompt_record(), stuck], moved=None)["loops"].text

    # 19 tokens in 8 steps, and 20 in 4; 4 of 6 drafts had a first token accepted, and 4 of 4.
    assert both.endswith(
        "without them tok/step 2.38 (with: 3.25), "
        "positions 66.7 / 50.0 / 50.0 / 16.7 % (with: 80.0 / 70.0 / 70.0 / 50.0 %)"
    )


def test_a_cell_without_a_drafter_has_no_acceptance_to_tell() -> None:
    plain = pair(source="none", accepted=None, drafted=None, histogram=(0,), draft_tokens=0, undrafted=19)
    found = judged([plain[0], plain[1].model_copy(update={"text": LOOP})], moved=None,
                   cell=cell_name(drafter="none", k=0))  # fmt: skip

    assert found["loops"].text == "1 of 2 answers end in a loop"


def test_what_an_answer_holds_beside_content_is_told_once() -> None:
    text = "I think: " + "la " * 30
    parts = (("reasoning", len(text) - 9), ("content", 9))
    unread = Finding.note("unread-field", "p: draftgate does not know x", fields="x")
    thought = prompt_record(text=text, parts=parts, findings=(unread,))
    found = judged([thought, thought, prompt_record(text="")], moved=None)
    assert sorted(found) == ["mostly-loops", "no-text", "parts", "unread-field"]
    assert {code: f.values["count"] for code, f in found.items()} == {
        "mostly-loops": 2, "no-text": 1, "parts": 2, "unread-field": 2,
    }  # fmt: skip
    assert "reasoning 91%" in found["parts"].text
    assert not any(f.hard for f in found.values())


def test_answers_that_do_not_show_their_first_token_are_told() -> None:
    unseen = prompt_record(ttft_s=None, total_s=2.0)
    found = judged([unseen, prompt_record(ttft_s=0.1, total_s=2.0), prompt_record(ttft_s=None, total_s=None)],
                   moved=None)  # fmt: skip

    assert (found["first-token-unseen"].hard, found["first-token-unseen"].values) == (
        False,
        {"count": 1, "of": 3},
    )


def test_half_of_the_answers_is_not_most_of_them() -> None:
    two = [prompt_record(), prompt_record("instruct-002", text=LOOP)]
    three = [*two, prompt_record("instruct-003", text=LOOP)]

    assert not mostly_degenerate(judged(two).values())
    assert mostly_degenerate(judged(three, moved=None).values())


def test_a_failed_request_has_no_loop() -> None:
    failed = failed_record("instruct-002").model_copy(update={"text": LOOP})

    assert judged([prompt_record(), failed], moved=None) == {}


def test_an_answer_cut_before_max_tokens_met_the_end_of_the_context() -> None:
    records = [prompt_record(), cut_off("instruct-002")]
    found = judged(records, max_tokens=21)

    assert set(found) == {"cut-by-max-model-len"}
    assert found["cut-by-max-model-len"].hard
    assert found["cut-by-max-model-len"].values == {"count": 1, "of": 2}
    for figure in ("1 of 2 answers", "(21)", "instruct-002", "11 + 20 tokens"):
        assert figure in found["cut-by-max-model-len"].text
    assert "cut-by-max-model-len" not in judged(records, max_tokens=20)
    assert "cut-by-max-model-len" not in judged([prompt_record()], max_tokens=21, moved=None)


def test_a_drafter_that_remembers_is_clean_where_it_could_not_or_should() -> None:
    again = [prompt_record(), prompt_record(repeat=1)]

    assert judged(again) == {}
    assert judged(again, remembers=True, cache="warm") == {}
    assert judged(pair(), remembers=True) == {}
    assert judged([prompt_record(), prompt_record(repeat=1, server="beef")], remembers=True) == {}
    assert set(judged(again, remembers=True, cache="off")) == {"warm-suffix-cache"}


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        ({"method": "suffix", "settings": {}}, True),
        ({"method": "suffix", "settings": {"suffix_decoding_max_cached_requests": 5}}, True),
        ({"method": "suffix", "settings": {"suffix_decoding_max_cached_requests": 0}}, False),
        ({"method": "ngram", "settings": {}}, False),
        ({"method": None}, False),
    ],
)
def test_suffix_decoding_remembers_unless_told_not_to(subject: dict[str, Any], expected: bool) -> None:  # noqa: FBT001
    assert remembers(Subject(**subject)) is expected


@pytest.mark.parametrize(("field", "other"), [("host", "there"), ("run", "shard-1"), ("devices", ["1"])])
def test_a_speed_up_is_over_none_of_the_same_run_machine_and_devices(field: str, other: object) -> None:
    here = {"host": "here", "run": "shard-0", "devices": ["0"]}

    assert speed_up(cell(provenance=here), plain(provenance=here))
    assert speed_up(cell(provenance=here), plain(provenance=here | {field: other})) is None
