"""What a killed run left is ended by the next one, and nothing else is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from harness.engine import orphans
from harness.engine.orphans import MARK, Note, end, end_orphans, forget, note
from harness.results.records import load

ID = "a1b2c3d4e5f6"
UNTITLED = "import ctypes, sys, time; time.sleep(1000)"
RETITLED = """
import ctypes, time
from pathlib import Path
# What setproctitle does: the title goes where arguments and environment were.
fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
start, stop = int(fields[45]), int(fields[48])
ctypes.memset(start, 0, stop - start - 100)  # some of the environment stays readable
ctypes.memmove(start, b"VLLM::EngineCore", 16)
print("ready", flush=True)
time.sleep(1000)
"""

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DRAFTGATE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def start() -> Iterator[Start]:
    """A process that leads a session, as a supervisor does, with the mark of a server or without."""
    started: list[subprocess.Popen[bytes]] = []

    def one(*, mark: str | None = ID, code: str = UNTITLED) -> subprocess.Popen[bytes]:
        env = {key: value for key, value in os.environ.items() if key != MARK}
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            env={**({MARK: mark} if mark else {}), **env, "LAST": "=" * 50},
            start_new_session=True,
            stdout=subprocess.PIPE,
        )
        started.append(process)
        if code == RETITLED:
            assert process.stdout
            assert process.stdout.readline() == b"ready\n"
        return process

    yield one
    for process in started:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def runs(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is None


def owned_by_the_dead(path: Path) -> None:
    """Rewrite a note as if its owner had gone: another birth is another process."""
    told = load(path, Note)
    owner = told.owner.model_copy(update={"born": told.owner.born - 1})
    path.write_text(told.model_copy(update={"owner": owner}).model_dump_json(by_alias=True))


def test_a_server_whose_owner_lives_is_left_alone(start: Start) -> None:
    process = start()
    path = note(start_id=ID, label="ngram-k4", session=process.pid)
    said: list[str] = []

    end_orphans(said.append)

    assert path is not None
    assert path.exists()
    assert runs(process)
    assert said == []


@pytest.mark.parametrize("code", [UNTITLED, RETITLED])
def test_a_server_whose_owner_is_gone_is_ended(start: Start, code: str) -> None:
    process = start(code=code)
    path = note(start_id=ID, label="ngram-k4", session=process.pid)
    assert path is not None
    owned_by_the_dead(path)
    said: list[str] = []

    end_orphans(said.append)

    assert process.wait(timeout=10) == -9
    assert not path.exists()
    (sentence,) = said
    assert sentence == (
        f"draftgate: ended server ngram-k4, which an earlier run (process {os.getpid()}) left running: "
        "1 process"
    )


def test_an_owner_that_nobody_waited_for_is_gone(start: Start, tmp_path: Path) -> None:
    """A zombie: killed, but its parent has not asked."""
    engine = start()
    script = (
        "import sys, time; from harness.engine import orphans; "
        f"orphans.note(start_id={ID!r}, label='x', session={engine.pid}); print('noted', flush=True); "
        "time.sleep(1000)"
    )
    owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    try:
        assert owner.stdout
        assert owner.stdout.readline() == b"noted\n"
        end_orphans(lambda _: None)
        assert runs(engine)
        psutil.Process(owner.pid).kill()
        while psutil.Process(owner.pid).status() != psutil.STATUS_ZOMBIE:
            pass
        end_orphans(lambda _: None)
    finally:
        owner.kill()
        owner.communicate()

    assert engine.wait(timeout=10) == -9


def test_a_process_that_got_the_number_of_a_session_is_left_alone(start: Start) -> None:
    """Without the server's start id in its environment it is not ours."""
    for mark in (None, "ffffffffffff"):
        other = start(mark=mark)
        path = note(start_id=ID, label="ngram-k4", session=other.pid)
        assert path is not None
        owned_by_the_dead(path)

        end_orphans(lambda _: None)

        assert not path.exists()
        assert runs(other)


def test_a_process_of_another_session_is_left_alone(start: Start) -> None:
    one, other = start(), start()

    assert end(one.pid, ID) == 1
    assert one.wait(timeout=10) == -9
    assert runs(other)


def test_the_first_session_of_a_machine_is_never_ended() -> None:
    assert end(1, ID) == 0
    assert end(0, ID) == 0
    assert note(start_id=ID, label="x", session=1) is None


@pytest.mark.parametrize(("machine", "kept"), [("another boot", False), (None, True)])
def test_numbers_of_another_machine_mean_nothing(start: Start, machine: str | None, *, kept: bool) -> None:
    """Another boot ended all that there was; another view of processes (a container) may still have it."""
    process = start()
    path = note(start_id=ID, label="x", session=process.pid)
    assert path is not None
    owned_by_the_dead(path)
    told = load(path, Note)
    boot = told.machine.split()[0]
    other = told.model_copy(update={"machine": machine or f"{boot} pid:[1]"})
    path.write_text(other.model_dump_json(by_alias=True))

    end_orphans(lambda _: None)

    assert path.exists() == kept
    assert runs(process)


def test_a_cache_that_cannot_be_written_is_no_reason_not_to_run(
    start: Start, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("a file where the folder should be")

    assert note(start_id=ID, label="x", session=start().pid) is None
    forget(None)
    end_orphans(lambda _: None)


def test_where_there_is_no_proc_nothing_is_ended(monkeypatch: pytest.MonkeyPatch, start: Start) -> None:
    monkeypatch.setattr(orphans, "_machine", lambda: None)
    assert note(start_id=ID, label="x", session=start().pid) is None
    end_orphans(lambda _: None)
