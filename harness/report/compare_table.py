"""The document that shows a comparison: tables with a row for each cell, or pivoted by an axis."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from harness.errors import NoCells
from harness.judge.compare import CellComparison, Comparison, Figures, PositionChange, Row
from harness.judge.evidence import StretchChange
from harness.judge.footnotes import holm_notes
from harness.report import run_table
from harness.report.labels import Axis, Labels, axis_value
from harness.report.references import NOTHING, with_references
from harness.report.run_table import CELL, LEGEND, Column, Values, worth_a_line
from harness.report.sentence import MARKS, became, sentence
from harness.results.stretches import name_of
from harness.text.numbers import DASH, number, share, signed, signed_interval
from harness.text.render import Block, Document, by_text, raised

_SIDE, _NOTES = Column("side", "side", align="l"), Column("", "notes", align="l")
_LATER = 1000
"""A rank above that of any side or value: their columns go first."""
_PIVOTED = (
    Column("tok/s", "tok_s", run_table.tenths, rank=_LATER + 1),
    Column("pos 0 %", "pos_0", share, rank=_LATER),
    Column("acc/draft", "accepted_per_draft", number, rank=_LATER + 2),
    Column("tok/step", "tokens_per_step", number),
    Column("change %", "shown"),
)
_POSITIONS_LEGEND = (
    "positions: ▼ lost  · tested, not lost  = identical  no mark: too few events, or another drafter"
)
_SPEED_LEGEND = "speed-up: tok/s over that of none in the same run, one start each: a description, no claim"


def document(comparison: Comparison, *, pivot: Axis | None = None) -> Document:
    """The tables and all that stands around them.

    Args:
        comparison: what to show.
        pivot: an axis whose values become columns.

    Raises:
        BadInput: two cells of a side have the same row and column in the pivot.
    """
    labels = Labels(comparison)
    page = _Page(comparison, labels)
    every = (page.table, page.positions, page.stretches, page.speed)
    blocks = [page.pivot(pivot)] if pivot else [block() for block in every]
    legend = [LEGEND] if comparison.columns[1:] and comparison.judged else []
    legend += [_POSITIONS_LEGEND] if legend and not pivot else []
    legend += [_SPEED_LEGEND] if len(comparison.columns) == 2 and not pivot else []  # noqa: PLR2004
    return Document(
        sentence=page.sentence(),
        title=labels.title(pivot),
        above=tuple(labels.above()),
        blocks=tuple(block for block in blocks if block.rows),
        footnotes=tuple(page.footnotes),
        notes=(*page.constant, *page.geomean_notes(), *page.holm_notes(), *comparison.notes),
        sentences=tuple(page.sentences()),
        legend=tuple(legend),
    )


_Place = tuple[Figures, CellComparison | None, Row]


class _Page:
    """The tables of one comparison, and the footnotes as their rows raise them."""

    def __init__(self, comparison: Comparison, labels: Labels) -> None:
        self._of = comparison
        self.footnotes: dict[str, int] = {}
        self.constant: list[str] = []
        """What every line of the table would have as a footnote."""
        self._rows = labels
        self._labels = labels.columns
        self._pair = len(labels.columns) == 2  # noqa: PLR2004
        self._several = len(labels.columns) > 2  # noqa: PLR2004
        """More than one other side, so that each has to be named."""
        self._timed = "variant" in comparison.across or any(
            row.figures.entry.cell.reference for row in comparison.rows
        )
        """What is compared may be as fast as it likes: tok/s stand beside."""

    def table(self) -> Block:
        """A line a cell: two sides in full; of more, each against the first."""
        first, *others = self._labels
        if self._pair:
            columns = run_table.compared_columns(first, others[0])
            columns.append(Column(f"speed-up {first}", "base_speed_up", number, rank=7))
            columns.append(Column(f"speed-up {others[0]}", "speed_up", number, rank=6))
            if self._timed:
                columns.append(Column(f"tok/s {first}", "base_tok_s", run_table.tenths, rank=5))
                columns.append(Column(f"tok/s {others[0]}", "tok_s", run_table.tenths, rank=5))
        else:
            columns = [
                CELL,
                Column("n", "prompts", run_table.count, rank=_LATER + 1),
                Column(first, "tokens_per_step", number, rank=_LATER),
                *([Column("tok/s", "tok_s", run_table.tenths, rank=_LATER)] if self._timed else []),
            ]
            for i, label in enumerate(others):
                columns.append(Column(label, f"paired_tokens_per_step_{i}", number, rank=i))
                columns.append(Column("change %", f"change_{i}%", signed, rank=i))
                if self._timed:
                    columns.append(Column("95 % CI", f"ci_{i}%", signed_interval, rank=i))
                columns.append(Column("", f"mark_{i}", align="l", rank=i))
                if self._timed:
                    columns.append(Column("tok/s", f"tok_s_{i}", run_table.tenths, rank=i))
        columns.append(_NOTES)
        markers = self._markers([self._said(row) for row in self._of.rows])
        block = run_table.block(columns, map(self._values, self._of.rows, markers))
        means = [self._of.geomean(column) for column in range(len(others))]
        if len(block.rows) > 1 and any(means):
            cells = ["geomean", *[""] * (len(columns) - 1)]
            at = [i for i, column in enumerate(columns) if column.header == "change %"]
            for i, mean in zip(at, means, strict=True):
                cells[i] = signed(mean[0] if mean else None)
            block = dataclasses.replace(block, rows=(*block.rows, tuple(cells)))
        return self._referring(block, self._of.rows, columns)

    def _values(self, row: Row, markers: str) -> Values:
        values: Values = {"cell": self._rows.row(row), "notes": markers}
        values |= run_table.figure_values(row.figures)
        values |= {"base_tok_s": row.figures.tok_s, "tok_s": None} if self._pair else {}
        for i, a in enumerate(row.others):
            own = {**run_table.pair_values(row, a), "mark": self._mark(a)} if a else {}
            values |= own if self._pair else _numbered(own, i)
        return values

    def _others(self, row: Row) -> list[tuple[str, CellComparison]]:
        """The cells that a row's cell was compared with, each with the label of its side."""
        return [(label, a) for label, a in zip(self._labels[1:], row.others, strict=True) if a]

    def _pairs(self) -> list[tuple[Row, str, CellComparison]]:
        return [(row, label, a) for row in self._of.rows for label, a in self._others(row)]

    def _referring(self, block: Block, rows: Sequence[Row], columns: Sequence[Column]) -> Block:
        """Of two sides `draftgate claims` can check every figure; of more, a row has several cells."""
        if not self._pair:
            return block
        pairs = [(row.figures.entry, a.figures.entry) for row in rows for a in row.others if a]
        names = [NOTHING if column.align == "l" else column.name for column in columns]
        return with_references(block, self._of, pairs, names)

    def _mark(self, a: CellComparison) -> str:
        return MARKS[a.verdict.kind] if self._of.judged or a.verdict.kind == "invalid" else DASH

    def geomean_notes(self) -> Iterator[str]:
        """Where the sets of cells differ, the mean is over those that were compared."""
        for column, label in enumerate(self._labels[1:]):
            mean = self._of.geomean(column)
            found = [row.others[column] for row in self._of.rows]
            refused = sum(a is not None and a.verdict.primary is None for a in found)
            left_out = refused + self._of.one_sided[column]
            if mean and left_out and len(self._of.rows) > 1:
                yield f"geomean of {label}: over the {mean[1]} drafting cells compared; {left_out} left out"

    def holm_notes(self) -> list[str]:
        """Which of the regressed cells are so as one of many."""
        found = [(self._rows.row(row) + self._side(label), a.verdict) for row, label, a in self._pairs()]
        return holm_notes(found) if self._of.judged else []

    def _side(self, label: str) -> str:
        return f" ({label})" if self._several else ""

    def positions(self) -> Block:
        """Conditional acceptance, a column a position."""
        depth = max((len(a.positions) for _, _, a in self._pairs()), default=0)
        columns = [Column(f"pos {i}", f"conditional_{i}%", _change, rank=i) for i in range(depth)]
        title = "acceptance at each position, % of the steps that got there (change in points)"

        def values(a: CellComparison) -> Values:
            return {f"conditional_{p.index}": (p.old, p.new, self._lost(p, a)) for p in a.positions}

        return self._referring(*self._line_a_pair(title, columns, values))

    def stretches(self) -> Block:
        """Tokens per step along the answers, a column a stretch."""
        starts = sorted({s.start for _, _, a in self._pairs() for s in a.verdict.stretches})
        columns = [Column(name_of(start), str(start), rank=i) for i, start in enumerate(starts)]
        title = "tokens per step along the answers, by token (change in %; marks as of positions)"

        def values(a: CellComparison) -> Values:
            return {str(s.start): f"{_stretch(s)} {self._lost(s, a)}".rstrip() for s in a.verdict.stretches}

        return self._line_a_pair(title, columns, values)[0]

    def speed(self) -> Block:
        """Where tok/s moved: by tokens per step, or by the time of a step."""
        columns = [
            Column("tok/s", "tok_s", align="r"),
            Column("change %", "speed", signed, rank=1),
            Column("tok/step, change %", "tokens", signed, rank=2),
            Column("s/step, change %", "seconds", signed, rank=2),
        ]
        title = "speed where it moved, one start of each: a description, no claim"

        def values(a: CellComparison) -> Values:
            if a.speed is None:
                return {}
            old, new = map(run_table.tenths, a.speed.tok_s)
            own = {"speed": a.speed.speed, "tokens": a.speed.tokens, "seconds": a.speed.seconds}
            return {"tok_s": f"{old} → {new}", **own}

        return self._line_a_pair(title, columns, values)[0]

    def _line_a_pair(
        self, title: str, columns: Sequence[Column], values: Callable[[CellComparison], Values]
    ) -> tuple[Block, list[Row], list[Column]]:
        """A table with a line for each comparison that has values, its rows, and its columns."""
        columns = [CELL, *([_SIDE] if self._several else []), *columns]
        shown = [(row, label, own) for row, label, a in self._pairs() if (own := values(a))]
        lines = [{"cell": self._rows.row(row), "side": label, **own} for row, label, own in shown]
        return run_table.block(columns, lines, title), [row for row, _, _ in shown], columns

    def _lost(self, one: PositionChange | StretchChange, a: CellComparison) -> str:
        if not self._of.judged:
            return ""
        if a.verdict.kind == "identical":
            return MARKS["identical"]
        return MARKS["regressed"] if one.lost else "·" if one.tested else ""

    def pivot(self, axis: Axis) -> Block:
        """Rows without the axis, its values as columns; a line a side."""
        several = len(self._labels) > 1
        places: dict[tuple[str, int], dict[str, _Place]] = {}
        for of in self._of.rows:
            for column, a in enumerate((None, *of.others)):
                if column and a is None:
                    continue
                figures = a.figures if a else of.figures
                place = places.setdefault((self._rows.place(figures.entry, axis), column), {})
                value = axis_value(figures.entry, axis)
                if value in place:
                    paths = f"{place[value][0].entry.path} and {figures.entry.path}"
                    raise NoCells(f"{paths} are the same cell twice: name a narrower folder")
                place[value] = (figures, a, of)
        values = list(dict.fromkeys(value for place in places.values() for value in place))
        order = {label: i for i, label in enumerate(dict.fromkeys(label for label, _ in places))}
        columns = [CELL, *([_SIDE] if several else [])]
        for i, value in enumerate(values):
            columns += [
                Column(f"{value} {c.header}", f"{c.name}_{i}", c.show, rank=c.rank or i)
                for c in _PIVOTED[: 4 + several]
            ]
        rows = []
        lines = sorted(places.items(), key=lambda i: (order[i[0][0]], i[0][1]))
        markers = self._markers([self._said_of_side(column, place) for (_, column), place in lines])
        for ((label, column), place), notes in zip(lines, markers, strict=True):
            row = {"cell": label, "side": self._labels[column], "notes": notes}
            for i, value in enumerate(values):
                row |= _numbered(self._pivot_values(*place[value]), i) if value in place else {}
            rows.append(row)
        return run_table.block([*columns, _NOTES], rows)

    def _pivot_values(self, figures: Figures, a: CellComparison | None, _: Row) -> Values:
        if a and a.verdict.primary is None:
            return {"shown": self._mark(a)}
        timed = a is None or a.same_environment
        return run_table.figure_values(figures, timed=timed) | {"shown": self._pivot_change(a)}

    def _pivot_change(self, a: CellComparison | None) -> str:
        if a is None:
            return ""
        ends = a.verdict.interval
        between = f" ({signed_interval(ends)})" if ends and ends[0] != ends[1] else ""
        return f"{signed(a.verdict.change)}{between} {self._mark(a)}"

    def _said_of_side(self, column: int, place: Mapping[str, _Place]) -> list[str]:
        """The footnotes of one side's cells; a note of some of them says of which."""
        said = []
        for value, (figures, a, row) in place.items():
            of_pair = a.notes if a else () if column else row.notes
            said += [(value, note) for note in dict.fromkeys((*of_pair, *figures.findings))]
        return list(_with_names(said, len(place)))

    def _said(self, row: Row) -> list[str]:
        """The footnotes of a row; what a measurement says of itself names its sides."""
        others = self._others(row)
        notes = list(row.notes)
        notes += [f"{label}: {note}" if self._several else note for label, a in others for note in a.notes]
        sides = [(self._labels[0], row.figures), *((label, a.figures) for label, a in others)]
        findings = [(label, finding) for label, figures in sides for finding in figures.findings]
        return [*notes, *_with_names(findings, len(sides))]

    def _markers(self, lines: Sequence[Sequence[str]]) -> list[str]:
        """The numbers of the footnotes of each line. What all lines have becomes a note, said once."""
        of = f"all {len(lines)} rows: " if len(lines) > 1 else ""
        shared = [note for note in dict.fromkeys(lines[0] if lines else ()) if all(note in x for x in lines)]
        self.constant = [of + note for note in shared]
        return [self._numbers(note for note in line if note not in shared) for line in lines]

    def _numbers(self, notes: Iterable[str]) -> str:
        numbers = {self.footnotes.setdefault(note, len(self.footnotes) + 1) for note in notes}
        return " ".join(raised(number) for number in sorted(numbers))

    def sentence(self) -> str:
        """How many cells came out how."""
        found = [("", "alone")] * sum(self._of.one_sided)
        for row in self._of.rows:
            others = self._others(row)
            if not others:
                found.append((self._rows.row(row), "invalid" if row.figures.invalid else "measured"))
            for label, a in others:
                found.append(
                    (self._rows.row(row) + self._side(label), became(row, a, judged=self._of.judged))
                )
        return sentence(found, of="comparison" if self._several else "cell")

    def sentences(self) -> Iterator[str]:
        """A line for each cell that needs a look."""
        for row in self._of.rows:
            if row.figures.invalid and not row.others:
                yield f"{MARKS['invalid']} {self._rows.row(row)}: not a measurement: {row.figures.invalid}"
            for label, a in self._others(row):
                v = a.verdict
                if (self._of.judged or v.kind == "invalid") and worth_a_line(v):
                    yield f"{MARKS[v.kind]} {self._rows.row(row)}{self._side(label)}: {v.text}"


def _with_names(said: Iterable[tuple[str, str]], of: int) -> Iterator[str]:
    """Each text once, with the names of those it is about unless it is about all."""
    for text, names in by_text(said).items():
        yield text if len(names) == of else f"{', '.join(names)}: {text}"


def _numbered(values: Values, side: int) -> Values:
    return {f"{name}_{side}": value for name, value in values.items()}


def _stretch(s: StretchChange) -> str:
    return f"{number(s.change.r0)} → {number(s.change.r1)} ({signed(s.change.change)})"


def _change(values: tuple[float | None, float | None, str]) -> str:
    old, new, mark = values
    text = f"{share(old)} → {share(new)}"
    return text if old is None or new is None else f"{text} ({signed(new - old)}) {mark}".rstrip()
