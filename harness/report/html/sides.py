"""The runs of a page, each beside what it is compared with."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from harness.errors import BadInput, BadRecord
from harness.judge import curve, in_turn
from harness.judge.collect import Entry
from harness.judge.compare import CellComparison, Comparison, Row, compare
from harness.report.html.given import Given
from harness.text.redaction import without_home


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown:
    """A run, and what its suites say beside its cells."""

    given: Given
    curves: Sequence[tuple[curve.Curve, curve.Grid, Sequence[in_turn.Measured]]] = ()
    outcomes: Sequence[Mapping[str, str]] = ()
    """Suite, cell, kind, sentence and table of each question."""
    broken: Sequence[str] = ()
    """Why a curve, or the questions of a suite, cannot be shown."""
    asked: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Texts of prompts that the run keeps, by their hashes."""

    @property
    def something(self) -> bool:
        """It has something to show, be it that it has only begun."""
        given = self.given
        return bool(given.side or self.curves or self.outcomes or not given.finished)

    @property
    def faults(self) -> list[str]:
        """What cannot be shown."""
        empty = [self.given.empty] if self.given.empty and not self.something else []
        return list(dict.fromkeys((*self.given.faults, *self.broken, *empty)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared:
    """A run beside what it is compared with."""

    run: Given
    base: Given | None = None
    comparison: Comparison | None = None
    why_not: str = ""

    @property
    def pairs(self) -> list[tuple[Row, CellComparison]]:
        """The cells that have a partner."""
        rows = self.comparison.rows if self.comparison else ()
        return [(row, a) for row in rows if (a := row.others[0])]

    def alone(self, met: Collection[Path]) -> tuple[Entry, ...]:
        """The run's cells without a partner, and not the partner of another run's, as those in `met` are."""
        own = {a.figures.entry.path for _, a in self.pairs} | set(met)
        return tuple(e for e in self.run.side.entries if e.path not in own) if self.run.side else ()


def told_apart(shown: Sequence[Shown], baseline: Given | None) -> tuple[list[Shown], Given | None]:
    """Runs of one name go by their folders."""
    every = [*([baseline] if baseline else []), *(one.given for one in shown)]
    times = Counter(given.name for given in every)

    def named(given: Given) -> Given:
        return given if times[given.name] == 1 else dataclasses.replace(given, name=shown_path(given.path))

    again = [dataclasses.replace(one, given=named(one.given)) for one in shown]
    return again, named(baseline) if baseline else None


def compared(base: Given | None, run: Given, across: Sequence[str]) -> Compared:
    """A run beside another, or alone with the reason; the other is cut to its cells of the run's profiles.

    Raises:
        BadInput: `across` names no field of the cells.
        BadRecord: a file was damaged since it was read.
    """
    if not (base and base.side and run.side):
        return Compared(run=run)
    same = {(e.stack, e.profile) for e in run.side.entries}
    near = tuple(e for e in base.side.entries if (e.stack, e.profile) in same)
    old = dataclasses.replace(base.side, entries=near or base.side.entries)
    try:
        comparison = compare([old, run.side], across=tuple(dict.fromkeys((*run.side.subject, *across))))
    except BadRecord:
        raise
    except BadInput as error:
        if error.code == "compare-option":  # no pair of cells could be compared so
            raise
        return Compared(run=run, base=base, why_not=str(error))
    return Compared(run=run, base=base, comparison=comparison)


def shown_path(path: Path) -> str:
    """Without the name of the user's home."""
    return str(without_home(str(path)))
