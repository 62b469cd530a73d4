"""The stage that trains: a server extracts hidden states while the trainer learns, on the same device."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from harness.config.cells import ServerSpec
from harness.engine import process
from harness.engine.facts import options
from harness.engine.http import without_proxy
from harness.errors import BadInput, BadRecord
from harness.results.files import read_json, write_atomically
from harness.text.console import Say
from training.dataset import train_ratio, train_rows
from training.errors import TrainingStopped
from training.hidden.disk_space import hidden_folder
from training.hidden.extract import Progress, finished, layers_of, server_spec, trainers_order
from training.hidden.prefetch import Prefetcher
from training.recipe import Recipe
from training.servers import MOST_MEMORY, base_spec, is_cpu
from training.stages import Context
from training.trainer import metrics, warm_start
from training.trainer.checkpoints import Checkpoints, forget_after
from training.validate import offline
from training.validate.eagle3 import Sample

PASSED_ON = {"num_layers", "ttt_steps", "epochs", "lr", "total_seq_len", "seed", "max_steps", "num_workers"}
"""Settings of a recipe that have the same names in speculators' trainer."""
OURS = {"keep_last", "checkpoint_steps", "patience", "max_empty"}
"""Settings that `training.trainer.process` adds to those."""
LOCK = "trainer.lock"
"""A trainer locks it for as long as it runs."""
ON_GPU = {"draft_attn_impl": "sdpa", "loss_implementation": "eager"}
"""The fastest that torch 2.11 runs, compiled or not (`tests.perf.steps`). It cannot compile the fused losses,
and flex attention's masks break the graph at every ttt step."""
ON_CPU = {"draft_attn_impl": "sdpa", "loss_implementation": "eager", "hidden_states_dtype": "float32"}
"""Needed on a CPU: flex attention has no backward pass there, the fused losses need Triton, and bf16 would be
emulated."""


def run(context: Context) -> dict[str, Any]:
    """Extract and train; write the report to `report.json` and return it.

    Raises:
        TrainingFailed: the disk is too small, too many samples have no hidden states, the server stalled for
            the third time, the loss is not finite, or the trainer died.
    """
    import datasets  # noqa: PLC0415 - takes seconds

    recipe, folder, say = context.recipe, context.folder, context.say
    data = context.upstream["dataset"] / "data"
    rows = datasets.load_from_disk(str(data)).with_format(None)
    lengths = list(rows["seq_len"])
    split = train_rows(len(lengths), train_ratio(recipe.dataset.validation))
    cpu = is_cpu(recipe)
    base, target = base_spec(recipe, say=say)
    with hidden_folder(context, target, tokens=sum(lengths)) as hidden:
        context.servers.end_answering()
        end_rehearsal(context)
        _alone(folder)
        store = _opened(context)
        settings = trainer_settings(recipe, folder, data=data, hidden=hidden, target=target, cpu=cpu)
        ahead = recipe.hidden_states.mode == "ahead"
        spec = hidden_spec(context, base, target=target, online=None if ahead else hidden, cpu=cpu)
        progress = Progress(wanted=len(lengths))
        times: dict[str, float] = {}
        samples: list[Sample] | None = None
        began = time.monotonic()
        if not ahead:
            server = context.servers.hidden.get(spec)
            times["server_ready_s"] = time.monotonic() - began
            settings["arguments"] += ["--vllm-endpoint", f"{server.url}/v1"]
            with _trainer(settings, folder, recipe) as child:
                _follow(child, folder, say)
        else:
            with _trainer(settings, folder, recipe) as child:
                prefetcher = Prefetcher(
                    rows=lambda row: rows[row]["input_ids"],
                    order=lambda: trainers_order(lengths, split=split, recipe=recipe),
                    folder=hidden,
                    spec=spec,
                    slot=context.servers.hidden,
                    trainer=child,
                    metrics_file=folder / "metrics.jsonl",
                    progress=progress,
                    concurrency=recipe.hidden_states.concurrency,
                    max_missing=recipe.hidden_states.max_missing,
                    stall_seconds=context.stall_seconds,
                    say=say,
                )
                with FileLock(hidden.with_suffix(".lock")):  # another recipe may want the same files
                    prefetcher.run()
                finished(hidden, ended=True)
                context.servers.close()  # its memory is the trainer's now
                times |= {"server_ready_s": prefetcher.server_s, "extraction_s": prefetcher.seconds}
                times |= {"extracted_s": time.monotonic() - began, "stalls": prefetcher.stalls}
                samples = _held_out(context, hidden, first=split)  # while the trainer trains
                _follow(child, folder, say)
        times["total_s"] = time.monotonic() - began
        _judge(folder)
        if samples is not None:
            _predict(context, store.best, samples, target=target)
    report = metrics.report(
        folder / "metrics.jsonl", times=times, extraction=progress, mode=recipe.hidden_states.mode
    )
    write_atomically(folder / "report.json", json.dumps(report, indent=1) + "\n")
    metrics.curves(folder / "metrics.jsonl", folder / "curves.png", title=recipe.name)
    return report


