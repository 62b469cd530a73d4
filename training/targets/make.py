"""Makes a changed target: a folder that vLLM loads, with its card, which appears whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout
from tabulate import tabulate

from harness.config.cells import canonical
from harness.errors import BadInput
from harness.provenance.hardware import packages_of
from harness.results.files import write_atomically
from harness.text.console import Say
from training.export.manifest import files_of
from training.export.scrub import public_name, scrubbed_values
from training.hidden.disk_space import SPARE, size_of
from training.targets import ablate, card, command, divergence, merge, noise, quantize
from training.targets.folder import find_target, open_model
from training.targets.job import Job, Kind, Plan
from training.targets.memory import GIB, check_memory, free_bytes, needed_bytes
from training.targets.recipe import load_target_recipe

SCHEMA = 1
RECORDS = "target.json"
OUTPUT = Path("results/targets")
_PACKAGES = ("draftgate", "llmcompressor", "safetensors", "torch", "transformers")
KINDS = {
    "ablate": Kind(plan=ablate.plan, make=ablate.make),
    "noise": Kind(plan=noise.plan, make=noise.make),
    "merge": Kind(plan=merge.plan, make=merge.make),
    "command": Kind(plan=command.plan, make=command.make),
    "quantize": Kind(plan=quantize.plan, make=quantize.make, after=quantize.after),
}
"""By the name that a recipe gives them."""


def run(path: Path, changes: Sequence[str], *, output: Path | None, dry_run: bool, say: Say) -> str:
    """Make the changed target that a recipe describes, and return what to tell about it.

    Args:
        path: the recipe's file.
        changes: see `load_target_recipe`.
        output: the folder to be made; by default the recipe's name in `OUTPUT`.
        dry_run: only say what would be done.
        say: gets a line before anything slow.

    Raises:
        BadInput: the recipe, the target or the output is not as it must be; the target does not fit in
            memory or on the disk. Nothing is left behind then.
    """
    began = time.monotonic()
    recipe, document = load_target_recipe(path, changes)
    output = (output or OUTPUT / recipe.name).absolute()
    if output.exists():
        raise BadInput(
            f"{output} is there already: remove it, or name another --output", code="would-overwrite"
        )
    divergence.texts(recipe)
    base = open_model(find_target(recipe.target, say=say, fetch=not dry_run))
    job = Job(recipe=recipe, document=document, model=base, output=output, say=say, fetch=not dry_run)
    kind = KINDS[recipe.kind]
    plan = kind.plan(job)
    needed = needed_bytes(base, recipe) + plan.bytes
    if dry_run:
        return _outlook(job, plan, needed)
    check_memory(base, needed)
    _check_disk(base.bytes, output.parent)
    with _part(output) as part:
        say(f"{recipe.name}: changing {public_name(recipe.target)} ({recipe.kind})")
        change = kind.make(Job(recipe=recipe, document=document, model=base, output=part, say=say))
        made = open_model(part)
        changed_s = time.monotonic() - began
        say(f"{recipe.name}: comparing its next tokens with those of the unchanged target")
        measured = divergence.measure(base, part, recipe, scratch=part)
        values = scrubbed_values(recipe.model_dump(mode="json", by_alias=True, exclude_none=True))
        records = {
            "schema": SCHEMA,
            "name": recipe.name,
            "about": recipe.about,
            "kind": recipe.kind,
            "recipe": values,
            "recipe_sha256": hashlib.sha256(canonical(values).encode()).hexdigest(),
            "base": {"model": public_name(recipe.target), "bytes": base.bytes, "sha256": base.sha256()},
            "change": scrubbed_values(change),
            "divergence": measured,
            "bytes": made.bytes,
            "seconds": {"change": round(changed_s, 1), "all": round(time.monotonic() - began, 1)},
            "versions": {name: of for name, of in packages_of(None).items() if name in _PACKAGES},
            "files": files_of(part),
        }
        text = json.dumps(records, indent=1, ensure_ascii=False, allow_nan=False)
        write_atomically(part / RECORDS, text + "\n")
        write_atomically(part / "README.md", card.text(records))
    kind.after(job)
    return f"{card.summary(records)}\n{output}"


def _outlook(job: Job, plan: Plan, needed: int) -> str:
    rows = [
        ["target", f"{public_name(job.recipe.target)}, {size_of(job.model.bytes)}"],
        ["change", f"{job.recipe.kind}: {job.recipe.about}"],
        *plan.rows,
        ["memory", f"{needed / GIB:.1f} GiB needed, {free_bytes() / GIB:.1f} GiB free"],
        ["output", str(job.output)],
    ]
    return tabulate(rows, tablefmt="plain")


def _check_disk(needed: int, folder: Path) -> None:
    there = next(path for path in (folder, *folder.parents) if path.is_dir())
    if (free := shutil.disk_usage(there).free) < needed * SPARE:
        raise BadInput(
            f"{there} has {size_of(free)} free, and the target takes {size_of(needed)}: free some, or "
            "name another --output",
            code="disk-space",
        )


@contextlib.contextmanager
def _part(output: Path) -> Iterator[Path]:
    """An empty folder beside the output, which becomes the output when the block has ended well.

    Raises:
        BadInput: another process makes it just now, or the folder cannot be written.
    """
    part = output.with_name(f".{output.name}.part")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(part.with_suffix(".lock"), timeout=0):
            try:
                shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
                part.mkdir()
                yield part
                part.rename(output)
            finally:
                shutil.rmtree(part, ignore_errors=True)
                part.with_suffix(".lock").unlink(missing_ok=True)
    except Timeout:
        raise BadInput(
            f"another process is making {output}: wait for its end", code="would-overwrite"
        ) from None
    except OSError as error:
        raise BadInput(f"cannot write {output}: {error.strerror}", code="cannot-write") from None
