"""The kinds of change, by the name that a recipe gives them."""

from __future__ import annotations

from training.targets import ablate, command, merge, noise, quantize
from training.targets.job import Kind

KINDS = {
    "ablate": Kind(plan=ablate.plan, make=ablate.make),
    "noise": Kind(plan=noise.plan, make=noise.make),
    "merge": Kind(plan=merge.plan, make=merge.make),
    "command": Kind(plan=command.plan, make=command.make),
    "quantize": Kind(plan=quantize.plan, make=quantize.make, after=quantize.after),
}
