"""The last stage: the harness measures the new drafter as it measures any other."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import tomli_w

from harness.config.shipped import DATA, SUITES
from harness.config.stack import Stack, find_stack, load_stack
from harness.report.card import values_of
from harness.results.names import SERVERS
from harness.results.prediction import VALIDATION
from harness.results.records import CellRecord, load
from training import program
from training.errors import BadRecipe, TrainingFailed, TrainingStopped
from training.export import export
from training.recipe import Recipe, served_as
from training.stages import Context

STACKS = DATA / "stacks"
IN_FLIGHT = "4"
"""Requests at a time. No time is measured here, so they may share the server."""


def run(context: Context) -> dict[str, Any]:
    """Serve the exported drafter in the recipe's stack and measure it; return tokens per step by cell.

    Raises:
        TrainingFailed: a cell is no valid measurement, or serving does not give what was predicted.
    """
    recipe, say = context.recipe, context.say
    context.servers.close()
    drafter = context.upstream["export"] / recipe.drafter
    stack = write_stack(context, drafter)
    results = context.folder / "results"
    # A new drafter has no baseline, and nothing will be compared with this one. The parity suite needs none.
    options = ["--stack", str(stack), "--profile", recipe.check.profile, "--update-baselines", "--no-confirm"]
    options += ["--baselines", str(context.folder / "baselines"), "--concurrency", IN_FLIGHT]
    if recipe.check.prompts:
        options += ["--prompts", str(recipe.check.prompts)]
    if recipe.check.max_tokens:
        options += ["--max-tokens", str(recipe.check.max_tokens)]
    if (drafter / VALIDATION).is_file():  # the parity suite compares this very drafter with what is known
        options += ["--self-check", "off"]
    marks = f"{recipe.drafter} and chat"
    if recipe.check.languages:
        marks += f" and ({' or '.join(recipe.check.languages)})"
    options += ["-m", marks, "--results", str(results), "-p", "no:cacheprovider"]
    suites = [str(SUITES / "test_acceptance.py"), str(SUITES / "test_parity.py")]
    say(f"measuring {recipe.drafter} with stack {stack}")
    log_file = context.folder / "log.txt"
    failed: TrainingStopped | None = None
    try:
        command = [sys.executable, "-m", "pytest", *suites, *options]
        program.run(command, what="pytest on the served drafter", log=log_file, folder=SUITES.parent)
    except TrainingStopped as error:
        failed = error  # what was measured goes into the card all the same
    files = newest(results)
    served = [values_of(load(file, CellRecord), run=str(file.parent.relative_to(results))) for file in files]
    export.add_served(drafter, served)
    if failed:
        raise TrainingFailed(str(failed), code="drafter-did-not-pass")
    return {
        f"{file.parent.name}/{file.stem}": one["tokens_per_step"]
        for file, one in zip(files, served, strict=True)
    }


def stack_of(recipe: Recipe) -> Stack:
    """The stack that measures the drafter.

    Raises:
        BadInput: there is none, or it lacks what the recipe asks for.
    """
    stack = load_stack(find_stack(recipe.check.stack, STACKS))
    for key, wanted, there in (
        ("profile", (recipe.check.profile,), stack.profiles),
        ("languages", recipe.check.languages or (), stack.languages),
    ):
        if lacking := [name for name in wanted if name not in there]:
            known = ", ".join(there)
            raise BadRecipe(f"check.{key}: stack {stack.name} has no {lacking[0]}; it has: {known}")
    return stack


def write_stack(context: Context, drafter: Path) -> Path:
    """Write the recipe's stack with the recipe's target and the new drafter; the file."""
    recipe = context.recipe
    stack = stack_of(recipe)
    if recipe.drafter in stack.drafters:
        context.say(f"{stack.name} has a drafter called {recipe.drafter} too; the new one is measured")
    target = recipe.target.model_copy(update={"dtype": stack.target.dtype})  # what suits the machine
    # Not the file's own text: its paths start at its own folder.
    tables = stack.model_copy(update={"target": target}).model_dump(
        mode="json", by_alias=True, exclude_unset=True, exclude_none=True
    )
    for table in tables["drafters"].values():
        del table["name"]
    tables["drafters"][recipe.drafter] = {
        "method": served_as(recipe.train.algorithm),
        "model": str(drafter.resolve()),
        "k": list(recipe.check.k),
    }
    path = context.folder / f"{stack.name}.toml"
    path.write_text(tomli_w.dumps(tables), encoding="utf-8")
    return path


def newest(results: Path) -> list[Path]:
    """The cells of the newest run; what the run keeps of its servers is none."""
    runs = sorted((p for p in results.glob("*") if p.is_dir()), key=lambda p: p.stat().st_mtime)
    files = sorted(runs[-1].glob("*/*.json")) if runs else []
    return [file for file in files if file.parent.name != SERVERS]
