"""The bytes of a model that one decode step must read: its active weights, and its KV cache.

Weights are read from the heads of the safetensors files, experts and KV cache from config.json. What a step
reads only in part (embeddings, a second modality) is left out: the result is never too large.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from harness.errors import BadRecord
from harness.results.files import read_json

_SIZES = {"float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2, "auto": 2}
"""Bytes of an element, by vLLM's names. `auto` is that of the file, and 16 bits for a file of float32."""
_STORED = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U32": 4, "I16": 2, "F4": 0.5}
"""Bytes of an element, by safetensors' names; all others have one."""
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_LOOKED_UP = re.compile(r"embed_tokens|word_embeddings|\bwte\b|\b[dt]2[td]$")
_OTHER_SENSES = re.compile(r"vision|visual|audio|image|multi_modal")
"""Weights that read the prompt, and no decode step."""
_HEAD = re.compile(r"lm_head|embed_out")
_ONCE = re.compile(r"(^|\.)fc\.")
"""Of a drafter: what runs once a step, and not for each draft token."""
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_NOTHING_READ = frozenset({"ngram", "ngram_gpu", "suffix"})
_IN_ONE_PASS = frozenset({"dflash", "dspark", "medusa"})
_IN_PASSES = frozenset({"eagle", "eagle3", "draft_model", "mlp_speculator"})


class UnknownShape(Exception):  # noqa: N818 - the answer is then that nobody knows
    """The bytes cannot be said; the text says why."""


class Weights:
    """The tensors of a model folder, as the engine holds them."""

    def __init__(self, folder: str | None, dtype: str) -> None:
        """Read the heads of its files.

        Raises:
            UnknownShape: it is not on this machine, has no safetensors, or they cannot be read.
        """
        if folder is None or not folder.startswith("/"):
            raise UnknownShape("its weights are not on this machine")
        path = Path(folder)
        try:
            whole = read_json(path / "config.json")
            if not isinstance(whole, dict):
                raise ValueError("config.json holds no object")  # noqa: TRY004, TRY301
            self.bytes = dict(_tensors(path, _SIZES.get(dtype)))
        except (BadRecord, OSError, SafetensorError, ValueError) as error:
            raise UnknownShape(f"its files cannot be read ({error})") from None
        if not self.bytes:
            raise UnknownShape("it has no safetensors files")
        inner = whole.get("text_config")
        self.config: dict[str, Any] = {**whole, **inner} if isinstance(inner, dict) else whole

    @property
    def experts(self) -> bool:
        """A token takes a part of its weights alone."""
        return any(".experts" in name for name in self.bytes)

    def step(self) -> float:
        """Bytes that the target reads for one token: of the experts, only those that it takes.

        Raises:
            UnknownShape: it has experts, and config.json does not say how many.
        """
        share = self._experts()
        read = sum(size * (share if ".experts" in name else 1) for name, size in self._read())
        return read + (0 if self.head() else self._tied())

    def head(self) -> float:
        """Bytes of its output layer; 0 where that is its embedding, or another model's."""
        return sum(size for name, size in self.bytes.items() if _HEAD.search(name))

    def _tied(self) -> float:
        """Bytes of an embedding that is the output layer too."""
        if self.config.get("tie_word_embeddings", True) is False:
            return 0
        return max((s for name, s in self.bytes.items() if re.search(r"embed_tokens\.|wte", name)), default=0)

    def drafts(self, passes: int, target: Weights) -> float:
        """Bytes that it reads to draft in so many passes; it may use the target's output layer."""
        once = sum(size for name, size in self._read() if _ONCE.search(name))
        each = sum(size for name, size in self._read()) - once
        return once + passes * (each + (0 if self.head() else target.head() or target._tied()))

    def own_drafter(self, passes: int) -> float:
        """Bytes of the multi-token prediction layers that a target brings itself.

        Raises:
            UnknownShape: no tensor is named as theirs.
        """
        own = sum(s for n, s in self.bytes.items() if self._drafts_itself(n) and not _LOOKED_UP.search(n))
        if not own:
            raise UnknownShape("no tensor of the target is named as its drafter's")
        return passes * (own * self._experts() + (self.head() or self._tied()))

    def _read(self) -> Iterator[tuple[str, float]]:
        for name, size in self.bytes.items():
            if not (_LOOKED_UP.search(name) or _OTHER_SENSES.search(name) or self._drafts_itself(name)):
                yield name, size

    def _drafts_itself(self, name: str) -> bool:
        """Whether a tensor is of a target's own drafter: by its name, or in a layer after the last."""
        layer = re.search(r"(?:^|\.)layers\.(\d+)\.", name)
        last, own = self._count("num_hidden_layers"), self._count("num_nextn_predict_layers")
        return bool(re.search(r"(^|\.)mtp\.", name)) or bool(own and last and layer and int(layer[1]) >= last)

    def _experts(self) -> float:
        """The share of the experts that one token takes; 1 where it has none."""
        if not self.experts:
            return 1
        there, taken = self._count(*_EXPERTS), self._count("num_experts_per_tok", "top_k_experts")
        if not there or not taken:
            raise UnknownShape("config.json does not say how many experts a token takes")
        return min(1, taken / there)

    def _count(self, *names: str) -> int:
        """The first of these entries of config.json that is a count; 0 without one."""
        values = (self.config.get(name) for name in names)
        return next((value for value in values if isinstance(value, int) and value > 0), 0)

    def cache(self, tokens: int, *, dtype: str, kind: str = "auto") -> float:
        """Bytes of the KV cache of so many tokens.

        Args:
            tokens: the length of the context.
            dtype: of the model.
            kind: vLLM's `kv_cache_dtype`.

        Raises:
            UnknownShape: config.json does not say its layers, heads or sizes.
        """
        size = 1 if kind.startswith("fp8") else _SIZES.get(dtype if kind == "auto" else kind)
        layers, heads = self._count("num_hidden_layers"), self._count("num_attention_heads")
        wide = self._count("head_dim") or (self._count("hidden_size") // heads if heads else 0)
        latent = self._count("kv_lora_rank")
        each = 2 * (self._count("num_key_value_heads") or heads) * wide
        if latent:
            each = latent + self._count("qk_rope_head_dim")
        if not (size and layers and each):
            raise UnknownShape("config.json does not say what a token takes of the KV cache")
        kinds = self.config.get("layer_types")
        kinds = kinds if isinstance(kinds, list) else ["full_attention"] * layers
        window = self._count("sliding_window") or tokens
        held = {"full_attention": tokens, "sliding_attention": min(tokens, window)}
        # A layer of another kind keeps a state, which is left out.
        return float(each) * size * sum(held.get(str(kind), 0) for kind in kinds)


def _tensors(folder: Path, size: int | None) -> Iterator[tuple[str, float]]:
    """Name and bytes of each tensor; those of floating point as wide as the engine holds them."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - safe_open returns no mapping
                tensor = tensors.get_slice(name)
                kind, count = tensor.get_dtype(), math.prod(tensor.get_shape())
                yield name, count * (size if size and kind in _FLOATS else _STORED.get(kind, 1))


def passes_of(method: str, k: int, settings: Mapping[str, Any]) -> int:
    """How often a drafter's weights are read to draft k tokens.

    Raises:
        UnknownShape: nobody told us how this method drafts.
    """
    if method in _NOTHING_READ:
        return 0
    if method in _IN_ONE_PASS or settings.get("parallel_drafting"):
        return 1
    if method in _IN_PASSES or method.endswith("mtp"):
        return k
    raise UnknownShape(f"how {method} reads its weights is not known")
