"""The kinds of change, by the name that a recipe gives them."""

from __future__ import annotations

from training.targets import noise, quantize
from training.targets.job import Kind

KINDS = {
    "noise": Kind(plan=noise.plan, make=noise.make),
    "quantize": Kind(plan=quantize.plan, make=quantize.make, after=quantize.after),
}
