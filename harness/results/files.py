"""How files are written and read: whole or not at all, and JSON lines with the number of each line."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic import BaseModel, ValidationError

from harness.errors import BadInput, BadRecord

_Model = TypeVar("_Model", bound=BaseModel)
_BLOCK = 65536
"""Bytes read at a time where a file is searched from its end."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """One JSON object of a file that has one a line, and where it stands."""

    path: Path
    number: int
    """From 1."""
    offset: int
    """Bytes before it."""
    size: int
    """Bytes, its line break included."""
    data: dict[str, Any]

    @property
    def where(self) -> str:
        """File and line, for a message."""
        return _where(self.path, self.number)

    def model(self, kind: type[_Model]) -> _Model:
        """The object as a model.

        Raises:
            BadInput: with file, line and column; where a column is missing, also with those that there are.
        """
        try:
            return kind.model_validate(self.data)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            text = f"{self.where}, column {'.'.join(map(str, first['loc']))}: {first['msg']}"
            text += f"; there are: {', '.join(sorted(self.data))}" if first["type"] == "missing" else ""
            raise BadInput(text, code="damaged-rows") from None


def read_text(path: Path) -> str:
    """Read a UTF-8 file.

    Raises:
        BadRecord: it is not there, not readable, empty, or not UTF-8 text.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadRecord(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise BadRecord(f"{path}: {error.strerror}", code="cannot-read") from None
    if not text.strip():
        raise BadRecord(f"{path}: the file is empty")
    return text


def json_lines(path: Path, *, may_be_empty: bool = False) -> Iterator[Line]:
    """Read the JSON objects of a file that has one a line, one after the other; blank lines are left out.

    Raises:
        BadRecord: the file cannot be read, a line is not a JSON object, or there is none and
            `may_be_empty` is not set.
    """
    offset, some = 0, False
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if raw.strip():
                    some = True
                    data = json_object(raw, _where(path, number))
                    yield Line(path=path, number=number, offset=offset, size=len(raw), data=data)
                offset += len(raw)
    except OSError as error:
        raise BadRecord(f"{path}: {error.strerror}", code="cannot-read") from None
    if not (some or may_be_empty):
        raise BadRecord(f"{path}: the file is empty")


def complete_lines(path: Path, *, last_bytes: int | None = None) -> Iterator[dict[str, Any]]:
    """Read what another program writes: its objects, without a line that is none or is still being written.

    A file that is not there holds none. `last_bytes` is how much of its end is read; by default all is.
    """
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        if last_bytes is not None:
            file.seek(max(0, path.stat().st_size - last_bytes))
        for raw in file:
            if not raw.endswith(b"\n"):
                return
            with contextlib.suppress(BadRecord):
                yield json_object(raw, str(path))


def _where(path: Path, number: int) -> str:
    return f"{path}, line {number}"


def json_object(raw: bytes, where: str) -> dict[str, Any]:
    """The JSON object that a line holds; `where` it stands begins every message.

    Raises:
        BadRecord: it is not UTF-8 text, not JSON, not an object, or holds half of a surrogate pair.
    """
    try:
        data = json.loads(raw.decode("utf-8-sig"))  # from bytes, json takes halves of surrogate pairs
    except UnicodeDecodeError as error:
        raise BadRecord(f"{where}: not UTF-8 text (byte {error.start} of the line)") from None
    except (ValueError, RecursionError) as error:
        raise BadRecord(f"{where}: not JSON: {error}") from None
    if not isinstance(data, dict):
        raise BadRecord(f"{where}: not an object, but {type(data).__name__}")
    if b"\\ud" in raw.lower():  # an escape that may be half of a pair, which no file can hold again
        try:
            json.dumps(data, ensure_ascii=False).encode()
        except (UnicodeEncodeError, RecursionError):
            raise BadRecord(f"{where}: no Unicode text (half of a surrogate pair)") from None
    return data


def drop_torn_line(path: Path) -> bool:
    """Cut off a last line that is not whole, so that the next one is not glued to it.

    Returns:
        Whether there was one. A file that is not there has none.
    """
    if not path.exists():
        return False
    with path.open("rb+") as file:
        end = kept = file.seek(0, os.SEEK_END)
        while kept:
            start = max(0, kept - _BLOCK)
            file.seek(start)
            newline = file.read(kept - start).rfind(b"\n")
            if newline >= 0:
                kept = start + newline + 1
                break
            kept = start
        file.truncate(kept)
    return kept < end


@contextlib.contextmanager
def writing(path: Path) -> Iterator[IO[str]]:
    """Open a file that appears at `path`, whole, when the block has ended well; else what was there stays.

    Raises:
        BadInput: the disk is full, or the file cannot be written.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = Path(file.name)
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}", code="cannot-write") from None
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)  # it is gone already where all went well


def write_atomically(path: Path, text: str) -> None:
    """Write `path` whole or not at all, also when the disk is full or the process is killed.

    Raises:
        BadInput: the file cannot be written, with the reason of the operating system.
    """
    with writing(path) as file:
        file.write(text)


def as_line(value: dict[str, Any]) -> str:
    """An object as one line of such a file."""
    return json.dumps(value, ensure_ascii=False) + "\n"
