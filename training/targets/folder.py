"""A model's folder on disk: what its weights are, without loading them, and a changed copy of it."""

from __future__ import annotations

import dataclasses
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.config.toml import Document
from harness.config.variants import Target
from harness.engine.models import check_reference, resolve, sha256_of
from harness.errors import BadInput, BadRecord
from harness.results.files import read_json
from harness.text.console import Say

INDEX = "model.safetensors.index.json"
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")
_OWN = ("README.md", "draftgate.json", "target.json")
"""Files that say something of the folder they lie in, and nothing of its copy."""
_LOADED = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.py")
_QUANTISED = re.compile(r"\.(weight_scale(_inv|_2)?|weight_packed|qweight|qzeros)$")
"""What only the weights of a quantised target have beside them."""
_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
FLOATS = ("F64", "F32", "F16", "BF16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tensor:
    """A tensor of a file, not loaded."""

    name: str
    file: Path
    shape: tuple[int, ...]
    dtype: str
    """As safetensors names it: BF16, F32, ..."""

    @property
    def values(self) -> int:
        """How many."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """On disk."""
        return self.values * _BYTES.get(self.dtype, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A folder that vLLM loads: its configuration, and its tensors by name."""

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def text(self) -> dict[str, Any]:
        """The configuration of the language model, which in one for images and text is a table."""
        inner = self.config.get("text_config")
        return inner if isinstance(inner, dict) else self.config

    @property
    def files(self) -> list[Path]:
        """The files of its weights."""
        return sorted({tensor.file for tensor in self.tensors.values()})

    @property
    def bytes(self) -> int:
        """Of its weights on disk."""
        return sum(file.stat().st_size for file in self.files)

    def sha256(self) -> dict[str, str]:
        """Of each file of its weights."""
        return {file.name: sha256_of(file) for file in self.files}


def find_target(target: Target, *, say: Say, fetch: bool) -> Path:
    """The folder of a target: an embedded one, a path, or the snapshot of a hub id.

    Raises:
        BadInput: it is not there, or cannot be fetched.
    """
    reference = resolve(target.model, say=say)
    if reference.startswith("/"):
        return Path(reference)
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - seconds, and only a hub id needs it

    try:
        if fetch:
            say(f"{reference}: fetching what is not here yet")
        found = snapshot_download(
            reference, revision=target.revision, allow_patterns=[*_LOADED], local_files_only=not fetch
        )
    except Exception as error:  # noqa: BLE001 - hub, network and cache each raise their own
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        if not fetch:
            reason = "a dry run fetches nothing; without --dry-run it is fetched from the hub"
        raise BadInput(
            f"the target {reference} is not on this machine: {reason}", code="model-missing"
        ) from None
    return Path(found)


def open_model(folder: Path) -> Model:
    """Read the configuration and the headers of the weights.

    Raises:
        BadInput: the folder is not there, or is no model that vLLM loads: no configuration, no weights, a
            file of weights is missing or damaged, or lacks a tensor that the index names.
    """
    check_reference(str(folder.absolute()))
    try:
        config = read_json(folder / "config.json")
        index = read_json(folder / INDEX)["weight_map"] if (folder / INDEX).is_file() else None
        files = (
            sorted(folder.glob("*.safetensors")) if index is None else [folder / f for f in {*index.values()}]
        )
    except (BadRecord, KeyError, TypeError, AttributeError) as error:
        raise _no_model(folder, f"{error}") from None
    if not isinstance(config, dict):
        raise _no_model(folder, "config.json holds no table")
    if not files:
        raise _no_model(folder, "it holds no weights (*.safetensors)")
    tensors = {tensor.name: tensor for file in sorted(files) for tensor in _tensors(file)}
    if missing := sorted(set(index or ()) - set(tensors)):
        raise _no_model(folder, f"{INDEX} names {missing[0]}, which no file of weights holds")
    return Model(folder=folder, config=config, tensors=tensors)


def _no_model(folder: Path, why: str) -> BadInput:
    return BadInput(f"{folder} is no model that vLLM loads: {why}", code="target-folder")


def _tensors(file: Path) -> list[Tensor]:
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415

    try:
        with safe_open(file, "np") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 - no dict
            return [
                Tensor(name=name, file=file, shape=tuple(part.get_shape()), dtype=part.get_dtype())
                for name, part in slices.items()
            ]
    except (OSError, SafetensorError) as error:
        raise _no_model(file.parent, f"{file.name} cannot be read ({error})") from None


def refuse_quantized(model: Model, document: Document, key: tuple[str, ...] = ("target", "model")) -> None:
    """Refuse a target whose weights are quantised: what is changed in them is not what the engine computes.

    Raises:
        BadInput: it is.
    """
    found = model.config.get("quantization_config") or model.text.get("quantization_config")
    scale = next((name for name in model.tensors if _QUANTISED.search(name)), None)
    if found or scale:
        method = found.get("quant_method", "unknown") if isinstance(found, dict) else found or scale
        raise document.wrong(
            key,
            f"{model.folder} is quantised already ({method}): change the target that it was made from",
            code="target-folder",
        )


def beside_weights(folder: Path) -> list[Path]:
    """The files of a folder that a copy of its model needs beside the weights."""
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and path.suffix not in _WEIGHTS and path.name not in _OWN
        if not path.name.startswith(".")
    ]


def write_changed(model: Model, to: Path, change: Callable[[Tensor, Any], Any]) -> None:
    """Write a copy of a model in which some tensors are changed. One file of weights is in memory at a time.

    Args:
        model: whose folder is copied, without files that speak of that folder alone.
        to: the folder of the copy.
        change: gets a tensor and its values, and returns new values of the same shape, or the same object.

    Raises:
        BadInput: a changed value is not finite.
    """
    from safetensors import safe_open  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415

    for path in beside_weights(model.folder):
        shutil.copyfile(path, to / path.name)
    for file in model.files:
        kept = {}
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata()
            for name in opened.keys():  # noqa: SIM118 - it is no dict
                before = opened.get_tensor(name)
                after = change(model.tensors[name], before)
                if after is not before:
                    after = after.to(before.dtype).contiguous()
                    if not after.isfinite().all():
                        raise BadInput(
                            f"{name} would hold numbers that are not finite: change it by less",
                            code="target-values",
                        )
                kept[name] = after
        save_file(kept, to / file.name, metadata=metadata)
