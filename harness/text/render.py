"""A document of tables -> text for a terminal, or Markdown. Whatever a record held comes out as text.

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

from harness.text.redaction import MOSTLY_RANDOM, without_keys

_SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_MARKDOWN = str.maketrans({c: f"&#{ord(c)};" for c in "|`[]*~\\#"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_MOST_MARKDOWN = 1_000_000
"""Bytes. GitHub shows no summary of a step above 1 MiB, and the step may write more than our table."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    """A table with a line above."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    align: str
    """`l` or `r` for each column."""
    title: str = ""
    comment: str = ""
    """For Markdown: says where the figures come from, and is not shown."""
    comments: tuple[str, ...] = ()
    """The same of each row; the last rows may have none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Document:
    """What a table says, in the order it says it."""

    sentence: str = ""
    """All in one line. A terminal shows it first and last."""
    title: str
    above: tuple[str, ...]
    blocks: tuple[Block, ...]
    footnotes: tuple[str, ...]
    """Numbered from 1; `raised` makes the numbers that stand in the rows."""
    notes: tuple[str, ...]
    sentences: tuple[str, ...]
    legend: tuple[str, ...]


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


def as_text(document: Document) -> str:
    """For a terminal."""
    said = [visible(document.sentence)] if document.sentence else []
    parts = [*said, "\n".join(map(visible, (document.title, *document.above)))]
    for block in document.blocks:
        table = text_table(block.header, block.rows, align=block.align)
        parts.append("\n".join([*([visible(block.title)] if block.title else []), table]))
    parts += ["\n".join(map(visible, block)) for block in below(document) if block]
    parts += said
    return "\n\n".join(parts) + "\n"


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, align: str = "") -> str:
    """One table for a terminal.

    Args:
        header: the names of its columns.
        rows: a text for each column.
        align: `l` or `r` for each column; by default only the first is left.
    """
    table = tabulate(
        [[visible(cell) for cell in row] for row in rows], headers=[visible(name) for name in header],
        tablefmt="plain", disable_numparse=True,
        colalign=["left" if a == "l" else "right" for a in align or "l".ljust(len(header), "r")],
    )  # fmt: skip
    return "\n".join(line.rstrip() for line in table.split("\n"))


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
    rules = [":---" if a == "l" else "---:" for a in block.align]
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
