"""Models of what is read of other tools' files, and the message where a field does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.errors import BadInput, BadRecord
from harness.results.files import read_json
from harness.results.records import MOST_K, Count
from harness.text.validation import first_fault


class BadImport(BadInput):
    """A file, or its options, are not what draftgate imports."""

    code = "import-file"


class Foreign(BaseModel):
    """A part of another tool's file: the fields that are read, whatever else stands there."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Acceptance(Foreign):
    """What vLLM reports of one answer, as both tools pass it on."""

    acceptance_histogram: dict[Annotated[int, Field(ge=0, le=MOST_K)], Count] | tuple[Count, ...]
    """Verify steps that accepted exactly j tokens. AIPerf leaves out the zeros."""
    num_spec_tokens: Annotated[int, Field(ge=1, le=MOST_K)] | None = None
    num_draft_tokens: Count | None = None
    per_step_accepted: tuple[Count, ...] | None = None
    per_step_drafted: tuple[Count, ...] | None = None

    @property
    def most(self) -> int:
        """The k that it tells of: the engine's, or the most that a step drafted or accepted."""
        counts = self.acceptance_histogram
        seen = max(counts, default=0) if isinstance(counts, dict) else len(counts) - 1
        return max(seen, self.num_spec_tokens or 0, *(self.per_step_drafted or (0,)))

    def histogram(self, k: int) -> tuple[int, ...]:
        """Verify steps by accepted tokens, k + 1 values."""
        counts = self.acceptance_histogram
        known = counts if isinstance(counts, dict) else dict(enumerate(counts))
        return tuple(known.get(j, 0) for j in range(k + 1))


def parsed(kind: type[Foreign], data: Any, *, where: str) -> Any:
    """A part of a file as a model.

    Raises:
        BadRecord: a field does not fit; with `where` and its name.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        field, fault = first_fault(error, kind, data)
        raise BadRecord(f"{where}, field {'.'.join(field) or 'record'}: {fault}") from None


def read_tree(path: Path) -> Any:
    """The value of a JSON file, whose texts can all be kept.

    Raises:
        BadRecord: as `read_json`; or a text in it holds half of a surrogate pair.
    """
    data = read_json(path)
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadRecord(f"{path}: no Unicode text (half of a surrogate pair)") from None
    return data
