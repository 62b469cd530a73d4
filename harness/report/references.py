"""References in Markdown: HTML comments that say which run, cell and field a figure comes from.

One figure: `tau **1.34**<!-- draftgate: run=RUN cell=CELL field=tau -->`, for the number right before it.
A table: a comment above it says what its columns are, and one in each row which cell the row is about.
`claims.py` holds what is read here against the records.
"""

from __future__ import annotations

import dataclasses
import html
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote

from harness.errors import BadInput
from harness.judge.collect import Entry, Side
from harness.judge.compare import Column, Comparison
from harness.report.figures import Figure, figures_before, figures_in, has_more
from harness.results.files import merge_error, merge_left
from harness.text.render import Block


class BadClaim(BadInput):
    """A reference cannot be read, or does not say what to compare with."""

    code = "claim-reference"


FORM = "<!-- draftgate: run=RUN cell=CELL field=FIELD -->"
NOTHING = "-"
"""A column that claims nothing."""

_REFERENCE = re.compile(r"<!--\s*draftgate(?![\w-])(?P<body>.*?)(?P<end>-->|$)", re.IGNORECASE)
_CODE = r"(?<![\\`])(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)"
_CODE_OR_REFERENCE = re.compile(f"{_CODE}|{_REFERENCE.pattern}", re.IGNORECASE)
_FENCE = re.compile(r"[\s>]*(?:[-*+]\s+)?(`{3,}|~{3,})(.*)")
_FIELDS = ("field", "columns")
_KEYS = ("run", "cell", "base", "base_cell", "across", *_FIELDS)
_FIELD = re.compile(r"[a-z][a-z0-9_]*%?")
_DEEP = 4
"""Parts of an absolute path that are written: `baselines/<stack>/<device>/<profile>`, not where that was."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """Figures, and what they are said to be."""

    line: int
    keys: Mapping[str, str]
    fields: tuple[str, ...]
    """`tau`, or `pos_0%` for a share printed in percent."""
    figures: tuple[Figure, ...]
    in_table: bool = False
    """Then the figures are all that a cell of the table holds; else those right before the reference."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class References:
    """Everything that a Markdown file claims."""

    claims: tuple[Claim, ...]
    unreadable: tuple[tuple[int, str], ...]
    """References that cannot be read: the line, and why."""
    in_code: int
    """References that stand in code: examples, which claim nothing."""


def read(markdown: str, *, name: str = "the text") -> References:
    """Find every reference. Those in fenced code and in code spans are examples.

    Args:
        markdown: the text.
        name: of its file, for a message.

    Raises:
        BadRecord: a merge left a conflict marker outside the examples: each figure may be there twice.
    """
    lines, in_code = _without_examples(markdown)
    if left := merge_left("\n".join(lines)):
        raise merge_error(f"{name}, line {left}")
    reader = _Reader(lines)
    unreadable: list[tuple[int, str]] = []
    for number, line in enumerate(lines, start=1):
        for found in _REFERENCE.finditer(line):
            try:
                reader.read(number, found)
            except BadInput as error:
                unreadable.append((number, error.shown))
    text = "no row of a table right below says which cell it is about (<!-- draftgate: cell=CELL -->)"
    shown = BadClaim(text).shown
    unreadable += [(number, shown) for number in reader.without_rows]
    return References(claims=tuple(reader.claims), unreadable=tuple(unreadable), in_code=in_code)


