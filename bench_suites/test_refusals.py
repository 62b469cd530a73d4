"""How many harmless questions does the target refuse, and is that more than before?

Run by its path, since it asks questions of its own:

    pytest bench_suites/test_refusals.py
    pytest bench_suites/test_refusals.py --questions my-log.jsonl

The second asks your own questions, and keeps the text of no answer.
"""

from __future__ import annotations

import pytest

from harness.config.cells import Cell
from harness.suites import refusals
from harness.suites.runner import Judge


@pytest.mark.cells(refusals.SUITE)
def test_refusals(cell: Cell, judge: Judge) -> None:
    """No more questions are refused than in the baseline, or in the run that it is compared with."""
    judge(refusals.refusals, cell)
