"""Checks that a target fits in memory, before any of it is loaded."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil

from harness.errors import BadInput
from training.targets.folder import FLOATS, Model
from training.targets.recipe import TargetRecipe

GIB = 2**30
_CGROUP = Path("/sys/fs/cgroup")
_VALUE = {"float32": 4, "bfloat16": 2, "float16": 2}
_LOGITS = 3
"""Copies of the logits of one text, in float32."""


def needed_bytes(model: Model, recipe: TargetRecipe) -> int:
    """Memory for the target's weights in the recipe's dtype, and for the logits of one text."""
    wide = _VALUE.get(recipe.target.dtype)
    weights = sum(
        tensor.values * wide if wide and tensor.dtype in FLOATS else tensor.bytes
        for tensor in model.tensors.values()
    )
    vocabulary = model.text.get("vocab_size")
    logits = recipe.divergence.tokens * (vocabulary if isinstance(vocabulary, int) else 0) * 4 * _LOGITS
    largest = max(file.stat().st_size for file in model.files)
    return max(weights + logits, 2 * largest)  # a file is written from its tensors, and from a copy of each


def free_bytes() -> int:
    """Memory that this process may still take: of the machine, and of its control group."""
    free = int(psutil.virtual_memory().available)
    with contextlib.suppress(OSError, ValueError):  # no such limit
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        lines = (_CGROUP / "memory.stat").read_text().splitlines()
        reclaimable = next(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
        free = min(free, limit - used + reclaimable)
    return free


def check_memory(model: Model, needed: int) -> None:
    """Check that so many bytes are free.

    Raises:
        BadInput: they are not, with GiB needed and GiB free.
    """
    if needed > (free := free_bytes()):
        raise BadInput(
            f"the target {model.folder} needs {needed / GIB:.1f} GiB of memory, and {free / GIB:.1f} GiB are "
            "free: use a machine with more, or a smaller target.dtype",
            code="target-memory",
        )
