"""Is the instrument sound? Known answers for the whole chain, from the request to the table.

Run by its path or its marker: `pytest bench_suites -m self_check`. The short form (the target drafts for
itself, two prompts) comes before the first server of every run by itself.
"""

from __future__ import annotations

import pytest

from harness.suites import selfcheck
from harness.suites.runner import Judge

pytestmark = pytest.mark.self_check


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_the_target_drafts_for_itself(judge: Judge, temperature: float) -> None:
    """At T=0 all is accepted; at a temperature what the target's own probabilities say."""
    judge(selfcheck.drafting_for_itself, temperature)


def test_random_weights(judge: Judge) -> None:
    """A drafter that guesses is near 0, and not what a broken counter gives."""
    judge(selfcheck.random_weights)


def test_synthetic_acceptance(judge: Judge) -> None:
    """Where vLLM accepts at rates that it is told, those rates are counted."""
    judge(selfcheck.synthetic)
