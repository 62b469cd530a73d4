"""Reads prompts from a local file, or from a data set of the hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.errors import BadInput, reason_of
from harness.results.files import json_lines
from harness.text.validation import kind_of
from training.recipe import Source

COLUMNS = ("text", "prompt", "messages")
"""Of a local file. The first of them that a line has is read."""
BUFFER = 10_000
"""Rows of a streamed data set that are shuffled together."""


def local(path: Path) -> Iterator[str]:
    """Read the prompt of each line.

    Raises:
        BadInput: with file, line, and the columns that there are.
    """
    for line in json_lines(path, may_be_empty=True):
        yield _prompt_of(line.data, COLUMNS, line.where)


def hub(source: Source, *, seed: int) -> Iterator[str]:
    """Stream the prompts of a data set of the hub, in an order that the seed decides.

    Raises:
        BadInput: it cannot be reached, or has no such column.
    """
    from datasets import load_dataset  # noqa: PLC0415 - seconds, and only this needs it

    name = f"the data set {source.dataset}"
    try:
        rows = load_dataset(source.dataset, split=source.split, streaming=True)
        for number, row in enumerate(rows.shuffle(seed=seed, buffer_size=BUFFER), start=1):
            yield _prompt_of(row, (source.field,), f"{name}, row {number}")
    except BadInput:
        raise
    except Exception as error:  # noqa: BLE001 - hub, network and parsers each raise their own
        raise BadInput(
            f"{name}, split {source.split!r}, cannot be read ({type(error).__name__}: {reason_of(error)}); "
            "check its name and the network, or save it as JSON lines and make it a source of kind 'jsonl'",
            code="too-few-prompts",
        ) from None


def _prompt_of(row: dict[str, Any], columns: Sequence[str], where: str) -> str:
    """The prompt in the first of these columns that the row has."""
    for column in columns:
        if column in row:
            return _prompt_in(row[column], f"{where}: column {column!r}")
    wanted, there = " or ".join(map(repr, columns)), ", ".join(sorted(row)) or "none"
    raise BadInput(f"{where}: there is no column {wanted}; there are: {there}", code="source-column")


def _prompt_in(value: Any, where: str) -> str:
    """A text, or the first user turn of a list of messages; empty where there is none."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise BadInput(
            f"{where} holds {kind_of(value)}, not a text or a list of messages", code="source-column"
        )
    for message in value:
        if not isinstance(message, dict):
            raise BadInput(
                f"{where} holds a list of {kind_of(message)}, not of messages",
                code="source-column",
            )
        role = message.get("role", message.get("from"))
        text = message.get("content", message.get("value"))
        if role in {"user", "human"} and isinstance(text, str):
            return text
    return ""
