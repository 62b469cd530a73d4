"""A tiny EAGLE-3 drafter of speculators with random weights, and its tiny target."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

VOCABULARY, DRAFT_VOCABULARY, HIDDEN, STEPS = 96, 48, 32, 3


def tiny_eagle3(folder: Path, *, layers: tuple[int, ...] = (1, 3, 5)) -> tuple[Path, Path]:
    """A checkpoint as the trainer writes it, and its verifier's folder."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    models = pytest.importorskip("speculators.models.eagle3")
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=64, num_hidden_layers=6, head_dim=16,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    verifier, checkpoint = folder / "target", folder / "checkpoint"
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(verifier)
    draft = copy.deepcopy(config)
    draft.num_hidden_layers = 1
    spoken = torch.arange(VOCABULARY) % 2 == 0
    model: Any = models.Eagle3DraftModel.from_training_args(
        draft, t2d=spoken, d2t=torch.nonzero(spoken).squeeze(1) - torch.arange(DRAFT_VOCABULARY),
        draft_vocab_size=DRAFT_VOCABULARY, norm_before_residual=True, norm_before_fc=True, norm_output=True,
        ttt_steps=STEPS, verifier_name_or_path=str(verifier), target_layer_ids=list(layers),
        draft_attn_impl="sdpa",
    )  # fmt: skip
    model.to(torch.bfloat16).save_pretrained(checkpoint)
    return checkpoint, verifier
