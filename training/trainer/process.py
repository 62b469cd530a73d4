"""Runs speculators' trainer in a process of its own, and adds what an unattended night needs.

    python -m training.trainer.process SETTINGS.json       (or through torchrun)

It saves checkpoints by step, each complete or not there, and keeps the best. It stops if the validation
gets no better, if a loss is not finite, or if too many samples arrive empty. It measures the time spent
waiting, and writes to `outcome.json` how it ended. Its standard input is a pipe. When that closes, its
starter is gone, and a new one may already go on after the last checkpoint; so it ends at once and saves
nothing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import multiprocessing
import os
import shutil
import signal
import sys
import time
from multiprocessing import util
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from hs_connectors import HiddenStatesBackend
from speculators.train import cli, graceful_shutdown, trainer
from speculators.train.config import TrainConfig
from speculators.train.distributed import get_rank
from speculators.train.recovery import RECOVERY_METADATA_KEY

from harness.results.files import write_atomically
from training.hidden.reader import PrefetchedBackend
from training.trainer import loader_workers, speculators_patches
from training.trainer.checkpoints import Checkpoints, Step
from training.trainer.interrupts import Patient, end_with_starter


class Stop(Exception):  # noqa: N818 - not all are errors
    """Ends the training; `kind` says how, the text why."""

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind


class Waiting(trainer.BatchRecoveryCoordinator):  # type: ignore[misc]
    """Sees every batch: measures the wait for it, and counts the samples that are missing from it."""

    samples = 0
    empty_samples = 0
    empty_steps = 0
    waited_s = 0.0
    idle_since = 0.0
    limit = 1.0

    def consume(self, batch: dict[str, Any], *, synchronize: bool = False) -> None:
        """Count, then do what speculators does."""
        if self.phase == "training":
            Patient.busy = True
            mine = Waiting
            if mine.idle_since:
                mine.waited_s += time.perf_counter() - mine.idle_since
            arrived = int(batch["document_ids"].max()) + 1
            lost = int(batch["error_records"])
            nothing = lost > 0 and not bool(batch["loss_mask"].any())
            mine.samples += lost + (0 if nothing else arrived)
            mine.empty_samples += lost
            mine.empty_steps += nothing
            if mine.samples >= 100 and mine.empty_samples > mine.limit * mine.samples:  # noqa: PLR2004
                share = mine.empty_samples / mine.samples
                raise Stop(
                    "empty",
                    f"{mine.empty_samples} of {mine.samples} samples ({share:.1%}) had no hidden states; "
                    f"the recipe allows {mine.limit:.1%} (train.max_empty)",
                )
        super().consume(batch, synchronize=synchronize)


class SteppedTrainer(trainer.Trainer):  # type: ignore[misc]
    """Saves by step, keeps the best checkpoint, and stops when there is a reason."""

    settings: dict[str, Any] = {}  # noqa: RUF012 - set once, before the only instance is made
    interrupted = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._store = Checkpoints(Path(self.settings["checkpoints"]), keep_last=self.settings["keep_last"])
        self._newest: Step | None = next(reversed(self._store.steps()), None)
        self._saved = self._newest.global_step if self._newest else 0
        # Read once, so that the processes of several GPUs all decide the same.
        self._best = self._store.best_loss()
        self._losses: list[torch.Tensor] = []
        super().__init__(*args, **kwargs)
        self.model.register_forward_hook(self._saw)
        if get_rank() == 0:
            logging.getLogger("speculators.metrics").addHandler(_Lines(Path(self.settings["metrics"])))

    def _saw(self, _module: Any, _args: Any, outcome: Any) -> Any:
        tokens, loss, metrics = outcome
        if self.settings["replayed"]:  # the next replay overwrites these tensors
            loss, metrics = loss.clone(), {name: value.clone() for name, value in metrics.items()}
        if self.model.training:
            self._losses = [*self._losses[-99:], loss.detach()]
        return tokens, loss, metrics

    def run_training(self) -> None:
        """All epochs. speculators would tidy up afterwards; `_end` does that faster."""
        super().run_training()
        raise Stop("interrupted", "interrupted") if self.interrupted else Stop("done", "all epochs done")

    def train_epoch(self, epoch: int, *, step_callback: Any = None) -> None:
        """One epoch; `step_callback` is ours."""
        del step_callback
        skipped = self._resume_local_step if epoch == self.current_epoch else 0
        self._epoch, self._epoch_base = epoch, self.global_step - skipped
        if epoch and not skipped:
            self._stop_if_over(epoch - 1)
        if self._enough():  # and killed before the validation
            return
        if epoch == self.current_epoch:  # the first one of this process
            # Now, while the server starts, so that the GPU need not wait. The workers will fetch their first
            # samples twice.
            if self.settings["ahead"] and not self.settings["rehearsal"]:
                for loader in filter(None, (self.train_loader, self.val_loader)):
                    loader_workers.start(loader)
            if self.settings["compile"]:
                self._compile()
            if self.settings["rehearsal"]:  # torch's caches are all it was for
                raise Stop("done", "compiled")
        Waiting.idle_since = time.perf_counter()
        super().train_epoch(epoch, step_callback=self._stepped)
        Waiting.idle_since = 0.0

    def _compile(self) -> None:
        """Forward and backward over a batch of padding, in training and in validation: nothing is learned.

        torch.compile compiles at the first step, and that waits for hidden states. So this makes it compile
        while the server starts.
        """
        padding = self.train_loader.collate_fn([])
        # Type, mask and arguments are those of a real batch; otherwise the first one is compiled again.
        kind = self.train_loader.dataset.data[0]["loss_mask"].dtype
        padding["loss_mask"] = torch.ones_like(padding["loss_mask"], dtype=kind)
        del padding[RECOVERY_METADATA_KEY]
        batch = {k: v.to(self.local_rank) if isinstance(v, torch.Tensor) else v for k, v in padding.items()}
        with torch.autocast(self.device_type, dtype=self.config.hidden_states_dtype):
            for _ in range(2 if self.settings["replayed"] else 1):  # the second one is recorded
                self.model.train()
                self.model(**batch, **(self.config.train_call_kwargs or {}))[1].backward()
                self._optimizers_zero_grad()
                self.model.eval()
                with torch.no_grad():
                    self.model(**batch, **(self.config.val_call_kwargs or {}))
        self._losses = []

    def _stepped(self) -> None:
        if self.global_step % self.config.log_freq == 0:
            self._check_losses()
        if self.global_step % self.settings["checkpoint_steps"] == 0:
            self._save()
        Waiting.idle_since = time.perf_counter()
        Patient.free()

    def _check_losses(self) -> None:
        losses, self._losses = self._losses, []
        if not losses:
            return
        finite = torch.isfinite(torch.stack(losses))
        if not bool(finite.all()):
            before = self.global_step - len(losses) + int(finite.int().argmin())
            if get_rank() == 0:
                self._store.drop_from(before)
            raise Stop("diverged", f"the loss is not finite at step {before + 1}")

    def _save(self) -> None:
        """Save in full precision; speculators' own call rounds weights and optimizer to bf16.

        Save nothing if nothing was learned since the last checkpoint: at an epoch's first step the local
        step is 0, which speculators reads as the epoch's end.
        """
        if self.global_step == self._saved:
            return
        self._check_losses()
        finite = all(bool(torch.isfinite(p).all()) for p in self.model.parameters())
        if not finite:
            raise Stop("diverged", f"the weights are not finite at step {self.global_step}")
        self.checkpointer.save_checkpoint(self.model, self.optimizers, ".saving", float_dtype=torch.float32)
        if self.schedulers:
            self.checkpointer.save_scheduler_state_dict(self.schedulers, ".saving")
        if get_rank() == 0:
            self._newest = self._store.keep(
                self.checkpointer.path / ".saving",
                epoch=self._epoch,
                local_step=self.global_step - self._epoch_base,
                global_step=self.global_step,
            )
        self._saved = self.global_step

    def maybe_save_checkpoint(self, epoch: int | str, local_step: int = 0) -> None:
        """Save at an epoch's end, and when interrupted."""
        del local_step
        if epoch == "interrupted":
            self.interrupted = True
            self._save()
        else:
            with Patient.uninterrupted():
                self._save()

    def maybe_update_best(self, epoch: int, val_metrics: dict[str, float] | None) -> None:
        """After a validation: keep the best, mark the epoch as over, and stop if it is time."""
        if val_metrics is None:
            return
        loss = val_metrics["loss_epoch"]
        if not math.isfinite(loss):
            raise Stop("diverged", f"the validation loss is not finite after epoch {epoch + 1}")
        with Patient.uninterrupted():
            better = self._best is None or loss < self._best[0]
            if better:
                self._best = (loss, epoch)
            if self._newest is not None and get_rank() == 0:
                if better:
                    self._store.crown(self._newest, {**val_metrics, "loss_epoch": loss})
                self._newest = self._store.end_epoch(self._newest)
        self._stop_if_over(epoch)

    def _enough(self) -> bool:
        return bool(self.config.max_steps) and self.global_step >= self.config.max_steps

    def _stop_if_over(self, epoch: int) -> None:
        """Stop if it is time, after an epoch that this run or an earlier one has validated."""
        patience = self.settings["patience"]
        if patience and self._best is not None and epoch - self._best[1] >= patience:
            raise Stop("early", f"no better validation loss for {patience} epochs")
        if self._enough():  # speculators would run one step of every further epoch
            raise Stop("done", f"max_steps = {self.config.max_steps} reached")


