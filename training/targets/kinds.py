"""The kinds of change, by the name that a recipe gives them."""

from __future__ import annotations

from training.targets import noise
from training.targets.job import Kind

KINDS = {"noise": Kind(plan=noise.plan, make=noise.make)}
