"""A target of a few thousand random weights, with a tokenizer that reads bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

LAYERS, HIDDEN = 3, 16
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def tiny_target(folder: Path, *, seed: int = 0, tied: bool = True) -> Path:
    """The folder of a llama that vLLM and transformers load."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    plain = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[])
    )
    plain.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = tokenizers.decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, chat_template=TEMPLATE)
    config = transformers.LlamaConfig(
        vocab_size=len(letters), hidden_size=HIDDEN, intermediate_size=24, num_hidden_layers=LAYERS,
        head_dim=8, num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=512,
        tie_word_embeddings=tied, bos_token_id=None, eos_token_id=None, initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(seed)
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
