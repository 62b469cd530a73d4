"""A run and a bench for tests: no server is started, and nothing is written before a test asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.config.cells import Cell, cells_of
from harness.config.stack import NO_DRAFTER, Drafter, Profile, Stack
from harness.engine.slot import Slot
from harness.errors import ServerFailed
from harness.plugin import DATA
from harness.run import Options, Run
from harness.suites.runner import Bench


def stack(**changes: Any) -> Stack:
    """`tiny`, with one drafter beside `none`."""
    drafters = {"none": NO_DRAFTER, "ngram": Drafter(name="ngram", method="ngram", k=(4,))}
    values = {"schema": 1, "name": "tiny", "target": {"model": "org/tiny"}, "drafters": drafters}
    return Stack.model_validate(values | changes)


def options(folder: Path, **changes: Any) -> Options:
    values: dict[str, Any] = {
        "stack": stack(),
        "profile_name": "quick",
        "profile": Profile(prompts=8, max_tokens=64),
        "workloads": ("instruct",),
        "repeats": 1,
        "seed": 0,
        "results": folder / "results",
        "resume": False,
        "server_url": None,
        "baselines": folder / "baselines",
        "gate": "on",
        "update": "",
        "pairs": 2,
        "sequential": False,
        "compare": None,
        "command": "pytest bench_suites",
        "levels": (1, 4),
    }
    return Options(**(values | changes))


def bench(folder: Path, *, said: list[str] | None = None, **changes: Any) -> Bench:
    """A bench whose slot stays empty: starting a server fails."""

    def start(_: object) -> Any:
        raise ServerFailed("no server is started in this test")

    said = [] if said is None else said
    run = Run(options(folder, **changes), DATA, run="run")
    return Bench(run=run, slot=Slot(start, said.append), say=said.append)


def cell_of(bench: Bench, name: str = "chat-en-instruct-ngram-k4") -> Cell:
    """A cell of the bench's stack."""
    o = bench.run.options
    return next(
        c for c in cells_of(o.stack, o.profile_name, o.profile, workloads=o.workloads) if str(c) == name
    )
