"""The command `draftgate bench`: pytest on the suites that come with draftgate."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from itertools import takewhile

from harness.config.shipped import INSTALLED, PREFIX, SUITES
from harness.errors import BadInput


def suites() -> list[str]:
    """The names of the suites: `acceptance`, `load`, ..."""
    return sorted(file.stem.removeprefix("test_") for file in SUITES.glob("test_*.py"))


def command_line(words: Sequence[str]) -> list[str]:
    """The pytest that `draftgate bench WORDS` stands for."""
    known = suites()
    named = list(takewhile(known.__contains__, words))
    suites_of = f"{PREFIX}{SUITES.name}" if INSTALLED else str(SUITES)
    one = "{}.test_{}" if INSTALLED else "{}/test_{}.py"
    places = [one.format(suites_of, name) for name in named] or [suites_of]
    # Where pytest loads no plugins by itself it must be told: those that pytest knows by these names.
    alone = os.environ.get("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    plugins = [f"-p{name}" for name in ("draftgate", "benchmark", "xdist") if alone]
    # -P: a file or folder beside the user's stack, named like a module of ours, is not imported for it.
    return [sys.executable, "-P", "-m", "pytest", *plugins, "--pyargs", *places, *words[len(named) :]]


def run(words: Sequence[str]) -> int:
    """Become that pytest; Ctrl-C and every other signal reach it alone.

    Raises:
        BadInput: this interpreter may not be run again.
    """
    command = command_line(words)
    try:
        os.execv(command[0], command)  # noqa: S606
    except OSError as error:
        raise BadInput(f"cannot run {command[0]}: {error.strerror}", code="cannot-read") from None
