"""`draftgate tune` on a fake engine: servers start, trials are runs, and nothing is measured twice."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli import main
from harness.plugin import DATA
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
    assert all(record.provenance.keys() >= {"surroundings", "memory_mib"} for record in trials)
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


MAKES = """\
schema = 1
stack = "./tiny.toml"
drafter = "ngram"
workload = "code"
concurrency = [1]
command = ["{python}", "{{here}}/make.py", "{{layer}}", "{{output}}", "{{here}}/fake/tiny"]
[space."command.layer"]
choices = ["$(touch hit); rm -r .", 7, "bad", "\\u0000"]
"""
MAKE = """\
import pathlib, shutil, sys
layer, output, tiny = sys.argv[1:]
pathlib.Path("note").write_text(layer)
if layer == "bad":
    print("layer 9 of 8")
    sys.exit("ValueError: there is no such layer")
shutil.copytree(tiny, output)
pathlib.Path(output, "model.safetensors").write_text(layer)
"""


def test_a_command_makes_the_target_of_each_trial(space: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a folder of its own and without a shell; one that fails ends its trial, with its last lines."""
    folder = space.parent
    (folder / "make.py").write_text(MAKE)
    space.write_text(MAKES.format(python=sys.executable))

    assert tune(space) == 0

    assert "layer 9 of 8" in capsys.readouterr().out
    found = folder / "results" / "tune-k"
    assert sorted(path.read_text() for path in found.glob("targets/*/note")) == [
        "$(touch hit); rm -r .",
        "7",
        "bad",
    ]
    assert not list(folder.rglob("hit"))
    trials = [load(path, CellRecord) for path in found.glob("trial-*/acceptance/*.json")]
    assert len(trials) == 2
    for record in trials:
        assert record.provenance["made_by"]["command"][2] in ("$(touch hit); rm -r .", "7")
        assert str(record.identity.target).startswith("target-")
    assert len({record.identity.weights for record in trials}) == 2
    fresh = [load(path, CellRecord) for path in found.glob("winner-*/acceptance/*/*/*.json")]
    assert len({record.identity.target for record in fresh}) == 2, "the default's target is the stack's"
    before = {path: path.stat().st_mtime_ns for path in found.glob("targets/*/command.json")}
    assert tune(space) == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}, "none is made twice"


def test_a_search_that_was_killed_goes_on(space: Path) -> None:
    words = ["tune", str(space), "--results", str(space.parent / "results")]
    search = subprocess.Popen([sys.executable, "-c", KILLED, *words], cwd=DATA.parent)
    assert search.wait(120) == -signal.SIGKILL
    folder = space.parent / "results" / "tune-k"
    before = {path: path.stat().st_mtime_ns for path in folder.glob("trial-*/acceptance/*.json")}
    assert len(before) == 1

    assert tune(space) == 0

    trials = {path: path.stat().st_mtime_ns for path in folder.glob("trial-*/acceptance/*.json")}
    assert len(trials) == 2
    assert before.items() <= trials.items()


KILLED = """\
import os, signal, sys
from harness.suites import selfcheck, trials
from harness.cli import main
from harness.plugin import DATA
selfcheck.ensure = lambda *_, **__: selfcheck.SelfCheck.model_construct(checks=())
whole, count = trials.Trials.measured, []
def measured(*args, **words):
    count.append(1)
    if len(count) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(*args, **words)
trials.Trials.measured = measured
main(sys.argv[1:])
"""
"""A search that is killed when its second trial begins."""
