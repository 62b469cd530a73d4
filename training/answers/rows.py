"""Checks, splits and orders the rows of responses.jsonl. Their tokens stay in the file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import BadInput
from harness.results.files import Line, json_lines

MOST_TOKENS = 2**31
"""No vocabulary has so many."""
_NEEDED: dict[str, type | tuple[type, ...]] = {
    "id": str,
    "language": str,
    "source": str,
    "prompt": str,
    "temperature": (int, float),
    "input_ids": list,
    "loss_mask": list,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One answer as the trainer will see it."""

    id: str
    language: str
    temperature: float
    tokens: int
    supervised: int
    cut: bool
    """It was longer than the trainer reads."""
    digest: bytes
    offset: int
    size: int


def index(path: Path, length: int) -> tuple[list[Row], int]:
    """The rows that have a token to learn within `length` tokens, and how many rows have none.

    Raises:
        BadInput: with file, line and the columns there are.
    """
    rows: list[Row] = []
    seen: set[str] = set()
    unsupervised = 0
    for line in json_lines(path, may_be_empty=True):
        _check(line)
        if line.data["id"] in seen:
            raise BadInput(
                f"{line.where}: the id {line.data['id']!r} stands in an earlier line too", code="damaged-file"
            )
        seen.add(line.data["id"])
        ids, mask = within(line.data, length)
        if not any(mask):
            unsupervised += 1
            continue
        rows.append(
            Row(
                id=line.data["id"],
                language=line.data["language"],
                temperature=float(line.data["temperature"]),
                tokens=len(ids),
                supervised=sum(mask),
                cut=len(line.data["input_ids"]) > length,
                digest=digest(ids, mask),
                offset=line.offset,
                size=line.size,
            )
        )
    return rows, unsupervised


def _check(line: Line) -> None:
    line.need(_NEEDED)
    ids, mask = line.data["input_ids"], line.data["loss_mask"]
    if not 0 <= line.data["temperature"] < 100:  # noqa: PLR2004 - NaN too is none
        raise BadInput(f"{line.where}: {line.data['temperature']} is not a temperature", code="damaged-rows")
    if len(ids) != len(mask):
        raise BadInput(
            f"{line.where}: {len(ids)} input_ids, but {len(mask)} in loss_mask", code="damaged-rows"
        )
    if not are_tokens(ids):
        raise BadInput(f"{line.where}: input_ids holds something that is no token id", code="damaged-rows")
    if not are_marks(mask):
        raise BadInput(f"{line.where}: loss_mask holds something else than 0 and 1", code="damaged-rows")


def are_tokens(values: Sequence[Any]) -> bool:
    """Each could be a token's id."""
    return all(type(i) is int and 0 <= i < MOST_TOKENS for i in values)


def are_marks(values: Sequence[Any]) -> bool:
    """Each is 0 or 1."""
    return all(type(m) is int and m in {0, 1} for m in values)


def within(data: dict[str, Any], length: int) -> tuple[list[int], list[int]]:
    """Tokens and mask of a row, cut where the trainer stops reading."""
    return data["input_ids"][:length], data["loss_mask"][:length]


def digest(ids: Sequence[int], mask: Sequence[int]) -> bytes:
    """A hash of tokens and mask; lists and arrays of the same values have the same."""
    both = np.asarray([ids, mask], dtype=np.int64)
    return hashlib.blake2b(both.tobytes(), digest_size=16).digest()


def contents_of(path: Path, rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """What the file holds of these rows, in their order."""
    with path.open("rb") as file:
        for row in rows:
            file.seek(row.offset)
            yield json.loads(file.read(row.size))


def arranged(rows: Sequence[Row], trained: int, *, seed: int) -> list[Row]:
    """Shuffle the rows. The first `trained` of them are trained on, the others are the validation.

    Both have the same share of every language and temperature. The order depends on the rows' ids and the
    seed, not on the order in which the answers came.
    """
    groups: dict[tuple[str, float], list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda r: _chance(r.id, seed)):
        groups[row.language, row.temperature].append(row)
    share = (len(rows) - trained) / len(rows)
    wanted = {group: share * len(groups[group]) for group in sorted(groups)}
    taken = {group: int(n) for group, n in wanted.items()}
    by_remainder = sorted(wanted, key=lambda group: (taken[group] - wanted[group], group))
    for group in by_remainder[: len(rows) - trained - sum(taken.values())]:
        taken[group] += 1
    validation = {row.id for group, n in taken.items() for row in groups[group][:n]}
    return sorted(rows, key=lambda r: (r.id in validation, _chance(r.id, seed + 1)))


def _chance(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/{name}".encode()).digest()
