"""Is the instrument sound? Known answers for the whole chain, from the request to the table.

Run by its path or its marker: `pytest bench_suites -m calibration`. The short form (the target drafts for
itself, two prompts) comes before the first server of every run by itself.
"""

from __future__ import annotations

import pytest

from fixtures.calibration import Known

pytestmark = pytest.mark.calibration


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_the_target_drafts_for_itself(known: Known, temperature: float) -> None:
    """At T=0 all is accepted; at a temperature what the target's own probabilities say."""
    known.drafting_for_itself(temperature)


def test_random_weights(known: Known) -> None:
    """A drafter that guesses is near 0, and not what a broken counter gives."""
    known.random_weights()


def test_synthetic_acceptance(known: Known) -> None:
    """Where vLLM accepts at rates that it is told, those rates are counted."""
    known.synthetic()
