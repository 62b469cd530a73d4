"""Two paired cells -> a verdict. The method, and where each number comes from: `docs/gating.md`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from typing import Literal

from harness.judge.pairing import Pairs, Refused, pair
from harness.results.records import CellRecord
from harness.stats import paired as stats
from harness.stats.acceptance import Tallies
from harness.text.numbers import percent, signed_interval

Kind = Literal["identical", "ok", "improved", "regressed", "inconclusive", "invalid"]

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
        low, high = self.primary.ci()
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
    if pairs.identical:
        bound = stats.share_bound(m)
        text = (
            f"tokens per step {primary.r1:.2f}, identical in all {m} prompts "
            f"(95 % sure that fewer than {bound:.1%} of such prompts differ)"
        )
        return Verdict(
            kind="identical", text=text, primary=primary, prompts=m, same_text=pairs.same_text,
            notes=pairs.notes, against=against, p=1.0 if look is None else None,
        )  # fmt: skip
    # `differing` counts prompts by tokens and steps; with the 8 of `quick` all of them must differ.
    enough = primary.differing >= min(stats.MIN_DIFFERING, m)
    testable = test_positions and enough and m >= stats.MIN_PROMPTS_POSITION
    positions = _positions(old, new, decide=pairs.same_drafter) if testable else ()
    significant, surely_higher, surely_inside = _bounds(primary, look)
    lost = enough and significant and primary.estimate <= -stats.LOG_MARGIN
    gained = enough and surely_higher and primary.estimate >= stats.LOG_MARGIN
    kind: Kind
    if lost or any(position.lost for position in positions):
        kind = "regressed"
    elif gained:
        kind = "improved"
    elif surely_inside:
        kind = "ok"
    else:
        kind = "inconclusive"
    lower = kind == "ok" and significant and primary.se > 0
    deciding = positions if pairs.same_drafter else ()
    # Where too few prompts differ for a loss to be called, none can be significant either.
    p = stats.cell_p(primary.p_loss(), min((d.p for d in deciding), default=1.0)) if enough else 1.0
    return Verdict(
        kind=kind,
        text=_sentence(kind, primary, positions, pairs, lower=lower, against=against),
        primary=primary,
        positions=positions,
        prompts=m,
        same_text=pairs.same_text,
        lower=lower,
        notes=pairs.notes,
        against=against,
        p=p if look is None else None,
    )


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
        change = stats.paired_difference(x0, n0, x1, n1)
        if change.differing >= stats.MIN_DIFFERING and change.m >= stats.MIN_PROMPTS_POSITION:
            tested.append((j - 1, change))
    adjusted = stats.holm([change.p_loss() for _, change in tested])
    return tuple(
        Position(
            index=index,
            change=change,
            p=p,
            lost=decide and p <= stats.ALPHA_POSITION and change.estimate <= -stats.MARGIN_POSITION,
        )
        for (index, change), p in zip(tested, adjusted, strict=True)
    )


def _sentence(
    kind: Kind,
    primary: stats.PairedRatio,
    positions: tuple[Position, ...],
    pairs: Pairs,
    *,
    lower: bool,
    against: str,
) -> str:
    m = len(pairs.prompts)
    low, high = (math.expm1(end) for end in primary.ci())
    parts = [
        (
            f"tokens per step {primary.r0:.2f} -> {primary.r1:.2f} ({percent(math.expm1(primary.estimate))}, "
            f"95 % CI {signed_interval((low, high))})"
        )
    ]
    gone = [position for position in positions if position.lost]
    if gone:
        parts[0] += f", lost at position {', '.join(str(position.index) for position in gone)}"
    if lower:
        parts[0] += ", lower but inside the margin of 2 %"
    if kind == "inconclusive":
        parts.append(_what_would_settle(primary))
    same = f"{m} with the same text" if pairs.same_text == m else f"{pairs.same_text} with the same text"
    where = "" if against == "baseline" else f" against the {against}"
    parts.append(f"paired over {m} prompts{where}, {same}")
    parts += [_what_was_lost(position) for position in gone]
    return "; ".join(parts)


def _what_was_lost(position: Position) -> str:
    change = position.change
    steps = "steps that accepted all before it" if position.index else "verify steps"
    return f"position {position.index}: {100 * change.r0:.1f} -> {100 * change.r1:.1f} % of {steps}"


def _what_would_settle(primary: stats.PairedRatio) -> str:
    seen = stats.minimum_detectable_loss(primary.se, primary.m)
    more = stats.prompts_to_settle(primary.estimate, primary.se, primary.m)
    settle = f"about {more} prompts would settle it" if more else "no number of such prompts would settle it"
    return f"could have seen a loss of {seen:.1%} or more; {settle}"