class _Reader:
    """Makes claims of references, one after the other."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._lines = lines
        self._above: dict[int, tuple[int, dict[str, str]]] = {}
        """By line of a row: the line of the comment above its table, and what that says."""
        self.without_rows: set[int] = set()
        """Lines of such comments that no row has made use of yet."""
        self.claims: list[Claim] = []

    def read(self, number: int, reference: re.Match[str]) -> None:
        """Take one reference of line `number`.

        Raises:
            BadInput: it cannot be read.
        """
        line, keys = reference.string, _keys(reference)
        if "columns" in keys:
            if _REFERENCE.sub("", line).strip():
                raise BadClaim("a reference with columns= has a line of its own, above its table")
            _columns(keys)
            self._above |= dict.fromkeys(_rows_below(self._lines, number), (number, keys))
            self.without_rows.add(number)
        elif "field" in keys:
            self.claims.append(_in_text(number, line[: reference.start()], keys))
        elif number in self._above:
            above, shared = self._above[number]
            self.without_rows.discard(above)
            self.claims += _in_row(number, line, shared | keys)
        else:
            text = f"a reference names its field, {FORM}, unless it is in a table with columns= above"
            raise BadClaim(text)


def _without_examples(markdown: str) -> tuple[list[str], int]:
    """The lines without fenced code and references in code spans; how many references that were."""
    lines: list[str] = []
    in_code, fence = 0, ""

    def cut(found: re.Match[str]) -> str:
        nonlocal in_code
        if not found["ticks"]:
            return found[0]
        text, count = _REFERENCE.subn("", found[0])
        in_code += count
        return text

    for line in markdown.split("\n"):
        mark = _FENCE.match(line)
        if fence:
            in_code += len(_REFERENCE.findall(line))
            lines.append("")
            if mark and mark[1].startswith(fence) and not mark[2].strip():
                fence = ""
        elif mark and not (mark[1][0] == "`" and "`" in mark[2]):
            fence = mark[1]
            lines.append("")
        else:
            lines.append(_CODE_OR_REFERENCE.sub(cut, line))
    return lines, in_code


def _rows_below(lines: Sequence[str], number: int) -> range:
    """The numbers of the lines that are rows of the table right below line `number`, blank lines between."""
    first = number + len(list(itertools.takewhile(lambda line: not line.strip(), lines[number:])))
    rows = itertools.takewhile(lambda line: line.lstrip().startswith("|"), lines[first:])
    return range(first + 1, first + 1 + len(list(rows)))


def _in_text(number: int, before: str, keys: dict[str, str]) -> Claim:
    figures = figures_before(html.unescape(_REFERENCE.sub("", before)))
    if not figures:
        raise BadClaim(f"no figure stands right before the reference to {keys['field']}: write it there")
    return Claim(line=number, keys=keys, fields=_fields(keys["field"]), figures=figures)


def _in_row(number: int, line: str, keys: dict[str, str]) -> Iterator[Claim]:
    text = _REFERENCE.sub("", line).strip().removeprefix("|").removesuffix("|")
    cells = [html.unescape(cell).strip() for cell in re.split(r"(?<!\\)\|", text)]
    columns = _columns(keys)
    if len(cells) != len(columns):
        raise BadClaim(
            f"the row has {len(cells)} columns, columns= above its table names {len(columns)}: name each"
        )
    for cell, fields in zip(cells, columns, strict=True):
        if fields and has_more(cell):
            raise BadClaim(
                f"the column of {'/'.join(fields)} holds {cell!r}, and not all of it is a figure: write a "
                "number like 1.34, 54.1 % or 1,024"
            )
        if fields and cell:
            yield Claim(line=number, keys=keys, fields=fields, figures=figures_in(cell), in_table=True)


def _keys(reference: re.Match[str]) -> dict[str, str]:
    if not reference["end"]:
        raise BadClaim("a reference ends on the line where it begins, with -->")
    if not reference["body"].startswith(":"):
        raise BadClaim(f"a reference reads {FORM}")
    keys: dict[str, str] = {}
    for part in reference["body"][1:].split():
        key, _, value = part.partition("=")
        if not value or key not in _KEYS:
            raise BadClaim(f"{part!r} is no part of a reference, which reads {FORM}")
        if key in keys:
            raise BadClaim(f"{key}= stands twice in one reference")
        try:
            keys[key] = value if key in _FIELDS else unquote(value, errors="surrogatepass")
        except UnicodeDecodeError:
            raise BadClaim(f"{part!r} holds a %XX that is no UTF-8") from None
    return keys


def _columns(keys: Mapping[str, str]) -> list[tuple[str, ...]]:
    return [() if part == NOTHING else _fields(part) for part in keys["columns"].split(",")]


def _fields(text: str) -> tuple[str, ...]:
    for field in (fields := text.split("/")):
        if not _FIELD.fullmatch(field):
            raise BadClaim(f"{field!r} is no field: it reads like tau, or pos_0% for a share in percent")
    return tuple(fields)


def with_references(
    block: Block, comparison: Comparison, pairs: Sequence[tuple[Entry, Entry]], columns: Sequence[str]
) -> Block:
    """A table of two sides, with the comments that let `draftgate claims` check it.

    Args:
        block: the table.
        comparison: what it shows.
        pairs: the cells that its rows are about, in order.
        columns: what each column holds: fields joined by `/`, or `NOTHING`.
    """
    keys = []
    for old, new in pairs:
        runs = _runs(comparison.columns, (old, new))
        keys.append({**runs, "cell": str(new.cell), "base_cell": str(old.cell)})
    shared = {name: keys[0][name] for name in ("base", "run")} if keys else {}
    rows = []
    for row in keys:
        own = {name: value for name, value in row.items() if shared.get(name) != value}
        if own["base_cell"] == own["cell"]:
            del own["base_cell"]
        rows.append(comment(own))
    shared |= {"across": ",".join(comparison.across)} if comparison.across else {}
    above = comment({**shared, "columns": ",".join(columns)})
    return dataclasses.replace(block, comment=above, comments=tuple(rows))


def of_one_side(block: Block, side: Side, entries: Sequence[Entry], columns: Sequence[str]) -> Block:
    """A table of one side's cells, with the comments that let `draftgate claims` check it.

    Args:
        block: the table.
        side: whose cells these are.
        entries: the cells that its rows are about, in order; all of one suite.
        columns: as in `with_references`.
    """
    run = run_of(side.path if side.single else Path(side.name), side.path, entries[0])
    above = comment({"run": run, "columns": ",".join(columns)})
    rows = tuple(comment({"cell": str(entry.cell)}) for entry in entries)
    return dataclasses.replace(block, comment=above, comments=rows)


def _runs(columns: Sequence[Column], pair: tuple[Entry, Entry]) -> dict[str, str]:
    """What the runs of two cells are called."""
    # Two drafters of one run have the drafters' names.
    no_names = columns[0].name == columns[1].name or columns[0].path == columns[1].path
    return {
        key: run_of(Path(column.path if no_names else column.name), Path(column.path), entry)
        for key, column, entry in zip(("base", "run"), columns, pair, strict=True)
    }


def run_of(name: Path, path: Path, entry: Entry) -> str:
    """What the run of a cell is called: the folders that hold it, without the machine's own."""
    parts = [part for part in name.parts if part not in (name.anchor, "..")]
    parts = parts[-_DEEP:] if name.is_absolute() else parts
    return "/".join([*(parts or [path.resolve().name]), *entry.path.relative_to(path).parent.parts])


def comment(values: Mapping[str, str]) -> str:
    """A reference; nothing in a value can end the comment, leave a table's cell, or be taken for two."""
    parts = (f"{k}={v if k in _FIELDS else escaped(v)}" for k, v in values.items())
    return f"<!-- draftgate: {' '.join(parts)} -->"


def escaped(name: str) -> str:
    """What is neither a letter, a digit nor one of `._-/:=,` as %XX; of two hyphens the second too."""
    text = "".join(c if c.isalnum() or c in "._-/:=," else _hex(c) for c in name)
    return text.replace("--", "-%2D")


def _hex(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))
