"""Two stacks on a fake engine, as a user compares them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from harness.plugin import DATA
from harness.results.records import CellRecord, load
from tests.component.fake_engine import TINY, Fake


def test_an_engine_whose_answers_end_by_themselves_is_no_measurement(tmp_path: Path) -> None:
    """It answers with four tokens whatever it is asked. That shows at the warm-up starts, which are kept."""
    fake = Fake(tmp_path)
    new = TINY.format(model=tmp_path / "tiny", python=fake.python, freeze=fake.freeze)
    (tmp_path / "new.toml").write_text(new)
    (tmp_path / "old.toml").write_text(
        new.replace('"tiny"', '"old"', 1) + "[engine.args]\nmax_num_seqs = 4\n"
    )

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "bench_suites/test_throughput.py",
         "--stack", str(tmp_path / "new.toml"), "--against", str(tmp_path / "old.toml"),
         "--results", str(tmp_path / "results"), "--prompts", "3", "--self-check", "off"],
        cwd=DATA.parent, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    assert done.returncode == 1, done.stdout
    assert "engine.args.max_num_seqs: 4 -> (not set)" in done.stdout
    assert "ignore_eos" in done.stdout
    assert "Traceback" not in done.stdout
    records = [load(path, CellRecord) for path in sorted(tmp_path.glob("results/*/throughput/*/*/*.json"))]
    assert [(r.suite, r.stack) for r in records] == [
        ("throughput/warm-up/0-old", "old"),
        ("throughput/warm-up/1-new", "tiny"),
    ]
    assert all(r.identity.ignore_eos and "surroundings" in r.provenance for r in records)
