"""The training on a CPU engine with speculators' own trainer: from nothing to a drafter, and on bad days."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.report.card import HELD_OUT
from tests.engine.conftest import ROOT, engines_of
from training.recipe import find_recipe, load_recipe
from training.servers import open_servers
from training.stages import Context
from training.trainer import stage
from training.trainer.checkpoints import Checkpoints, Step

pytest.importorskip("speculators")

NAMES = ["prompts", "responses", "dataset", "train", "export", "check"]


@dataclasses.dataclass
class Training:
    """`python -m training run smoke-cpu` as a user runs it, in a process group of its own."""

    work: Path
    states: Path
    """Hidden states go there; they are kept."""

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "training", "run", "smoke-cpu", "--work", str(self.work)]
        states = ["--set", f"hidden_states.folder={self.states}", "--keep-hidden-states"]
        self.states.mkdir(exist_ok=True)
        return subprocess.Popen(
            [*command, *states, *words],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # A shell that runs these tests in the background has Ctrl-C ignored, and would hand that down.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )

    def run(self, *words: str) -> tuple[int, str]:
        return ended(self.start(*words))

    def shared(self, work: Path, *, states: Path | None = None) -> Training:
        """Another work folder that has this one's prompts, answers and data set."""
        for name in NAMES[:3]:
            shutil.copytree(self.folder(name), work / self.folder(name).name)
        return Training(work, states or self.states)

    def folder(self, stage: str) -> Path:
        (found,) = self.work.glob(f"{stage}-*")
        return found

    def record(self, stage: str) -> dict[str, Any]:
        told: dict[str, Any] = json.loads((self.folder(stage) / "stage.json").read_text())
        return told

    def checkpoints(self) -> list[Step]:
        return Checkpoints(self.folder("train") / "checkpoints", keep_last=2).steps()

    def metrics(self, kind: str) -> list[dict[str, Any]]:
        """Complete lines of one kind, `train` or `val`."""
        told = []
        for path in self.work.glob("train-*/metrics.jsonl"):
            whole = path.read_text().rpartition("\n")[0]
            told += [json.loads(line) for line in whole.splitlines()]
        return [line for line in told if kind in line]

    def extracted(self) -> list[Path]:
        return list(self.states.glob("*/hs_*.safetensors"))

    def trainers(self) -> list[psutil.Process]:
        """The trainer's process and its loaders."""
        return [p for p in processes() if f"{self.work}/train-" in " ".join(words_of(p))]


def processes() -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except psutil.Error:
            continue


