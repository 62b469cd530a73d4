"""Faults, injected for real into `pytest bench_suites` on a CPU engine; what came of each is an `Outcome`.

The nightly tests assert on it, and `python -m tests.perf.faults` prints it as a table.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Self

import psutil

from harness.engine.server import Server
from harness.results.records import CellRecord, RunRecord, load
from tests.engine.conftest import ROOT, Draftgate, engines_of, family_of, running_of

PROMPTS, STALL_SECONDS, LENGTH = 6, 20, "48"
CELL = (
    "-m", "chat and en and ngram and k4", "--prompts", str(PROMPTS), "--max-tokens", LENGTH, "--gate", "off",
    "--stall-seconds", str(STALL_SECONDS), "--self-check", "off", "--concurrency", "1",
)  # fmt: skip
MOUNT, UMOUNT = shutil.which("mount") or "mount", shutil.which("umount") or "umount"


class Impossible(Exception):  # noqa: N818
    """This fault cannot be injected here; the reason is its text."""


@dataclasses.dataclass(kw_only=True)
class Outcome:
    """What came of a fault."""

    fault: str
    how: str
    said: str
    """The line that draftgate answered with; empty where there was none."""
    code: int
    """Exit code of the run that was hit."""
    resumed: int | None = None
    """Exit code of the run that went on with it; None where none was needed."""
    lost: int = 0
    """Prompts that were on disk before and are not, or changed; and those that are missing at the end."""
    orphans: int = 0
    """Processes of engines that were left."""
    seconds: float | None = None
    """From the injection to the line, or to the end of the process where it said nothing."""

    @property
    def row(self) -> str:
        """Of the table."""
        said = self.said.replace("|", "\\|") or "—"
        verdict = f"{self.code}" + (f", resumed {self.resumed}" if self.resumed is not None else "")
        seconds = "—" if self.seconds is None else f"{self.seconds:.1f}"
        return (
            f"| {self.fault} | {self.how} | {said} | {verdict} | {self.lost} | {self.orphans} | {seconds} |"
        )


HEAD = (
    "| fault | how injected | what draftgate said | exit code | lost | orphans | seconds |\n"
    + "|---" * 7
    + "|"
)


class Run:
    """A run under way: its output with times, and what is on disk."""

    def __init__(self, draftgate: Draftgate, *words: str) -> None:
        """Starts it."""
        self.draftgate = draftgate
        self.process = draftgate.start(*words)
        self.output: list[tuple[float, str]] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.output.append((time.monotonic(), line.rstrip()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.end(timeout=30)

    def end(self, *, timeout: float = 550) -> int:
        """Wait for its end; the exit code."""
        self.process.wait(timeout)
        self._reader.join()
        if self.process.stdout:
            self.process.stdout.close()
        return self.process.returncode

    @property
    def text(self) -> str:
        return "\n".join(line for _, line in self.output)

    def said(self, pattern: str) -> tuple[float, str]:
        """When the first line that fits was printed, and the line; empty where none was."""
        for at, line in self.output:
            if re.search(pattern, line):
                return at, line.strip(" !=").replace(str(self.draftgate.results), "results")
        return 0.0, ""

    def until(
        self, done: Callable[[], object], what: str, *, within_s: float = 400, poll_s: float = 0.1
    ) -> None:
        """Wait for something to happen while the run goes on."""
        deadline = time.monotonic() + within_s
        while not done():
            assert time.monotonic() < deadline, f"waited {within_s} s for {what}:\n{self.text}"
            assert self.process.poll() is None, f"ended before {what}:\n{self.text}"
            time.sleep(poll_s)

    def measured(self, count: int) -> None:
        """Wait until so many prompts are on disk."""
        self.until(lambda: len(self.draftgate.lines()) >= count, f"{count} prompts")

    def engine(self, title: str) -> psutil.Process:
        """The engine's process that logs under this title: APIServer or EngineCore."""
        (log,) = self.draftgate.results.glob("*/servers/*k4-*.log")
        return psutil.Process(int(re.findall(rf"{title} pid=(\d+)", log.read_text())[-1]))


