"""Adds noise to the matrices of a target, each time in proportion to what the matrix holds."""

from __future__ import annotations

import hashlib
from fnmatch import fnmatchcase
from typing import Any

from training.targets.folder import FLOATS, Tensor, refuse_quantized, write_changed
from training.targets.job import Job, Plan


def plan(job: Job) -> Plan:
    """Which matrices get how much noise.

    Raises:
        BadInput: a name fits no matrix; the target is quantised.
    """
    refuse_quantized(job.model, job.document)
    sizes = _sizes(job)
    values = sum(job.model.tensors[name].values for name in sizes)
    return Plan(rows=[["matrices with noise", f"{len(sizes)}, {values:,} values"]])


def make(job: Job) -> dict[str, Any]:
    """Write the target: W + size * sd(W) * N(0, 1), the same numbers on every machine for a seed."""
    import torch  # noqa: PLC0415 - seconds

    sizes, seed = _sizes(job), job.recipe.change.seed

    def noised(tensor: Tensor, before: Any) -> Any:
        if not (size := sizes.get(tensor.name)):
            return before
        number = hashlib.sha256(f"{seed} {tensor.name}".encode()).digest()[:7]
        drawn = torch.randn(before.shape, generator=torch.Generator().manual_seed(int.from_bytes(number)))
        plain = before.float()
        return plain + size * plain.std() * drawn

    write_changed(job.model, job.output, noised)
    return {"matrices": sizes}


def _sizes(job: Job) -> dict[str, float]:
    """The noise of each matrix, in its standard deviations."""
    asked: dict[str, float] = job.recipe.change.matrices
    found: dict[str, float] = {}
    for pattern, size in asked.items():
        fitting = [
            tensor.name
            for tensor in job.model.tensors.values()
            if fnmatchcase(tensor.name, pattern) and len(tensor.shape) > 1 and tensor.dtype in FLOATS
        ]
        if not fitting:
            others = [tensor.name for tensor in job.model.tensors.values() if len(tensor.shape) > 1]
            what = f"the target has no matrix named so, as it has {max(others, key=len)}"
            raise job.document.wrong(("noise", "matrices", pattern), what, code="target-names")
        for name in fitting:
            found.setdefault(name, size)
    return found
