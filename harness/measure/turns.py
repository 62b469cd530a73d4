"""Goes on with a chat: what the model answered to the turns before stands between the user's messages."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

from harness.config.prompts import Prompt
from harness.results.grouping import grouped
from harness.results.records import PromptRecord

Done = Mapping[tuple[str, int], PromptRecord]
"""Answers by the prompt's id and the repeat."""


def lacking(repeats: Sequence[int], prompts: Sequence[Prompt], done: Done) -> list[list[tuple[Prompt, int]]]:
    """What has no answer yet, with its repeat; the turns of a row stand together, in order."""
    left = [(p, repeat) for repeat, p in itertools.product(repeats, prompts) if (p.id, repeat) not in done]
    return list(grouped(left, lambda one: (one[1], one[0].row)).values())


def with_history(prompt: Prompt, repeat: int, *, prompts: Sequence[Prompt], done: Done) -> Prompt:
    """A turn with the turns and answers before it. It stays as it is where one of these has no answer."""
    if prompt.after is None:
        return prompt
    before = next(p for p in prompts if p.id == prompt.after)
    answered = done.get((before.id, repeat))
    known = with_history(before, repeat, prompts=prompts, done=done)
    content = content_of(answered) if answered and not answered.failed else None
    if content is None or known.after:
        return prompt
    messages = (*known.messages, {"role": "assistant", "content": content}, *prompt.messages)
    return dataclasses.replace(prompt, messages=messages, after=None)


def content_of(record: PromptRecord) -> str | None:
    """What an answer says to the user, without its reasoning; None where it calls a tool."""
    found = texts_of(record)
    if any(name == "tool_calls" for name, _ in found):
        return None
    return "".join(text for name, text in found if name != "reasoning")


def texts_of(record: PromptRecord) -> list[tuple[str, str]]:
    """The parts of an answer, each with its text."""
    parts = record.parts or (("content", len(record.text)),)
    ends = itertools.accumulate(length for _, length in parts)
    return [(name, record.text[end - n : end]) for (name, n), end in zip(parts, ends, strict=True)]