class _Lines(logging.Handler):
    """Writes speculators' metrics, a JSON line each."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._began = time.monotonic()  # for durations, which a change of the clock must not change

    def emit(self, record: logging.LogRecord) -> None:
        if not isinstance(record.msg, dict):
            return
        counts = {
            "step": getattr(record, "step", None),
            "at": time.monotonic(),
            "began": self._began,
            "waited_s": round(Waiting.waited_s, 3),
            "samples": Waiting.samples,
            "empty_samples": Waiting.empty_samples,
            "empty_steps": Waiting.empty_steps,
        }
        with self._path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({**record.msg, **counts}, default=float) + "\n")


def main(settings_file: Path) -> int:
    """Train as `settings_file` says; the exit code is 0 if there is a drafter to export at the end."""
    settings = json.loads(settings_file.read_text(encoding="utf-8"))
    end_with_starter()
    if settings["ahead"]:
        loader_workers.prepare("training.trainer.process")
    # speculators' own rank is 0 in every process until it has set up torch.distributed.
    first = int(os.environ.get("RANK", "0")) == 0
    with FileLock(settings["lock"]) if first else contextlib.nullcontext():  # two would overwrite each other
        return _train(settings)


def _train(settings: dict[str, Any]) -> int:
    if settings["device"] == "cpu":
        speculators_patches.run_on_cpu()
    elif settings["gpu_memory"]:
        torch.cuda.set_per_process_memory_fraction(settings["gpu_memory"])
    if settings["compile"]:
        speculators_patches.compile_as_one_graph(replayed=settings["replayed"])
    Waiting.limit = settings["max_empty"]
    SteppedTrainer.settings = settings
    # A loader worker that waits for hidden states does not notice the end of the training. torch would wait
    # 5 s for each of them.
    torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = 0.2  # noqa: SLF001
    trainer.BatchRecoveryCoordinator = Waiting
    trainer.tqdm = lambda batches, **_: batches  # our own progress is read from the metrics
    cli.Trainer = SteppedTrainer
    graceful_shutdown.GracefulShutdownHandler = Patient
    if settings["ahead"]:
        HiddenStatesBackend.registry["file"] = PrefetchedBackend
    try:
        cli.main(TrainConfig.resolve(settings["arguments"]))
    except Stop as stop:
        kind, why = stop.kind, str(stop)
    else:
        raise AssertionError("speculators ended without run_training")
    good = Checkpoints(Path(settings["checkpoints"]), keep_last=settings["keep_last"]).steps()
    outcome = {"kind": kind, "why": why, "last_good": good[-1].path.name if good else None}
    if get_rank() == 0:
        write_atomically(Path(settings["outcome"]), json.dumps(outcome))
    return 0 if kind in {"done", "early"} else 1


def _end(status: int) -> None:
    """End this process at once: all is written, and an orderly end of loaders and CUDA would take seconds."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would raise for each worker
    for worker in multiprocessing.active_children():
        worker.kill()
    shutil.rmtree(util.get_temp_dir(), ignore_errors=True)  # as multiprocessing does at an orderly end
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _end(main(Path(sys.argv[1])))
