"""The tokens that a drafter can propose at all, read from its own file. Pure but for that.

An EAGLE-3 head may know a part of the target's vocabulary only; its checkpoint says which, in `d2t` (for each
draft token the target's number minus its own) or `t2d` (for each target token whether it is among them).
"""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from harness.errors import BadInput

_HEAD = 8
"""Bytes that say how long the header of a safetensors file is."""
_MOST_HEAD = 100_000_000  # the format's own limit
_TYPES = {"I64": "<i8", "I32": "<i4", "BOOL": "?", "U8": "u1"}


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


def _tensor(file: Path, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]] | None:
    """One small tensor of a safetensors file, flat; None where it has no such tensor."""
    try:
        with file.open("rb") as data:
            (length,) = struct.unpack("<Q", data.read(_HEAD))
            if length > _MOST_HEAD:
                raise ValueError("its header is too long")  # noqa: TRY301
            entry = json.loads(data.read(length)).get(name)
            if entry is None:
                return None
            begin, end = entry["data_offsets"]
            if not 0 <= begin <= end <= file.stat().st_size - _HEAD - length:
                raise ValueError("it lies outside the file")  # noqa: TRY301
            data.seek(_HEAD + length + begin)
            return np.frombuffer(data.read(end - begin), dtype=_TYPES[entry["dtype"]])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error, RecursionError) as error:
        raise BadInput(
            f"{file}: its map of the draft vocabulary ({name}) cannot be read ({error}): "
            "copy the drafter's folder anew"
        ) from None
