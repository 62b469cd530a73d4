"""Prompt files: one JSON object a line, `{"id": ..., "kind": ..., "text": ...}`.

Files of one workload are parallel by id across languages.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from harness.errors import BadInput
from harness.records import read_text


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
    # Not splitlines(): it also breaks at characters that may stand inside a JSON string.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            data = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{where}: not JSON: {error}") from None
        if not isinstance(data, dict):
            raise BadInput(f"{where}: not an object with id and text")
        for field in ("id", "text"):
            value = data.get(field)
            if not isinstance(value, str) or not value.strip():
                raise BadInput(f"{where}: field {field} is missing or empty")
            if any("\ud800" <= letter <= "\udfff" for letter in value):
                raise BadInput(f"{where}: field {field} is no Unicode text (half of a surrogate pair)")
        if data["id"] in seen:
            raise BadInput(f"{where}: the id {data['id']!r} stands in an earlier line too")
        seen.add(data["id"])
        prompts.append(Prompt(id=data["id"], language=language, text=data["text"]))
    return tuple(prompts[:at_most])
