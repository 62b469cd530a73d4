"""Runs an engine, and ends it with all that it started once the process that asked for it is gone.

    python -m harness.engine.supervisor COMMAND ARG ...     with a pipe as standard input

It is a process of its own, so that it is still there after pytest got a SIGKILL, and imports the standard
library only. It ends the engine when its pipe closes. A parent-death signal would not be enough: it reaches
the engine's first process, but vLLM starts more.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

GRACE_S = 10.0
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def main(command: list[str]) -> int:
    """Run `command`; its exit code, or 128 + signal."""
    return supervise(lambda: _become(command))


def _become(command: list[str]) -> None:
    try:
        os.execvp(command[0], command)  # noqa: S606 - no shell is wanted
    except OSError as error:
        os.write(2, f"{command[0]} cannot be run: {error.strerror}\n".encode())
        os._exit(126)  # as a shell says it


def supervise(work: Callable[[], object]) -> int:
    """Fork, and let the child do `work`, which does not return; its exit code, or 128 + signal."""
    libc = ctypes.CDLL(None, use_errno=True)
    # Orphans of the engine become ours, so that none gets away by losing its parent.
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    asked_to_end = False

    def end(_signal: int, _frame: FrameType | None) -> None:
        nonlocal asked_to_end
        asked_to_end = True

    supervisor = os.getpid()
    pid = os.fork()
    if not pid:
        os.setpgid(0, 0)
        # Should this supervisor itself be killed, the engine goes too.
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != supervisor:  # it was killed already
            os._exit(1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        work()
        os._exit(1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, end)
    ended: dict[int, int] = {}
    while not asked_to_end and pid not in _reap(ended):
        readable, _, _ = select.select([0], [], [], 0.2)
        if readable and not os.read(0, 1):
            break
    _end_all(ended, patience_s=0 if pid in ended else GRACE_S)
    status = ended[pid] if pid in ended else os.waitpid(pid, 0)[1]
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _reap(ended: dict[int, int]) -> dict[int, int]:
    """Add the wait status of each child that has ended, orphans that became ours among them."""
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ended[found[0]] = found[1]
    return ended


def _end_all(ended: dict[int, int], *, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    _signal_all(signal.SIGTERM)
    _signal_all(signal.SIGCONT)  # a frozen one takes no signal but this one and SIGKILL
    while _descendants():
        if time.monotonic() >= deadline:
            _signal_all(signal.SIGKILL)
        _reap(ended)
        time.sleep(0.02)
    _reap(ended)


def _signal_all(number: signal.Signals) -> None:
    for pid in _descendants():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _descendants() -> list[int]:
    """Processes below this one that have not ended."""
    states: dict[int, str] = {}
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            states[pid := int(stat.parent.name)] = state
            children.setdefault(int(parent), []).append(pid)
    found = [os.getpid()]
    for pid in found:  # it grows meanwhile
        found += children.get(pid, [])
    return [pid for pid in found[1:] if states[pid] != "Z"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
