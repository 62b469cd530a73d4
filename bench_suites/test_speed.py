"""How much faster than `none` is a drafter, over starts of the server, and is it less than it was?

Run by its path, since it takes a server start for every figure: `pytest bench_suites/test_speed.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fixtures.speed import SpeedPairs
from harness.config.cells import Cell
from harness.judge.speedup import SpeedRecord


# `server` is None here: asking for it ends the one that another suite left running.
@pytest.mark.usefixtures("server")
@pytest.mark.cells(by_path=True, own_servers=True, drafting=True)
def test_speed_up(cell: Cell, speed_pairs: SpeedPairs, speed_gate: Callable[[SpeedRecord], None]) -> None:
    """The speed-up over `none` is no less than the reviewed baseline's, on the same hardware."""
    speed_gate(speed_pairs(cell))
