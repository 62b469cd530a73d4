"""The curve suite as a user runs it, on a fake engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cli import main
from harness.suites.runner import kept
from tests.component.fake_engine import Fake, bench

WORDS = ("bench_suites/test_curve.py", "-k", "test_curve", "--levels", "1", "--ks", "2", "--pairs", "4")


def test_a_curve_is_measured_and_printed_again_although_another_drafters_server_does_not_start(
    fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.stack += '[drafters.suffix]\nmethod = "suffix"\nk = [2]\n'
    script = fake.python.read_text()
    fake.python.write_text(
        script.replace("\nexec ", '\ncase "$*" in *suffix*) echo broken; exit 3;; esac\nexec ')
    )

    code, output = bench(fake, tmp_path, *WORDS)

    assert code == 1, output
    (run,) = (path.parent for path in tmp_path.glob("results/*/run.json"))
    (outcome,) = kept(run).values()
    assert (outcome.cell, outcome.kind in ("fine", "unsure")) == ("chat-en-instruct-ngram-k2", True)
    assert [(p["in_flight"], p["k"]) for p in outcome.figures["points"]] == [(1, 0), (1, 2)]
    paths = [str(path.parent.relative_to(run / "curve")) for path in run.glob("curve/**/*.json")]
    assert set(paths) - {"pairs/none/01/01", "pairs/ngram/01/01"} == {"01", "once/01"}
    capsys.readouterr()
    assert main(["curve", str(run)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert all(part in said for part in " ".join(outcome.sentence.split()).split("; "))
