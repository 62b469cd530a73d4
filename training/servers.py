"""The target's servers, which stages share: those that answer, and the one that extracts hidden states."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from harness.config.cells import ServerSpec, server_spec
from harness.config.engine_arguments import underscored
from harness.config.stack import NO_DRAFTER
from harness.engine.facts import engine_facts
from harness.engine.models import resolve
from harness.engine.server import Server, running
from harness.engine.slot import Slot, Start
from harness.text.console import Say
from training.recipe import Recipe

MOST_MEMORY = 0.95
"""Of a GPU, that servers and trainer take in all."""


class EarlySlot(Slot):
    """A slot whose server may begin to start before somebody asks for it."""

    begun = False
    """It was told to begin at some time."""
    _starting: Future[Server] | None = None

    def begin(self, spec: ServerSpec) -> None:
        """Start a server in the background. If that fails, the next `get` tries again."""
        self.begun = True
        pool = ThreadPoolExecutor(1, thread_name_prefix="early")
        self._starting = pool.submit(super().get, spec)
        pool.shutdown(wait=False)

    def get(self, spec: ServerSpec, *, anew: bool = False, cold: Iterable[str] = ()) -> Server:
        """As of any slot, once a start in the background has ended."""
        self._settle()
        return super().get(spec, anew=anew, cold=cold)

    def close(self) -> None:
        """As of any slot, once a start in the background has ended."""
        self._settle()
        super().close()

    def _settle(self) -> None:
        starting, self._starting = self._starting, None
        if starting is not None and starting.exception() is not None:
            super().close()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Servers:
    """The slots of a training."""

    answering: tuple[Slot, ...]
    """Each for a server that answers prompts."""
    hidden: EarlySlot
    """For the server that extracts hidden states."""

    def end_answering(self) -> None:
        """End the servers that answer: the device is somebody else's now."""
        for slot in self.answering:
            slot.close()

    def close(self) -> None:
        """End all of them."""
        self.end_answering()
        self.hidden.close()


def open_servers(recipe: Recipe, work: Path, say: Say) -> Servers:
    """Empty slots, as many as the recipe has servers answer; see `open_slot`."""
    answering = tuple(open_slot(work, say) for _ in range(recipe.responses.servers))
    return Servers(answering=answering, hidden=EarlySlot(_start(work, say), say))


def fit_together(recipe: Recipe) -> bool:
    """Whether the server of the hidden states has room on a GPU while the others still answer.

    It has where the recipe says how much memory each takes: a server cannot find out how much is left while
    others start beside it.
    """
    args = underscored(recipe.engine.args)
    share, cache = args.get("gpu_memory_utilization"), args.get("kv_cache_memory_bytes")
    if not isinstance(share, int | float) or not cache:
        return False
    return recipe.responses.servers * share + recipe.hidden_states.gpu_memory <= MOST_MEMORY


def open_slot(work: Path, say: Say) -> Slot:
    """An empty slot for servers without a key: speculators' clients send none.

    Args:
        work: the servers' logs go into `servers` there.
        say: gets a line before anything slow.
    """
    return Slot(_start(work, say), say)


def _start(work: Path, say: Say) -> Start:
    return lambda spec: running(spec, folder=work / "servers", say=say, locked=False)


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
