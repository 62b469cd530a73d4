"""How long measuring takes on this machine: as it took in the last runs of the stack here, else a guess."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import sys
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from harness.config.cells import Cell, ServerSpec, warmups_of
from harness.config.stack import Stack
from harness.engine.facts import compiles, engine_facts
from harness.errors import BadRecord, ServerFailed
from harness.results.conditions import Environment, Identity, Subject
from harness.results.files import read_bytes
from harness.results.records import RUN_FILE, CellName, RunRecord, Source, load
from harness.results.timing import wall_of

_RUNS, _ENOUGH = 5, 1000
"""How many runs are looked at, and how many cells: the newest one may have measured a single cell."""
COMPILING_S = 25.0
"""What a server's first start takes more where its engine compiles the model (18 to 30 s on one H200)."""
_FAST, _SLOWER = "avx512f", 1.9
"""Without these instructions a CPU is as much slower: two cores of one made 23 tokens a second for 45."""
_SELF_CHECK_STARTS = 2
"""A guess of what the self-check takes: its server has the target twice."""


def busiest(parts: Iterable[float], workers: int) -> float:
    """How long the busiest worker takes, if each takes the next part when it is free, the longest first."""
    busy = [0.0] * workers
    for part in sorted(parts, reverse=True):
        busy[busy.index(min(busy))] += part
    return max(busy)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
    """A cell that was measured here."""

    cell: CellName
    concurrency: int | None
    max_tokens: int | None
    answers: int
    wall_s: float
    start_s: float | None
    """Seconds in which its server started."""
    engine: str | None
    """The version that started it."""


class _Answer(BaseModel):
    """When a prompt was answered. A plan reads thousands of files, and needs no more of each."""

    source: Source
    segment: int = 0
    repeat: int
    began_s: float | None = None
    total_s: float | None = None


class _Measured(BaseModel):
    """The fields of a cell record that say how long it took."""

    schema_: Literal[1] = Field(alias="schema")
    cell: CellName
    identity: Identity
    subject: Subject
    provenance: dict[str, Any]
    prompts: tuple[_Answer, ...]


def seen(record: _Measured) -> Seen:
    """What a record says of the time that it took."""
    server = record.provenance.get("server")
    server = server if isinstance(server, dict) else {}
    started = server.get("started_s")
    return Seen(
        cell=record.cell,
        concurrency=record.identity.concurrency,
        max_tokens=record.identity.max_tokens,
        answers=len(record.prompts),
        wall_s=wall_of(record.prompts),
        start_s=started if isinstance(started, int | float) else None,
        engine=record.subject.engine,
    )


