"""Ends the trainer early: between two steps if it is asked to, at once if its starter is gone."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Iterator
from types import FrameType

from speculators.train import graceful_shutdown


class Patient(graceful_shutdown.GracefulShutdownHandler):  # type: ignore[misc]
    """Waits for the end of a step or a checkpoint: weights in the middle of a step are of no use."""

    busy = False
    asked: str | None = None

    def _handler(self, signum: int, frame: FrameType | None) -> None:
        if Patient.busy and os.getpid() == self._owner_pid:
            Patient.asked = f"signal {signum}"
        else:
            super()._handler(signum, frame)

    @staticmethod
    def free() -> None:
        """Allow interruptions again, and raise one that came meanwhile."""
        Patient.busy = False
        if Patient.asked is not None:
            asked, Patient.asked = Patient.asked, None
            raise graceful_shutdown.TrainingInterruptedError(asked)

    @staticmethod
    @contextlib.contextmanager
    def uninterrupted() -> Iterator[None]:
        """Delay interruptions until the end of the block."""
        Patient.busy = True
        yield
        Patient.free()


def end_with_starter() -> None:
    """End this process when its standard input does, where that is a pipe."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    if stat.S_ISFIFO(os.fstat(0).st_mode):
        threading.Thread(target=watch, name="starter", daemon=True).start()
