"""What the kinds of change have in common: what each is given, and what each says before it starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.config.toml import Document
from harness.text.console import Say
from training.targets.folder import Model
from training.targets.recipe import TargetRecipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """A changed target to be made."""

    recipe: TargetRecipe
    document: Document
    """The recipe's file, for messages that say where."""
    model: Model
    """The unchanged target."""
    output: Path
    """An empty folder: it becomes the changed target."""
    say: Say
    fetch: bool = True
    """False in a dry run: what is not on this machine is then refused."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What would be done, known before any weight is loaded."""

    rows: list[list[str]]
    """What, and how much."""
    bytes: int = 0
    """Memory that it takes beyond loading the target once."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """A way to change a target."""

    plan: Callable[[Job], Plan]
    """Checks all that can be checked without loading weights."""
    make: Callable[[Job], dict[str, Any]]
    """Writes the changed target into the job's output; returns what its records say of the change."""
    after: Callable[[Job], None] = lambda _: None
    """Looks at the finished target, which stays whatever this raises."""
