"""How many questions does the target answer right, and does a drafter change an answer?

Run by its path, since it asks questions of its own, beside `none`:

    pytest bench_suites/test_quality.py -m "(en or zh) and (none or eagle3r1)"

Your own questions come with `--questions FILE`; `--compare RUN` pairs them with another target's answers.
`--tasks NAME,NAME` lets lm-eval ask its own tasks too.
"""

from __future__ import annotations

import pytest

from harness.config.cells import Cell
from harness.suites import quality, quality_tasks
from harness.suites.runner import Judge


@pytest.mark.cells(quality.SUITE)
def test_quality(cell: Cell, judge: Judge) -> None:
    """A drafter changes no answer but at a tie; no right answer is lost against the run of --compare."""
    judge(quality.quality, cell)


@pytest.mark.cells(quality_tasks.SUITE)
def test_standard_tasks(cell: Cell, judge: Judge) -> None:
    """What lm-eval measures at the server of the cell."""
    judge(quality_tasks.tasks, cell)
