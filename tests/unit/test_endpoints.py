from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from harness.measure.chat_template import Shell, shell_of
from harness.suites.endpoints import CHAT, RAW, TEMPLATED, Audit, rows, token_lines
from tests.factories.audits import ASSISTANT, BOS, END, SENT, SHELL, USER, WHOLE, WORDS, answers, audit, good
from tests.factories.tables import texts_of


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (WHOLE, "present"),
        (WORDS, "missing"),
        ((BOS, *WORDS), "missing"),
        ((BOS, USER, *WHOLE, END, ASSISTANT), "doubled"),
        ((BOS, *WHOLE), "partial"),
        ((*WORDS, END, ASSISTANT), "partial"),
        ((), "missing"),
    ],
)
def test_a_template_is_told_by_its_tokens(ids: tuple[int, ...], expected: str) -> None:
    assert SHELL.template(ids) == expected


def test_a_text_that_begins_twice_has_a_double_bos() -> None:
    assert SHELL.double_bos((BOS, *WHOLE))
    assert not SHELL.double_bos(WHOLE)
    assert not Shell(before=(), after=(), bos=None).double_bos((3, 3))


class Fake:
    """A tokenizer: a token a character, the template of `SHELL` around them."""

    def __init__(self, *, bos: bool) -> None:
        self._bos = (BOS,) if bos else ()

    def chat(self, text: str) -> tuple[int, ...]:
        return (BOS, USER, *map(ord, text), END, ASSISTANT)

    def raw(self, text: str, *, special: bool = True) -> tuple[int, ...]:
        return (*(self._bos if special else ()), *map(ord, text))


@pytest.mark.parametrize("bos", [True, False])
def test_the_template_is_what_two_prompts_have_in_common(bos: bool) -> None:  # noqa: FBT001
    assert shell_of(Fake(bos=bos)) == SHELL  # type: ignore[arg-type]


def test_a_sound_pair_of_endpoints_differs_by_the_template_alone() -> None:
    found = good()
    assert found.faults() == []
    assert found.within_noise()
    said = found.sentences()
    assert said[0] == "raw + template: the tokens of chat in 8 of 8 prompts, its answer in 8"
    assert said[1].startswith("raw against chat: tokens per step +")
    assert said[2].startswith("of it the missing template: +")
    assert said[2].endswith("the endpoint itself: the same in all 8 prompts")


def test_the_table_has_a_row_for_each_way() -> None:
    header, table = texts_of(rows(good()))
    assert header[:3] == ["sent over", "n", "template"]
    assert [row[:4] for row in table] == [
        ["chat", "8", "present", "no"],
        ["raw", "8", "missing", "no"],
        ["raw + template", "8", "present", "no"],
    ]


def test_a_template_that_chat_applies_twice_or_not_is_a_fault() -> None:
    twice = (BOS, USER, *WHOLE, END, ASSISTANT)
    records = {CHAT: answers(twice), RAW: answers(WORDS), TEMPLATED: answers(WHOLE)}
    assert audit({**SENT, CHAT: twice}, records).faults() == [
        "chat: 8 prompts, p0 first, have the template doubled"
    ]
    records[CHAT] = answers(WORDS)
    assert audit({**SENT, CHAT: WORDS}, records).faults() == [
        "chat: 8 prompts, p0 first, have the template missing"
    ]


def test_a_double_bos_is_told_wherever_it_is() -> None:
    doubled = (BOS, *WHOLE)
    records = {CHAT: answers(WHOLE), RAW: answers(WORDS), TEMPLATED: answers(doubled)}
    found = audit({**SENT, TEMPLATED: doubled}, records)
    assert "raw + template: 8 of 8 prompts have a double BOS" in found.sentences()
    assert rows(found).rows[2][3] == "8 of 8"


def test_the_same_tokens_with_another_acceptance_are_a_fault() -> None:
    records = {CHAT: answers(WHOLE), RAW: answers(WORDS), TEMPLATED: answers(WHOLE, easy=7)}
    assert audit(SENT, records).faults() == [
        "raw + template sends the same tokens as chat, but another share of drafts is accepted"
    ]


def test_an_answer_from_other_tokens_than_the_audit_saw_is_a_fault() -> None:
    records = {CHAT: answers(WORDS), RAW: answers(WORDS), TEMPLATED: answers(WHOLE)}
    assert audit(SENT, records).faults() == [
        "chat: 8 prompts, p0 first, were answered from other tokens than /tokenize gives"
    ]


def test_every_prompt_s_tokens_are_kept() -> None:
    lines = [json.loads(line) for line in token_lines(good()).splitlines()]
    assert len(lines) == 24
    assert lines[0] == {
        "prompt": "p0", "variant": "chat", "ids": list(WHOLE), "template": "present", "double_bos": False,
    }  # fmt: skip


def told(**changes: Any) -> Audit:
    """An audit whose answers over chat are of other tokens than /tokenize gave before."""
    records = {
        CHAT: answers(WORDS, prompt_text_hash="t", **changes),
        RAW: answers(WORDS),
        TEMPLATED: answers(WHOLE),
    }
    return audit(SENT, records)


def test_a_template_that_writes_the_time_is_no_fault() -> None:
    assert any("/tokenize" in fault for fault in told().faults())
    moving = dataclasses.replace(told(), steady=False)
    assert not any("/tokenize" in fault for fault in moving.faults())
    assert len(moving.sentences()) == len(told().sentences()) + 1


def test_tokens_that_a_server_hides_are_no_fault() -> None:
    hidden = told(prompt_hash="t")
    assert not any("/tokenize" in fault for fault in hidden.faults())
    assert len(hidden.sentences()) == len(told().sentences()) + 1
