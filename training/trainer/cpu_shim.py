"""Lets speculators' trainer run on a CPU, for tests and small trials.

speculators 0.9.0 assumes an accelerator in five places: the device it moves model and batches to, the one
it loads checkpoints to, its step timer, autocast's device, and pinned memory in the data loader. To be
removed when it asks torch instead.
"""

from __future__ import annotations

from typing import Any

import torch
from speculators.train import checkpointer, dataloader, trainer


def install() -> None:
    """Patch speculators in this process."""
    torch.accelerator.synchronize = lambda *_: None
    checkpointer.get_current_device = lambda: "cpu"
    trainer.get_local_rank = lambda: "cpu"
    loader = dataloader.DataLoader

    def unpinned(*args: Any, **kwargs: Any) -> Any:
        return loader(*args, **{**kwargs, "pin_memory": False})

    dataloader.DataLoader = unpinned
    setup = trainer.Trainer.setup_trainer

    def setup_trainer(self: Any) -> None:
        self.device_type = "cpu"
        setup(self)

    trainer.Trainer.setup_trainer = setup_trainer
