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
  printf '%s\n' "$@" > words; mkdir -p "$RESULTS/20260101"
  echo "FAILED <script> regressed"; exit "$FAKE_CODE"
fi
echo "$@" > "${@: -1}"; exit 1
"""


def run(folder: Path, name: str, **environment: str) -> int:
    (step,) = [step for step in STEPS if step.get("name") == name]
    known = {
        "GITHUB_ACTION_PATH": ".", "GITHUB_OUTPUT": "output", "GITHUB_STEP_SUMMARY": "job.md",
        "RUNNER_TEMP": str(folder / "bin"), "RESULTS": "a-results",
    }  # fmt: skip
    # As GitHub runs `shell: bash`.
    command = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", step["run"]]
    return subprocess.run(
        command, cwd=folder, env={"PATH": os.environ["PATH"], **known, **environment}, check=False
    ).returncode


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in (
        (".venv/bin/draftgate", FAKE),
        ("bin/gh", '#!/bin/bash\necho "$@" > asked; cp "${@: -1}" sent'),
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
        ["compare", *[baseline] * bool(baseline), "a-results/20260101/"]
    )


def test_a_gate_that_measured_nothing_has_no_summary(folder: Path) -> None:
    assert run(folder, "summary", BASELINE="") == 0
    assert not (folder / "job.md").exists()


def test_a_summary_that_is_not_made_is_not_that_of_an_earlier_use(folder: Path) -> None:
    run(folder, "gate", ARGUMENTS="", FAKE_CODE="1")
    assert run(folder, "summary", BASELINE="") == 0
    (folder / ".venv/bin/draftgate").write_text("#!/bin/bash\nexit 2", encoding="utf-8")
    (folder / "job.md").unlink()
    assert run(folder, "summary", BASELINE="") == 0
    assert not (folder / "job.md").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("acceptance --profile gate", ["acceptance", "--profile", "gate"]),
        ("acceptance\n--profile gate\n", ["acceptance", "--profile", "gate"]),
        ("-k 'zh and k4'\n-m \"chat\"", ["-k", "zh and k4", "-m", "chat"]),
        ("-k $(id) *", ["-k", "$(id)", "*"]),
        ("", []),
    ],
)
def test_arguments_stand_on_any_number_of_lines_quoted_as_in_a_shell(
    folder: Path, given: str, words: list[str]
) -> None:
    assert run(folder, "gate", ARGUMENTS=given, FAKE_CODE="0") == 0
    asked = (folder / "words").read_text(encoding="utf-8").splitlines()
    assert asked[1 : asked.index("--results")] == words


def test_arguments_that_no_shell_reads_run_nothing(folder: Path) -> None:
    assert run(folder, "gate", ARGUMENTS="-k 'zh", FAKE_CODE="0") == 2
    assert not (folder / "words").exists()
    assert not (folder / "output").exists()


def test_the_models_are_cached_by_what_is_measured(folder: Path) -> None:
    (folder / "harness/engine").mkdir(parents=True)
    (folder / "harness/engine/models.py").write_text("models", encoding="utf-8")
    for given in ("acceptance", "acceptance", "acceptance --stack other"):
        assert run(folder, "key", ARGUMENTS=given) == 0
    one, again, other = (folder / "output").read_text(encoding="utf-8").splitlines()
    assert one == again != other
    assert len(one) == len("key=") + 16


@pytest.mark.parametrize("lines", ["", "2 passed\n", "FAILED case - regressed\n" * 20_000])
def test_a_comment_is_written_however_much_failed(folder: Path, lines: str) -> None:
    run(folder, "gate", ARGUMENTS="acceptance", FAKE_CODE="1")
    (folder / "a-results/gate.log").write_text(lines, encoding="utf-8")
    assert commented(folder) == 0
    assert (folder / "sent").stat().st_size < 65_536


def commented(folder: Path) -> int:
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    return run(folder, "comment", PATH=path, NUMBER="7", RUN_URL="https://x", GITHUB_REPOSITORY="a/b")


def test_the_comment_holds_what_failed_as_text(folder: Path) -> None:
    run(folder, "gate", ARGUMENTS="acceptance", FAKE_CODE="1")
    assert commented(folder) == 0
    assert "pr comment 7" in (folder / "asked").read_text(encoding="utf-8")
    assert "\n    FAILED <script> regressed" in (folder / "sent").read_text(encoding="utf-8")


def test_no_input_becomes_code() -> None:
    assert all("${{" not in step.get("run", "") for step in STEPS)
