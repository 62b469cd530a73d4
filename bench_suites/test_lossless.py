"""Does a drafter change what the target says?

Run by its path, since it starts servers of its own: `pytest bench_suites/test_lossless.py`.
"""

from __future__ import annotations

import pytest

from harness.config.cells import Cell
from harness.suites import lossless
from harness.suites.runner import Judge


@pytest.mark.cells(lossless.SUITE)
def test_the_output_is_that_of_none(cell: Cell, judge: Judge) -> None:
    """The same text at T=0, up to ties; the same distribution of first tokens at T=0.7."""
    judge(lossless.lossless, cell)
