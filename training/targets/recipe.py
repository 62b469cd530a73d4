"""Reads a target recipe, a TOML file that says from which target a changed one is made, and how."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field

from harness.config.shipped import DATA
from harness.config.toml import Document, Program, Reference, Table
from harness.config.variants import Target
from harness.errors import BadInput
from training.recipe import RECIPES, Name, Once, changed_document, check_plain
from training.sources.datasets import local

REGEX = "re:"
"""Begins a pattern that is a regular expression; another is a whole name. llm-compressor reads them so."""
DTYPES = ("auto", "bfloat16", "float16", "half", "float32", "float")
TARGETS = RECIPES / "targets"
"""The recipes that come with draftgate."""
PROMPTS = RECIPES.parent / "prompts"
HELD_OUT = tuple(str(DATA / "prompts" / "summary" / f"{language}.jsonl") for language in ("en", "zh"))


def _file(reference: str) -> str:
    path = PROMPTS / reference  # an absolute path stays what it is
    if not path.is_file():
        raise ValueError(f"{path} is not there")
    return str(path)


PromptFile = Annotated[Reference, AfterValidator(_file)]
"""JSON lines with `text`, `prompt` or `messages`: a path from the recipe's folder, or a name in
training/prompts."""


class Ablate(Table):
    """Projects the difference between two sets of prompts out of what layers write."""

    prompts: tuple[PromptFile, PromptFile]
    """The direction leads from the mean hidden state of the second file's prompts to that of the first's."""
    direction_layer: int = Field(ge=0)
    """After which layer the hidden states are taken, at the last token before the answer."""
    layers: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Once] | None = Field(
        default=None, min_length=1
    )
    """Whose attention and MLP outputs lose the direction; all when not given."""
    embeddings: bool = False
    """They lose it too. Where the head is tied to them, it changes with them."""


class Merge(Table):
    """Moves all weights towards those of another checkpoint."""

    model: Reference
    """A folder, a hub id, or `embedded:NAME`."""
    weight: float = Field(ge=0, le=1)
    """Of the other checkpoint; the target has the rest."""


class Command(Table):
    """Lets a program make the target."""

    program: tuple[Program, ...] = Field(min_length=1)
    """The program and its arguments. After these it gets two folders: of the unchanged target, and an empty
    one for the changed target."""


class Noise(Table):
    """Adds noise to matrices."""

    matrices: dict[str, Annotated[float, Field(ge=0, le=10)]] = Field(min_length=1)
    """Name of a matrix, in which * stands for any characters -> how much, in standard deviations of the
    matrix. The first name that fits counts. 0 changes nothing: a control."""
    seed: int = Field(default=0, ge=0)


def _pattern(text: str) -> str:
    try:
        re.compile(text.removeprefix(REGEX) if text.startswith(REGEX) else "")
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from None
    return text


_Patterns = Annotated[tuple[Annotated[str, AfterValidator(_pattern), Field(min_length=1)], ...], Once]


class Quantize(Table):
    """Quantises the matrices without data, with llm-compressor."""

    scheme: Literal["FP8_DYNAMIC", "W8A8"]
    """`W8A8` is INT8. Both: a scale for each row of a matrix, and one for each token of what it is given."""
    ignore: _Patterns = ()
    """Modules that stay as they are: whole names, or `re:` and a regular expression that fits from the
    beginning. Each must match."""
    optional: _Patterns = ()
    """The same, but these may match nothing."""
    python: Program | None = None
    """The interpreter that has llm-compressor; that of `make quantize-env` when not given."""
    stack: str | None = None
    """Whose engine serves the quantised target for the smoke test; none is made when not given."""


class Divergence(Table):
    """On which texts the changed target is compared with the unchanged one, token by token."""

    files: tuple[PromptFile, ...] = Field(default=HELD_OUT, min_length=1)
    texts: int = Field(default=16, ge=2)
    """Of each file, the first ones."""
    tokens: int = Field(default=128, ge=2)
    """Of each text, the first ones."""


_Kind = Literal["ablate", "noise", "merge", "command", "quantize"]


class TargetRecipe(Table):
    """From which target, and how."""

    schema_: Literal[1] = Field(alias="schema")
    name: Name
    """Of the changed target, and of its folder."""
    about: str = ""
    kind: _Kind
    """One of `training.targets.make.KINDS`. The table of this name says how."""
    target: Target
    """The unchanged one. Hidden states and divergence are computed in its dtype."""
    divergence: Divergence = Divergence()
    ablate: Ablate | None = None
    noise: Noise | None = None
    merge: Merge | None = None
    command: Command | None = None
    quantize: Quantize | None = None

    @property
    def change(self) -> Any:
        """The table of its kind."""
        return getattr(self, self.kind)


def load_target_recipe(path: Path, changes: Sequence[str] = ()) -> tuple[TargetRecipe, Document]:
    """Read and validate a target recipe; with it the document, which says where a key stands.

    Args:
        path: a TOML file.
        changes: single values instead of the file's, like `noise.seed=2`.

    Raises:
        BadInput: with file, line and key of the first thing that is wrong, or with the change that is.
    """
    document = changed_document(path, changes)
    recipe = document.model(TargetRecipe)
    if recipe.change is None:
        raise document.wrong(("kind",), f"there is no table [{recipe.kind}], which says how")
    for other in set(document.tables) & set(get_args(_Kind)) - {recipe.kind}:
        raise document.wrong((other,), f"the recipe is of kind {recipe.kind!r}: take this table out")
    if recipe.target.dtype not in DTYPES:
        what = f"hidden states and divergence are computed in {', '.join(DTYPES)}: name one of these"
        raise document.wrong(("target", "dtype"), what)
    check_plain(recipe, path)
    return recipe, document


def texts_of(path: str, *, most: int | None = None) -> list[str]:
    """The texts of a prompt file, the first `most` of them.

    Raises:
        BadInput: with file and line of what is wrong; it holds no text.
    """
    found = [text for text in local(Path(path)) if text.strip()]
    if not found:
        raise BadInput(f"{path}: it holds no text", code="too-few-prompts")
    return found[:most]
