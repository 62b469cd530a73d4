"""Is a prompt the same over `chat` and `raw`, and how much of raw's acceptance is a missing chat template?

Run by its path, since every cell is measured three times: `pytest bench_suites/test_endpoints.py -k ngram`.
"""

from __future__ import annotations

import pytest

from harness.config.cells import Cell
from harness.suites import endpoints
from harness.suites.runner import Judge


@pytest.mark.cells(endpoints.SUITE)
def test_endpoints(cell: Cell, judge: Judge) -> None:
    """The template stands around a prompt once, and the endpoints differ by nothing but it."""
    judge(endpoints.endpoints, cell)
