"""What becomes of acceptance and of the time of a step when the context grows?

Run by its path, since every cell is measured at every length, beside `none`:

    pytest bench_suites/test_context.py -m "en and eagle3r1"

Prompts have 256, 1,024, 4,096 and 16,384 tokens, as far as the model has room.
"""

from __future__ import annotations

import pytest

from harness.config.cells import Cell
from harness.suites import context
from harness.suites.runner import Judge


@pytest.mark.cells(context.SUITE)
def test_context(cell: Cell, judge: Judge) -> None:
    """Each length is a measurement; where acceptance moves with the length, that is said."""
    judge(context.along_the_context, cell)
