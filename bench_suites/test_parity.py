"""Does serving give what a drafter's validation said that it would?

Run by its path, since it is about the drafters made here: `pytest bench_suites/test_parity.py`.
"""

from __future__ import annotations

import pytest

from harness.config.cells import Cell
from harness.suites import parity
from harness.suites.runner import Judge


@pytest.mark.cells(parity.SUITE)
def test_served_as_predicted(cell: Cell, judge: Judge) -> None:
    """On the prompts that training held out, the engine accepts what the trainer's own model foretells."""
    judge(parity.parity, cell)
