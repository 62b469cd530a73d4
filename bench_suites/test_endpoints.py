"""Is a prompt the same over `chat` and `raw`, and how much of raw's acceptance is a missing chat template?

Run by its path, since every cell is measured three times: `pytest bench_suites/test_endpoints.py -k ngram`.
"""

from __future__ import annotations

import pytest

from fixtures.endpoints import Audited
from harness.config.cells import Cell


@pytest.mark.cells(by_path=True, drafting=True)
def test_endpoints(cell: Cell, audit: Audited) -> None:
    """The template stands around a prompt once, and the endpoints differ by nothing but it."""
    audit(cell)
