"""A stack -> the cells to measure, and the servers that they need."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from typing import Any

from harness.config.stack import Profile, Stack, Target
from harness.results.records import CellName


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerSpec:
    """All that decides what a server is; two cells with equal specs share one."""

    stack: str
    target: Target
    engine_python: str | None
    port: int | None
    args: str
    """Canonical JSON of the engine's arguments."""
    env: tuple[tuple[str, str], ...]
    drafter: str
    k: int
    speculative: str | None
    """Canonical JSON of vLLM's speculative config; None drafts nothing. Model references are still
    unresolved, so that a plan can be made without weights."""
    start_timeout_s: float
    request_timeout_s: float

    @property
    def key(self) -> str:
        """A short hash: the server's name in plans, logs and xdist groups."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:12]

    @property
    def label(self) -> str:
        """What a reader calls it: `ngram-k4`, `none`."""
        return f"{self.drafter}-k{self.k}" if self.k else self.drafter


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One pytest case: a name, and all that is needed to measure it."""

    name: CellName
    spec: ServerSpec
    profile_name: str
    profile: Profile

    def __str__(self) -> str:
        return str(self.name)


def canonical(value: Any) -> str:
    """JSON with sorted keys: equal values give equal text."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def server_spec(stack: Stack, drafter_name: str, k: int, *, prefix_cache: bool = True) -> ServerSpec:
    """The server that measures `drafter_name` at `k`."""
    drafter = stack.drafters[drafter_name]
    speculative = None
    if drafter.method is not None:
        config = {"method": drafter.method, "num_speculative_tokens": k, **drafter.settings}
        if drafter.model is not None:
            config["model"] = drafter.model
        speculative = canonical(config)
    args = dict(stack.engine.args)
    if not prefix_cache:
        args["enable_prefix_caching"] = False
    return ServerSpec(
        stack=stack.name,
        target=stack.target,
        engine_python=stack.engine.python,
        port=stack.engine.port,
        args=canonical(args),
        env=tuple(sorted(stack.engine.env.items())),
        drafter=drafter_name,
        k=k,
        speculative=speculative,
        start_timeout_s=stack.engine.start_timeout_s,
        request_timeout_s=stack.engine.request_timeout_s,
    )


def cells(stack: Stack, profile_name: str, profile: Profile, *, workloads: tuple[str, ...]) -> Iterator[Cell]:
    """Every cell of a stack, drafter by drafter so that those of one server stand together."""
    for drafter_name, drafter in stack.drafters.items():
        for k in drafter.k:
            spec = server_spec(stack, drafter_name, k, prefix_cache=profile.cache != "off")
            for endpoint in stack.endpoints:
                for language in stack.languages:
                    for workload in workloads:
                        name = CellName(
                            endpoint=endpoint, language=language, workload=workload, drafter=drafter_name, k=k
                        )
                        yield Cell(name=name, spec=spec, profile_name=profile_name, profile=profile)
