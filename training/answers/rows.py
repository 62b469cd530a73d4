"""Checks, splits and orders the rows of responses.jsonl. Their tokens stay in the file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from harness.errors import BadInput
from harness.results.files import json_lines

MOST_TOKENS = 2**31
"""More than any vocabulary has."""
Token = Annotated[int, Field(ge=0, lt=MOST_TOKENS)]
Mark = Annotated[int, Field(ge=0, le=1)]


class Tokens(BaseModel):
    """The tokens of a prompt and its answer, with a mask that is 1 for those of the answer."""

    model_config = ConfigDict(strict=True)  # True is no token

    input_ids: list[Token]
    loss_mask: list[Mark]

    @model_validator(mode="after")
    def _as_long(self) -> Self:
        if len(self.input_ids) != len(self.loss_mask):
            raise ValueError(f"{len(self.input_ids)} input_ids, but {len(self.loss_mask)} in loss_mask")
        return self


class _Answer(Tokens):
    id: str
    language: str
    source: str
    prompt: str
    temperature: float = Field(ge=0, lt=100)


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
    offset: int
    size: int


def index(path: Path, length: int) -> tuple[list[Row], int]:
    """The rows with a token to learn within `length` tokens, and the number of the others.

    Raises:
        BadInput: with file, line and the columns there are.
    """
    rows: list[Row] = []
    seen: set[str] = set()
    unsupervised = 0
    for line in json_lines(path, may_be_empty=True):
        answer = line.model(_Answer)
        if answer.id in seen:
            raise BadInput(
                f"{line.where}: the id {answer.id!r} stands in an earlier line too", code="damaged-file"
            )
        seen.add(answer.id)
        ids, mask = within(line.data, length)
        if not any(mask):
            unsupervised += 1
            continue
        rows.append(
            Row(
                id=answer.id,
                language=answer.language,
                temperature=answer.temperature,
                tokens=len(ids),
                supervised=sum(mask),
                cut=len(answer.input_ids) > length,
                offset=line.offset,
                size=line.size,
            )
        )
    return rows, unsupervised


def within(data: dict[str, Any], length: int) -> tuple[list[int], list[int]]:
    """Tokens and mask of a row, cut to the length that the trainer reads."""
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
