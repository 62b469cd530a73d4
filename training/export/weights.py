"""Turns a checkpoint of speculators into the configuration and weights that vLLM needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.config.variants import Target
from training.errors import BadDrafter
from training.export.scrub import public_name, scrubbed_values
from training.validate.eagle3 import EMBEDDINGS

_FOREIGN = ("verifier_norm.", "verifier_lm_head.")
"""Tensors of the target, which training needs beside the drafter's."""
_THREE_LAYERS = 3


def config_of(checkpoint: Path, target: Target) -> dict[str, Any]:
    """The checkpoint's config.json, scrubbed, with each field wherever some engine looks for it."""
    path = checkpoint / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        layer, verifier = config["transformer_layer_config"], config["speculators_config"]["verifier"]
        layers = config.get("eagle_aux_hidden_state_layer_ids") or []
        if not all(isinstance(table, dict) for table in (layer, verifier)) or not isinstance(layers, list):
            raise TypeError  # noqa: TRY301 - one sentence for all
        json.dumps(config, ensure_ascii=False, allow_nan=False).encode()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BadDrafter(
            f"{path}: not the configuration of a drafter made by speculators: train again, or name another"
        ) from None
    verifier["name_or_path"] = public_name(target)
    layer.pop("_name_or_path", None)
    dtype = _dtype(config, target)
    config["dtype"] = layer["dtype"] = dtype
    if config.get("speculators_model_type") == "eagle3":
        # vLLM up to 0.24 reads these from the layer's configuration alone, and every version so far assumes
        # three layers where that does not say. Without these fields it drafts badly or not at all.
        layer["norm_output"] = config.get("norm_output", False)
        layer["fc_norm"] = config.get("fc_norm", False)
        layer["num_aux_hidden_states"] = len(layers) or _THREE_LAYERS
    return {name: scrubbed_values(value) for name, value in config.items()}


def _dtype(config: Mapping[str, Any], target: Target) -> str:
    """The type in which the target is served; the engine would cast to it anyway."""
    known = ("bfloat16", "float16", "float32")
    if target.dtype in known:
        return target.dtype
    return config["dtype"] if config.get("dtype") in known else known[0]


def write_weights(checkpoint: Path, verifier: str, to: Path, config: Mapping[str, Any]) -> None:
    """Write model.safetensors, without the tensors that the engine takes from the target."""
    import torch  # noqa: PLC0415 - seconds
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.torch import load_file, save_file  # noqa: PLC0415

    path = checkpoint / "model.safetensors"
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadDrafter(f"{path}: cannot be read: {error}") from None
    dtype = getattr(torch, config["dtype"])
    kept = {}
    for name in sorted(tensors):
        tensor = tensors[name]
        if name.startswith(_FOREIGN):
            continue
        if tensor.is_floating_point():
            tensor = tensor.to(dtype)
        if name == EMBEDDINGS and not config.get("embed_requires_grad") and _same(tensor, verifier):
            continue
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise BadDrafter(
                f"{path}: {name} holds numbers that are not finite, so training went wrong: lower train.lr"
            )
        kept[name] = tensor.contiguous()
    save_file(kept, to / path.name, metadata={"format": "pt"})


def _same(embeddings: Any, verifier: str) -> bool:
    """Whether these are the target's own; the engine shares those with a drafter that has none."""
    import torch  # noqa: PLC0415
    from speculators.utils.loading import load_model_layers  # noqa: PLC0415

    own = load_model_layers([EMBEDDINGS], verifier).get(EMBEDDINGS)
    return (
        own is not None
        and own.shape == embeddings.shape
        and torch.equal(own.to(embeddings.dtype), embeddings)
    )
