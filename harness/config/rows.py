"""Reads the rows of a table that a user brings: JSON lines, JSON or CSV, each with where it stands."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.errors import BadInput
from harness.results.files import json_lines, read_bytes, read_json

HUB = "hf:"
_LONGEST = 10**9
"""Characters of a field of a CSV file."""
_Rows = Iterator[tuple[str, Any]]


def rows_of(file: str) -> _Rows:
    """Each row of a file or of a data set of the hub, and where it stands.

    Raises:
        BadInput: it is not there, is of no kind that is read here, or is damaged (with the line).
    """
    path = Path(file)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise BadInput(
            f"{path}: draftgate reads {', '.join(_READERS)}; convert it to one of these (unpack .gz)",
            code="prompt-file",
        )
    if not path.is_file():
        raise BadInput(f"{path}: there is no such file of prompts; name one", code="prompt-file")
    return reader(path)


def _json(path: Path) -> _Rows:
    """A list of rows, or a row a line."""
    if read_bytes(path).lstrip()[:1] != b"[":
        return _lines(path)
    return _numbered(str(path), "entry", read_json(path))


def _lines(path: Path) -> _Rows:
    return ((line.where, line.data) for line in json_lines(path))


def _numbered(name: str, what: str, rows: Iterable[Any]) -> _Rows:
    return ((f"{name}, {what} {number}", row) for number, row in enumerate(rows, start=1))


def _csv(path: Path) -> _Rows:
    read_bytes(path)  # says what is wrong with a file that cannot be read
    csv.field_size_limit(_LONGEST)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(
                file, strict=True, dialect="excel-tab" if path.suffix == ".tsv" else "excel"
            )
            names = rows.fieldnames or ()
            if len(set(names)) < len(names):
                raise BadInput(f"{path}, line 1: a column stands there twice: rename one", code="prompt-row")
            line = rows.line_num
            for row in rows:
                where, line = f"{path}, line {line + 1}", rows.line_num
                if None in row or None in row.values():
                    what = "it has more values" if None in row else "it has fewer values"
                    raise BadInput(f"{where}: {what} than line 1 has columns: quote them", code="prompt-row")
                yield where, row
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{path}: not UTF-8 text (byte {error.start}): save it as UTF-8", code="prompt-row"
        ) from None
    except csv.Error as error:
        raise BadInput(f"{path}, line {rows.line_num}: not CSV: {error}", code="prompt-row") from None


_READERS: Mapping[str, Callable[[Path], _Rows]] = {
    ".jsonl": _lines,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
}
