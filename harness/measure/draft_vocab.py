"""The tokens that a drafter can propose at all, read from its own file. Pure but for that.

An EAGLE-3 head may know a part of the target's vocabulary only; its checkpoint says which, in `d2t` (for each
draft token the target's number minus its own) or `t2d` (for each target token whether it is among them).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from harness.errors import BadInput


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coverage:
    """How much of an output the drafter could have proposed."""

    known: int
    """Tokens of the draft vocabulary."""
    inside: int
    tokens: int
    """Output tokens, `inside` of them in the draft vocabulary."""

    @property
    def share(self) -> float:
        """Of the output tokens; 1 where there are none."""
        return self.inside / self.tokens if self.tokens else 1.0

    def most_per_step(self, k: int) -> float:
        """A bound on tokens per step: a token outside is never accepted, so each costs a decode step."""
        outside = self.tokens - self.inside
        return min(k + 1, self.tokens / outside) if outside else k + 1


def draft_vocabulary(folder: str | None) -> frozenset[int] | None:
    """The target's token ids that the drafter in `folder` can propose; None where its files hold no map.

    Raises:
        BadInput: a map is there, but cannot be read.
    """
    if folder is None or not folder.startswith("/"):
        return None
    for name in ("d2t", "t2d"):  # the engine goes by d2t
        for file in sorted(Path(folder).glob("*.safetensors")):
            values = _tensor(file, name)
            if values is not None and values.size:
                offsets = values.astype(np.int64)
                ids = offsets + np.arange(values.size) if name == "d2t" else np.flatnonzero(offsets)
                return frozenset(int(i) for i in ids)
    return None


def coverage(vocabulary: frozenset[int], emitted: Mapping[int, int]) -> Coverage:
    """Of output tokens, by id and how often each came."""
    return Coverage(
        known=len(vocabulary),
        inside=sum(n for token, n in emitted.items() if token in vocabulary),
        tokens=sum(emitted.values()),
    )


def _tensor(file: Path, name: str) -> NDArray[np.integer[Any] | np.bool_] | None:
    """One small tensor of a safetensors file, flat; None where it has no such tensor."""
    try:
        with safe_open(file, framework="numpy") as tensors:
            if name not in tensors.keys():  # noqa: SIM118 - it is no mapping
                return None
            values = np.asarray(tensors.get_tensor(name)).ravel()
        if values.dtype.kind not in "iub":
            raise ValueError(f"it holds {values.dtype}, no whole numbers")  # noqa: TRY301
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise BadInput(
            f"{file}: its map of the draft vocabulary ({name}) cannot be read ({error}): "
            "copy the drafter's folder anew",
            code="damaged-drafter",
        ) from None
    return values
