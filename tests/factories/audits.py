"""A sound audit of two endpoints: what was sent, what was answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.config.prompts import hash_of
from harness.measure.chat_template import Shell
from harness.results.records import PromptRecord
from harness.suites.endpoints import CHAT, RAW, TEMPLATED, VARIANTS, Audit, Rendered
from tests.factories.records import cell_name, cell_record, prompt_record

BOS, USER, END, ASSISTANT = 1, 10, 11, 12
SHELL = Shell(before=(BOS, USER), after=(END, ASSISTANT), bos=BOS)
WORDS = (50, 51, 52)
WHOLE = (BOS, USER, *WORDS, END, ASSISTANT)


def audit(ids: Mapping[str, tuple[int, ...]], records: Mapping[str, list[PromptRecord]]) -> Audit:
    """Over each variant every prompt is the same tokens."""
    rendered = {
        v: tuple(
            Rendered(
                prompt=r.prompt, variant=v, ids=ids[v], template=SHELL.template(ids[v]),
                double_bos=SHELL.double_bos(ids[v]),
            )
            for r in records[v]
        )
        for v in VARIANTS
    }  # fmt: skip
    named = {CHAT: cell_name(), RAW: cell_name(endpoint="raw"), TEMPLATED: cell_name(endpoint="raw")}
    return Audit(records={v: cell_record(*records[v], cell=named[v]) for v in VARIANTS}, rendered=rendered)


def answers(ids: tuple[int, ...], *, easy: int = 0, **changes: Any) -> list[PromptRecord]:
    """Eight prompts, the first `easy` of them loops that are guessed whole."""
    hashed = {"prompt_hash": hash_of(list(ids)), **changes}
    whole = {"accepted": None, "drafted": None, "histogram": (0, 0, 0, 0, 4), "undrafted": 0,
             "draft_tokens": 16, "output_tokens": 21}  # fmt: skip
    return [prompt_record(f"p{i}", **(hashed | (whole if i < easy else {}))) for i in range(8)]


SENT = {CHAT: WHOLE, RAW: WORDS, TEMPLATED: WHOLE}


def good() -> Audit:
    return audit(SENT, {CHAT: answers(WHOLE), RAW: answers(WORDS, easy=4), TEMPLATED: answers(WHOLE)})
