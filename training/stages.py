"""Stages: each writes into a folder named by the hash of all that it depends on, and is done once.

Recipes that agree on a stage and on all before it share its folder; a stage that was cut off goes on in its
folder; `stage.json`, written last, says that it is done.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from harness.cells import canonical
from harness.errors import BadInput
from harness.models import Say
from harness.records import write_atomically
from training.engines import Engines
from training.recipe import Recipe

DONE = "stage.json"
_SCHEMA = 1


@dataclasses.dataclass(kw_only=True)
class Context:
    """What a stage is given."""

    recipe: Recipe
    work: Path
    """The folder that holds all folders."""
    engines: Engines
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
            told: dict[str, Any] = json.loads((self.folder / DONE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return told if told.get("schema") == _SCHEMA else None


def plan(recipe: Recipe, stages: tuple[Stage, ...], work: Path) -> list[Planned]:
    """Every stage with its folder."""
    found, key = [], ""
    for stage in stages:
        told = [stage.name, stage.version, stage.inputs(recipe), key]
        key = hashlib.sha256(canonical(told).encode()).hexdigest()[:12]
        found.append(Planned(stage=stage, folder=work / f"{stage.name}-{key}"))
    return found


def carry_out(
    stages: tuple[Stage, ...], base: Context, *, only: str | None = None, start: str | None = None
) -> dict[str, Any]:
    """Do what is not done yet; the records by stage.

    Args:
        stages: in their order.
        base: what every stage is given; its folder and upstream are set for each.
        only: this stage alone; those before it must be done.
        start: do this stage and all after it again, done or not.

    Raises:
        BadInput: an unknown stage, or one before `only` that is not done.
        DraftgateError: a stage failed.
    """
    names = [stage.name for stage in stages]
    for asked in (only, start):
        if asked is not None and asked not in names:
            raise BadInput(f"unknown stage {asked!r}; there are: {', '.join(names)}")
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


def _do(planned: Planned, context: Context, *, again: bool) -> dict[str, Any]:
    name, folder, say = planned.stage.name, planned.folder, context.say
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        done = planned.record
        if done is not None and not again:  # by another recipe, while we waited for it
            say(f"{name}: done meanwhile ({folder})")
            return done
        (folder / DONE).unlink(missing_ok=True)
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
