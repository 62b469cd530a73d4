"""Specifies the target's servers of a training. Stages share them, and one runs in each slot."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from harness.config.cells import ServerSpec, server_spec
from harness.config.stack import NO_DRAFTER
from harness.engine.facts import engine_facts
from harness.engine.models import resolve
from harness.engine.server import running
from harness.engine.slot import Slot
from harness.text.console import Say
from training.recipe import Recipe


def open_slot(work: Path, say: Say) -> Slot:
    """An empty slot for servers without a key: speculators' clients send none.

    Args:
        work: the servers' logs go into `servers` there.
        say: gets a line before anything slow.
    """
    return Slot(lambda spec: running(spec, folder=work / "servers", say=say, locked=False), say)


def is_cpu(recipe: Recipe) -> bool:
    """Whether the installed engine is a CPU one."""
    return engine_facts(recipe.engine.python or sys.executable).cpu


def base_spec(recipe: Recipe, *, say: Say) -> tuple[ServerSpec, str]:
    """The server that answers prompts, and the target's folder, under whose name it is served.

    Raises:
        BadInput: the model is not there.
    """
    target = resolve(recipe.target.model, say=say, python=recipe.engine.python)
    spec = server_spec(recipe, NO_DRAFTER, 0)
    cpu = is_cpu(recipe)
    args = {"enforce_eager": True, **spec.args} if cpu else spec.args
    fork = spec.fork if cpu else bool(spec.fork)  # on a GPU only where asked for: it was not tried there
    served = recipe.target.model_copy(update={"served_name": target})
    return dataclasses.replace(spec, target=served, args=args, fork=fork), target
