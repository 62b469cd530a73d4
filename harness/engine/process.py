"""Runs a child process under the supervisor: its start, its end, and what its log says when it failed."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from harness.engine import supervisor
from harness.text.redaction import MOSTLY_RANDOM, without_keys

_TAIL_BYTES = 200_000
_QUOTED_LINES, _LINE_LENGTH, _LONGEST_REASON = 12, 300, 400
_DIED = "Worker proc"
_REASON = re.compile(
    rf"(?:^|\s)((?:[A-Za-z_][\w.]*)?(?:Error|Exception|Exit|error)\b: *\S.*|{_DIED} \S+ died .*)"
)
_CONSEQUENCES = ("root cause", "Engine process failed", "Executor failed")
"""Errors that only say that there was another one."""


def start(
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str],
    descriptors: Sequence[int] = (),
    folder: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start `command` under the supervisor, which ends it and all below it when this process is gone.

    Args:
        command: the program and its arguments.
        log: what it writes is added there.
        environment: the whole of it.
        descriptors: what else of our files it keeps open.
        folder: where it runs; ours by default.

    Returns:
        The supervisor; `stop` ends it.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-P", supervisor.__file__, *command],
            stdin=subprocess.PIPE,  # when it closes, however we end, the supervisor ends the command
            stdout=output,
            stderr=output,
            env=environment,
            pass_fds=descriptors,
            cwd=folder,
            start_new_session=True,  # Ctrl-C is for us: we end the command ourselves
        )


class Forked:
    """The supervisor of a forked server: as much of a `subprocess.Popen` as is asked for."""

    def __init__(self, pid: int, *, pipe: int, ended: int) -> None:
        """A supervisor that runs.

        Args:
            pid: its process id; it is no child of ours.
            pipe: when this is closed, it ends the server.
            ended: its exit code is read from here; when it was killed, nothing.
        """
        self.pid = pid
        self.returncode: int | None = None
        self.stdin = os.fdopen(pipe, "wb")
        self._ended = os.fdopen(ended, "rb", buffering=0)

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; the exit code.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        if self.returncode is None:
            if not select.select([self._ended], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("supervisor", timeout or 0)
            self.returncode = int(self._ended.read() or -signal.SIGKILL)
            self._ended.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it; its server then dies with it."""
        self.send_signal(signal.SIGKILL)


Supervisor = subprocess.Popen[bytes] | Forked


def stop(process: Supervisor) -> None:
    """End the supervisor and all below it: close its pipe, which asks; kill one that does not answer."""
    if process.stdin:
        process.stdin.close()
    process.send_signal(signal.SIGCONT)  # a supervisor that is frozen itself would end nobody
    try:
        process.wait(timeout=supervisor.GRACE_S + 10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def obituary(what: str, log: Path, *, begin: int = 0) -> str:
    """A message that says what happened, why, and quotes the end of the log.

    Args:
        what: happened: `server ngram-k4 died while loading (exit code 1)`.
        log: of the process.
        begin: the byte at which its part of the log begins.
    """
    lines = tail(log, begin=begin)
    quoted = "\n".join(f"  {line[:_LINE_LENGTH]}" for line in lines[-_QUOTED_LINES:])
    return f"{what}: {reason(lines)}\nthe end of {log}:\n{quoted}"


def tail(log: Path, *, begin: int = 0) -> list[str]:
    """The last lines of a log that are not blank; none where it cannot be read.

    A progress bar, which writes its line again and again, gives a line each time.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(begin, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return [line for line in without_keys(text, least=MOSTLY_RANDOM).splitlines() if line.strip()]


def processes_below(pid: int | None) -> tuple[dict[str, Any], ...]:
    """A process and those below it. The status of one that somebody froze is `stopped`."""
    found = []
    with contextlib.suppress(psutil.Error):
        family = [] if pid is None else [root := psutil.Process(pid), *root.children(recursive=True)]
        for process in family:
            with contextlib.suppress(psutil.Error):
                about = process.as_dict(["pid", "name", "status"])
                found.append({**about, "cpu_s": round(sum(process.cpu_times()[:2]), 1)})
    return tuple(found)


def memory_below(pid: int) -> float:
    """MiB of memory that a process and those below it take; what several share counts once."""
    total = 0
    for one in processes_below(pid):
        with contextlib.suppress(psutil.Error):
            total += psutil.Process(one["pid"]).memory_full_info().pss
    return round(total / 2**20, 1)


def with_error(what: str, log: Path | None) -> str:
    """What happened, and the last error in the log of the process, where there is one."""
    error = last_error(tail(log)) if log else None
    return f"{what}; the last error in its log: {error}" if error else what


def reason(lines: Sequence[str]) -> str:
    """The line of a log that says why: its last error, or its last line."""
    return last_error(lines) or (lines or ["it wrote nothing"])[-1][:_LONGEST_REASON]


def last_error(lines: Sequence[str]) -> str | None:
    """The last error of a log that is not just a consequence of another; None where there is no error.

    That a worker died is told where no error says why.
    """
    candidates = []
    for i, line in enumerate(lines):
        match = _REASON.search(line)
        if match:
            text = match[1].strip()
            if "validation error" in line and i + 1 < len(lines):
                text = re.sub(r"^\(.*?\)\s*", "", lines[i + 1].strip()) or text
            candidates.append(text)
    causes = [text for text in candidates if not any(other in text for other in _CONSEQUENCES)]
    errors = [text for text in causes if not text.startswith(_DIED)]
    found = errors or causes or candidates
    return found[-1][:_LONGEST_REASON] if found else None
