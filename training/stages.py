"""Stages: each writes into a folder named by the hash of all that it depends on, and is done once.

Recipes that agree on a stage and on all before it share its folder; a stage that was cut off goes on in its
folder; `stage.json`, written last, says that it is done.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from harness.config.cells import canonical
from harness.engine.slot import Slot
from harness.errors import BadInput
from harness.results.files import write_atomically
from harness.text.console import Say
from training.recipe import Recipe

DONE, LOCK = "stage.json", ".lock"
_SCHEMA = 1


@dataclasses.dataclass(kw_only=True)
class Context:
    """What a stage is given."""

    recipe: Recipe
    work: Path
    """The folder that holds all folders."""
    slot: Slot
    say: Say
    stall_seconds: float = 180
    keep_hidden_states: bool = False
    folder: Path = Path()
    """The stage's own."""
    upstream: dict[str, Path] = dataclasses.field(default_factory=dict)
    """The folders of the stages before it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage: what it depends on, and how it is done."""

    name: str
    version: int
    """Raised when the same inputs would give another output."""
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
        """What it did, once it is done."""
        try:
            told: Any = json.loads((self.folder / DONE).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        return told if isinstance(told, dict) and told.get("schema") == _SCHEMA else None


def plan(recipe: Recipe, stages: tuple[Stage, ...], work: Path) -> list[Planned]:
    """Every stage with its folder."""
    found, key = [], ""
    for stage in stages:
        told = [stage.name, stage.version, stage.inputs(recipe), key]
        key = hashlib.sha256(canonical(told).encode()).hexdigest()[:12]
        found.append(Planned(stage=stage, folder=work / f"{stage.name}-{key}"))
    return found


def known(stages: tuple[Stage, ...], *names: str | None) -> None:
    """Raise BadInput where a stage is named that there is not."""
    there = [stage.name for stage in stages]
    for name in names:
        if name is not None and name not in there:
            raise BadInput(f"unknown stage {name!r}; there are: {', '.join(there)}")


def carry_out(
    stages: tuple[Stage, ...], base: Context, *, only: str | None = None, start: str | None = None
) -> dict[str, Any]:
    """Do what is not done yet; the records by stage.

    Args:
        stages: in their order.
        base: what every stage is given; its folder and upstream are set for each.
        only: this stage alone; those before it must be done.
        start: do this stage and all after it again where they are done; what was cut off goes on.

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
            raise BadInput(f"--only {only}: {name} is not done yet; run without --only first")
        else:
            context = dataclasses.replace(base, folder=planned.folder, upstream=dict(upstream))
            record = _do(planned, context, again=again)
        records[name] = record
        upstream[name] = planned.folder
        if name == only:
            break
    return records


def _clear(folder: Path) -> None:
    """Leave nothing that a stage could go on with; its record goes first."""
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
        if done is not None and not again:  # by another recipe, while we waited for it
            say(f"{name}: done meanwhile ({folder})")
            return done
        if done is not None:  # what was cut off goes on instead
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
