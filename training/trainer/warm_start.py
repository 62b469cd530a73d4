"""Prepares a drafter to start from: adds embeddings, keeps its vocabulary, and is float32 again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from harness.errors import BadRecord
from harness.results.files import json_object
from training.errors import BadDrafter
from training.validate.eagle3 import EMBEDDINGS


def layers(drafter: str) -> tuple[int, ...] | None:
    """The target's layers that a drafter in a folder sees; None where it does not say or is on the hub.

    Raises:
        BadInput: the folder holds no drafter.
    """
    found = _config(drafter).get("eagle_aux_hidden_state_layer_ids") if drafter.startswith("/") else None
    return tuple(found) if found else None


def vocabulary(drafter: str) -> frozenset[int] | None:
    """The draft vocabulary of a drafter in a folder; None where it has the target's.

    Raises:
        BadInput: the folder holds no drafter.
    """
    table = _tensors(drafter).get("t2d")
    return None if table is None else frozenset(table.nonzero().flatten().tolist())


def _config(drafter: str) -> dict[str, Any]:
    file = Path(drafter) / "config.json"
    try:
        return json_object(file.read_bytes(), str(file))
    except (OSError, BadRecord) as error:
        raise _none(drafter, error) from None


def _tensors(drafter: str) -> dict[str, Any]:
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415

    try:
        tensors: dict[str, Any] = load_file(Path(drafter) / "model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise _none(drafter, error) from None
    return tensors


def _none(drafter: str, error: Exception) -> BadDrafter:
    return BadDrafter(
        f"train.from_pretrained: {drafter} holds no drafter of speculators ({error}): name another"
    )


def arguments(drafter: str, *, target: str, to: Path) -> dict[str, Any]:
    """The trainer's arguments that start from `drafter`.

    An exported drafter has no embeddings, since the engine shares the target's with it. speculators would
    start from uninitialised memory instead. It would also choose a draft vocabulary from the new data, but
    the drafter's head was trained with the old one. And it would train in the drafter's own type, bfloat16,
    which rounds small steps away.

    Args:
        drafter: a folder, or a hub id, which is passed on as it is.
        target: the target's folder.
        to: a folder for the completed copy.

    Raises:
        BadInput: the folder holds no drafter.
    """
    if not drafter.startswith("/"):
        return {"from_pretrained": drafter}
    import numpy as np  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415
    from speculators.utils.loading import load_model_layers  # noqa: PLC0415

    config, tensors = _config(drafter), _tensors(drafter)
    try:
        config["speculators_config"]["verifier"]["name_or_path"] = target
    except (KeyError, TypeError) as error:
        raise _none(drafter, error) from None
    if EMBEDDINGS not in tensors:
        tensors[EMBEDDINGS] = load_model_layers([EMBEDDINGS], target)[EMBEDDINGS].contiguous()
    # It was rounded to be served. The trainer would go on in the type that it finds.
    tensors = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    for table in (config, config.get("transformer_layer_config")):
        if isinstance(table, dict):
            table["dtype"] = "float32"
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    (to / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})
    found: dict[str, Any] = {"from_pretrained": str(to)}
    if "d2t" in tensors and "t2d" in tensors:
        for name in ("d2t", "t2d"):
            np.save(to / f"{name}.npy", tensors[name].numpy())
            found[f"{name}_path"] = str(to / f"{name}.npy")
        found["draft_vocab_size"] = len(tensors["d2t"])
    return found