def hidden_spec(
    context: Context, base: ServerSpec, *, target: str, online: Path | None = None, cpu: bool
) -> ServerSpec:
    """The server of the hidden states.

    Args:
        context: of a stage.
        base: the server that answers.
        target: the target's folder.
        online: where the files go in the mode of that name. In the other one each request says where its own
            goes, so the server can start before the folder is known.
        cpu: the engine is a CPU one.
    """
    folder = online or context.work / "servers"
    return server_spec(context.recipe, base, target=target, folder=folder, cpu=cpu, shared=True)


def _held_out(context: Context, hidden: Path, *, first: int) -> list[Sample] | None:
    """What the prediction needs; None where it cannot be read. The validation begins at row `first`."""
    if not context.recipe.train.predictable:
        return []
    try:
        return list(
            offline.held_out(
                context.upstream["dataset"],
                context.upstream["responses"] / "responses.jsonl",
                hidden,
                first=first,
                length=context.recipe.dataset.seq_length,
            )
        )
    except BadInput as error:  # no reason to throw the drafter away
        context.say(f"no prediction of what serving gives: {error}")
        return None


def _predict(context: Context, checkpoint: Path, samples: Sequence[Sample], *, target: str) -> None:
    """Write what serving should give."""
    try:
        offline.run(
            context.folder,
            context.recipe,
            checkpoint=checkpoint,
            target=Path(target),
            samples=samples,
            device="cpu" if is_cpu(context.recipe) else "cuda",
            say=context.say,
        )
    except (BadInput, RuntimeError) as error:  # no reason to throw the drafter away
        context.say(f"no prediction of what serving gives: {error}")


def end_rehearsal(context: Context, *, wait_s: float = 150.0) -> None:
    """Wait for the rehearsal, but not for ever; the trainer compiles by itself what is not compiled then."""
    while context.rehearsal:
        _end(context.rehearsal.pop(), wait_s=wait_s)


def _end(child: subprocess.Popen[bytes], *, wait_s: float) -> None:
    """Wait for a trainer to end. After that time it is killed, with all that it started."""
    try:
        child.wait(timeout=wait_s)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    if child.stdin:
        child.stdin.close()


def _opened(context: Context) -> Checkpoints:
    """The checkpoints of an earlier try, if any; what it counted after the last one is forgotten."""
    folder = context.folder
    store = Checkpoints(folder / "checkpoints", keep_last=context.recipe.train.keep_last)
    resumed = store.open()
    forget_after(folder / "metrics.jsonl", resumed)
    if resumed:
        context.say(f"going on after step {resumed.global_step}")
    return store


def _alone(folder: Path) -> None:
    """Wait until an earlier trainer has ended, which takes seconds after its starter was killed."""
    try:
        with FileLock(folder / LOCK, timeout=60):
            pass
    except Timeout:
        raise TrainingStopped(f"{folder}: another trainer works there. End it first") from None


