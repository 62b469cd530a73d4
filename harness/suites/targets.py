"""Makes the target of a trial with the user's own command, in a folder of its own and without a shell."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import time
from typing import Any

from harness.config.space import Search, Values
from harness.engine import process
from harness.errors import BadInput
from harness.results.files import json_object, read_bytes, write_atomically
from harness.text.console import Say
from harness.text.redaction import without_secrets

MADE = "command.json"
"""Beside a target: the command that made it, and the seconds that it took. Without it, it is not whole."""


def refuse(search: Search) -> None:
    """Say before a server starts that the command's program is not there.

    Raises:
        BadInput: it is not.
    """
    space = search.space.space
    values = {key: one.ends[0] for key, one in space.items() if key.startswith("command.")}
    program = search.command(values)[0] if values else None
    if program and not ((program.startswith("/") or "/" not in program) and shutil.which(program)):
        what = f"there is no program {program}: write its name, or a path from {{here}}, this file's folder"
        raise search.wrong("", what)


def make(search: Search, values: Values, say: Say) -> dict[str, Any]:
    """Make the target of these values, unless it is there; what a trial's provenance says of it.

    Raises:
        BadInput: the command could not be started, failed, took too long, or left no folder.
    """
    target = search.made(values)
    if target is None:
        return {}
    folder, words = target.parent, search.command(values)
    log, made = folder / "command.log", folder / MADE
    if not (made.is_file() and target.is_dir()):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        say(f"making the target: {without_secrets(shlex.join(words))}")
        began = time.monotonic()
        try:
            child = process.start(words, log=log, environment=dict(os.environ), folder=folder)
        except (OSError, ValueError) as error:  # a NUL in a value
            raise BadInput(f"the command could not be started: {error}", code="command-failed") from None
        try:
            code = child.wait(search.space.command_timeout_s)
        except subprocess.TimeoutExpired:
            code, what = None, f"did not end within {search.space.command_timeout_s:g} s"
        else:
            what = f"failed (exit code {code})" if code else f"left no folder {target}"
        finally:
            process.stop(child)
        if code != 0 or not target.is_dir():
            raise BadInput(process.obituary(f"the command {what}", log), code="command-failed")
        known = {"command": without_secrets(words), "seconds": round(time.monotonic() - began, 1)}
        write_atomically(made, json.dumps(known) + "\n")
    return {"made_by": json_object(read_bytes(made), str(made))}
