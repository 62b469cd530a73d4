"""Is a stack slower than another one, on one idle device and in one session, and whose fault is it?

Run by its path, with the old stack: `pytest bench_suites/test_throughput.py --against STACK`.
"""

from __future__ import annotations

import pytest

from harness.config.cells import Cell
from harness.suites import throughput
from harness.suites.runner import Judge


@pytest.mark.cells(throughput.SUITE)
def test_throughput(cell: Cell, judge: Judge) -> None:
    """The stack makes no fewer tokens a second than the old one, by blocks of starts in turn."""
    judge(throughput.old_against_new, cell)
