"""The set-up says what it does in a line a step; what pip says is kept, and shown where it fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

INSTALL = Path(__file__).parents[2] / "requirements/install.py"
PIP = """#!/bin/sh
[ "$4" = "" ] && exit 0
echo "WARNING: Location 'file:///mirror/simple/numpy/' is ignored: it is neither a file nor a directory."
case "$*" in *$BROKEN.lock*) echo "ERROR: the reason"; exit "$CODE";; esac
"""
"""Stands for the environment's python, which here has nothing but a pip that talks."""


@pytest.mark.parametrize("code", [0, 3])
@pytest.mark.parametrize(("target", "lock", "count"), [("setup", "dev", 4), ("quantize-env", "quantize", 3)])
def test_pips_words_are_kept_and_only_its_reason_is_shown(
    tmp_path: Path, code: int, target: str, lock: str, count: int
) -> None:
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    python.write_text(PIP)
    python.chmod(0o755)
    done = subprocess.run(
        [sys.executable, INSTALL, tmp_path, target], env={**os.environ, "CODE": str(code), "BROKEN": lock},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip

    steps = [line for line in done.stdout.splitlines() if f" of {count}: " in line]
    assert done.returncode == (1 if code else 0), done.stdout
    assert len(steps) == (3 if code else count)
    assert "ignored" not in done.stdout
    assert ("ERROR: the reason" in done.stdout) == bool(code)
    assert (f"`make {target}` again" in done.stdout) == bool(code)
    log = (tmp_path / "set-up-3.log").read_text()
    assert "ignored" in log
    assert "ERROR: the reason" in log
    assert (str(tmp_path / "set-up-3.log") in done.stdout) == bool(code)
