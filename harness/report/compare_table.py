"""The document that shows a comparison: tables with a row for each cell, or pivoted by an axis."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from harness.errors import BadInput
from harness.judge.compare import CellComparison, Comparison, Figures, PositionChange, Row
from harness.judge.footnotes import holm_notes
from harness.report.labels import Axis, Labels, axis_value
from harness.report.references import NOTHING, with_references
from harness.report.run_table import LEGEND, MARKS, worth_a_line
from harness.text.numbers import DASH, number, share, signed, signed_interval
from harness.text.render import Block, Document, by_text, raised

_REFERENCES = (
    *(NOTHING, "pairs", "base_paired_tokens_per_step", "paired_tokens_per_step", "change%", "ci%", NOTHING),
    *("same_text/pairs", "base_speed_up", "speed_up", NOTHING),
)
"""What the columns of the table of two sides hold."""
_POSITIONS_LEGEND = (
    "positions: ▼ lost  ~ tested, not lost  = identical  no mark: too few events, or another drafter"
)
_SPEED_LEGEND = "speed-up: tok/s over that of none in the same run, one start each: a description, no claim"


def document(comparison: Comparison, *, pivot: Axis | None = None) -> Document:
    """The tables and all that stands around them.

    Args:
        comparison: what to show.
        pivot: an axis whose values become columns.

    Raises:
        BadInput: two cells of a side would share a place in the pivot.
    """
    labels = Labels(comparison)
    page = _Page(comparison, labels)
    blocks = [page.pivot(pivot)] if pivot else [page.table(), page.positions()]
    legend = [LEGEND] if comparison.columns[1:] and comparison.judged else []
    legend += [_POSITIONS_LEGEND] if legend and not pivot else []
    legend += [_SPEED_LEGEND] if len(comparison.columns) == 2 and not pivot else []  # noqa: PLR2004
    return Document(
        title=labels.title(pivot),
        above=tuple(labels.above()),
        blocks=tuple(block for block in blocks if block.rows),
        footnotes=tuple(page.footnotes),
        notes=(*page.geomean_notes(), *page.holm_notes(), *comparison.notes),
        sentences=tuple(page.sentences()),
        legend=tuple(legend),
    )


_Place = tuple[Figures, CellComparison | None, Row]


class _Page:
    """The tables of one comparison, and the footnotes as their rows raise them."""

    def __init__(self, comparison: Comparison, labels: Labels) -> None:
        self._of = comparison
        self.footnotes: dict[str, int] = {}
        self._rows = labels
        self._labels = labels.columns
        self._several = len(labels.columns) > 2  # noqa: PLR2004
        """More than one other side, so that each has to be named."""

    def table(self) -> Block:
        """A line a cell: two sides in full; of more, each against the first."""
        if len(self._labels) == 2:  # noqa: PLR2004
            old, new = self._labels
            header = ["cell", "n", old, new, "change %", "95 % CI", "", "same text"]
            header += [f"speed-up {old}", f"speed-up {new}", ""]
            rows = [self._two_sided(row) for row in self._of.rows]
            align = "lrrrrrlrrrl"
        else:
            header, align = ["cell", "n", self._labels[0]], "lrr"
            for label in self._labels[1:]:
                header += [label, "change %", ""]
                align += "rrl"
            header, align = [*header, ""], align + "l"
            rows = [self._many_sided(row) for row in self._of.rows]
        if len(rows) > 1 and any(map(self._of.geomean, range(len(self._labels) - 1))):
            rows.append(self._geomean_row(len(header)))
        block = Block(header=tuple(header), rows=tuple(map(tuple, rows)), align=align)
        return self._referring(block, self._of.rows, _REFERENCES)

    def _others(self, row: Row) -> list[tuple[str, CellComparison]]:
        """The cells that a row's cell was compared with, each with the label of its side."""
        return [(label, a) for label, a in zip(self._labels[1:], row.others, strict=True) if a]

    def _referring(self, block: Block, rows: Sequence[Row], columns: Sequence[str]) -> Block:
        """Of two sides `draftgate claims` can check every figure; of more, a row has several cells."""
        pairs = [(row.figures.entry, a.figures.entry) for row in rows for a in row.others if a]
        return with_references(block, self._of, pairs, columns) if len(self._labels) == 2 else block  # noqa: PLR2004

    def _two_sided(self, row: Row) -> list[str]:
        a = row.others[0]
        assert a is not None  # noqa: S101 - with one other side, a row is there because it has a partner
        v, primary = a.verdict, a.verdict.primary
        timed = primary is not None and a.same_environment
        return [
            self._rows.row(row),
            str(v.prompts) if primary else DASH,
            *self._value_and_change(a, base=True),
            signed_interval(v.interval),
            self._mark(a),
            f"{v.same_text}/{v.prompts}" if primary else DASH,
            number(row.figures.speed_up if timed else None),
            number(a.figures.speed_up if timed else None),
            self._raise(row),
        ]

    def _many_sided(self, row: Row) -> list[str]:
        cells = [self._rows.row(row), str(row.figures.prompts), number(row.figures.tokens_per_step)]
        for a in row.others:
            cells += [*self._value_and_change(a), self._mark(a)] if a else [DASH, DASH, ""]
        return [*cells, self._raise(row)]

    def _value_and_change(self, a: CellComparison, *, base: bool = False) -> list[str]:
        primary = a.verdict.primary
        values = [primary.r0, primary.r1] if primary else [None, None]
        return [*map(number, values if base else values[1:]), signed(a.verdict.change)]

    def _mark(self, a: CellComparison) -> str:
        return MARKS[a.verdict.kind] if self._of.judged or a.verdict.kind == "invalid" else DASH

    def _geomean_row(self, width: int) -> list[str]:
        cells = [""] * width
        cells[0] = "geomean"
        for column in range(len(self._labels) - 1):
            mean = self._of.geomean(column)
            cells[4 + 3 * column] = signed(mean[0]) if mean else DASH
        return cells

    def geomean_notes(self) -> Iterator[str]:
        """Where the sets of cells differ, the mean is over those that were compared."""
        for column, label in enumerate(self._labels[1:]):
            mean = self._of.geomean(column)
            found = [row.others[column] for row in self._of.rows]
            refused = sum(a is not None and a.verdict.primary is None for a in found)
            left_out = refused + self._of.one_sided[column]
            if mean and left_out and len(self._of.rows) > 1:
                yield f"geomean of {label}: over the {mean[1]} cells compared; {left_out} left out"

    def holm_notes(self) -> list[str]:
        """Which of the regressed cells are so as one of many."""
        found = [
            (self._rows.row(row) + self._side(label), a.verdict)
            for row in self._of.rows
            for label, a in self._others(row)
        ]
        return holm_notes(found) if self._of.judged else []

    def _side(self, label: str) -> str:
        return f" ({label})" if self._several else ""

    def positions(self) -> Block:
        """Conditional acceptance, a column a position."""
        shown = [(row, label, a) for row in self._of.rows for label, a in self._others(row) if a.positions]
        depth = max((len(a.positions) for _, _, a in shown), default=0)
        header = ["cell", *(["side"] if self._several else []), *(f"pos {i}" for i in range(depth))]
        rows = []
        for row, label, a in shown:
            cells = [_change(p, self._position_mark(p, a)) for p in a.positions]
            cells += [DASH] * (depth - len(cells))
            rows.append((self._rows.row(row), *([label] if self._several else []), *cells))
        block = Block(
            title="acceptance at each position, % of the steps that got there (change in points)",
            header=tuple(header),
            rows=tuple(rows),
            align="l" * (len(header) - depth) + "r" * depth,
        )
        columns = [NOTHING, *(f"conditional_{i}%" for i in range(depth))]
        return self._referring(block, [row for row, _, _ in shown], columns)

    def _position_mark(self, p: PositionChange, a: CellComparison) -> str:
        if not self._of.judged:
            return ""
        if a.verdict.kind == "identical":
            return MARKS["identical"]
        return MARKS["regressed"] if p.lost else MARKS["ok"] if p.tested else ""

    def pivot(self, axis: Axis) -> Block:
        """Rows without the axis, its values as columns; a line a side."""
        several = len(self._labels) > 1
        places: dict[tuple[str, int], dict[str, _Place]] = {}
        for row in self._of.rows:
            sides: list[tuple[Figures, CellComparison | None]] = [(row.figures, None)]
            sides += [(a.figures, a) for a in row.others if a]
            columns = [0, *(i for i, a in enumerate(row.others, start=1) if a)]
            for column, (figures, a) in zip(columns, sides, strict=True):
                place = places.setdefault((self._rows.place(figures.entry, axis), column), {})
                value = axis_value(figures.entry, axis)
                if value in place:
                    paths = f"{place[value][0].entry.path} and {figures.entry.path}"
                    raise BadInput(
                        f"{paths} are the same cell twice: name a narrower folder", code="no-cells"
                    )
                place[value] = (figures, a, row)
        values = list(dict.fromkeys(value for place in places.values() for value in place))
        order = {label: i for i, label in enumerate(dict.fromkeys(label for label, _ in places))}
        rows = []
        for (label, column), place in sorted(places.items(), key=lambda i: (order[i[0][0]], i[0][1])):
            cells = [cell for value in values for cell in self._pivot_cells(place.get(value))]
            notes = self._raise_side(column, place)
            rows.append((label, *([self._labels[column]] if several else []), *cells, notes))
        names = ["tok/s", "pos 0 %", "acc/draft", "tok/step", *(["change %"] if several else [])]
        header = ["cell", *(["side"] if several else []), *(f"{v} {name}" for v in values for name in names)]
        align = "l" * (1 + several) + "r" * (len(values) * len(names)) + "l"
        return Block(header=(*header, ""), rows=tuple(rows), align=align)

    def _pivot_cells(self, found: _Place | None) -> list[str]:
        width = 5 if len(self._labels) > 1 else 4
        if found is None:
            return [DASH] * width
        figures, a, _ = found
        if a and a.verdict.primary is None:
            return [DASH] * (width - 1) + [self._mark(a)]
        cells = [
            number(figures.tok_s if a is None or a.same_environment else None, 1),
            share(figures.acceptance[0] if figures.acceptance else None),
            number(figures.accepted_per_draft),
            number(figures.tokens_per_step),
        ]
        return [*cells, self._pivot_change(a)][:width]

    def _pivot_change(self, a: CellComparison | None) -> str:
        if a is None:
            return ""
        ends = a.verdict.interval
        between = f" ({signed_interval(ends)})" if ends and ends[0] != ends[1] else ""
        return f"{signed(a.verdict.change)}{between} {self._mark(a)}"

    def _raise_side(self, column: int, place: Mapping[str, _Place]) -> str:
        """The numbers of the footnotes of one side's cells; a note of some of them says of which."""
        said = []
        for value, (figures, a, row) in place.items():
            of_pair = a.notes if a else () if column else row.notes
            said += [(value, note) for note in dict.fromkeys((*of_pair, *figures.findings))]
        return self._numbers(_with_names(said, len(place)))

    def _raise(self, row: Row) -> str:
        """The numbers of the footnotes of a row; what a measurement says of itself names its sides."""
        others = self._others(row)
        notes = list(row.notes)
        notes += [f"{label}: {note}" if self._several else note for label, a in others for note in a.notes]
        sides = [(self._labels[0], row.figures), *((label, a.figures) for label, a in others)]
        findings = [(label, finding) for label, figures in sides for finding in figures.findings]
        return self._numbers((*notes, *_with_names(findings, len(sides))))

    def _numbers(self, notes: Iterable[str]) -> str:
        numbers = {self.footnotes.setdefault(note, len(self.footnotes) + 1) for note in notes}
        return " ".join(raised(number) for number in sorted(numbers))

    def sentences(self) -> Iterator[str]:
        """A line for each cell that somebody should look at."""
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


def _change(p: PositionChange, mark: str) -> str:
    text = f"{share(p.old)} → {share(p.new)}"
    if p.old is None or p.new is None:
        return text
    return f"{text} ({signed(p.new - p.old)}) {mark}".rstrip()
