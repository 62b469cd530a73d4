"""Two paired cells -> a verdict. The method, and where each number comes from: `docs/gating.md`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence
from typing import Literal

from harness.judge.pairing import Pairs, Refused, pair
from harness.results.records import CellRecord, PromptRecord
from harness.stats import paired as stats, planning
from harness.stats.acceptance import Tallies
from harness.stats.same_text import is_broken, matched, unseen_loss
from harness.text.numbers import percent, signed_interval

Kind = Literal["identical", "ok", "improved", "regressed", "inconclusive", "invalid"]

ALPHA_FEWER = 0.05
"""One-sided, of a position that also gives fewer tokens per decode step."""
_NAMED = 5
"""Prompts that a sentence names."""
_WORST_FIRST: tuple[Kind, ...] = ("invalid", "regressed", "inconclusive", "ok", "improved", "identical")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Position:
    """What conditional acceptance at one position did."""

    index: int
    change: stats.PairedRatio
    p: float
    """One-sided p of a loss, Holm-corrected over the positions tested."""
    lost: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a comparison says, and how sure it is."""

    kind: Kind
    text: str
    """One sentence without the cell's name."""
    look: int | None = None
    """Of a sequential measurement: its interval is one for repeated looks."""
    broken: tuple[str, ...] = ()
    """Prompts on which the drafter failed although their text is the same."""
    primary: stats.PairedRatio | None = None
    positions: tuple[Position, ...] = ()
    prompts: int = 0
    same_text: int = 0
    lower: bool = False
    """`ok`, but significantly lower inside the margin."""
    p: float | None = None
    """Of a loss, in tokens per step or at a position (`stats.cell_p`). None where nothing was compared, or
    where there were several looks, since a p-value counts on a single one."""
    notes: tuple[str, ...] = ()
    against: str = "baseline"

    @property
    def fails(self) -> bool:
        """The case fails, whatever --gate says of inconclusive ones."""
        return self.kind in ("regressed", "invalid")

    @property
    def change(self) -> float | None:
        """Relative change of tokens per step; None where nothing was compared."""
        return math.expm1(self.primary.estimate) if self.primary else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Its 95 % interval, relative; None where nothing was compared or nothing varied."""
        if self.primary is None or self.primary.identical:
            return None
        low, high = self.primary.repeated_ci(self.look) if self.look else self.primary.ci()
        return math.expm1(low), math.expm1(high)


def judge(
    old: CellRecord,
    new: CellRecord,
    *,
    across: Collection[str] = (),
    against: str = "baseline",
    positions: bool = True,
) -> Verdict:
    """The verdict on `new`, paired prompt by prompt against `old`; never raises for bad pairs.

    `positions` is False at the looks of a sequential measurement: they are tested once, at its stop.
    """
    try:
        pairs = pair(old, new, across=across)
        return judge_pairs(pairs, against=against, look=new.stopped_at, test_positions=positions)
    except Refused as refusal:
        return Verdict(kind="invalid", text=f"not comparable with the {against}: {refusal}", against=against)


def judge_pairs(
    pairs: Pairs, *, against: str = "baseline", look: int | None = None, test_positions: bool = True
) -> Verdict:
    """The verdict on pairs that may be compared.

    Args:
        pairs: the prompts of both sides.
        against: what the old side is called.
        look: of a sequential measurement, one of `stats.LOOKS`: its bounds are wider.
        test_positions: whether a lost position may decide.

    Raises:
        Refused: there are fewer than 8 of them, or one side has no decode step.
    """
    m = len(pairs.prompts)
    if m < stats.MIN_PROMPTS:
        raise Refused(f"{m} prompts are too few for a verdict, {stats.MIN_PROMPTS} are the least")
    old, new = pairs.tallies
    try:
        primary = stats.paired_log_ratio(old.committed, old.decode_steps, new.committed, new.decode_steps)
    except ValueError as error:
        raise Refused(str(error)) from None
    unseen = unseen_loss(primary.r0, stats.share_bound(m))
    if pairs.identical and not pairs.silenced and (look in (None, stats.LOOKS[-1]) or unseen < stats.MARGIN):
        hidden = f", so a loss up to {unseen:.1%} may hide" if primary.r0 > 1 else ""
        text = (
            f"tokens per step {primary.r1:.2f}, identical in all {m} prompts (95 % sure that fewer than "
            f"{stats.share_bound(m):.1%} of such prompts differ{hidden})"
        )
        return Verdict(
            kind="identical", text=text, primary=primary, prompts=m, same_text=pairs.same_text,
            notes=pairs.notes, against=against, p=1.0 if look is None else None,
        )  # fmt: skip
    broken, cost = _broken(pairs, old, new) if pairs.same_drafter else ((), 0.0)
    few = primary.differing < stats.MIN_DIFFERING
    testable = test_positions and not few and m >= stats.MIN_PROMPTS_POSITION
    positions = _positions(old, new, decide=pairs.same_drafter) if testable else ()
    significant, surely_higher, surely_inside = _bounds(primary, look)
    # With fewer differing prompts no t can be trusted. Among the few of `quick` it takes most of them anyway.
    tested = not few or m < stats.MIN_PROMPTS_POSITION
    if look not in (None, stats.LOOKS[-1]) and few and unseen >= stats.MARGIN:
        surely_inside = False  # the prompts that were not asked yet may hide more than the margin
    kind: Kind
    if (
        (tested and significant and primary.estimate <= -stats.LOG_MARGIN)
        or cost >= stats.MARGIN
        or any(position.lost for position in positions)
    ):
        kind = "regressed"
    elif tested and surely_higher and primary.estimate >= stats.LOG_MARGIN:
        kind = "improved"
    elif surely_inside:
        kind = "ok"
    else:
        kind = "inconclusive"
    lower = kind == "ok" and significant and primary.se > 0
    deciding = positions if pairs.same_drafter else ()
    # Where too few prompts differ for a loss to be called, none can be significant either.
    p = stats.cell_p(primary.p_loss(), min((d.p for d in deciding), default=1.0)) if tested else 1.0
    verdict = Verdict(
        kind=kind,
        text="",
        primary=primary,
        positions=positions,
        broken=broken,
        prompts=m,
        same_text=pairs.same_text,
        lower=lower,
        notes=pairs.notes,
        against=against,
        look=look,
        p=p if look is None else None,
    )
    return dataclasses.replace(verdict, text=_sentence(verdict, primary, pairs, cost=cost, tested=tested))


def _broken(pairs: Pairs, old: Tallies, new: Tallies) -> tuple[tuple[str, ...], float]:
    """The prompts of the same text on which the drafter failed, and what they alone cost, as a fraction."""
    m = len(pairs.prompts)
    at = [i for i, sides in enumerate(pairs.prompts) if is_broken(*_matched(*sides), prompts=m)]
    if not at:
        return (), 0.0
    committed, steps = old.committed.copy(), old.decode_steps.copy()
    committed[at], steps[at] = new.committed[at], new.decode_steps[at]
    before, after = old.committed.sum() / old.decode_steps.sum(), committed.sum() / steps.sum()
    return tuple(pairs.prompts[i][0][0].prompt for i in at), float(1 - after / before)


def _matched(old: Sequence[PromptRecord], new: Sequence[PromptRecord]) -> tuple[int, int]:
    """Over the answers of a prompt that have the same text on both sides: see `same_text.matched`."""
    fewer = steps = 0
    for a, b in zip(old, new, strict=False):
        if a.text_hash == b.text_hash and a.seed == b.seed and a.committed and b.committed:
            less, both = matched(a.committed, b.committed)
            fewer, steps = fewer + less, steps + both
    return fewer, steps


def _bounds(primary: stats.PairedRatio, look: int | None) -> tuple[bool, bool, bool]:
    """Whether a loss is significant, whether a gain is, and whether a loss is surely inside the margin."""
    if look is None:
        inside = primary.lower_bound() > -stats.LOG_MARGIN
        return primary.p_loss() <= stats.ALPHA_PRIMARY, primary.p_gain() <= stats.ALPHA_PRIMARY, inside
    significant, ok = stats.sequential_thresholds(look, primary.m)
    least = significant * primary.se
    d = primary.estimate
    return d < 0 and d <= -least, d > 0 and d >= least, d - ok * primary.se > -stats.LOG_MARGIN


def worst(verdicts: Collection[Verdict]) -> Verdict:
    """The one that decides: against a baseline and an anchor, the worse of the two."""
    return min(verdicts, key=lambda v: _WORST_FIRST.index(v.kind))


def _positions(old: Tallies, new: Tallies, *, decide: bool) -> tuple[Position, ...]:
    """Every position that both sides have and that has enough trials, Holm-corrected together."""
    before, after = old.at_least, new.at_least
    tested: list[tuple[int, stats.PairedRatio]] = []
    for j in range(1, min(len(before), len(after))):
        x0, n0, x1, n1 = before[j], before[j - 1], after[j], after[j - 1]
        # As many as both together would have: a position that died accepted none, and is to be found.
        trials, accepted, reached = min(n0.sum(), n1.sum()), x0.sum() + x1.sum(), n0.sum() + n1.sum()
        if trials * min(accepted, reached - accepted) < stats.MIN_EVENTS * reached or not trials:
            continue
        try:
            change = stats.paired_difference(x0, n0, x1, n1)
        except ValueError:  # one prompt holds all steps that reached it
            continue
        if change.differing >= stats.MIN_DIFFERING and change.m >= stats.MIN_PROMPTS_POSITION:
            tested.append((j - 1, change))
    adjusted = stats.holm([change.p_loss() for _, change in tested])
    return tuple(
        Position(
            index=index,
            change=change,
            p=p,
            lost=decide
            and p <= stats.ALPHA_POSITION
            and change.estimate <= -stats.MARGIN_POSITION
            and _gives_less(old, new, index + 1),
        )
        for (index, change), p in zip(tested, adjusted, strict=True)
    )


def _gives_less(old: Tallies, new: Tallies, j: int) -> bool:
    """Steps that accept at least j tokens became rarer among all decode steps, one-sided p <= 0.05.

    Where a drafter gets better, more steps reach a position, harder ones among them, and its conditional
    acceptance falls. So a position is lost only where it also gives fewer tokens (intersection-union test,
    Berger 1982).
    """
    share = stats.paired_difference(old.at_least[j], old.decode_steps, new.at_least[j], new.decode_steps)
    return share.p_loss() <= ALPHA_FEWER


def _sentence(
    verdict: Verdict, primary: stats.PairedRatio, pairs: Pairs, *, cost: float, tested: bool
) -> str:
    kind, positions, against, m = verdict.kind, verdict.positions, verdict.against, len(pairs.prompts)
    low, high = verdict.interval or (math.expm1(primary.estimate),) * 2
    parts = [
        (
            f"tokens per step {primary.r0:.2f} -> {primary.r1:.2f} ({percent(math.expm1(primary.estimate))}, "
            f"95 % CI {signed_interval((low, high))})"
        )
    ]
    gone = [position for position in positions if position.lost]
    if gone:
        parts[0] += f", lost at position {', '.join(str(position.index) for position in gone)}"
    if verdict.broken:
        these = ", ".join(verdict.broken[:_NAMED]) + (", ..." if len(verdict.broken) > _NAMED else "")
        how = "regressed on these prompts" if cost >= stats.MARGIN else "lost its drafts on these prompts"
        parts.append(f"{how}, {percent(-cost)} by them alone: {these}")
    if verdict.lower:
        parts[0] += ", lower but inside the margin of 2 %"
    if kind == "inconclusive":
        parts.append(_what_would_settle(primary, tested=tested))
    same = f"{m} with the same text" if pairs.same_text == m else f"{pairs.same_text} with the same text"
    where = "" if against == "baseline" else f" against the {against}"
    parts.append(f"paired over {m} prompts{where}, {same}")
    if pairs.silenced:
        parts.append(f"{pairs.silenced} prompts that had an answer have none with a decode step")
    parts += [_what_was_lost(position) for position in gone]
    return "; ".join(parts)


def _what_was_lost(position: Position) -> str:
    change = position.change
    steps = "steps that accepted all before it" if position.index else "verify steps"
    return f"position {position.index}: {100 * change.r0:.1f} -> {100 * change.r1:.1f} % of {steps}"


def _what_would_settle(primary: stats.PairedRatio, *, tested: bool) -> str:
    if not tested:
        return (
            f"{primary.differing} prompts differ, and fewer than {stats.MIN_DIFFERING} decide nothing by "
            "their scatter"
        )
    m = round(primary.df) + 1
    seen = planning.minimum_detectable_loss(primary.se, max(2, m))
    more = planning.prompts_to_settle(primary.estimate, primary.se, max(2, m))
    more = more and math.ceil(more * primary.m / max(2, m))
    settle = f"about {more} prompts would settle it" if more else "no number of such prompts would settle it"
    return f"could have seen a loss of {seen:.1%} or more; {settle}"
