"""Does serving give what a drafter's validation said that it would?

Run by its path, since it is about the drafters made here: `pytest bench_suites/test_contract.py`.
"""

from __future__ import annotations

import pytest

from fixtures.contract import Keep
from harness.config.cells import Cell


@pytest.mark.cells(by_path=True, drafting=True)
def test_served_as_predicted(cell: Cell, contract: Keep) -> None:
    """On the prompts that training held out, the engine accepts what the trainer's own model foretells."""
    contract(cell)
