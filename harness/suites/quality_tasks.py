"""Standard tasks: lm-eval asks the server of a cell, and its results are read back."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.config.cells import Cell
from harness.config.engine_arguments import underscored
from harness.engine.server import Server
from harness.errors import BadInput, ServerFailed
from harness.report import run_table
from harness.report.run_table import Column, Values
from harness.results.files import read_json
from harness.run import Run
from harness.suites.beside_none import sparing
from harness.suites.runner import Bench, Outcome, Suite
from harness.text.numbers import number
from harness.text.redaction import without_keys

_SHOWN = 3
"""Figures in the sentence of a cell; the table has all."""


def _plan(run: Run, cells: Sequence[Cell]) -> list[str]:
    if importlib.util.find_spec("lm_eval") is None:
        what = "--tasks: it takes the package lm-eval: pip install 'draftgate[quality]'"
        raise BadInput(what, code="extra-missing")
    return [
        f"tasks: lm-eval asks {run.options.tasks} of {len(cells)} cells; nobody knows how long that takes"
    ]


SUITE = Suite(
    name="tasks",
    by_path=True,
    takes=lambda cell, stack, words: "--tasks" in words and sparing(cell, stack, words),
    plan=_plan,
)


def tasks(bench: Bench, cell: Cell) -> Outcome:
    """Let lm-eval ask the tasks of --tasks, over /v1/completions.

    Raises:
        BadInput: lm-eval does not know a task, or cannot have its data.
        ServerFailed: the server could not be started, or gave lm-eval no results.
    """
    server, options = bench.slot.get(cell.spec), bench.run.options
    bench.say(f"draftgate: {SUITE.name}/{cell}: lm-eval asks {options.tasks}")
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "lm_eval", "run", "--model", "local-completions",
                 "--model_args", _arguments(server, cell), "--tasks", options.tasks or "",
                 "--output_path", folder, "--seed", str(options.seed)]  # fmt: skip
        words += ["--limit", str(options.prompts)] if options.prompts else []
        environment = {**os.environ, "OPENAI_API_KEY": server.key, "TQDM_DISABLE": "1"}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        files = sorted(Path(folder).rglob("results_*.json"))
        if done.returncode or not files:
            said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            raise BadInput(
                f"--tasks {options.tasks}: lm-eval ended with exit code {done.returncode}: "
                f"{without_keys(said[-1]) if said else 'it said nothing'}",
                code="lm-eval-failed",
            )
        rows = results_of(read_json(files[-1]))
    if not rows:
        raise ServerFailed(
            f"lm-eval measured nothing of {options.tasks} at {server.url}: name other tasks",
            code="lm-eval-failed",
        )
    columns = [
        Column("task", "task", align="l"),
        Column("metric", "metric", align="l"),
        Column("n", "n", run_table.count),
        Column("value", "value", _digits),
        Column("stderr", "stderr", _digits),
    ]
    shown = ", ".join(f"{row['task']} {row['metric']} {row['value']:.3f}" for row in rows[:_SHOWN])
    title = f"{cell}: as lm-eval says it, with its standard error"
    return Outcome(
        suite=SUITE.name,
        cell=str(cell),
        sentence=shown,
        table=(run_table.block(columns, rows, title),),
        figures={"cell": str(cell), "tasks": rows},
    )


def _arguments(server: Server, cell: Cell) -> str:
    said: dict[str, Any] = {
        "model": server.model,
        "base_url": f"{server.url}/v1/completions",
        "tokenizer": server.target_path or cell.spec.target.model,
        "tokenizer_backend": "huggingface",
        "num_concurrent": cell.profile.concurrency,
        "max_length": underscored(cell.spec.args).get("max_model_len", 2048),
        "timeout": round(cell.spec.request_timeout_s),
    }
    return ",".join(f"{name}={value}" for name, value in said.items())


def results_of(data: Any) -> list[Values]:
    """The figures in a results file of lm-eval, a row for each task and metric.

    Raises:
        ServerFailed: it is not as lm-eval writes it.
    """
    rows: list[Values] = []
    try:
        for task, figures in data["results"].items():
            for name, value in figures.items():
                metric, _, which = name.partition(",")
                if not which or metric.endswith("_stderr") or isinstance(value, str):
                    continue
                error = figures.get(f"{metric}_stderr,{which}")
                rows.append(
                    {
                        "task": task,
                        "metric": metric if which == "none" else f"{metric} ({which})",
                        "n": data.get("n-samples", {}).get(task, {}).get("effective"),
                        "value": float(value),
                        "stderr": float(error) if isinstance(error, int | float) else None,
                    }
                )
    except (KeyError, AttributeError, TypeError, ValueError):
        what = "this version of lm-eval writes its results in another way"
        raise ServerFailed(f"{what}: install the one of the extra quality", code="lm-eval-failed") from None
    return rows


def _digits(value: float | None) -> str:
    return number(value, 4)
