"""Removes from a drafter's records every path of the machine that made them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import tomli_w

from harness.config.variants import Target
from harness.text.redaction import in_texts
from training.recipe import Recipe

PUBLIC = {"smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""The hub ids of embedded models."""
_PATH = re.compile(
    r"(?<![\w/.:~-])(?:file://)?(?:~|/[\w.@+-]+)(?:/[\w.@+-]+)+/?"
    r"|/(?:home|root|tmp|usr|opt|var|dev|mnt|Users|private)(?:/[\w.@+-]+)+/?"  # as in -I/usr/include
)


def public_name(target: Target) -> str:
    """The target's name on any machine: its hub id, its served name, or its folder's name."""
    name = target.model.removeprefix("embedded:")
    if name != target.model:
        return PUBLIC.get(name, name)
    if target.model.startswith(("/", ".", "~")):
        return target.served_name or Path(target.model).name
    return target.model


def scrubbed(text: str) -> str:
    """The text without this machine's paths: only the last part of each is left."""
    return _PATH.sub(lambda found: "…/" + found[0].rstrip("/").rsplit("/", 1)[-1], text)


def scrubbed_values(value: Any) -> Any:
    """The value with every text in it scrubbed."""
    return in_texts(value, scrubbed)


def recipe_toml(recipe: Recipe) -> str:
    """The recipe as a file that can be loaded again, with every default written out."""
    return tomli_w.dumps(recipe_values(recipe))


def recipe_values(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values, without settings of one machine."""
    own = {"hidden_states": {"folder"}, "engine": {"python", "port"}}
    known = recipe.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=own)
    plain: dict[str, Any] = scrubbed_values(known)
    return plain
