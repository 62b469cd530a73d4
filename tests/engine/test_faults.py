"""Each fault of `faults.py` on a real engine: the right exit code, a sentence, nothing lost, nothing left."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.engine.server import Server
from tests.engine.conftest import Draftgate
from tests.engine.faults import (
    CELL,
    EXPECTED,
    FAULTS,
    PHASES,
    PROMPTS,
    Impossible,
    Run,
    fresh,
    interrupted,
    records_of,
    wrong,
)

pytestmark = pytest.mark.nightly

SEEDS = range(20)
SERVED_PHASES = ("warming", "measuring", "writing", "summary")
"""Phases that are the same on a server that runs already."""


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_ends_in_the_right_verdict_with_nothing_lost_and_nothing_left(
    name: str, tmp_path: Path
) -> None:
    assert name in EXPECTED
    try:
        outcome = FAULTS[name](fresh(tmp_path), tmp_path)
    except Impossible as error:
        pytest.skip(str(error))
    print(outcome.row)
    assert wrong(outcome) == ""


@pytest.fixture
def served(engine: Server, tmp_path: Path) -> Callable[[str], Draftgate]:
    """Runs on one server that is not theirs: a run takes seconds, and the server counts what it was asked."""

    def one(folder: str) -> Draftgate:
        return fresh(tmp_path / folder, engine)

    return one


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("phase", ["starting", "ending"])
def test_an_interruption_of_a_run_with_a_server_of_its_own(
    tmp_path: Path, number: signal.Signals, phase: str
) -> None:
    outcome, output = interrupted(fresh(tmp_path), number, phase)
    print(outcome.row)
    assert "Traceback" not in output
    assert wrong(outcome) == ""


@pytest.mark.parametrize("engine", [("ngram", 4, "1")], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("phase", SERVED_PHASES)
def test_an_interruption_of_a_run(
    served: Callable[[str], Draftgate], number: signal.Signals, phase: str
) -> None:
    assert phase in PHASES
    outcome, output = interrupted(served("run"), number, phase)
    print(outcome.row)
    assert "Traceback" not in output, output
    assert wrong(outcome) == ""


def idle(server: Server) -> int:
    """How many requests the server has finished or given up, once it has none."""
    while (now := server.counters()).running or now.waiting:
        time.sleep(0.1)
    return now.finished


@pytest.mark.parametrize("engine", [("ngram", 4, "1")], indirect=True)
def test_killed_at_any_moment_a_run_goes_on_to_the_same_records(
    engine: Server, served: Callable[[str], Draftgate]
) -> None:
    """20 seeds, each a moment of the whole life of pytest, from its start to its end.

    On a server that all of them share, so that the server can tell what it was asked a second time; that an
    engine of their own ends with them is another test's.
    """
    undisturbed = served("undisturbed")
    began = time.monotonic()
    with Run(undisturbed, *CELL) as run:
        assert run.end() == 0, run.text
    life_s = time.monotonic() - began
    expected = records_of(undisturbed)
    assert len(expected) == PROMPTS
    asked_for_all = 0
    kept_by_seed = []
    for seed in SEEDS:
        moment = random.Random(seed).uniform(0, life_s)  # noqa: S311 - a moment
        one = served(f"seed-{seed}")
        with Run(one, *CELL) as run:
            time.sleep(moment)
            run.process.kill()
            code = run.end()
        kept = one.lines()
        before = idle(engine)
        again, output = one.run(*CELL, "--resume")
        how = "--resume"
        if again == 4:  # killed before there was a run, or after it had ended
            assert "holds no unfinished run" in output
            if len(list(one.results.glob("*/acceptance/*.json"))) == 0:
                assert kept == []
                again, output = one.run(*CELL)
                how = "begun anew"
            else:
                how = "had ended"
        asked = idle(engine) - before
        lacking = PROMPTS - len(kept)
        print(f"seed {seed}: SIGKILL after {moment:.1f} s of {life_s:.1f}, code {code}; {len(kept)} prompts "
              f"kept; {how}: {asked} requests for {lacking} prompts", flush=True)  # fmt: skip
        assert how == "had ended" or again == 0, output
        assert one.lines()[: len(kept)] == kept
        assert records_of(one) == expected, seed
        # Two prompts warm the server up, where any is still to be measured.
        assert asked == (lacking + 2 if lacking else 0)
        kept_by_seed.append(len(kept))
        asked_for_all += asked
    print(f"kept by seed: {kept_by_seed}; {asked_for_all} requests in all")
    assert len(set(kept_by_seed)) > 2, "the moments were not spread over the run"