def words_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and output; nothing that a user should not see is in it."""
    try:
        output, _ = process.communicate(timeout=900)
    except BaseException:
        process.kill()
        process.communicate()  # left unreaped, it would fail the next test that forks this process
        raise
    assert "Traceback" not in output, output
    return process.returncode, output


def until(done: Callable[[], object], what: str, process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + 300
    while not done():
        assert time.monotonic() < deadline, f"waited too long for {what}"
        assert process is None or process.poll() is None, f"ended before {what}: {process.communicate()[0]}"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Training:
    """Carried out once, uninterrupted: the first test looks at it, others begin with its data set."""
    folder = tmp_path_factory.mktemp("training")
    training = Training(folder / "work", folder / "states")
    code, output = training.run()
    print(output)
    assert code == 0, output
    return training


@pytest.mark.nightly  # five to six minutes
def test_from_nothing_to_a_served_measured_drafter(finished: Training) -> None:
    records = {name: finished.record(name) for name in NAMES}
    print({name: record["seconds"] for name, record in records.items()})
    drafter = finished.folder("export") / "eagle3smoke"
    files = {path.name for path in drafter.iterdir()}
    assert files == {
        "config.json", "model.safetensors", "README.md", "training.json", "recipe.toml", "log.txt",
        "validation.jsonl", "held_out.jsonl",
    }  # fmt: skip
    places = "|".join(re.escape(path.name) for path in Path("/").iterdir())
    for name in ("config.json", "training.json", "recipe.toml", "log.txt", "README.md"):
        assert not re.findall(rf"(?<![\w.])/(?:{places})/\S*", (drafter / name).read_text()), name
    known = json.loads((drafter / "training.json").read_text())
    card = (drafter / "README.md").read_text()
    for served in known["served"]:
        assert (served["language"], served["k"], served["prompts"], served["valid"]) == ("en", 2, 8, True)
        assert served["acceptance"][0] > 0
        line = (
            rf"^\| served +\| chat +\| English +\| {served['prompts_of']} .* {served['tokens_per_step']:.2f} "
        )
        assert re.search(line, card, re.MULTILINE)
    assert [served["prompts_of"] for served in known["served"]] == ["benchmark, instruct", HELD_OUT]
    report = records["train"]["counts"]
    rows = records["dataset"]["counts"]["rows"]
    assert (report["steps"], report["epochs"], report["trainers"]) == (len(finished.metrics("train")), 2, 1)
    assert report["extraction"]["written"] == report["extraction"]["done"] == rows
    assert report["samples"] == 2 * records["dataset"]["counts"]["train_rows"]
    assert report["empty_samples"] == report["extraction"]["missing"] == 0
    assert report["validation"]["epoch"] == 1
    assert report["train_loss"] < finished.metrics("train")[0]["train"]["loss"]

    code, output = finished.run()

    assert code == 0
    assert [line.partition(":")[0] for line in output.splitlines() if "done before" in line] == NAMES
    assert "starting server" not in output


@pytest.mark.nightly  # two to three minutes
def test_a_training_that_is_killed_goes_on_after_its_last_checkpoint(
    finished: Training, tmp_path: Path
) -> None:
    training = finished.shared(tmp_path / "work")
    only = ("--only", "train")

    def started(*, step: int) -> subprocess.Popen[str]:
        process = training.start(*only)
        until(lambda: len(training.metrics("train")) >= step, f"step {step}", process)
        return process

    process = started(step=6)
    (trainer,) = [p for p in training.trainers() if p.ppid() == process.pid]
    trainer.kill()
    code, output = ended(process)
    assert code == 1
    assert "the trainer died (run the same command to go on after its last checkpoint)" in output
    resumed = [training.checkpoints()[-1].global_step]
    assert 4 <= resumed[0] <= len(training.metrics("train"))

    process = started(step=10)
    os.killpg(process.pid, signal.SIGKILL)
    _, output = ended(process)
    assert f"going on after step {resumed[0]}" in output
    until(lambda: not training.trainers(), "the trainer's end")
    resumed.append(training.checkpoints()[-1].global_step)
    assert 8 <= resumed[1] <= len(training.metrics("train"))

    process = started(step=13)
    process.send_signal(signal.SIGINT)
    code, output = ended(process)
    assert code == 130
    assert f"going on after step {resumed[1]}" in output
    assert f"To go on: python -m training run smoke-cpu --work {training.work}" in output
    assert not training.trainers()
    resumed.append(training.checkpoints()[-1].global_step)
    assert resumed[2] == len(training.metrics("train")) >= 13

    code, output = training.run(*only)
    assert code == 0, output
    assert f"going on after step {resumed[2]}" in output
    assert "starting server" not in output
    told, wanted = training.metrics("train"), finished.metrics("train")
    assert [line["step"] for line in told] == list(range(len(wanted)))
    far = max(abs(a["train"]["loss"] - b["train"]["loss"]) for a, b in zip(told, wanted, strict=True))
    print(f"resumed after {resumed}; the losses of {len(told)} steps differ by {far:.2e} at most")
    assert far < 1e-4  # it is 0 where both ran on the same number of threads
    assert [line["epoch"] for line in training.metrics("val")] == [0, 1]
    for mine, theirs in zip(training.metrics("val"), finished.metrics("val"), strict=True):
        assert mine["val"]["loss_epoch"] == pytest.approx(theirs["val"]["loss_epoch"], abs=1e-3)
    report, whole = training.record("train")["counts"], finished.record("train")["counts"]
    assert (report["steps"], report["trainers"]) == (whole["steps"], 4)
    assert report["samples"] == whole["samples"]
    assert report["extraction"]["written"] == 0
    assert 0 <= report["fetch_frac"] < 1


@pytest.mark.nightly  # three to four minutes
def test_an_extraction_that_is_killed_and_frozen_counts_nothing_twice(
    finished: Training, tmp_path: Path
) -> None:
    training = finished.shared(tmp_path / "work", states=tmp_path / "states")
    words = ("--only", "train", "--stall-seconds", "8")
    for change in ("hidden_states.concurrency=1", "train.max_steps=2", "train.log_steps=1"):
        words += ("--set", change)
    rows = finished.record("dataset")["counts"]["rows"]

    process = training.start(*words)
    until(lambda: len(training.extracted()) >= 3, "three rows", process)
    os.killpg(process.pid, signal.SIGKILL)
    ended(process)
    until(lambda: not engines_of(training.work), "the server's end")
    until(lambda: not training.trainers(), "the trainer's end")
    kept = {path: path.stat().st_mtime_ns for path in training.extracted()}
    assert 3 <= len(kept) < rows

    process = training.start(*words)
    until(lambda: len(training.extracted()) >= len(kept) + 3, "three more rows", process)
    (log,) = sorted((training.work / "servers").glob("*.log"), key=lambda p: p.stat().st_mtime)[-1:]
    core = psutil.Process(int(re.findall(r"EngineCore pid=(\d+)", log.read_text())[-1]))
    os.kill(core.pid, signal.SIGSTOP)
    there = len(training.extracted())
    code, output = ended(process)

    assert code == 0, output
    assert there < rows
    assert not core.is_running()
    assert len(re.findall(r"^the server stalled \(1 of 3\): 1 request in flight", output, re.MULTILINE)) == 1
    assert len(list((training.work / "servers").glob("*.stall.json"))) == 1
    assert len(training.extracted()) == rows
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    report = training.record("train")["counts"]
    told = report["extraction"]
    assert report["times"]["stalls"] == 1
    assert (told["written"], told["done"], told["missing"]) == (rows - len(kept), rows, 0)
    tokens = finished.record("dataset")["counts"]["tokens"]
    assert 0 < told["tokens"] < tokens
    assert (report["steps"], report["empty_samples"]) == (2, 0)
    assert not [path for path in training.states.rglob("*") if path.suffix in {".part", ".missing"}]


@pytest.mark.nightly  # half a minute each
@pytest.mark.parametrize(
    ("changes", "good"),
    [
        ((), "no checkpoint yet"),
        # One step at a learning rate of 0, whose weights are good; the next one's are saved, and are not.
        (
            ("train.args.scheduler_warmup_steps=6", "train.checkpoint_steps=1"),
            "last good checkpoint: step-000001",
        ),
    ],
)
def test_a_loss_that_diverges_ends_in_a_sentence(
    finished: Training, tmp_path: Path, changes: tuple[str, ...], good: str
) -> None:
    training = finished.shared(tmp_path / "work")
    words = [word for change in ("train.lr=1e30", *changes) for word in ("--set", change)]
    code, output = training.run("--only", "train", *words)

    assert code == 1
    step = len(changes) + 1 if changes else 2
    assert f"training: training stopped: the loss is not finite at step {step}; {good}" in output
    assert not (training.folder("train") / "stage.json").exists()
    assert "starting server" not in output
    assert [step.path.name for step in training.checkpoints()] == re.findall(r"step-\d+", good)


ROWS, TOKENS = 12, 32


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of random tokens, as the stage before would have written it."""
    datasets = pytest.importorskip("datasets")
    import torch  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("tiny")
    rng = random.Random(0)  # noqa: S311 - token ids, not secrets
    ids = [[rng.randrange(1000, 1200) for _ in range(TOKENS)] for _ in range(ROWS)]
    mask = [[0] * 8 + [1] * (TOKENS - 8)] * ROWS
    rows = datasets.Dataset.from_dict({"input_ids": ids, "loss_mask": mask, "seq_len": [TOKENS] * ROWS})
    rows.with_format("torch").save_to_disk(str(folder / "dataset-tiny" / "data"))
    frequencies = {token: sum(row.count(token) for row in ids) for token in range(1000, 1200)}
    torch.save(frequencies, folder / "dataset-tiny" / "data" / "token_freq.pt")
    return folder


