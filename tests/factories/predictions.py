"""Predictions of a drafter, and the cells of an engine that keeps or breaks them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.results.prediction import Predicted, walk
from harness.results.records import CellRecord, PromptRecord
from harness.suites.parity import Parity, compare
from tests.factories.records import cell_name, cell_record, prompt_record

K = 4
TOKENS = 97
PROMPTS = 60


def reaches(seed: int, rate: float = 0.6, *, prompts: int = PROMPTS) -> list[list[int]]:
    """How far each start of each answer reaches, with guesses that are right at this rate."""
    rng = np.random.default_rng(seed)
    right = (rng.random((prompts, TOKENS - 1, K)) < rate).cumprod(axis=2).sum(axis=2)
    return [[min(int(n), TOKENS - 1 - start) for start, n in enumerate(row)] for row in right]


def predicted(reach: Sequence[Sequence[int]], *, language: str = "en") -> list[Predicted]:
    return [
        Predicted.of(
            id=f"p{i:03}", language=language, tokens=len(row) + 1, prompt_hash=f"hash-{i}",
            text_hash=f"text-{i}", reach=tuple(row), outside=(), not_argmax=0,
            full_restricted=tuple(sum(n > j for n in row) for j in range(K)),
        )
        for i, row in enumerate(reach)
    ]  # fmt: skip


def answer(i: int, reach: Sequence[int], *, past_end: int = 0, k: int = K, **changes: Any) -> PromptRecord:
    """As an engine with these guesses serves the answer; its last step may accept past the answer's end."""
    steps = walk(reach, k=k, tokens=len(reach) + 1)
    if sum(steps) + len(steps) > len(reach):  # all guesses up to the end were right
        steps[-1] = min(k, steps[-1] + past_end)
    known: dict[str, Any] = {
        "accepted": tuple(steps),
        "drafted": (k,) * len(steps),
        "histogram": tuple(steps.count(j) for j in range(k + 1)),
        "draft_tokens": k * len(steps),
        "undrafted": 0,
        "output_tokens": len(reach) + 1,
        "prompt_hash": f"hash-{i}",
        "text_hash": f"text-{i}",
    }
    return prompt_record(f"p{i:03}", **(known | changes))


def served(reach: Sequence[Sequence[int]], *, k: int = K, **changes: Any) -> CellRecord:
    answers = [answer(i, row, k=k) for i, row in enumerate(reach)]
    return cell_record(*answers, **({"suite": "parity", "cell": cell_name(k=k)} | changes))


def spoiled(reach: list[list[int]], loss: float, *, seed: int = 9) -> list[list[int]]:
    """The same guesses, but this share of the starts has a wrong first one."""
    rng = np.random.default_rng(seed)
    return [[0 if rng.random() < loss else n for n in row] for row in reach]


def judged(before: list[list[int]], after: list[list[int]], **changes: Any) -> Parity:
    return compare(predicted(before), served(after, **changes), max_tokens=400)
