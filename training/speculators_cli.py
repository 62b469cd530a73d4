"""Runs a command of speculators."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from training import program

SPECULATORS: tuple[str, ...] = (sys.executable, "-P", "-m", "speculators")
"""Also works where no console script is installed."""


def run(
    words: Sequence[str],
    *,
    log: Path,
    watch: Callable[[], None] = lambda: None,
    environment: dict[str, str] | None = None,
) -> None:
    """Run `speculators WORDS` to its end; see `training.program.run`.

    Raises:
        TrainingFailed: it failed; the message quotes the end of its log.
    """
    what = f"speculators {words[0]}"
    program.run([*SPECULATORS, *words], what=what, log=log, watch=watch, environment=environment)
