"""Does a drafter cost valid tool calls, or answers that keep to their JSON schema?

Run by its path, since it asks prompts of its own, beside `none`:

    pytest bench_suites/test_tools.py -m "en and eagle3r1"

Your own prompts come with `--prompts-file`; those with `tools` or a `response_format` are asked.
"""

from __future__ import annotations

import pytest

from harness.config.cells import Cell
from harness.suites import tools
from harness.suites.runner import Judge


@pytest.mark.cells(tools.SUITE)
def test_tools(cell: Cell, judge: Judge) -> None:
    """As many answers are valid with the drafter as without it."""
    judge(tools.valid_answers, cell)
