"""Reads a TOML file into a model, and names what is wrong in it by file, line and key."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)

from harness.config.shipped import embedded_drafter
from harness.errors import BadInput
from harness.results.files import merge_error, merge_left, read_text
from harness.text.validation import first_fault

_MOST_DEEP = 32
MOST = 10**9
"""The largest number that an option or a profile takes."""
_Model = TypeVar("_Model", bound=BaseModel)


class Table(BaseModel):
    """A table of such a file. Pydantic would take `"8"` and `true` for numbers; a file means what it says."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="wrap")
    @classmethod
    def _as_written(cls, value: Any, made: ValidatorFunctionWrapHandler) -> Any:
        found = made(value)
        if (unlike := _unlike(value, found)) is not None:
            kind = {bool: "true or false", str: "a text"}.get(type(unlike[1]), "a number")
            raise ValueError(f"must be {kind}, not {json.dumps(unlike[0])[:60]}")
        return found


def _unlike(written: Any, made: Any) -> tuple[Any, Any] | None:
    """A text, a number or a boolean that became another kind, and what it became; None where none did."""
    if isinstance(written, list) and isinstance(made, list | tuple):
        pairs = list(zip(written, made, strict=True))
    elif isinstance(written, dict) and isinstance(made, dict):
        pairs = [(written[key], made[key]) for key in written.keys() & made.keys()]
    else:
        kinds = [[isinstance(value, kind) for kind in (bool, str)] for value in (written, made)]
        plain = isinstance(written, bool | str | int | float) and isinstance(made, bool | str | int | float)
        return (written, made) if plain and kinds[0] != kinds[1] else None
    return next((found for pair in pairs if (found := _unlike(*pair)) is not None), None)


class Document:
    """A TOML file: what it says, and where."""

    def __init__(self, path: Path) -> None:
        """Read it.

        Raises:
            BadInput: it cannot be read, or is not TOML.
        """
        self.path = path
        try:
            self._text = read_text(path, may_be_empty=True)
            if line := merge_left(self._text):
                raise merge_error(f"{path}, line {line}")
            self.tables: dict[str, Any] = tomllib.loads(self._text)
        except ValueError as error:  # TOML's own error, or a number of thousands of digits
            raise BadInput(f"{path}: not TOML: {error}", code="damaged-file") from None
        except RecursionError:
            raise BadInput(f"{path}: nested too deeply to be one of ours", code="damaged-file") from None
        if too_deep(self.tables):
            raise BadInput(f"{path}: nested too deeply to be one of ours", code="damaged-file")

    def model(self, kind: type[_Model]) -> _Model:
        """Its tables as a model.

        Raises:
            BadInput: with file, line and key of the first thing that is wrong.
        """
        try:
            return kind.model_validate(self.tables, context=self.path.parent)
        except ValidationError as error:
            raise self.wrong(*first_fault(error, kind, self.tables, by_hand=True)) from None

    def wrong(self, key: tuple[str, ...], what: str, *, code: str = "wrong-field") -> BadInput:
        """The error that says what is wrong with a key; of the whole file where the key is empty."""
        return BadInput(f"{self.path}, {position(self._text, key)}: {what}", code=code)


def _anchored(reference: str, info: ValidationInfo) -> str:
    if drafter := embedded_drafter(reference):
        return str(drafter)
    if info.context is None or not reference.startswith((".", "~", "/")):
        return reference
    try:
        return str(Path(_absolute(reference, info)).resolve())
    except (ValueError, OSError) as error:  # a NUL
        raise ValueError(f"a path in it cannot be used: {error}") from None


def _absolute(reference: str, info: ValidationInfo) -> str:
    if not reference.strip():
        raise ValueError("it is empty: write the path of a program, or leave the key out")
    if info.context is None or not (reference.startswith((".", "~")) or "/" in reference):
        return reference
    try:
        return str(info.context.absolute() / Path(reference).expanduser())
    except RuntimeError as error:  # ~nobody
        raise ValueError(f"a path in it cannot be used: {error}") from None


Reference = Annotated[str, AfterValidator(_anchored)]
"""A path or another name of a model. A path is made absolute: it starts at the folder of the TOML file. Of a
shipped drafter, `embedded:NAME` becomes the path."""

Program = Annotated[str, AfterValidator(_absolute)]
"""A program by its path, made absolute likewise, or by its name. No link in it is followed: the interpreter
of a virtual environment is a link, and finds its packages by the link's own place."""


def changed(base: Any, changes: Any) -> Any:
    """Tables in which `changes` replace single values."""
    if not isinstance(base, dict) or not isinstance(changes, dict):
        return changes
    return {**base, **{name: changed(base.get(name), value) for name, value in changes.items()}}


def too_deep(data: Any) -> bool:
    """Whether tables and lists stand deeper in one another than anything of ours does."""
    inside = [data]
    for _ in range(_MOST_DEEP):
        inside = [
            item
            for value in inside
            for item in (value.values() if isinstance(value, dict) else value)
            if isinstance(item, dict | list)
        ]
    return bool(inside)


def position(text: str, key: tuple[str, ...]) -> str:
    """Where a key stands in a TOML text: `line 12, key drafters.ngram.k`, as near as it can be said."""
    key = tuple(part for name in key for part in name.split("."))  # as keys in quotes are split below
    table: tuple[str, ...] = ()
    best, best_line = 0, 0
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        header = re.match(r"\[\[?\s*([^\[\]]+?)\s*\]\]?", line)
        if header:
            table = tuple(part.strip(" \"'") for part in header[1].split("."))
            path = table
        elif "=" in line and not line.startswith("#"):
            path = (*table, *(part.strip(" \"'") for part in line.split("=", 1)[0].split(".")))
        else:
            continue
        shared = 0
        while shared < min(len(path), len(key)) and path[shared] == key[shared]:
            shared += 1
        if shared in (len(path), len(key)) and shared > best:
            best, best_line = shared, number
    name = f"key {'.'.join(key)}" if key else "the file"
    return f"line {best_line}, {name}" if best_line else name
