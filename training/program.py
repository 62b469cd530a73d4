"""Runs a program, or a command of speculators, in a process of its own, which never outlives this one."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.engine import process
from harness.engine.http import without_proxy
from training.errors import TrainingStopped

POLL_S = 0.5
SPECULATORS: tuple[str, ...] = (sys.executable, "-P", "-m", "speculators")
"""Also works where no console script is installed."""


def run(
    command: Sequence[str],
    *,
    what: str,
    log: Path,
    watch: Callable[[], None] = lambda: None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> None:
    """Run a program to its end.

    Args:
        command: the program and its arguments.
        what: it is called in a message.
        log: what it writes is added there.
        watch: called twice a second while it runs; what it raises ends the program.
        environment: added to ours.
        folder: where it runs; ours by default.

    Raises:
        TrainingFailed: it failed; the message quotes the end of its log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    began_at = log.stat().st_size if log.exists() else 0
    child = process.start(
        command,
        log=log,
        # For the log, a line of a progress bar every 15 s is enough.
        environment={
            **os.environ,
            **without_proxy(os.environ),
            "TQDM_MININTERVAL": "15",
            "PYTHONUNBUFFERED": "1",
            **(environment or {}),
        },
        folder=folder,
    )
    try:
        while child.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=POLL_S)
                break
            watch()
    finally:
        process.stop(child)
    if child.returncode:
        failed = f"{what} failed (exit code {child.returncode})"
        raise TrainingStopped(process.obituary(failed, log, begin=began_at))


def speculators(words: Sequence[str], **how: Any) -> None:
    """Run `speculators WORDS` to its end; see `run`.

    Raises:
        TrainingFailed: it failed; the message quotes the end of its log.
    """
    run([*SPECULATORS, *words], what=f"speculators {words[0]}", **how)
