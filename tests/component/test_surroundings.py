"""Whole runs on a fake engine where something is missing: encoding, terminal, home, cache, room, a reader."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.plugin import DATA
from harness.results.records import CellRecord, load
from tests.component.fake_engine import TINY, Fake

STRANGER = ("unshare", "--user", "--map-user=12345", "--map-group=12345")
"""A user whom the system does not know, with the rights of this one."""
CAN_BE_ONE = subprocess.run([*STRANGER, "true"], check=False, capture_output=True).returncode == 0


class Bench:
    """A run of one cell in an environment of its own."""

    def __init__(self, folder: Path) -> None:
        fake = Fake(folder)
        self.folder = folder
        self.stack = folder / "tiny.toml"
        self.stack.write_text(TINY.format(model=folder / "tiny", python=fake.python, freeze=fake.freeze))
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "FORCE_", "LC_"))}

    def __call__(self, *words: str, above: tuple[str, ...] = (), to: str | None = None) -> tuple[int, str]:
        command = [
            *above, sys.executable, "-m", "pytest", "-p", "no:cacheprovider",
            "bench_suites/test_acceptance.py",
            "--stack", str(self.stack), "--results", str(self.folder / "results"), "--gate", "off",
            "--prompts", "3", "--self-check", "off", *words,
        ]  # fmt: skip
        with Path(to or self.folder / "out").open("wb") as out, (self.folder / "err").open("wb") as err:
            done = subprocess.run(
                command, cwd=DATA.parent, env=self.env, stdout=out, stderr=err, check=False, timeout=120
            )
        said = "" if to else (self.folder / "out").read_text(encoding="utf-8")
        return done.returncode, said + (self.folder / "err").read_text(encoding="utf-8")

    def measured(self) -> int:
        """Prompts of the cell on disk."""
        (path,) = (self.folder / "results").glob("*/acceptance/*.json")
        return len(load(path, CellRecord).prompts)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def fine(bench: Bench, found: tuple[int, str]) -> str:
    code, said = found
    assert code == 0, said
    assert "Traceback" not in said
    assert bench.measured() == 3
    return said


def test_what_an_encoding_lacks_is_replaced_alone(bench: Bench) -> None:
    bench.env |= {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    said = fine(bench, bench())
    assert said.isascii()
    assert "\\n" not in said
    assert "chat-en-instruct-none    3        1.00" in said


@pytest.mark.parametrize("words", [("-p", "no:capture"), ("-s",), ("--capture=sys",)], ids=str)
def test_it_runs_however_pytest_captures(bench: Bench, words: tuple[str, ...]) -> None:
    assert "3 prompts in" in fine(bench, bench(*words))


def test_a_log_in_colour_is_no_terminal(bench: Bench) -> None:
    bench.env |= {"FORCE_COLOR": "1", "CI": "true"}
    said = fine(bench, bench())
    assert "\r" not in said
    assert "\x1b[2K" not in said
    assert "prompt 1 of 3" not in said


def test_a_cell_is_measured_where_nothing_can_be_printed(bench: Bench) -> None:
    said = fine(bench, bench(to="/dev/full"))
    assert said.count("cannot write to standard output") == 1


def test_a_cell_is_measured_where_nobody_reads_on(bench: Bench) -> None:
    fine(bench, bench(above=("sh", "-c", '"$@" | head -1', "sh")))


def test_sigterm_in_a_task_is_no_traceback() -> None:
    code = """
import asyncio, os, signal
from harness.text.console import end_like_ctrl_c
end_like_ctrl_c()
async def one():
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(10)
async def both():
    await asyncio.gather(one(), asyncio.sleep(10))
try:
    asyncio.run(both())
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )

    assert (done.stdout, done.stderr) == ("interrupted\n", "")


@pytest.mark.skipif(not CAN_BE_ONE, reason="no user namespaces here")
def test_a_user_whom_the_system_does_not_know_needs_no_home(bench: Bench) -> None:
    for name in ("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME", "DRAFTGATE_CACHE"):
        bench.env.pop(name, None)
    bench.env["TMPDIR"] = str(bench.folder)
    fine(bench, bench(above=STRANGER))


def test_a_cache_that_cannot_be_written_is_done_without(bench: Bench) -> None:
    (bench.folder / "file").write_text("")
    bench.env["DRAFTGATE_CACHE"] = str(bench.folder / "file" / "cache")
    fine(bench, bench())
