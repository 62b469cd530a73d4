"""The beginning that two answers share before their texts part, as records of its own."""

from __future__ import annotations

from harness.results.records import PromptRecord
from harness.stats.acceptance import UNDRAFTED, histogram_of
from harness.stats.same_text import common_tokens, steps_within

Answers = tuple[PromptRecord, ...]


def beginning_of(old: Answers, new: Answers) -> tuple[Answers, Answers] | None:
    """The answers to a prompt on both sides, each cut before its text and that of its partner part.

    Of a conversation nothing is left behind the turn that parts: what follows it is another prompt.

    Returns:
        None where the records of one do not say where that is.
    """
    cut: list[tuple[PromptRecord, PromptRecord]] = []
    parted: set[int] = set()
    for a, b in zip(old, new, strict=False):
        sides = _cut(a, b, nothing=bool(a.conversation) and a.repeat in parted)
        if sides is None:
            return None
        cut.append(sides)
        if sides[0] is not a:
            parted.add(a.repeat)
    return tuple(a for a, _ in cut), tuple(b for _, b in cut)


def _cut(old: PromptRecord, new: PromptRecord, *, nothing: bool) -> tuple[PromptRecord, PromptRecord] | None:
    if not nothing and old.text_hash == new.text_hash and old.token_ids in (None, new.token_ids):
        return old, new
    if old.token_ids is None or new.token_ids is None:
        return None
    tokens = 0 if nothing else common_tokens(old.token_ids, new.token_ids)
    first, second = (_first(record, tokens, text_hash=old.text_hash) for record in (old, new))
    return (first, second) if first and second else None


def _first(record: PromptRecord, tokens: int, *, text_hash: str) -> PromptRecord | None:
    """The steps that end within the first `tokens` tokens, as an answer of their own."""
    by_step = record.accepted_by_step
    if by_step is None:
        return None
    by_step = by_step[: steps_within(by_step, tokens)]
    accepted = tuple(step for step in by_step if step != UNDRAFTED)
    committed = tuple(1 + max(0, step) for step in by_step)
    return record.model_copy(
        update={
            "accepted": accepted,
            "drafted": None,
            "draft_tokens": None,
            "histogram": histogram_of(accepted, len(record.histogram) - 1),
            "undrafted": len(by_step) - len(accepted),
            "steps": committed,
            "output_tokens": 1 + sum(committed),
            "token_ids": (record.token_ids or ())[: 1 + sum(committed)],
            "finish": "stop",  # nothing after its last token is counted
            "text_hash": text_hash,
            "text": "",
            "parts": None,
        }
    )
