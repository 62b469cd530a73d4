"""Real vLLM CPU engines, one at a time, shared by all tests that ask for the same one."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from harness.config.cells import Cell, server_spec
from harness.config.prompts import load_prompts
from harness.config.stack import Profile, Sampling, Stack, find_stack, load_stack
from harness.engine.orphans import MARK
from harness.engine.server import Server, running
from harness.measure.measurement import Measurement
from harness.plugin import DATA
from harness.results.names import Thinking
from harness.results.records import CellName, CellRecord
from tests.component import forked

ROOT = Path(__file__).resolve().parents[2]
NGRAM = pytest.mark.parametrize("engine", [("ngram", 4, "1")], indirect=True, ids=["ngram-k4"])
"""Asks for the server that drafts with ngram. One mark for all: pytest compares parameters by `is`."""


@pytest.fixture(scope="session", autouse=True)
def nothing_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No process that a test started outlives the tests: no engine, no supervisor, no run, no trainer."""
    folder = tmp_path_factory.getbasetemp()
    yield
    deadline = time.monotonic() + 15
    while (left := [*engines_of(folder), *named(folder)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


@pytest.fixture(scope="session")
def stack() -> Stack:
    """The default stack; on the vLLM of another interpreter where DRAFTGATE_TEST_ENGINE names one."""
    stack = load_stack(find_stack("smollm2-cpu", DATA / "stacks"))
    python = os.environ.get("DRAFTGATE_TEST_ENGINE")
    return stack.model_copy(update={"engine": stack.engine.model_copy(update={"python": python})})


@pytest.fixture(scope="session")
def engine(
    request: pytest.FixtureRequest, stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server for (drafter, k, patch), started once for all tests that want it, ended before the next."""
    drafter, k, patch = request.param
    spec = server_spec(stack, stack.drafters[drafter], k)
    with running(spec, folder=tmp_path_factory.mktemp("server"), say=print, patch=patch) as server:
        yield server


@pytest.fixture
def record_of(engine: Server, tmp_path: Path) -> Callable[..., CellRecord]:
    """Measures one cell on the engine, through the code that the suites use."""

    def measured(
        *,
        prompts: int = 4,
        after: int = 0,
        max_tokens: int = 24,
        temperature: float = 0.0,
        concurrency: int = 1,
        endpoint: str = "chat",
        language: str = "en",
        warmups: int = 0,
        server: Server = engine,
        seed: int = 0,
        folder: str = "cells",
        profile_name: str = "test",
        thinking: Thinking | None = None,
    ) -> CellRecord:
        spec = server.spec
        profile = Profile(
            prompts=prompts,
            max_tokens=max_tokens,
            concurrency=concurrency,
            warmups=warmups,
            sampling=Sampling(temperature=temperature),
        )
        name = CellName(
            endpoint=endpoint, language=language, workload="instruct", drafter=spec.drafter, k=spec.k,
            thinking=thinking,
        )  # fmt: skip
        measurement = Measurement(
            server=server,
            cell=Cell(name=name, spec=spec, profile_name=profile_name, profile=profile),
            suite="acceptance",
            prompts=load_prompts(DATA / "prompts", "instruct", language, at_most=prompts, after=after),
            warmups=load_prompts(DATA / "prompts", "warmup", language, at_most=1),
            repeats=1,
            seed=seed,
            timed=True,
            folder=tmp_path / folder,
            progress=lambda *_: None,
        )
        measurement.prepare()
        measurement.one_pass(0)
        return measurement.finish()

    return measured


class Draftgate:
    """`pytest bench_suites` as a user runs it: `start` in a new process, `run` in a fork of this one.

    A fork need not import vLLM again: it asks the fork server that the tests have started.
    """

    def __init__(
        self, results: Path, *, words: tuple[str, ...] = (), env: dict[str, str] | None = None
    ) -> None:
        self.results, self.words, self.env = results, words, env or {}

    def arguments(self, *words: str) -> list[str]:
        return ["-p", "no:cacheprovider", "bench_suites", "--results", str(self.results), *self.words, *words]

    def run(self, *words: str, env: dict[str, str] | None = None) -> tuple[int, str]:
        """Exit code and output."""
        self.results.parent.mkdir(parents=True, exist_ok=True)
        return forked.run(
            "pytest", *self.arguments(*words), output=self.results.with_suffix(".txt"),
            environment={**os.environ, **self.env, **(env or {})}, timeout_s=900, of_this_process=True,
        )  # fmt: skip

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "pytest", *self.arguments(*words)],
            cwd=ROOT,
            env={**os.environ, **self.env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A shell that runs these tests in the background has Ctrl-C ignored, and would hand that down.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )

    def lines(self) -> list[dict[str, object]]:
        """Prompt records that are on disk, in whatever cell."""
        found = []
        for path in sorted(self.results.glob("*/acceptance/*.jsonl")):
            whole = path.read_text().rpartition("\n")[0]
            found += [json.loads(line) for line in whole.splitlines()[1:]]
        return found


@pytest.fixture
def draftgate(tmp_path: Path) -> Draftgate:
    return Draftgate(tmp_path / "results")


def family_of(pid: int) -> list[psutil.Process]:
    """All that a process has started, and what these have."""
    return psutil.Process(pid).children(recursive=True)


def running_of(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended."""
    found = []
    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def engines_of(results: Path) -> list[psutil.Process]:
    """Processes of engines that runs in `results` started, however they lost their parent.

    By the start id that they carry, and by the numbers that stand in the engine's log: vLLM writes the titles
    of its workers over their environment.
    """
    logs = list(results.rglob("*.log"))
    started = {log.stem.rpartition("-")[2] for log in logs}
    logged = {
        int(number)
        for log in logs
        for number in re.findall(r"\bpid=(\d+)\)", log.read_text(errors="replace"))
    }
    found = []
    for process in psutil.process_iter():
        try:
            marked = process.environ().get(MARK) in started
            titled = process.pid in logged and "VLLM" in " ".join(process.cmdline())
            if (titled or marked) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def named(folder: Path) -> list[psutil.Process]:
    """Processes whose command line names something in `folder`."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(f"{folder}{os.sep}" in word for word in process.cmdline()):
                found.append(process)
    return found
