"""Quantises the matrices of a target with llm-compressor, without data, in an environment of its own."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from harness.errors import BadInput
from harness.results.files import write_atomically
from training import program, smoke
from training.hidden.disk_space import size_of
from training.targets import llm_compressor
from training.targets.folder import INDEX, beside_weights, refuse_quantized
from training.targets.job import Job, Plan
from training.targets.patterns import Takes, takes

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-quantize" / "bin" / "python"
"""What `make quantize-env` makes."""
OWN_BYTES = 2**30
"""Memory that llm-compressor takes beside the weights, about: torch and transformers."""


def plan(job: Job) -> Plan:
    """What is quantised, and what each pattern leaves out.

    Raises:
        BadInput: the target is quantised already, a pattern matches nothing, a router would be quantised, or
            llm-compressor is not there.
    """
    refuse_quantized(job.model, job.document)
    found = _takes(job)
    if not _python(job).is_file():
        raise BadInput(
            f"llm-compressor is not there (no interpreter {_python(job)}): `make quantize-env` installs it, "
            "or name an interpreter that has it in quantize.python",
            code="quantize-env",
        )
    return Plan(rows=[list(row) for row in found.rows()], bytes=OWN_BYTES)


def make(job: Job) -> dict[str, Any]:
    """Write the quantised target; say first what is quantised and what is not, and at last the sizes."""
    recipe, found = job.recipe.change, _takes(job)
    for what, how_much in found.rows():
        job.say(f"{what}: {how_much}")
    work = {
        "source": str(job.model.folder),
        "folder": str(job.output),
        "scheme": recipe.scheme,
        "ignore": [*recipe.ignore, *recipe.optional],
    }
    command = [str(_python(job)), "-P", llm_compressor.__file__, json.dumps(work)]
    program.run(command, what="llm-compressor", log=job.output.parent / f"{job.recipe.name}.log")
    copied = {path.name for path in beside_weights(job.model.folder)}
    for path in job.output.iterdir():  # it copies all that lies in the folder
        if path.name not in copied and path.name != INDEX and path.suffix != ".safetensors":
            path.unlink()
    after = sum(path.stat().st_size for path in job.output.glob("*.safetensors"))
    sizes = f"{size_of(job.model.bytes)} before, {size_of(after)} after"
    job.say(f"weights: {sizes}")
    return {"scheme": recipe.scheme, **dict(found.rows()), "weights": sizes}


def after(job: Job) -> None:
    """Serve the quantised target and ask it in each modality, if the recipe names a stack.

    Raises:
        TrainingFailed: an answer is not as expected. The folder stays.
        ServerFailed: it cannot be served here.
    """
    stack = job.recipe.change.stack
    if stack is None:
        job.say(
            f"not served yet: python -m training smoke {job.output} --stack NAME asks it in each modality"
        )
        return
    asked = smoke.run(str(job.output), stack, say=job.say)
    rows = [dataclasses.asdict(one) for one in asked]
    write_atomically(job.output / "smoke.json", json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    smoke.check(asked)


def _takes(job: Job) -> Takes:
    recipe = job.recipe.change
    return takes(job.model, ignore=recipe.ignore, optional=recipe.optional, document=job.document)


def _python(job: Job) -> Path:
    return Path(job.recipe.change.python or PYTHON)
