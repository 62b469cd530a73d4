"""Finds room for hidden states, and says before the work starts where there is too little."""

from __future__ import annotations

import shutil
from pathlib import Path

from harness.engine.models import resolve
from harness.text.console import Say
from training.errors import TrainingFailed
from training.hidden.extract import extracted_layers, finished, text_config
from training.recipe import Recipe
from training.stages import Context

SPARE = 1.1
VALUE_BYTES = 2
"""Of a bfloat16."""


def check_disk_space(recipe: Recipe, work: Path, *, tokens: int, say: Say) -> None:
    """Say where the hidden states of about so many tokens have no room; nothing if the target is not here.

    Raises:
        TrainingFailed: not even half of them have room.
    """
    needed = expected_bytes(recipe, tokens)
    if needed is None:
        return
    place, free = folder_with_space(needed, given=recipe.hidden_states.folder, work=work)
    message = _no_room(place, free, needed, f"about {tokens:,} tokens")
    if needed / 2 > free:
        raise TrainingFailed(message, code="disk-space")
    if needed > free:
        say(f"it may end for want of room: {message}")


def _no_room(place: Path, free: int, needed: int, what: str) -> str:
    return (
        f"{place} has {size_of(free)} free, hidden states of {what} take {size_of(needed)}: "
        "free some, name another folder (hidden_states.folder), or train on less"
    )


def size_of(count: float) -> str:
    """A number of bytes for a reader: `1.2 GB`, `14 MB`."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"  # noqa: PLR2004


def hidden_folder(context: Context, target: str, *, tokens: int) -> Path:
    """The folder for the hidden states of a dataset, with room for them; it keeps what an earlier try wrote.

    Raises:
        TrainingFailed: there is too little room.
    """
    recipe = context.recipe
    needed = needed_bytes(recipe, target, tokens)
    layers = "-".join(map(str, extracted_layers(recipe, target)))
    name = f"draftgate-{context.upstream['dataset'].name}-{layers}"
    place, free = folder_with_space(needed, given=recipe.hidden_states.folder, work=context.work, name=name)
    hidden = place / name
    if recipe.hidden_states.mode == "ahead" and needed * SPARE > free:
        raise TrainingFailed(_no_room(place, free, needed, f"{tokens:,} tokens"), code="disk-space")
    hidden.mkdir(parents=True, exist_ok=True)
    finished(hidden, ended=False)
    return hidden


def folder_with_space(
    needed: int, *, given: str | None, work: Path, name: str | None = None
) -> tuple[Path, int]:
    """Where `needed` bytes have room, and the bytes that are free there or taken by them already.

    The place is the one given, else a RAM disk, else the work folder; the last of them where none has room.
    `name` is the folder in it that an earlier try filled.
    """
    places = [Path(given)] if given else [Path("/dev/shm"), work]  # noqa: S108 - it is where Linux has RAM
    for place in places:
        free = shutil.disk_usage(next(p for p in (place, *place.absolute().parents) if p.is_dir())).free
        free += sum(path.stat().st_size for path in place.glob(f"{name}/hs_*")) if name else 0
        if free > needed * SPARE:
            break
    return place, free


def needed_bytes(recipe: Recipe, target: str, tokens: int) -> int:
    """Bytes that the hidden states of so many tokens take: the prompts' tokens count, and every layer."""
    width: int = text_config(target)["hidden_size"]
    return tokens * len(extracted_layers(recipe, target)) * width * VALUE_BYTES


def expected_bytes(recipe: Recipe, tokens: int) -> int | None:
    """The same where the target's folder is known without fetching it, else None."""
    reference = recipe.target.model
    if not reference.startswith(("/", "embedded:")):
        return None
    target = resolve(reference, say=lambda _: None, python=recipe.engine.python)
    return needed_bytes(recipe, target, tokens)
