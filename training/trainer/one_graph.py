"""Lets an EAGLE-3 training step compile as one graph, and go on without waiting for the GPU.

Two places of speculators 0.9.0 are in the way, to be removed when they are gone there. It counts right
guesses with `masked_select`, whose size the CPU must wait for, at every ttt step; a product with the mask
counts the same. And from torch 2.10 on it breaks the graph in the drafter's first layer, since one fused
kernel of a wide drafter asks for more shared memory than there is (pytorch issue 175250). Where that
happens, the trainer ends before its first step with inductor's message: train without `train.compile`.
"""

from __future__ import annotations

import torch
import torch._inductor.config
from speculators.models.eagle3 import metrics


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
        prev_correct: where all guesses before were right; changed in place.

    Returns:
        Right guesses, guesses that count, right guesses once more, places right until now.
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


def install(*, replayed: bool) -> None:
    """Patch speculators in this process.

    Args:
        replayed: record what is compiled as CUDA graphs, which the GPU runs without the CPU.
    """
    torch._inductor.config.triton.cudagraphs = replayed  # noqa: SLF001
    metrics.compute_accuracy_single_step = accuracy
    torch._dynamo.graph_break = lambda *_, **__: None  # noqa: SLF001
