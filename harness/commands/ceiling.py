"""`draftgate doctor --ceiling`: the speed that memory bandwidth allows, had everything else cost nothing.

A step reads weights and KV cache once, however many tokens it verifies. So one request gets at most

    tok/s = B E / (W + C + D),    E = 1 + a + ... + a^k

(Leviathan et al. 2023, equation 1, for E). B is the bandwidth, W the weights that a step reads, C the KV
cache, D what the drafter reads to draft k tokens, a its acceptance, alike in every position.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator
from typing import NoReturn

from harness.config.engine_arguments import underscored
from harness.config.stack import Drafter, Stack
from harness.engine.bandwidth import bandwidth, cores_of
from harness.engine.models import resolve
from harness.engine.traffic import UnknownShape, Weights, passes_of
from harness.errors import DraftgateError
from harness.provenance.hardware import environment, on_cpu
from harness.provenance.record import folder_of
from harness.text.numbers import DASH
from harness.text.render import text_table, visible

CONTEXT = 512
"""Tokens in the KV cache."""
_ACCEPTANCE = (0.5, 0.7, 0.9, 1.0)


@dataclasses.dataclass(frozen=True, slots=True)
class Theoretical:
    """A speed that nobody measured. It is no number, so that no record, table or export can hold it."""

    tokens_per_second: dataclasses.InitVar[float]
    _shown: str = dataclasses.field(init=False, repr=False)

    def __post_init__(self, tokens_per_second: float) -> None:
        object.__setattr__(self, "_shown", f"{tokens_per_second:.3g}")

    def shown(self) -> str:
        """For the block of this module."""
        return self._shown

    def __format__(self, spec: str) -> NoReturn:
        """Refuse.

        Raises:
            TypeError: always.
        """
        raise TypeError("a theoretical figure stands in its own block alone")


def allowed(a: float, k: int, *, read: float, per_second: float) -> Theoretical:
    """Tokens a second that memory allows.

    Args:
        a: acceptance in each position.
        k: draft tokens a step.
        read: bytes a step, of the target and of the drafter.
        per_second: bytes that memory moves.
    """
    return Theoretical(sum(a**i for i in range(k + 1)) * per_second / read)


def block(stack: Stack) -> Iterator[str]:
    """The lines of the ceiling; what is not known is an em dash, and a sentence says why."""
    yield "theoretical, not measured: tok/s of one request that memory allows, had all else cost nothing"
    yield "  tok/s = B E / (W + C + D),  E = 1 + a + ... + a^k,  a = acceptance in every position"
    kind = str(underscored(stack.engine.args).get("kv_cache_dtype", "auto"))
    try:
        target = _weights(stack, stack.target.model, stack.target.revision)
        if stack.target.quantization and not target.config.get("quantization_config"):
            raise UnknownShape(f"the engine makes its weights {stack.target.quantization}")  # noqa: TRY301
        w = target.step()
        b, where = _bandwidth(stack)
    except (UnknownShape, DraftgateError) as why:
        yield visible(f"  {DASH}  the ceiling of {stack.target.model} is not known: {why}")
        return
    yield f"  B  {_size(b)}/s: {where}"
    of_experts = ", of the experts those of one token" * target.experts
    yield f"  W  {_size(w)}: weights that a step reads{of_experts}"
    rows: list[list[str]] = []
    notes: dict[str, str] = {}
    try:
        c = target.cache(CONTEXT, dtype=stack.target.dtype, kind=kind)
        yield f"  C  {_size(c)}: KV cache of {CONTEXT} tokens"
    except UnknownShape as why:  # less is read then, and no ceiling is too low
        c = 0
        yield f"  C  {DASH}  left out: {why}"
    for drafter in stack.drafters.values():
        for k in drafter.k:
            name = f"{drafter.name}-k{k}" if k else drafter.name
            try:
                d = _drafted(stack, drafter, k, target)
            except (UnknownShape, DraftgateError) as why:
                notes[drafter.name] = f"  {DASH}  {drafter.name}: {why}"
                rows.append([name, *[DASH] * (1 + len(_ACCEPTANCE))])
                continue
            speeds = [allowed(a, k, read=w + c + d, per_second=b).shown() for a in _ACCEPTANCE]
            rows.append([name, _size(d), *speeds])
    yield from text_table(["drafter", "D", *(f"a={a:g}" for a in _ACCEPTANCE)], rows).splitlines()
    yield from map(visible, notes.values())


def _weights(stack: Stack, model: str, revision: str | None) -> Weights:
    where = resolve(model, say=lambda _: None, python=stack.engine.python)
    return Weights(folder_of(where, revision), stack.target.dtype)


def _drafted(stack: Stack, drafter: Drafter, k: int, target: Weights) -> float:
    """Bytes that a drafter reads in a step."""
    if drafter.method is None:
        return 0
    passes = passes_of(drafter.method, k, drafter.settings)
    if not passes:
        return 0
    if drafter.settings.get("quantization") or drafter.settings.get("draft_lm_head_quantization"):
        raise UnknownShape("the engine makes its weights smaller")
    if drafter.model == "target":
        return passes * target.step()
    if drafter.model is None:
        return target.own_drafter(passes)
    return _weights(stack, drafter.model, drafter.settings.get("revision")).drafts(passes, target)


def _bandwidth(stack: Stack) -> tuple[float, str]:
    """Bytes a second, and where they were measured."""
    engine = stack.engine
    cores = cores_of(engine.env) if on_cpu(engine.python) else None
    found = bandwidth(engine.python or sys.executable, cores=cores, env=engine.env)
    here = environment(engine, python=engine.python)
    if cores is not None:
        which = f"core{'s' * (len(cores) > 1)} {', '.join(map(str, cores))} of {here.cpu}"
        return found, f"a copy on {which}, bytes read and written"
    given = str(underscored(stack.engine.args).get("tensor_parallel_size", 1))
    devices = int(given) if re.fullmatch("[1-9][0-9]{0,3}", given) else 1
    names = here.gpus[0].name if here.gpus else "the GPU"
    return found * devices, f"a copy on {names}, bytes read and written{f', times {devices}' * (devices > 1)}"


def _size(count: float) -> str:
    """`538 MB`."""
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"  # noqa: PLR2004
