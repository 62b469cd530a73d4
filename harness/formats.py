"""A document of tables -> text for a terminal, or Markdown. Whatever a record held comes out as text.

No name, answer or version can leave its cell, colour a terminal, hide behind a direction mark, or become
markup or a formula.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from tabulate import tabulate

_SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_MARKDOWN = str.maketrans({c: f"&#{ord(c)};" for c in "|`[]*~\\"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    """A table with a line above."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    align: str
    """`l` or `r` for each column."""
    title: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Document:
    """What a table says, in the order it says it."""

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
    """Control characters, direction marks and line breaks as the escapes that stand for them."""
    if text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in _INVISIBLE else c for c in text
    )


def as_text(document: Document) -> str:
    """For a terminal."""
    parts = ["\n".join(map(visible, (document.title, *document.above)))]
    for block in document.blocks:
        rows = [[visible(cell) for cell in row] for row in block.rows]
        align = ["left" if a == "l" else "right" for a in block.align]
        table = tabulate(
            rows, headers=[visible(h) for h in block.header], tablefmt="plain", colalign=align,
            disable_numparse=True,
        )  # fmt: skip
        lines = [line.rstrip() for line in table.split("\n")]
        parts.append("\n".join([*([visible(block.title)] if block.title else []), *lines]))
    parts += ["\n".join(map(visible, lines)) for lines in _below(document) if lines]
    return "\n\n".join(parts) + "\n"


def as_markdown(document: Document) -> str:
    """For a pull request."""
    first, *above = (_markdown(line) for line in (document.title, *document.above))
    parts = [f"**{first}**", *(["<br>\n".join(above)] if above else [])]
    for block in document.blocks:
        rules = [":---" if a == "l" else "---:" for a in block.align]
        table = [_markdown_row(block.header), f"|{'|'.join(rules)}|", *map(_markdown_row, block.rows)]
        parts += [*([_markdown(block.title)] if block.title else []), "\n".join(table)]
    parts += ["<br>\n".join(map(_markdown, lines)) for lines in _below(document) if lines]
    return "\n\n".join(parts) + "\n"


def _below(document: Document) -> Iterable[Sequence[str]]:
    yield [f"{raised(number)} {text}" for number, text in enumerate(document.footnotes, start=1)]
    yield [f"note: {text}" for text in document.notes]
    yield document.sentences
    yield document.legend


def _markdown_row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(_markdown(cell) for cell in cells) + " |"


def _markdown(text: str) -> str:
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