def _likes(cell: CellName) -> tuple[Hashable, ...]:
    """What a cell's time is like that of, the closest first."""
    return (cell, (cell.variant, cell.drafter, cell.k), (cell.drafter, cell.k), None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds that starts and cells take."""

    start_s: float
    """A guess, for where no start was seen here."""
    tokens_per_s: float
    """A guess, for where no cell with as many requests in flight was seen here."""
    cells: Sequence[Seen] = ()
    self_check_s: float | None = None
    """Of the last self-check of the stack here."""
    engine: str | None = None
    """The version that will start the servers."""
    compiling_s: float = 0.0
    """What the first start of a server by this engine takes more."""
    attached: bool = False
    """The servers run already: none starts, and each cell warms its server up."""

    def starts_s(self, cells: Iterable[Cell], *, first: bool = True) -> float:
        """Of the servers of these cells."""
        return sum(self.each_start_s(cells, first=int(first)).values())

    def each_start_s(self, cells: Iterable[Cell], *, first: int) -> dict[ServerSpec, float]:
        """Of each of these servers. The `first` ones of a run take longest: they read all from the disk."""
        each = {
            spec: self._start_s(cell)
            for spec, cell in {cell.spec: cell for cell in cells}.items()
            if not self.attached
        }
        return each | {spec: max(each[spec], self._slowest_s) for spec in list(each)[:first]}

    def _start_s(self, cell: Cell) -> float:
        """As it started last, but a first start compiled; else like the slowest, and compiling on top."""
        return self._last_start_s.get(_likes(cell.name)[1], self._new_start_s)

    @functools.cached_property
    def _last_start_s(self) -> dict[Hashable, float]:
        """By variant, drafter and k; the newest run comes first."""
        starts: dict[Hashable, list[float]] = {}
        for one in self.cells:
            if one.start_s and one.engine == self.engine:
                starts.setdefault(_likes(one.cell)[1], []).append(one.start_s)
        return {
            key: max(0, found[0] - self.compiling_s * (len(set(found)) == 1)) for key, found in starts.items()
        }

    @functools.cached_property
    def _slowest_s(self) -> float:
        return max((one.start_s for one in self.cells if one.start_s), default=self.start_s)

    @functools.cached_property
    def _new_start_s(self) -> float:
        known = any(one.start_s for one in self.cells)  # the guess is of a first start, which compiles
        return self._slowest_s + self.compiling_s * known

    def self_checking_s(self, answers: int, tokens: int) -> float:
        """Of a self-check with so many answers of so many tokens."""
        guess = _SELF_CHECK_STARTS * self._new_start_s + answers * tokens / self.tokens_per_s
        return guess if self.self_check_s is None else self.self_check_s

    def rate(self, cell: Cell) -> float | None:
        """Answer tokens a second, counted as if each answer had all that it may have; None where not known.

        Those of this cell, else of all cells with its drafter in its variant, else in any, else of all.
        """
        name, profile = cell.name, cell.profile
        load = profile.concurrency
        most = profile.max_tokens if (load, profile.max_tokens, None) in self._sums else None
        for like in _likes(name):
            tokens, wall_s = self._sums.get((load, most, like), (0, 0))
            if tokens and wall_s:
                return tokens / wall_s
        return None

    @functools.cached_property
    def _sums(self) -> dict[tuple[Hashable, ...], tuple[float, float]]:
        """Answer tokens and seconds, by requests in flight, by length (None: all), and by what is alike."""
        sums: dict[tuple[Hashable, ...], tuple[float, float]] = {}
        for one in self.cells:
            for most, like in product((one.max_tokens, None), _likes(one.cell)) if one.max_tokens else ():
                tokens, wall_s = sums.get(key := (one.concurrency, most, like), (0.0, 0.0))
                sums[key] = (tokens + one.answers * (one.max_tokens or 0), wall_s + one.wall_s)
        return sums

    def answers_s(self, cell: Cell, count: float) -> float:
        """Of so many answers in a cell."""
        return count * cell.profile.max_tokens / (self.rate(cell) or self.tokens_per_s)

    def cells_s(self, counts: Mapping[Cell, float], *, first: bool = True) -> float:
        """Of a start of each server of these cells, its warm-up, and so many answers in each cell.

        Args:
            counts: answers by cell, in the order in which they are measured.
            first: a server is the first of its run.
        """
        warmups = warmups_of(list(counts), attached=self.attached)
        answers_s = (self.answers_s(cell, count + warmups[cell]) for cell, count in counts.items())
        return self.starts_s(counts, first=first) + sum(answers_s)

    def knows(self, cells: Iterable[Cell]) -> bool:
        """No cell's time is a guess."""
        return all(self.rate(cell) for cell in cells)


def pace_of(stack: Stack, results: Path, *, server_url: str | None, here: Environment) -> Pace:
    """How fast a stack was in the last runs in `results` on this machine; see `last_seen`."""
    engine, tokens_per_s = None, stack.tokens_per_second
    with contextlib.suppress(ServerFailed):  # without an engine, its start will say so
        facts = engine_facts(stack.engine.python or sys.executable)
        engine = facts.version
        if facts.cpu and not server_url and _FAST not in here.isa:
            tokens_per_s /= _SLOWER
    return Pace(
        start_s=stack.start_seconds,
        tokens_per_s=tokens_per_s,
        cells=last_seen(results, stack=stack.name, server_url=server_url, here=here),
        self_check_s=last_self_check_s(results, stack=stack.name, here=here),
        engine=engine,
        compiling_s=COMPILING_S * compiles(stack.engine.args),
        attached=server_url is not None,
    )


def last_seen(results: Path, *, stack: str, server_url: str | None, here: Environment) -> list[Seen]:
    """The cells of the last runs of a stack on this machine, each once. What cannot be read is left out.

    Args:
        results: where runs lie.
        stack: its name.
        server_url: as a run keeps it; where a server elsewhere was measured, its machine counts.
        here: this machine, with the devices of the stack's engine.
    """
    found: dict[tuple[CellName, int | None, int | None], Seen] = {}
    runs = 0
    for folder, run in _runs(results, stack=stack, here=here):
        cells = _cells_of(folder) if run.options.get("server_url") == server_url else []
        for one in cells:
            found.setdefault((one.cell, one.concurrency, one.max_tokens), one)
        runs += bool(cells)
        if runs == _RUNS or len(found) >= _ENOUGH:
            break
    return list(found.values())


def last_self_check_s(results: Path, *, stack: str, here: Environment) -> float | None:
    """Seconds of the last self-check of a stack on this machine; None where no run says them."""
    for _, run in _runs(results, stack=stack, here=here):
        seconds = run.provenance.get("self_check_s")
        if isinstance(seconds, int | float) and 0 < seconds < math.inf:
            return seconds
    return None


def _runs(results: Path, *, stack: str, here: Environment) -> Iterator[tuple[Path, RunRecord]]:
    """The runs of a stack on this machine, the newest first."""
    for path in sorted(results.glob(f"*/{RUN_FILE}"), reverse=True):
        with contextlib.suppress(BadRecord):
            run = load(path, RunRecord)
            if run.stack == stack and not run.environment.differences(here):
                yield path.parent, run


def _cells_of(run: Path) -> list[Seen]:
    cells = []
    for path in sorted(path for suite in ("acceptance", "curve/*") for path in run.glob(f"{suite}/*.json")):
        try:
            cells.append(seen(_Measured.model_validate_json(read_bytes(path))))  # most of a file is skipped
        except (BadRecord, ValidationError):
            continue
    return [one for one in cells if one.wall_s]
