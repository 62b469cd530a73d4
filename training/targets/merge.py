"""Moves a target towards another checkpoint of its shape, by linear interpolation of all weights."""

from __future__ import annotations

from typing import Any

from training.targets import folder
from training.targets.folder import FLOATS, Model, Tensor, refuse_quantized
from training.targets.job import Job, Plan


def plan(job: Job) -> Plan:
    """How many tensors are merged.

    Raises:
        BadInput: the other checkpoint is no model, is quantised, or has other tensors or shapes.
    """
    other = _other(job)
    values = sum(tensor.values for tensor in job.model.tensors.values())
    return Plan(
        rows=[["towards", f"{other.folder.name}, by {job.recipe.change.weight:g}"], ["values", f"{values:,}"]]
    )


def make(job: Job) -> dict[str, Any]:
    """Write the target: (1 - weight) * W + weight * W of the other checkpoint."""
    from safetensors import safe_open  # noqa: PLC0415

    other, weight = _other(job), job.recipe.change.weight

    def merged(tensor: Tensor, before: Any) -> Any:
        if tensor.dtype not in FLOATS or not weight:
            return before
        with safe_open(other.tensors[tensor.name].file, "pt") as opened:
            return before.float().lerp(opened.get_tensor(tensor.name).float(), weight)

    folder.write_changed(job.model, job.output, merged)
    return {"weight": weight, "towards": other.folder.name, "sha256": list(other.sha256().values())}


def _other(job: Job) -> Model:
    towards = job.recipe.target.model_copy(update={"model": job.recipe.change.model, "revision": None})
    other = folder.open_model(folder.find_target(towards, say=job.say, fetch=job.fetch))
    refuse_quantized(job.model, job.document)
    refuse_quantized(other, job.document, key=("merge", "model"))
    for tensor in job.model.tensors.values():
        there = other.tensors.get(tensor.name)
        if there is None or there.shape != tensor.shape:
            what = f"of shape {list(there.shape)}, not {list(tensor.shape)}" if there else "missing"
            raise job.document.wrong(
                ("merge", "model"), f"{tensor.name} of {other.folder} is {what}", code="target-folder"
            )
    if more := sorted(set(other.tensors) - set(job.model.tensors)):
        what = f"{more[0]} of {other.folder} is no tensor of the target ({len(more)} such): name one alike"
        raise job.document.wrong(("merge", "model"), what, code="target-folder")
    return other
