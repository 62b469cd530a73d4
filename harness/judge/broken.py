"""Prompts one by one: those of the same text on which the drafter failed."""

from __future__ import annotations

from collections.abc import Sequence

from harness.judge.pairing import Pairs
from harness.results.records import PromptRecord
from harness.stats import paired
from harness.stats.acceptance import Tallies
from harness.stats.same_text import matched, p_of


def one_by_one(pairs: Pairs, old: Tallies, new: Tallies) -> tuple[tuple[str, ...], float, float]:
    """The prompts of the same text on which the drafter failed, what they alone cost, and the p of all."""
    if pairs.identical or not pairs.same_drafter:
        return (), 0.0, 1.0
    ps = [min(1.0, len(pairs.prompts) * p_of(*_matched(*sides))) for sides in pairs.prompts]
    at = [i for i, p in enumerate(ps) if p <= paired.ALPHA_PROMPTS]
    committed, steps = old.committed.copy(), old.decode_steps.copy()
    committed[at], steps[at] = new.committed[at], new.decode_steps[at]
    before, after = old.committed.sum() / old.decode_steps.sum(), committed.sum() / steps.sum()
    return tuple(pairs.prompts[i][0][0].prompt for i in at), float(1 - after / before), min(ps)


def _matched(old: Sequence[PromptRecord], new: Sequence[PromptRecord]) -> tuple[int, int]:
    """Over the answers of a prompt that have the same text on both sides: see `same_text.matched`.

    Behind the turn of a conversation that parts nothing is the same.
    """
    fewer = steps = 0
    parted: set[int] = set()
    for a, b in zip(old, new, strict=False):
        if a.conversation and a.repeat in parted:
            continue
        if a.text_hash != b.text_hash:
            parted.add(a.repeat)
        elif a.text_hash and a.seed == b.seed and (before := a.committed) and (after := b.committed):
            less, both = matched(before, after)
            fewer, steps = fewer + less, steps + both
    return fewer, steps