@pytest.mark.nightly  # a minute and a half; test_from_nothing_to_a_served_measured_drafter goes this way too
def test_hidden_states_reach_the_trainer(tiny: Path, tmp_path: Path) -> None:
    """About a minute: one server, the CPU connector, two steps, a checkpoint."""
    import torch  # noqa: PLC0415
    from datasets import load_from_disk  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    states = tmp_path / "states"
    states.mkdir()
    changes = [
        "dataset.draft_vocab_size=128", f"hidden_states.folder={states}", "train.epochs=1",
        "train.ttt_steps=1", "train.total_seq_len=192", "dataset.validation=0.25",
    ]  # fmt: skip
    recipe = load_recipe(find_recipe("smoke-cpu"), changes)
    said: list[str] = []
    servers = open_servers(recipe, tmp_path, said.append)
    folder = tmp_path / "train"
    folder.mkdir()
    context = Context(
        recipe=recipe,
        work=tmp_path,
        servers=servers,
        say=said.append,
        folder=folder,
        upstream={"dataset": tiny / "dataset-tiny", "responses": tiny},
        keep_hidden_states=True,
    )
    try:
        report = stage.run(context)
    finally:
        servers.close()
    print(report["times"])

    told = report["extraction"]
    assert (told["written"], told["tokens"], told["missing"]) == (ROWS, ROWS * TOKENS, 0)
    assert (report["steps"], report["samples"], report["empty_samples"]) == (2, 9, 0)
    assert math.isfinite(report["validation"]["loss"])
    (step,) = Checkpoints(folder / "checkpoints", keep_last=2).steps()
    assert (step.epoch, step.local_step, step.global_step) == (0, 0, 2)
    weights = load_file(step.path / "model.safetensors")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights.values())
    assert {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()} == {torch.float32}
    assert (folder / "curves.png").stat().st_size > 0
    assert any(line.startswith("no prediction of what serving gives") for line in said)

    rows = load_from_disk(str(tiny / "dataset-tiny" / "data"))
    sample = load_file(next(states.glob("*/hs_3.safetensors")))
    assert sample["token_ids"].tolist() == rows[3]["input_ids"].tolist()
    target = json.loads((folder / "settings.json").read_text())["arguments"]
    model = AutoModelForCausalLM.from_pretrained(target[target.index("--verifier-name-or-path") + 1])
    with torch.inference_mode():
        ours = model(rows[3]["input_ids"][None], output_hidden_states=True).hidden_states
    layers = [int(word) for word in target[target.index("--target-layer-ids") + 1 :][:3]]
    for place, layer in enumerate(layers):
        alike = torch.cosine_similarity(sample["hidden_states"][:, place].float(), ours[layer][0].float())
        assert float(alike.min()) > 0.99, layer
