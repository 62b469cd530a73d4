"""Compares sets of cells, and returns what changed between them as values. `report/` makes tables of them.

Each row's cells are loaded, reduced to figures and dropped, so thousands of cells never stand in memory.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor

from harness.errors import BadInput
from harness.judge.baselines import reserve_of
from harness.judge.collect import AXES, Entry, Side, match, names_of
from harness.judge.confirmation import confirmed
from harness.judge.footnotes import (
    as_subject,
    conditions_of,
    depth_notes,
    drafter_notes,
    noise_of,
    subject_notes,
    text_notes,
    weights_notes,
)
from harness.judge.over_none import speed_up_of
from harness.judge.pairing import Counted, Pairs, Refused, counted, pair
from harness.judge.refusals import with_refusals
from harness.judge.throughput import OneStart, of_one_start
from harness.judge.verdict import Verdict, judge_pairs
from harness.measure.validity import mostly_degenerate
from harness.results.records import CellRecord, load, tallies
from harness.results.stretches import Part, Stretch, intervals_of, parts_of, stretches_of
from harness.results.timing import speed_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figures:
    """What one cell measured, over all its prompts. What it did not measure is None."""

    entry: Entry
    invalid: str | None
    """Why it is not a measurement. Then it has no figures."""
    prompts: int
    tokens_per_step: float | None
    tokens_per_step_ci: tuple[float, float] | None
    """95 %, from the scatter between prompts. None where nothing varied, or of fewer than 8 prompts."""
    tau: float | None
    accepted_per_draft: float | None
    acceptance: tuple[float | None, ...]
    """At each position, of all verify steps."""
    acceptance_ci: tuple[tuple[float, float] | None, ...]
    """Likewise 95 %."""
    stretches: tuple[Stretch, ...]
    parts: tuple[Part, ...]
    """Of long answers."""
    tok_s: float | None
    """Aggregate."""
    speed_up: float | None
    """Over `none` of the same run, from one start each: a description, not a claim."""
    degenerate: bool
    """Most of its answers are, and so it has no speed-up."""
    findings: tuple[str, ...]
    """What a reader must know of the measurement, and what does not make it invalid."""

    @property
    def drafts(self) -> bool:
        """Its cell has a drafter."""
        return bool(self.entry.cell.k)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PositionChange:
    """Conditional acceptance at one position, over the prompts that both sides have."""

    index: int
    old: float | None
    new: float | None
    tested: bool
    lost: bool
    p: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class CellComparison:
    """A cell of another side, compared with that of the first."""

    figures: Figures
    verdict: Verdict
    positions: tuple[PositionChange, ...]
    same_environment: bool
    """Speeds are compared only then."""
    notes: tuple[str, ...]
    """What a reader must know beside the figures."""
    speed: OneStart | None = None
    """None where speeds are not compared, or hardly differ."""

    @property
    def told(self) -> tuple[str, ...]:
        """The notes, and the speed in words."""
        return (*self.notes, *([self.speed.text] if self.speed else []))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A cell of the first side, and for each other side the cell compared with it, or None."""

    figures: Figures
    others: tuple[CellComparison | None, ...]
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """A side, and the conditions that its cells were measured under: by name, every value."""

    name: str
    path: str
    conditions: Mapping[str, tuple[str, ...]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that tables and exports show."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    across: tuple[str, ...]
    judged: bool
    """False where it is across a field that the stack of a new side does not declare its subject."""
    notes: tuple[str, ...]
    one_sided: tuple[int, ...]
    """For each other side, how many cells only it or only the first has."""

    def geomean(self, column: int) -> tuple[float, int] | None:
        """Change of the geometric mean of ratios of tokens per step, and over how many cells.

        Cells that draft nothing on both sides are not in it: their ratio is 1 whatever a drafter does.

        Args:
            column: of `Row.others`.
        """
        logs = [
            a.verdict.primary.estimate
            for row in self.rows
            if (a := row.others[column]) and a.verdict.primary and (row.figures.drafts or a.figures.drafts)
        ]
        return (math.expm1(statistics.fmean(logs)), len(logs)) if logs else None

    def exit_code(self, *, strict: bool, partial: bool = False) -> int:
        """0 nothing regressed, 1 regressed, 2 something is invalid, 3 something is open.

        Open is a cell that only one side has, unless `partial`, and an inconclusive one where `strict`.
        """
        kinds = {a.verdict.kind for row in self.rows for a in row.others if a}
        judged = [row.figures for row in self.rows if not row.figures.entry.cell.reference]
        if "invalid" in kinds or any(figures.invalid for figures in judged):
            return 2
        left_out = any(self.one_sided) and not partial
        if not self.judged:
            return 0
        return 1 if "regressed" in kinds else 3 if left_out or (strict and "inconclusive" in kinds) else 0


def compare(sides: Sequence[Side], *, across: Collection[str] = ()) -> Comparison:
    """Every side compared with the first. Of a single side, its figures alone.

    Raises:
        BadInput: a side has nothing in common with the first, or `across` names no field of them.
        BadRecord: a cell is damaged.
    """
    base, others = sides[0], sides[1:]
    matches = [match(base, other, across=across) for other in others]
    partners = [dict(m.pairs) for m in matches]
    jobs: list[_Job] = [(entry, *(partner.get(entry) for partner in partners)) for entry in base.entries]
    conditions: list[dict[str, dict[str, None]]] = [{} for _ in sides]
    rows = []
    shown = [job for job in jobs if any(job[1:]) or not others or job[0].cell.reference]
    for row, met in _rows(shown, across):
        rows.append(row)
        beside = row.figures.entry.cell.reference
        for column, values in zip(conditions, [] if beside else met, strict=not beside):
            for name, value in values.items():
                column.setdefault(name, {})[value] = None
    notes = [f"{side.name}: {note}" for side in sides for note in side.notes]
    for other, m in zip(others, matches, strict=True):
        for there, here, alone in ((base, other, m.base_only), (other, base, m.new_only)):
            if alone:
                notes.append(f"only in {there.name}, not in {here.name}: {names_of(alone)}")
    met_of = {field: {v for column in conditions for v in column.get(field, ())} for field in across}
    notes += [f"{field} is the same on every side" for field in across if others and len(met_of[field]) == 1]
    return Comparison(
        columns=tuple(
            Column(name=side.name, path=str(side.path), conditions={n: tuple(v) for n, v in met.items()})
            for side, met in zip(sides, conditions, strict=True)
        ),
        rows=tuple(rows),
        across=tuple(across),
        judged=all(set(across) <= set(other.subject) for other in others),
        notes=tuple(notes),
        one_sided=tuple(len(m.base_only) + len(m.new_only) for m in matches),
    )


_UNKNOWN = "where no file says which machine it was"
_Job = tuple[Entry, *tuple[Entry | None, ...]]
"""A cell of the first side, and its partner on each other side."""
_Read = tuple[Row, list[dict[str, str]]]
"""A row, and for each side the conditions of its cell."""

_WORTH_A_PROCESS, _PART = 250, 25
"""Rows. `tests.perf.scale` wants 10,000 of them in 30 s. After Ctrl-C the parts that were begun end first."""


def _rows(jobs: Sequence[_Job], across: Collection[str]) -> Iterator[_Read]:
    """The rows, in order. Several processes read many of them."""
    read = functools.partial(_row, across=across)
    workers = min(len(os.sched_getaffinity(0)), len(jobs) // _WORTH_A_PROCESS)
    if workers < 2:  # noqa: PLR2004
        yield from map(read, jobs)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(read, jobs, chunksize=_PART)


def _row(job: _Job, *, across: Collection[str]) -> _Read:
    entry, *partners = job
    base = _Cell(entry, across)
    others: list[CellComparison | None] = []
    met = [conditions_of(base.record, across)]
    for partner in partners:
        new = _Cell(partner, across) if partner else None
        others.append(_compared(base, new, across) if new else None)
        met.append(conditions_of(new.record, across) if new else {})
    notes = noise_of(base.record) if any(partners) else ()
    return Row(figures=base.figures, others=tuple(others), notes=tuple(notes)), met


class _Cell:
    """A cell of a row, read and summed once."""

    def __init__(self, entry: Entry, across: Collection[str]) -> None:
        self.record = as_subject(load(entry.path, CellRecord), across)
        self.counts = counted(self.record)
        self.figures = figures_of(entry, self.record, self.counts)


def _compared(base: _Cell, other: _Cell, across: Collection[str]) -> CellComparison:
    old, new = base.record, other.record
    known = {*AXES, *old.identity.as_given(), *new.identity.as_given()}
    for field in across:
        if field not in known:
            raise BadInput(
                f"--across {field}: no field of a cell's identity; there are: {', '.join(sorted(known))} "
                "(drafter, k and engine may differ without it)",
                code="compare-option",
            )
    positions: tuple[PositionChange, ...] = ()
    try:
        pairs = pair(old, new, across=across, counts=(base.counts, other.counts))
        verdict = with_refusals(judge_pairs(pairs, look=new.stopped_at), old, new)
        if verdict.confirmable and (reserves := _reserves(base, other)):
            verdict = confirmed(verdict, *reserves, across=across)
    except Refused as refusal:
        verdict = Verdict(kind="invalid", text=f"not comparable: {refusal}")
    else:
        positions = _positions(pairs, verdict)
        verdict = dataclasses.replace(verdict, notes=(*verdict.notes, *depth_notes(new, pairs, across)))
    imported = old.identity.imported or new.identity.imported
    same = not (imported or old.environment.differences(new.environment))
    notes, speed = [*verdict.notes], None
    timed = [(f.tok_s, f.tokens_per_step) for f in (base.figures, other.figures)]
    if verdict.primary and not same and any(tok_s for tok_s, _ in timed):
        notes.append(f"speed is not compared {_UNKNOWN if imported else 'across environments'}")
    elif verdict.primary and all(all(one) for one in timed):
        speed = of_one_start(*zip(*timed, strict=True))
    if verdict.primary:
        notes += [*weights_notes(old, new), *drafter_notes(old, new), *subject_notes(old, new, across)]
    if verdict.primary and not across:
        notes += text_notes(old, verdict)
    return CellComparison(
        figures=other.figures,
        verdict=verdict,
        positions=positions,
        same_environment=same,
        notes=tuple(notes),
        speed=speed,
    )


def _reserves(base: _Cell, other: _Cell) -> tuple[CellRecord, CellRecord] | None:
    """What both cells answered to the prompts of a second look; None where one of them was not asked."""
    old, new = (reserve_of(cell.figures.entry.path, cell.record) for cell in (base, other))
    return (old, new) if old and new else None


def _positions(pairs: Pairs, verdict: Verdict) -> tuple[PositionChange, ...]:
    """Of every position that both sides have. Those of another drafter are shown, and not judged."""
    rates = [side.total().conditional for side in pairs.judged.tallies]
    tested = {p.index: p for p in verdict.positions if pairs.same_drafter}
    return tuple(
        PositionChange(
            index=i, old=before, new=after, tested=i in tested,
            lost=i in tested and tested[i].lost, p=tested[i].p if i in tested else None,
        )
        for i, (before, after) in enumerate(zip(*rates, strict=False))
    )  # fmt: skip


def figures_of(entry: Entry, record: CellRecord, counts: Counted, *, over_none: bool = True) -> Figures:
    """What a cell measured.

    Args:
        entry: where it stands.
        record: what stands there.
        counts: its answers that count.
        over_none: read the cell of `none` beside it, for the speed-up.
    """
    if not (valid := record.valid):
        counts = Counted([], tallies([]))
    tally, speed = counts.sums.total(), speed_of(record.prompts if valid else ())
    beside = over_none and speed and record.cell.k
    gained, notes = speed_up_of(entry, record, speed) if beside else (None, ())
    of_rate, of_shares = intervals_of(counts.records, counts.sums)
    return Figures(
        entry=entry,
        invalid=None if valid else record.why_invalid,
        prompts=len({r.prompt for r in counts.records}),
        tokens_per_step=tally.tokens_per_step,
        tokens_per_step_ci=of_rate,
        tau=tally.tau,
        accepted_per_draft=tally.accepted_per_draft,
        acceptance=tally.acceptance,
        acceptance_ci=of_shares,
        stretches=stretches_of(counts.records),
        parts=parts_of(counts.records),
        tok_s=speed.aggregate if speed else None,
        speed_up=gained,
        degenerate=mostly_degenerate(record.findings),
        findings=(*(f.text for f in record.findings if not f.hard), *record.trusted, *notes),
    )
