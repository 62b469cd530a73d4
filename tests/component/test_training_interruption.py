"""How a training ends early, and what it leaves to go on from; without a model."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from filelock import FileLock, Timeout

torch = pytest.importorskip("torch")
pytest.importorskip("speculators")

from speculators.train.graceful_shutdown import TrainingInterruptedError  # noqa: E402

from harness.errors import ServerFailed  # noqa: E402
from training.hidden.extract import Progress  # noqa: E402
from training.hidden.prefetch import Prefetcher  # noqa: E402
from training.trainer import metrics, process  # noqa: E402
from training.trainer.checkpoints import Checkpoints  # noqa: E402
from training.trainer.interrupts import Patient  # noqa: E402
from training.trainer.process import SteppedTrainer, Stop  # noqa: E402


@pytest.fixture
def patient() -> Iterator[Patient]:
    handler = Patient()
    handler.install()
    yield handler
    handler.restore()
    Patient.busy, Patient.asked = False, None


def test_between_two_steps_it_ends_at_once(patient: Patient) -> None:
    with pytest.raises(TrainingInterruptedError):
        signal.raise_signal(signal.SIGINT)


def test_within_a_step_it_ends_after_it(patient: Patient) -> None:
    Patient.busy = True
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(TrainingInterruptedError):
        Patient.free()
    Patient.free()  # once


def test_an_uninterrupted_block_ends_first(patient: Patient) -> None:
    done = []

    def work() -> None:
        with Patient.uninterrupted():
            signal.raise_signal(signal.SIGINT)
            done.append("all of it")

    with pytest.raises(TrainingInterruptedError):
        work()
    assert done


def test_a_loader_does_not_heed_it(patient: Patient) -> None:
    patient._owner_pid = os.getpid() + 1
    Patient.busy = True
    signal.raise_signal(signal.SIGINT)
    Patient.free()


class Trainer(SteppedTrainer):
    """One that has a number of steps behind it, and nothing else."""

    def __init__(self, folder: Path, *, step: int, max_steps: int | None = None, **settings: Any) -> None:
        self._store = Checkpoints(folder, keep_last=5)
        for saved in (2, 4, 5):
            (folder / "new").mkdir()
            self._store.keep(folder / "new", epoch=0, local_step=saved, global_step=saved)
        self.global_step = self._saved = step
        self._losses = []
        self._best = (1.5, 1)
        self.settings = {"patience": None, **settings}
        self.config = SimpleNamespace(max_steps=max_steps)
        self.checkpointer = None  # saving would fail


def test_nothing_is_saved_where_nothing_was_learned(tmp_path: Path) -> None:
    """At the first step of an epoch, the place in it would read as its end."""
    trainer = Trainer(tmp_path, step=0)
    trainer._save()
    assert [step.global_step for step in trainer._store.steps()] == [2, 4, 5]


@pytest.mark.parametrize("losses", [[2.0, float("nan"), float("nan")], [2.0, float("inf"), 2.0]])
def test_weights_that_gave_no_loss_are_not_the_last_good_ones(tmp_path: Path, losses: list[float]) -> None:
    trainer = Trainer(tmp_path, step=6)  # so the losses are those of steps 4 to 6, after 3 to 5 others
    trainer._losses = [torch.tensor(loss) for loss in losses]
    with pytest.raises(Stop, match="the loss is not finite at step 5") as told:
        trainer._check_losses()
    assert told.value.kind == "diverged"
    assert [step.global_step for step in trainer._store.steps()] == [2]


def test_a_good_loss_lets_it_go_on(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path, step=6)
    trainer._losses = [torch.tensor(2.0)]
    trainer._check_losses()
    assert trainer._losses == []
    assert [step.global_step for step in trainer._store.steps()] == [2, 4, 5]


def test_a_training_that_was_over_is_over_when_it_is_resumed(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path / "a", step=6, patience=2)
    trainer._stop_if_over(2)
    with pytest.raises(Stop, match="no better validation loss for 2 epochs"):
        trainer._stop_if_over(3)
    trainer = Trainer(tmp_path / "b", step=6, max_steps=7)
    trainer._stop_if_over(3)
    trainer.global_step = 7
    with pytest.raises(Stop, match="max_steps = 7 reached"):
        trainer._stop_if_over(3)


class Loader:
    """A fake of a data loader with persistent workers: they start at the first `iter`."""

    num_workers = 0

    def __init__(self, events: list[str], name: str) -> None:
        self.batch_sampler = None
        self._events, self._name = events, name

    def __iter__(self) -> Iterator[Any]:
        self._events.append(self._name)
        return iter(())


@pytest.mark.parametrize(("ahead", "first"), [(True, ["train", "val", "epoch"]), (False, ["epoch"])])
def test_workers_of_both_loaders_start_before_the_first_epoch_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, ahead: bool, first: list[str]
) -> None:
    events: list[str] = []
    trainer = Trainer(tmp_path, step=0, ahead=ahead, compile=False, rehearsal=False)
    trainer.current_epoch, trainer._resume_local_step = 0, 0
    trainer.train_loader, trainer.val_loader = Loader(events, "train"), Loader(events, "val")
    epoch = lambda *_, **__: events.append("epoch")  # noqa: E731
    monkeypatch.setattr(process.trainer.Trainer, "train_epoch", epoch)

    trainer.train_epoch(0)
    assert events == first
    trainer.train_epoch(1)
    assert events == [*first, "epoch"]


def test_a_report_adds_up_what_several_trainers_did(tmp_path: Path) -> None:
    """Two trainers, 1000 s apart: steps took 6 and 4 s, of which 1 and 2 s were spent waiting."""
    path = tmp_path / "metrics.jsonl"
    counts = {"train": {"loss": 2.0}, "epoch": 0, "empty_samples": 1, "empty_steps": 0}
    told = [(100.0, 110, 5.0, 3), (100.0, 116, 6.0, 9), (1100.0, 1110, 3.0, 2), (1100.0, 1114, 5.0, 6)]
    path.write_text(
        "".join(
            json.dumps(
                {**counts, "step": i, "began": began, "at": at, "waited_s": waited, "samples": samples}
            )
            + "\n"
            for i, (began, at, waited, samples) in enumerate(told)
        )
    )
    report = metrics.report(path, times={"extraction_s": 4.0}, extraction=Progress(wanted=9), mode="ahead")
    assert (report["steps"], report["trainers"]) == (4, 2)
    assert (report["step_seconds"], report["fetch_frac"]) == (10, 0.3)
    assert (report["samples"], report["empty_samples"]) == (15, 2)


def test_a_report_counts_steps_that_were_not_logged(tmp_path: Path) -> None:
    """Every tenth is: the last nine are in the validation's line alone."""
    path = tmp_path / "metrics.jsonl"
    counted = {"epoch": 0, "began": 0.0, "waited_s": 0.0, "empty_samples": 0, "empty_steps": 0}
    told = [
        {**counted, "train": {"loss": 2.0}, "step": 0, "at": 1.0, "samples": 2},
        {**counted, "train": {"loss": 1.0}, "step": 10, "at": 2.0, "samples": 22},
        {**counted, "val": {"loss_epoch": 1.5}, "step": 19, "at": 4.0, "samples": 38},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in told))
    report = metrics.report(path, times={}, extraction=Progress(wanted=9), mode="ahead")
    assert (report["steps"], report["samples"], report["step_seconds"]) == (19, 38, 1.0)


