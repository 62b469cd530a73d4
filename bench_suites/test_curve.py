"""Which k at which load, and from which load on is speculation better off?

Run by its path: `pytest bench_suites/test_curve.py -m "chat and en"`. `draftgate curve RUN` prints it again.
"""

from __future__ import annotations

import pytest

from harness.config.cells import Cell
from harness.suites import curve
from harness.suites.runner import Judge


@pytest.mark.cells(curve.SUITE)
def test_curve(cell: Cell, judge: Judge) -> None:
    """Every k of a drafter was timed at every load."""
    judge(curve.k_by_load, cell)
