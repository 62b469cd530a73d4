"""References in Markdown: HTML comments that say which run, cell and field a figure comes from.

One figure: `tau **1.34**<!-- draftgate: run=RUN cell=CELL field=tau -->`, for the number right before it.
A table: a comment above it says what its columns are, and one in each row which cells the row is about.
Pure text: `claims.py` holds what is read here against the records.
"""

from __future__ import annotations

import dataclasses
import html
import re
from collections.abc import Iterator, Mapping
from urllib.parse import unquote

from harness.text.figures import Figure, figures_before, figures_in

_REFERENCE = re.compile(r"<!--\s*draftgate(?![\w-])(?P<body>.*?)(?P<end>-->|$)", re.IGNORECASE)
_CODE = re.compile(r"(?<![\\`])(`+)(?!`).+?(?<!`)\1(?!`)")
_FENCE = re.compile(r"[\s>]*(?:[-*+]\s+)?(`{3,}|~{3,})(.*)")
_KEY = re.compile(r"run\d*|cell\d*|base\d*|base_cell\d*|across|field|columns")
_FIELD = re.compile(r"(?P<name>[a-z][a-z0-9_]*)(?P<percent>%?)(?:@(?P<slot>base|[1-9][0-9]?))?")
NOTHING = "-"
"""A column that claims nothing; a cell that is not there."""
FORM = "<!-- draftgate: run=RUN cell=CELL field=FIELD -->"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Field:
    """What a figure is said to be.

    `tau`; `pos_0%` for a share printed in percent; `tau@2` for a row's second cell, `tau@base` for the base.
    """

    name: str
    percent: bool = False
    slot: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """Figures, and what they are said to be."""

    line: int
    keys: Mapping[str, str]
    fields: tuple[Field, ...]
    figures: tuple[Figure, ...]
    in_table: bool = False
    """Then the figures are all that a cell of the table holds; else those right before the reference."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trouble:
    """A reference that cannot be read."""

    line: int
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class References:
    """Everything that a Markdown file claims."""

    claims: tuple[Claim, ...]
    troubles: tuple[Trouble, ...]
    in_code: int
    """References that stand in code: examples, which claim nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Where:
    """What a figure is about: a cell of a run, and the cell that it is compared with."""

    run: str | None
    cell: str | None
    base: str | None
    base_cell: str | None


def where(keys: Mapping[str, str], slot: str) -> Where:
    """The cell that a reference means: its first, the one numbered `slot`, or that of the base alone."""
    if slot == "base":
        base_cell = keys.get("base_cell", keys.get("cell"))
        return Where(run=keys.get("base"), cell=base_cell, base=None, base_cell=None)
    slot = "" if slot == "1" else slot
    run, cell, base = (keys.get(f"{key}{slot}", keys.get(key)) for key in ("run", "cell", "base"))
    base_cell = keys.get(f"base_cell{slot}", keys.get("base_cell", cell))
    return Where(run=run, cell=cell, base=base, base_cell=base_cell)


def comment(values: Mapping[str, str]) -> str:
    """A reference; nothing in a value can end the comment, leave a table's cell, or be taken for two."""
    parts = (f"{k}={v if k in ('field', 'columns') else escaped(v)}" for k, v in values.items())
    return f"<!-- draftgate: {' '.join(parts)} -->"


def escaped(name: str) -> str:
    """What is neither a letter, a digit nor one of `._-/:=,` as %XX; of two hyphens the second too."""
    text = "".join(c if c.isalnum() or c in "._-/:=," else _hex(c) for c in name)
    return text.replace("--", "-%2D")


