"""Prepares a drafter to start from: adds embeddings, keeps its vocabulary, and is float32 again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from training.errors import BadDrafter
from training.validate.eagle3 import EMBEDDINGS


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
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.torch import load_file, save_file  # noqa: PLC0415
    from speculators.utils.loading import load_model_layers  # noqa: PLC0415

    source = Path(drafter)
    try:
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
        tensors = load_file(source / "model.safetensors")
        config["speculators_config"]["verifier"]["name_or_path"] = target
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise BadDrafter(
            f"train.from_pretrained: {source} holds no drafter of speculators ({error}): name another"
        ) from None
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