def trainer_settings(
    recipe: Recipe, folder: Path, *, data: Path, hidden: Path, target: str, cpu: bool
) -> dict[str, Any]:
    """The settings that `training.trainer.process` reads."""
    train = recipe.train
    arguments: dict[str, Any] = {
        "verifier_name_or_path": target,
        "speculator_type": train.algorithm,
        "data_path": str(data),
        "hidden_states_path": str(hidden),
        "draft_vocab_size": recipe.dataset.draft_vocab_size,
        "target_layer_ids": list(layers_of(recipe, target)),
        **train.model_dump(include=PASSED_ON),
        "train_data_ratio": train_ratio(recipe.dataset.validation),
        "log_freq": train.log_steps,
        "save_path": str(folder / "checkpoints" / "current"),
    }
    if train.from_pretrained:
        arguments |= warm_start.arguments(train.from_pretrained, target=target, to=folder / "start")
        del arguments["num_layers"]  # the trainer refuses what would shape a drafter that is there
    if recipe.hidden_states.mode == "ahead":
        arguments["on_missing"] = "warn"
    arguments |= (ON_CPU if cpu else ON_GPU) | train.args
    compiled = train.compile and not cpu
    return {
        "arguments": options(arguments),
        "device": "cpu" if cpu else "cuda",
        "gpu_memory": None if cpu else MOST_MEMORY - recipe.hidden_states.gpu_memory,
        "compile": compiled,
        "replayed": compiled and train.gpus == 1,
        "ahead": recipe.hidden_states.mode == "ahead",
        "rehearsal": False,
        "checkpoints": str(folder / "checkpoints"),
        **train.model_dump(include=OURS),
        "metrics": str(folder / "metrics.jsonl"),
        "outcome": str(folder / "outcome.json"),
        "lock": str(folder / LOCK),
    }


def command(recipe: Recipe, settings: Path) -> list[str]:
    """The trainer's command; for several GPUs, torchrun starts a process for each."""
    gpus = recipe.train.gpus
    several = ["-m", "torch.distributed.run", "--nproc-per-node", str(gpus)] if gpus > 1 else []
    return [sys.executable, *several, "-m", "training.trainer.process", str(settings)]


def start(settings: dict[str, Any], folder: Path, recipe: Recipe) -> subprocess.Popen[bytes]:
    """Start a trainer. If this process ends, it ends too."""
    (folder / "outcome.json").unlink(missing_ok=True)
    file = folder / "settings.json"
    write_atomically(file, json.dumps(settings, indent=1) + "\n")
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            command(recipe, file),
            stdout=log,
            stderr=log,
            stdin=subprocess.PIPE,  # it closes however we end, and then the trainer ends too
            start_new_session=True,  # Ctrl-C reaches only us, and we interrupt the trainer
            env={
                **os.environ,
                **without_proxy(os.environ),
                **({} if settings["compile"] else {"TORCH_COMPILE_DISABLE": "1"}),
                "PYTHONWARNINGS": "ignore:resource_tracker",  # it would warn about killed loader workers
            },
        )


@contextlib.contextmanager
def _trainer(settings: dict[str, Any], folder: Path, recipe: Recipe) -> Iterator[subprocess.Popen[bytes]]:
    """The trainer's process. At the end it is asked to save."""
    child = start(settings, folder, recipe)
    try:
        yield child
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGINT)  # it saves a checkpoint
        _end(child, wait_s=150)


def _follow(child: subprocess.Popen[bytes], folder: Path, say: Say) -> None:
    while child.poll() is None:
        time.sleep(0.5)
        say(f"\r{metrics.last_line(folder / 'metrics.jsonl')}")


def _judge(folder: Path) -> None:
    """Raise unless there is a drafter to export."""
    try:
        outcome = read_json(folder / "outcome.json")
    except BadRecord:
        died = "the trainer died (run the same command to go on after its last checkpoint)"
        raise TrainingStopped(process.obituary(died, folder / "log.txt")) from None
    if outcome["kind"] not in {"done", "early"}:
        good = (
            f"last good checkpoint: {outcome['last_good']}" if outcome["last_good"] else "no checkpoint yet"
        )
        raise TrainingStopped(f"training stopped: {outcome['why']}; {good} ({folder / 'checkpoints'})")
