"""Starts the data loader's workers quickly, and ends them with the trainer."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from multiprocessing import forkserver
from typing import Any


def prepare(module: str) -> None:
    """Start the process whose forks the workers will be; it imports `module` while the trainer goes on."""
    forkserver.set_forkserver_preload([module])
    forkserver.ensure_running()


def start(loader: Any) -> None:
    """Start a DataLoader's workers, at once and together.

    speculators 0.9.0 spawns them: each imports everything again and opens the GPU. That takes seconds for
    one, and longer for several on shared cores. Forks of a process that has imported everything start at
    once, and none of them needs the GPU. They are not forks of the trainer, whose GPU state must not be
    forked.
    """
    if loader.num_workers:
        loader.multiprocessing_context = "forkserver"
        loader.worker_init_fn = end_with_trainer
    iter(loader)


def end_with_trainer(_worker: int) -> None:
    """End this loader worker when its trainer has ended, in whatever way.

    torch watches the parent instead. That is the fork server, which lives as long as its workers.
    """
    trainer = multiprocessing.parent_process()
    if trainer is None:
        raise AssertionError("not in a worker")

    def watch() -> None:
        trainer.join()
        os._exit(1)

    def report(*error: Any) -> None:
        # A broken connection is the first sign that the trainer was killed.
        trainer.join(timeout=1)
        if not trainer.is_alive():
            os._exit(1)
        sys.__excepthook__(*error)

    sys.excepthook = report
    threading.Thread(target=watch, name="trainer", daemon=True).start()
