"""The `.jsonl` of a cell while it is measured: a line is on disk as soon as its prompt is answered."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from harness.errors import BadInput, BadRecord
from harness.results.files import as_line, json_object, write_atomically
from harness.results.records import SCHEMA, PromptRecord, validated

_OF_EVERY_HEAD = {"schema", "cell"}


class Journal:
    """The `.jsonl` of a cell being measured: a head line, then one line a prompt as it comes."""

    def __init__(self, path: Path, head: dict[str, Any]) -> None:
        """Open `path`, keeping what an interrupted run left there.

        Args:
            path: the file; made when absent.
            head: what the cell is; what is already there must have been measured for the same.

        Raises:
            BadRecord: the file is another cell's, or damaged elsewhere than in its last line.
            BadInput: it cannot be written.
        """
        self.path = path
        self.records: list[PromptRecord] = []
        head_line = json.dumps({"schema": SCHEMA, **head}, ensure_ascii=False, sort_keys=True)
        try:
            left = path.read_bytes() if path.exists() else b""
            torn = self._recover(left, head_line) if left else None
            if torn:
                os.truncate(path, len(left) - torn)
        except OSError as error:
            raise BadRecord(f"{path}: {error.strerror}", code="cannot-read") from None
        if torn is None or torn == len(left):
            write_atomically(path, head_line + "\n")
        self.segment = 1 + max((record.segment for record in self.records), default=-1)

    def _recover(self, left: bytes, head_line: str) -> int:
        """Take the records over; the bytes of a torn last line. Nothing is written."""
        lines = left.split(b"\n")
        torn = lines.pop()  # empty when the last write was whole
        head, first = head_line.encode(), [*lines, torn][0].removeprefix(codecs.BOM_UTF8)
        whole = first == head if lines else head.startswith(first)
        if not whole:
            raise BadRecord(
                f"{self.path}, line 1: these prompts were measured under other conditions "
                f"({_first_difference(first, head_line)}); start without --resume, "
                "or move the file away",
                code="other-conditions",
            )
        seen = set()
        for number, line in enumerate(lines[1:], start=2):
            where = f"{self.path}, line {number}"
            record = validated(json_object(line, where), PromptRecord, where=where)
            if (record.prompt, record.repeat) in seen:
                raise BadRecord(f"{where}: the prompt {record.prompt!r} stands in an earlier line too")
            seen.add((record.prompt, record.repeat))
            self.records.append(record)
        return len(torn)

    def append(self, record: PromptRecord) -> None:
        """Write one record; it is on disk when this returns.

        Raises:
            BadInput: the disk is full, or the file cannot be written.
        """
        line = as_line(record.model_dump(mode="json"))
        whole = None
        try:
            with self.path.open("ab") as file:
                whole = file.tell()
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if whole is not None:
                with contextlib.suppress(OSError):  # half a line must not be glued to the next one
                    os.truncate(self.path, whole)
            raise BadInput(
                f"cannot write {self.path}: {error.strerror}; the {len(self.records)} prompts before "
                "are kept, --resume goes on from there",
                code="cannot-write",
            ) from None
        self.records.append(record)


def answers_in(path: Path) -> int | None:
    """How many answers the journal of a cell holds; None where a file is no such journal, or cannot be read.

    A suite may keep other lines beside its cells: the questions that were asked, the tokens of a prompt.
    """
    try:
        with path.open("rb") as file:
            head = json_object(file.readline(), str(path))
            return sum(line.endswith(b"\n") for line in file) if head.keys() >= _OF_EVERY_HEAD else None
    except (OSError, BadRecord):
        return None


def _first_difference(old: bytes, new: str) -> str:
    try:
        return difference(json.loads(old), json.loads(new))
    except (ValueError, AttributeError, TypeError, RecursionError):
        pass
    return "its first line is not the head of this cell"


def difference(before: dict[str, Any], after: dict[str, Any], within: str = "") -> str:
    """The first key, by its name, that differs, with both values: `seed was 0, is 1`."""
    key = min(key for key in {*before, *after} if before.get(key) != after.get(key))
    old, new = before.get(key), after.get(key)
    if isinstance(old, dict) and isinstance(new, dict):
        return difference(old, new, f"{within}{key}.")
    return f"{within}{key} was {_short(old)}, is {_short(new)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."  # noqa: PLR2004


def in_order(records: Iterable[PromptRecord], prompts: Sequence[str]) -> tuple[PromptRecord, ...]:
    """Sorted as the prompt file has them, repeats together: the order of a cell file."""
    place = {prompt: i for i, prompt in enumerate(prompts)}
    return tuple(sorted(records, key=lambda r: (place.get(r.prompt, len(place)), r.prompt, r.repeat)))
