"""A second look at a cell that regressed: do other prompts show the same loss?"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from harness.judge.evidence import Position, StretchChange, position_at
from harness.judge.pairing import Pairs, pair
from harness.judge.verdict import Unsettled, Verdict, judge
from harness.results.records import CellRecord
from harness.results.stretches import name_of
from harness.stats.paired import ALPHA_CONFIRM, PairedRatio


def confirmed(first: Verdict, old: CellRecord, new: CellRecord, *, across: Collection[str] = ()) -> Verdict:
    """A regressed verdict after its second look: still regressed, or inconclusive.

    Where the reserve cannot be compared, the verdict stays as it was, and says so.

    Args:
        first: what the cell's own prompts show; `confirmable`.
        old: the reserve of what the cell was compared with.
        new: the cell's reserve.
        across: as in `judge`.
    """
    second = judge(old, new, across=across, against=first.against)
    if second.primary is None:
        return unconfirmed(first, second.text)
    p, what = _same_loss(first, second, pair(old, new, across=across))
    seen = f"{second.prompts} other {second.unit}: {what}, one-sided p {p:.2g}"
    if p <= ALPHA_CONFIRM:
        return dataclasses.replace(first, confirmation=p, text=f"{first.text}; confirmed on {seen}")
    text = f"a loss at first, not confirmed on {seen}, above {ALPHA_CONFIRM:g}; at first {first.text}"
    unsettled = Unsettled(rule="unconfirmed")
    return dataclasses.replace(first, kind="inconclusive", confirmation=p, text=text, unsettled=unsettled)


def unconfirmed(first: Verdict, why: str) -> Verdict:
    """The same, and why there was no second look."""
    return dataclasses.replace(first, text=f"{first.text}; not confirmed: {why}")


def _same_loss(first: Verdict, second: Verdict, pairs: Pairs) -> tuple[float, str]:
    """The p of one loss on the second side's prompts, and the loss in words.

    Tokens per step, or those of whole answers, where they made the first look red; else the surest of the
    positions and stretches that it lost. These need no least number of prompts or steps here: the reserve may
    be small, and a loss that cannot be tested would never be confirmed. Of k prompts that differ no sign-flip
    test gives less than 2^-k, so neither does this.
    """
    if first.loss in ("tokens", "whole"):
        change = second.whole if first.loss == "whole" and second.whole else second.primary
        assert change  # noqa: S101 - the caller has looked
        return _p_of(change), f"tokens per step {_rates(change, 1)}"
    parts: list[Position | StretchChange] = [*first.positions, *first.stretches]
    lost = [part for part in parts if part.lost]
    surest = min(lost, key=lambda part: part.p or 0.0)
    if isinstance(surest, Position):  # both of its tests: the larger p (Berger 1982)
        name, there = f"position {surest.index}", position_at(pairs, surest.index)
        if there:
            return max(_p_of(there[0]), there[1]), f"{name} {_rates(there[0], 100)} %"
    else:
        name = f"tokens {name_of(surest.start)}"
        if found := next((s for s in second.stretches if s.start == surest.start), None):
            return _p_of(found.change), f"{name} {_rates(found.change, 1)}"
    return 1.0, f"{name} cannot be tested there"


def _p_of(change: PairedRatio) -> float:
    return max(change.p_loss(), 2.0**-change.differing)


def _rates(change: PairedRatio, scale: int) -> str:
    return f"{scale * change.r0:.2f} -> {scale * change.r1:.2f}"
