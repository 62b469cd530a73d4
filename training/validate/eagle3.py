"""Runs a trained drafter once over an answer, with speculators' own model, and returns its guesses.

Which token a guess is for: a draft that starts after token t reads token t and the hidden states of token
t-1. Its guess number s is for token t+1+s. Here that guess is made from the answer's tokens up to t+s, not
from the draft's own guesses; where those are right, the two are the same.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.errors import BadDrafter

Tokens = NDArray[np.int64]
EMBEDDINGS = "embed_tokens.weight"
"""A drafter whose file has none uses the target's."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """A prompt with its greedy answer, and the target's hidden states of both."""

    id: str
    language: str
    token_ids: Tokens
    answer: int
    """Where the answer begins."""
    text: str | None
    """The answer as a server sends it, where it is known."""
    hidden_states: Any
    """Tensor [tokens, layers, hidden]: the layers that the drafter sees, then the last, before its norm."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guesses:
    """What the drafter guessed over one sample, in the target's vocabulary."""

    drafted: Tokens
    """[k, tokens]: at (s, t) the guess for token t + 1 + s of a draft that starts at t; nothing at t = 0."""
    best: Tokens
    """[tokens]: at t the target's best token of the draft vocabulary after token t; nothing at t = 0."""
    vocabulary: NDArray[np.bool_] | None
    """Which tokens of the target are in the draft vocabulary; None where all are."""


Drafter = Callable[[Sample], Guesses]
"""Guesses over a sample, run once over prompt and answer."""


class Eagle3:
    """An EAGLE-3 checkpoint of speculators, run by speculators' own model."""

    def __init__(self, checkpoint: Path, verifier: Path, *, device: str = "cpu") -> None:
        """Load the model, and of the verifier what it needs: embeddings, last norm, head.

        Args:
            checkpoint: config.json and model.safetensors; embeddings may be absent from it.
            verifier: the target's folder.
            device: `cpu` runs in float32, another in bfloat16.

        Raises:
            BadInput: the folder holds no EAGLE-3 checkpoint.
        """
        try:
            config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
            kind = config.get("speculators_model_type")
        except (OSError, ValueError, AttributeError):
            raise BadDrafter(f"{checkpoint}: no checkpoint of speculators (config.json)") from None
        if kind != "eagle3":
            raise BadDrafter(f"{checkpoint}: a prediction is made for eagle3 drafters, this is {kind!r}")
        import torch  # noqa: PLC0415 - seconds, and not needed to read a prediction
        from safetensors import safe_open  # noqa: PLC0415
        from speculators.models.eagle3 import Eagle3DraftModel, Eagle3SpeculatorConfig  # noqa: PLC0415
        from speculators.utils.loading import load_model_layers  # noqa: PLC0415

        self._torch, self._device = torch, device
        self._dtype = torch.float32 if device == "cpu" else torch.bfloat16
        settings = Eagle3SpeculatorConfig.from_pretrained(checkpoint)
        settings.speculators_config.verifier.name_or_path = str(verifier)
        # Flex attention is for training: it would be compiled anew for every length.
        settings.transformer_layer_config._attn_implementation = "sdpa"  # noqa: SLF001
        model = Eagle3DraftModel.from_pretrained(checkpoint, config=settings, dtype=self._dtype)
        with safe_open(checkpoint / "model.safetensors", "pt") as file:
            if EMBEDDINGS not in file.keys():  # noqa: SIM118 - it is no dict
                # transformers leaves uninitialised memory there, and speculators would use it.
                own = load_model_layers([EMBEDDINGS], str(verifier))[EMBEDDINGS]
                model.embed_tokens.load_state_dict({"weight": own})
        self._model = model.to(device, self._dtype).eval()
        self.k: int = settings.speculators_config.proposal_methods[0].speculative_tokens
        """Guesses in one draft: the ttt_steps it was trained with."""
        offsets = None if model.d2t is None else model.d2t.cpu().numpy()
        self._target_ids = None if offsets is None else np.arange(len(offsets)) + offsets
        self._vocabulary = None if model.t2d is None else model.t2d.cpu().numpy().astype(bool)

    def __call__(self, sample: Sample) -> Guesses:
        """Run once over prompt and answer, as one document."""
        torch, device = self._torch, self._device
        ids = torch.from_numpy(sample.token_ids).to(device)
        states = sample.hidden_states.to(device, self._dtype)
        length = len(ids) - 1  # token t needs the states of token t-1, so the first token has no guess
        with torch.inference_mode(), torch.compiler.set_stance("force_eager"):
            drafted = self._model(
                hidden_states=states[None, :-1, :-1].flatten(2),
                input_ids=ids[None, 1:],
                document_ids=torch.zeros(1, length, dtype=torch.long, device=device),
                position_ids=torch.arange(1, length + 1, device=device)[None],
                ttt_steps=self.k,
            )
            last = self._model.verifier_norm(states[1:, -1])
            best = self._model.verifier_lm_head(last).argmax(-1)
        return Guesses(
            drafted=np.stack([self._placed(step[0]) for step in drafted]),
            best=self._placed(best),
            vocabulary=self._vocabulary,
        )

    def _placed(self, draft_ids: Any) -> Tokens:
        """The guesses in the target's vocabulary, each at the token that its draft starts from."""
        ids: Tokens = draft_ids.cpu().numpy()
        ids = ids if self._target_ids is None else self._target_ids[ids]
        return np.concatenate([np.zeros(1, dtype=np.int64), ids])
