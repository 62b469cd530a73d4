"""Runs the stages of a recipe, each once, in a folder named by the hash of all that the stage depends on.

Recipes that agree on a stage and on all stages before it share its folder. A stage that was interrupted
goes on in its folder. A stage writes `stage.json` last, and is done once that is there.
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
from harness.errors import BadRecord
from harness.results.files import json_object, write_atomically
from harness.text.console import Say
from training.errors import BadRecipe
from training.recipe import Recipe
from training.servers import Servers

DONE, LOCK = "stage.json", ".lock"
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

    @property
    def record(self) -> dict[str, Any] | None:
        """The record of what it did; None while it is not done."""
        try:
            record = json_object((self.folder / DONE).read_bytes(), str(self.folder / DONE))
        except (OSError, BadRecord):
            return None
        return record if record.get("schema") == _SCHEMA else None


def plan(recipe: Recipe, stages: tuple[Stage, ...], work: Path) -> list[Planned]:
    """Every stage with its folder."""
    found, key = [], ""
    for stage in stages:
        depends_on = [stage.name, stage.version, stage.inputs(recipe), key]
        key = hashlib.sha256(canonical(depends_on).encode()).hexdigest()[:12]
        found.append(Planned(stage=stage, folder=work / f"{stage.name}-{key}"))
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
        BadInput: an unknown stage, or one before `only` that is not done.
        DraftgateError: a stage failed.
    """
    known(stages, only, start)
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


def _clear(folder: Path) -> None:
    """Empty a stage's folder. Its record goes first, so that half a folder never counts as done."""
    (folder / DONE).unlink()
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def _do(planned: Planned, context: Context, *, again: bool) -> dict[str, Any]:
    name, folder, say = planned.stage.name, planned.folder, context.say
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / LOCK):
        done = planned.record
        if done is not None and not again:  # another recipe did it while we waited for the lock
            say(f"{name}: done meanwhile ({folder})")
            return done
        if done is not None:  # an interrupted stage goes on instead
            _clear(folder)
        say(f"{name}: {folder}")
        began = time.monotonic()
        counts = planned.stage.run(context)
        record = {
            "schema": _SCHEMA,
            "stage": name,
            "key": folder.name.rpartition("-")[2],
            "inputs": planned.stage.inputs(context.recipe),
            "upstream": {stage: path.name for stage, path in context.upstream.items()},
            "seconds": round(time.monotonic() - began, 1),
            "counts": counts,
        }
        write_atomically(folder / DONE, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    say(f"{name}: done in {record['seconds']:.0f} s")
    return record
