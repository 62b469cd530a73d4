"""Exports the best checkpoint into a folder that vLLM loads, with the records of how it was made.

Nothing in the folder names a path of the machine that made it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.config.prompts import HELD_OUT
from harness.config.variants import Target
from harness.engine.models import resolve
from harness.errors import BadInput
from harness.results.files import json_object, write_atomically
from harness.results.prediction import VALIDATION
from training.errors import BadDrafter, TrainingStopped
from training.export import model_card
from training.export.manifest import files_of, records_of
from training.export.scrub import recipe_toml, scrubbed, scrubbed_values
from training.export.weights import config_of, write_weights
from training.stages import Context

SCHEMA = 1
RECORDS = "training.json"


def run(context: Context) -> dict[str, Any]:
    """The stage: write the drafter's folder, which has the drafter's name, into the stage's own.

    Raises:
        BadInput: see `export`.
        TrainingFailed: there is no checkpoint that was validated.
    """
    recipe, train, data = context.recipe, context.upstream["train"], context.upstream["dataset"]
    checkpoint = train / "checkpoints" / "best"
    if not (checkpoint / "config.json").is_file():
        raise TrainingStopped(
            f"{checkpoint}: no checkpoint was validated, so there is no best one. Train longer"
        )
    texts = {"recipe.toml": recipe_toml(recipe)}
    for name, stage in (("log.txt", train), (VALIDATION, train), (HELD_OUT, data)):
        if (stage / name).is_file():
            texts[name] = (stage / name).read_text(encoding="utf-8", errors="replace")
    known = export(
        checkpoint=checkpoint,
        verifier=resolve(recipe.target.model, say=context.say, python=recipe.engine.python),
        target=recipe.target,
        records=records_of(recipe, context.upstream),
        texts=texts,
        to=context.folder / recipe.drafter,
    )
    size = sum(file["bytes"] for file in known["files"].values())
    context.say(f"{recipe.drafter}: {size / 1e6:.1f} MB in {context.folder / recipe.drafter}")
    return {"bytes": size, "sha256": known["files"]["model.safetensors"]["sha256"]}


def export(
    *,
    checkpoint: Path,
    verifier: str,
    target: Target,
    records: Mapping[str, Any],
    texts: Mapping[str, str],
    to: Path,
) -> dict[str, Any]:
    """Write the drafter's folder. Once complete, it replaces an older one.

    Args:
        checkpoint: config.json and model.safetensors, as the trainer wrote them.
        verifier: the target's folder or hub id, for its embeddings.
        target: as the recipe has it.
        records: what training.json holds beside `files` and `served`.
        texts: further files by name: recipe.toml, log.txt, validation.jsonl, held_out.jsonl.
        to: the folder.

    Returns:
        The records as they were written.

    Raises:
        BadInput: the checkpoint is damaged or not of an EAGLE-3 drafter's shape, or the folder cannot be
            written.
    """
    config = config_of(checkpoint, target)
    part = to.with_name(f".{to.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        write_atomically(part / "config.json", json.dumps(config, indent=1, sort_keys=True) + "\n")
        for name, text in texts.items():
            own = name in {VALIDATION, HELD_OUT}  # prompts are not ours to change
            write_atomically(part / name, text if own else scrubbed(text))
        write_weights(checkpoint, verifier, part, config)
        known = {**scrubbed_values(dict(records)), "schema": SCHEMA, "served": [], "files": files_of(part)}
        _write_records(part, known)
        if to.exists():
            shutil.rmtree(to)
        part.rename(to)
    except OSError as error:
        raise BadInput(f"cannot write the drafter to {to}: {error.strerror}", code="cannot-write") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return known


def load(folder: Path) -> dict[str, Any]:
    """The records of an exported drafter.

    Raises:
        BadInput: there are none, or another version's.
    """
    path = folder / RECORDS
    try:
        known = json_object(path.read_bytes(), str(path))
    except OSError as error:
        raise BadDrafter(f"{path}: {error.strerror}") from None
    if known.get("schema") != SCHEMA:
        raise BadDrafter(
            f"{path}: these are no records that this version of draftgate can read: export the drafter again"
        )
    return known


def add_served(folder: Path, served: list[dict[str, Any]]) -> dict[str, Any]:
    """Add served figures to records and card. Newer figures of a cell replace older ones.

    Args:
        folder: the drafter's.
        served: see `harness.report.card.values_of`.

    Raises:
        BadInput: the folder holds no drafter of ours, or cannot be written.
    """
    known = load(folder)
    try:
        kept = {_key(one): one for one in [*known.get("served", []), *scrubbed_values(served)]}
        known["served"] = [kept[key] for key in sorted(kept)]
        _write_records(folder, known)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"[:200]
        raise BadDrafter(
            f"{folder / RECORDS}: no card can be written from it ({what}): export the drafter again"
        ) from None
    return known


def _key(served: Mapping[str, Any]) -> str:
    fields = ("prompts_of", "endpoint", "language", "k", "temperature", "engine", "device")
    return json.dumps([served.get(field) for field in fields])


def _write_records(folder: Path, known: Mapping[str, Any]) -> None:
    text = json.dumps(known, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    text.encode()  # so that either both are written or neither
    card = model_card.text(known)
    card.encode()
    write_atomically(folder / RECORDS, text + "\n")
    write_atomically(folder / "README.md", card)
