"""A cell's figures by name, the columns that show them, and the tables that a run prints about its cells.

A row is a mapping from names to values; exports and `draftgate claims` use the same names. What was not
measured is None, and prints as an em dash, never as a guess.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from harness.judge.compare import CellComparison, Figures, Row
from harness.judge.footnotes import conditions_of, holm_notes
from harness.judge.pairing import execution_notes
from harness.judge.verdict import Verdict
from harness.measure import validity
from harness.report.sentence import MARKS
from harness.results.names import REFERENCE
from harness.results.records import CellRecord, PromptRecord
from harness.results.stretches import PARTS, Part, Span, Stretch, name_of, parts_of, stretches_of
from harness.results.timing import in_ms, speed_of
from harness.results.whole import said_of
from harness.text.numbers import DASH, number, ranged, share, signed, signed_interval
from harness.text.render import Block, Piece, by_text, lay_out, visible

Values = dict[str, Any]
count = functools.partial(number, digits=0)
tenths = functools.partial(number, digits=1)


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of a table."""

    header: str
    """With the unit, where there is one."""
    name: str
    """Of the value in a row; `a/b` shows two values. It ends with `%` where a share prints in percent."""
    show: Callable[..., str] = str
    """Makes the value, or the two values, text."""
    align: Literal["l", "r"] = "r"
    """`l` for a text, which `draftgate claims` cannot check."""
    rank: int = 0
    """As of `Block.ranks`."""

    def text(self, row: Values) -> str:
        """What stands in the row; where the row has no such value an em dash, or nothing for a text."""
        names = self.name.removesuffix("%").split("/")
        if not row.keys() >= set(names):
            return "" if self.align == "l" else DASH
        return self.show(*(row[name] for name in names))


CELL = Column("cell", "cell", align="l")
POSITION, CONDITIONAL = 10, 1000
"""Ranks of a table's first columns of that kind; the deeper a position, the sooner it goes."""
SPEED = (
    Column("aggregate tok/s", "tok_s", tenths),
    Column("mean-prompt tok/s", "mean_prompt_tok_s", tenths, rank=8),
    Column("TTFT ms", "ttft_ms", count, rank=7),
    Column("TPOT ms", "tpot_ms", tenths, rank=6),
)


def positions(k: int) -> list[Column]:
    """Acceptance at each position in percent; the deepest goes first."""
    return [Column(f"pos {i}", f"pos_{i}", share, rank=POSITION + i) for i in range(k)]


