"""Finds servers that outlived a killed run, and ends them when the next run starts.

For each server that runs, a note lies in the user's cache: the process that started it, and the session that
all the server's processes are in. When the process that started it is gone, the next run ends what is left.
It ends nothing else: a process must be in that session and carry the server's start id in its environment
(or have overwritten its environment, as vLLM's workers do when they set their title).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from pydantic import Field

from harness.engine.models import cache_folder
from harness.errors import BadInput, BadRecord
from harness.results.files import write_atomically
from harness.results.records import SCHEMA, Record, load
from harness.text.console import Say

MARK = "DRAFTGATE_SERVER"
"""The variable that every process of a server carries: its start id."""
_PATIENCE_S = 10.0


class Born(Record):
    """A process by its number and its birth. The system gives a number to another process later on."""

    pid: int = Field(gt=1)
    born: int
    """Clock ticks from the machine's start to its own. psutil tells the time of day, which may be set."""


class Note(Record):
    """A server, and the process that started it."""

    schema_: int = Field(alias="schema", default=SCHEMA)
    start_id: str = Field(min_length=8)
    label: str
    machine: str
    """This boot of this machine, and its process namespace: numbers mean nothing in another one."""
    owner: Born
    session: Born
    """The supervisor. It leads the session, which has its number."""


def folder() -> Path:
    """The folder of the notes."""
    return cache_folder() / "servers"


def note(*, start_id: str, label: str, session: int) -> Path | None:
    """Write a note about a server that was just started; None where that is not possible."""
    owner, supervisor, machine = _born(os.getpid()), _born(session), _machine()
    if owner is None or supervisor is None or machine is None:
        return None
    path = folder() / f"{start_id}.json"
    written = Note(start_id=start_id, label=label, machine=machine, owner=owner, session=supervisor)
    try:
        write_atomically(path, written.model_dump_json(by_alias=True) + "\n")
    except BadInput:  # a cache that cannot be written is no reason not to measure
        return None
    return path


def end_orphans(say: Say) -> None:
    """End every server whose owner is gone. Notes that cannot be read are passed over."""
    machine = _machine()
    notes: list[Path] = []
    with contextlib.suppress(OSError):  # a home that may not be entered: then nobody could leave a note there
        notes = sorted(folder().glob("*.json"))
    for path in notes:
        try:
            noted = load(path, Note)
        except BadRecord:  # another version's, or damaged: nothing in it can be relied on
            continue
        if noted.machine != machine:
            if machine and noted.machine.split()[0] != machine.split()[0]:  # before the machine started anew
                forget(path)
            continue
        if _born(noted.owner.pid) == noted.owner:
            continue
        ended = end(noted.session.pid, noted.start_id)
        if ended:
            say(
                f"draftgate: ended server {noted.label}, which an earlier run (process {noted.owner.pid}) "
                f"left running: {ended} process{'es' * (ended > 1)}"
            )
        forget(path)


def end(session: int, start_id: str) -> int:
    """Kill what is left of a server: the processes of its session that carry its start id.

    Returns:
        How many it killed.
    """
    found: set[int] = set()
    if session <= 1:  # no session of ours
        return 0
    deadline = time.monotonic() + _PATIENCE_S
    while (left := list(_members(session, start_id))) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        found.update(left)
        time.sleep(0.02)
    return len(found)


def forget(path: Path | None) -> None:
    """Remove the note of a server that has ended."""
    if path is not None:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _machine() -> str | None:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 - not a path, but `pid:[number]`
    except OSError:
        return None


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third one: state, parent, group, session. None if it ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return fields if fields and fields[0] not in "ZX" else None


def _born(pid: int) -> Born | None:
    fields = _stat(pid)
    return Born(pid=pid, born=int(fields[19])) if fields and pid > 1 else None


def _members(session: int, start_id: str) -> Iterator[int]:
    for pid in psutil.pids():
        fields = _stat(pid)
        if fields and fields[3] == str(session) and _carries(Path(f"/proc/{pid}"), start_id):
            yield pid


def _carries(process: Path, start_id: str) -> bool:
    try:
        environment, title = (process / "environ").read_bytes(), (process / "cmdline").read_bytes()
    except OSError:  # somebody else's
        return False
    if f"{MARK}={start_id}".encode() in environment.split(b"\0"):
        return True
    # vLLM writes the titles of its workers, like VLLM::EngineCore, over the first of their environment.
    overwritten = not environment or environment.startswith(b"\0")
    return overwritten and b"::" in title and f"{MARK}=".encode() not in environment
