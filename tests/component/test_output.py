"""A command in a process of its own: a real terminal, a reader that stops, a full disk."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from wcwidth import wcswidth

from tests.factories.runs import cell, plain, write_run
from tests.factories.terminal import on_a_terminal

ROOT = Path(__file__).parents[2]
RECORDINGS = ROOT / "tests" / "data" / "recordings"
REGRESSED = [sys.executable, "-m", "harness.cli", "compare", "bfloat16", "shy"]


@pytest.mark.parametrize("columns", [80, 120])
def test_a_real_terminal_gets_colour_and_lines_of_its_width(columns: int) -> None:
    text = on_a_terminal(REGRESSED, columns, cwd=RECORDINGS)

    assert "\x1b[31m▼" in text
    lines = re.sub(r"\x1b\[\d+m", "", text).splitlines()
    assert columns - 25 < max(map(wcswidth, lines)) <= columns


def test_a_real_terminal_gets_no_colour_where_it_wants_none() -> None:
    text = on_a_terminal(REGRESSED, 80, cwd=RECORDINGS, NO_COLOR="1")

    assert "▼" in text
    assert "\x1b" not in text


def compare(*arguments: Path, stdout: Any) -> tuple[int, str]:
    """The command, which gives its standard output away: its exit code, and what it said of errors."""
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", "compare", *arguments],
        stdout=stdout, stderr=subprocess.PIPE, text=True, check=False, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return done.returncode, done.stderr


def test_a_reader_that_stops_reading_is_no_error(tmp_path: Path) -> None:
    before = write_run(tmp_path / "before", plain(seconds=4.0), cell(), cell("zh"))
    after = write_run(tmp_path / "after", plain(seconds=4.0), cell(worse=3), cell("zh"))
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb") as pipe:  # noqa: PTH123 - a file descriptor
        assert compare(before, after, stdout=pipe) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", cell())
    with Path("/dev/full").open("wb") as full:
        code, error = compare(run, run, stdout=full)
    assert (code, error) == (
        2,
        "draftgate: cannot write to standard output: No space left on device [cannot-print]\n",
    )


@pytest.mark.parametrize(("closed", "said"), [(">&-", True), (">&- 2>&-", False)])
def test_an_output_that_is_closed_gets_nothing(tmp_path: Path, closed: str, *, said: bool) -> None:
    run = write_run(tmp_path / "run", cell())
    words = shlex.join([sys.executable, "-m", "harness.cli", "compare", str(run)])
    for what, code in ((str(run), 0), ("nowhere", 2)):
        done = subprocess.run(
            ["/bin/sh", "-c", f"{words} {what} {closed}"], capture_output=True, text=True, check=False,
            timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert (done.returncode, done.stderr.count("\n")) == (code, int(bool(code) and said))
