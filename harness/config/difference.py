"""In what two stacks differ, as far as a server notices, and whether the user meant it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from harness.config.engine_arguments import underscored
from harness.config.prompts import hash_of
from harness.config.stack import Stack
from harness.errors import BadInput
from harness.text.redaction import without_secrets

_MISSING = "(not set)"
Differences = Mapping[str, tuple[Any, Any]]
"""By the key in a stack, the value in the old one and in the new one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Against:
    """What a stack's speed is compared with, in one session."""

    stack: Stack
    """The old one."""
    blocks: int
    """Of four starts."""
    across: tuple[str, ...] = ()
    """Keys in which the two may differ."""

    def recorded(self) -> dict[str, Any]:
        """What must be the same for a run to be resumed."""
        text = json.dumps(self.stack.model_dump(mode="json"), sort_keys=True)  # a hash: it may hold a secret
        return {"against": hash_of(text), "blocks": self.blocks}


def differences(old: Stack, new: Stack, drafters: Iterable[str]) -> Differences:
    """What the servers of two stacks are started with differently.

    Args:
        old: one stack.
        new: the other.
        drafters: names that both have; the others start no server here.
    """
    drafters = list(drafters)
    before, after = (dict(_fields(stack, drafters)) for stack in (old, new))
    return {
        key: (before.get(key, _MISSING), after.get(key, _MISSING))
        for key in dict.fromkeys([*before, *after])
        if json.dumps(before.get(key, _MISSING)) != json.dumps(after.get(key, _MISSING))
    }


def _fields(stack: Stack, drafters: Iterable[str]) -> Iterator[tuple[str, Any]]:
    for name, value in stack.target.model_dump(mode="json").items():
        yield f"target.{name}", value
    engine = stack.engine
    yield from (("engine.python", engine.python), ("engine.fork", engine.fork))
    for table, values in (("args", underscored(engine.args)), ("env", engine.env)):
        yield from ((f"engine.{table}.{name}", value) for name, value in without_secrets(values).items())
    for name in drafters:
        drafter = stack.drafters[name]
        own = {"method": drafter.method, "model": drafter.model, **drafter.settings}
        yield from ((f"drafters.{name}.{key}", value) for key, value in own.items())


def listed(found: Differences) -> str:
    """`engine.args.max_num_seqs: 64 -> 32; target.dtype: "auto" -> "float32"`."""
    return "; ".join(f"{key}: {_said(old)} -> {_said(new)}" for key, (old, new) in found.items())


def _said(value: Any) -> str:
    return value if value == _MISSING else json.dumps(value, ensure_ascii=False)


def refuse_unmeant(found: Differences, across: Collection[str]) -> None:
    """One difference is the question. Several have to be named, or nobody could say which one did it.

    Args:
        found: in what the stacks differ.
        across: keys that may differ, or tables of them like `engine.args`.

    Raises:
        BadInput: with both values of each difference that nobody named; or a name that is no difference.
    """

    def covers(name: str, key: str) -> bool:
        return key == name or key.startswith(f"{name}.")

    for name in across:
        if not any(covers(name, key) for key in found):
            there = ", ".join(found) or "nothing"
            what = f"--across {name}: the two stacks do not differ in it, but in {there}: name that"
            raise BadInput(what, code="stacks-differ")
    unmeant = {key: both for key, both in found.items() if not any(covers(name, key) for name in across)}
    if unmeant and len(found) > 1:
        raise BadInput(
            f"the two stacks differ in {len(found)} things, so no change of speed could be put down to one: "
            f"{listed(unmeant)}; make these alike, or say that they may differ: "
            + " ".join(f"--across {key}" for key in found),
            code="stacks-differ",
        )
