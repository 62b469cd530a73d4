"""How long measuring takes on this machine: as it took in the last runs of the stack here, else a guess."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean

from harness.config.cells import Cell
from harness.errors import BadRecord
from harness.results.conditions import Environment
from harness.results.records import RUN_FILE, CellName, CellRecord, RunRecord, load
from harness.results.timing import wall_of

_RUNS = 5
"""How many runs are looked at: the newest one may have measured a single cell."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
    """A cell that was measured here."""

    cell: CellName
    concurrency: int | None
    max_tokens: int | None
    answers: int
    wall_s: float
    server: str
    start_s: float | None
    """Seconds in which its server started."""


def seen(record: CellRecord) -> Seen:
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
        server=str(server.get("start")),
        start_s=started if isinstance(started, int | float) else None,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds that starts and cells take."""

    start_s: float
    """A guess, for where no start was seen here."""
    tokens_per_s: float
    """A guess, for where no cell with as many requests in flight was seen here."""
    cells: Sequence[Seen] = ()

    def starts_s(self, count: int) -> float:
        """Of so many starts in a run, of which the first one takes longest: it reads all from the disk."""
        seen = sorted({one.server: one.start_s for one in self.cells if one.start_s}.values())
        first, others = (seen[-1], seen[:-1] or seen) if seen else (self.start_s, [self.start_s])
        return first + (count - 1) * fmean(others) if count else 0.0

    def rate(self, cell: Cell) -> float | None:
        """Answer tokens a second, counted as if each answer had all that it may have; None where not known.

        Those of this cell, else of all cells with its drafter, else of all.
        """
        name, profile = cell.name, cell.profile
        timed = [one for one in self.cells if one.concurrency == profile.concurrency and one.max_tokens]
        timed = [one for one in timed if one.max_tokens == profile.max_tokens] or timed
        alike: tuple[Callable[[CellName], bool], ...] = (
            lambda other: other == name,
            lambda other: (other.drafter, other.k) == (name.drafter, name.k),
            lambda _: True,
        )
        for is_like in alike:
            like = [one for one in timed if is_like(one.cell)]
            tokens = sum(one.answers * (one.max_tokens or 0) for one in like)
            wall_s = sum(one.wall_s for one in like)
            if tokens and wall_s:
                return tokens / wall_s
        return None

    def answers_s(self, cell: Cell, count: float) -> float:
        """Of so many answers in a cell."""
        return count * cell.profile.max_tokens / (self.rate(cell) or self.tokens_per_s)

    def knows(self, cells: Iterable[Cell]) -> bool:
        """No cell's time is a guess."""
        return all(self.rate(cell) for cell in cells)


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
    for path in sorted(results.glob(f"*/{RUN_FILE}"), reverse=True):
        try:
            run = load(path, RunRecord)
        except BadRecord:
            continue
        elsewhere = run.environment.differences(here) or run.options.get("server_url") != server_url
        cells = [] if elsewhere or run.stack != stack else _cells_of(path.parent)
        for one in cells:
            found.setdefault((one.cell, one.concurrency, one.max_tokens), one)
        runs += bool(cells)
        if runs == _RUNS:
            break
    return list(found.values())


def _cells_of(run: Path) -> list[Seen]:
    cells = []
    for path in sorted(run.glob("acceptance/*.json")):
        try:
            cells.append(seen(load(path, CellRecord)))
        except BadRecord:
            continue
    return [one for one in cells if one.wall_s]
