"""Writes a document of tables for a terminal, or as Markdown. Whatever a record held comes out as text.

No name, answer or version can leave its cell, colour a terminal, hide behind a direction mark, or become
markup or a formula.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from tabulate import tabulate
from wcwidth import clip, wcswidth, wrap

from harness.text.redaction import MOSTLY_RANDOM, without_keys

_SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_MARKDOWN = str.maketrans({c: f"&#{ord(c)};" for c in "|`[]*~\\#"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_MOST_MARKDOWN = 1_000_000
"""Bytes. GitHub shows no summary of a step above 1 MiB, and the step may write more than our table."""
_LEAST = 12
"""Columns that a cell's name has at least."""
_LEAST_PROSE = 30
"""The same of sentences."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    """A table with a line above."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    align: str = ""
    """`l` or `r` for each column; by default only the first is left."""
    ranks: tuple[int, ...] = ()
    """Of each column; by default 0. Where a line is too long, those of the highest rank go first; 0 stays."""
    prose: bool = False
    """The last column holds sentences: they are folded into what the others leave of a line."""
    title: str = ""
    comment: str = ""
    """For Markdown: says where the figures come from, and is not shown."""
    comments: tuple[str, ...] = ()
    """The same of each row; the last rows may have none."""

    @property
    def aligned(self) -> str:
        """`align` with its default."""
        return self.align or "l".ljust(len(self.header), "r")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Document:
    """What a table says, in the order it says it."""

    sentence: str = ""
    """All in one line. A terminal shows it first and last."""
    title: str
    above: tuple[str, ...] = ()
    blocks: tuple[Block, ...]
    footnotes: tuple[str, ...] = ()
    """Numbered from 1; `raised` makes the numbers that stand in the rows."""
    notes: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()
    legend: tuple[str, ...] = ()


def raised(number: int) -> str:
    """¹ for 1."""
    return str(number).translate(_SUPERSCRIPT)


def visible(text: str) -> str:
    """Control characters, direction marks and line breaks as the escapes that stand for them; no key."""
    text = without_keys(text, least=MOSTLY_RANDOM)
    if text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in _INVISIBLE else c for c in text
    )


def visible_lines(text: str) -> str:
    """The same for a text of several lines, which stay."""
    return "\n".join(map(visible, text.split("\n")))


WIDE = "all columns, also where the terminal is narrower"
"""What --wide does, in the help of each command that has it."""
Piece = str | Block
"""Of a text for a terminal: a line, or a table."""


def as_text(document: Document, width: int | None = None) -> str:
    """For a terminal of `width` columns; None where a line may be of any length."""
    said = [document.sentence] if document.sentence else []
    groups: list[Sequence[Piece]] = [said, [document.title, *document.above]]
    groups += [[block] for block in document.blocks]
    groups += [*below(document), said]
    return "\n\n".join(lay_out(group, width) for group in groups if group) + "\n"


def lay_out(pieces: Iterable[Piece], width: int | None = None) -> str:
    """Lines and tables one below the other. No word of a line is broken, and no line of a table."""
    shown: list[str] = []
    for piece in pieces:
        line = piece.title if isinstance(piece, Block) else piece
        shown += folded(line, width) if line or isinstance(piece, str) else []
        shown += _lines(piece, width) if isinstance(piece, Block) else []
    return "\n".join(shown)


def folded(text: str, width: int | None, *, indent: str = "  ") -> Sequence[str]:
    """The lines of a line in so many columns; no word is broken."""
    text = visible(text)
    if width is None or wcswidth(text) <= width:
        return [text]
    return wrap(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, align: str = "") -> str:
    """One table for a terminal: all columns, aligned as those of a `Block`."""
    return "\n".join(_lines(Block(header=tuple(header), rows=tuple(map(tuple, rows)), align=align), None))


def _lines(block: Block, width: int | None) -> Iterable[str]:
    """The table with the columns that fit, and a line that names the others."""
    table = [[visible(cell) for cell in row] for row in (block.header, *block.rows)]
    widths = [max(map(wcswidth, column)) for column in zip(*table, strict=True)]
    ranks, left = block.ranks or (0,) * len(widths), list(range(len(widths)))
    if block.prose:
        widths[-1] = min(widths[-1], _LEAST_PROSE)
    while width and _sum(widths, left) > width and (last := max(ranks[i] for i in left)):
        left = [i for i in left if ranks[i] < last]
    if width and (excess := _sum(widths, left) - width) > 0:
        room = max(_LEAST, widths[left[0]] - excess)
        for row in table:
            row[left[0]] = _shortened(row[left[0]], room)
    if width and block.prose and left[-1] == len(widths) - 1:
        room = max(_LEAST_PROSE, width - _sum(widths, left[:-1]) - 2)
        for row in table:
            row[-1] = "\n".join(folded(row[-1], room, indent=""))
    align = block.aligned
    # As a row of its own the header makes no column wider than its texts are.
    yield from (
        line.rstrip()
        for line in tabulate(
            [[row[i] for i in left] for row in table], tablefmt="plain", disable_numparse=True,
            colalign=["left" if align[i] == "l" else "right" for i in left],
        ).split("\n")
    )  # fmt: skip
    if gone := list(dict.fromkeys(name for i, name in enumerate(table[0]) if i not in left and name)):
        more = (f" and {len(gone) - n} more" if n < len(gone) else "" for n in range(len(gone), 0, -1))
        lines = (
            f"not shown: {', '.join(gone[: len(gone) - n])}{said} (--wide shows all)"
            for n, said in enumerate(more)
        )
        yield next((line for line in lines if wcswidth(line) <= (width or 0)), "not all shown (--wide)")


