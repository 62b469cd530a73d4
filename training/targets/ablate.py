"""Projects a direction out of what the layers of a target write.

The direction is the difference between the mean hidden states of two sets of prompts. It is taken out of
every matrix that writes to the residual stream: W <- W - r r^T W with |r| = 1 (Arditi et al. 2024, "Refusal
in Language Models Is Mediated by a Single Direction", section 4.1).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.errors import BadInput
from training.targets import divergence
from training.targets.divergence import loaded
from training.targets.folder import Model, Tensor, refuse_quantized, write_changed
from training.targets.job import Job, Plan
from training.targets.recipe import texts_of
from training.tokenizer import tokenizer_of

_LAYER = re.compile(r"\blayers\.(\d+)\.(.+)")
_WRITES = {
    "attention": re.compile(r"(self_attn|attention|linear_attn)\.(o_proj|out_proj)\.(weight|bias)"),
    "MLP": re.compile(
        r"(mlp|block_sparse_moe|feed_forward|experts|moe)\.(.+\.)?(down_proj|w2)(\.weight|\.bias)?"
    ),
}
_EMBEDDINGS = re.compile(r"(.+\.)?embed_tokens\.weight")
_NORM_BEHIND = re.compile(r"\blayers\.\d+\.post_(feedforward|mlp)_layernorm\.")
"""As in Gemma: what a layer writes is scaled value by value before it joins the residual stream."""
_OTHER = re.compile(r"vision|visual|audio")


def plan(job: Job) -> Plan:
    """Which matrices lose the direction.

    Raises:
        BadInput: a layer does not exist, or has no such matrix; the two prompt files are the same, or share
            a prompt; the target is quantised.
    """
    refuse_quantized(job.model, job.document)
    written = _written(job)
    one, other = _prompts(job)
    rows = [
        ["prompts", f"{len(one)} against {len(other)}"],
        ["direction of", f"layer {job.recipe.change.direction_layer}"],
        ["matrices that lose it", f"{len(written)}, {sum(t.values for t in written):,} values"],
    ]
    if any(_NORM_BEHIND.search(name) for name in job.model.tensors):
        rows.append(["norms behind them", "they turn what is written, so a part of the direction stays"])
    return Plan(rows=rows)


def make(job: Job) -> dict[str, Any]:
    """Write the target, and look how much of the direction its hidden states still have."""
    wanted = job.recipe.change
    sets = [_token_ids(job, texts) for texts in _prompts(job)]
    means = _means(job, job.model.folder, sets)
    difference = means[0] - means[1]
    length = float(difference.norm())
    if not 0 < length < float("inf"):
        raise job.document.wrong(
            ("ablate", "prompts"),
            f"the mean hidden states of both files are the same after layer {wanted.direction_layer}: no "
            "direction leads from one to the other",
            code="target-prompts",
        )
    direction = difference / length
    names = {tensor.name for tensor in _written(job)}

    def ablated(tensor: Tensor, before: Any) -> Any:
        return _without(before, direction, job) if tensor.name in names else before

    write_changed(job.model, job.output, ablated)
    after = _means(job, job.output, sets)
    return {
        "matrices": sorted(names),
        "difference_before": round(length, 6),
        "difference_after": round(float((after[0] - after[1]) @ direction), 6),
    }


def _without(before: Any, direction: Any, job: Job) -> Any:
    """The matrix, or the bias, without what it writes along the direction."""
    plain = before.float()
    axis = _axis(tuple(plain.shape), len(direction))
    if axis is None:
        raise BadInput(
            f"{job.model.folder}: a matrix of {tuple(plain.shape)} does not write {len(direction)} values",
            code="target-folder",
        )
    moved = plain.movedim(axis, -1)
    return (moved - (moved @ direction)[..., None] * direction).movedim(-1, axis)


def _axis(shape: Sequence[int], width: int) -> int | None:
    """Along which axis a tensor writes: [.., hidden, in], in some architectures [experts, in, hidden].

    None where none does, or experts are square, so that nothing tells which it is.
    """
    if len(shape) > 2 and shape[-2] == shape[-1]:  # noqa: PLR2004
        return None
    places = (-2, -1) if len(shape) > 1 else (-1,)
    return next((axis for axis in places if shape[axis] == width), None)


def _written(job: Job) -> list[Tensor]:
    """The tensors of the recipe's layers that write to the residual stream.

    Raises:
        BadInput: a layer does not exist, or none of its matrices is known.
    """
    wanted, model = job.recipe.change, job.model
    width = int(model.text.get("hidden_size") or 0)
    layers = _outputs(model, width)
    for key, asked in (("layers", wanted.layers or ()), ("direction_layer", (wanted.direction_layer,))):
        if lacking := sorted(set(asked) - set(layers)):
            what = f"the target has no layer {lacking[0]}: its layers are 0 to {max(layers, default=-1)}"
            raise job.document.wrong(("ablate", key), what, code="target-names")
    if wanted.direction_layer == max(layers):
        what = "the state after the last layer is seen behind the final norm alone: take an earlier layer"
        raise job.document.wrong(("ablate", "direction_layer"), what, code="target-names")
    tensors: list[Tensor] = []
    for layer in wanted.layers or sorted(layers):
        for part in _WRITES:
            if part not in layers[layer]:
                what = f"layer {layer} has no {part} output that draftgate knows by name and shape"
                raise job.document.wrong(("ablate", "layers"), what, code="target-names")
            tensors += layers[layer][part]
    if wanted.embeddings:
        own = [t for t in model.tensors.values() if _EMBEDDINGS.fullmatch(t.name) and t.shape[-1] == width]
        if not own:
            what = "the target has no embeddings that draftgate knows by name"
            raise job.document.wrong(("ablate", "embeddings"), what, code="target-names")
        tensors += own
    return tensors


def _outputs(model: Model, width: int) -> dict[int, dict[str, list[Tensor]]]:
    """Of each layer the tensors that write to the residual stream, by what they belong to."""
    layers: dict[int, dict[str, list[Tensor]]] = {}
    for tensor in model.tensors.values():
        found = None if _OTHER.search(tensor.name) else _LAYER.search(tensor.name)
        if not found:
            continue
        of = layers.setdefault(int(found[1]), {})
        for part, pattern in _WRITES.items():
            if pattern.fullmatch(found[2]) and _axis(tensor.shape, width) is not None:
                of.setdefault(part, []).append(tensor)
    return layers


def _prompts(job: Job) -> tuple[list[str], list[str]]:
    """The texts of both files.

    Raises:
        BadInput: they share one.
    """
    files = job.recipe.change.prompts
    one, other = (texts_of(file) for file in files)
    for file, held_out in divergence.texts(job.recipe).items():
        if set(map(str.strip, held_out)) & set(map(str.strip, (*one, *other))):
            what = f"{file} has texts of ablate.prompts: name texts that have no part in the change"
            raise job.document.wrong(("divergence", "files"), what, code="target-prompts")
    if shared := set(map(str.strip, one)) & set(map(str.strip, other)):
        names = " and ".join(Path(file).name for file in files)
        what = (
            "are the same"
            if set(one) == set(other)
            else f"share {len(shared)} prompts, as {min(shared)[:60]!r}"
        )
        raise job.document.wrong(
            ("ablate", "prompts"), f"{names} {what}: their difference is the direction", code="target-prompts"
        )
    return one, other


def _token_ids(job: Job, texts: Sequence[str]) -> list[list[int]]:
    """Each prompt as the chat template renders it, up to where the answer begins."""
    read = tokenizer_of(str(job.model.folder))
    if not read.chat_template:
        return [read(text)["input_ids"] for text in texts]
    rendered = [
        read.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False
        )
        for text in texts
    ]
    return [read(text, add_special_tokens=False)["input_ids"] for text in rendered]


def _means(job: Job, folder: Path, sets: Sequence[Sequence[Sequence[int]]]) -> list[Any]:
    """For each set of prompts the mean hidden state after the layer, at the last token: float32 [hidden]."""
    import torch  # noqa: PLC0415 - seconds

    found: list[list[Any]] = [[] for _ in sets]
    with loaded(folder, job.recipe) as model:
        for states, prompts in zip(found, sets, strict=True):
            for ids in prompts:
                given = torch.tensor([ids], device=model.device)
                hidden = model(input_ids=given, output_hidden_states=True).hidden_states
                states.append(hidden[job.recipe.change.direction_layer + 1][0, -1].float().cpu())
        return [torch.stack(states).mean(0) for states in found]
