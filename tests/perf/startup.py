"""Where do the seconds of a server's start go?

    python -m tests.perf.startup [--stack smollm2-cpu] [--drafter none]

Starts a server three times as every test does (`harness.engine.server.running`: a supervisor, below it vLLM's
API server, below that its engine core, below that, on some platforms, a worker): anew; as the first fork of a
process that imports vLLM for it; as the second fork. Where the engine is not forked, the three are alike.

The moment of a log line is when it appeared in the file (looked at every 20 ms; its own stamp has whole
seconds and only serves as a check); the birth of a process comes from the process table (10 ms).

How to read the tables:
    phase           what ends at the moment in `until`; phases follow each other without gaps, so that they
                    sum to the start. A phase whose end left no trace (a GPU engine's worker is no process of
                    its own) is joined to the next by `+`.
    until, seconds  since the supervisor was started; of the phase alone.
    CPU s           processor time of all processes of the server in that phase (looked at every 100 ms). Far
                    below `seconds`: it waited, or other programs had the cores. Above: several threads ran.
    process         born: since the supervisor was started. silent: from then to its first log line, which is
                    its imports. CPU s: until the server was ready.

`ready` in the heading is what `harness.engine.server` reports (`started_s`). What comes before it (looking
for vLLM, checking the model's hashes) is told in a line of its own. The last phase has up to 0.25 s of
waiting in it: the pause between two questions for /health.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import datetime as dt
import re
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import psutil
from tabulate import tabulate

from harness.config.cells import server_spec
from harness.engine import supervisor
from harness.engine.server import Server, running
from harness.errors import ServerFailed
from tests import perf

LOOK_S, SCAN_S = 0.02, 0.1
_SPEAKER = re.compile(r"^\((\w+?)(?:[-_]?(?:DP|TP|PP|EP)?\d[\w-]*)? pid=(\d+)\)")
_STAMP = re.compile(r"\b(\d\d-\d\d \d\d:\d\d:\d\d)\b")


@dataclasses.dataclass
class Process:
    """One process of the server."""

    pid: int
    born: float
    cpu_s: float = 0.0


class Watch:
    """Looks at the log and the process table of a server that starts. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        """Watches the first log that appears in `folder`."""
        self._folder = folder
        self._old = {child.pid for child in psutil.Process().children(recursive=True)}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._rest = b""
        self._read = 0
        self.top: psutil.Process | None = None
        """The first process of this start: its supervisor, or that of the fork server."""
        self.began: float | None = None
        """When it was first seen, 20 ms after its birth at most."""
        self.lines: list[tuple[float, str]] = []
        self.processes: dict[int, Process] = {}
        self.cpu: list[tuple[float, float]] = []
        """Moment and processor time of all processes until then."""

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def stop(self) -> None:
        """Look once more, then no more."""
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        scanned = 0.0
        while not self._end.wait(LOOK_S):
            if self.top is None:
                self._find()
                continue
            self._look()
            if time.time() - scanned > SCAN_S:
                scanned = time.time()
                self._scan(self.top)
        if self.top is not None:
            self._look()
            self._scan(self.top)

    def _find(self) -> None:
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                ours = supervisor.__file__ in (words := child.cmdline()) or "supervisor" in words[:2]
                if ours and child.pid not in self._old and self.top is None:
                    self.began, self.top = time.time(), child

    def _look(self) -> None:
        for log in self._folder.glob("*.log"):
            with log.open("rb") as file:
                file.seek(self._read)
                fresh = file.read()
            self._read += len(fresh)
            *whole, self._rest = (self._rest + fresh).split(b"\n")
            now = time.time()
            self.lines += [(now, line.decode("utf-8", errors="replace")) for line in whole]
            return

    def _scan(self, top: psutil.Process) -> None:
        began = self.began or 0.0
        with contextlib.suppress(psutil.Error):
            # create_time() counts from the boot in whole seconds: only differences of it are exact.
            for process in [top, *top.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    known = self.processes.setdefault(
                        process.pid,
                        Process(process.pid, began + process.create_time() - top.create_time()),
                    )
                    times = process.cpu_times()
                    known.cpu_s = times.user + times.system
        self.cpu.append((time.time(), sum(p.cpu_s for p in self.processes.values())))

    def cpu_at(self, moment: float) -> float:
        """Processor seconds of all processes until `moment`, interpolated."""
        place = bisect.bisect(self.cpu, (moment, float("inf")))
        if place == 0 or place == len(self.cpu):
            return self.cpu[-1][1] if place and self.cpu else 0.0
        (t0, c0), (t1, c1) = self.cpu[place - 1], self.cpu[place]
        return c0 + (c1 - c0) * (moment - t0) / (t1 - t0)

    def said(self, pattern: str, *, last: bool = False) -> float | None:
        """When a line with `pattern` appeared first (or last)."""
        found = [moment for moment, line in self.lines if re.search(pattern, line)]
        return found[-1 if last else 0] if found else None

    def speakers(self) -> dict[str, tuple[int, float]]:
        """Process id and moment of the first line, by the role that vLLM puts in front of its lines."""
        found: dict[str, tuple[int, float]] = {}
        pids: set[int] = set()
        for moment, line in self.lines:
            speaker = _SPEAKER.match(line)
            if speaker and int(speaker[2]) not in pids:
                pids.add(int(speaker[2]))
                found.setdefault(speaker[1].removeprefix("Vllm"), (int(speaker[2]), moment))
        return found

    def lag_s(self) -> float | None:
        """The most that a line appeared after its own stamp, whose second has just begun."""
        lags = []
        for moment, line in self.lines:
            stamp = _STAMP.search(line[:120]) if _SPEAKER.match(line) else None
            if stamp:
                local = dt.datetime.fromtimestamp(moment)  # noqa: DTZ006 - vLLM's stamps are local time
                told = dt.datetime.strptime(f"{local.year}-{stamp[1]}", "%Y-%m-%d %H:%M:%S")  # noqa: DTZ007
                lags.append((local - told).total_seconds())
        return max(lags) if lags else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of the start; moments in seconds since the supervisor was started."""

    name: str
    until: float
    seconds: float
    cpu_s: float


def marks(watch: Watch, ready: float, supervised: int | None) -> list[tuple[str, float | None]]:
    """The phases in their order and when each ended; None where that left no trace.

    `supervised` is the process id of the server's supervisor.
    """
    speakers = watch.speakers()

    def birth(role: str) -> float | None:
        known = watch.processes.get(speakers[role][0]) if role in speakers else None
        return known.born if known else None

    def first(role: str) -> float | None:
        return speakers[role][1] if role in speakers else None

    top = watch.top.pid if watch.top else None
    ours = watch.processes.get(supervised) if supervised and supervised != top else None
    return [
        *([("fork server: imports", ours.born)] if ours else []),
        ("supervisor: its interpreter", birth("APIServer")),
        ("API server: imports, arguments", first("APIServer")),
        ("API server: model and engine configuration", birth("EngineCore")),
        ("engine core: imports", first("EngineCore")),
        ("engine core: executor", birth("Worker")),
        ("worker: imports", first("Worker")),
        ("worker: device, process group", watch.said("Starting to load model")),
        ("worker: weights", watch.said("Loading weights took", last=True)),
        ("worker: memory for the KV cache found", watch.said("KV cache size", last=True)),
        ("worker: KV cache made, warm-up", watch.said(r"init engine \(profile", last=True)),
        ("API server: tokenizer, routes", watch.said("Application startup complete")),
        ("first answer of /health", ready),
    ]


def phases(
    found: Sequence[tuple[str, float | None]], *, began: float, cpu_at: Callable[[float], float]
) -> list[Phase]:
    """Stretches without gaps from `began` to the last mark; one without an end joins the next."""
    done: list[Phase] = []
    names: list[str] = []
    last = began
    for name, end in found:
        names.append(name)
        if end is None:
            continue
        until = max(end, last)
        done.append(
            Phase(
                name=" + ".join(names),
                until=until - began,
                seconds=until - last,
                cpu_s=cpu_at(until) - cpu_at(last),
            )
        )
        names, last = [], until
    return done


def report(server: Server, watch: Watch, *, asked: float, ready: float) -> dict[str, Any]:
    """Print the tables; the figures.

    Raises:
        ServerFailed: the start was not seen.
    """
    if watch.began is None:
        raise ServerFailed("the supervisor was not seen in the process table: nothing can be told")
    began, total = watch.began, ready - watch.began
    found = phases(marks(watch, ready, server.pid), began=began, cpu_at=watch.cpu_at)
    print(
        f"{server.spec.stack}, {server.spec.label}, vLLM {server.version}: ready in {total:.2f} s "
        f"(harness.server says {server.started_s})"
    )
    print(f"and {began - asked:.2f} s before that, to look at the engine and to check the model's hashes")
    rows = [
        (p.name, f"{p.until:.2f}", f"{p.seconds:.2f}", f"{100 * p.seconds / total:.1f} %", f"{p.cpu_s:.2f}")
        for p in found
    ]
    seconds, cpu_s = sum(p.seconds for p in found), sum(p.cpu_s for p in found)
    rows.append(("sum", "", f"{seconds:.2f}", f"{100 * seconds / total:.1f} %", f"{cpu_s:.2f}"))
    align = ("left", "right", "right", "right", "right")
    headers = ["phase", "until", "seconds", "share", "CPU s"]
    print(tabulate(rows, headers=headers, disable_numparse=True, colalign=align))
    print()
    roles = {pid: (role, moment) for role, (pid, moment) in watch.speakers().items()}
    processes = []
    for process in sorted(watch.processes.values(), key=lambda p: p.born):
        role, spoke = roles.get(process.pid, ("", None))
        processes.append(
            {
                "process": role or ("supervisor" if process.pid == server.pid else "other"),
                "born_s": round(max(0.0, process.born - began), 2),
                "silent_s": round(spoke - process.born, 2) if spoke is not None else None,
                "cpu_s": round(process.cpu_s, 2),
            }
        )
    print(
        tabulate(
            [["—" if value is None else str(value) for value in p.values()] for p in processes],
            headers=["process", "born", "silent", "CPU s"],
            disable_numparse=True,
            colalign=align[:4],
        )
    )
    lag = watch.lag_s()
    if lag is not None and lag > 1.5:
        print(
            f"a log line appeared {lag:.1f} s after its own stamp (whose resolution is 1 s): "
            "the phases' ends are that vague"
        )
    if server.started_s is None or abs(total - server.started_s) > 0.25:
        print(f"the two measured start times differ: {total:.2f} s here, {server.started_s} s by the server")
    return {
        "stack": server.spec.stack,
        "drafter": server.spec.label,
        "engine": server.version,
        "total_s": round(total, 3),
        "started_s": server.started_s,
        "before_s": round(began - asked, 3),
        "lag_s": round(lag, 2) if lag is not None else None,
        "phases": [
            {
                "phase": p.name,
                "seconds": round(p.seconds, 3),
                "share": round(p.seconds / total, 4),
                "cpu_s": round(p.cpu_s, 2),
            }
            for p in found
        ],
        "processes": processes,
    }


def main(words: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    given = perf.options("startup", __doc__).parse_args(words)

    def job() -> dict[str, Any]:
        stack = perf.load(given.stack)
        drafter, k = perf.drafter_of(stack, given.drafter)
        spec = server_spec(stack, drafter, k)
        found = {}
        for name, fork in (("anew", False), ("first fork", stack.engine.fork), ("fork", stack.engine.fork)):
            folder = perf.new_folder(given.results, "startup")
            asked = time.time()
            with (
                Watch(folder) as watch,
                running(dataclasses.replace(spec, fork=fork), folder=folder, say=perf.say) as server,
            ):
                ready = time.time()
                watch.stop()
            print(f"{name}: ", end="")
            found[name] = report(server, watch, asked=asked, ready=ready)
        return found

    return perf.carry_out(job)


if __name__ == "__main__":
    sys.exit(main())
