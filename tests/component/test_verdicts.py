"""A verdict is kept by the process that judged, and shown by the one that ends the run."""

from __future__ import annotations

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
