"""Does a drafter cost hits in the prefix cache, and what does that cost in time to the first token?

Run by its path, since it starts servers of its own:

    pytest bench_suites/test_prefix.py -m "en and eagle3r1"

All prompts stand behind one long text: the first request fills the cache, and the others find it there.
"""

from __future__ import annotations

import pytest

from harness.config.cells import Cell
from harness.suites import prefix
from harness.suites.runner import Judge


@pytest.mark.cells(prefix.SUITE)
def test_prefix(cell: Cell, judge: Judge) -> None:
    """The drafter finds in the cache what `none` finds there."""
    judge(prefix.prefix, cell)
