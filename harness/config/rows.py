"""Reads the rows of a table, each with where it stands: JSON lines, JSON, CSV, Parquet, a hub data set."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import BadInput, library, reason_of
from harness.results.files import json_lines, read_bytes, read_json
from harness.text.validation import did_you_mean, near_path

HUB = "hf:"
_LONGEST = 10**9
"""Characters of a field of a CSV file."""
_AT_ONCE = 1000
"""Rows of an Arrow table that become Python's at a time."""
_OTHER_SEPARATOR = re.compile("[,;\t|]")
_BREAK = re.compile("\r\n|\r|\n")
_Rows = Iterator[tuple[str, Any]]


class BadRow(BadInput):
    """A row of a table, or the table itself, is not what is read here."""

    code = "prompt-row"


def rows_of(file: str) -> _Rows:
    """Each row of a file or of a data set of the hub, and where it stands.

    Raises:
        BadInput: it is not there, is of no kind that is read here, or is damaged (with the line).
    """
    if file.startswith(HUB):
        return _hub(file)
    path = Path(file)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise BadInput(
            f"{path}: draftgate reads {', '.join(_READERS)}; convert it to one of these (unpack .gz)",
            code="prompt-file",
        )
    if not path.is_file():
        raise BadInput(f"{path}: there is no such file of prompts{near_path(path)}", code="prompt-file")
    return reader(path)


def refuse(wrong: Sequence[BadInput]) -> None:
    """Raise the first error of several rows, if there is one, and say how many more have one."""
    if wrong:
        more = f" (and {len(wrong) - 1} more rows)" if len(wrong) > 1 else ""
        raise BadInput(f"{wrong[0]}{more}", code=wrong[0].code)


def is_folder(dataset: str) -> bool:
    """Whether a data set is named by its folder here, and not by its name on the hub."""
    return dataset.startswith((".", "~", "/"))


def _hub(file: str) -> _Rows:
    dataset, _, split = file.removeprefix(HUB).partition(":")
    owner, _, rest = dataset.partition("/")
    name, _, config = rest.partition("/")
    load = _library("datasets", file).load_dataset
    try:
        if is_folder(dataset):
            splits = load(str(Path(dataset).expanduser()))
        else:
            splits = load("/".join(filter(None, (owner, name))), config or None)
    except Exception as error:  # noqa: BLE001 - hub, network and parsers each raise their own
        raise BadInput(
            f"{file}: the data set cannot be read ({type(error).__name__}: {reason_of(error)}); check its "
            "name and the network, or save it as a file",
            code="prompt-file",
        ) from None
    if split not in splits and (split or len(splits) > 1):
        raise BadInput(
            f"{file}: it has {f'no split {split!r}' if split else 'several splits'}"
            f"{did_you_mean(split, splits)}: name one, as in {HUB}{dataset}:{next(iter(splits))}; "
            f"there are: {', '.join(splits)}",
            code="prompt-file",
        )
    rows = splits[split or next(iter(splits))].with_format("arrow")
    return _of_arrow(file, rows.iter(batch_size=_AT_ONCE))


def _parquet(path: Path) -> _Rows:
    read_bytes(path)
    parquet = _library("pyarrow.parquet", str(path))
    try:
        file = parquet.ParquetFile(path)
        if wrong := _wrong_names(file.schema_arrow.names):
            raise BadRow(f"{path}: {wrong}")
        yield from _of_arrow(str(path), file.iter_batches(batch_size=_AT_ONCE))
    except (ValueError, OSError) as error:  # pyarrow's own errors are of these
        raise BadInput(f"{path}: not Parquet, or damaged: {reason_of(error)}", code="damaged-file") from None


def _library(name: str, file: str) -> Any:
    return library(name, f"{file}: to read it", package="datasets", extra="prompts")


def _of_arrow(name: str, batches: Iterable[Any]) -> _Rows:
    rows = (row for batch in batches for row in batch.to_pylist())
    return _numbered(name, "row", ({column: _given(value) for column, value in row.items()} for row in rows))


def _given(value: Any) -> Any:
    """Without the empty fields of tables: in a column of Arrow each table has the fields of all."""
    if isinstance(value, dict):
        return {key: _given(one) for key, one in value.items() if one is not None}
    return [_given(one) for one in value] if isinstance(value, list) else value


def _json(path: Path) -> _Rows:
    """A list of rows, or a row a line."""
    raw = read_bytes(path).strip()
    if raw[:1] == b"[":
        return _numbered(str(path), "entry", read_json(path))
    if raw[:1] == b"{" and raw.split(b"\n")[0].rstrip()[-1:] in b"{[,":  # an object over several lines
        read_json(path)
        what = "one object, and no rows: write a list of objects, or an object a line"
        raise BadRow(f"{path}: {what}")
    return _lines(path)


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
            if wrong := _wrong_names(list(rows.fieldnames or ())):
                raise BadRow(f"{path}, line 1: {wrong}")
            for row in rows:
                breaks = sum(len(_BREAK.findall(value)) for value in row.values() if isinstance(value, str))
                where = f"{path}, line {rows.line_num - breaks}"
                if None in row or None in row.values():
                    what = "it has more values" if None in row else "it has fewer values"
                    raise BadRow(f"{where}: {what} than line 1 has columns: quote them")
                yield where, row
    except UnicodeDecodeError as error:
        raise BadRow(f"{path}: not UTF-8 text (byte {error.start}): save it as UTF-8") from None
    except csv.Error as error:
        raise BadRow(f"{path}, line {rows.line_num}: not CSV: {error}") from None


def _wrong_names(names: list[str]) -> str:
    """What is wrong with the names of a table's columns, and what to do; empty where nothing is."""
    twice = next((name for at, name in enumerate(names) if name in names[:at]), None)
    if twice is not None:
        return f"the column {twice!r} stands there twice: rename one" if twice else "two columns have no name"
    if len(names) == 1 and (other := _OTHER_SEPARATOR.search(names[0])):
        what = f"one column, {names[0][:60]!r}, in which {other[0]!r} seems to separate columns"
        return f"{what}: separate them by commas (.csv) or tabs (.tsv)"
    return ""


_READERS: Mapping[str, Callable[[Path], _Rows]] = {
    ".jsonl": _lines,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}
