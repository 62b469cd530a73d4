"""`draftgate tune` on a fake engine: servers start, trials are runs, and nothing is measured twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cli import main
from harness.results.records import CellRecord, RunRecord, load
from harness.stats.paired import MIN_PROMPTS
from harness.suites import selfcheck
from tests.component.fake_engine import Fake

pytestmark = pytest.mark.usefixtures("own_signals")
SPACE = """\
schema = 1
stack = "./tiny.toml"
drafter = "ngram"
workload = "code"
concurrency = [1]
[space."drafters.ngram.k"]
choices = [2, 3]
"""


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "fake").mkdir()
    fake = Fake(tmp_path / "fake")
    stack = fake.stack + '[drafters.ngram]\nmethod = "ngram"\nk = [4]\n'
    names = {"model": fake.folder / "tiny", "python": fake.python, "freeze": fake.freeze}
    (tmp_path / "tiny.toml").write_text(stack.format(**names))
    path = tmp_path / "k.toml"
    path.write_text(SPACE)
    # What the fake says has no answers that are known beforehand.
    monkeypatch.setattr(selfcheck, "ensure", lambda *_, **__: selfcheck.SelfCheck.model_construct(checks=()))
    return path


def tune(space: Path, *words: str) -> int:
    return main(["tune", str(space), "--results", str(space.parent / "results"), *words])


def test_a_search_leaves_a_run_for_each_trial_and_its_winner(
    space: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune(space) == 0

    folder = space.parent / "results" / "tune-k"
    trials = [load(path, CellRecord) for path in folder.glob("trial-*/acceptance/*.json")]
    assert sorted(record.cell.k for record in trials) == [2, 3]
    assert all(record.valid and len(record.prompts) == MIN_PROMPTS for record in trials)
    runs = list(folder.glob("*/run.json"))
    assert len(runs) == 3
    assert all(load(path, RunRecord).finished for path in runs)
    fresh = [load(path, CellRecord) for path in folder.glob("winner-*/acceptance/*/*/*.json")]
    assert next(record.cell.k for record in sorted(fresh, key=lambda r: r.suite)) == 4, "the default"
    asked = [{r.prompt for record in records for r in record.prompts} for records in (trials, fresh)]
    assert not asked[0] & asked[1]
    said = capsys.readouterr().out.splitlines()[-1]
    assert "tokens per step" in said
    assert main(["compare", str(next(folder.glob("trial-*")))]) == 0


def test_the_same_command_measures_nothing_twice(space: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tune(space, "--trials", "1") == 0
    said = capsys.readouterr().out.splitlines()[-1]
    before = {log: log.stat().st_mtime_ns for log in space.parent.rglob("servers/*.log")}

    assert tune(space, "--trials", "1") == 0
    assert capsys.readouterr().out.splitlines()[-1] == said
    assert {log: log.stat().st_mtime_ns for log in space.parent.rglob("servers/*.log")} == before