def ahead(folder: Path) -> Prefetcher:
    nothing: Any = None
    return Prefetcher(
        rows=lambda _: [1],
        order=lambda: [1, 0],
        folder=folder,
        spec=nothing,
        slot=nothing,
        trainer=nothing,
        metrics_file=folder / "metrics.jsonl",
        progress=Progress(wanted=2),
        concurrency=1,
        max_missing=0,
        stall_seconds=1,
        say=lambda _: None,
    )


def test_no_server_is_started_where_all_hidden_states_are_there(tmp_path: Path) -> None:
    for row in (0, 1):
        (tmp_path / f"hs_{row}.safetensors").touch()
    there = ahead(tmp_path)
    there.run()
    assert (there.progress.done, there.progress.written) == (2, 0)


def test_one_is_where_a_row_is_not(tmp_path: Path) -> None:
    (tmp_path / "hs_0.safetensors").touch()
    with pytest.raises(AttributeError):  # there is no slot to get it from
        ahead(tmp_path).run()


def test_the_order_is_found_while_the_server_starts(tmp_path: Path) -> None:
    """A fake engine: its start ends once the order was asked for, and never before."""
    asked = threading.Event()

    def order() -> list[int]:
        asked.set()
        return [1, 0]

    class Starting:
        def get(self, _spec: Any) -> Any:
            assert asked.wait(10)
            raise ServerFailed("no server, but both began")

    begun = dataclasses.replace(ahead(tmp_path), order=order, slot=Starting())
    with pytest.raises(ServerFailed, match="both began"):
        begun.run()


