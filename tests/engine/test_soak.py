"""Two thousand requests on one server: every record is there, and our memory is what the records take."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.conftest import ROOT
from tests.perf import soak

REQUESTS = 2000


@pytest.mark.nightly
def test_no_record_is_lost_and_memory_stays(tmp_path: Path) -> None:
    """In a process of its own: the memory of this one is that of all tests before."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.perf.soak", "--requests", str(REQUESTS), "--results", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=1800, check=False,
    )  # fmt: skip
    print(done.stdout, done.stderr, sep="\n")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["records"] == figures["lines"] == figures["requests"] == REQUESTS
    assert [r["requests"] for r in figures["readings"]] == list(range(200, REQUESTS + 1, 200))
    assert soak.grown(figures) <= soak.MOST_GROWTH
    assert len({r["open_files"] for r in figures["readings"]}) <= soak.CONCURRENCY
