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
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

GRACE_S = 10.0
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def main(command: list[str]) -> int:
    """Run `command`; its exit code, or 128 + signal."""
    libc = ctypes.CDLL(None, use_errno=True)
    # Orphans of the engine become ours, so that none gets away by losing its parent.
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    asked_to_end = False

    def end(_signal: int, _frame: FrameType | None) -> None:
        nonlocal asked_to_end
        asked_to_end = True

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, end)
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        process_group=0,
        # Should this supervisor itself be killed, the engine goes too.
        preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),  # noqa: PLW1509
    )
    while process.poll() is None and not asked_to_end:
        readable, _, _ = select.select([sys.stdin], [], [], 0.2)
        if readable and not os.read(sys.stdin.fileno(), 1):
            break
    _end_all(process, patience_s=GRACE_S if process.poll() is None else 0)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def _end_all(process: subprocess.Popen[bytes], *, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    _signal_all(process, signal.SIGTERM)
    _signal_all(process, signal.SIGCONT)  # a frozen one takes no signal but this one and SIGKILL
    while _descendants():
        if time.monotonic() >= deadline:
            _signal_all(process, signal.SIGKILL)
        process.poll()
        time.sleep(0.02)
    process.wait()
    with contextlib.suppress(ChildProcessError):  # orphans that became ours: leave no zombies behind
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _signal_all(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    for pid in _descendants():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    process.poll()


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
