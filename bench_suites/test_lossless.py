"""Does a drafter change what the target says?

Run by its path, since it starts servers of its own: `pytest bench_suites/test_lossless.py`.
"""

from __future__ import annotations

import pytest

from fixtures.lossless import Lossless
from harness.config.cells import Cell


@pytest.mark.cells(by_path=True, own_servers=True, drafting=True)
def test_the_output_is_that_of_none(cell: Cell, lossless: Lossless) -> None:
    """The same text at T=0, up to ties; the same distribution of first tokens at T=0.7."""
    lossless(cell)
