"""Changes to speculators 0.9.0 and torch in this process, each to be removed when it is no longer needed.

`run_on_cpu`: speculators assumes an accelerator in five places: the device to which it moves model and
batches, the one to which it loads checkpoints, its step timer, autocast's device, and pinned memory in the
data loader. Tests and small trials run on a CPU. And torch's Muon computes in bfloat16: on a CPU without
AVX-512 it needs 6.7 s for a gradient of 576 x 1536, and 0.3 s in float32.

`compile_as_one_graph`: two things keep an EAGLE-3 training step from compiling as one graph that never
waits for the GPU. First, speculators counts right guesses with `masked_select`, and at every ttt step the
CPU waits for the size of its result. A product with the mask gives the same count. Second, from torch 2.10
on, speculators breaks the graph in the drafter's first layer, because in a wide drafter one fused kernel
needs more shared memory than there is (pytorch issue 175250). In that case the trainer ends before its
first step with inductor's message; train without `train.compile` then.
"""

from __future__ import annotations

from typing import Any

import torch
import torch._inductor.config
from speculators.models.eagle3 import metrics
from speculators.train import checkpointer, dataloader, trainer
from torch.optim import _muon


class InFloat32(torch.Tensor):  # type: ignore[misc]
    """A gradient that stays what it is where Muon turns it into bfloat16."""

    def bfloat16(self) -> torch.Tensor:
        """A copy: what follows changes it in place."""
        return self.as_subclass(torch.Tensor).clone()


def run_on_cpu() -> None:
    """Let speculators' trainer run without an accelerator."""
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
    muon_in_float32()


def muon_in_float32() -> None:
    """Let torch's Muon orthogonalise gradients as they are."""
    orthogonalised = _muon._zeropower_via_newtonschulz  # noqa: SLF001

    def kept(grad: torch.Tensor, *args: Any) -> torch.Tensor:
        found: torch.Tensor = orthogonalised(grad.as_subclass(InFloat32), *args)
        return found

    _muon._zeropower_via_newtonschulz = kept  # noqa: SLF001


def compile_as_one_graph(*, replayed: bool) -> None:
    """Let an EAGLE-3 training step compile as one graph.

    Args:
        replayed: record the compiled steps as CUDA graphs, which the GPU runs without the CPU.
    """
    torch._inductor.config.triton.cudagraphs = replayed  # noqa: SLF001
    metrics.compute_accuracy_single_step = accuracy
    torch._dynamo.graph_break = lambda *_, **__: None  # noqa: SLF001


def accuracy(
    pred_ids: torch.Tensor,
    target_ids: torch.Tensor,
    loss_mask: torch.Tensor | None,
    prev_correct: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """As speculators' `compute_accuracy_single_step`; all shapes are [1, tokens], counts are float scalars.

    Args:
        pred_ids: guesses.
        target_ids: what they should have been.
        loss_mask: where guesses count; everywhere if None.
        prev_correct: where all guesses before were right; it is overwritten.

    Returns:
        Right guesses, guesses that count, right guesses again, positions that were right until now.
    """
    with torch.no_grad():
        correct = pred_ids == target_ids
        everywhere = torch.ones_like(correct)
        total = (everywhere if prev_correct is None else prev_correct).sum().float()
        if prev_correct is not None:
            correct = torch.logical_and(prev_correct, correct, out=prev_correct)
        counts = everywhere if loss_mask is None else loss_mask.to(torch.bool)
        right = torch.logical_and(correct, counts).sum().float()
        return right, counts.sum().float(), right.clone(), total
