"""What does each drafter get accepted, position by position, and is that a measurement?"""

from __future__ import annotations

import pytest

from fixtures.measurement import Measure
from harness.stack import Cell


@pytest.mark.cells
def test_acceptance(cell: Cell, measure: Measure) -> None:
    """Every prompt of the cell is answered, and steps, tokens and counters tell the same story."""
    record = measure(cell)

    assert record.valid, "; ".join(f.text for f in record.findings if f.hard)
