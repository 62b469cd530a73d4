"""Room for hidden states: where, how much, and said before the work starts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from harness.engine.models import resolve
from harness.text.console import Say
from training.dataset import needed_bytes
from training.errors import TrainingFailed
from training.hidden.extract import finished, last_layer, layers_of
from training.recipe import Recipe
from training.stages import Context

SPARE = 1.1


def check_disk_space(recipe: Recipe, work: Path, *, tokens: int, say: Say) -> None:
    """Say where hidden states of about so many tokens have no room; where the target is here.

    Raises:
        TrainingFailed: not even half of them have.
    """
    size = target_size(recipe)
    if size is None:
        return
    needed = needed_bytes(tokens, layers=size[0], hidden_size=size[1])
    place, free = folder_with_space(needed, given=recipe.hidden_states.folder, work=work)
    told = _no_room(place, free, needed, f"about {tokens:,} tokens")
    if needed / 2 > free:
        raise TrainingFailed(told)
    if needed > free:
        say(f"it may end for want of room: {told}")


def _no_room(place: Path, free: int, needed: int, what: str) -> str:
    return (
        f"{place} has {size_of(free)} free, hidden states of {what} take {size_of(needed)}: "
        "free some, name another folder (hidden_states.folder), or train on less"
    )


def size_of(count: float) -> str:
    """Bytes, as a reader takes them in."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"  # noqa: PLR2004


def hidden_folder(context: Context, target: str, *, tokens: int) -> Path:
    """Where hidden states go, with room for them; what an earlier try left there stays."""
    recipe = context.recipe
    config = json.loads((Path(target) / "config.json").read_text(encoding="utf-8"))
    width = int(config.get("text_config", config)["hidden_size"])
    layers = (*layers_of(recipe, target), last_layer(target))
    needed = needed_bytes(tokens, layers=len(layers), hidden_size=width)
    name = f"draftgate-{context.upstream['dataset'].name}-{'-'.join(map(str, layers))}"
    place, free = folder_with_space(needed, given=recipe.hidden_states.folder, work=context.work, name=name)
    hidden = place / name
    if recipe.hidden_states.mode == "ahead" and needed * SPARE > free:
        raise TrainingFailed(_no_room(place, free, needed, f"{tokens:,} tokens"))
    hidden.mkdir(parents=True, exist_ok=True)
    finished(hidden, ended=False)
    return hidden


def folder_with_space(
    needed: int, *, given: str | None, work: Path, name: str | None = None
) -> tuple[Path, int]:
    """Where `needed` bytes have room, and the bytes that are free there or taken by them already.

    As given, else a RAM disk, else the work folder; the last of them where none has room. `name` is the
    folder in it that an earlier try filled.
    """
    places = [Path(given)] if given else [Path("/dev/shm"), work]  # noqa: S108 - it is where Linux has RAM
    for place in places:
        free = shutil.disk_usage(next(p for p in (place, *place.absolute().parents) if p.is_dir())).free
        free += sum(path.stat().st_size for path in place.glob(f"{name}/hs_*")) if name else 0
        if free > needed * SPARE:
            break
    return place, free


def target_size(recipe: Recipe) -> tuple[int, int] | None:
    """Layers that are extracted and the hidden size; None where the target's folder is not known here."""
    reference = recipe.target.model
    if not reference.startswith(("/", "embedded:")):
        return None
    target = resolve(reference, say=lambda _: None, python=recipe.engine.python)
    config = json.loads((Path(target) / "config.json").read_text(encoding="utf-8"))
    return len(layers_of(recipe, target)) + 1, int(config.get("text_config", config)["hidden_size"])
