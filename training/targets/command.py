"""Lets a program of the user's make the target."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from harness.errors import BadInput
from training import program
from training.errors import TrainingFailed
from training.export.manifest import files_of
from training.targets.job import Job, Plan


def plan(job: Job) -> Plan:
    """What would be run.

    Raises:
        BadInput: there is no such program.
    """
    words = job.recipe.change.program
    if shutil.which(words[0]) is None:
        raise job.document.wrong(
            ("command", "program"), f"there is no program {words[0]}", code="command-failed"
        )
    return Plan(rows=[["program", " ".join([*words, "BASE", "OUTPUT"])]])


def make(job: Job) -> dict[str, Any]:
    """Run the program. It gets the unchanged target's folder and an empty one as its last two arguments.

    Raises:
        BadInput: it fails; it changes the unchanged target.
    """
    words, before = job.recipe.change.program, files_of(job.model.folder)
    with tempfile.TemporaryDirectory() as kept:
        log = Path(kept) / "command.log"
        try:
            program.run([*words, str(job.model.folder), str(job.output)], what=words[0], log=log)
        except TrainingFailed as error:
            quoted = str(error).replace(f"the end of {log}", "its last lines")
            raise BadInput(quoted, code="command-failed") from None
    if files_of(job.model.folder) != before:
        raise BadInput(
            f"{words[0]} changed the unchanged target, {job.model.folder}: copy that anew, and let the "
            "program write into its second folder alone",
            code="command-failed",
        )
    return {"program": [Path(words[0]).name, *words[1:]]}
