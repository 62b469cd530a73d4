"""Simulated cells to judge. A drafter is a table: what a step that begins at token t of a prompt accepts.

Two cells over the same table answer alike, as at T=0; a changed table changes the steps and leaves the text.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.results.records import CellRecord, Finding, PromptRecord
from tests.factories.records import cell_record, prompt_record

Table = NDArray[np.int64]
"""Accepted tokens by prompt and token; UNDRAFTED where nothing is proposed."""

UNDRAFTED = -1
TOKENS = 96
PROMPTS = 120
STRONG = (0.6, 0.6, 0.6, 0.6)
WEAK = (0.35, 0.35, 0.4, 0.4)
IDENTITY = {
    "endpoint": "chat",
    "language": "en",
    "workload": "instruct",
    "target": "smollm2-135m-instruct",
    "chat_template": "872be49dbb638044",
    "dtype": "bfloat16",
    "quantization": None,
    "sampling": {"temperature": 0.0},
    "max_tokens": TOKENS,
    "concurrency": 1,
    "cache": "cold",
}
SAMPLED = IDENTITY | {"sampling": {"temperature": 0.7}}
HARD = Finding(code="foreign-traffic", hard=True, text="the server finished 9 requests while 8 of ours ran")


def drafter(
    seed: int, rates: tuple[float, ...] = STRONG, *, prompts: int = PROMPTS, tokens: int = TOKENS
) -> Table:
    """A drafter with these conditional acceptances, better at some prompts than at others."""
    rng = np.random.default_rng(seed)
    ease = rng.uniform(0.7, 1.3, size=(prompts, 1, 1))
    held = rng.random((prompts, tokens, len(rates))) < np.array(rates) * ease
    table: Table = held.cumprod(axis=2).sum(axis=2)
    return table


def worse(table: Table, loss: float, *, seed: int = 99) -> Table:
    """The same, but `loss` of the drafts fail at their first token."""
    failed = np.random.default_rng(seed).random(table.shape) < loss
    return np.where(failed & (table > 0), 0, table)


def dead_from(table: Table, position: int) -> Table:
    """The same, but nothing at `position` or deeper is ever accepted."""
    return np.minimum(table, position)


def late(old: Table, new: Table, token: int) -> Table:
    """`old` up to this token of an answer, and `new` from there on."""
    return np.concatenate([old[:, :token], new[:, token:]], axis=1)


def dead_after(table: Table, token: int) -> Table:
    """The same, but no draft is accepted from this token of an answer on."""
    return late(table, np.minimum(table, 0), token)


def other_text(table: Table, seed: int) -> Table:
    """What the same drafter does on other answers to the same prompts: its steps in another order."""
    return np.random.default_rng(seed).permuted(table, axis=1)


def looping(table: Table, share: float, seed: int) -> Table:
    """The same, but a share of the answers falls into a loop somewhere, where every draft is accepted."""
    rng, made = np.random.default_rng(seed), table.copy()
    at = np.where(rng.random(len(made)) < share, rng.integers(0, made.shape[1], len(made)), made.shape[1])
    made[np.arange(made.shape[1]) >= at[:, np.newaxis]] = made.max()
    return made


def silent(table: Table, *, below: int) -> Table:
    """The same, but it proposes nothing where less than `below` tokens would be accepted."""
    return np.where(table < below, UNDRAFTED, table)


def parted(table: Table, other: Table, at: NDArray[np.int64]) -> Table:
    """The same up to the token `at` which the text of a prompt becomes another, where `other` goes on.

    A step that would cross it accepts what the texts have in common, and then what `other` does.
    """
    tokens = np.arange(TOKENS)
    crosses = tokens + table >= at[:, np.newaxis]
    common = np.maximum(0, at[:, np.newaxis] - tokens)
    after = np.take_along_axis(other, np.minimum(at, TOKENS - 1)[:, np.newaxis], axis=1)
    beyond = np.where(common, np.minimum(common + np.maximum(0, after), table.max()), other)
    return np.where(crosses, beyond, table)


def cell(
    table: Table,
    *,
    text: str = "t",
    seed: int = 0,
    k: int = 4,
    parts: NDArray[np.int64] | None = None,
    **changes: Any,
) -> CellRecord:
    """The cell that a drafter with this table makes; `text` and `seed` set its answers apart.

    With `parts` the answers have token ids, which depend on `text` from that token on.
    """
    prompts = [answer(i, row, text=text, seed=seed, k=k) for i, row in enumerate(table)]
    if parts is not None:
        rest = 1 + zlib.crc32(text.encode()) % 1000
        prompts = [
            p.model_copy(update={"token_ids": (0,) * at + (rest,) * (TOKENS - at)})
            for p, at in zip(prompts, map(int, parts), strict=True)
        ]
    return cell_record(*prompts, **({"profile": "gate", "identity": IDENTITY} | changes))


def answer(number: int, row: NDArray[np.int64], *, text: str, seed: int, k: int) -> PromptRecord:
    """One prompt, answered to the end of its row."""
    accepted: list[int] = []
    steps: list[int] = []
    drawn: list[int] = row.tolist()  # a number of an array takes ten times as long
    at, undrafted = 1, 0
    while at < len(drawn):
        tokens = drawn[at]
        at += 1
        if tokens == UNDRAFTED:
            undrafted += 1
            steps.append(1)
        else:
            accepted.append(tokens)
            steps.append(1 + tokens)
            at += tokens
    steps[-1] -= at - TOKENS
    return prompt_record(
        f"instruct-{number:03}",
        seed=1000 * seed + number,
        accepted=tuple(accepted),
        drafted=(k,) * len(accepted),
        histogram=tuple(accepted.count(j) for j in range(k + 1)),
        draft_tokens=k * len(accepted),
        undrafted=undrafted,
        steps=steps if undrafted else None,
        prompt_hash=f"hash-{number:03}",
        output_tokens=len(row),
        text_hash=f"{text}-{number:03}",
    )


def some(record: CellRecord, count: int, **changes: Any) -> CellRecord:
    """The same cell with its first `count` prompts alone."""
    return record.model_copy(update={"prompts": record.prompts[:count], **changes})


def edited(record: CellRecord, count: int) -> CellRecord:
    """The same cell, but the text of its first `count` prompts was changed."""
    prompts = tuple(
        p.model_copy(update={"prompt_hash": f"{p.prompt_hash}-edited"}) if i < count else p
        for i, p in enumerate(record.prompts)
    )
    return record.model_copy(update={"prompts": prompts})
