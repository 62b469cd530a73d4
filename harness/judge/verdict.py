"""The verdict on two paired cells. `docs/gating.md` has the method and the source of each number."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator
from typing import Literal

from harness.judge.evidence import Evidence, Loss, Position, StretchChange, evidence
from harness.judge.pairing import Pairs, Refused, Unit, pair
from harness.results.records import CellRecord
from harness.results.stretches import name_of
from harness.stats import paired, planning
from harness.text.numbers import percent, signed_interval

Kind = Literal["identical", "ok", "improved", "regressed", "inconclusive", "invalid"]
Rule = Literal["few-differ", "unasked", "later", "scatter", "unconfirmed"]

_ALL = 0.9995
"""A loss that prints as 100.0 %."""
_NAMED = 5
"""Prompts that a sentence names."""
_WORST_FIRST: tuple[Kind, ...] = ("invalid", "regressed", "inconclusive", "ok", "improved", "identical")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unsettled:
    """Why a verdict is inconclusive."""

    rule: Rule
    """`few-differ`: a loss of the margin or more, by the scatter of too few prompts. `unasked`: an early
    look, and prompts that were not asked yet may hide a loss. `later`: whole answers fell, their common
    beginnings did not. `scatter`: these prompts scatter too much. `unconfirmed`: a loss that other prompts do
    not show."""
    could_see: float | None = None
    """The loss that these prompts would have shown, as a fraction; None where scatter is not what binds."""
    prompts: int | None = None
    """How many would settle it, all asked at once; None where no number of prompts like these would."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """The result of a comparison."""

    kind: Kind
    text: str
    """One sentence without the cell's name."""
    look: int | None = None
    """Of a sequential measurement. Its interval is then one for repeated looks."""
    broken: tuple[str, ...] = ()
    """Prompts on which the drafter failed although their text is the same."""
    primary: paired.PairedRatio | None = None
    positions: tuple[Position, ...] = ()
    stretches: tuple[StretchChange, ...] = ()
    """Of long answers, in order."""
    whole: paired.PairedRatio | None = None
    """Of whole answers, if `primary` is of the beginnings before their texts part."""
    share: float | None = None
    """Of the tokens, in those beginnings; None where whole answers were compared."""
    prompts: int = 0
    """As many as are independent; conversations, where `unit` says so."""
    unit: Unit = "prompts"
    same_text: int | None = 0
    lower: bool = False
    """`ok`, and significantly lower, but inside the margin."""
    p: float | None = None
    """Of a loss, by any test (`paired.cell_p`). None where nothing was compared, or at a look: a p-value
    holds for one look, not for several."""
    loss: Loss | None = None
    """What regressed."""
    confirmation: float | None = None
    """One-sided p of the same loss on other prompts; None where there was no second look."""
    unsettled: Unsettled | None = None
    """Of an inconclusive verdict."""
    notes: tuple[str, ...] = ()
    against: str = "baseline"

    @property
    def fails(self) -> bool:
        """The case fails under every --gate but off and warn."""
        return self.kind in ("regressed", "invalid")

    @property
    def confirmable(self) -> bool:
        """Other prompts may show that it is no loss. They cannot where prompts broke one by one."""
        return self.kind == "regressed" and self.loss != "prompts"

    @property
    def change(self) -> float | None:
        """Relative change of tokens per step; None where nothing was compared."""
        return self.primary.change if self.primary else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Its 95 % interval; None where nothing was compared, nothing varied, or nothing bounds it."""
        if self.primary is None or self.primary.identical:
            return None
        return self.primary.change_ci(self.look)


def judge(
    old: CellRecord,
    new: CellRecord,
    *,
    across: Collection[str] = (),
    against: str = "baseline",
    positions: bool = True,
) -> Verdict:
    """The verdict on `new`, compared prompt by prompt with `old`; invalid where that cannot be done.

    `positions` is False at the looks of a sequential measurement: positions are tested once, at its stop.
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
        look: of a sequential measurement, one of `paired.LOOKS`: its bounds are wider.
        test_positions: whether a lost position may decide.

    Raises:
        Refused: there are fewer than 8 of them, one side has no decode step, or no such look was planned. Of
            prompts that are identical, half may lack a decode step.
    """
    m = len(pairs.prompts)
    alike = m + pairs.silent if pairs.identical and 2 * m >= paired.MIN_PROMPTS else m
    if alike < paired.MIN_PROMPTS:
        raise Refused(
            f"{m} {pairs.unit} are too few for a verdict: it needs {paired.MIN_PROMPTS} or more with a "
            "decode step on both sides (--prompts asks more)"
        )
    if look not in (None, *paired.LOOKS):
        looks = ", ".join(map(str, paired.LOOKS))
        raise Refused(f"its stopped_at is {look}, but a sequential measurement stops at {looks} prompts")
    try:
        shown = evidence(pairs, look=look, test_positions=test_positions)
    except ValueError as error:
        raise Refused(str(error)) from None
    kind = _decided(shown)
    verdict = Verdict(
        kind=kind,
        text="",
        primary=shown.primary,
        positions=shown.positions,
        stretches=shown.stretches,
        broken=shown.broken,
        whole=shown.whole,
        share=shown.pairs.share,
        prompts=shown.m,
        unit=pairs.unit,
        same_text=pairs.same_text,
        lower=kind == "ok" and shown.significant and shown.primary.se > 0,
        notes=(*shown.pairs.notes, *_of_whole_answers(shown)),
        against=against,
        look=look,
        p=shown.p,
        loss=shown.loss,
        unsettled=_unsettled(shown) if kind == "inconclusive" else None,
    )
    text = _identical(shown) if kind == "identical" else _sentence(verdict, shown)
    return dataclasses.replace(verdict, text=text)


def _decided(shown: Evidence) -> Kind:
    """The first kind that holds, in this order."""
    d, margin = shown.primary.estimate, paired.LOG_MARGIN
    if shown.identical and not shown.unasked:
        return "identical"
    if shown.loss:
        return "regressed"
    if shown.fell_later:
        return "inconclusive"
    if shown.scatter_counts and shown.gained and d >= margin:
        return "improved"
    return "ok" if shown.inside and not shown.unasked else "inconclusive"


def _unsettled(shown: Evidence) -> Unsettled:
    """The rule that binds, and how many prompts would settle it, where a number of prompts can."""
    primary, lost = shown.primary, shown.primary.estimate <= -paired.LOG_MARGIN
    if shown.inside:
        return Unsettled(rule="later" if shown.fell_later else "unasked")
    if lost and not shown.scatter_counts:
        return Unsettled(rule="few-differ")
    alpha = shown.alpha
    prompts = planning.prompts_to_settle(primary.estimate, primary.se, primary.m, primary.df, alpha=alpha)
    if shown.look is not None:
        alpha = paired.tail(paired.REGRESSED_Z[paired.LOOKS.index(shown.look)])
    if lost and prompts:  # by then enough of them must differ, too
        prompts = max(prompts, math.ceil(paired.MIN_DIFFERING * primary.m / primary.differing))
    return Unsettled(
        rule="scatter",
        could_see=planning.minimum_detectable_loss(primary.se, primary.df, alpha=alpha),
        prompts=prompts,
    )


def worst(verdicts: Collection[Verdict]) -> Verdict:
    """The verdict that decides: of those on a baseline and on an anchor, the worse."""
    return min(verdicts, key=lambda v: _WORST_FIRST.index(v.kind))


def _identical(shown: Evidence) -> str:
    of = f"{shown.m} {shown.pairs.unit}"
    return f"tokens per step {shown.primary.r1:.2f}, identical in all {of} ({_hidden(shown)})"


def _hidden(shown: Evidence, *, what: str = "differ") -> str:
    share = f"95 % sure that fewer than {shown.unseen_share:.1%} of such {shown.pairs.unit} {what}"
    return f"{share}, so a loss up to {shown.unseen:.1%} may hide" if shown.unseen > 0 else share


def _sentence(verdict: Verdict, shown: Evidence) -> str:
    primary, m = shown.primary, shown.m
    parts = [change_in_words(primary, shown.look)]
    if verdict.share is not None:
        parts[0] += f" on the common beginning, {verdict.share:.0%} of the tokens"
    if gone := [position for position in shown.positions if position.lost]:
        parts[0] += f", lost at position {', '.join(str(position.index) for position in gone)}"
    if faded := [stretch for stretch in shown.stretches if stretch.lost]:
        parts[0] += f", lost at tokens {', '.join(name_of(stretch.start) for stretch in faded)}"
    parts += _beside_the_change(shown, verdict.kind)
    if verdict.lower:
        parts[0] += ", lower but inside the margin of 2 %"
    if verdict.unsettled:
        parts.append(_why(verdict.unsettled, shown))
    known = verdict.same_text is not None
    same = f"{verdict.same_text} with the same text" if known else "whose texts are not known"
    where = "" if verdict.against == "baseline" else f" against the {verdict.against}"
    parts.append(f"paired over {m} {shown.pairs.unit}{where}, {same}")
    if shown.pairs.silenced:
        parts.append(f"{shown.pairs.silenced} prompts lost an answer: it has no decode step any more")
    parts += [_what_was_lost(position) for position in gone]
    for stretch in (s for s in shown.stretches if s.lower):
        rates = f"{stretch.change.r0:.2f} -> {stretch.change.r1:.2f} per step"
        parts.append(f"tokens {name_of(stretch.start)}: {rates} ({percent(stretch.change.change)})")
    return "; ".join(parts)


def _beside_the_change(shown: Evidence, kind: Kind) -> Iterator[str]:
    if shown.whole and shown.primary.identical:
        yield f"as many steps for it in every prompt ({_hidden(shown)})"
    elif shown.mostly_alike and kind == "ok":
        few = f"{shown.primary.differing} of {shown.m} {shown.pairs.unit} differ"
        yield f"{few} ({_hidden(shown, what='lost all drafts')})"
    if shown.whole and shown.lost_later:
        yield f"whole answers lost {-shown.whole.change:.1%}, and so failed"
    if shown.broken:
        names = ", ".join(shown.broken[:_NAMED]) + (", ..." if len(shown.broken) > _NAMED else "")
        fails = shown.cost >= paired.MARGIN
        how = "regressed on these prompts" if fails else "lost its drafts on these prompts"
        yield f"{how}, {percent(-shown.cost)} by them alone: {names}"


def _of_whole_answers(shown: Evidence) -> Iterator[str]:
    """A footnote: the table's figures are those of whole answers, the verdict's are not."""
    if shown.whole:
        on = f"compared on the common beginning, {shown.pairs.share:.0%} of the tokens"
        yield f"{on}; whole answers: {change_in_words(shown.whole)}"


def change_in_words(primary: paired.PairedRatio, look: int | None = None) -> str:
    """`tokens per step 1.21 -> 1.12 (-7.9 %, 95 % CI -8.8..-6.9)`."""
    interval = signed_interval(primary.change_ci(look))
    change = f"{percent(primary.change)}, 95 % CI {interval}"
    return f"tokens per step {primary.r0:.2f} -> {primary.r1:.2f} ({change})"


def _what_was_lost(position: Position) -> str:
    change = position.change
    steps = "steps that accepted all before it" if position.index else "verify steps"
    return f"position {position.index}: {100 * change.r0:.1f} -> {100 * change.r1:.1f} % of {steps}"


def _why(unsettled: Unsettled, shown: Evidence) -> str:
    if unsettled.rule == "few-differ":
        return (
            f"only {shown.primary.differing} {shown.pairs.unit} differ, and the scatter of fewer than "
            f"{paired.MIN_DIFFERING} decides nothing"
        )
    if unsettled.rule == "unasked":
        return f"a loss up to {shown.unseen:.1%} may hide in {shown.pairs.unit} that were not asked yet"
    if unsettled.rule == "later":
        assert shown.whole  # noqa: S101 - it fell
        lost = f"whole answers fell by {-shown.whole.change:.1%}, one-sided p {shown.whole.p_loss():.2g}"
        return f"{lost}: what comes after the texts part may have got worse"
    at_once = "" if shown.look is None else ", all asked at once,"
    enough = f"about {unsettled.prompts}" if unsettled.prompts else "no number of such"
    settle = f"{enough} {shown.pairs.unit}{at_once if unsettled.prompts else ''} would settle it"
    if not unsettled.could_see or unsettled.could_see > _ALL:
        return f"a few prompts hold nearly all steps, so no loss could have been seen; {settle}"
    return f"could have seen a loss of {unsettled.could_see:.1%} or more; {settle}"
