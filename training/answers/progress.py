"""Reads which prompts have an answer and which failed, also while speculators still writes."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from harness.results.files import complete_lines, json_lines
from training.answers.rows import Token, Tokens

PERMANENT = ("InvalidResponseError(", "ValueError(")
"""How speculators begins its record of an error that would come again."""


def errors_of(raw_file: Path) -> Path:
    """The file of the requests that failed."""
    return raw_file.with_name(f"{raw_file.stem}.errors{raw_file.suffix}")


def failures(raw_file: Path) -> dict[str, str]:
    """Each failed prompt's id and its last error; it may have an answer since."""
    found = {}
    for row in complete_lines(errors_of(raw_file)):
        metadata = row.get("metadata")
        found[str(row.get("id"))] = str(metadata.get("error") if isinstance(metadata, dict) else metadata)
    return found


class _Generated(Tokens):
    input_ids: list[Token] = Field(min_length=1)
    metadata: dict[str, Any]


def well_formed(row: dict[str, Any]) -> bool:
    """Whether a row has token ids, a mask of the same length, and a record of its answer."""
    try:
        return bool(_Generated.model_validate(row))
    except ValidationError:
        return False


class Answers:
    """The answers so far to the prompts of one file."""

    def __init__(self, ask_file: Path, raw_file: Path) -> None:
        self.asked = [str(line.data["id"]) for line in json_lines(ask_file, may_be_empty=True)]
        self._raw_file = raw_file
        self._offset = 0
        self._tokens = 0
        self._answered: set[str] = set()
        self.restart_clock()

    def restart_clock(self) -> None:
        """Measure rates from now on."""
        self._look()
        self._began = time.monotonic()
        self._before, self._tokens_before = len(self._answered), self._tokens

    def waiting(self) -> list[str]:
        """The ids of prompts that have neither an answer nor a permanent error."""
        self._look()
        failed = failures(self._raw_file)
        return [
            i for i in self.asked if i not in self._answered and not failed.get(i, "").startswith(PERMANENT)
        ]

    def progress(self) -> str:
        """How many answers there are, how fast they come, and how long the rest takes."""
        self._look()
        took = max(time.monotonic() - self._began, 1e-9)
        rate = (len(self._answered) - self._before) / took
        left = (
            f"{(len(self.asked) - len(self._answered)) / rate:.0f} s left" if rate else "none since the start"
        )
        return (
            f"{len(self._answered)} of {len(self.asked)}, {rate:.1f}/s, "
            f"{(self._tokens - self._tokens_before) / took:.0f} tokens/s, {left}"
        )

    def _look(self) -> None:
        if not self._raw_file.exists():
            return
        with self._raw_file.open("rb") as file:
            file.seek(self._offset)
            for raw in file:
                if not raw.endswith(b"\n"):
                    break  # it is still being written, or torn
                self._offset += len(raw)
                self._count(raw)

    def _count(self, raw: bytes) -> None:
        try:
            row = json.loads(raw)
            primary_id = str(row["primary_id"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return
        if primary_id not in self._answered:
            self._answered.add(primary_id)
            # Only a rate depends on it.
            with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError):
                self._tokens += int(row["metadata"]["usage"]["completion_tokens"])
