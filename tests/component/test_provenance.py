from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from harness.provenance.record import our_commit

# Our own commit


GIT = shutil.which("git") or "git"


def git(folder: Path, *words: str) -> str:
    names = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(
        [GIT, *names, "-C", str(folder), *words], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_the_commit_is_that_of_our_code_whatever_folder_we_are_used_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "init", "--quiet")
    ours = tmp_path / "ours.py"
    ours.write_text("")
    git(tmp_path, "add", "ours.py")
    git(tmp_path, "commit", "--quiet", "-m", "one")
    elsewhere = tmp_path.parent
    monkeypatch.chdir(elsewhere)
    assert our_commit(ours) == {"commit": git(tmp_path, "rev-parse", "HEAD"), "dirty": False}
    ours.write_text("changed")
    assert our_commit(ours)["dirty"] is True


def test_code_that_another_project_does_not_track_has_no_commit_of_it(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "-m", "theirs")
    installed = tmp_path / "installed.py"
    installed.write_text("")
    assert our_commit(installed) == {"commit": "unverified", "dirty": "unverified"}
