"""What does each drafter get accepted, position by position, and did it get worse?"""

from __future__ import annotations

import pytest

from fixtures.measurement import Gate, Measure
from harness.config.cells import Cell


@pytest.mark.cells
def test_acceptance(cell: Cell, measure: Measure, gate: Gate) -> None:
    """Tokens per step and acceptance per position are no worse than the reviewed baseline's."""
    gate(measure(cell))
