"""Puts a suite's question to a cell: measures it once, keeps the outcome, and applies the gate."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec

from pydantic import Field, ValidationError

from harness.config.cells import Cell, ServerSpec
from harness.config.prompts import Prompt, check_texts
from harness.config.stack import Stack
from harness.engine.attached import attach
from harness.engine.server import Server, running
from harness.engine.slot import Slot
from harness.errors import BadRecord
from harness.judge.verdict import Verdict
from harness.measure.measurement import Measurement
from harness.measure.probe import NoTokenizerError
from harness.provenance.hardware import devices_taken
from harness.provenance.surroundings import Watch
from harness.results.files import append, json_object
from harness.results.names import SERVERS
from harness.results.records import CellRecord, Record
from harness.run import Run
from harness.text.console import Say
from harness.text.numbers import duration
from harness.text.render import Piece, lay_out

Kind = Literal["fine", "noteworthy", "unsure", "failed", "invalid", "unchecked"]
Action = Literal["pass", "warn", "fail", "skip"]
P = ParamSpec("P")
Judge = Callable[..., None]
"""Puts the question of a suite, with its arguments; the case ends as the gate says."""

OUTCOMES = "verdicts.jsonl"
"""In a run's folder: one line for each outcome. The last line of a suite and a cell counts."""
_GATES = ("off", "warn", "on", "strict")
_POLICY: Mapping[Kind, tuple[Action, Action, Action, Action]] = {
    "fine": ("pass", "pass", "pass", "pass"),  # the answer is good
    "noteworthy": ("pass", "warn", "warn", "warn"),  # good, but the reader should know something
    "unsure": ("pass", "warn", "warn", "fail"),  # the prompts or starts were too few to tell
    "failed": ("pass", "warn", "fail", "fail"),  # the answer is bad, or nothing is there to compare with
    "invalid": ("fail", "warn", "fail", "fail"),  # what was measured is not a measurement
    "unchecked": ("skip", "skip", "skip", "skip"),  # this machine or engine cannot be asked
}


def policy(kind: Kind, gate: str) -> Action:
    """What the outcome of a case does to the case. It is the same for every suite."""
    return _POLICY[kind][_GATES.index(gate)]


class Outcome(Record):
    """What a suite found out about one cell: made once, and kept in the run's folder."""

    suite: str
    cell: str
    kind: Kind = "fine"
    sentence: str = ""
    """Without the cell's name. Empty where there is nothing to say."""
    table: str | tuple[Piece, ...] = ""
    """For the end of the run; tables as such, so that the terminal of the end decides on their width."""
    figures: dict[str, Any] = Field(default_factory=dict)
    verdict: Verdict | None = None
    """Against a baseline; None where nothing was compared."""
    files: dict[str, str | None] = Field(default_factory=dict)
    """What it was judged by: each file with its hash, None for a file that was not there."""

    def table_text(self, width: int | None = None) -> str:
        """The table in lines of at most `width` columns. Older runs have kept a text."""
        lines = self.table.split("\n") if isinstance(self.table, str) else self.table
        return lay_out(lines, width)

    @property
    def holds(self) -> bool:
        """The files that it was judged by are still the same."""
        return fingerprint(*map(Path, self.files)) == self.files


def fingerprint(*paths: Path) -> dict[str, str | None]:
    """The hash of each file; None for one that cannot be read."""
    found: dict[str, str | None] = {}
    for path in paths:
        found[str(path)] = None
        with contextlib.suppress(OSError):
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return found


def keep(folder: Path, outcome: Outcome) -> None:
    """Append an outcome to those of a run; workers may do so at the same time.

    Raises:
        BadInput: the file cannot be written.
    """
    # The first line break keeps it apart from a line that a killed process left torn.
    append(folder / OUTCOMES, f"\n{json.dumps(outcome.model_dump())}\n".encode())


