"""What does each drafter get accepted, position by position, and did it get worse?"""

from __future__ import annotations

import pytest

from harness.config.cells import Cell
from harness.suites import acceptance
from harness.suites.runner import Judge


@pytest.mark.usefixtures("benchmark")
@pytest.mark.cells(acceptance.SUITE)
def test_acceptance(cell: Cell, judge: Judge) -> None:
    """Tokens per step and acceptance per position are no worse than the reviewed baseline's."""
    judge(acceptance.acceptance, cell)
