"""Reads what the command line names, as far as it can be read, and says what cannot."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.errors import BadInput, BadRecord
from harness.judge.baselines import beside
from harness.judge.collect import Entry, Head, Side, collect, head_of
from harness.judge.over_none import plain_of
from harness.results.journal import answers_in
from harness.results.records import RUN_FILE, CellRecord, RunRecord, load

_GROUPS = ("identity", "subject", "environment", "provenance")
_FLEETING = frozenset({"command", "clocks", "server", "self_check", "time", "host", "run"})
"""Fields of the provenance that differ from run to run and explain no figure."""

_as_json = json.JSONEncoder(ensure_ascii=False).encode

Facts = Mapping[tuple[str, str], str]
"""What a cell says of itself: group and field, and its value as text."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Begun:
    """A cell that is not whole."""

    suite: str
    cell: str
    answers: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given:
    """A run, or a folder of cells."""

    name: str
    path: Path
    side: Side | None
    """Its cells that can be read, but for those that are shown otherwise; None where there are none."""
    ran: Side | None
    """All cells that can be read."""
    finished: bool
    """False where its `run.json` says that it is not."""
    begun: tuple[Begun, ...]
    """Cells that are not whole."""
    faults: tuple[str, ...]
    """Which files cannot be read, and why."""
    empty: str
    """Why it has no cells, where nothing is damaged."""
    facts: Mapping[Path, Facts]
    """Of each cell, by its file."""
    commands: tuple[str, ...]
    times: tuple[str, ...]
    """When its cells were measured."""


def read(path: Path, *, without: Callable[[Entry], bool] = lambda _: False, whole: bool = True) -> Given:
    """Read the cells at `path`. What is damaged there is left out and named.

    Args:
        path: a run, a folder of cells or baselines, or one cell.
        without: which of its cells are shown otherwise.
        whole: with all prompts of each cell; else its head alone, and damage behind that stays unseen.
    """
    damaged: list[BadRecord] = []
    side, empty = None, ""
    try:
        side = collect(path, damaged=damaged)
    except BadRecord as error:
        damaged.append(error)
    except BadInput as error:
        empty = "" if damaged else str(error)
    run = _run(path)
    finished = run is None or run.finished
    faults = list(map(str, damaged))
    facts: dict[Path, Facts] = {}
    once: dict[Any, Any] = {}  # thousands of cells say the same
    commands, times = {_command(run.provenance): None} if run else {}, set()
    entries = side.entries if side else ()
    for entry in entries:
        try:
            record = load(entry.path, CellRecord) if whole else head_of(entry.path)
            if beside(entry.path).exists():
                load(beside(entry.path), CellRecord)
        except BadRecord as error:
            faults.append(str(error))
            continue
        facts[entry.path] = {field: once.setdefault(value, value) for field, value in _facts(record)}
        commands[_command(record.provenance)] = None
        times.add(str(record.provenance.get("time") or ""))
    readable = tuple(e for e in entries if e.path in facts)
    kept = tuple(e for e in readable if not without(e))
    kept = tuple(_beside_none(e, faults) for e in kept) if whole else kept
    # Its last note says that the run is not finished, which the page says with more.
    noted = side and dataclasses.replace(side, notes=side.notes if finished else side.notes[:-1])
    return Given(
        name=side.name if side else path.resolve().name if run else str(path),
        path=path,
        side=dataclasses.replace(noted, entries=kept) if noted and kept else None,
        ran=dataclasses.replace(noted, entries=readable) if noted and readable else None,
        finished=finished,
        begun=() if finished else tuple(_begun(path)),
        faults=tuple(faults),
        empty=empty,
        facts=facts,
        commands=tuple(command for command in commands if command),
        times=tuple(sorted(times - {""})),
    )


def _beside_none(entry: Entry, faults: list[str]) -> Entry:
    try:
        plain_of(entry)
    except BadRecord as error:
        faults += [] if str(error) in faults else [str(error)]
        return dataclasses.replace(entry, plain=False)
    return entry


def _run(path: Path) -> RunRecord | None:
    try:
        return load(path / RUN_FILE, RunRecord)
    except BadRecord:  # not there, or `collect` has said why
        return None


def _begun(folder: Path) -> Iterator[Begun]:
    for journal in sorted(folder.glob("*/**/*.jsonl")):
        answers = None if journal.with_suffix(".json").exists() else answers_in(journal)
        if answers is not None:
            suite = journal.parent.relative_to(folder).as_posix()
            yield Begun(suite=suite, cell=journal.stem, answers=answers)


def _command(provenance: Mapping[str, Any]) -> str:
    return str(provenance.get("command") or "")


def _facts(record: CellRecord | Head) -> Iterator[tuple[tuple[str, str], str]]:
    """Every field, those of an object in it apart."""
    data = record.model_dump(include=set(_GROUPS))  # in mode "json" half of a surrogate pair raises
    for group in _GROUPS:
        for name, value in data[group].items():
            if group == "provenance" and name in _FLEETING:
                continue
            parts = value if isinstance(value, dict) and value else {"": value}
            for part, one in parts.items():
                field = f"{name}.{part}" if part else name
                yield (group, field), one if isinstance(one, str) else _as_json(one)
