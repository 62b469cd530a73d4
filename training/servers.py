"""The target's servers in a training: one at a time, kept from stage to stage while it is the same."""

from __future__ import annotations

import contextlib
from pathlib import Path

from harness.config.cells import ServerSpec, canonical
from harness.engine.facts import engine_facts
from harness.engine.models import resolve
from harness.engine.server import Server, running
from harness.text.console import Say
from training.recipe import Recipe


class Engines:
    """Starts servers; at most one runs."""

    def __init__(self, folder: Path, say: Say) -> None:
        self._folder, self._say = folder, say
        self._spec: ServerSpec | None = None
        self._server: Server | None = None
        self._stack = contextlib.ExitStack()
        self.starts = 0

    def get(self, spec: ServerSpec) -> Server:
        """A server for `spec`: the one that runs, or a new one.

        Raises:
            ServerFailed, BadInput: see `harness.engine.server.running`.
        """
        if self._server is None or self._spec != spec:
            self.drop()
            # speculators' clients send no key
            start = running(spec, folder=self._folder, say=self._say, locked=False)
            self._server = self._stack.enter_context(start)
            self._spec = spec
            self.starts += 1
            self._say(f"server {spec.label} ready in {self._server.started_s} s")
        return self._server

    def drop(self) -> None:
        """End the server that runs, if there is one."""
        self._server = self._spec = None
        self._stack.close()


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
