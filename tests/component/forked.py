"""`python -m MODULE` as a fork of a process that has imported our modules: a second sooner than a new one.

The fork has arguments, an environment, a folder and an end of its own. Tests whose subject is the start of an
interpreter, or that send signals, start a process instead.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import multiprocessing
import multiprocessing.context
import multiprocessing.forkserver
import os
import runpy
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from harness.plugin import DATA

_CONTEXT = multiprocessing.get_context("forkserver")
_IMPORTED = ("pytest", "pytest_benchmark.plugin", "xdist.plugin", "harness.plugin", "harness.workers",
             "harness.sharding", "fixtures.bench", "openai", "tests.component.forked")  # fmt: skip


@functools.cache
def _server() -> multiprocessing.context.ForkServerContext:
    """The process that is forked."""
    _CONTEXT.set_forkserver_preload(list(_IMPORTED))
    with contextlib.chdir(DATA.parent):  # it finds our modules there
        multiprocessing.forkserver.ensure_running()
    return _CONTEXT


def run(
    module: str,
    *words: str,
    output: Path,
    folder: Path = DATA.parent,
    environment: Mapping[str, str] = os.environ,
    timeout_s: float = 120,
    of_this_process: bool = False,
) -> tuple[int, str]:
    """Run it.

    Args:
        module: as `python -m` takes it.
        words: its arguments.
        output: a file for what it writes to both streams.
        folder: where it runs; without one, the root of the repository.
        environment: the whole of it, as far as it matters after the start of an interpreter.
        timeout_s: seconds that it may take.
        of_this_process: fork this process, with all that it has, rather than one that has our modules alone.

    Returns:
        Its exit code, and what it wrote.

    Raises:
        TimeoutError: it took longer, and was killed.
    """
    asked = (module, words, dict(environment), str(folder), str(output))
    context = multiprocessing.get_context("fork") if of_this_process else _server()
    process = context.Process(target=_become, args=asked)
    process.start()
    process.join(timeout_s)
    if process.is_alive():
        process.kill()
        raise TimeoutError(output.read_text(encoding="utf-8"))
    return process.exitcode or 0, output.read_text(encoding="utf-8")


def _become(
    module: str, words: tuple[str, ...], environment: Mapping[str, str], folder: str, output: str
) -> None:
    with Path(output).open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # a fork of pytest has its captured ones
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    # A shell that runs these tests in the background has Ctrl-C ignored, and would hand that down.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.path[:0] = [folder, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = [module, *words]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:  # as at the end of an interpreter
        threading._shutdown()
        atexit._run_exitfuncs()
