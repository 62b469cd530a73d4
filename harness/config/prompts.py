"""Prompt files: one JSON object a line, `{"id": ..., "kind": ..., "text": ...}`.

Files of one workload are parallel by id across languages.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.errors import BadInput, BadRecord
from harness.results.records import read_text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt:
    """One line of a prompt file."""

    id: str
    language: str
    text: str


def load(folder: Path, workload: str, language: str, *, at_most: int) -> tuple[Prompt, ...]:
    """The first `at_most` prompts of `folder/workload/language.jsonl`.

    Raises:
        BadInput: there is no such file, it is empty, or a line of it is not a prompt.
    """
    path = folder / workload / f"{language}.jsonl"
    if not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.jsonl"))
        there = f"{workload} has: {', '.join(known)}" if known else f"there is no folder {path.parent.name}"
        raise BadInput(f"{path}: no prompts for workload {workload!r} in language {language!r}; {there}")
    prompts: list[Prompt] = []
    seen: set[str] = set()
    for where, data in objects(path):
        for field in ("id", "text"):
            value = data.get(field)
            if not isinstance(value, str) or not value.strip():
                raise BadInput(f"{where}: field {field} is missing or empty")
        if data["id"] in seen:
            raise BadInput(f"{where}: the id {data['id']!r} stands in an earlier line too")
        seen.add(data["id"])
        prompts.append(Prompt(id=data["id"], language=language, text=data["text"]))
    return tuple(prompts[:at_most])


def objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The JSON objects of a file that has one a line, and where each stands.

    Raises:
        BadRecord: the file cannot be read or is empty, or a line is no object.
    """
    # Not splitlines(): it also breaks at characters that may stand inside a JSON string.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            data = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadRecord(f"{where}: not JSON: {error}") from None
        if not isinstance(data, dict):
            raise BadRecord(f"{where}: not an object")
        if "\\ud" in line.lower() and re.search("[\ud800-\udfff]", json.dumps(data, ensure_ascii=False)):
            raise BadRecord(f"{where}: no Unicode text (half of a surrogate pair)")
        yield where, data


def hash_of(value: str | Sequence[int]) -> str:
    """What a record knows a text by, or the token ids of a prompt."""
    text = value if isinstance(value, str) else json.dumps(list(value))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
