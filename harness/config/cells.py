"""Lists the cells of a stack, and specifies the servers that they need."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Protocol

from harness.config.engine_arguments import drafts_from_answers
from harness.config.prompt_files import OwnPrompts
from harness.config.stack import NO_DRAFTER, NONE, Drafter, Profile, Stack
from harness.config.variants import Engine, Target
from harness.results.names import BASE
from harness.results.records import CellName


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ServerSpec:
    """All that decides what a server is; two cells with equal specs share one."""

    stack: str
    target: Target
    engine_python: str | None
    port: int | None
    args: Mapping[str, Any]
    """The engine's arguments by their names; values are JSON's."""
    env: Mapping[str, str]
    drafter: str
    k: int
    speculative: Mapping[str, Any] | None
    """vLLM's speculative config; None drafts nothing. Model references are still unresolved, so that a plan
    can be made without weights."""
    start_timeout_s: float
    request_timeout_s: float
    fork: bool = True
    """Start it as a fork of a process that has imported vLLM, where the engine can be forked."""
    variant: str = BASE
    """Of the stack, or one of its references: each has servers of its own."""
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What that changes, by key; values are JSON's."""
    source: Path | None = None
    """The file of the stack, for messages."""

    @functools.cached_property
    def key(self) -> str:
        """A short hash of all fields: the server's name in xdist groups."""
        fields = {**vars(self), "target": self.target.model_dump(), "source": None}
        return hashlib.sha256(canonical(fields).encode()).hexdigest()[:12]

    def __eq__(self, other: object) -> bool:
        # Not field by field: to Python True is 1, to a command line it is not.
        return isinstance(other, ServerSpec) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def label(self) -> str:
        """What a reader calls it: `ngram-k4`, `none`, `short-none`."""
        of = "" if self.variant == BASE else f"{self.variant}-"
        return of + (f"{self.drafter}-k{self.k}" if self.k else self.drafter)

    @property
    def remembers(self) -> bool:
        """Its drafter drafts from earlier answers, to any request."""
        drafter = self.speculative or {}
        return drafts_from_answers(drafter.get("method"), drafter)


class FixedLength(Profile):
    """Of answers that do not end by themselves, so that two engines do the same work.

    No stack can ask for it: what comes after an answer's end is no answer, and tells nothing of acceptance.
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One pytest case: a name, and all that is needed to measure it."""

    name: CellName
    spec: ServerSpec
    profile_name: str
    profile: Profile
    subject: tuple[str, ...] = ()
    """Fields of the identity that the stack declares its subject."""

    def __str__(self) -> str:
        return str(self.name)

    @property
    def template(self) -> dict[str, bool]:
        """What the chat template is told (`chat_template_kwargs`)."""
        return {self.spec.target.thinking_key: self.name.thinking == "on"} if self.name.thinking else {}


def canonical(value: Any) -> str:
    """JSON with sorted keys: equal values give equal text."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


class Setup(Protocol):
    """What a stack says of its servers; a training's recipe says it too."""

    name: str
    target: Target
    engine: Engine


def server_spec(setup: Setup, drafter: Drafter, k: int, *, prefix_cache: bool = True) -> ServerSpec:
    """The server on which `drafter` proposes `k` tokens a step. The stack need not have it."""
    engine = setup.engine
    speculative = None
    if drafter.method is not None:
        speculative = {"method": drafter.method, "num_speculative_tokens": k, **drafter.settings}
        if drafter.model is not None:
            speculative["model"] = drafter.model
    return ServerSpec(
        stack=setup.name,
        target=setup.target,
        engine_python=engine.python,
        port=engine.port,
        args=_in_order(engine.args if prefix_cache else {**engine.args, "enable_prefix_caching": False}),
        env=_in_order(engine.env),
        drafter=drafter.name,
        k=k,
        speculative=_in_order(speculative),
        start_timeout_s=engine.start_timeout_s,
        request_timeout_s=engine.request_timeout_s,
        fork=engine.fork,
    )


