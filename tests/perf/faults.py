"""Injects each fault for real into a run on the CPU engine, and prints what draftgate made of it.

    python -m tests.perf.faults [--only WORD ...] [--phases]

About 25 minutes on two idle cores, a fault one to two; `--phases` adds Ctrl-C and SIGTERM in every phase of
a run. The lines of the Markdown table of `docs/faults.md` come as they are known. Exit code 1 where a record
was lost, a process was left, nothing was said, or an exit code is not the expected one.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Any

from tests import perf
from tests.engine.faults import FAULTS, HEAD, PHASES, Impossible, Outcome, fresh, interrupted, wrong


def main(words: list[str] | None = None) -> int:
    """The command line."""
    parser = perf.options("faults", __doc__)
    parser.add_argument("--only", action="append", metavar="WORD", help="faults whose name holds this")
    parser.add_argument("--phases", action="store_true", help="interruptions in every phase too")
    options = parser.parse_args(words)
    names = [name for name in FAULTS if not options.only or any(word in name for word in options.only)]
    bad: list[str] = []

    def job() -> dict[str, Any]:
        print(HEAD, flush=True)
        outcomes: list[Outcome] = []
        folder = perf.new_folder(options.results, "faults")
        for number, name in enumerate(names):
            own = folder / str(number)
            own.mkdir()
            try:
                tell(FAULTS[name](fresh(own), own), outcomes)
            except Impossible as error:
                print(f"| {name} | — | not injected: {error} | — | — | — | — |", flush=True)
            except (AssertionError, subprocess.TimeoutExpired) as error:
                bad.append(f"{name}: {error}")
                perf.say(f"{name}: {error}")
        if options.phases:
            for signals in (signal.SIGINT, signal.SIGTERM):
                for phase in PHASES:
                    own = folder / f"{phase}-{signals.name}"
                    own.mkdir()
                    tell(interrupted(fresh(own), signals, phase)[0], outcomes)
        return {
            "faults": len(outcomes),
            "lost": sum(one.lost for one in outcomes),
            "orphans": sum(one.orphans for one in outcomes),
            "wrong": bad,
        }

    def tell(outcome: Outcome, outcomes: list[Outcome]) -> None:
        outcomes.append(outcome)
        print(outcome.row, flush=True)
        problem = wrong(outcome)
        if problem:
            bad.append(f"{outcome.fault}: {problem}")

    code = perf.carry_out(job)
    return 1 if bad and not code else code


if __name__ == "__main__":
    sys.exit(main())
