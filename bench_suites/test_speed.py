"""How much faster than `none` is a drafter, over starts of the server, and is it less than it was?

Run by its path, since it takes a server start for every figure: `pytest bench_suites/test_speed.py`.
"""

from __future__ import annotations

import pytest

from harness.config.cells import Cell
from harness.suites import speed
from harness.suites.runner import Judge


@pytest.mark.cells(speed.SUITE)
def test_speed_up(cell: Cell, judge: Judge) -> None:
    """The speed-up over `none` is no less than the reviewed baseline's, on the same hardware."""
    judge(speed.speed_up, cell)
