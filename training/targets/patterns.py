"""Reads off the headers of a target's files what a quantisation takes and what it leaves. Loads no weight."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from harness.config.toml import Document
from training.targets.folder import Model, Tensor
from training.targets.recipe import REGEX

_STACKED = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
"""Matrices of all experts in one tensor: what llm-compressor makes of each expert's."""
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_ROUTER = re.compile(r"(\w+_)?router")
_GATE = re.compile(r"gate|gating|shared_expert_gate")
_MATRIX = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weight:
    """A tensor of a target as llm-compressor sees it: experts that lie in one tensor are one each."""

    module: str
    """Its name without the last part."""
    part: str
    """The last part of its name: `weight`, `bias`."""
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """As it stands in a file."""
        return f"{self.module}.{self.part}" if self.module else self.part

    @property
    def taken_alone(self) -> bool:
        """Whether llm-compressor would quantise it if no pattern said otherwise."""
        return self.part == "weight" and not self.module.endswith("norm")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Takes:
    """What a quantisation does to each weight."""

    quantised: tuple[Weight, ...]
    ignored: Mapping[str, tuple[Weight, ...]]
    """By pattern, also those that match nothing."""
    left: tuple[Weight, ...]
    """Stay as they are without a pattern: norms and biases."""

    def rows(self) -> Iterator[tuple[str, str]]:
        """The same for a reader: of each pattern, of what stays without one, and of what is quantised."""
        for pattern, weights in self.ignored.items():
            yield f"ignore {pattern!r}", _kinds(weights)
        yield "left as it is, without a pattern", _kinds(self.left)
        yield "quantised", _kinds(self.quantised)


def takes(model: Model, *, ignore: Sequence[str], optional: Sequence[str], document: Document) -> Takes:
    """What is quantised and what each pattern leaves out.

    Args:
        model: the target.
        ignore: patterns; each must match.
        optional: further patterns, which may match nothing.
        document: the file of the patterns, for messages.

    Raises:
        BadInput: a pattern of `ignore` matches nothing; a router, or what is no matrix, would be quantised;
            or nothing would.
    """
    weights = [weight for tensor in model.tensors.values() for weight in _seen(tensor)]
    matches = {pattern: _matcher(pattern) for pattern in (*ignore, *optional)}
    ignored: dict[str, list[Weight]] = {pattern: [] for pattern in matches}
    quantised: list[Weight] = []
    left: list[Weight] = []
    for weight in weights:
        by = [pattern for pattern, match in matches.items() if match(weight.module)]
        for pattern in by:
            ignored[pattern].append(weight)
        if not by:
            (quantised if weight.taken_alone else left).append(weight)
    _check(quantised, _experts(model, weights), document)
    for pattern in ignore:
        if not ignored[pattern]:
            raise document.wrong(
                ("quantize", "ignore"),
                f"{pattern!r} matches no module of the target: correct it, or move it to quantize.optional, "
                "whose patterns may match nothing",
                code="quantize-ignore",
            )
    return Takes(
        quantised=tuple(quantised),
        ignored={pattern: tuple(found) for pattern, found in ignored.items()},
        left=tuple(left),
    )


def _check(quantised: Sequence[Weight], experts: int | None, document: Document) -> None:
    """Check that what the patterns leave can be quantised.

    Raises:
        BadInput: see `takes`.
    """
    at = ("quantize", "ignore")
    if routers := [weight.module for weight in quantised if _is_router(weight, experts)]:
        raise document.wrong(
            at,
            f"no pattern matches the router {routers[0]} (one of {len(routers)}), and a quantised router "
            "sends tokens to the wrong experts: add 're:.*router.*', or a pattern like it",
            code="quantize-router",
        )
    if odd := [weight for weight in quantised if len(weight.shape) != _MATRIX]:
        raise document.wrong(
            at,
            f"{odd[0].name} (one of {len(odd)}) would be quantised and is no matrix, but of shape "
            f"{list(odd[0].shape)}: add a pattern for it",
            code="quantize-ignore",
        )
    if not quantised:
        raise document.wrong(at, "the patterns leave nothing to quantise: remove one", code="quantize-ignore")


def _seen(tensor: Tensor) -> Iterator[Weight]:
    module, _, part = tensor.name.rpartition(".")
    stacked = next((key for key in _STACKED if key in tensor.name), None)
    if stacked is None or len(tensor.shape) != _MATRIX + 1:
        yield Weight(module=module, part=part, shape=tensor.shape)
        return
    experts, rows, columns = tensor.shape
    halves = _STACKED[stacked]
    for expert in range(experts):
        for half in halves:
            one = tensor.name.replace(stacked, f"{expert}.{half}").removesuffix(".weight")
            yield Weight(module=one, part="weight", shape=(rows // len(halves), columns))


def _matcher(pattern: str) -> Callable[[str], object]:
    if pattern.startswith(REGEX):
        return re.compile(pattern.removeprefix(REGEX)).match
    return pattern.__eq__


def _experts(model: Model, weights: Iterable[Weight]) -> int | None:
    """Experts of a layer; 0 where only names show that there are some, and None where there are none."""
    for key in _EXPERTS:
        if isinstance(count := model.text.get(key), int) and count > 1:
            return count
    return 0 if any("experts" in weight.module.split(".") for weight in weights) else None


def _is_router(weight: Weight, experts: int | None) -> bool:
    """By its name, or because it has a row for each expert and is none of attention's."""
    parts = weight.module.split(".")
    if any(_ROUTER.fullmatch(part) for part in parts):
        return True
    if experts is None or "experts" in parts:
        return False
    rows = weight.shape[0] == experts and not any("attn" in part or "attention" in part for part in parts)
    return rows or any(_GATE.fullmatch(part) for part in parts)


def _kinds(weights: Iterable[Weight]) -> str:
    """`model.layers.*.mlp.down_proj.weight: 30 (26.5 M values)`, kind by kind."""
    groups: dict[str, list[int]] = defaultdict(list)
    for weight in weights:
        groups[re.sub(r"\.\d+(?=\.|$)", ".*", weight.name)].append(math.prod(weight.shape))
    kinds = [f"{kind}: {len(sizes)} ({sum(sizes) / 1e6:.2f} M values)" for kind, sizes in groups.items()]
    return "; ".join(kinds) or "nothing"
