"""The steps of `action.yml`, run by bash with a draftgate that the test stands in for."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ACTION = yaml.safe_load((Path(__file__).parents[2] / "action.yml").read_text(encoding="utf-8"))
STEPS: list[dict[str, Any]] = ACTION["runs"]["steps"]
FAKE = """#!/bin/bash
if [ "$1" = bench ]; then
  mkdir -p draftgate-results/20260101; echo "FAILED <script> regressed"; exit "$FAKE_CODE"
fi
echo "$@" > summary.md; exit 1
"""


def run(folder: Path, name: str, **environment: str) -> int:
    (step,) = [step for step in STEPS if step.get("name") == name]
    known = {"GITHUB_ACTION_PATH": ".", "GITHUB_OUTPUT": "output", "GITHUB_STEP_SUMMARY": "job.md"}
    # As GitHub runs `shell: bash`.
    command = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", step["run"]]
    return subprocess.run(
        command, cwd=folder, env={"PATH": os.environ["PATH"], **known, **environment}, check=False
    ).returncode


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in (
        (".venv/bin/draftgate", FAKE),
        ("bin/gh", '#!/bin/bash\necho "$@" > asked; cp comment.md sent'),
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("code", ["0", "1", "4"])
def test_the_job_ends_as_the_gate_did(folder: Path, code: str) -> None:
    assert run(folder, "gate", ARGUMENTS="acceptance --profile gate", FAKE_CODE=code) == 0
    assert (folder / "output").read_text(encoding="utf-8") == f"code={code}\n"
    assert run(folder, "verdict", CODE=code) == int(code)


@pytest.mark.parametrize("baseline", ["", "base lines/cpu"])
def test_the_summary_is_written_when_the_gate_is_red(folder: Path, baseline: str) -> None:
    run(folder, "gate", ARGUMENTS="acceptance", FAKE_CODE="1")
    assert run(folder, "summary", BASELINE=baseline) == 0
    asked = (folder / "job.md").read_text(encoding="utf-8")
    assert asked.split(" --format")[0] == " ".join(
        ["compare", *[baseline] * bool(baseline), "draftgate-results/20260101/"]
    )


def test_a_gate_that_measured_nothing_has_no_summary(folder: Path) -> None:
    assert run(folder, "summary", BASELINE="") == 0
    assert not (folder / "job.md").exists()


def test_the_comment_holds_what_failed_as_text(folder: Path) -> None:
    run(folder, "gate", ARGUMENTS="acceptance", FAKE_CODE="1")
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    assert run(folder, "comment", PATH=path, NUMBER="7", RUN_URL="https://x", GITHUB_REPOSITORY="a/b") == 0
    assert "pr comment 7" in (folder / "asked").read_text(encoding="utf-8")
    assert "\n    FAILED <script> regressed" in (folder / "sent").read_text(encoding="utf-8")


def test_no_input_becomes_code() -> None:
    assert all("${{" not in step.get("run", "") for step in STEPS)
