"""What the columns and the rows of a comparison are called, and what stands above them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from harness.judge.collect import Entry
from harness.judge.compare import Comparison, Row
from harness.judge.pairing import drafting
from harness.measure.validity import MARK
from harness.results.names import BASE, REFERENCE, thinking_word
from harness.text.numbers import DASH

Axis = Literal["endpoint", "language", "workload", "thinking", "variant", "drafter"]

PLACE = ("stack", "device", "profile", "suite")
"""What tells cells of one name apart."""
_SHORT = 16
"""Characters of a column's label; what is longer stands above the table."""
_MANY = 4
"""Values of a condition worth a line."""


class Labels:
    """Short names that distinguish the sides and the cells of one comparison."""

    def __init__(self, comparison: Comparison) -> None:
        self._of = comparison
        self._above = ""
        self.columns = self._column_labels()
        entries = [row.figures.entry for row in comparison.rows]
        self._varying = varying(entries)

    def _column_labels(self) -> list[str]:
        """What distinguishes the sides, if it is short: a field compared across, drafters, engines, names."""
        columns = self._of.columns
        for name in (*self._of.across, "drafter", "vLLM"):
            values = [column.conditions.get(name, ()) for column in columns]
            texts = [f"vLLM {v[0]}" if name == "vLLM" else v[0] for v in values if len(v) == 1]
            if _tell_apart(texts, len(columns)):
                self._above = name if name in ("drafter", "variant") else ""
                return texts
        names = [column.name for column in columns]
        news = ["new", *(f"new {i}" for i in range(2, len(columns)))]
        return names if _tell_apart(names, len(columns)) else ["base", *news][: len(columns)]

    def title(self, pivot: Axis | None) -> str:
        """The first line."""
        if len(self.columns) == 1:
            return self._of.columns[0].name + (f" by {pivot}" if pivot else "")
        sides = f"{self.columns[0]} → {', '.join(self.columns[1:])}"
        if self._of.across:
            fields = ", ".join(self._of.across)
            verdict = ", as the stack declares" if self._of.judged else ": no verdict is given"
            return f"tokens per step across {fields}: {sides} (the subject is {fields}{verdict})"
        return f"tokens per step: {sides}"

    def above(self) -> Iterator[str]:
        """What all sides share, then what each has of its own."""
        columns = self._of.columns
        first = ["stack", "profile", "target", "vLLM", "T", "max_tokens", "concurrency", "prefix cache"]
        varied = [n for column in columns for n in column.conditions if n != "drafter"]
        names = list(dict.fromkeys([*first, "device", "threads", *self._of.across, *varied]))
        values = {name: [column.conditions.get(name, ()) for column in columns] for name in names}
        shared = {name: v[0] for name, v in values.items() if all(set(v[0]) == set(other) for other in v)}
        for line in (first, names[len(first) :]):
            text = " · ".join(_condition(n, shared[n]) for n in line if shared.get(n))
            if text:
                yield text
        if len(columns) == 1:
            return
        own = [name for name in names if name not in shared]
        drafters = [column.conditions.get("drafter", ()) for column in columns]
        if len(set(drafters)) > 1 and all(len(drafter) == 1 for drafter in drafters):
            own.append("drafter")
        for label, column in zip(self.columns, columns, strict=True):
            known = {n: column.conditions.get(n, ()) for n in own}
            conditions = [_condition(n, v) for n, v in known.items() if v and v != (column.name,)]
            name = label if label == column.name else f"{label}: {column.name}"
            if conditions or name != label:
                yield " · ".join([name, *conditions])

    def place(self, entry: Entry, axis: Axis) -> str:
        """The name of a cell without one of its axes."""
        parts = [part for part in _parts(entry) if part[0] != axis and part[1] and part != ("variant", BASE)]
        said = f" {REFERENCE}" * (entry.cell.reference and axis != "variant")
        return self._prefix(entry) + "-".join(value for _, value in parts) + said

    def row(self, row: Row) -> str:
        """The cell's name; `a→b` in the part that differs between the sides, unless a header says it.

        With a mark where most answers of a side are degenerate.
        """
        entries = [row.figures.entry, *(a.figures.entry for a in row.others if a)]
        parts, beside = [], entries[0].cell.reference
        for part in zip(*(_parts(e) for e in entries), strict=True):
            values = list(dict.fromkeys(value for _, value in part))
            shown = any(values) and (part[0][0], values) != ("variant", [BASE])
            if shown and (beside or part[0][0] != self._above):
                parts.append("→".join([values[0], *([",".join(values[1:])] if values[1:] else [])]))
        stuck = any(f.degenerate for f in (row.figures, *(a.figures for a in row.others if a)))
        said = f" {REFERENCE}" * beside + f" {MARK}" * stuck
        return self._prefix(entries[0]) + "-".join(parts) + said

    def _prefix(self, entry: Entry) -> str:
        return "".join(f"{getattr(entry, part)}/" for part in self._varying)


def where(entry: Entry) -> dict[str, str]:
    """Each part of `PLACE` of a cell."""
    return {part: getattr(entry, part) for part in PLACE}


def varying(entries: Sequence[Entry]) -> list[str]:
    """The parts of `PLACE` in which cells differ."""
    return [part for part in PLACE if len({getattr(entry, part) for entry in entries}) > 1]


def _tell_apart(texts: Sequence[str], columns: int) -> bool:
    return len(texts) == columns == len(set(texts)) and columns > 1 and max(map(len, texts)) <= _SHORT


def _condition(name: str, values: Sequence[str]) -> str:
    shown = ", ".join([*values[:_MANY], *(["..."] if len(values) > _MANY else [])])
    return f"{name}={shown}" if name == "T" else f"{name} {shown}"


def _parts(entry: Entry) -> list[tuple[str, str]]:
    cell = entry.cell
    return [
        ("endpoint", cell.endpoint),
        ("language", cell.language),
        ("workload", cell.workload),
        ("thinking", thinking_word(cell.thinking) if cell.thinking else ""),
        ("variant", cell.variant),
        ("drafter", drafting(cell)),
    ]


def axis_value(entry: Entry, axis: Axis) -> str:
    """`en`; of drafters with k, since one row has them all."""
    said = f" {REFERENCE}" * (entry.cell.reference and axis == "variant")
    return (dict(_parts(entry))[axis] or DASH) + said
