"""How files are written and read: whole or not at all, and JSON lines with the number of each line."""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

import jiter
from pydantic import BaseModel, ValidationError

from harness.errors import BadInput, BadRecord
from harness.text.validation import first_fault, kind_of, near_path

_Model = TypeVar("_Model", bound=BaseModel)
_MERGE = re.compile(r"^(?:<{7}|>{7})(?= |\r?$)", re.MULTILINE)
_TWICE = re.compile(r"Detected duplicate key (.*) at line (\d+) column \d+", re.DOTALL)
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
            column, fault = first_fault(error, kind, self.data)
            text = (
                f"{self.where}, column {'.'.join(column)}: {fault}; there are: {', '.join(sorted(self.data))}"
            )
            raise BadInput(text, code="damaged-rows") from None


def read_bytes(path: Path, *, may_be_empty: bool = False) -> bytes:
    """Read a file, without the byte-order mark that some editors put before its text.

    Raises:
        BadRecord: it is not there, not readable, or empty and `may_be_empty` is not set.
    """
    try:
        raw = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise BadRecord(f"{path}: {error.strerror}", code="cannot-read") from None
    if not may_be_empty and (not raw or raw.isspace()):
        raise BadRecord(f"{path}: the file is empty")
    return raw


def read_text(path: Path, *, may_be_empty: bool = False) -> str:
    """The same of a UTF-8 file.

    Raises:
        BadRecord: as `read_bytes`, and it is not UTF-8 text.
    """
    raw = read_bytes(path, may_be_empty=may_be_empty)
    return _decoded(raw, str(path)).replace("\r\n", "\n")


def read_json(path: Path) -> Any:
    """The value of a JSON file. No key stands twice in an object of it, at any depth.

    Raises:
        BadRecord: as `read_text`; it is not JSON, a key stands twice, or a merge was left in it (with the
            line).
    """
    return _parsed(read_bytes(path), lambda line: _where(path, line) if line else str(path))


def line_of(path: Path, key: str, value: str | None) -> int:
    """The last line of a JSON file in which a key has this value, or stands at all; 1 where none has."""
    of_value = "" if value is None else re.escape(json.dumps(value, ensure_ascii=False))
    wanted = re.compile(rf"{re.escape(json.dumps(key))}\s*:\s*{of_value}")
    lines = enumerate(path.read_text(encoding="utf-8").split("\n"), start=1)
    return max((number for number, line in lines if wanted.search(line)), default=1)


def merge_left(text: str) -> int | None:
    """The line of the first conflict marker that a merge left in a text; None where there is none."""
    found = _MERGE.search(text)
    return text.count("\n", 0, found.start()) + 1 if found else None


def merge_error(where: str) -> BadRecord:
    """Says that a merge left its conflict marker there."""
    return BadRecord(f"{where}: a merge was not finished here: keep one of the two sides")


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
        BadRecord: it is not UTF-8 text, not JSON, not an object, has a key twice, or holds half of a
            surrogate pair.
    """
    data = _parsed(raw.lstrip(codecs.BOM_UTF8), lambda _: where, of=" of the line")
    if not isinstance(data, dict):
        raise BadRecord(f"{where}: not an object, but {kind_of(data)}")
    if b"\\ud" in raw.lower():  # an escape that may be half of a pair, which no file can hold again
        try:
            json.dumps(data, ensure_ascii=False).encode()
        except (UnicodeEncodeError, RecursionError):
            raise BadRecord(f"{where}: no Unicode text (half of a surrogate pair)") from None
    return data


def _decoded(raw: bytes, where: str, *, of: str = "") -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise BadRecord(f"{where}: not UTF-8 text (byte {error.start}{of})") from None


def _parsed(raw: bytes, where: Callable[[int], str], *, of: str = "") -> Any:
    """The value of a JSON text; `where` names one of its lines, and the whole of it for 0."""
    try:
        return jiter.from_json(raw, catch_duplicate_keys=True)
    except ValueError as error:  # what is wrong with it is told below
        if twice := _TWICE.match(str(error)):
            raise BadRecord(f"{where(int(twice[2]))}: the key {twice[1]} stands twice") from None
    text = _decoded(raw, where(0), of=of)
    if line := merge_left(text):
        raise merge_error(where(line))
    try:
        return json.loads(text, object_pairs_hook=_once)  # it takes halves of surrogate pairs
    except json.JSONDecodeError as error:
        begun = text.lstrip()[:1] in ("{", "[") and not text.rstrip().endswith("}")
        cut = f" ({'not the whole of an object' if of else 'the file seems cut off'})" * begun
        raise BadRecord(f"{where(error.lineno)}: not JSON: {error.msg}{cut}") from None
    except RecursionError:
        raise BadRecord(f"{where(0)}: {'not JSON: ' * bool(of)}nested too deeply to be one of ours") from None
    except ValueError as error:
        why = "a number in it has thousands of digits" if "digits" in str(error) else error
        raise BadRecord(f"{where(0)}: not JSON: {why}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


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
def writable(path: Path) -> Iterator[None]:
    """Say so where the block cannot write `path`.

    Raises:
        BadInput: it cannot, with the reason of the operating system.
    """
    try:
        yield
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}", code="cannot-write") from None


@contextlib.contextmanager
def writing(path: Path, mode: Literal["w", "wb"] = "w") -> Iterator[IO[Any]]:
    """Open a file that appears at `path`, whole, when the block has ended well; else what was there stays.

    Raises:
        BadInput: the disk is full, or the file cannot be written.
    """
    temporary = None
    try:
        with writable(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            encoding = "utf-8" if mode == "w" else None
            with tempfile.NamedTemporaryFile(
                mode, encoding=encoding, dir=path.parent, prefix=f".{path.name}.", delete=False
            ) as file:
                temporary = Path(file.name)
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)  # it is gone already where all went well


def files_below(folder: Path) -> dict[str, bytes]:
    """What a folder holds, by path from there, without hidden files; nothing where there is none.

    Raises:
        BadRecord: a file in it cannot be read.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): read_bytes(path, may_be_empty=True) for path in paths}


def output(text: str) -> Path:
    """What --output says, for a parser: a folder that is not there is probably misspelt, so it is not made.

    Raises:
        BadInput: with the folder that was probably meant.
    """
    path = Path(text)
    if not path.parent.is_dir():
        raise BadInput(
            f"--output {path}: there is no folder {path.parent}{near_path(path.parent)}; make it first",
            code="cannot-write",
        )
    return path


def can_write(path: Path) -> None:
    """Make sure that a file can be written later. It is left as it is.

    Raises:
        BadInput: it cannot, with the reason of the operating system.
    """
    new = not path.exists()
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
    if new:
        path.unlink(missing_ok=True)  # several workers may have looked


def write_atomically(path: Path, text: str | bytes) -> None:
    """Write `path` whole or not at all, also when the disk is full or the process is killed.

    Raises:
        BadInput: the file cannot be written, with the reason of the operating system.
    """
    with writing(path, "w" if isinstance(text, str) else "wb") as file:
        file.write(text)


def append(path: Path, data: bytes) -> None:
    """Write at the end of a file, which is made if need be; it is on disk when this returns.

    Raises:
        BadInput: the file cannot be written, with the reason of the operating system.
    """
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def as_line(value: dict[str, Any]) -> str:
    """An object as one line of such a file."""
    return json.dumps(value, ensure_ascii=False) + "\n"
