"""The target's servers in a training: one at a time, kept from stage to stage while it is the same."""

from __future__ import annotations

from pathlib import Path

from harness.config.cells import ServerSpec, canonical
from harness.engine.facts import engine_facts
from harness.engine.models import resolve
from harness.engine.server import running
from harness.engine.slot import Slot
from harness.text.console import Say
from training.recipe import Recipe


def open_slot(folder: Path, say: Say) -> Slot:
    """An empty slot for servers without a key: speculators' clients send none.

    Args:
        folder: the servers' logs go there.
        say: told what takes long.
    """
    return Slot(lambda spec: running(spec, folder=folder, say=say, locked=False), say)


def is_cpu(recipe: Recipe, python: str) -> bool:
    """Whether the installed engine is a CPU one."""
    return "cpu" in engine_facts(recipe.engine.python or python).package


def base_spec(recipe: Recipe, *, say: Say, python: str) -> tuple[ServerSpec, str]:
    """The server that answers prompts, and the target's folder, under whose name it is served.

    Raises:
        BadInput: the model is not there.
    """
    target = resolve(recipe.target.model, say=say, python=recipe.engine.python)
    args = dict(recipe.engine.args)
    if is_cpu(recipe, python):
        args.setdefault("enforce_eager", True)
    spec = ServerSpec(
        stack=recipe.name,
        target=recipe.target.model_copy(update={"served_name": target}),
        engine_python=recipe.engine.python,
        port=recipe.engine.port,
        args=canonical(args),
        env=tuple(sorted(recipe.engine.env.items())),
        drafter="none",
        k=0,
        speculative=None,
        start_timeout_s=recipe.engine.start_timeout_s,
        request_timeout_s=recipe.engine.request_timeout_s,
    )
    return spec, target
