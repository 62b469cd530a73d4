"""Finds a folder with room for the hidden states, and reports too little room before the work starts."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path

from harness.config.prompts import hash_of
from harness.engine.models import resolve, sha256_of
from harness.results.files import writable
from harness.text.console import Say
from training.errors import TrainingFailed
from training.hidden.extract import extracted_layers, finished, text_config
from training.recipe import Recipe
from training.stages import Context

SPARE = 1.1
VALUE_BYTES = 2
"""Of a bfloat16."""


def check_disk_space(recipe: Recipe, work: Path, *, tokens: int, say: Say) -> None:
    """Check the room for the hidden states of about so many tokens, where the target is on this machine.

    Raises:
        TrainingFailed: not even half of them have room.
    """
    needed = expected_bytes(recipe, tokens)
    if needed is None:
        return
    folder, free = folder_with_space(needed, given=recipe.hidden_states.folder, work=work)
    message = _no_room(folder, free, needed, f"about {tokens:,} tokens")
    if needed / 2 > free:
        raise TrainingFailed(message, code="disk-space")
    if needed > free:
        say(f"there may be too little room: {message}")


def _no_room(folder: Path, free: int, needed: int, what: str) -> str:
    return (
        f"{folder} has {size_of(free)} free, and hidden states of {what} take {size_of(needed)}. "
        "Free some, name another folder (hidden_states.folder), or train on less"
    )


def size_of(count: float) -> str:
    """A number of bytes for a reader: `1.2 GB`, `14 MB`."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"  # noqa: PLR2004


@contextlib.contextmanager
def hidden_folder(context: Context, target: str, *, tokens: int) -> Iterator[Path]:
    """The folder for the hidden states of a dataset. What an earlier try wrote there stays.

    Recipes with the same data share it. Where the block ends well it is removed, unless another training
    still reads it: the last one removes it then.

    Raises:
        BadInput: the folder cannot be made.
        TrainingFailed: there is too little room.
    """
    recipe = context.recipe
    needed = needed_bytes(recipe, target, tokens)
    layers = "-".join(map(str, extracted_layers(recipe, target)))
    dataset = context.upstream["dataset"]
    # Sampled answers are others in another work folder, or after a second try, under the same key.
    rows = hash_of("".join(map(sha256_of, sorted(dataset.glob("data/*.arrow")))))
    name = f"draftgate-{dataset.name}-{rows[:8]}-{layers}"
    folder, free = folder_with_space(needed, given=recipe.hidden_states.folder, work=context.work, name=name)
    hidden = folder / name
    if recipe.hidden_states.mode == "ahead" and needed * SPARE > free:
        raise TrainingFailed(_no_room(folder, free, needed, f"{tokens:,} tokens"), code="disk-space")
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with hidden.with_suffix(".users").open("ab") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        hidden.mkdir(exist_ok=True)
        finished(hidden, ended=False)
        yield hidden
        if not context.keep_hidden_states:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(hidden, ignore_errors=True)


def folder_with_space(
    needed: int, *, given: str | None, work: Path, name: str | None = None
) -> tuple[Path, int]:
    """A folder with room for `needed` bytes, and how many are free there.

    It is the one given, else a RAM disk, else the work folder; the last of them where none has room. What an
    earlier try wrote into its folder `name` counts as free.
    """
    folders = [Path(given)] if given else [Path("/dev/shm"), work]  # noqa: S108 - it is where Linux has RAM
    for folder in folders:
        free = shutil.disk_usage(next(p for p in (folder, *folder.absolute().parents) if p.is_dir())).free
        free += sum(path.stat().st_size for path in folder.glob(f"{name}/hs_*")) if name else 0
        if free > needed * SPARE:
            break
    return folder, free


def needed_bytes(recipe: Recipe, target: str, tokens: int) -> int:
    """Bytes that the hidden states of so many tokens take, prompts included, over all layers."""
    width: int = text_config(target)["hidden_size"]
    return tokens * len(extracted_layers(recipe, target)) * width * VALUE_BYTES


def expected_bytes(recipe: Recipe, tokens: int) -> int | None:
    """The same; None where the target would have to be fetched first."""
    reference = recipe.target.model
    if not reference.startswith(("/", "embedded:")):
        return None
    target = resolve(reference, say=lambda _: None, python=recipe.engine.python)
    return needed_bytes(recipe, target, tokens)
