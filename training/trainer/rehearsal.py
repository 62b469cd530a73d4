"""Gets ready to train while the target still answers, where one GPU has room for both.

The server of the hidden states starts, and a trainer compiles its step for a data set of nothing. The real
one then finds in torch's caches what it would have compiled.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from training.dataset import save, train_ratio, write_vocabulary
from training.recipe import Recipe
from training.servers import base_spec, fit_together, is_cpu
from training.stages import Context
from training.trainer import stage
from training.trainer.checkpoints import Checkpoints


def begin(context: Context) -> None:
    """Start both in the background, once; nothing where a stage runs alone or the GPU has no room."""
    recipe = context.recipe
    if context.alone or context.servers.hidden.begun or recipe.hidden_states.mode != "ahead":
        return
    if is_cpu(recipe) or not fit_together(recipe):
        return
    base, target = base_spec(recipe, say=context.say)
    context.servers.hidden.begin(stage.hidden_spec(context, base, target=target, cpu=False))
    if recipe.train.compile and recipe.train.gpus == 1:
        _compile(context, target)


def _compile(context: Context, target: str) -> None:
    recipe, folder = context.recipe, context.work / f"rehearsal-{context.recipe.name}"
    shutil.rmtree(folder, ignore_errors=True)
    settings = settings_of(recipe, folder, target=target, cpu=False)
    context.rehearsal.append(stage.start(settings, folder, recipe))


def settings_of(recipe: Recipe, folder: Path, *, target: str, cpu: bool) -> dict[str, Any]:
    """The settings of a trainer that compiles and ends, for a data set that is written into `folder`.

    It has a row of one token for each split, and any draft vocabulary of the right size.
    """
    data = folder / "data"
    rows = 2 + int(1 / (1 - train_ratio(recipe.dataset.validation)))
    save(data, [[0]] * rows, [[1]] * rows)
    size = recipe.dataset.draft_vocab_size
    write_vocabulary(data, dict.fromkeys(range(size or 1), 1), size)
    Checkpoints(folder / "checkpoints", keep_last=1).open()
    settings = stage.trainer_settings(
        recipe, folder, data=data, hidden=folder / "hidden", target=target, cpu=cpu
    )
    return settings | {"rehearsal": True}
