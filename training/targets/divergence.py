"""How far a changed target is from the unchanged one: KL divergence of next tokens on held-out texts."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import BadInput, reason_of
from harness.stats.paired import student
from training.targets.folder import Model
from training.targets.recipe import TargetRecipe, texts_of
from training.tokenizer import tokenizer_of


@contextlib.contextmanager
def loaded(folder: Path, recipe: TargetRecipe) -> Iterator[Any]:
    """A target in memory, on the GPU where there is one.

    Raises:
        BadInput: transformers cannot load it, or finds no values for some of its weights.
    """
    os.environ["TQDM_DISABLE"] = "1"  # read by each library that draws a bar, when it is imported
    import torch  # noqa: PLC0415 - seconds
    from transformers import AutoModelForCausalLM  # noqa: PLC0415
    from transformers.utils.logging import disable_progress_bar  # noqa: PLC0415

    disable_progress_bar()
    dtype = "auto" if recipe.target.dtype == "auto" else getattr(torch, recipe.target.dtype)
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            device_map="cuda" if torch.cuda.is_available() else None,
            trust_remote_code=recipe.target.trust_remote_code,
            output_loading_info=True,
        )
    except Exception as error:  # noqa: BLE001 - each architecture's code raises its own
        raise BadInput(
            f"{folder} cannot be loaded ({type(error).__name__}: {reason_of(error)}); copy the folder anew",
            code="target-folder",
        ) from None
    if lacking := sorted(report["missing_keys"]):
        raise BadInput(
            f"{folder} holds no values for {lacking[0]} ({len(lacking)} such weights): copy the folder anew",
            code="target-folder",
        )
    try:
        with torch.inference_mode():
            yield model.eval()
    finally:
        del model
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def measure(base: Model, changed: Path, recipe: TargetRecipe, *, scratch: Path) -> dict[str, Any]:
    """Compare next tokens over the recipe's texts: KL(unchanged || changed) in nats per token.

    At each token p ln(p / q) is summed over the vocabulary (Kullback and Leibler 1951). A text's value is
    the mean over its tokens; the figure is the mean over texts, with Student's interval over texts. One
    target is in memory at a time.

    Args:
        base: the unchanged target, whose tokenizer reads the texts.
        changed: the folder of the changed one.
        recipe: names the texts.
        scratch: a folder on a disk with room for the unchanged target's log-probabilities.

    Returns:
        `mean`, `low`, `high`, `same_best` (share of tokens whose likeliest next token is the same),
        `texts` and `tokens` of all files together and of each.

    Raises:
        BadInput: a target cannot be loaded, has another vocabulary, or answers with numbers that are not
            finite; there are fewer than two texts.
    """
    import torch  # noqa: PLC0415 - seconds
    from safetensors.torch import load_file, save_file  # noqa: PLC0415

    files = _token_ids(base.folder, recipe)
    texts = [(file, ids) for file, of in files.items() for ids in of]
    with tempfile.TemporaryDirectory(prefix=".divergence.", dir=scratch) as kept:
        parts = [Path(kept) / f"{number}.safetensors" for number in range(len(texts))]
        with loaded(base.folder, recipe) as model:
            for part, (_, ids) in zip(parts, texts, strict=True):
                save_file({"log_p": _log_probabilities(model, ids)}, part)
        values: dict[str, list[tuple[float, float, int]]] = {file: [] for file in files}
        with loaded(changed, recipe) as model:
            for part, (file, ids) in zip(parts, texts, strict=True):
                log_p, log_q = load_file(part)["log_p"], _log_probabilities(model, ids)
                if log_p.shape != log_q.shape:
                    raise BadInput(
                        f"{changed} has a vocabulary of {log_q.shape[-1]} tokens, the unchanged target of "
                        f"{log_p.shape[-1]}: their next tokens cannot be compared; keep the "
                        "vocabulary",
                        code="target-folder",
                    )
                divergence = torch.nn.functional.kl_div(log_q, log_p, reduction="sum", log_target=True)
                same = (log_p.argmax(-1) == log_q.argmax(-1)).double().mean()
                values[file].append((max(0.0, float(divergence) / len(log_p)), float(same), len(log_p)))
                part.unlink()
    return {
        "files": {file: _summary(of) for file, of in values.items()},
        **_summary([value for of in values.values() for value in of]),
    }


def texts(recipe: TargetRecipe) -> dict[str, list[str]]:
    """The recipe's texts, by what their files are called in the card.

    Raises:
        BadInput: a file is damaged, or has fewer than two texts.
    """
    found: dict[str, list[str]] = {}
    for number, file in enumerate(recipe.divergence.files):
        path = Path(file)
        name = f"{path.parent.name}/{path.stem}"
        of = texts_of(file, most=recipe.divergence.texts)
        _enough(file, of)
        found[f"{name}-{number}" if name in found else name] = of
    return found


def _enough(file: str, of: Sequence[Any]) -> None:
    if len(of) < 2:  # noqa: PLR2004
        raise BadInput(
            f"divergence.files: {file} has {len(of)} texts of two tokens or more, and a scatter over texts "
            "needs 2: add some",
            code="too-few-prompts",
        )


def _token_ids(tokenizer: Path, recipe: TargetRecipe) -> dict[str, list[list[int]]]:
    read = tokenizer_of(str(tokenizer))
    found = {}
    for name, of in texts(recipe).items():
        ids = [read(text)["input_ids"][: recipe.divergence.tokens] for text in of]
        found[name] = [one for one in ids if len(one) > 1]
        _enough(name, found[name])
    return found


def _log_probabilities(model: Any, ids: Sequence[int]) -> Any:
    """Of the next token after each but the last: float32 [tokens - 1, vocabulary], on the CPU."""
    import torch  # noqa: PLC0415

    logits = model(input_ids=torch.tensor([ids], device=model.device)).logits[0, :-1]
    if not logits.isfinite().all():
        what = f"{model.name_or_path} answers with numbers that are not finite: change it by less"
        raise BadInput(what, code="target-values")
    return torch.log_softmax(logits.float(), -1).cpu()


def _summary(values: Sequence[tuple[float, float, int]]) -> dict[str, Any]:
    """Of several texts: (divergence, share of the same best tokens, tokens) each."""
    divergences = np.array([value for value, _, _ in values])
    mean, error = float(divergences.mean()), float(divergences.std(ddof=1)) / len(values) ** 0.5
    half = student(0.975, len(values) - 1) * error
    return {
        "mean": mean,
        "low": max(0.0, mean - half),
        "high": mean + half,
        "same_best": float(np.mean([same for _, same, _ in values])),
        "texts": len(values),
        "tokens": sum(tokens for _, _, tokens in values),
    }
