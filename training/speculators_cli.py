"""One command of speculators in a process of its own, its output in a log, ended whatever happens to us."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from harness.engine import supervisor
from harness.engine.server import reason
from training.errors import TrainingFailed

SPECULATORS: tuple[str, ...] = (sys.executable, "-P", "-m", "speculators")
"""Works where its packages are on PYTHONPATH and no console script is installed."""
POLL_S = 0.5
LAST_LINES = 12
_TAIL_BYTES = 65536


def run(
    words: Sequence[str],
    *,
    log: Path,
    watch: Callable[[], None] = lambda: None,
    environment: dict[str, str] | None = None,
) -> None:
    """Run `speculators WORDS` to its end.

    Args:
        words: the command and its arguments.
        log: what it writes is added there.
        watch: called twice a second while it runs; what it raises ends the command.
        environment: added to ours.

    Raises:
        TrainingFailed: it ended badly; the message quotes the end of its log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    began_at = log.stat().st_size if log.exists() else 0
    with _started([*SPECULATORS, *words], log, environment or {}) as process:
        while True:
            try:
                process.wait(timeout=POLL_S)
            except subprocess.TimeoutExpired:
                watch()
            else:
                break
    if process.returncode:
        lines = _tail(log, began_at)
        told = "\n".join(f"  {line[:300]}" for line in lines[-LAST_LINES:])
        raise TrainingFailed(
            f"speculators {words[0]} failed (exit code {process.returncode}): {reason(lines)}\n"
            f"the end of {log}:\n{told}"
        )


@contextlib.contextmanager
def _started(command: list[str], log: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", supervisor.__file__, *command],
            stdin=subprocess.PIPE,  # its end, however we end, is the supervisor's sign
            stdout=output,
            stderr=output,
            # Its progress bar is not read by anybody: a line now and then is enough for the log.
            env={**os.environ, "TQDM_MININTERVAL": "15", "PYTHONUNBUFFERED": "1", **environment},
            start_new_session=True,  # Ctrl-C is for us, who then end it
        )
    try:
        yield process
    finally:
        if process.stdin:
            process.stdin.close()
        try:
            process.wait(timeout=supervisor.GRACE_S + 10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _tail(log: Path, began_at: int) -> list[str]:
    with log.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(began_at, end - _TAIL_BYTES))
        text = file.read().decode("utf-8", errors="replace")
    return [line for line in text.replace("\r", "\n").strip().splitlines() if line.strip()]