def test_a_trainer_that_has_written_all_leaves_no_worker(tmp_path: Path) -> None:
    """It ends with its status, and not when its workers would."""
    script = tmp_path / "ends.py"
    script.write_text(
        "import multiprocessing, time\n"
        "from training.trainer.process import _end\n"
        "if __name__ == '__main__':\n"
        "    worker = multiprocessing.get_context('fork').Process(target=time.sleep, args=(600,))\n"
        "    worker.start()\n"
        "    print(worker.pid)\n"
        "    _end(3)\n"
    )
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stderr) == (3, "")
    with contextlib.suppress(psutil.NoSuchProcess):
        worker, deadline = psutil.Process(int(ended.stdout)), time.monotonic() + 20
        while worker.status() != psutil.STATUS_ZOMBIE:  # not every machine has somebody who buries it
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_clock_that_is_set_changes_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody sets the clock back by an hour between two steps."""
    path = tmp_path / "metrics.jsonl"
    lines = process._Lines(path)
    for step, now in enumerate((10_000.0, 6_400.0)):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        record = logging.LogRecord(
            "m", logging.INFO, "f", 1, {"train": {"loss": 1.0}, "epoch": 0}, None, None
        )
        record.step = step
        lines.emit(record)
    report = metrics.report(path, times={}, extraction=Progress(wanted=0), mode="ahead")
    assert 0 <= report["step_seconds"] < 60
    assert report["trainers"] == 1


def test_of_several_processes_the_first_alone_takes_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"ahead": False, "lock": str(tmp_path / "lock")}))
    monkeypatch.setattr(process, "end_with_starter", lambda: None)
    monkeypatch.setattr(process, "_train", lambda _: 0)
    monkeypatch.setattr(process, "FileLock", lambda path: FileLock(path, timeout=0))
    with FileLock(tmp_path / "lock"):
        monkeypatch.setenv("RANK", "1")
        assert process.main(settings) == 0
        monkeypatch.setenv("RANK", "0")
        with pytest.raises(Timeout):
            process.main(settings)


CHECKS = """
import sys
from pathlib import Path
from training import benchmark
from training.recipe import find_recipe, load_recipe
from training.servers import open_servers
from training.stages import Context

folder = Path(sys.argv[1])
benchmark.SUITES = folder / "bench_suites"
recipe = load_recipe(find_recipe("smoke-cpu"))
given = {"recipe": recipe, "work": folder, "folder": folder, "upstream": {"export": folder}}
benchmark.run(Context(servers=open_servers(recipe, folder, print), say=print, **given))
"""
MEASURES = """
import harness.suites, os, pathlib, time
pathlib.Path("pid.part").write_text(str(os.getpid()))
os.rename("pid.part", "pid")
time.sleep(600)
"""


def test_what_measures_a_new_drafter_ends_with_its_training(tmp_path: Path) -> None:
    (tmp_path / "bench_suites").mkdir()
    (tmp_path / "bench_suites" / "test_acceptance.py").write_text(MEASURES)
    (tmp_path / "bench_suites" / "test_parity.py").touch()
    training = subprocess.Popen([sys.executable, "-c", CHECKS, str(tmp_path)])
    try:
        until = time.monotonic() + 60
        while not (tmp_path / "pid").exists():
            assert training.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        measuring = psutil.Process(int((tmp_path / "pid").read_text()))
        training.kill()
        measuring.wait(timeout=60)
    finally:
        training.kill()
        training.wait()
