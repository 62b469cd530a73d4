"""One invocation: its options, its folder, the cells it measured. What the pytest hooks delegate to."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import secrets
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from harness.config.cells import Cell, cells as cells_of
from harness.config.prompts import Prompt, load as load_prompts
from harness.config.stack import Profile, Stack
from harness.engine.watchdog import STALL_SECONDS
from harness.errors import BadInput, BadRecord
from harness.judge import baselines as baseline
from harness.judge.verdict import Verdict, judge, worst
from harness.provenance import record as provenance
from harness.results.files import write_atomically
from harness.results.records import RUN_FILE, CellRecord, RunRecord, load
from harness.stats import paired as stats

CALIBRATION = "servers/calibration.txt"
"""In a run's folder: each known answer and what was seen, or why nothing was calibrated."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line said, after the profile's values were changed by single options."""

    stack: Stack
    profile_name: str
    profile: Profile
    workloads: tuple[str, ...]
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
    """To print where a baseline is missing."""
    stall_seconds: float = STALL_SECONDS
    """How long a server may have work and do nothing."""

    def recorded(self) -> dict[str, Any]:
        """What must be the same for a run to be resumed."""
        return {
            "profile": self.profile.model_dump(mode="json"),
            "workloads": list(self.workloads),
            "repeats": self.repeats,
            "seed": self.seed,
            "sequential": self.sequential,
            "pairs": self.pairs,
            "server_url": provenance.without_home(self.server_url),
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
        self.run = run or (self._unfinished() if options.resume else _new_name(options.stack.name))
        self.timed = True
        """False where workers share a device: then no time means anything."""
        self.measured: dict[tuple[str, str], CellRecord] = {}
        self._lock: BaseFileLock | None = None

    @property
    def folder(self) -> Path:
        """`results/<run>`."""
        return self.options.results / self.run

    def _unfinished(self) -> str:
        runs = sorted(self.options.results.glob(f"*/{RUN_FILE}"), reverse=True)
        for path in runs:
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
                        "use the same ones, or start without --resume"
                    )
                return path.parent.name  # not what the file says: it may have been moved, or mean another one
        raise BadInput(
            f"--resume: {self.options.results} holds no unfinished run of stack {self.options.stack.name}, "
            f"profile {self.options.profile_name}; start without --resume"
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
                "without --resume"
            ) from None
        except OSError as error:
            raise BadInput(f"cannot write {self.folder}: {error.strerror}") from None
        self._lock = lock

    def write(self, *, finished: bool) -> None:
        """Write `run.json`.

        Raises:
            BadInput: the results folder cannot be written.
        """
        record = RunRecord(
            run=self.run,
            stack=self.options.stack.name,
            profile=self.options.profile_name,
            options=self.options.recorded(),
            subject=self.options.stack.subject,
            provenance={**provenance.provenance(), "calibration": self._calibration()},
            environment=provenance.environment(),
            finished=finished,
        )
        write_atomically(self.folder / RUN_FILE, record.model_dump_json(by_alias=True, indent=1) + "\n")

    def calibrated(self, *told: str) -> None:
        """Note what calibrating said; a file, since the process that measures need not be the one that ends.

        Raises:
            BadInput: the results folder cannot be written.
        """
        write_atomically(self.folder / CALIBRATION, "".join(f"{line}\n" for line in told))

    def _calibration(self) -> list[str] | None:
        try:
            return (self.folder / CALIBRATION).read_text(encoding="utf-8").splitlines()
        except OSError:  # no server was needed yet
            return None

    def prompts(self, cell: Cell) -> tuple[Prompt, ...]:
        """The prompts of a cell.

        Raises:
            BadInput: see `harness.config.prompts.load`.
        """
        return load_prompts(
            self.data / "prompts", cell.name.workload, cell.name.language, at_most=cell.profile.prompts
        )

    def in_sequence(self, cell: Cell) -> tuple[Prompt, ...]:
        """The prompts of a sequential measurement: as many as its last look wants, always mixed alike.

        Raises:
            BadInput: see `harness.config.prompts.load`.
        """
        mixed = sorted(self.prompts(cell), key=lambda p: hashlib.sha256(p.id.encode()).digest())
        return tuple(mixed[: stats.LOOKS[-1]])

    def warmups(self, cell: Cell) -> tuple[Prompt, ...]:
        """Prompts to warm up with; never among the measured ones."""
        return load_prompts(
            self.data / "prompts", "warmup", cell.name.language, at_most=max(1, cell.profile.warmups)
        )

    def finished_cell(self, suite: str, cell: Cell) -> CellRecord | None:
        """The cell as this run, or the one that it resumes, has measured it already.

        Raises:
            BadRecord: its file is there but cannot be trusted.
        """
        known = self.measured.get((suite, str(cell)))
        path = self.folder / suite / f"{cell}.json"
        if known is None and path.exists():
            known = load(path, CellRecord)
            self.measured[suite, str(cell)] = known
        return known

    def cells(self) -> list[CellRecord]:
        """Every cell on disk, whichever process measured it, in the order they were written.

        Raises:
            BadRecord: one of them cannot be trusted.
        """
        files = [p for p in self.folder.glob("acceptance/*.json") if not p.name.startswith(".")]
        return [load(p, CellRecord) for p in sorted(files, key=lambda p: (p.stat().st_mtime_ns, p.name))]

    def orphans(self, record: CellRecord) -> list[Path]:
        """Baselines beside that of `record` that no cell of the stack has any more."""
        stack, profile = self.options.stack, self.options.profile
        names = {str(c) for c in cells_of(stack, "", profile, workloads=stack.workloads)}
        folder = baseline.path_of(self.options.baselines, record).parent
        return sorted(p for p in folder.glob("*.json") if p.name.split(".")[0] not in names)

    def estimate_s(self, cells: list[Cell]) -> float:
        """Seconds that measuring `cells` will take, from the two figures that the stack gives."""
        stack = self.options.stack
        starts = len({cell.spec for cell in cells}) * stack.start_seconds
        tokens = sum(
            (len(self.prompts(c)) * self.options.repeats + c.profile.warmups) * c.profile.max_tokens
            for c in cells
        )
        return starts + tokens / stack.tokens_per_second

    def update_baseline(self, record: CellRecord) -> str | None:
        """Store `record` as the command line asks for; what was done, or None where nothing was to do.

        Raises:
            BadInput: the record is not valid, or the file cannot be written.
        """
        folder, update = self.options.baselines, self.options.update
        known = baseline.find(folder, record) if update else None
        if not update or (update == "new" and known is not None):
            return None
        path = baseline.store(folder, record)
        return f"{'replaced' if known else 'new'} baseline {path}"

    def verdict(self, record: CellRecord, *, positions: bool = True) -> Verdict:
        """The verdict on a cell of this run: against its baseline and its anchor, or the run to compare with.

        Raises:
            BadRecord: a baseline is there but cannot be trusted.
        """
        across = self.options.stack.subject
        if self.options.compare is not None:
            path = self.options.compare / record.suite / f"{record.cell}.json"
            if not path.exists():
                return Verdict(
                    kind="invalid", text=f"{self.options.compare} has no such cell to compare with"
                )
            return judge(
                load(path, CellRecord),
                record,
                across=across,
                against=self.options.compare.name,
                positions=positions,
            )
        old = baseline.find(self.options.baselines, record)
        if old is None:
            if not record.valid:
                return Verdict(kind="invalid", text=record.why_invalid)
            return Verdict(
                kind="invalid",
                text=f"no baseline at {baseline.path_of(self.options.baselines, record)}: "
                f"make one with: {self.options.command} --update-baselines-new-only",
            )
        anchor = baseline.find_anchor(self.options.baselines, record)
        against = [(old, "baseline"), *([(anchor, "anchor")] if anchor else [])]
        return worst(
            [judge(o, record, across=across, against=name, positions=positions) for o, name in against]
        )


def _new_name(stack: str) -> str:
    """Sorts by time; two runs in one second differ."""
    return f"{dt.datetime.now(dt.UTC):%Y%m%d-%H%M%S}-{stack}-{secrets.token_hex(2)}"
