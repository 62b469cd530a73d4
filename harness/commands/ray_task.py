"""What a node of a Ray cluster does: measure one shard of a plan, and send each record at once."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from harness.commands.bench import command_line
from harness.config.variants import Engine
from harness.engine.process import start, stop
from harness.provenance.hardware import VISIBLE, environment
from harness.provenance.record import our_version
from harness.results.conditions import Environment
from harness.results.files import write_atomically
from harness.results.records import RUN_FILE

PLAN, RESULTS = "plan.json", "results"
OUTPUT = "output.log"
"""What pytest writes, beside its run."""
CARRIED = ("DRAFTGATE_MEND", "OMP_NUM_THREADS")
"""Variables of the driver that decide what a server does. Ray sets the second one in its tasks."""
_GROWING = (".jsonl", ".log")
"""Files of which only what is new is sent."""
_LOOKS_S = 0.2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bundle:
    """What travels to a node, since nodes share no files."""

    words: tuple[str, ...]
    """Of `draftgate bench`. Their paths start at the folder in which the files are put."""
    files: Mapping[str, bytes]
    engine: Engine
    variables: Mapping[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Node:
    """What must be the same on all nodes."""

    host: str = dataclasses.field(compare=False)
    draftgate: str
    environment: Environment


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sent:
    """What a task sends while it measures, and at its end."""

    files: Mapping[str, tuple[int, bytes] | None] = dataclasses.field(default_factory=dict)
    """Below `results`: from which byte, and the bytes; None where the file is gone."""
    code: int | None = None
    """The exit code, at the end."""
    node: Node | None = None
    """At the beginning."""


def look(engine: Engine) -> Node:
    """What this node is."""
    if not os.environ.get(VISIBLE, "all"):  # Ray hides the devices from a task that asks for none
        del os.environ[VISIBLE]
    here = environment(engine, python=engine.python)
    return Node(host=socket.gethostname(), draftgate=our_version(), environment=here)


def measure(bundle: Bundle, number: int, before: Mapping[str, bytes], expected: Node) -> Iterator[Sent]:
    """Measure a shard by a pytest of its own, which ends with this process.

    Args:
        bundle: of the plan.
        number: of the shard.
        before: what an earlier task has sent of it, by path; only what is missing is measured.
        expected: what this node must be; on another one nothing is measured.
    """
    node = look(bundle.engine)
    yield Sent(node=node)
    if node != expected:
        return
    with tempfile.TemporaryDirectory(prefix="draftgate-ray-") as made:
        folder = Path(made)
        (folder / RESULTS).mkdir()
        kept = {f"{RESULTS}/{name}": data for name, data in before.items()}
        for name, data in {**bundle.files, **kept}.items():
            write_atomically(folder / name, data)
        news = News(folder / RESULTS)
        resume = ["--resume"] * any((folder / RESULTS).glob(f"*/{RUN_FILE}"))
        words = [*bundle.words, "--results", RESULTS, "--shard", f"{PLAN}:{number}", *resume]
        variables = {k: v for k, v in os.environ.items() if k not in CARRIED and not k.startswith("RAY_")}
        process = start(
            command_line(words),
            log=folder / RESULTS / OUTPUT,
            environment={**variables, **bundle.variables, "PYTHONUNBUFFERED": "1"},
            folder=folder,
        )
        try:
            while process.poll() is None:
                if files := news.files():
                    yield Sent(files=files)
                time.sleep(_LOOKS_S)
            yield Sent(files=news.files(ended=True), code=process.returncode)
        finally:
            stop(process)


class News:
    """What changed in a folder since the last look."""

    def __init__(self, folder: Path) -> None:
        """What is there already is no news."""
        self._folder = folder
        self._sent: dict[str, tuple[int, int]] = {}
        """Of each file the bytes that were sent, and the time of its last change."""
        self.files()

    def files(self, *, ended: bool = False) -> dict[str, tuple[int, bytes] | None]:
        """The news. Until pytest has ended, no run is sent as finished: its exit code would be lost."""
        there = {str(path.relative_to(self._folder)) for path in self._folder.rglob("*") if _travels(path)}
        found: dict[str, tuple[int, bytes] | None] = dict.fromkeys(self._sent.keys() - there)
        for name in found:
            del self._sent[name]
        for name in sorted(there):
            with contextlib.suppress(FileNotFoundError):  # it went meanwhile
                if not (name in self._sent and Path(name).name == RUN_FILE and not ended):
                    found |= self._of(name)
        return found

    def _of(self, name: str) -> dict[str, tuple[int, bytes]]:
        path, (sent, changed) = self._folder / name, self._sent.get(name, (0, 0))
        about, grows = path.stat(), path.suffix in _GROWING
        if (about.st_size, about.st_mtime_ns) == (sent, changed):
            return {}
        at = sent if grows and about.st_size >= sent else 0
        with path.open("rb") as file:
            file.seek(at)
            data = file.read()
        if grows:  # a line that is still being written comes with the next look
            data = data[: data.rfind(b"\n") + 1]
        whole = at + len(data) == about.st_size
        self._sent[name] = (at + len(data), about.st_mtime_ns if whole else 0)
        return {name: (at, data)} if data or not at else {}


def _travels(path: Path) -> bool:
    """Hidden files are locks, or not written yet; weights are no records."""
    return path.is_file() and not path.name.startswith(".") and path.suffix != ".safetensors"
