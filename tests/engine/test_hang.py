"""A frozen engine core under the extraction of hidden states: evidence, stacks and a report come of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.config.stack import Stack
from tests.engine.conftest import ROOT

pytestmark = pytest.mark.nightly  # a start


def test_a_frozen_engine_core_ends_in_a_report(stack: Stack, tmp_path: Path) -> None:
    words = ["--engine-python", stack.engine.python or sys.executable, "--results", str(tmp_path)]
    words += ["--hours", "1", "--tokens", "16", "--concurrency", "4", "--stall-seconds", "20"]
    hang = subprocess.Popen(
        [sys.executable, "-m", "tests.perf.hang", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    deadline, text = time.monotonic() + 180, ""
    while text.count("POST /v1/completions") < 8:
        assert time.monotonic() < deadline
        assert hang.poll() is None
        time.sleep(0.5)
        text = "".join(log.read_text() for log in tmp_path.glob("*/*.log"))
    os.kill(int(re.findall(r"EngineCore pid=(\d+)", text)[-1]), signal.SIGSTOP)
    output, _ = hang.communicate(timeout=120)

    figures = json.loads(output.splitlines()[-1])
    assert hang.returncode == 1
    assert figures["requests"] >= 4
    report = Path(figures["report"]).read_text()
    assert figures["hang"] in report.splitlines()[0]
    assert '"status": "stopped"' in report
    assert re.search(r'^  File ".*vllm.*", line \d+', report, re.MULTILINE)  # where a thread was
    assert "CpuHiddenStatesConnector" in report
