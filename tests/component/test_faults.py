"""What else uses the machine, or ends a part of a run: said, and nothing is lost by it."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from harness.engine.server import running
from harness.errors import PortTaken
from harness.results.records import CellRecord, RunRecord, load
from tests.component.fake_engine import Fake, bench, start_bench


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    folder = tmp_path / "fake"
    folder.mkdir()
    return Fake(folder)


def until(done: Callable[[], object], what: str, *, within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not done():
        assert time.monotonic() < deadline, f"waited too long for {what}"
        time.sleep(0.02)


def journalled(results: Path) -> int:
    return sum(p.read_text().count("\n") - 1 for p in results.glob("*/acceptance/*.jsonl"))


def run_record(results: Path) -> RunRecord:
    (path,) = results.glob("*/run.json")
    return load(path, RunRecord)


# A port that somebody else took

THIEF = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Thief(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_): pass
server = HTTPServer(("127.0.0.1", 0), Thief)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture
def thief() -> Iterator[int]:
    """The port of a server of another program, which answers anything."""
    process = subprocess.Popen([sys.executable, "-c", THIEF], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def test_a_port_that_was_taken_while_the_server_loads_is_not_ours(
    fake: Fake, thief: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine never answers, but somebody does."""
    fake.script.write_text("import time; time.sleep(1000)")
    monkeypatch.setattr("harness.engine.server.free_port", lambda _: thief)

    with (
        pytest.raises(PortTaken, match=rf"port {thief} was taken by another program \(process \d+\) while"),
        running(fake.spec(), folder=tmp_path / "servers", say=lambda _: None),
    ):
        pytest.fail("a stranger's server was taken for ours")


# A worker of pytest-xdist


@contextlib.contextmanager
def benching(fake: Fake, tmp_path: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A suite that runs; ended whatever happens."""
    with start_bench(fake, tmp_path, *words) as process:
        try:
            yield process
        finally:
            process.kill()


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(process.pid).children():
        try:
            words = " ".join(child.cmdline())
            if "pytest-xdist" in words or "stdin.readline" in words:  # with setproctitle, and without
                found.append(child)
        except psutil.Error:
            continue
    return found


def test_a_run_whose_worker_was_killed_can_be_resumed(fake: Fake, tmp_path: Path) -> None:
    results = tmp_path / "results"
    with benching(fake, tmp_path, "-n", "1", "--max-worker-restart", "0") as process:
        until(lambda: journalled(results) >= 1, "a prompt")
        fake.freeze.touch()
        (worker,) = workers(process)
        before = journalled(results)
        worker.kill()
        output, _ = process.communicate(timeout=60)
    fake.freeze.unlink()

    assert process.returncode == 1
    assert "crashed while running" in output
    assert not run_record(results).finished
    code, output = bench(fake, tmp_path, "--resume")
    assert code == 0, output
    assert run_record(results).finished
    (path,) = results.glob("*/acceptance/*.json")
    record = load(path, CellRecord)
    assert len(record.prompts) == journalled(results) == 3
    assert sum(r.segment == 0 for r in record.prompts) == before


# Two runs at once


def test_a_run_that_goes_on_is_not_resumed_beside_it(fake: Fake, tmp_path: Path) -> None:
    results = tmp_path / "results"
    with benching(fake, tmp_path) as process:
        until(lambda: journalled(results) >= 1, "a prompt")
        fake.freeze.touch()
        before = journalled(results)
        code, output = bench(fake, tmp_path, "--resume")
        fake.freeze.unlink()
        told, _ = process.communicate(timeout=60)

    assert code == 4, output
    (folder,) = results.iterdir()
    assert f"{folder} is being measured by another process; wait for its end, or start without" in output
    assert "Traceback" not in output
    assert process.returncode == 0, told
    assert before < journalled(results) == 3


def test_two_runs_at_once_in_one_results_folder(fake: Fake, tmp_path: Path) -> None:
    with benching(fake, tmp_path) as one, benching(fake, tmp_path) as other:
        outputs = [process.communicate(timeout=120)[0] for process in (one, other)]

    assert (one.returncode, other.returncode) == (0, 0), outputs
    runs = list((tmp_path / "results").iterdir())
    assert len(runs) == 2
    for run in runs:
        assert load(run / "run.json", RunRecord).finished
        (path,) = run.glob("acceptance/*.json")
        assert len(load(path, CellRecord).prompts) == 3


# A clock that is set


def test_a_clock_that_is_set_changes_no_duration_and_is_no_stall(fake: Fake, tmp_path: Path) -> None:
    code, output = bench(fake, tmp_path, "-p", "tests.engine.clock", "--stall-seconds", "30")

    assert code == 0, output
    assert "anew" not in output
    (path,) = (tmp_path / "results").glob("*/acceptance/*.json")
    record = load(path, CellRecord)
    assert record.findings == ()
    for prompt in record.prompts:
        for seconds in (prompt.began_s, prompt.ttft_s, prompt.total_s):
            assert seconds is not None
            assert 0 <= seconds < 60


# Ctrl-C and SIGTERM at the end of a run

SIGNALLER = """
import os, signal, pytest
def send(phase):
    if os.environ["SIGNAL_AT"] == phase:
        os.kill(os.getpid(), int(os.environ["SIGNAL_NUMBER"]))
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown():
    send("teardown")
    return (yield)
@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish():
    send("finish")
@pytest.hookimpl(tryfirst=True)
def pytest_terminal_summary():
    send("summary")
@pytest.hookimpl(trylast=True)
def pytest_unconfigure():
    send("unconfigure")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("phase", ["teardown", "finish", "summary", "unconfigure"])
def test_an_interruption_at_the_end_is_a_sentence_and_the_records_are_whole(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str, number: signal.Signals
) -> None:
    (tmp_path / "signaller.py").write_text(SIGNALLER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("SIGNAL_AT", phase)
    monkeypatch.setenv("SIGNAL_NUMBER", str(int(number)))
    code, output = bench(fake, tmp_path, "-p", "signaller")

    assert "Traceback" not in output, output
    (path,) = (tmp_path / "results").glob("*/acceptance/*.json")
    assert len(load(path, CellRecord).prompts) == 3
    assert code in {2, 130}
    monkeypatch.setenv("SIGNAL_AT", "never")
    if not run_record(tmp_path / "results").finished:
        code, output = bench(fake, tmp_path, "--resume")
        assert code == 0, output
        assert run_record(tmp_path / "results").finished
