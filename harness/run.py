"""One invocation: its options, its folder, the cells that it measured, and its plan."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from harness.config.cells import Cell, warmups_of
from harness.config.difference import Against
from harness.config.prompt_files import OwnPrompts, plan_of
from harness.config.prompts import Prompt, load_prompts
from harness.config.stack import Profile, Stack
from harness.engine.facts import tells_apart
from harness.engine.watchdog import STALL_SECONDS
from harness.errors import BadInput, BadRecord
from harness.judge.baselines import of_cell
from harness.measure.pace import Pace, busiest, pace_of
from harness.provenance.hardware import environment
from harness.provenance.record import provenance
from harness.results.conditions import Environment
from harness.results.files import json_object, write_atomically
from harness.results.names import SERVERS, new_name
from harness.results.records import RUN_FILE, CellName, CellRecord, RunRecord, load
from harness.results.timing import wall_of
from harness.stats.paired import MIN_PROMPTS
from harness.text.numbers import duration, listed, numbered
from harness.text.redaction import without_home

SELF_CHECK = f"{SERVERS}/self-check.json"
"""In a run's folder: each known answer and what was seen, or why the self-check was left out; its seconds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line said, after the profile's values were changed by single options."""

    stack: Stack
    profile_name: str
    profile: Profile
    workloads: tuple[str, ...]
    own: Mapping[str, OwnPrompts] = dataclasses.field(default_factory=dict)
    """The prompts of those workloads that the user brings."""
    repeats: int
    seed: int
    results: Path
    resume: bool
    server_url: str | None
    baselines: Path
    gate: str
    """off, warn, on or strict."""
    update: str
    """What to do with baselines: nothing (empty), `all`, or `new`."""
    pairs: int
    """Pairs of server starts for a speed-up."""
    sequential: bool
    """Stop a cell when it is decided."""
    compare: Path | None
    """A run to judge against instead of the baselines."""
    command: str
    stall_seconds: float = STALL_SECONDS
    """How long a server may have work and do nothing."""
    patch: str = "1"
    """What the engine plug-in does to a server: `1` patches faults, `probe` only looks for them."""
    api_key: str | None = dataclasses.field(default=None, repr=False)
    """Of the server at `server_url`."""
    self_check: str = "on"  # off, warn or on: what a broken instrument does to the run
    prompts: int | None = None
    max_tokens: int | None = None
    confirm: bool | None = None
    """As the command line says, as the two above; None where it leaves that to the profile. In `profile`."""
    levels: tuple[int, ...] = ()  # requests in flight, of the load and curve suites
    ks: tuple[int, ...] = ()  # of the curve suite; empty where the stack's drafters say
    ttft_s: float = math.inf
    tpot_s: float = math.inf
    """Seconds to the first token, and per token after it, of a request that counts as good under load."""
    against: Against | None = None
    questions: str | None = None  # a file of the user's own
    keep_texts: bool = False  # of the answers to these, in the records of the refusals suite
    tasks: str | None = None  # of lm-eval, by their names
    shard: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The plan's digest, the number in it, and how many there are."""

    def recorded(self) -> dict[str, Any]:
        """What must be the same for a run to be resumed."""
        return {
            # Without its workload, which stands below, and without what does not change the records.
            "profile": self.profile.model_dump(mode="json", exclude={"workload", "confirm"}),
            "workloads": list(self.workloads),
            **({"prompts": {name: own.digest for name, own in self.own.items()}} if self.own else {}),
            "repeats": self.repeats,
            "seed": self.seed,
            "sequential": self.sequential,
            "pairs": self.pairs,
            "server_url": without_home(self.server_url),
            **(self.against.recorded() if self.against else {}),
            **({"questions": without_home(self.questions)} if self.questions else {}),
            **({"shard": self.shard} if self.shard else {}),
        }


