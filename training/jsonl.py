"""Files of one JSON object a line: complaints name the line, and what is written is whole or not there."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from harness.errors import BadInput


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """One object, and where it stands."""

    path: Path
    number: int
    offset: int
    size: int
    data: dict[str, Any]

    def need(self, kinds: dict[str, type | tuple[type, ...]]) -> None:
        """Each of these columns is there and of its kind.

        Raises:
            BadInput: with file, line, column, and the columns that there are.
        """
        where = f"{self.path}, line {self.number}"
        for column, kind in kinds.items():
            if column not in self.data:
                there = ", ".join(sorted(self.data)) or "none"
                raise BadInput(f"{where}: there is no column {column!r}; there are: {there}")
            value = self.data[column]
            if not isinstance(value, kind) or isinstance(value, bool):
                raise BadInput(f"{where}: the column {column!r} holds {type(value).__name__}")


def read(path: Path) -> Iterator[Line]:
    """The lines of a file, empty ones left out.

    Raises:
        BadInput: it cannot be read, or a line is not a JSON object.
    """
    try:
        with path.open("rb") as file:
            offset = 0
            for number, raw in enumerate(file, start=1):
                if raw.strip():
                    yield Line(
                        path=path,
                        number=number,
                        offset=offset,
                        size=len(raw),
                        data=_object(raw, path, number),
                    )
                offset += len(raw)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from None


def _object(raw: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        data = json.loads(raw.decode("utf-8-sig"))  # from bytes, json takes halves of surrogate pairs
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}, line {number}: not JSON: {error}") from None
    if not isinstance(data, dict):
        raise BadInput(f"{path}, line {number}: not an object, but {type(data).__name__}")
    if b"\\ud" in raw.lower():  # an escape that may be half of a pair, which no file can hold again
        try:
            json.dumps(data, ensure_ascii=False).encode()
        except (UnicodeEncodeError, RecursionError):
            raise BadInput(f"{path}, line {number}: no Unicode text (half of a surrogate pair)") from None
    return data


def whole(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file that another program writes; a line that is none is passed over."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        for raw in file:
            if not raw.endswith(b"\n"):
                return  # still being written, or torn
            with contextlib.suppress(BadInput):
                yield _object(raw, path, 0)


def drop_torn_line(path: Path) -> bool:
    """Drop a torn last line, so that the next one is not glued to it. True where there was one."""
    if not path.exists():
        return False
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        kept = end
        while kept:
            start = max(0, kept - 65536)
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
    """A file that is there, whole, once the block has ended well.

    Raises:
        BadInput: the disk is full, or the file cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)


def as_line(value: dict[str, Any]) -> str:
    """One line of such a file."""
    return json.dumps(value, ensure_ascii=False) + "\n"
