"""Makes a drafter with random weights, as an EAGLE-3 drafter is exported: its acceptance must be near 0.

Its vocabulary is a few tokens that the target says often, so that it is right now and then. With a drafter
that is never right, a broken counter, which gives 0, would look like a sound one.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import BadInput

_INTERMEDIATE = 64


def write(folder: Path, *, target: Path, tokens: Sequence[int], k: int) -> None:
    """Write config.json and model.safetensors.

    Args:
        folder: where; made if it is not there.
        target: the target's folder, whose config.json has the sizes.
        tokens: token ids of the draft vocabulary.
        k: draft tokens a step.

    Raises:
        BadInput: the target's config.json lacks its sizes.
    """
    try:
        config = json.loads((target / "config.json").read_text(encoding="utf-8"))
        config = {**config, **config.get("text_config", {})}
        hidden, vocabulary = int(config["hidden_size"]), int(config["vocab_size"])
        layers, heads = int(config["num_hidden_layers"]), int(config["num_attention_heads"])
        shared = int(config.get("num_key_value_heads") or heads)
        head = int(config.get("head_dim") or hidden // heads)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{target}/config.json lacks the target's sizes: {error!r}", code="target-sizes"
        ) from None
    spoken = np.unique(np.array(tokens, dtype=np.int64))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(
        json.dumps(
            {
                **_config(config, len(spoken), k),
                "eagle_aux_hidden_state_layer_ids": [1, layers // 2, layers - 1],
                "transformer_layer_config": {
                    **_LAYER,
                    "hidden_size": hidden,
                    "head_dim": head,
                    "num_attention_heads": heads,
                    "num_key_value_heads": shared,
                    "max_position_embeddings": config.get("max_position_embeddings", 2048),
                    "vocab_size": vocabulary,
                },
            },
            indent=1,
        ),
        encoding="utf-8",
    )
    random = np.random.default_rng(0)

    def normal(*shape: int) -> NDArray[np.uint16]:
        values = random.standard_normal(shape, dtype=np.float32) / np.sqrt(np.float32(shape[-1]))
        bits: NDArray[np.uint16] = (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
        return bits  # bfloat16, cut off

    def ones(size: int) -> NDArray[np.uint16]:
        return np.full(size, 0x3F80, dtype=np.uint16)

    said = np.zeros(vocabulary, dtype=np.bool_)
    said[spoken] = True
    layer = "layers.0."
    tensors: dict[str, NDArray[Any]] = {
        "d2t": spoken - np.arange(len(spoken)),
        "t2d": said,
        "fc.weight": normal(hidden, 3 * hidden),
        f"{layer}hidden_norm.weight": ones(hidden),
        f"{layer}input_layernorm.weight": ones(hidden),
        f"{layer}post_attention_layernorm.weight": ones(hidden),
        f"{layer}mlp.gate_proj.weight": normal(_INTERMEDIATE, hidden),
        f"{layer}mlp.up_proj.weight": normal(_INTERMEDIATE, hidden),
        f"{layer}mlp.down_proj.weight": normal(hidden, _INTERMEDIATE),
        f"{layer}self_attn.q_proj.weight": normal(heads * head, 2 * hidden),
        f"{layer}self_attn.k_proj.weight": normal(shared * head, 2 * hidden),
        f"{layer}self_attn.v_proj.weight": normal(shared * head, 2 * hidden),
        f"{layer}self_attn.o_proj.weight": normal(hidden, heads * head),
        "lm_head.weight": normal(len(spoken), hidden),
        "norm.weight": ones(hidden),
    }
    _write_safetensors(folder / "model.safetensors", tensors)


_LAYER = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "bfloat16",
    "hidden_act": "silu",
    "intermediate_size": _INTERMEDIATE,
    "num_hidden_layers": 1,
    "num_aux_hidden_states": 3,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
}


def _config(target: dict[str, Any], spoken: int, k: int) -> dict[str, Any]:
    proposal = {
        "proposal_type": "greedy",
        "speculative_tokens": k,
        "accept_tolerance": 0.0,
        "verifier_accept_k": 1,
    }
    return {
        "architectures": ["Eagle3DraftModel"],
        "speculators_model_type": "eagle3",
        "speculators_version": "0.9.0",
        "draft_vocab_size": spoken,
        "dtype": "bfloat16",
        "norm_before_residual": True,
        "tie_word_embeddings": False,
        "speculators_config": {
            "algorithm": "eagle3",
            "default_proposal_method": "greedy",
            "proposal_methods": [proposal],
            "verifier": {"architectures": target.get("architectures", []), "name_or_path": "target"},
        },
    }


def _write_safetensors(path: Path, tensors: dict[str, NDArray[Any]]) -> None:
    """A length, a JSON header, and the bytes.

    The safetensors package writes bfloat16 from torch only, which the core does not need otherwise.
    """
    names = {"uint16": "BF16", "int64": "I64", "bool": "BOOL"}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": names[str(tensor.dtype)],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(tensor.tobytes())