class Run:
    """The run folder and what is in it."""

    def __init__(self, options: Options, data: Path, *, run: str | None = None) -> None:
        """A new run, or the one named `run` (a worker's, or one to resume); nothing is written yet.

        Args:
            options: of this invocation.
            data: the folder that holds `prompts/`.
            run: its name.

        Raises:
            BadInput: --resume finds no run that this command could go on with.
        """
        self.options = options
        self.data = data
        self.run = run or (self._unfinished() if options.resume else new_name(options.stack.name))
        self.timed = True
        """False where workers share a device: then no time means anything."""
        self.measured: dict[tuple[str, str], CellRecord] = {}
        self._lock: BaseFileLock | None = None

    @property
    def folder(self) -> Path:
        """`results/<run>`."""
        return self.options.results / self.run

    def _unfinished(self) -> str:
        for path in sorted(self.options.results.glob(f"*/{RUN_FILE}"), reverse=True):
            try:
                record = load(path, RunRecord)
            except BadRecord:
                continue  # another version's: not ours to resume, and it is left alone
            same = (record.stack, record.profile) == (self.options.stack.name, self.options.profile_name)
            if not record.finished and same:
                if record.options != self.options.recorded():
                    differ = [k for k, v in self.options.recorded().items() if record.options.get(k) != v]
                    raise BadInput(
                        f"--resume: {path.parent} was begun with other options ({', '.join(differ)}); "
                        "use the same ones, or start without --resume",
                        code="cannot-resume",
                    )
                return path.parent.name  # not what the file says: it may have been moved, or mean another one
        raise BadInput(
            f"--resume: {self.options.results} holds no unfinished run of stack {self.options.stack.name}, "
            f"profile {self.options.profile_name}; start without --resume",
            code="cannot-resume",
        )

    def claim(self) -> None:
        """Make the run this process's own until it ends, however it ends.

        Raises:
            BadInput: another process is measuring it, or the results folder cannot be written.
        """
        if self._lock is not None:
            return
        lock = FileLock(self.folder / ".lock", blocking=False)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise BadInput(
                f"--resume: {self.folder} is being measured by another process; wait for its end, or start "
                "without --resume",
                code="cannot-resume",
            ) from None
        except OSError as error:
            raise BadInput(f"cannot write {self.folder}: {error.strerror}", code="cannot-write") from None
        self._lock = lock

    def write(self, *, finished: bool) -> None:
        """Write `run.json`.

        Raises:
            BadInput: the results folder cannot be written.
        """
        options = self.options
        record = RunRecord(
            run=self.run,
            stack=options.stack.name,
            profile=options.profile_name,
            options=options.recorded(),
            subject=options.stack.subject,
            provenance={**provenance(), "self_check": None, **self._self_check()},
            environment=self.environment,
            finished=finished,
        )
        write_atomically(self.folder / RUN_FILE, record.model_dump_json(by_alias=True, indent=1) + "\n")

    @property
    def environment(self) -> Environment:
        """The machine, with the devices that the stack's engine takes."""
        engine = self.options.stack.engine
        return environment(engine, python=engine.python)

    def self_checked(self, *lines: str, took_s: float | None = None) -> None:
        """Keep what the self-check said: the process that measures need not be the one that ends the run.

        Raises:
            BadInput: the results folder cannot be written.
        """
        known = {"self_check": lines} | ({} if took_s is None else {"self_check_s": took_s})
        write_atomically(self.folder / SELF_CHECK, json.dumps(known) + "\n")

    def _self_check(self) -> dict[str, Any]:
        try:
            return json_object((self.folder / SELF_CHECK).read_bytes(), SELF_CHECK)
        except (OSError, BadRecord):  # no server was needed yet
            return {}

    def prompts(self, cell: Cell) -> tuple[Prompt, ...]:
        """The prompts of a cell.

        Raises:
            BadInput: see `harness.config.prompts.load_prompts`.
        """
        return self._prompts(cell.name, at_most=cell.profile.prompts)

    def _prompts(self, name: CellName, *, at_most: int, after: int = 0) -> tuple[Prompt, ...]:
        if own := self.options.own.get(name.workload):
            return own.prompts(name.language, at_most=at_most, after=after)
        return load_prompts(self.data / "prompts", name.workload, name.language, at_most=at_most, after=after)

    def reserve(self, name: CellName) -> tuple[Prompt, ...]:
        """The prompts that a second look at a cell asks: as many as the first, and none of those.

        None where the profile makes no second look, the cell drafts nothing, or too few prompts are left.
        """
        profile = self.options.profile
        if not (profile.confirm and name.k):
            return ()
        prompts = self._prompts(name, at_most=profile.prompts, after=profile.prompts)
        return prompts if len({p.row for p in prompts}) >= MIN_PROMPTS else ()

    def warmups(self, cell: Cell) -> tuple[Prompt, ...]:
        """Prompts to warm up with; never among the measured ones. The user's own language may have none."""
        folder, language = self.data / "prompts", cell.name.language
        own = cell.name.workload in self.options.own and not (folder / f"warmup/{language}.jsonl").is_file()
        return load_prompts(folder, "warmup", "en" if own else language, at_most=max(1, cell.profile.warmups))

    def finished_cell(self, suite: str, cell: Cell) -> CellRecord | None:
        """The cell as this run, or the one that it resumes, has measured it already.

        Raises:
            BadRecord: its file is there but cannot be trusted.
        """
        path = self.folder / suite / f"{cell}.json"
        if (suite, str(cell)) not in self.measured and path.exists():
            self.measured[suite, str(cell)] = of_cell(path, cell.name)
        return self.measured.get((suite, str(cell)))

    @functools.cached_property
    def pace(self) -> Pace:
        """How fast this stack was in the last runs on this machine."""
        url = self.options.recorded()["server_url"]
        return pace_of(self.options.stack, self.options.results, server_url=url, here=self.environment)

    def estimate_s(self, cells: Sequence[Cell], *, workers: int = 1) -> float:
        """Seconds that measuring `cells` will take, if each of so many workers takes the next server."""
        again = self.options.repeats if self.options.update else 0  # a baseline has the reserve too
        of_server = self.pace.each_start_s(cells, first=workers)
        for cell, warmups in warmups_of(cells, attached=self.pace.attached).items():
            answers_s = self._answers_s(cell, more=warmups + again * len(self.reserve(cell.name)))
            of_server[cell.spec] = of_server.get(cell.spec, 0) + answers_s
        return busiest(of_server.values(), workers)

    def _answers_s(self, cell: Cell, *, share: float = 1, more: float = 0) -> float:
        return self.pace.answers_s(cell, share * len(self.prompts(cell)) * self.options.repeats + more)

    def left_s(
        self,
        suite: str,
        cells: Sequence[Cell],
        now: Cell,
        *,
        done: float,
        spent_s: float,
        start_s: float | None,
    ) -> float:
        """Seconds until the rest of `cells` is measured, as fast as this run has been so far.

        Args:
            suite: that measures them.
            cells: all of them.
            now: the one that is being measured.
            done: the share of its answers that are there.
            spent_s: on these, and on its warm-up.
            start_s: of the last start, which the next ones will be like; None where there was one alone.
        """
        before = [cell for cell in cells if cell != now and (suite, str(cell)) in self.measured]
        ahead = [cell for cell in cells if cell != now and cell not in before]
        warmups = warmups_of([*before, now, *ahead], attached=self.pace.attached)
        took = spent_s + sum(wall_of(self.measured[suite, str(cell)].prompts) for cell in before)
        planned = self._answers_s(now, share=done, more=warmups[now]) + sum(map(self._answers_s, before))
        left = sum(self._answers_s(cell, more=warmups[cell]) for cell in ahead)
        left += self._answers_s(now, share=1 - done)
        others = [cell for cell in ahead if cell.spec != now.spec]
        each = None if start_s is None else start_s * len({cell.spec for cell in others})
        return left * took / planned + (self.pace.starts_s(others, first=False) if each is None else each)

    def refuse_in_flight(self, cells: Sequence[Cell], count: int) -> None:
        """Say before a server starts that cells that draft can't be measured with so many requests in flight.

        Raises:
            BadInput: the engine reports no acceptance per request.
        """
        if count > 1 and not self.options.server_url and any(cell.name.k for cell in cells):
            tells_apart(self.options.stack.engine.python or sys.executable, count)

    def plan(self, cells: Sequence[Cell], *, self_check_s: float = 0, workers: int = 1) -> list[str]:
        """What is about to be measured, and how long that takes, by what it took here before or by a guess.

        Args:
            cells: to measure.
            self_check_s: seconds of the self-check that comes first.
            workers: of pytest-xdist.

        Raises:
            BadInput: a prompt file is missing or unreadable; see also `refuse_in_flight`.
        """
        if not cells:
            return []
        profile, repeats = cells[0].profile, self.options.repeats
        self.refuse_in_flight(cells, profile.concurrency)
        servers = list(dict.fromkeys(cell.spec for cell in cells))
        counts = sorted({len({p.row for p in self.prompts(cell)}) for cell in cells})
        for cell in cells:
            self.warmups(cell)
        known = "as it took here before" if self.pace.knows(cells) else "a guess until answers are there"
        known = f"{f' by {workers} workers' * (workers > 1)}, {known}"
        size = f"{numbered(len(cells), 'cell')} on {numbered(len(servers), 'server')}"
        few = f" (of {profile.prompts} asked for: the files hold no more)" * (counts[0] < profile.prompts)
        return [
            f"{size} ({listed([s.label for s in servers])}), "
            f"{'/'.join(map(str, counts))} prompts{few} x {profile.max_tokens} tokens"
            + (f" x {repeats}" if repeats > 1 else "")
            + f", T={profile.sampling.temperature:g}, concurrency {profile.concurrency}; "
            f"about {duration(self_check_s + self.estimate_s(cells, workers=workers))}"
            f"{' with the self-check' * bool(self_check_s)}{known}",
            *plan_of(self.options.own, {c.name.workload for c in cells}, self.options.stack.endpoints),
        ]
