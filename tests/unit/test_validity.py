from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, strategies as st

from harness.records import Finding, PromptRecord
from harness.validity import countable, findings, in_language, loops, total
from tests.unit.making import cell_name, failed_record, prompt_record

ENGLISH = (
    "The lighthouse keeper found a postcard under the door. It was addressed to the sea, in a hand he did "
    "not know, and the stamp showed a ship that had gone down before he was born. He read it twice "
    "and went up."
)
CHINESE = (
    "燈塔管理員在門縫下發現一張明信片，收信人寫的是「大海」，字跡他從沒見過，郵票上的那艘船在他出生以前就沉沒了。"
    "他讀了兩遍，然後慢慢走上樓梯，把信放在燈下，等著看會不會有人來取。"
)
CODE = """\
def merge(ranges):
    merged = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged
"""

# Language


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        (ENGLISH, "en", True),
        (ENGLISH, "zh", False),
        (CHINESE, "zh", True),
        (CHINESE, "en", False),
        ("請用 Python 的 asyncio 模組寫一個網路爬蟲，並且加上重試的機制。", "zh", True),
        ("請用 Python 的 asyncio 與 aiohttp 寫爬蟲", "zh", True),
        ("The word 海 means sea, and 山 means mountain, in Chinese and in Japanese.", "en", True),
        ("Café résumé naïve Übergröße", "en", True),
        (CODE, "en", True),
        ("", "en", None),
        ("OK", "en", None),
        ("好", "zh", None),
        ("1234 5678 90 !!! ---- \n\n\t 42.0", "en", None),
        ("🙂🙂🙂🙂🙂🙂🙂🙂", "zh", None),
        (ENGLISH, "ja", None),
        ("Да, конечно, это маяк", "en", None),
    ],
)
def test_the_language_of_an_answer(text: str, language: str, expected: bool | None) -> None:  # noqa: FBT001
    assert in_language(text, language) is expected


@given(st.text(), st.sampled_from(["en", "zh", "ja"]))
def test_no_answer_is_in_two_languages(text: str, language: str) -> None:
    assert in_language(text, language) in (True, False, None)
    assert not (in_language(text, "en") and in_language(text, "zh"))


# Loops


@pytest.mark.parametrize(
    "text",
    [
        ENGLISH + " and went up." * 30,
        ENGLISH
        + " 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1.",
        CHINESE + "他又讀了一遍，" * 10,
        CHINESE + "啊" * 60,
        CODE + "    return merged\n" * 12,
        "!" * 64,
        "\n\n\n" + "a b " * 20 + "\n\n",
        "Here it is:" + ("\n" + ENGLISH) * 3,
        "The answer is 4. " * 2 + "The answer is 4.\nThe" * 20,
    ],
)
def test_an_answer_that_ends_in_one_piece_over_and_over_loops(text: str) -> None:
    assert loops(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   \n",
        "OK",
        "ha ha ha",
        "a" * 23,
        ENGLISH,
        CHINESE,
        CODE,
        "Here it is:" + ("\n" + ENGLISH) * 2,  # twice is no loop
        "very " * 20 + ENGLISH,  # in the beginning, not at the end
        ENGLISH * 1 + "-" * 20,  # a short rule at the end is less than 30 %
        "\n".join(f"{i}. Point number {i} is about {i * 7919} things" for i in range(1, 20)),
    ],
)
def test_an_answer_that_goes_on_does_not_loop(text: str) -> None:
    assert not loops(text)


def test_long_answers_are_judged_too() -> None:
    different = " ".join(f"word{i}" for i in range(600))

    assert len(different) > 4000
    assert not loops(different[:5000])
    assert not loops("ab" * 1000 + "c" + different[:2900])
    assert loops(different[:3000] + "and so on, " * 180)
    assert loops("a" * 5000)


@given(st.text(min_size=1, max_size=8).filter(lambda piece: piece == piece.strip()), st.text(max_size=30))
def test_anything_often_enough_repeated_is_a_loop(piece: str, before: str) -> None:
    assert loops(before + piece * 40)


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
    values: dict[str, Any] = {"moved": moved(), "requests": len(records), "cache": "cold", "mends": ()}
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
        "instruct-002: steps and tokens do not add up: 21 output tokens, but 1 + 19 from its steps",
    ),
    (
        "not-reconciled",
        True,
        lambda: judged(
            [prompt_record(), prompt_record("instruct-002", output_tokens=15)], moved=moved(generated=35)
        ),
        "instruct-002: steps and tokens do not add up: 15 output tokens, but 1 + 19 from its steps",
    ),
    (
        "foreign-traffic",
        True,
        lambda: judged(pair(), moved=moved(finished=3)),
        "the server finished 3 requests while 2 of ours ran",
    ),
    (
        "counters-disagree",
        True,
        lambda: judged(pair(), moved=moved(drafts=13, accepted=21)),
        "/metrics and the responses differ: drafts 13 against 12 of ours; accepted 21 against 22 of ours",
    ),
    (
        "counters-disagree",
        True,
        lambda: judged(pair(), moved=moved(generated=41)),
        "generated 41 against 40 of ours",
    ),
    (
        "warm-cache",
        True,
        lambda: judged(pair(), moved=moved(cached=16)),
        "16 prompt tokens came from the prefix cache, which should be cold",
    ),
    (
        "no-drafts",
        True,
        lambda: judged(
            pair(accepted=(), drafted=(), histogram=(0,) * 5, draft_tokens=0, undrafted=19),
            moved=moved(drafts=0, draft_tokens=0, accepted=0),
        ),
        "the drafter proposed nothing in any step",
    ),
    (
        "dead-drafter",
        True,
        lambda: judged(
            pair(accepted=None, drafted=None, histogram=(25, 0, 0, 0, 0), undrafted=0, output_tokens=26),
            moved=moved(drafts=50, accepted=0, generated=52),
        ),
        "none of 50 drafts had its first token accepted",
    ),
    (
        "other-language",
        False,
        lambda: judged([prompt_record(), prompt_record("instruct-002", text=CHINESE)]),
        "1 of 2 answers are not in the prompt's language (en)",
    ),
    (
        "loops",
        False,
        lambda: judged([prompt_record(), prompt_record("instruct-002", text="la " * 30)]),
        "1 of 2 answers end in a loop",
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
        "1 of 3 answers ended before their first decode step",
    ),
    (
        "engine-mended",
        False,
        lambda: judged(pair(), mends=[{"fault": "cpu-temperature", "mended": True}]),
        "the engine runs with a mend: cpu-temperature",
    ),
]


@pytest.mark.parametrize(("code", "hard", "sprung", "says"), SPRUNG)
def test_each_finding_is_sprung_alone(
    code: str,
    hard: bool,  # noqa: FBT001
    sprung: Callable[[], dict[str, Finding]],
    says: str,
) -> None:
    found = sprung()

    assert set(found) == {code}
    assert found[code].hard is hard
    assert says in found[code].text


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
    assert judged(pair(), mends=[{"fault": "cpu-temperature", "mended": False}]) == {}


def test_only_answers_with_a_decode_step_count() -> None:
    short = prompt_record("instruct-002", output_tokens=1, histogram=(0,) * 5, accepted=(), drafted=(),
                          undrafted=0, draft_tokens=0)  # fmt: skip
    records = [prompt_record(), short, failed_record("instruct-003")]

    assert [countable(record) for record in records] == [True, False, False]
    assert (total(records).committed, total(records).output_tokens) == (19, 20)


def test_the_total_of_nothing_has_no_figures() -> None:
    assert total([]).tau is None
