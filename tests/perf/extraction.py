"""The wall time from a data set to trained weights: hidden states ahead of the trainer, and its own default.

    python -m tests.perf.extraction RECIPE --work DIR [--epochs 1] [--modes [ahead] [online]]

Both train the same drafter on the same data and device, one after the other, each with a server of its own.
The default is speculators' as it comes: 12 loader workers, each asking for one sample when it needs it. Times
count from the server that answers to the last checkpoint, and with the server's start beside it. Before the
default's run its way is taken apart for some samples: how long a request takes, how long the file.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from harness.config.cells import ServerSpec
from training import stages
from training.__main__ import speaker
from training.hidden.disk_space import hidden_folder
from training.hidden.extract import server_spec
from training.pipeline import STAGES
from training.recipe import find_recipe, load_recipe
from training.servers import base_spec, is_cpu, open_servers
from training.stages import Context
from training.trainer import stage

SAMPLES = 60


def apart(context: Context) -> dict[str, float]:
    """Median milliseconds of one sample's request and of the wait for its file, one in flight."""
    import datasets  # noqa: PLC0415

    rows = datasets.load_from_disk(str(context.upstream["dataset"] / "data")).with_format(None)
    base, target = base_spec(context.recipe, say=context.say)
    with hidden_folder(context, target, tokens=0) as folder:
        asked, waited = _asked_one_by_one(context, base, rows, target=target, folder=folder)
    context.servers.close()  # the training starts its own, and counts that
    return {
        "request_ms": 1000 * statistics.median(asked),
        "file_ms": 1000 * statistics.median(waited),
        "file_over_90_ms": sum(w > 0.09 for w in waited) / len(waited),
    }


def _asked_one_by_one(
    context: Context, base: ServerSpec, rows: Any, *, target: str, folder: Path
) -> tuple[list[float], list[float]]:
    """Seconds of each request, and of the wait for its file."""
    import openai  # noqa: PLC0415
    from hs_connectors.transfer import FileTransfer  # noqa: PLC0415
    from speculators.data_generation.vllm_client import generate_hidden_states  # noqa: PLC0415

    cpu = is_cpu(context.recipe)
    server = context.servers.hidden.get(
        server_spec(context.recipe, base, target=target, folder=folder, cpu=cpu, shared=True)
    )
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="EMPTY", max_retries=0)
    transfer = FileTransfer(folder)
    asked, waited = [], []
    for row in range(min(SAMPLES, len(rows))):
        began = time.perf_counter()
        item: Any = {"input_ids": rows[row]["input_ids"]}
        handle, params = generate_hidden_states(client, server.model, item, timeout=60)
        between = time.perf_counter()
        transfer.get_generated(params)
        transfer.delete(handle)
        asked.append(between - began)
        waited.append(time.perf_counter() - between)
    return asked, waited


def once(context: Context, mode: str, folder: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """One training in one mode: its report, and the default taken apart."""
    states = context.recipe.hidden_states.model_copy(update={"mode": mode})
    workers = {"num_workers": 12} if mode == "online" else {}
    settings = context.recipe.train.model_copy(update=workers)
    recipe = context.recipe.model_copy(update={"hidden_states": states, "train": settings})
    given = context.recipe.hidden_states.folder
    for place in [Path(given)] if given else [Path("/dev/shm"), context.work]:  # noqa: S108
        for left in place.glob(f"draftgate-{context.upstream['dataset'].name}-*"):
            shutil.rmtree(left, ignore_errors=True)  # nothing is there already
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    mine = Context(
        recipe=recipe,
        work=context.work,
        servers=context.servers,
        say=context.say,
        folder=folder,
        upstream=context.upstream,
    )
    parts = apart(mine) if mode == "online" else {}
    report = stage.run(mine)
    context.servers.close()
    return report, parts


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--work", type=Path, default=Path("results/training"))
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument(
        "--modes", nargs="*", default=["ahead", "online"], help="none at all: the data set is made alone"
    )
    parser.add_argument("--set", dest="changes", action="append", default=[])
    options = parser.parse_args(argv)
    work = options.work.resolve()
    changes = [*options.changes, f"train.epochs={options.epochs}"]
    recipe = load_recipe(find_recipe(options.recipe), changes)
    say = speaker(work / "extraction.log")
    servers = open_servers(recipe, work, say)
    base = Context(recipe=recipe, work=work, servers=servers, say=say, alone=True)
    reports: dict[str, Any] = {}
    parts: dict[str, float] = {}
    try:
        stages.carry_out(STAGES[:3], base)  # up to the data set
        servers.close()
        base.upstream |= {p.stage.name: p.folder for p in stages.plan(recipe, STAGES, work)[:3]}
        for mode in options.modes:
            reports[mode], found = once(base, mode, work / "extraction" / mode)
            parts |= found
            told = json.dumps({"apart": parts, **reports}, indent=1)
            (work / f"extraction-{'-'.join(options.modes)}.json").write_text(told)
    finally:
        servers.close()
    table(reports, parts)
    return 0


def table(reports: dict[str, Any], parts: dict[str, float]) -> None:
    """Print what was measured."""
    rows = []
    for mode, told in reports.items():
        times = told["times"]
        validation = told["validation"] or {}
        ready = times["total_s"] - times["server_ready_s"]
        rate = told["extraction"]["samples_per_s"]
        row = [mode, told["steps"], ready, times["total_s"], told["fetch_frac"], rate, validation.get("loss")]
        rows.append(row + [f"{100 * a:.1f}" for a in validation.get("full_acc", [])])
    if parts:
        print(f"one sample, one request in flight: {json.dumps({k: round(v, 3) for k, v in parts.items()})}")
    head = ["mode", "steps", "s from ready", "s in all", "fetch_frac", "extracted/s", "validation loss"]
    print(tabulate(rows, headers=[*head, *(f"acc {i} %" for i in range(8))], floatfmt=".3f"))
    if len(rows) == 2:
        print(f"{rows[1][2] / rows[0][2]:.2f} x from ready, {rows[1][3] / rows[0][3]:.2f} x in all")


if __name__ == "__main__":
    sys.exit(main())