def _sum(widths: Sequence[int], columns: Sequence[int]) -> int:
    """Of a line with two spaces between columns."""
    return sum(widths[i] + 2 for i in columns) - 2


def _shortened(text: str, room: int) -> str:
    """Both ends of a text that is too long: names differ at either."""
    size = wcswidth(text)
    if size <= room:
        return text
    return f"{clip(text, 0, room // 2)}…{clip(text, size - (room - room // 2 - 1), size)}"


def by_text(said: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Each text once, in order, with the names of all that it is said of.

    Args:
        said: a name, and a text about it.
    """
    names: dict[str, list[str]] = {}
    for name, text in said:
        names.setdefault(text, []).append(name)
    return names


def as_markdown(document: Document) -> str:
    """For a pull request, or for the summary of a job: its longest parts are cut, so that GitHub shows it."""
    first, *above = (markdown(line) for line in (document.title, *document.above))
    parts = [[markdown(document.sentence)], [f"**{first}**"], _broken(above)]
    for block in document.blocks:
        parts += [[markdown(block.title)], [block.comment], markdown_table(block)]
    parts += [_broken(list(map(markdown, block))) for block in below(document)]
    return "\n\n".join(text for text in map("\n".join, _within(parts)) if text) + "\n"


def markdown_table(block: Block) -> list[str]:
    """The lines of a table, without what stands above it."""
    rules = [":---" if a == "l" else "---:" for a in block.aligned]
    rows = itertools.zip_longest(block.rows, block.comments, fillvalue="")
    body = [_markdown_row(cells, comment) for cells, comment in rows]
    return [_markdown_row(block.header), f"|{'|'.join(rules)}|", *body]


def _broken(lines: list[str]) -> list[str]:
    return [f"{line}<br>" for line in lines[:-1]] + lines[-1:]


def _within(parts: list[list[str]]) -> list[list[str]]:
    """The parts, in order, without the last lines of the longest ones where all are too long together."""
    sizes = [sum(len(line.encode()) + 1 for line in part) for part in parts]
    excess = sum(sizes) - _MOST_MARKDOWN
    for i in sorted(range(len(parts)), key=sizes.__getitem__, reverse=True):
        if excess <= 0:
            break
        part, cut = list(parts[i]), 0
        bar = "|" * bool(part and part[0].startswith("| "))
        while excess > 0 and len(part) > 2 * len(bar):  # a table keeps its header
            excess -= len(part.pop().encode()) + 1
            cut += 1
        if cut:
            what = "rows" if bar else "lines"
            part.append(f"{bar} {cut:,} more {what} are not shown: a job summary holds 1 MiB {bar}".strip())
        parts = [*parts[:i], part, *parts[i + 1 :]]
    return parts


def below(document: Document) -> Iterable[Sequence[str]]:
    """The groups of lines that stand below the tables."""
    yield [f"{raised(number)} {text}" for number, text in enumerate(document.footnotes, start=1)]
    yield [f"note: {text}" for text in document.notes]
    yield document.sentences
    yield document.legend


def _markdown_row(cells: Iterable[str], comment: str = "") -> str:
    return "| " + " | ".join(markdown(cell) for cell in cells) + f" {comment}{' ' * bool(comment)}|"


def markdown(text: str) -> str:
    """Text that stays in its cell, and is no markup."""
    return visible(text).translate(_MARKDOWN)


def as_csv(header: Sequence[str], rows: Iterable[Sequence[str | float | None]]) -> str:
    """For a spreadsheet: numbers in full, nothing for what was not measured, no text that is a formula."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([_no_formula(name) for name in header])
    for row in rows:
        writer.writerow([_no_formula(value) if isinstance(value, str) else value for value in row])
    return out.getvalue()


def _no_formula(text: str) -> str:
    return ("'" if text.startswith(_FORMULA) else "") + visible(text)


def as_json(data: Any) -> str:
    """For a program; a terminal may show it too."""
    text = json.dumps(data, ensure_ascii=False, indent=1, allow_nan=False)
    return _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"
