"""Watches a server and notices when it hangs: by its counters and its requests in flight, never by its log.

A server has stalled when one of three things happened:
- It had work, and for `stall_seconds` neither generated tokens nor prompt tokens nor KV-cache use moved. Work
  is our own requests in flight; where others send the requests, those that the server says run or wait. Of
  several engines (data parallelism) each is looked at: one hangs while the others work.
- For `stall_seconds` its /metrics gave no answer, and its /health did not say that it is well.
- Its process ended.
vLLM counts a prompt's tokens only with its first output token, so a long prefill shows in KV-cache use alone.

    with guarded(server, stall_seconds=180) as guard:
        ...                     # use the server, perhaps from another program
    if guard.stalled:           # then the evidence is written, and the server is stopped
        print(guard.stalled.reason, guard.stalled.evidence)
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from harness.engine import metrics
from harness.engine.http import Http, NoAnswer
from harness.engine.metrics import Load
from harness.engine.process import processes_below, tail, with_error
from harness.engine.server import Server, unhealthy
from harness.errors import BadInput, ServerFailed
from harness.results.files import write_atomically
from harness.results.records import SCHEMA, Record, load
from harness.text.numbers import numbered
from harness.text.redaction import MOSTLY_RANDOM, without_keys

STALL_SECONDS = 180
MOST_STALLS = 3
"""After so many stalls nobody starts the server again."""
_READINGS, _LOG_LINES = 200, 200
_WORK = ("running", "waiting", "generated", "prompted", "kv_usage")
_SEEN = (*_WORK, "started", "engines")
"""What a pulse takes from the counters."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pulse:
    """One reading of a server."""

    time: float
    """Seconds of a monotonic clock."""
    running: int = 0
    waiting: int = 0
    generated: int = 0
    prompted: int = 0
    kv_usage: float = 0.0
    started: float = 0.0
    """When the server began. Another value means another server, with other counters."""
    engines: tuple[Load, ...] = ()
    unreachable: str | None = None
    """Why there is no reading."""
    well: bool = False
    """There is no reading, but the server says that it is well."""
    dead: str | None = None
    """How the server's process ended."""

    @property
    def loads(self) -> dict[str, Load]:
        """Of each engine by its name, and of the whole server by an empty one."""
        whole = {name: getattr(self, name) for name in _WORK}
        return {load.engine: load for load in (Load(engine="", **whole), *self.engines)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stall:
    """A server that has work and does nothing (still), does not answer (silent), or has died (dead)."""

    kind: Literal["still", "silent", "dead"]
    reason: str
    """A sentence without a full stop."""
    evidence: Path | None = None
    """The file with the evidence; None where it could not be written."""


class Watch:
    """Takes readings and finds the stall in them. Pure: the readings bring their own time."""

    def __init__(self, stall_seconds: float) -> None:
        """No reading yet."""
        self.stall_seconds = stall_seconds
        self.answer: Pulse | None = None
        """The last reading that the server answered."""
        self.busy = False
        """Whether it had work then."""
        self.still_s = 0.0
        """How long it, or one of its engines, has had work and nothing moved."""
        self.blind = False
        """Whether it says that it is well, but shows no counters."""
        self.silent_s = 0.0
        """How long it has not answered."""
        self._last: float | None = None
        self._still: dict[str, float] = {}
        """The same of each engine with work by its name, and of the whole server by an empty one."""
        self._moving: dict[str, tuple[object, ...]] = {}
        """What moves while they work."""

    def see(self, pulse: Pulse, *, in_flight: int | None = None) -> Stall | None:
        """Take a reading; `in_flight` counts our own requests, None where others send them."""
        passed = 0.0 if self._last is None else pulse.time - self._last
        self._last = pulse.time
        # A longer gap means that we slept (a suspended machine, Ctrl-Z). The server may have slept too.
        passed = min(max(passed, 0.0), self.stall_seconds / 2)
        if pulse.dead is not None:
            return Stall(kind="dead", reason=pulse.dead)
        self.blind = pulse.well
        if pulse.unreachable is not None:
            self.silent_s = 0.0 if pulse.well else self.silent_s + passed
            if self.busy and not pulse.well:
                self._still = {name: still_s + passed for name, still_s in self._still.items()}
                self.still_s += passed
            if self.silent_s < self.stall_seconds:
                return None
            return Stall(kind="silent", reason=f"{pulse.unreachable}, for {self.silent_s:.0f} s")
        self.silent_s = 0.0
        busy = in_flight > 0 if in_flight is not None else pulse.running + pulse.waiting > 0
        loads = pulse.loads
        moving: dict[str, tuple[object, ...]] = {
            name: (pulse.started, of.generated, of.prompted, of.kv_usage)
            for name, of in loads.items()
            if busy and (not name or of.running + of.waiting)
        }
        # Work that came after the last reading has waited for less than the time between them.
        self._still = {
            name: self._still[name] + passed if self._moving.get(name) == now else 0.0
            for name, now in moving.items()
        }
        self.answer, self.busy, self._moving = pulse, busy, moving
        self.still_s, name = max(
            ((still_s, name) for name, still_s in self._still.items()), default=(0.0, "")
        )
        if self.still_s < self.stall_seconds:
            return None
        at = loads[name]
        work = f"{at.running} requests running and {at.waiting} waiting"
        if name:
            work = f"engine {name} has {work}"
        elif in_flight is not None:
            work = f"{numbered(in_flight, 'request')} in flight"
        return Stall(
            kind="still",
            reason=f"{work}, but for {self.still_s:.0f} s no token was read or made, and KV-cache use stood "
            f"at {at.kv_usage:.1%}",
        )


class Evidence(Record):
    """What we know of a server that stalled: `<server>-<start id>.stall.json` beside its log."""

    schema_: int = Field(alias="schema", default=SCHEMA)
    at: str
    url: str
    kind: str
    reason: str
    note: str
    """What the server was used for: the cell, the stage."""
    processes: tuple[dict[str, Any], ...]
    """The server's processes and their state; empty where they are not ours."""
    readings: tuple[dict[str, Any], ...]
    """The last readings; `time` is seconds before the stall was found."""
    log: tuple[str, ...]
    """The last lines of the server's log."""
    metrics: tuple[str, ...]
    """The last /metrics page that the server answered."""


class Guard:
    """Watches one server: at each `read`."""

    def __init__(
        self,
        asked: Http,
        *,
        stall_seconds: float,
        evidence: Path,
        interval: float | None = None,
        in_flight: Callable[[], int] | None = None,
        on_stall: Callable[[Stall], None] | None = None,
        server: Server | None = None,
        note: str = "",
    ) -> None:
        """A guard that has read nothing yet. Most callers need `guarded`; it explains the arguments."""
        self.watch, self.on_stall = Watch(stall_seconds), on_stall
        self.interval = interval or min(10.0, stall_seconds / 8)
        self.stalled: Stall | None = None
        self._asked = asked
        self._evidence, self._in_flight, self._server, self._note = evidence, in_flight, server, note
        self._timeout_s = min(10.0, max(1.0, stall_seconds / 4))
        self._page = ""
        self._readings: deque[dict[str, Any]] = deque(maxlen=_READINGS)
        self._lock = threading.Lock()

    def read_until(self, over: threading.Event) -> None:
        """Take a reading in every `interval`, until a stall or until it is over."""
        due = 0.0
        while not over.wait(min(self.interval, 0.5)):
            if self._ended() or time.monotonic() >= due:
                if self.read():
                    return
                due = time.monotonic() + self.interval

    def read(self) -> Stall | None:
        """Take one reading; the stall that it shows. When this returns, a stalled server has been stopped."""
        pulse = self._pulse()
        in_flight = self._in_flight() if self._in_flight else None
        self._readings.append({**dataclasses.asdict(pulse), "in_flight": in_flight})
        stall = self.watch.see(pulse, in_flight=in_flight)
        return self._report(stall) if stall else None

    def look(self) -> Stall | None:
        """Find out, after a failed request, whether the server has died. Then nobody need wait for a stall.

        Raises:
            TimeoutError: the server does not say. Ask again until it does, or has stalled.
        """
        dead = None if self.stalled else self._ended() or unhealthy(self._asked)
        return self._report(Stall(kind="dead", reason=dead)) if dead else self.stalled

    def _ended(self) -> str | None:
        return self._server.ended() if self._server else None

    def _pulse(self) -> Pulse:
        dead = self._ended()
        if dead:
            return Pulse(time=time.monotonic(), dead=dead)
        try:
            page = metrics.page_of(self._asked, timeout_s=self._timeout_s)
            seen = metrics.parse(page)
        except ServerFailed as error:
            return Pulse(time=time.monotonic(), unreachable=str(error), well=self._well())
        self._page = page
        return Pulse(time=time.monotonic(), **{name: getattr(seen, name) for name in _SEEN})

    def _well(self) -> bool:
        """Whether the server itself says so; one that shows no /metrics need not show /health."""
        try:
            self._asked.text("/health", timeout_s=self._timeout_s)
        except NoAnswer as error:
            shows_none = self._server is not None and not self._server.counts
            return shows_none and error.status is not None and error.status < 500  # noqa: PLR2004
        return True

    def _report(self, stall: Stall) -> Stall:
        with self._lock:
            if self.stalled:  # another thread was first
                return self.stalled
            if stall.kind == "dead" and self._server:
                stall = dataclasses.replace(stall, reason=with_error(stall.reason, self._server.log))
            self.stalled = stall = dataclasses.replace(stall, evidence=self._keep(stall))
        try:
            if self.on_stall:
                self.on_stall(stall)
        finally:
            if self._server:
                self._server.stop()
        return stall

    def _keep(self, stall: Stall) -> Path | None:
        now, log = time.monotonic(), self._server.log if self._server else None
        evidence = Evidence(
            at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            url=self._asked.url,
            kind=stall.kind,
            reason=stall.reason,
            note=self._note,
            processes=processes_below(self._server.pid if self._server else None),
            readings=tuple(
                {**reading, "time": round(reading["time"] - now, 1)} for reading in self._readings
            ),
            log=tuple(tail(log)[-_LOG_LINES:]) if log else (),
            metrics=tuple(without_keys(self._page, least=MOSTLY_RANDOM).splitlines()),
        )
        try:
            write_atomically(self._evidence, evidence.model_dump_json(by_alias=True, indent=1) + "\n")
        except BadInput:  # the disk is full; the server must be stopped all the same
            return None
        return self._evidence


@contextlib.contextmanager
def guarded(
    server: Server,
    *,
    stall_seconds: float = STALL_SECONDS,
    in_flight: Callable[[], int] | None = None,
    on_stall: Callable[[Stall], None] | None = None,
    folder: Path | None = None,
    note: str = "",
) -> Iterator[Guard]:
    """Watch `server` while the block runs, from a thread.

    On a stall the guard writes the evidence, sets `guard.stalled`, calls `on_stall`, and stops the server
    with all its processes, in this order. Requests in flight fail then. The caller may start the server anew.
    A server that we only attached to is not stopped.

    Args:
        server: from `harness.engine.server.running` or `attach`.
        stall_seconds: how long it may have work and do nothing.
        in_flight: counts our own requests; None where another program sends them. Then the server has work
            while it says that requests run or wait.
        on_stall: called once, in the watching thread.
        folder: the evidence goes there; by default beside the log.
        note: what the server is used for, for the evidence.
    """
    folder = folder or (server.log.parent if server.log else Path())
    guard = Guard(
        server.http,
        stall_seconds=stall_seconds,
        evidence=folder / f"{server.spec.label}-{server.start_id}.stall.json",
        in_flight=in_flight,
        on_stall=on_stall,
        server=server,
        note=note,
    )
    over = threading.Event()
    thread = threading.Thread(
        target=guard.read_until, args=(over,), name=f"watchdog of {server.url}", daemon=True
    )
    thread.start()
    try:
        yield guard
    finally:
        over.set()
        thread.join()  # then a server that stalled has been stopped


def stalls_in(folder: Path, note: str) -> list[str]:
    """The reasons of the stalls with this `note` that `folder` has evidence of, oldest first.

    Raises:
        BadRecord: a file of evidence cannot be trusted.
    """
    found = [load(path, Evidence) for path in folder.glob("*.stall.json")]
    return [e.reason for e in sorted(found, key=lambda e: e.at) if e.note == note]