def kept(folder: Path) -> dict[tuple[str, str], Outcome]:
    """The outcomes of a run by suite and cell. A line that cannot be read is left out."""
    found: dict[tuple[str, str], Outcome] = {}
    with contextlib.suppress(OSError):
        for line in (folder / OUTCOMES).read_bytes().splitlines():
            with contextlib.suppress(BadRecord, ValidationError):
                outcome = Outcome.model_validate(json_object(line, OUTCOMES))
                found.pop((outcome.suite, outcome.cell), None)
                found[outcome.suite, outcome.cell] = outcome
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suite:
    """Which cells a suite asks about, and what it says before it starts."""

    name: str
    by_path: bool = False
    """It runs only where the command line names its file."""
    own_servers: bool = False
    """It starts servers that no other suite can use."""
    one_server: str = ""
    """Of these: why one that runs already is not enough, where there is more to say than that."""
    drafting: bool = False
    """It asks about cells with a drafter alone."""
    beside_none: bool = False
    """It measures `none` beside each drafter. Its plan says all, and one process measures all."""
    own_prompts: bool = False
    """It asks prompts of its own. Its plan says all, and one process measures all."""
    takes: Callable[[Cell, Stack, str], bool] = lambda *_: True
    """Whether it asks about a cell of a stack. The text is the words of the command line."""
    nothing: str = ""
    """What to say where it was named and takes no cell; `{stack}` becomes the name of the stack."""
    leaves_out: str = ""
    """What it leaves out, and what to do, where a list of the cells that it takes does not say it."""
    plan: Callable[[Run, Sequence[Cell]], list[str]] = lambda *_: []
    """Lines for the plan, beside how many cells, servers and prompts there are."""

    @property
    def apart(self) -> bool:
        """Its cells stay together, on servers that it shares with no other suite."""
        return self.own_servers or self.beside_none or self.own_prompts


Rounds = Callable[[Callable[[int], None], int], None]
"""Calls a function with 0, 1, ... so many times; a benchmark may time each call."""


def in_turn(one: Callable[[int], None], count: int) -> None:
    """Rounds that nobody times."""
    for number in range(count):
        one(number)


