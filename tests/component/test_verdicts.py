"""A verdict is kept by the process that judged, and shown by the one that ends the run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.suites.runner import kept
from tests.component.fake_engine import Fake, bench


@pytest.mark.parametrize("workers", [(), ("-n", "1")])
def test_the_table_at_the_end_has_the_verdicts_of_all_processes(
    tmp_path: Path, workers: tuple[str, ...]
) -> None:
    (tmp_path / "fake").mkdir()
    fake = Fake(tmp_path / "fake")
    words = ("--prompts", "8", "--baselines", str(tmp_path / "baselines"))
    code, output = bench(fake, tmp_path, *words, "--update-baselines")
    assert code == 0, output

    code, output = bench(fake, tmp_path, *words, "--gate", "on", *workers)

    assert code == 0, output
    (folder,) = [p for p in (tmp_path / "results").iterdir() if "--gate on" in (p / "run.json").read_text()]
    (outcome,) = kept(folder).values()
    assert outcome.verdict
    assert outcome.verdict.kind == "identical"
    assert "tokens per step against the baseline" in output
    assert any(line.split()[-2:] == ["=", "8/8"] for line in output.splitlines()), output


def test_the_table_of_pytest_benchmark_is_printed_only_where_it_is_asked_for(tmp_path: Path) -> None:
    """Whatever loads the plugin: another folder has no conftest.py of ours."""
    (tmp_path / "fake").mkdir()
    fake = Fake(tmp_path / "fake")
    stack = tmp_path / "tiny.toml"
    stack.write_text(fake.stack.format(model=fake.folder / "tiny", python=fake.python, freeze=fake.freeze))
    words = ["acceptance", "--stack", str(stack), "--gate", "off", "--prompts", "1", "--self-check", "off"]

    def legend(*more: str) -> bool:
        done = subprocess.run(
            [sys.executable, "-m", "harness.cli", "bench", *words, *more],
            cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
        return "Operations Per Second" in done.stdout

    assert not legend()
    assert legend("--benchmark-verbose")
