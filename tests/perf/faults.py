"""Injects each fault for real into a run on the CPU engine, and prints what draftgate made of it.

    python -m tests.perf.faults [--only WORD ...] [--phases] [--served]

About 25 minutes on two idle cores, a fault one to two; `--phases` adds Ctrl-C and SIGTERM in every phase of
a run; `--served` injects those faults alone that are of our side, all on one server. The lines of the
Markdown table of `docs/faults.md` come as they are known. Exit code 1 where a record was lost, a process was
left, nothing was said, or an exit code is not the expected one.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.config.cells import server_spec
from harness.engine.server import Server, running
from tests import perf
from tests.engine.faults import (
    FAULTS,
    HEAD,
    PHASES,
    SERVED,
    Impossible,
    Outcome,
    fresh,
    interrupted,
    wrong,
)

OWN_PHASES = ("starting", "ending")
"""Phases that a server of another run does not have."""


class Table:
    """Outcomes, printed as they come."""

    def __init__(self, folder: Path, server: Server | None) -> None:
        self._folder, self._server = folder, server
        self.outcomes: list[Outcome] = []
        self.wrong: list[str] = []

    def add(self, name: str, inject: Callable[[Path, Server | None], Outcome]) -> None:
        """Inject a fault in a folder of its own."""
        own = self._folder / name.replace(" ", "-").replace("'", "")
        own.mkdir()
        try:
            outcome = inject(own, self._server)
        except Impossible as error:
            print(f"| {name} | — | not injected: {error} | — | — | — | — |", flush=True)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            perf.say(f"{name}: {error}")
            self.wrong.append(f"{name}: {str(error).splitlines()[0]}")
        else:
            print(outcome.row, flush=True)
            self.outcomes.append(outcome)
            self.wrong += [f"{name}: {problem}" for problem in [wrong(outcome)] if problem]

    def figures(self) -> dict[str, Any]:
        """What goes into the last line."""
        return {
            "faults": len(self.outcomes),
            "lost": sum(one.lost for one in self.outcomes),
            "orphans": sum(one.orphans for one in self.outcomes),
            "wrong": self.wrong,
        }


def fill(table: Table, options: argparse.Namespace) -> None:
    """Inject what was asked for."""
    for name in SERVED if options.served else FAULTS:
        if not options.only or any(word in name for word in options.only):
            table.add(name, lambda own, server, name=name: FAULTS[name](fresh(own, server), own))  # type: ignore[misc]
    for number in (signal.SIGINT, signal.SIGTERM) if options.phases else ():
        for phase in PHASES:
            name = f"{number.name} while {phase}"
            asked = not options.only or any(word in name for word in options.only)
            if asked and not (options.served and phase in OWN_PHASES):
                table.add(
                    name,
                    lambda own, server, n=number, p=phase: interrupted(fresh(own, server), n, p)[0],  # type: ignore[misc]
                )


def main(words: list[str] | None = None) -> int:
    """The command line."""
    parser = perf.options("faults", __doc__)
    parser.add_argument("--only", action="append", metavar="WORD", help="faults whose name holds this")
    parser.add_argument("--phases", action="store_true", help="interruptions in every phase too")
    parser.add_argument("--served", action="store_true", help="faults of our side alone, on one server")
    options = parser.parse_args(words)
    bad: list[str] = []

    def job() -> dict[str, Any]:
        folder = perf.new_folder(options.results, "faults")
        stack = perf.load(options.stack)
        spec = server_spec(stack, stack.drafters["ngram"], 4)
        one = running(spec, folder=folder, say=perf.say) if options.served else contextlib.nullcontext()
        with one as server:
            print(HEAD, flush=True)
            table = Table(folder, server)
            fill(table, options)
        bad.extend(table.wrong)
        return table.figures()

    code = perf.carry_out(job)
    return 1 if bad and not code else code


if __name__ == "__main__":
    sys.exit(main())
