"""Reads prompt files: a JSON object a line, `{"id": ..., "kind": ..., "text": ...}`.

Files of one workload have the same ids in every language. Held-out prompts say their language themselves.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import BadInput, BadRecord
from harness.results.files import json_lines
from harness.results.records import PromptRecord
from harness.text.validation import did_you_mean

HELD_OUT = "held_out.jsonl"
"""The file of prompts that training kept back, in the folder of a drafter."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt:
    """One request: a text, or the message of a chat that the model answers."""

    id: str
    language: str
    text: str
    """What is asked. Of a chat: all its messages but the model's answers, and its request fields, as JSON."""
    category: str | None = None
    messages: tuple[Mapping[str, Any], ...] = ()
    """What is sent over chat, where it is more than the text as a user's message."""
    request: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Further fields of the request: tools, a schema of the answer."""
    after: str | None = None
    """The id of the turn before. Its messages and its answer come before these."""
    row: str = ""
    """The id of the first of its turns."""

    @property
    def may_call(self) -> bool:
        """The target decides whether it calls a tool: the engine needs a parser to tell."""
        return bool(self.request.get("tools")) and self.request.get("tool_choice") in (None, "auto")

    def __post_init__(self) -> None:
        """A prompt of one turn is its own row."""
        object.__setattr__(self, "row", self.row or self.id)


def first_rows(prompts: Iterable[Prompt], count: int | None) -> tuple[Prompt, ...]:
    """The prompts of the first `count` rows, or of all."""
    prompts = tuple(prompts)
    rows = set(list(dict.fromkeys(prompt.row for prompt in prompts))[:count])
    return tuple(prompt for prompt in prompts if prompt.row in rows)


def load_prompts(
    folder: Path, workload: str, language: str, *, at_most: int, after: int = 0
) -> tuple[Prompt, ...]:
    """The first `at_most` prompts of `folder/workload/language.jsonl` behind the first `after`.

    Raises:
        BadInput: there is no such file, it is empty, or a line of it is not a prompt.
    """
    path = folder / workload / f"{language}.jsonl"
    if not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.jsonl"))
        others = sorted(p.name for p in folder.glob("*/"))
        there = f"{workload} has: {', '.join(known)}"
        if not known:
            there = (
                f"no workload is called so{did_you_mean(workload, others)}; there are: {', '.join(others)}; "
            )
            there += f"a table [prompts.{workload}] of the stack names a file of your own"
        raise BadInput(
            f"{path}: no prompts for workload {workload!r} in language {language!r}; {there}",
            code="no-prompts",
        )
    return _of_ours(path, language, path.stat().st_mtime_ns)[after:][:at_most]


@functools.lru_cache(maxsize=64)  # thousands of cells ask the same prompts
def _of_ours(path: Path, language: str, _time_ns: int) -> tuple[Prompt, ...]:
    return _read(path, language=language)


def load_held_out(path: Path) -> tuple[Prompt, ...]:
    """The prompts of a held-out file. Of each line it takes id, language and text, and ignores the rest.

    Raises:
        BadRecord: a line lacks one of them, with its number, or two are of one prompt.
    """
    return _read(path)


def _read(path: Path, *, language: str | None = None) -> tuple[Prompt, ...]:
    """All prompts of a file; `language` is theirs where it is given."""
    prompts: dict[str, Prompt] = {}
    for line in json_lines(path):
        known = {**line.data, "language": language or line.data.get("language")}
        for field in ("id", "language", "text"):
            if not isinstance(known.get(field), str) or not known[field].strip():
                raise BadRecord(f"{line.where}: field {field} is missing or empty: fill it in")
        prompt = Prompt(id=known["id"], language=known["language"], text=known["text"])
        if prompt.id in prompts:
            raise BadRecord(f"{line.where}: the id {prompt.id!r} stands in an earlier line too")
        prompts[prompt.id] = prompt
    return tuple(prompts.values())


def check_texts(prompts: Sequence[Prompt], records: Iterable[PromptRecord], path: Path) -> None:
    """Refuse answers of an earlier run to prompts that have been edited since.

    Raises:
        BadRecord: a prompt had another text; `path` is where its answer stands.
    """
    texts = {prompt.id: hash_of(prompt.text) for prompt in prompts}
    for record in records:
        asked = record.prompt_text_hash
        if asked and texts.get(record.prompt, asked) != asked:
            raise BadRecord(
                f"{path}: the prompt {record.prompt} had another text when it was asked; start without "
                "--resume, or move the file away",
                code="other-conditions",
            )


def hash_of(value: str | Sequence[int]) -> str:
    """A short hash of a text or of a prompt's token ids, for records."""
    text = value if isinstance(value, str) else json.dumps(list(value))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
