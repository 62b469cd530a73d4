"""The last stage: the harness measures the new drafter as it measures any other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import tomli_w

import harness
from harness.config.stack import find_stack, load_stack
from harness.config.toml import Document
from harness.engine import process
from harness.results.records import CellRecord, load
from training.errors import TrainingFailed
from training.export import export, served
from training.stages import Context

STACKS = Path(harness.__file__).resolve().parent.parent / "fixtures" / "stacks"
SUITES = Path(harness.__file__).resolve().parent.parent / "bench_suites"


def run(context: Context) -> dict[str, Any]:
    """Serve the exported drafter in the recipe's stack and measure it; return tokens per step by cell.

    Raises:
        TrainingFailed: a cell is no valid measurement, or serving does not give what was predicted.
    """
    recipe, say = context.recipe, context.say
    context.slot.close()
    drafter = context.upstream["export"] / recipe.drafter
    stack = write_stack(context, drafter)
    results = context.folder / "results"
    # A new drafter has no baseline. The parity suite needs none.
    options = ["--stack", str(stack), "--profile", recipe.check.profile, "--update-baselines"]
    options += ["--baselines", str(context.folder / "baselines")]
    if recipe.check.prompts:
        options += ["--prompts", str(recipe.check.prompts)]
    if recipe.check.max_tokens:
        options += ["--max-tokens", str(recipe.check.max_tokens)]
    marks = f"{recipe.drafter} and chat"
    if recipe.check.languages:
        marks += f" and ({' or '.join(recipe.check.languages)})"
    options += ["-m", marks, "--results", str(results), "-p", "no:cacheprovider"]
    suites = [str(SUITES / "test_acceptance.py"), str(SUITES / "test_parity.py")]
    say(f"measuring {recipe.drafter} with stack {stack}")
    log_file = context.folder / "log.txt"
    with log_file.open("ab") as log:
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", *suites, *options],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            check=False,
            cwd=SUITES.parent,
        )
    records = newest(results)
    export.add_served(drafter, [served.of(record) for record in records])
    if ended.returncode:
        failed = f"the served drafter did not pass (pytest's exit code {ended.returncode})"
        raise TrainingFailed(process.obituary(failed, log_file), code="drafter-did-not-pass")
    return {f"{record.suite}/{record.cell}": served.of(record)["tokens_per_step"] for record in records}


def write_stack(context: Context, drafter: Path) -> Path:
    """Write the recipe's stack with the new drafter added to it; the file."""
    recipe = context.recipe
    base = find_stack(recipe.check.stack, STACKS)
    stack = load_stack(base)
    if recipe.drafter in stack.drafters:
        context.say(f"{base.name} has a drafter called {recipe.drafter} too; the new one is measured")
    tables = Document(base).tables
    method = "eagle3" if recipe.train.algorithm == "peagle" else recipe.train.algorithm
    new = {"method": method, "model": str(drafter.resolve()), "k": list(recipe.check.k)}
    tables.setdefault("drafters", {})[recipe.drafter] = new
    path = context.folder / f"{stack.name}.toml"
    path.write_text(tomli_w.dumps(tables), encoding="utf-8")
    return path


def newest(results: Path) -> list[CellRecord]:
    """The cells of the newest run."""
    runs = sorted((p for p in results.glob("*") if p.is_dir()), key=lambda p: p.stat().st_mtime)
    return [load(file, CellRecord) for file in sorted(runs[-1].glob("*/*.json"))] if runs else []
