"""Keeps checkpoints by step, each complete or not there: the last few and the best.

checkpoints/step-000200/   model, optimizer, scheduler, state.json
checkpoints/best/          the same, with validation.json
checkpoints/current/       what speculators resumes from; made anew at each start
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

from harness.errors import BadRecord
from harness.results.files import as_line, complete_lines, read_json, write_atomically, writing

STATE = "training_state.json"
"""speculators' own name for it: epoch, local_step (0 at an epoch's end), global_step."""
VALIDATION = "validation.json"


@dataclasses.dataclass(frozen=True)
class Step:
    """A complete checkpoint."""

    path: Path
    epoch: int
    local_step: int
    global_step: int


class Checkpoints:
    """The checkpoints of one training."""

    def __init__(self, folder: Path, *, keep_last: int) -> None:
        self.folder = folder
        self._keep_last = keep_last
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def current(self) -> Path:
        """The folder that speculators takes for its own."""
        return self.folder / "current"

    @property
    def best(self) -> Path:
        """The checkpoint with the lowest validation loss; may not be there yet."""
        return self.folder / "best"

    def steps(self) -> list[Step]:
        """Complete checkpoints, oldest first."""
        found = []
        for path in sorted(self.folder.glob("step-*")):
            try:
                state = read_json(path / STATE)
                found.append(Step(path, state["epoch"], state["local_step"], state["global_step"]))
            except (BadRecord, ValueError, KeyError, TypeError):
                continue  # an earlier run was killed while it deleted this one
        return sorted(found, key=lambda step: step.global_step)

    def open(self) -> Step | None:
        """Prepare the folder that speculators resumes from; return its step, or None for a fresh start."""
        shutil.rmtree(self.current, ignore_errors=True)
        self.current.mkdir()
        self._uncut()
        steps = self.steps()
        if not steps:
            return None
        _link(steps[-1].path, self.current / str(steps[-1].epoch))
        return steps[-1]

    def _uncut(self) -> None:
        """Finish a `crown` that was interrupted after it had moved the old best checkpoint away."""
        made, old = self.folder / ".best", self.folder / ".best-old"
        if old.exists() and not self.best.exists():
            (made if made.exists() else old).rename(self.best)
        for left in (made, old):
            shutil.rmtree(left, ignore_errors=True)

    def keep(self, written: Path, *, epoch: int, local_step: int, global_step: int) -> Step:
        """Make a folder that is completely written the newest checkpoint."""
        path = self.folder / f"step-{global_step:06}"
        step = Step(path, epoch, local_step, global_step)
        (written / STATE).write_text(_state(step))
        for file in written.iterdir():
            _sync(file)
        shutil.rmtree(path, ignore_errors=True)
        written.rename(path)
        _sync(self.folder)
        for old in self.steps()[: -self._keep_last]:
            shutil.rmtree(old.path)
        return step

    def drop_from(self, step: int) -> None:
        """Delete the checkpoints of that step and later ones: the training diverged there."""
        for found in self.steps():
            if found.global_step >= step:
                shutil.rmtree(found.path)

    def end_epoch(self, step: Step) -> Step:
        """Mark its epoch as validated: a training that resumes from it begins the next one."""
        ended = dataclasses.replace(step, local_step=0)
        write_atomically(step.path / STATE, _state(ended))
        return ended

    def best_loss(self) -> tuple[float, int] | None:
        """Validation loss and epoch of the best checkpoint."""
        try:
            best = read_json(self.best / VALIDATION)
            return float(best["loss_epoch"]), int(best["epoch"])
        except (BadRecord, ValueError, KeyError, TypeError):
            return None

    def crown(self, step: Step, metrics: dict[str, Any]) -> None:
        """Make a checkpoint the best one."""
        made = self.folder / ".best"
        shutil.rmtree(made, ignore_errors=True)
        _link(step.path, made)
        (made / VALIDATION).write_text(json.dumps({"epoch": step.epoch, "step": step.global_step, **metrics}))
        old = self.folder / ".best-old"
        shutil.rmtree(old, ignore_errors=True)
        if self.best.exists():
            self.best.rename(old)
        made.rename(self.best)
        shutil.rmtree(old, ignore_errors=True)


def forget_after(path: Path, resumed: Step | None) -> None:
    """Remove the metrics of steps that will be done again, and a torn last line."""
    if not path.exists():
        return
    # A step's line counts the steps before it; a validation's line counts the step that it follows too.
    first = {"train": resumed.global_step if resumed else 0}
    first["val"] = first["train"] + (resumed is not None and resumed.local_step == 0)
    lines = list(complete_lines(path))
    with writing(path) as file:
        for line in lines:
            if any(kind in line and line["step"] < end for kind, end in first.items()):
                file.write(as_line(line))


def _state(step: Step) -> str:
    return json.dumps({"epoch": step.epoch, "local_step": step.local_step, "global_step": step.global_step})


def _link(source: Path, to: Path) -> None:
    """Copy without using disk space: no file of a checkpoint is ever changed."""
    shutil.copytree(source, to, copy_function=os.link)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
