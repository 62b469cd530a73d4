"""Sets of cells -> what changed between them, as values; `comparison.py` makes tables of it.

Cells are loaded pair after pair and reduced to a row, so that thousands of them never stand in memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import itertools
import math
import os
import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor

from harness.config.stack import NONE
from harness.errors import BadInput
from harness.judge.collect import Entry, Side, match, names_of
from harness.judge.footnotes import (
    conditions_of,
    drafter_notes,
    noise_of,
    subject_notes,
    text_notes,
    weights_notes,
)
from harness.judge.pairing import Counted, Refused, counted, pair
from harness.judge.verdict import Verdict, judge_pairs
from harness.measure.validity import mostly_degenerate
from harness.results.records import CellRecord, load, tallies
from harness.results.timing import speed_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figures:
    """What one cell measured, over all its prompts; None for what it did not."""

    entry: Entry
    invalid: str | None
    """Why it is not a measurement; then it has no figures."""
    prompts: int
    tokens_per_step: float | None
    tau: float | None
    accepted_per_draft: float | None
    acceptance: tuple[float | None, ...]
    tok_s: float | None
    """Aggregate."""
    speed_up: float | None
    """Over `none` of the same run. From one start each: a description, no claim."""
    degenerate: bool
    """Most of its answers are, so it has no speed-up."""
    findings: tuple[str, ...]
    """Of the measurement, those that a reader must know but that do not make it invalid."""


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
class Against:
    """A cell of another side, compared with that of the first."""

    figures: Figures
    verdict: Verdict
    positions: tuple[PositionChange, ...]
    same_environment: bool
    """Else no speed stands beside another."""
    notes: tuple[str, ...]
    """What limits the reading."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A cell of the first side and what it was compared with: for each other side one, or None."""

    figures: Figures
    against: tuple[Against | None, ...]
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """A side, and the conditions its cells were measured under: by name, every value met."""

    name: str
    path: str
    conditions: Mapping[str, tuple[str, ...]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that a table can show."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    across: tuple[str, ...]
    judged: bool
    """False where it is across a field that not every new side's stack declares its subject."""
    notes: tuple[str, ...]
    one_sided: tuple[int, ...]
    """For each other side, cells that it or the first alone has."""

    def geomean(self, column: int) -> tuple[float, int] | None:
        """Change of the geometric mean of ratios of tokens per step, and over how many cells.

        Args:
            column: of `against`.
        """
        logs = [
            a.verdict.primary.estimate
            for row in self.rows
            if (a := row.against[column]) and a.verdict.primary
        ]
        return (math.expm1(statistics.fmean(logs)), len(logs)) if logs else None

    def exit_code(self, *, strict: bool) -> int:
        """0 nothing regressed, 1 regressed, 2 something is invalid, 3 inconclusive where that matters."""
        kinds = {a.verdict.kind for row in self.rows for a in row.against if a}
        if "invalid" in kinds or any(row.figures.invalid for row in self.rows):
            return 2
        if not self.judged:
            return 0
        return 1 if "regressed" in kinds else 3 if strict and "inconclusive" in kinds else 0


def compare(sides: Sequence[Side], *, across: Collection[str] = ()) -> Comparison:
    """Every side against the first; of a single side its figures alone.

    Raises:
        BadInput: a side has nothing in common with the first, or `across` names no field of them.
        BadRecord: a cell cannot be trusted.
    """
    base, others = sides[0], sides[1:]
    matches = [match(base, other, across=across) for other in others]
    partners = [dict(m.pairs) for m in matches]
    reader = _Reader(len(sides), across)
    jobs = [(entry, [partner.get(entry) for partner in partners]) for entry in base.entries]
    with _uncollected():
        rows = reader.rows([job for job in jobs if any(job[1]) or not others])
    notes = [f"{side.name}: {note}" for side in sides for note in side.notes]
    for other, m in zip(others, matches, strict=True):
        for there, here, alone in ((base, other, m.base_only), (other, base, m.new_only)):
            if alone:
                notes.append(f"only in {there.name}, not in {here.name}: {names_of(alone)}")
    return Comparison(
        columns=tuple(
            Column(name=side.name, path=str(side.path), conditions=conditions)
            for side, conditions in zip(sides, reader.conditions(), strict=True)
        ),
        rows=tuple(rows),
        across=tuple(across),
        judged=all(set(across) <= set(other.subject) for other in others),
        notes=(*notes, *reader.across_notes()),
        one_sided=tuple(len(m.base_only) + len(m.new_only) for m in matches),
    )


_Job = tuple[Entry, Sequence[Entry | None]]
_WORTH_A_PROCESS, _PART = 250, 100


def _read(reader: _Reader, jobs: Sequence[_Job]) -> tuple[_Reader, list[Row]]:
    """In a process of its own: a copy of `reader` comes back with what it met."""
    with _uncollected():
        return reader, [reader.row(*job) for job in jobs]


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """No record refers to itself; looking for some that do costs a tenth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Reader:
    """Loads cells, reduces them, and keeps what the table says once for all of them."""

    def __init__(self, sides: int, across: Collection[str]) -> None:
        self._across = across
        self.met: list[dict[str, dict[str, None]]] = [{} for _ in range(sides)]
        self._plain: dict[str, float | None] = {}
        """tok/s of `none`, by file."""

    def rows(self, jobs: Sequence[_Job]) -> list[Row]:
        """In order; of many, a part each in processes of their own."""
        workers = min(len(os.sched_getaffinity(0)), len(jobs) // _WORTH_A_PROCESS)
        if workers < 2:  # noqa: PLR2004
            return [self.row(*job) for job in jobs]
        parts = [jobs[i : i + _PART] for i in range(0, len(jobs), _PART)]
        rows: list[Row] = []
        with ProcessPoolExecutor(workers) as pool:
            for reader, part in pool.map(_read, itertools.repeat(self), parts):
                rows += part
                for met, theirs in zip(self.met, reader.met, strict=True):
                    for name, values in theirs.items():
                        met.setdefault(name, {}).update(values)
        return rows

    def row(self, entry: Entry, partners: Sequence[Entry | None]) -> Row:
        old = load(entry.path, CellRecord)
        self._meet(0, old)
        old_counts = counted(old)
        figures = self._figures(entry, old, old_counts)
        against: list[Against | None] = []
        for column, partner in enumerate(partners, start=1):
            if partner is None:
                against.append(None)
                continue
            new = load(partner.path, CellRecord)
            self._meet(column, new)
            counts = (old_counts, counted(new))
            against.append(self._against(old, new, counts, figures, self._figures(partner, new, counts[1])))
        return Row(
            figures=figures, against=tuple(against), notes=tuple(noise_of(old) if any(partners) else ())
        )

    def _against(
        self,
        old: CellRecord,
        new: CellRecord,
        counts: tuple[Counted, Counted],
        base: Figures,
        figures: Figures,
    ) -> Against:
        self._check_across(old, new)
        positions: tuple[PositionChange, ...] = ()
        try:
            pairs = pair(old, new, across=self._across, counts=counts)
            verdict = judge_pairs(pairs, look=new.stopped_at)
        except Refused as refusal:
            verdict = Verdict(kind="invalid", text=f"not comparable: {refusal}")
        else:
            sums = [side.total().conditional for side in pairs.tallies]
            # Another drafter reaches other steps: its positions are shown, and not judged.
            tested = {p.index: p for p in verdict.positions if pairs.same_drafter}
            positions = tuple(
                PositionChange(
                    index=i, old=before, new=after, tested=i in tested,
                    lost=i in tested and tested[i].lost, p=tested[i].p if i in tested else None,
                )
                for i, (before, after) in enumerate(zip(*sums, strict=False))
            )  # fmt: skip
        same = old.environment == new.environment
        notes = [*verdict.notes]
        if verdict.primary and not same and (base.tok_s or figures.tok_s):
            notes.append("speed is not compared across environments")
        if verdict.primary:
            notes += [*weights_notes(old, new), *drafter_notes(old, new), *subject_notes(old, new)]
        if verdict.primary and not self._across:
            notes += text_notes(old, prompts=verdict.prompts, same_text=verdict.same_text)
        return Against(
            figures=figures, verdict=verdict, positions=positions, same_environment=same, notes=tuple(notes)
        )

    def _check_across(self, old: CellRecord, new: CellRecord) -> None:
        known = {*old.identity, *new.identity}
        for field in self._across:
            if field not in known:
                raise BadInput(
                    f"--across {field}: no field of a cell's identity; there are: {', '.join(sorted(known))} "
                    "(drafter, k and engine may differ without it)"
                )

    def across_notes(self) -> list[str]:
        """A field that was to be the subject, but is the same everywhere."""
        values = {f: {v for met in self.met for v in met.get(f, ())} for f in self._across}
        return [f"{f} is the same on every side" for f, v in values.items() if len(v) == 1 and self.met[1:]]

    def _figures(self, entry: Entry, record: CellRecord, counts: Counted) -> Figures:
        if not record.valid:
            counts = Counted([], tallies([]))
        tally, speed = counts.sums.total(), speed_of(record.prompts if record.valid else ())
        degenerate = mostly_degenerate(record.findings)
        plain = self._plain_tok_s(entry) if speed and record.cell.k and not degenerate else None
        return Figures(
            entry=entry,
            invalid=None if record.valid else record.why_invalid,
            prompts=len({r.prompt for r in counts.records}),
            tokens_per_step=tally.tokens_per_step,
            tau=tally.tau,
            accepted_per_draft=tally.accepted_per_draft,
            acceptance=tally.acceptance,
            tok_s=speed.aggregate if speed else None,
            speed_up=speed.aggregate / plain if speed and plain else None,
            degenerate=degenerate,
            findings=(*(f.text for f in record.findings if not f.hard), *record.trusted),
        )

    def _plain_tok_s(self, entry: Entry) -> float | None:
        """tok/s of `none` in the same place of the same run: its file lies beside."""
        name = entry.cell.model_copy(update={"drafter": NONE, "k": 0})
        path = entry.path.with_name(f"{name}.json")
        if str(path) not in self._plain:
            record = load(path, CellRecord) if path.is_file() else None
            if record and (record.cell != name or not record.valid or mostly_degenerate(record.findings)):
                record = None
            speed = speed_of(record.prompts) if record else None
            self._plain[str(path)] = speed.aggregate if speed else None
        return self._plain[str(path)]

    def _meet(self, column: int, record: CellRecord) -> None:
        for name, value in conditions_of(record, self._across).items():
            self.met[column].setdefault(name, {})[value] = None

    def conditions(self) -> list[dict[str, tuple[str, ...]]]:
        """For each side, every value of every condition."""
        return [{name: tuple(values) for name, values in met.items()} for met in self.met]