def without_drafts(cell: Cell) -> Cell:
    """The cell of `none` in the same place, measured alike."""
    name = cell.name.model_copy(update={"drafter": NO_DRAFTER.name, "k": 0})
    spec = dataclasses.replace(cell.spec, drafter=NO_DRAFTER.name, k=0, speculative=None)
    return dataclasses.replace(cell, name=name, spec=spec)


def with_k(cell: Cell, k: int) -> Cell:
    """The cell of the same drafter with another k, which the stack need not have."""
    spec = cell.spec
    speculative = {**(spec.speculative or {}), "num_speculative_tokens": k}
    name = cell.name.model_copy(update={"k": k})
    return dataclasses.replace(cell, name=name, spec=dataclasses.replace(spec, k=k, speculative=speculative))


def with_profile(cell: Cell, **changes: object) -> Cell:
    """The same cell with other values in its profile."""
    return dataclasses.replace(cell, profile=cell.profile.model_copy(update=changes))


def _in_order(value: Any) -> Any:
    """The same with sorted keys: records of equal stacks are equal text, however their files are written."""
    return json.loads(canonical(value))


def cells_of(
    stack: Stack,
    profile_name: str,
    profile: Profile,
    *,
    workloads: tuple[str, ...],
    own: Mapping[str, OwnPrompts] | None = None,
) -> Iterator[Cell]:
    """Every cell of a stack, server by server: of each variant all drafters, then the references.

    Args:
        stack: whose.
        profile_name: how it is measured.
        profile: that of the name, perhaps changed.
        workloads: to measure.
        own: the prompts of those that the user brings. They say their languages;
            chats go over chat alone.
    """
    places = [
        place for workload in workloads for place in _places(stack, workload, (own or {}).get(workload))
    ]
    for spec in specs_of(stack, prefix_cache=profile.cache != "off"):
        for place in places:
            name = place.model_copy(
                update={
                    "variant": spec.variant,
                    "reference": spec.variant in stack.references,
                    "drafter": spec.drafter,
                    "k": spec.k,
                }
            )
            yield Cell(
                name=name, spec=spec, profile_name=profile_name, profile=profile, subject=stack.subject
            )


def specs_of(stack: Stack, *, prefix_cache: bool = True) -> Iterator[ServerSpec]:
    """Every server of a stack: of each variant all drafters, and each reference without one."""
    for variant in (BASE, *stack.variants, *stack.references):
        setup, changed = stack.varied(variant), stack.setups.get(variant)
        for drafter in (NO_DRAFTER,) if variant in stack.references else stack.drafters.values():
            for k in drafter.k:
                spec = server_spec(setup, drafter, k, prefix_cache=prefix_cache)
                changes = _in_order(changed.changes if changed else {})
                yield dataclasses.replace(spec, variant=variant, changes=changes, source=stack.source)


def _places(stack: Stack, workload: str, own: OwnPrompts | None) -> Iterator[CellName]:
    """The cells of `none`: one for each endpoint and language, and over chat for each way to think."""
    for endpoint, language in product(stack.endpoints, own.languages if own else stack.languages):
        if endpoint == "chat" or own is None or own.are_texts(language):
            for thinking in (stack.thinking if endpoint == "chat" else ()) or (None,):
                yield CellName(
                    endpoint=endpoint,
                    language=language,
                    workload=workload,
                    thinking=thinking,
                    drafter=NONE,
                    k=0,
                )


WARM_TOKENS = 16
"""Of an answer that warms a server up: what is slow the first time is so in the first steps."""


def warmups_of(cells: Sequence[Cell], *, attached: bool = False) -> dict[Cell, float]:
    """How many answers each cell's warm-up is worth: the first one's on a server, or if `attached`, each."""
    first = {cell.spec: cell for cell in reversed(cells)}
    share = {cell: min(1, WARM_TOKENS / cell.profile.max_tokens) for cell in cells}
    return {c: c.profile.warmups * share[c] * (attached or first[c.spec] == c) for c in cells}
