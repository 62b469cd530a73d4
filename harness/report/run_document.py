"""The tables of one run as a document, with references to its records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.judge.collect import Side
from harness.report.references import NOTHING, of_one_side
from harness.report.run_table import Column, block, common_lines, footnotes, report, tables
from harness.report.sentence import sentence
from harness.results.grouping import grouped
from harness.results.records import CellRecord, load
from harness.text.numbers import share
from harness.text.render import Block, Document, lay_out, visible

_UNCLAIMED = frozenset({"cell", "reach"})
"""Columns of texts."""


def run_document(side: Side) -> tuple[Document, bool]:
    """The tables of all cells of a side, and whether all are valid.

    Raises:
        BadRecord: a cell is damaged.
    """
    groups, blocks, above, below = groups_of(side), list[Block](), list[str](), list[str]()
    for key, cells in groups.items():
        suite = key[-1]
        of = f"{suite}: " * (len(groups) > 1)
        above += [of + line for line in common_lines(cells)]
        below += [of + line for line in footnotes(cells)]
        own = {str(e.cell): e for e in side.entries if (e.stack, e.device, e.profile, e.suite) == key}
        for title, (columns, rows) in tables(cells):
            entries = [own[str(row["cell"]).split()[0]] for row in rows]
            made = block(columns, rows, of + (title or "speed"))
            blocks.append(of_one_side(made, side, entries, [_field(column) for column in columns]))
    said, valid = _counted(groups.values())
    page = Document(
        sentence=said,
        title=side.name,
        above=tuple(above),
        blocks=tuple(blocks),
        notes=side.notes,
        sentences=tuple(below),
    )
    return page, valid


def _counted(groups: Iterable[Sequence[CellRecord]]) -> tuple[str, bool]:
    """The sentence that counts the cells, and whether all are valid."""
    cells = [cell for group in groups for cell in group]
    said = sentence([(str(cell.cell), "measured" if cell.valid else "invalid") for cell in cells])
    return said, all(cell.valid for cell in cells)


def _field(column: Column) -> str:
    """What `draftgate claims` calls a column; shares print in percent."""
    if column.name in _UNCLAIMED:
        return NOTHING
    return column.name + "%" * (column.show is share)


def groups_of(side: Side) -> dict[tuple[str, ...], list[CellRecord]]:
    """The cells of a side by stack, device, profile and suite: groups that one run may have made.

    Raises:
        BadRecord: a cell is damaged.
    """
    groups = grouped(side.entries, lambda e: (e.stack, e.device, e.profile, e.suite))
    return {key: [load(e.path, CellRecord) for e in own] for key, own in groups.items()}


def side_report(side: Side, width: int | None = None) -> tuple[str, bool]:
    """The tables of all cells of a side, in groups that one run may have made; and whether all are valid.

    Raises:
        BadRecord: a cell is damaged.
    """
    groups = groups_of(side)
    of = "{}:\n" if len(groups) > 1 else ""
    tables = [of.format(visible(suite)) + report(cells, width) for (*_, suite), cells in groups.items()]
    notes = [lay_out([f"note: {note}"], width) for note in side.notes]
    counted, valid = _counted(groups.values())
    said = lay_out([counted], width)
    return "\n\n".join([said, *tables, *notes, said]) + "\n", valid
