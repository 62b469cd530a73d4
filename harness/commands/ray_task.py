"""What a node of a Ray cluster does: measure one shard of a plan, and send each record at once."""

from __future__ import annotations

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
from harness.results.records import RUN_FILE

PLAN, RESULTS = "plan.json", "results"
CARRIED = ("DRAFTGATE_MEND", "OMP_NUM_THREADS")
"""Variables of the driver that decide what a server does. Ray sets the second one in its tasks."""
_GROWING = (".jsonl", ".log")
"""Files of which only what is new is sent."""
_OUTPUT = "output.log"
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

    lines: tuple[str, ...] = ()
    """Of its output."""
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
        for name, data in {
            **bundle.files,
            **{f"{RESULTS}/{at}": data for at, data in before.items()},
        }.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        news = _News(folder / RESULTS)
        resume = ["--resume"] * any((folder / RESULTS).glob(f"*/{RUN_FILE}"))
        words = [*bundle.words, "--results", RESULTS, "--shard", f"{PLAN}:{number}", *resume]
        variables = {k: v for k, v in os.environ.items() if k not in CARRIED and not k.startswith("RAY_")}
        process = start(
            command_line(words),
            log=folder / _OUTPUT,
            environment={**variables, **bundle.variables, "PYTHONUNBUFFERED": "1"},
            folder=folder,
        )
        output = _Lines(folder / _OUTPUT)
        try:
            while process.poll() is None:
                sent = Sent(lines=output.lines(), files=news.files())
                if sent.lines or sent.files:
                    yield sent
                time.sleep(_LOOKS_S)
            yield Sent(lines=output.lines(), files=news.files(ended=True), code=process.returncode)
        finally:
            stop(process)


class _News:
    """What changed in a folder since the last look."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sent: dict[str, tuple[int, int]] = {name: about[:2] for name, about in self._there().items()}

    def _there(self) -> dict[str, tuple[int, int, Path]]:
        """Size and time of each file. Hidden ones are locks, or not written yet; weights are no records."""
        paths = [path for path in sorted(self._folder.rglob("*")) if not path.name.startswith(".")]
        found = {}
        for path in paths:
            try:
                about = path.stat()
            except FileNotFoundError:  # meanwhile
                continue
            if path.is_file() and path.suffix != ".safetensors":
                found[str(path.relative_to(self._folder))] = (about.st_size, about.st_mtime_ns, path)
        return found

    def files(self, *, ended: bool = False) -> dict[str, tuple[int, bytes] | None]:
        """The news. Until pytest has ended, no run is sent as finished: its exit code would be lost."""
        there = self._there()
        gone = [name for name in self._sent if name not in there]
        found: dict[str, tuple[int, bytes] | None] = dict.fromkeys(gone)
        for name in gone:
            del self._sent[name]
        for name, (size, time_ns, path) in there.items():
            had = self._sent.get(name, (0, 0))
            if had == (size, time_ns) or (had[0] and path.name == RUN_FILE and not ended):
                continue
            at = had[0] if path.suffix in _GROWING and size >= had[0] else 0
            try:
                with path.open("rb") as file:
                    file.seek(at)
                    data = file.read()
            except FileNotFoundError:
                continue
            if path.suffix in _GROWING:  # a line that is still being written comes with the next look
                data = data[: data.rfind(b"\n") + 1]
                self._sent[name] = (at + len(data), time_ns if at + len(data) == size else 0)
                if at and not data:
                    continue
            else:
                self._sent[name] = (len(data), time_ns)
            found[name] = (at, data)
        return found


class _Lines:
    """The lines that a growing file got since the last look."""

    def __init__(self, path: Path) -> None:
        self._path, self._at = path, 0

    def lines(self) -> tuple[str, ...]:
        """Whole ones, each as it stands last: a progress bar writes over its line."""
        with self._path.open("rb") as file:
            file.seek(self._at)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        lines = whole.decode(errors="replace").split("\n")
        return tuple(text for line in lines if (text := line.rstrip("\r").rpartition("\r")[2].rstrip()))
