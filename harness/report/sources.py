"""Which run and cell each figure of a comparison's tables comes from, as references for Markdown."""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from harness.judge.collect import Entry
from harness.judge.compare import Comparison, Row
from harness.report.references import NOTHING, comment, where
from harness.text.render import Block

_DEEP = 4
"""Parts of an absolute path that are written: `baselines/<stack>/<device>/<profile>`, not where that was."""

Place = tuple[int, Sequence[tuple[Row, Entry] | None]]
"""A row of a pivot: its side, and for each value of the axis the row of the comparison and the cell."""


class Sources:
    """Gives the tables of one comparison their references."""

    def __init__(self, comparison: Comparison) -> None:
        self._of = comparison
        rows = comparison.rows
        sides = [[row.figures.entry for row in rows]]
        for i in range(len(comparison.columns) - 1):
            sides += [[a.figures.entry for row in rows if (a := row.against[i])]]
        names = collections.Counter(column.name for column in comparison.columns)
        self._runs = [
            _Run(column.name if names[column.name] == 1 else column.path, Path(column.path), entries)
            for column, entries in zip(comparison.columns, sides, strict=True)
        ]
        self._across = {"across": ",".join(comparison.across)} if comparison.across else {}

    def of_table(self, block: Block) -> Block:
        """For a line a cell, each side against the first."""
        others = self._runs[1:]
        if len(others) == 1:
            columns = "-,pairs,base_paired_tokens_per_step,paired_tokens_per_step,change%,ci%,-"
            columns += ",same_text/pairs,base_speed_up,speed_up,-"
        else:
            columns = "-,prompts@base,tokens_per_step@base"
            for i in range(1, len(others) + 1):
                columns += f",paired_tokens_per_step@{i},change%@{i},-"
            columns += ",-"
        if not others:
            return block
        head = {"base": self._runs[0].name}
        head |= {f"run{_suffix(i)}": run.name for i, run in enumerate(others, start=1)}
        rows = [
            self._row(head, [(row, a.figures.entry if a else None, i) for i, a in enumerate(row.against, 1)])
            for row in self._of.rows
        ]
        return self._with(block, head, columns, rows)

    def of_positions(self, block: Block) -> Block:
        """For conditional acceptance, a line a cell and side."""
        first = len(block.align) - block.align.count("r")
        columns = [NOTHING] * first + [f"conditional_{i}%" for i in range(len(block.align) - first)]
        head = {"base": self._runs[0].name, "run": self._runs[1].name} if self._runs[1:] else {}
        rows = [
            self._row(head, [(row, a.figures.entry, i)])
            for row in self._of.rows
            for i, a in enumerate(row.against, start=1)
            if a and a.positions
        ]
        return self._with(block, head, ",".join(columns), rows)

    def of_pivot(self, block: Block, places: Sequence[Place], *, labels: int) -> Block:
        """For lines of several cells.

        Args:
            block: the table.
            places: what its rows show, in order.
            labels: columns that stand before the figures.
        """
        several = len(self._runs) > 1
        head = {} if several else {"run": self._runs[0].name}
        names = ["tok_s", "pos_0%", "accepted_per_draft", "tokens_per_step"]
        columns, rows = [NOTHING] * labels, []
        for slot in range(1, max((len(found) for _, found in places), default=0) + 1):
            columns += [f"{name}@{slot}" for name in names]
            columns += [f"change%@{slot}/ci%@{slot}"] if several else []
        for side, found in places:
            slots = [(*place, side) if place else None for place in found]
            rows.append(self._row(head, slots))
        return self._with(block, head, ",".join([*columns, NOTHING]), rows)

    def _row(
        self, head: Mapping[str, str], found: Sequence[tuple[Row, Entry | None, int] | None]
    ) -> dict[str, str]:
        """What a row says beyond the comment above its table; side 0 stands for itself alone."""
        keys: dict[str, str] = {}
        suffixes = [_suffix(slot) for slot in range(1, len(found) + 1)]
        for suffix, place in zip(suffixes, found, strict=True):
            row, entry, side = place or (None, None, 0)
            keys[f"cell{suffix}"] = str(entry.cell) if entry else NOTHING
            if row and entry:
                keys[f"run{suffix}"] = self._runs[side].of(entry)
            if row and side:
                base = row.figures.entry
                keys[f"base{suffix}"] = self._runs[0].of(base)
                keys[f"base_cell{suffix}"] = str(base.cell)
        told = [where({**head, **keys}, suffix) for suffix in suffixes]
        for key in list(keys):
            fewer = {name: value for name, value in keys.items() if name != key}
            if [where({**head, **fewer}, suffix) for suffix in suffixes] == told:
                keys = fewer
        return keys

    def _with(
        self, block: Block, head: Mapping[str, str], columns: str, rows: Iterable[dict[str, str]]
    ) -> Block:
        return dataclasses.replace(
            block,
            comment=comment({**head, **self._across, "columns": columns}),
            comments=tuple(comment(row) for row in rows),
        )


class _Run:
    """What a side is called in a reference: a run by its folder, anything else by its path."""

    def __init__(self, name: str, folder: Path, entries: Sequence[Entry]) -> None:
        path = Path(name)
        parts = [part for part in path.parts if part not in (path.anchor, "..")]
        parts = parts[-_DEEP:] if path.is_absolute() else parts
        self._name = "/".join(parts) or folder.resolve().name
        self._folder = folder
        self._met = collections.Counter(str(entry.cell) for entry in entries)
        folders = {str(self._below(entry).parent) for entry in entries}
        self.name = self._joined(Path(os.path.commonpath(folders)) if folders else Path())

    def of(self, entry: Entry) -> str:
        """The same for all cells, but for those of one name: their files."""
        return self.name if self._met[str(entry.cell)] == 1 else self._joined(self._below(entry))

    def _below(self, entry: Entry) -> Path:
        return entry.path.relative_to(self._folder)

    def _joined(self, below: Path) -> str:
        return "/".join([self._name, *below.parts])


def _suffix(slot: int) -> str:
    return "" if slot == 1 else str(slot)