def _hex(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def read(markdown: str) -> References:
    """Find every reference. Those in fenced code and in code spans are examples."""
    reader = _Reader()
    for number, line in enumerate(markdown.split("\n"), start=1):
        reader.line(number, line)
    reader.end_table()
    return References(claims=tuple(reader.claims), troubles=tuple(reader.troubles), in_code=reader.in_code)


class _Wrong(Exception):  # noqa: N818 - why a reference cannot be read
    pass


class _Reader:
    def __init__(self) -> None:
        self.claims: list[Claim] = []
        self.troubles: list[Trouble] = []
        self.in_code = 0
        self._fence = ""
        self._above: tuple[int, dict[str, str]] | None = None
        """The line of the comment above the table that is read, and what it says."""
        self._in_rows = self._referring = False

    def line(self, number: int, line: str) -> None:
        fence = _FENCE.match(line)
        if self._fence:
            self.in_code += len(_REFERENCE.findall(line))
            if fence and fence[1].startswith(self._fence) and not fence[2].strip():
                self._fence = ""
            return
        if fence and not (fence[1][0] == "`" and "`" in fence[2]):
            self._fence = fence[1]
            return
        row = line.lstrip().startswith("|")
        if self._above and not row and (self._in_rows or line.strip()):
            self.end_table()
        self._in_rows = bool(self._above) and (self._in_rows or row)
        for found in self._found(line):
            try:
                self._reference(number, line, found)
            except _Wrong as wrong:
                self.troubles.append(Trouble(line=number, text=str(wrong)))

    def _found(self, line: str) -> Iterator[re.Match[str]]:
        at = 0
        while found := _REFERENCE.search(line, at):
            code = _CODE.search(line, at)
            if code and code.start() < found.start() < code.end():
                self.in_code += len(_REFERENCE.findall(code[0]))
            elif not code or code.start() > found.start():
                yield found
                code = None
            at = code.end() if code else found.end()

    def _reference(self, number: int, line: str, found: re.Match[str]) -> None:
        if not found["end"]:
            raise _Wrong("a reference ends on the line where it begins, with -->")
        keys = _keys(found["body"])
        if "columns" in keys:
            if _REFERENCE.sub("", line).strip():
                raise _Wrong("a reference with columns= has a line of its own, above its table")
            _columns(keys)
            self.end_table()
            self._above = number, keys
        elif "field" in keys:
            figures = figures_before(_REFERENCE.sub("", line[: found.start()]))
            if not figures:
                raise _Wrong(f"no figure stands right before the reference to {keys['field']}")
            self.claims.append(Claim(line=number, keys=keys, fields=_fields(keys["field"]), figures=figures))
        elif self._above and self._in_rows:
            self._row(number, line, self._above[1] | keys)
        else:
            raise _Wrong(f"a reference names its field, {FORM}, unless it is in a table with columns= above")

    def _row(self, number: int, line: str, keys: dict[str, str]) -> None:
        self._referring = True
        text = _REFERENCE.sub("", line).strip().removeprefix("|")
        cells = [html.unescape(cell).strip() for cell in re.split(r"(?<!\\)\|", re.sub(r"\|$", "", text))]
        columns = _columns(keys)
        if len(cells) != len(columns):
            raise _Wrong(f"the row has {len(cells)} columns, columns= above its table names {len(columns)}")
        for cell, fields in zip(cells, columns, strict=True):
            if fields and cell:
                self.claims.append(
                    Claim(line=number, keys=keys, fields=fields, figures=figures_in(cell), in_table=True)
                )

    def end_table(self) -> None:
        if self._above and not self._referring:
            text = "no row of a table right below says which cell it is about (<!-- draftgate: cell=CELL -->)"
            self.troubles.append(Trouble(line=self._above[0], text=text))
        self._above, self._in_rows, self._referring = None, False, False


def _keys(body: str) -> dict[str, str]:
    if not body.startswith(":"):
        raise _Wrong(f"a reference reads {FORM}")
    keys: dict[str, str] = {}
    for part in body[1:].split():
        key, equals, value = part.partition("=")
        if not equals or not value or not _KEY.fullmatch(key):
            raise _Wrong(f"{part!r} is no part of a reference, which reads {FORM}")
        if key in keys:
            raise _Wrong(f"{key}= stands twice in one reference")
        try:
            keys[key] = value if key in ("field", "columns") else unquote(value, errors="surrogatepass")
        except UnicodeDecodeError:
            raise _Wrong(f"{part!r} holds a %XX that is no UTF-8") from None
    return keys


def _columns(keys: Mapping[str, str]) -> list[tuple[Field, ...]]:
    return [() if part == NOTHING else _fields(part) for part in keys["columns"].split(",")]


def _fields(text: str) -> tuple[Field, ...]:
    fields = []
    for part in text.split("/"):
        found = _FIELD.fullmatch(part)
        if not found:
            raise _Wrong(f"{part!r} is no field: it reads like tau, or pos_0% for a share in percent")
        fields.append(Field(name=found["name"], percent=bool(found["percent"]), slot=found["slot"] or ""))
    return tuple(fields)
