"""Each cell over time, run by run, and where its figures changed for good.

Apache Otava finds the change points: it splits a series where two stretches differ most, and keeps a split
where a t-test between them is significant (Fleming et al. 2023, https://doi.org/10.1145/3578244.3583719). A
history describes; the gate alone judges, prompt by prompt.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.errors import BadInput, BadRecord, NoCells, library
from harness.judge.collect import Entry, collect
from harness.judge.compare import Figures, figures_of
from harness.judge.matching import by_prompt, matched
from harness.judge.pairing import brief, counted
from harness.results.conditions import UNVERIFIED
from harness.results.records import RUN_FILE, CellRecord, RunRecord, load
from harness.text.numbers import numbered
from harness.text.validation import near_path

MAX_P = 1e-5
"""Of a change. Otava picks the best of many splits, so its own 0.001 finds one in 4 % of steady years."""
LEAST = 0.005
"""Of a change: where nothing scatters, every change is significant, however small."""
_WINDOW = 1000
"""Runs looked at together: in Otava's own 50 of a daily history a slow drift hides in the scatter."""
FOLLOWED = {"tokens_per_step": "tok/step", "tok_s": "tok/s"}
"""The figures whose changes are looked for, and what their columns are called."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """A cell as one run measured it."""

    run: str
    when: dt.datetime
    """When the run began."""
    finished: bool
    figures: Figures
    engine: str | None
    engine_commit: str | None
    commit: str | None
    """Of draftgate's own code."""
    dirty: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """Two stretches of a series that differ."""

    figure: str
    at: int
    """The first point of the later one."""
    before: float
    """The mean of the earlier one, and of the later one."""
    after: float
    p: float

    @property
    def change(self) -> float:
        """Later over earlier, less 1."""
        return self.after / self.before - 1 if self.before else 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """Points of one cell that may stand in one line: the same settings, prompts and machine."""

    entry: Entry
    """Of its first point."""
    apart: str
    """Why it does not go on from the series of this cell before it; empty where there is none."""
    points: tuple[Point, ...]
    changes: tuple[Change, ...]
    """In order of time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class History:
    """What runs have measured over time."""

    runs: int
    series: tuple[Series, ...]
    notes: tuple[str, ...]


@dataclasses.dataclass
class _Open:
    """A series that may go on."""

    apart: str
    at: str
    last: CellRecord
    points: list[Point]


def history(paths: Sequence[Path]) -> History:
    """Follow the cells of runs over time.

    What is damaged is named and left out; a run that is not finished shows the cells that it has.

    Args:
        paths: runs, or folders that hold some.

    Raises:
        BadInput: there is no such folder, it holds no run, no run can be read, or Otava is not installed.
    """
    _otava()
    notes: list[str] = []
    runs = _in_order(paths, notes)
    opened: dict[tuple[str, ...], list[_Open]] = {}
    seen: set[tuple[tuple[str, ...], str]] = set()
    copies: list[str] = []
    shown = 0
    for run, when, record in runs:
        damaged: list[BadRecord] = []
        cells = _cells(run, damaged, notes)
        notes += [f"{run.name}: {error}" for error in damaged]
        if not record.finished:
            notes.append(f"{run.name} is not finished: it shows the cells that it has")
        own = 0
        for entry, cell in cells:
            place = (entry.stack, entry.device, entry.profile, entry.suite, str(entry.cell))
            measured = (place, repr(cell.provenance))
            if "time" in cell.provenance and measured in seen:
                copies.append(run.name)
                continue
            seen.add(measured)
            own += 1
            point = _point(run.resolve().name, when, entry, cell, finished=record.finished)
            at = str(record.options.get("server_url")) if cell.environment.cpu == UNVERIFIED else ""
            _add(opened.setdefault(place, []), point, cell, at=at)
        shown += own > 0
    for name, count in Counter(copies).items():
        notes.append(f"{name}: {numbered(count, 'cell')} copied from another run, counted once")
    series = [
        Series(
            entry=one.points[0].figures.entry,
            apart=one.apart,
            points=tuple(one.points),
            changes=tuple(_changes(one.points)),
        )
        for several in opened.values()
        for one in several
    ]
    if not series:
        raise NoCells("; ".join([f"no run of {_listed(paths)} can be shown", *notes]))
    series.sort(key=lambda one: one.entry.order)
    return History(runs=shown, series=tuple(series), notes=tuple(notes))


def _listed(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths))


def _in_order(paths: Sequence[Path], notes: list[str]) -> list[tuple[Path, dt.datetime, RunRecord]]:
    """The runs, oldest first, each once. Those whose file cannot be read are noted."""
    folders: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            what = "a file, and no folder of runs" if path.exists() else f"no such folder{near_path(path)}"
            raise NoCells(f"{path}: {what}")
        for file in sorted(path.rglob(RUN_FILE)):
            folders.setdefault(file.resolve().parent, file.parent)
    if not folders:
        raise NoCells(
            f"{_listed(paths)} holds no run: name runs, or the folder with all of them, like results/"
        )
    found = []
    for folder in folders.values():
        try:
            record = load(folder / RUN_FILE, RunRecord)
            when = dt.datetime.fromisoformat(str(record.provenance.get("time")))
        except BadRecord as error:
            notes.append(f"{folder.name} is left out: {error}")
        except ValueError:
            notes.append(f"{folder.name} is left out: {folder / RUN_FILE} does not say when it began")
        else:
            found.append((folder, when if when.tzinfo else when.replace(tzinfo=dt.UTC), record))
    return sorted(found, key=lambda one: (one[1], one[0].name))


def _cells(run: Path, damaged: list[BadRecord], notes: list[str]) -> list[tuple[Entry, CellRecord]]:
    """The cells of a run that can be read."""
    try:
        entries = collect(run, damaged=damaged).entries
    except BadInput as error:
        notes += [] if damaged else [f"{run.name} is left out: {error}"]
        return []
    found = []
    for entry in entries:
        try:
            found.append((entry, load(entry.path, CellRecord)))
        except BadRecord as error:
            damaged.append(error)
    return found


def _point(run: str, when: dt.datetime, entry: Entry, cell: CellRecord, *, finished: bool) -> Point:
    subject, provenance = cell.subject, cell.provenance
    known = [
        None if value in (None, UNVERIFIED) else str(value)
        for value in (subject.engine, subject.engine_commit, provenance.get("commit"))
    ]
    return Point(
        run=run, when=when, finished=finished,
        figures=figures_of(entry, cell, counted(cell), over_none=False),
        engine=known[0], engine_commit=known[1], commit=known[2], dirty=provenance.get("dirty") is True,
    )  # fmt: skip


def _add(series: list[_Open], point: Point, cell: CellRecord, *, at: str) -> None:
    """Put a point where it goes on from the last one; else it begins a series.

    Args:
        series: of its cell.
        point: as it is shown.
        cell: what was measured.
        at: the address of a server on a machine that is not known otherwise.
    """
    why = ""
    for one in reversed(series):
        apart = _apart(one.last, cell) if one.at == at else f"server {one.at} -> {at}"
        if not apart:
            one.points.append(point)
            one.last = cell
            return
        why = why or apart
    series.append(_Open(apart=why, at=at, last=cell, points=[point]))


def _apart(old: CellRecord, new: CellRecord) -> str:
    """Why two measurements of a cell may not stand in one line; empty where they may."""
    differ = old.identity.differences(new.identity) | old.environment.differences(new.environment)
    if differ:
        return "; ".join(f"{name} {brief(a)} -> {brief(b)}" for name, (a, b) in differ.items())
    sides = [by_prompt(list(record.prompts)) for record in (old, new)]
    same, _ = matched(*sides, by_id=False)
    return "" if len(same) == len(sides[0]) == len(sides[1]) else "other prompts"


def _otava() -> Any:
    return library("otava.analysis", "draftgate history", package="apache-otava", extra="history")


def changes_of(figure: str, values: Sequence[float | None]) -> list[Change]:
    """Where a figure changed; None stands for a run that did not measure it.

    Raises:
        BadInput: Otava is not installed.
    """
    known = [(i, value) for i, value in enumerate(values) if value is not None]
    found, _ = _otava().compute_change_points(
        [value for _, value in known], window_len=_WINDOW, max_pvalue=MAX_P, min_magnitude=LEAST
    )
    return [
        Change(
            figure=figure, at=known[one.index][0], before=float(one.stats.mean_1),
            after=float(one.stats.mean_2), p=float(one.stats.pvalue),
        )
        for one in found
    ]  # fmt: skip


def _changes(points: Sequence[Point]) -> list[Change]:
    found = [c for name in FOLLOWED for c in changes_of(name, [getattr(p.figures, name) for p in points])]
    return sorted(found, key=lambda change: change.at)
