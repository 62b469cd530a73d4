"""Reads hidden states in the trainer: it waits for a file that another process writes ahead of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from hs_connectors.transfer import FileBackend, FileTransfer

from training.hidden.extract import ENDED, MISSING


class PrefetchedTransfer(FileTransfer):  # type: ignore[misc]
    """Samples from a folder that another process is filling."""

    def __init__(self, folder: Path, patience_s: float) -> None:
        super().__init__(folder)
        self._patience_s = patience_s

    def get_cached(self, file_idx: int) -> dict[str, Any] | None:
        """The sample; None if it never came. The trainer counts that as an empty sample."""
        path = self.hidden_states_path / f"hs_{file_idx}.safetensors"
        lost = (path.with_suffix(MISSING), self.hidden_states_path / ENDED)
        deadline = time.monotonic() + self._patience_s
        while not path.exists():
            if any(sign.exists() for sign in lost) and not path.exists():
                return None
            if time.monotonic() > deadline:
                return None
            time.sleep(0.005)
        loaded: dict[str, Any] = super().get_cached(file_idx)
        return loaded


class PrefetchedBackend(FileBackend):  # type: ignore[misc]
    """speculators' `file` backend, reading through `PrefetchedTransfer`."""

    patience_s = 3600.0

    @staticmethod
    def from_train_args(args: Any, data_path: str) -> PrefetchedTransfer:  # noqa: ARG004
        """The transfer that the trainer's data loader reads from."""
        return PrefetchedTransfer(Path(args.hidden_states_path), PrefetchedBackend.patience_s)
