"""Runs the stages of a recipe, each once, in a folder named by the hash of all that the stage depends on.

Recipes that agree on a stage and on all stages before it share its folder. A stage that was interrupted
goes on in its folder. A stage writes `stage.json` last, and is done once that is there. Where a stage before
it was done again since, sampled answers are others, in the same folder: then the stage starts anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from harness.config.cells import canonical
from harness.engine.models import sha256_of
from harness.errors import BadRecord
from harness.results.files import json_object, write_atomically
from harness.text.console import Say
from training.errors import BadRecipe
from training.recipe import Recipe
from training.servers import Servers

DONE, BEGUN, LOCK = "stage.json", "begun.json", ".lock"
_SCHEMA = 1


@dataclasses.dataclass(kw_only=True)
class Context:
    """What a stage needs to run."""

    recipe: Recipe
    work: Path
    """The folder that holds all folders."""
    servers: Servers
    say: Say
    stall_seconds: float = 180
    keep_hidden_states: bool = False
    alone: bool = False
    """No later stage will run."""
    rehearsal: list[subprocess.Popen[bytes]] = dataclasses.field(default_factory=list)
    """A trainer that compiles ahead of the real one; see `training.trainer.rehearsal`."""
    folder: Path = Path()
    """The stage's own folder."""
    upstream: dict[str, Path] = dataclasses.field(default_factory=dict)
    """The folders of the stages before it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage: what it depends on, and how it runs."""

    name: str
    version: int
    """Increased when the same inputs give another output."""
    inputs: Callable[[Recipe], Any]
    """The part of a recipe, and of the files it names, that decides the stage's output."""
    run: Callable[[Context], dict[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planned:
    """A stage of one recipe."""

    stage: Stage
    folder: Path
    before: tuple[Path, ...]
    """The folders of the stages before it."""

    @property
    def record(self) -> dict[str, Any] | None:
        """The record of what it did; None while it is not done with what the stages before it made."""
        record = _read(self.folder / DONE)
        if record is None or record.get("schema") != _SCHEMA:
            return None
        return record if record.get("made_from") == self.made_from else None

    @property
    def made_from(self) -> list[str | None]:
        """The hash of the record of each stage before it; None of one that has none."""
        records = [folder / DONE for folder in self.before]
        return [sha256_of(file) if file.is_file() else None for file in records]

    def clear(self) -> None:
        """Empty its folder. Its record goes first, so that half a folder never counts as done."""
        (self.folder / DONE).unlink(missing_ok=True)
        for path in self.folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()


def _read(file: Path) -> dict[str, Any] | None:
    """What a stage noted; None where it did not, or the file is damaged."""
    try:
        return json_object(file.read_bytes(), str(file))
    except (OSError, BadRecord):
        return None


def plan(recipe: Recipe, stages: tuple[Stage, ...], work: Path) -> list[Planned]:
    """Every stage with its folder."""
    found, key = list[Planned](), ""
    for stage in stages:
        depends_on = [stage.name, stage.version, stage.inputs(recipe), key]
        key = hashlib.sha256(canonical(depends_on).encode()).hexdigest()[:12]
        before = tuple(planned.folder for planned in found)
        found.append(Planned(stage=stage, folder=work / f"{stage.name}-{key}", before=before))
    return found


def known(stages: tuple[Stage, ...], *names: str | None) -> None:
    """Check that each of the names is a stage's.

    Raises:
        BadInput: one is not.
    """
    there = [stage.name for stage in stages]
    for name in set(names).difference(there, {None}):
        raise BadRecipe(f"unknown stage {name!r}; there are: {', '.join(there)}")


def carry_out(
    stages: tuple[Stage, ...], base: Context, *, only: str | None = None, start: str | None = None
) -> dict[str, Any]:
    """Run the stages that are not done yet, and return the records by stage.

    Args:
        stages: in their order.
        base: what every stage needs; its folder and upstream are set for each.
        only: run this stage alone; those before it must be done.
        start: run this stage and all after it, also those that are done. An interrupted one goes on.

    Raises:
        BadInput: an unknown stage, one before `only` that is not done, or both of `only` and `start`.
        DraftgateError: a stage failed.
    """
    known(stages, only, start)
    if only and start:
        raise BadRecipe(f"--only {only} --from {start}: give one of them")
    records: dict[str, Any] = {}
    upstream: dict[str, Path] = {}
    again = False
    for planned in plan(base.recipe, stages, base.work):
        name, record = planned.stage.name, planned.record
        again = again or name in {only, start}
        if record is not None and not again:
            base.say(f"{name}: done before ({planned.folder})")
        elif only is not None and name != only:
            raise BadRecipe(f"--only {only}: {name} is not done yet; run without --only first")
        else:
            alone = base.alone or only is not None
            context = dataclasses.replace(base, folder=planned.folder, upstream=dict(upstream), alone=alone)
            record = _do(planned, context, again=again)
        records[name] = record
        upstream[name] = planned.folder
        if name == only:
            break
    return records


def _do(planned: Planned, context: Context, *, again: bool) -> dict[str, Any]:
    name, folder, say = planned.stage.name, planned.folder, context.say
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / LOCK):
        done = planned.record
        if done is not None and not again:  # another recipe did it while we waited for the lock
            say(f"{name}: done meanwhile ({folder})")
            return done
        noted = _read(folder / BEGUN) or _read(folder / DONE) or {"made_from": planned.made_from}
        if done is not None or noted.get("made_from") != planned.made_from:
            planned.clear()  # an interrupted stage goes on instead
        write_atomically(folder / BEGUN, json.dumps({"made_from": planned.made_from}) + "\n")
        say(f"{name}: {folder}")
        began = time.monotonic()
        counts = planned.stage.run(context)
        record = {
            "schema": _SCHEMA,
            "stage": name,
            "key": folder.name.rpartition("-")[2],
            "inputs": planned.stage.inputs(context.recipe),
            "upstream": {stage: path.name for stage, path in context.upstream.items()},
            "made_from": planned.made_from,
            "ended": time.time(),  # so that no two tries leave the same record
            "seconds": round(time.monotonic() - began, 1),
            "counts": counts,
        }
        write_atomically(folder / DONE, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    say(f"{name}: done in {record['seconds']:.0f} s")
    return record
