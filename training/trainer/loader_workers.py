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

    speculators 0.9.0 spawns each, which imports everything anew and opens the GPU: seconds for one, many for
    all of them on shared cores. Forks of a process that has imported everything are there at once, and none
    of them needs the GPU. Not of the trainer's: what it holds of the GPU must not be forked.
    """
    if loader.num_workers:
        loader.multiprocessing_context = "forkserver"
        loader.worker_init_fn = end_with_trainer
    iter(loader)


def end_with_trainer(_worker: int) -> None:
    """End this loader worker when its trainer has ended, in whatever way.

    torch's own watch is on the parent, which is the fork server, and that one lives as long as its workers.
    """
    trainer = multiprocessing.parent_process()
    if trainer is None:
        raise AssertionError("not in a worker")

    def watch() -> None:
        trainer.join()
        os._exit(1)

    def told(*error: Any) -> None:
        # A connection that broke off is the first sign of a trainer that was killed.
        trainer.join(timeout=1)
        if not trainer.is_alive():
            os._exit(1)
        sys.__excepthook__(*error)

    sys.excepthook = told
    threading.Thread(target=watch, name="trainer", daemon=True).start()
