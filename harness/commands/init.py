"""The command `draftgate init`: a stack and the suites, in the current folder, to begin with."""

from __future__ import annotations

import argparse
import contextlib
import shutil
from pathlib import Path

from harness.config.shipped import DATA, SUITES
from harness.config.stack import DEFAULT_STACK, HERE, find_stack
from harness.errors import BadInput
from harness.provenance.hardware import environment
from harness.text.console import show

_ON_GPU = "smollm2-gpu"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the command's parser its options."""
    parser.description = (
        f"Write {HERE}, a copy of a shipped stack to name your model and drafters in, and {SUITES.name}/ "
        "into the current folder. `draftgate bench` and `pytest bench_suites` then measure that stack."
    )
    what = f"the stack to copy ({DEFAULT_STACK}; {_ON_GPU} where there is a GPU)"
    parser.add_argument("--stack", metavar="NAME|PATH", help=what)


def run(options: argparse.Namespace) -> int:
    """Write what is not there yet.

    Raises:
        BadInput: there is no such stack, a file would be overwritten, or the folder cannot be written.
    """
    name = options.stack or (_ON_GPU if environment().gpus else DEFAULT_STACK)
    source, folder = find_stack(name, DATA / "stacks"), Path(SUITES.name)
    for path in (HERE, folder):
        if path.exists():
            raise BadInput(
                f"{path} is there already, and nothing is overwritten: move it away, or use another folder",
                code="would-overwrite",
            )
    try:
        shutil.copyfile(source, HERE)
        shutil.copytree(SUITES, folder, ignore=shutil.ignore_patterns("__*"))
    except OSError as error:
        with contextlib.suppress(OSError):  # on a read-only file system, where nothing was written
            HERE.unlink(missing_ok=True)  # else the next try would find them there
        shutil.rmtree(folder, ignore_errors=True)
        why = error.strerror or error.args[0][0][2]  # shutil lists what happened to each file
        raise BadInput(f"cannot write into {Path.cwd()}: {why}", code="cannot-write") from None
    show(
        f"{HERE}: a copy of the stack {source.stem}; name your model and your drafters in it\n"
        f"{folder}/: the suites; pytest runs them without a conftest.py\n"
        "Next:\n"
        "  draftgate doctor                               # can this machine measure it?\n"
        "  draftgate bench --update-baselines-new-only    # once: measures, and keeps the baselines\n"
        "  draftgate bench                                # whenever something changed\n"
    )
    return 0