_WARM = "warm"  # which start has answered already


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench:
    """What a question has to work with."""

    run: Run
    slot: Slot
    say: Say
    rounds: Rounds = in_turn
    suite: str = ""
    """The name of the suite that asks."""
    cells: tuple[Cell, ...] = ()
    """All cells that the suite will ask about."""
    shared: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What one case of a suite leaves to the next ones."""

    def measured(
        self,
        cell: Cell,
        *,
        suite: str,
        prompts: Sequence[Prompt],
        repeats: int = 1,
        timed: bool = False,
        fresh: bool = False,
        passes: Callable[[Measurement], int | None] = lambda measurement: measurement.one_pass(0),
        ahead: Sequence[Cell] = (),
    ) -> CellRecord:
        """The record of a cell as it is on disk.

        What the run has already is not measured again. The first cell on a start warms it up for all.

        Args:
            cell: what to measure.
            suite: the folder of its record.
            prompts: to send.
            repeats: passes over the prompts.
            timed: whether times are kept, and how busy the machine was meanwhile.
            fresh: on a server that was started for it. One that stalls is not started anew.
            passes: sends the prompts; returns the look that a sequential measurement stopped at.
            ahead: all cells that the suite measures like this one, to say how long they take.

        Raises:
            BadRecord: what is there was measured under other conditions, or is damaged.
            ServerFailed: there is no server, or it can't be measured.
        """
        known = self.run.finished_cell(suite, cell)
        if known is not None:
            check_texts(prompts, known.prompts, self.run.folder / suite / f"{cell}.json")
            self.say(f"draftgate: {suite}/{cell}: measured already, in {self.run.folder}")
            return known
        cold = () if cell.profile.cache == "warm" else [prompt.text for prompt in prompts]
        server = self.slot.get(cell.spec, anew=fresh, cold=cold)
        # What the first requests to an attached server show, each cell asks for itself.
        warm = not server.attached and self.shared.get(_WARM) == (self.slot.starts, cell.spec)
        measurement = Measurement(
            server=server,
            renew=None if fresh else self.slot.renew,
            stall_seconds=self.run.options.stall_seconds,
            cell=cell,
            suite=suite,
            prompts=prompts,
            warmups=() if warm else self.run.warmups(cell),
            repeats=repeats,
            seed=self.run.options.seed,
            timed=timed,
            folder=self.run.folder / suite,
            progress=self._progress(suite, cell, ahead),
        )
        measurement.prepare()
        if timed and not self.run.options.server_url:
            spec = cell.spec
            with Watch([n for n, _ in devices_taken(spec, python=spec.engine_python)]) as watch:
                stopped_at = passes(measurement)
            measurement.seen |= watch.seen.recorded()
        else:
            stopped_at = passes(measurement)
        measurement.finish(stopped_at=stopped_at)
        self.shared[_WARM] = self.slot.starts, cell.spec
        record = self.run.finished_cell(suite, cell)
        assert record is not None, "finish() has written it"  # noqa: S101
        return record

    def _progress(self, suite: str, cell: Cell, ahead: Sequence[Cell]) -> Callable[[Cell, int, int], None]:
        what, began, answered = f"{suite}/{cell}", time.monotonic(), 0

        def tell(_: Cell, done: int, total: int) -> None:
            nonlocal answered
            answered += 1
            spent = time.monotonic() - began
            share = answered / (answered + total - done)  # of what a resumed cell still lacked
            left_s = self.run.left_s(
                suite, ahead, cell, done=share, spent_s=spent, start_s=self.slot.last_start_s
            )
            left = f", about {duration(left_s)} left" if left_s >= 1 else ""
            self.say(f"\rdraftgate: {what}: prompt {done} of {total}{left}")
            if done == total:
                self.say(f"draftgate: {what}: {total} prompts in {spent:.0f} s{left}")

        return tell

    def compared(
        self,
        outcome: Outcome,
        *,
        flaw: str,
        known: Callable[[], object | None],
        store: Callable[[], Path],
        verdict: Callable[[], Verdict],
    ) -> Outcome:
        """A fine outcome, with what comparing it with its baseline adds; or with the baseline stored.

        Args:
            outcome: what was measured.
            flaw: why it is not a measurement; empty where it is one.
            known: finds its baseline.
            store: makes it the baseline, and returns the file.
            verdict: compares it. Not called where the run only measures.
        """
        options = self.run.options
        old = known() if options.update else None
        if options.update == "all" or (options.update and old is None):
            done = f"{'replaced' if old else 'new'} baseline {store()}"
            return outcome.model_copy(update={"sentence": done})
        if flaw:
            found, kind = Verdict(kind="invalid", text=f"not a measurement: {flaw}"), "invalid"
        elif options.gate == "off":
            return outcome
        else:
            found = verdict()
            kind = "failed" if found.fails else "unsure" if found.kind == "inconclusive" else "fine"
        said = found.text if flaw else f"{found.kind}: {found.text}"
        return outcome.model_copy(update={"kind": kind, "sentence": said, "verdict": found})


def ask(
    bench: Bench, question: Callable[Concatenate[Bench, P], Outcome], *args: P.args, **kwargs: P.kwargs
) -> tuple[Outcome, Action]:
    """Put a question, keep its outcome in the run's folder, and say what the gate makes of it.

    A question about a cell of a server that does not show its tokenizer stays open: that is an outcome too.

    Raises:
        DraftgateError: it could not be measured at all.
    """
    try:
        outcome = question(bench, *args, **kwargs)
    except NoTokenizerError as error:
        text = f"unverified: {error}"
        outcome = Outcome(suite=bench.suite, cell=str(args[0]), kind="unchecked", sentence=text)
    keep(bench.run.folder, outcome)
    if outcome.sentence:
        bench.say(f"draftgate: {outcome.cell}: {outcome.sentence}")
    return outcome, policy(outcome.kind, bench.run.options.gate)


def no_baseline(run: Run, path: Path) -> Verdict:
    """Nothing to compare with: says how to make it."""
    how = f"make one with: {run.options.command} --update-baselines-new-only"
    return Verdict(kind="invalid", text=f"no baseline in {path.parent}: {how}")


def starter(run: Run, say: Say) -> Callable[[ServerSpec], AbstractContextManager[Server]]:
    """How this run comes by a server: it starts one, or attaches to the one that it was given."""
    options = run.options

    def start(spec: ServerSpec) -> AbstractContextManager[Server]:
        if options.server_url:
            return contextlib.nullcontext(attach(options.server_url, spec, key=options.api_key))
        return running(spec, folder=run.folder / SERVERS, say=say, patch=options.patch)

    return start