def wait_until(done: Callable[[], object], *, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while not done() and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(done())


def orphans_of(draftgate: Draftgate) -> int:
    """Processes of engines that are there though their run has ended; an ending one has some seconds."""
    wait_until(lambda: not engines_of(draftgate.results), within_s=15)
    return len(engines_of(draftgate.results))


def lost(before: list[dict[str, object]], after: list[dict[str, object]], *, wanted: int = PROMPTS) -> int:
    """Lines of before that are not there as they were, and prompts that are missing."""
    changed = sum(line not in after for line in before)
    return changed + wanted - len({str(line["prompt"]) for line in after})


def finished(draftgate: Draftgate) -> bool:
    """The only run there is ended, with a valid cell of all prompts, each once."""
    (run,) = draftgate.results.glob("*/run.json")
    (path,) = draftgate.results.glob("*/acceptance/*.json")
    record = load(path, CellRecord)
    once = len({r.prompt for r in record.prompts}) == len(record.prompts) == PROMPTS
    return load(run, RunRecord).finished and record.valid and once


def resumed(draftgate: Draftgate, outcome: Outcome, before: list[dict[str, object]]) -> Outcome:
    """Go on with an interrupted run, and look whether all is there."""
    outcome.orphans = orphans_of(draftgate)
    outcome.resumed = draftgate.run(*CELL, "--resume")[0]
    outcome.lost = lost(before, draftgate.lines())
    outcome.orphans += orphans_of(draftgate)
    return outcome


# While it measures: the run goes on by itself

KILLED = {
    "engine core killed": ("EngineCore", signal.SIGKILL),
    "API server killed": ("APIServer", signal.SIGKILL),
    "engine core frozen": ("EngineCore", signal.SIGSTOP),
    "API server frozen": ("APIServer", signal.SIGSTOP),
    "engine's supervisor killed": ("supervisor", signal.SIGKILL),
}


def server_hit(draftgate: Draftgate, fault: str) -> Outcome:
    """A process of the engine is killed or frozen once two prompts are done; the run goes on."""
    title, number = KILLED[fault]
    with Run(draftgate, *CELL) as run:
        run.measured(2)
        api = run.engine("APIServer")
        victim = api.parent() if title == "supervisor" else run.engine(title)
        assert victim is not None
        family = [victim, *victim.children(recursive=True)]
        before = draftgate.lines()
        at = time.monotonic()
        victim.send_signal(number)
        code = run.end()
    heard, line = run.said(r"starting it anew")
    left = running_of(family)
    return Outcome(
        fault=fault,
        how=f"{number.name} to its process after 2 of {PROMPTS} prompts (--stall-seconds {STALL_SECONDS})",
        said=line,
        code=code,
        lost=lost(before, draftgate.lines()) if finished(draftgate) else PROMPTS,
        orphans=orphans_of(draftgate) + len(left),
        seconds=heard - at if line else None,
    )


# While it starts


def killed_while_starting(draftgate: Draftgate) -> Outcome:
    """The engine's first process is killed before it is ready."""
    with Run(draftgate, *CELL) as run:
        run.until(lambda: len(engines_of(draftgate.results)) > 1, "the engine's first process")
        time.sleep(2)
        victim = max(engines_of(draftgate.results), key=lambda p: p.create_time())
        at = time.monotonic()
        victim.kill()
        code = run.end()
    heard, line = run.said(r"died while loading")
    outcome = Outcome(
        fault="server killed while it starts",
        how="SIGKILL to the API server while it loads",
        said=line,
        code=code,
        seconds=heard - at if line else None,
    )
    assert "Traceback" not in run.text.split("the end of")[0], run.text
    outcome.orphans = orphans_of(draftgate)
    return resumed(draftgate, outcome, [])


def port_stolen(draftgate: Draftgate, folder: Path, *, answers: bool) -> Outcome:
    """Another program takes the port after draftgate looked, and before the engine asks for it."""

    class Thief(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if answers else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    probe = HTTPServer(("127.0.0.1", 0), Thief)
    port = probe.server_port
    probe.server_close()
    stack = folder / "port.toml"
    text = (ROOT / "fixtures/stacks/smollm2-cpu.toml").read_text()
    # A forked engine asks for its port too soon for the other program.
    engine = f"[engine]\nport = {port}\nfork = false\n\n[engine.args]"
    stack.write_text(text.replace("[engine.args]", engine))
    with Run(draftgate, "--stack", str(stack), *CELL) as run:
        run.until(lambda: engines_of(draftgate.results), "the engine's first process")
        with HTTPServer(("127.0.0.1", port), Thief) as thief:
            at = time.monotonic()
            serving = threading.Thread(target=thief.serve_forever)
            serving.start()
            code = run.end()
            thief.shutdown()
            serving.join()
    heard, line = run.said(r"was taken by another program|Address already in use")
    assert "Traceback" not in run.text.split("the end of")[0], run.text
    kind = "answers /health with 200" if answers else "answers 404"
    return Outcome(
        fault="port stolen" + (" by a server" if answers else ""),
        how=f"another program binds it while the engine imports; it {kind}",
        said=line,
        code=code,
        lost=len(draftgate.lines()),  # none may be there: they would be of another server
        orphans=orphans_of(draftgate),
        seconds=heard - at if line else None,
    )


# draftgate itself is ended


def pytest_killed(draftgate: Draftgate) -> Outcome:
    """pytest gets a SIGKILL; the supervisor ends the engine, and --resume goes on."""
    with Run(draftgate, *CELL) as run:
        run.measured(2)
        family = family_of(run.process.pid)
        at = time.monotonic()
        run.process.kill()
        code = run.end()
        before = draftgate.lines()
        gone = wait_until(lambda: not (running_of(family) or engines_of(draftgate.results)), within_s=20)
    outcome = Outcome(
        fault="pytest killed",
        how="SIGKILL to pytest after 2 prompts",
        said="(nothing: its supervisor ends the engine)" if gone else "",
        code=code,
        seconds=time.monotonic() - at if gone else None,
    )
    return resumed(draftgate, outcome, before)


def all_killed(draftgate: Draftgate) -> Outcome:
    """pytest and all supervisors get a SIGKILL: the engine ends by itself, or the next run ends it."""
    with Run(draftgate, *CELL) as run:
        run.measured(2)
        api = run.engine("APIServer")
        family = api.children(recursive=True)
        started = family_of(run.process.pid)
        run.process.send_signal(signal.SIGSTOP)  # so that it doesn't see what happens to its server
        for process in reversed([p for p in api.parents() if p in started]):  # the outermost first
            with contextlib.suppress(psutil.NoSuchProcess):  # it dies with its supervisor
                process.kill()
        run.process.kill()
        code = run.end()
        before = draftgate.lines()
    time.sleep(1)
    left = running_of(family)
    with Run(draftgate, *CELL, "--resume") as again:
        at = time.monotonic()
        resumed_code = again.end()
    heard, line = again.said("which an earlier run")
    still = running_of(left)
    return Outcome(
        fault="pytest and the supervisor killed",
        how=f"SIGKILL to all after 2 prompts: {len(left)} processes are left a second later",
        said=line if left else "(nothing: every process of the engine ends by itself)",
        code=code,
        resumed=resumed_code,
        lost=lost(before, draftgate.lines()),
        orphans=orphans_of(draftgate) + len(still),
        seconds=heard - at if line else None,
    )


def worker_killed(draftgate: Draftgate) -> Outcome:
    """The worker of pytest-xdist that measures is killed."""
    with Run(draftgate, *CELL, "-n", "1", "--max-worker-restart", "0") as run:
        run.measured(2)
        (worker,) = [
            p for p in psutil.Process(run.process.pid).children()
            if "pytest-xdist" in (words := " ".join(p.cmdline())) or "stdin.readline" in words
        ]  # fmt: skip
        at = time.monotonic()
        worker.kill()
        code = run.end()
        before = draftgate.lines()
    heard, line = run.said(r"worker .* crashed while running")
    outcome = Outcome(
        fault="xdist worker killed",
        how="SIGKILL to the worker of `-n 1` after 2 prompts",
        said=line,
        code=code,
        seconds=heard - at if line else None,
    )
    return resumed(draftgate, outcome, before)


PHASES: dict[str, Callable[[Draftgate], bool]] = {
    "starting": lambda d: len(engines_of(d.results)) > 1,
    "warming": lambda d: bool(list(d.results.glob("*/acceptance/*.jsonl"))),
    "measuring": lambda d: len(d.lines()) >= 2,
    "writing": lambda d: len(d.lines()) >= PROMPTS,
    "ending": lambda d: bool(list(d.results.glob("*/acceptance/*.json"))),
    "summary": lambda d: any('"finished": true' in p.read_text() for p in d.results.glob("*/run.json")),
}
"""What is seen when a phase begins; `ending` is the end of the server."""


def interrupted(draftgate: Draftgate, number: signal.Signals, phase: str) -> tuple[Outcome, str]:
    """Ctrl-C or SIGTERM when a phase begins; the outcome, and all that was printed."""
    with Run(draftgate, *CELL) as run:
        run.until(lambda: PHASES[phase](draftgate), phase, poll_s=0.02)
        at = time.monotonic()
        run.process.send_signal(number)
        code = run.end(timeout=200)
        took = time.monotonic() - at
        before = draftgate.lines()
    _, line = run.said(r"KeyboardInterrupt|Interrupted|interrupted while it ended|no tests ran|\d+ passed")
    name = "Ctrl-C" if number == signal.SIGINT else number.name
    outcome = Outcome(
        fault=f"{name} while {phase}", how=f"{number.name} to pytest", said=line, code=code, seconds=took
    )
    outcome.orphans = orphans_of(draftgate)
    done = any(load(path, RunRecord).finished for path in draftgate.results.glob("*/run.json"))
    if done:
        outcome.lost = lost(before, draftgate.lines())
        return outcome, run.text
    return resumed(draftgate, outcome, before), run.text


# The place where results go


@contextlib.contextmanager
def mounted(folder: Path, *words: str) -> Iterator[None]:
    """Something mounted on a folder.

    Raises:
        Impossible: it is not allowed here.
    """
    done = subprocess.run([MOUNT, *words, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Impossible(f"mounting is not allowed here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run([UMOUNT, "-l", str(folder)], check=False)


def disk_full(draftgate: Draftgate) -> Outcome:
    """Another program fills the disk of the results after a prompt; then there is room again."""
    folder = draftgate.results
    folder.mkdir(parents=True)
    with mounted(folder, "-t", "tmpfs", "-o", "size=1m", "tmpfs"):
        with Run(draftgate, *CELL) as run:
            run.measured(1)
            at = time.monotonic()
            filler = folder / "filler"
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(b"x" * 512)
            code = run.end()
            before = draftgate.lines()
        heard, line = run.said(r"jsonl: No space left on device")
        assert "Traceback" not in run.text, run.text
        filler.unlink()
        outcome = Outcome(
            fault="disk full",
            how="a tmpfs of 1 MiB, filled after 1 prompt; emptied before --resume",
            said=line,
            code=code,
            seconds=heard - at if line else None,
        )
        return resumed(draftgate, outcome, before)


def read_only(draftgate: Draftgate) -> Outcome:
    """The results folder cannot be written."""
    folder = draftgate.results
    folder.mkdir(parents=True)
    with mounted(folder, "-t", "tmpfs", "-o", "size=1m,ro", "tmpfs"):
        with Run(draftgate, *CELL) as run:
            at = time.monotonic()
            code = run.end()
        heard, line = run.said("Read-only file system")
    assert "Traceback" not in run.text, run.text
    return Outcome(
        fault="results folder read-only",
        how="a tmpfs that is mounted read-only",
        said=line,
        code=code,
        orphans=orphans_of(draftgate),
        seconds=heard - at if line else None,
    )


def clock_stepped(draftgate: Draftgate) -> Outcome:
    """The wall clock goes an hour back and two days forth, by turns, for all Python code of the run."""
    with Run(draftgate, *CELL, "-p", "tests.engine.clock") as run:
        code = run.end()
    (path,) = draftgate.results.glob("*/acceptance/*.json")
    record = load(path, CellRecord)
    times = [value for r in record.prompts for value in (r.began_s, r.ttft_s, r.total_s)]
    sane = all(value is not None and 0 <= value < 120 for value in times)
    _, line = run.said(r"prompts in \d+ s")
    return Outcome(
        fault="clock stepped",
        how="`time.time` of the whole run jumps by -1 h and +48 h, back and forth",
        said=f"{line}; no restart, every time within the run" if sane and "anew" not in run.text else "",
        code=code,
        lost=lost([], draftgate.lines()) if finished(draftgate) else PROMPTS,
        orphans=orphans_of(draftgate),
    )


def two_runs(draftgate: Draftgate, cache: Path) -> Outcome:
    """Two runs at once on one results folder and one model cache, which is empty."""
    draftgate.env["DRAFTGATE_CACHE"] = str(cache)
    words = tuple("16" if word == LENGTH else word for word in CELL)
    with Run(draftgate, *words) as one, Run(draftgate, *words) as other:
        codes = [run.end(timeout=500) for run in (one, other)]
    runs = list(draftgate.results.glob("*/run.json"))
    whole = [
        len({r.prompt for r in load(path, CellRecord).prompts})
        for path in draftgate.results.glob("*/acceptance/*.json")
    ]
    models = [p for p in (cache / "models").iterdir() if p.is_dir()]
    return Outcome(
        fault="two runs at once",
        how="one results folder, one empty model cache",
        said=f"{len(runs)} runs, {len(models)} model in the cache, nothing half-made",
        code=max(codes),
        lost=2 * PROMPTS - sum(whole),
        orphans=orphans_of(draftgate),
    )


EXPECTED = {
    **dict.fromkeys(KILLED, (0, None)),
    "server killed while it starts": (1, 0),
    "port stolen": (1, None),
    "port stolen by a server": (1, None),
    "pytest killed": (-signal.SIGKILL, 0),
    "pytest and the supervisor killed": (-signal.SIGKILL, 0),
    "xdist worker killed": (1, 0),
    "disk full": (1, 0),
    "results folder read-only": (4, None),
    "clock stepped": (0, None),
    "two runs at once": (0, None),
}
"""Exit codes of the run that was hit, and of the one that went on with it."""


def wrong(outcome: Outcome) -> str:
    """What is not as it must be; empty where all is."""
    problems = []
    if (outcome.code, outcome.resumed) != EXPECTED.get(outcome.fault, (outcome.code, outcome.resumed)):
        problems.append(f"exit codes {outcome.code}, {outcome.resumed}: expected {EXPECTED[outcome.fault]}")
    if outcome.lost:
        problems.append(f"{outcome.lost} records lost")
    if outcome.orphans:
        problems.append(f"{outcome.orphans} processes left")
    if not outcome.said:
        problems.append("nothing was said")
    return "; ".join(problems)


FAULTS: dict[str, Callable[[Draftgate, Path], Outcome]] = {
    **{name: lambda d, _, name=name: server_hit(d, name) for name in KILLED},  # type: ignore[misc]
    "server killed while it starts": lambda d, _: killed_while_starting(d),
    "port stolen": lambda d, folder: port_stolen(d, folder, answers=False),
    "port stolen by a server": lambda d, folder: port_stolen(d, folder, answers=True),
    "pytest killed": lambda d, _: pytest_killed(d),
    "pytest and the supervisor killed": lambda d, _: all_killed(d),
    "xdist worker killed": lambda d, _: worker_killed(d),
    "disk full": lambda d, _: disk_full(d),
    "results folder read-only": lambda d, _: read_only(d),
    "clock stepped": lambda d, _: clock_stepped(d),
    "two runs at once": lambda d, folder: two_runs(d, folder / "cache"),
}
"""By name: given a draftgate whose results are a folder of its own, and a folder for what else is needed."""


def records_of(draftgate: Draftgate) -> list[dict[str, Any]]:
    """What must be the same in two measurements of one cell on one server, prompt by prompt."""
    fields = (
        "prompt", "repeat", "seed", "accepted", "drafted", "histogram", "draft_tokens", "undrafted",
        "prompt_hash", "output_tokens", "finish", "text", "text_hash",
    )  # fmt: skip
    (path,) = draftgate.results.glob("*/acceptance/*.json")
    return [{name: prompt[name] for name in fields} for prompt in json.loads(path.read_text())["prompts"]]


SERVED = ("xdist worker killed", "disk full", "results folder read-only", "clock stepped")
"""Faults that are the same on a server that runs already."""


def fresh(folder: Path, server: Server | None = None) -> Draftgate:
    """A draftgate whose lines are seen when they are printed, whole; on a server of its own, or this one."""
    draftgate = Draftgate(folder / "results", env={"PYTHONUNBUFFERED": "1", "COLUMNS": "400"})
    if server:
        draftgate.words = ("--server-url", server.url)
        draftgate.env["DRAFTGATE_API_KEY"] = server.key
    return draftgate
