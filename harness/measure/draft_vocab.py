"""The tokens that a drafter can propose, read from its checkpoint.

An EAGLE-3 head may know only a part of the target's vocabulary. Its checkpoint says which, as `d2t` (for
each draft token, the target's number minus its own) or `t2d` (for each target token, whether it has it).
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
    """How much of an output the drafter can propose."""

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
        """An upper bound on tokens per step: each token outside costs a decode step of its own."""
        outside = self.tokens - self.inside
        return min(k + 1, self.tokens / outside) if outside else k + 1


def draft_vocabulary(folder: str | None) -> frozenset[int] | None:
    """The target's token ids that the drafter in `folder` can propose; None if its files hold no map.

    Raises:
        BadInput: there is a map, but it cannot be read.
    """
    if folder is None or not folder.startswith("/"):
        return None
    for name in ("d2t", "t2d"):  # the engine uses d2t
        for file in sorted(Path(folder).glob("*.safetensors")):
            values = _tensor(file, name)
            if values is not None and values.size:
                offsets = values.astype(np.int64)
                ids = offsets + np.arange(values.size) if name == "d2t" else np.flatnonzero(offsets)
                return frozenset(int(i) for i in ids)
    return None


def coverage(vocabulary: frozenset[int], emitted: Mapping[int, int]) -> Coverage:
    """How much of an output a vocabulary holds.

    Args:
        vocabulary: token ids.
        emitted: how often each token id is in the output.
    """
    return Coverage(
        known=len(vocabulary),
        inside=sum(n for token, n in emitted.items() if token in vocabulary),
        tokens=sum(emitted.values()),
    )


def _tensor(file: Path, name: str) -> NDArray[np.integer[Any] | np.bool_] | None:
    """A small tensor of a safetensors file, flattened; None if the file has no such tensor."""
    try:
        with safe_open(file, framework="numpy") as tensors:
            if name not in tensors.keys():  # noqa: SIM118 - safe_open returns no mapping
                return None
            values = np.asarray(tensors.get_tensor(name)).ravel()
        if values.dtype.kind not in "iub":
            raise ValueError(f"it holds {values.dtype}, not whole numbers")  # noqa: TRY301
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise BadInput(
            f"{file}: its map of the draft vocabulary ({name}) cannot be read ({error}): "
            "copy the drafter's folder again",
            code="damaged-drafter",
        ) from None
    return values