def written(columns: Sequence[Column], rows: Iterable[Values]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table, as text."""
    return [column.header for column in columns], [[c.text(row) for c in columns] for row in rows]


def block(columns: Sequence[Column], rows: Iterable[Values], title: str = "") -> Block:
    """A table as a part of a document."""
    header, texts = written(columns, rows)
    return Block(
        title=title,
        header=tuple(header),
        rows=tuple(map(tuple, texts)),
        align="".join(column.align for column in columns),
        ranks=tuple(column.rank for column in columns),
    )


def marked(cell: CellRecord) -> str:
    """A cell's name, with marks of a reference, and where most answers are degenerate."""
    said = f" {REFERENCE}" * cell.cell.reference
    return f"{cell.cell}{said}" + f" {validity.MARK}" * validity.mostly_degenerate(cell.findings)


def answer_values(prompts: Sequence[PromptRecord]) -> Values:
    """The figures of answers: acceptance and speed."""
    tally, speed = validity.total(prompts), speed_of(prompts)
    return {
        "tokens_per_step": tally.tokens_per_step,
        "tau": tally.tau,
        "accepted_per_draft": tally.accepted_per_draft,
        "token_acceptance": tally.token_acceptance,
        **{f"pos_{i}": rate for i, rate in enumerate(tally.acceptance)},
        **{f"conditional_{i}": rate for i, rate in enumerate(tally.conditional)},
        "tok_s": speed.aggregate if speed else None,
        "mean_prompt_tok_s": speed.mean_prompt if speed else None,
        "ttft_ms": in_ms(speed.ttft_s) if speed else None,
        "tpot_ms": in_ms(speed.tpot_s) if speed else None,
    }


def figure_values(figures: Figures, *, timed: bool = True) -> Values:
    """The figures of one side of a comparison; `timed` is False where its speed may not be shown."""
    names = ("prompts", "tokens_per_step", "tau", "accepted_per_draft")
    return {
        **{name: getattr(figures, name) for name in names},
        **{f"pos_{i}": rate for i, rate in enumerate(figures.acceptance)},
        **stretch_values(figures.stretches),
        **part_values(figures.parts),
        **{name: getattr(figures, name) if timed else None for name in ("tok_s", "speed_up")},
    }


def stretch_values(stretches: Iterable[Stretch]) -> Values:
    """Tokens per step in each stretch of long answers, and the ends of its 95 % interval."""
    return _span_values((f"from_{s.start}", s) for s in stretches)


def part_values(parts: Iterable[Part]) -> Values:
    """The same while the target thinks, and when it answers."""
    return _span_values((f"in_{p.part}", p) for p in parts)


def _span_values(named: Iterable[tuple[str, Span]]) -> Values:
    values: Values = {}
    for where, span in named:
        name, (low, high) = f"tokens_per_step_{where}", span.interval or (None, None)
        values |= {name: span.tokens_per_step, f"{name}_low": low, f"{name}_high": high}
    return values


def verdict_values(verdict: Verdict) -> Values:
    """What a verdict compared; nothing of cells that may not stand side by side."""
    primary = verdict.primary
    return {
        "pairs": verdict.prompts if primary else None,
        "same_text": verdict.same_text if primary else None,
        "common_beginning": verdict.share,
        "base_paired_tokens_per_step": primary.r0 if primary else None,
        "paired_tokens_per_step": primary.r1 if primary else None,
        "change": verdict.change,
        "ci": verdict.interval,
    }


def pair_values(row: Row, new: CellComparison) -> Values:
    """The figures of a cell and of the one that it is compared with; None where that was refused."""
    same = new.same_environment
    values = {
        **figure_values(new.figures, timed=same),
        "base_speed_up": row.figures.speed_up if same else None,
        "base_tok_s": row.figures.tok_s if same else None,
        **verdict_values(new.verdict),
    }
    return values if new.verdict.primary else dict.fromkeys(values)


def compared_columns(old: str, new: str) -> list[Column]:
    """The columns that show `verdict_values`, with the names of both sides."""
    return [
        CELL,
        Column("n", "pairs", count, rank=4),
        Column(old, "base_paired_tokens_per_step", number, rank=3),
        Column(new, "paired_tokens_per_step", number, rank=2),
        Column("change %", "change%", signed),
        Column("95 % CI", "ci%", signed_interval, rank=1),
        Column("", "mark", align="l"),
        Column("same text", "same_text/pairs", _of, rank=5),
    ]


Table = tuple[list[Column], list[Values]]
"""Columns and rows: what `written` makes text of."""


def _of(part: int | None, whole: int | None) -> str:
    return DASH if None in (part, whole) else f"{part}/{whole}"


def acceptance_table(cells: Sequence[CellRecord]) -> Table:
    """Acceptance, a row a cell.

    `pos i` is acceptance at position i, `i|j` the same given that position j was accepted, `tok acc`
    accepted of drafted tokens; all in percent.
    """
    deepest = max((c.cell.k for c in cells), default=0)
    columns = [
        CELL,
        Column("n", "answers", count, rank=2),
        Column("tok/step", "tokens_per_step", number),
        Column("tau", "tau", number, rank=3),
        Column("acc/draft", "accepted_per_draft", number, rank=CONDITIONAL - 1),
        Column("tok acc", "token_acceptance", share, rank=CONDITIONAL - 2),
        *positions(deepest),
        *(Column(f"{i}|{i - 1}", f"conditional_{i}", share, rank=CONDITIONAL + i) for i in range(1, deepest)),
    ]
    return columns, [_values(cell) for cell in cells]


def _values(cell: CellRecord) -> Values:
    answers = sum(validity.countable(r) for r in cell.prompts)
    return {"cell": marked(cell), "answers": answers, **answer_values(cell.prompts)}


def stretch_table(cells: Iterable[CellRecord]) -> Table:
    """Tokens per step along the answers; no row for a cell whose answers are short.

    `answers` is how many reach each stretch and say what their steps committed.
    """
    known = [(cell, own) for cell in cells if cell.cell.k and (own := stretches_of(cell.prompts))]
    rows = [_spans(cell, own) | stretch_values(own) for cell, own in known]
    longest = max((own for _, own in known), key=len, default=())
    columns = [
        Column(name_of(s.start), "/".join(stretch_values([s])), _with_interval, rank=i)
        for i, s in enumerate(longest)
    ]
    return [CELL, Column("answers", "reach", rank=CONDITIONAL), *columns], rows


def part_table(cells: Iterable[CellRecord]) -> Table:
    """Tokens per step while the target thinks and when it answers; no row where none does.

    `answers` is how many have a step there and say what their steps committed.
    """
    known = [(cell, own) for cell in cells if cell.cell.k and (own := parts_of(cell.prompts))]
    rows = [_spans(cell, own) | part_values(own) for cell, own in known]
    names = {part: f"tokens_per_step_in_{part}" for part in PARTS}
    columns = [Column(part, f"{n}/{n}_low/{n}_high", _with_interval) for part, n in names.items()]
    return [CELL, Column("answers", "reach", rank=1), *columns], rows


def _spans(cell: CellRecord, spans: Iterable[Span]) -> Values:
    return {"cell": marked(cell), "reach": "/".join(str(span.prompts) for span in spans)}


def _with_interval(rate: float | None, low: float | None, high: float | None) -> str:
    return ranged(rate, None if low is None or high is None else (low, high))


def _none_of(cell: CellRecord, cells: Iterable[CellRecord]) -> CellRecord | None:
    """The cell that drafts nothing with the same endpoint, language and workload; None for itself."""
    return next((c for c in cells if c.cell.k == 0 and cell.cell.k and c.cell.place == cell.cell.place), None)


def speed_table(cells: Sequence[CellRecord]) -> Table:
    """Speed, a row a cell."""
    rows = [{**_values(c), "speed_up": validity.speed_up(c, _none_of(c, cells))} for c in cells]
    return [CELL, *SPEED, Column("speed-up", "speed_up", number)], rows


def common_lines(cells: Sequence[CellRecord]) -> list[str]:
    """What the cells of a run were measured under, to stand above its tables."""
    of_cells = [conditions_of(cell) for cell in cells]
    known = {name: ", ".join(dict.fromkeys(c[name] for c in of_cells if name in c)) for name in of_cells[0]}
    known.pop("drafter")
    machine = [f"{name} {known.pop(name)}" for name in ("device", "threads") if name in known]
    shared = [f"{name}={value}" if name == "T" else f"{name} {value}" for name, value in known.items()]
    return [visible(" · ".join(part)) for part in (shared, machine)]


def footnotes(cells: Sequence[CellRecord]) -> list[str]:
    """The findings, the same one of many cells on one line; what makes a cell invalid comes first."""
    said = [
        (str(c.cell), f"{'INVALID' if hard else 'note'}: {text}")
        for c in cells
        for hard, text in said_of(c.findings, c.prompts)
    ]
    said += [(str(cell.cell), f"note: {text}") for cell in cells for text in cell.trusted]
    pairs = [(none, cell) for cell in cells if (none := _none_of(cell, cells))]
    said += [
        (str(c.cell), f"note: speed-up: {text}") for none, c in pairs for text in execution_notes(none, c)
    ]
    lines = []
    for marked_text, names in sorted(by_text(said).items()):  # "INVALID" stands before "note"
        mark, _, text = marked_text.partition(": ")
        lines.append(visible(f"{mark}: {_named(names, len(cells))}: {text}"))
    return lines


LEGEND = "= identical  ✓ no worse  ▲ improved  ▼ regressed  ? can't tell  ✗ invalid or not comparable"


def worth_a_line(verdict: Verdict) -> bool:
    """Somebody should look at the cell."""
    lower = verdict.lower or any(stretch.lower for stretch in verdict.stretches)
    return verdict.fails or verdict.kind in ("inconclusive", "improved") or lower


def verdict_table(verdicts: Sequence[tuple[CellRecord, Verdict]]) -> Table:
    """The paired table: tokens per step then and now, the change with its interval."""
    rows = [{"cell": marked(c), "mark": MARKS[v.kind], **verdict_values(v)} for c, v in verdicts]
    return compared_columns("baseline", "now"), rows


def verdict_report(verdicts: Sequence[tuple[CellRecord, Verdict]], width: int | None = None) -> str:
    """The paired table with what limits its reading below; no table where nothing was compared."""
    notes = by_text((str(record.cell), note) for record, verdict in verdicts for note in verdict.notes)
    lines = [f"note: {_named(names, len(verdicts))}: {note}" for note, names in notes.items()]
    lines += [f"note: {note}" for note in holm_notes([(str(record.cell), v) for record, v in verdicts])]
    said = by_text((str(c.cell), f"{MARKS[v.kind]} {v.text}") for c, v in verdicts if worth_a_line(v))
    for text, names in said.items():
        mark, _, rest = text.partition(" ")
        lines.append(f"{mark} {_named(names, len(verdicts))}: {rest}")
    if all(verdict.primary is None for _, verdict in verdicts):
        return lay_out(lines, width)
    table = block(*verdict_table(verdicts), "tokens per step against the baseline")
    return lay_out([table, LEGEND, *lines], width)


def _named(names: Sequence[str], of: int) -> str:
    return f"all {of} cells" if len(names) == of > 1 else ", ".join(names)


def tables(cells: Sequence[CellRecord]) -> list[tuple[str, Table]]:
    """The tables of a run's cells, each with its title."""
    found = [
        ("acceptance (tok acc, positions and i|j, given the one before: %)", acceptance_table(cells)),
        ("", speed_table(cells)),
        ("tokens per step along the answers, by token (95 % CI)", stretch_table(cells)),
        ("tokens per step while the target thinks, and in its answer (95 % CI)", part_table(cells)),
    ]
    return [(title, table) for title, table in found if table[1]]


def report(cells: Sequence[CellRecord], width: int | None = None) -> str:
    """Everything that the end of a run prints about its cells, in lines of at most `width` columns."""
    groups: list[Sequence[Piece]] = [common_lines(cells)]
    groups += [[block(*table, title)] for title, table in tables(cells)]
    groups.append(footnotes(cells))
    return "\n\n".join(lay_out(group, width) for group in groups if group)
