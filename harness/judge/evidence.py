"""What two paired cells show: tokens per step, positions, stretches, and prompts one by one.

`verdict.py` makes a verdict of it.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Literal

from harness.judge.broken import one_by_one
from harness.judge.pairing import Pairs
from harness.results.stretches import reached, split
from harness.stats import paired
from harness.stats.acceptance import Tallies
from harness.stats.paired import PairedRatio
from harness.stats.same_text import unseen_loss

Loss = Literal["prompts", "tokens", "whole", "position", "stretch"]

ALPHA_FEWER = 0.05
"""One-sided, of a position that gives fewer tokens per decode step, with those behind it."""
ALPHA_LOWER = 0.05
"""One-sided, of a stretch that the sentence names, though it may be chance."""
ALPHA_LATER = 0.005
"""One-sided, of whole answers that fell though their common beginnings did not: that is not `ok`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Position:
    """How conditional acceptance changed at one position."""

    index: int
    change: PairedRatio
    p: float
    """One-sided p of a loss, Holm-corrected over the positions and stretches tested."""
    p_fewer: float
    """One-sided p that it and those behind it give fewer tokens per decode step."""
    lost: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class StretchChange:
    """How tokens per step changed in a stretch of the answers, over prompts that reach it on both sides."""

    start: int
    change: PairedRatio
    p: float | None
    """As of a position. None where few prompts reach it or differ there, or at an early look."""
    tested: bool
    """It may decide: it has a p, and the drafter is the same."""
    lost: bool

    @property
    def lower(self) -> bool:
        """By the margin or more, and one-sided p <= 0.05: worth naming, whether lost or not."""
        return self.p is not None and self.p <= ALPHA_LOWER and self.change.estimate <= -paired.LOG_MARGIN


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the common prompts of two cells show."""

    pairs: Pairs
    """`Pairs.judged`: where texts part, cut to the beginnings that both sides share."""
    look: int | None
    """Of a sequential measurement, one of `paired.LOOKS`."""
    primary: PairedRatio
    """Of tokens per step."""
    whole: PairedRatio | None
    """The same of whole answers, if `pairs` are beginnings."""
    p_whole: float
    """One-sided p of a loss there; 1 where it may not decide."""
    positions: tuple[Position, ...]
    stretches: tuple[StretchChange, ...]
    broken: tuple[str, ...]
    """Prompts on which the drafter failed although their text is the same."""
    cost: float
    """What these prompts alone cost, as a fraction of tokens per step."""
    p_prompts: float
    """One-sided p of the prompts one by one: the smallest, Bonferroni-corrected."""

    @property
    def m(self) -> int:
        """Prompts, or conversations: `Pairs.unit`."""
        return len(self.pairs.prompts)

    @property
    def identical(self) -> bool:
        """Every step of every answer is the same, and no answer went missing."""
        return self.whole is None and self.pairs.identical and not self.pairs.silenced

    @property
    def unseen(self) -> float:
        """The loss that may hide although no prompt differs, or few do: see `unseen_loss`."""
        return unseen_loss(self.primary.r0, self.unseen_share)

    @property
    def unseen_share(self) -> float:
        """Upper 95 % bound on the share of such prompts that the drafter fails on."""
        return paired.share_bound(self.m, seen=len(self.broken))

    @property
    def mostly_alike(self) -> bool:
        """So few prompts differ that their scatter says nothing of a loss that only some prompts have."""
        return self.few_differ and 2 * self.primary.differing < self.m

    @property
    def few_differ(self) -> bool:
        """Too few prompts differ for a t test."""
        return self.primary.differing < paired.MIN_DIFFERING

    @property
    def scatter_counts(self) -> bool:
        """Enough prompts differ for their scatter to decide."""
        return _scatters(self.primary)

    @property
    def unasked(self) -> bool:
        """At an early look few prompts differ, so the prompts not asked yet may hide more than the margin."""
        return self.look not in (None, paired.LOOKS[-1]) and self.few_differ and self.unseen >= paired.MARGIN

    @property
    def significant(self) -> bool:
        """A loss of any size is significant."""
        d, primary = self.primary.estimate, self.primary
        if self.look is None:
            return primary.p_loss() <= self.alpha
        return d < 0 and d <= -self._thresholds[0] * primary.se

    @property
    def loss(self) -> Loss | None:
        """What makes the cell regressed, the first that does; None where it is not."""
        if self.cost >= paired.MARGIN:
            return "prompts"
        if self.scatter_counts and self.significant and self.primary.estimate <= -paired.LOG_MARGIN:
            return "tokens"
        if self.lost_later:
            return "whole"
        if any(position.lost for position in self.positions):
            return "position"
        return "stretch" if any(stretch.lost for stretch in self.stretches) else None

    @property
    def gained(self) -> bool:
        """The mirror of `significant`."""
        d, primary = self.primary.estimate, self.primary
        if self.look is None:
            return primary.p_gain() <= paired.ALPHA_PRIMARY
        return d > 0 and d >= self._thresholds[0] * primary.se

    @property
    def inside(self) -> bool:
        """A loss, if there is one, is surely inside the margin."""
        primary = self.primary
        if self.look is None:
            return primary.lower_bound() > -paired.LOG_MARGIN
        return primary.estimate - self._thresholds[1] * primary.se > -paired.LOG_MARGIN

    @functools.cached_property
    def _thresholds(self) -> tuple[float, float]:
        assert self.look is not None  # noqa: S101 - its callers have asked
        return paired.sequential_thresholds(self.look, self.primary.df)

    @property
    def alpha(self) -> float:
        """One-sided, of `primary`: beginnings leave ALPHA_WHOLE of it to whole answers."""
        return paired.ALPHA_PRIMARY - (paired.ALPHA_WHOLE if self.whole else 0)

    @property
    def lost_later(self) -> bool:
        """Whole answers lost the margin or more, whatever their beginnings say."""
        lost = self.whole is not None and self.whole.estimate <= -paired.LOG_MARGIN
        return lost and self.p_whole <= paired.ALPHA_WHOLE

    @property
    def fell_later(self) -> bool:
        """Whole answers fell by the margin or more at one-sided p <= 0.005: their beginnings are not all."""
        whole = self.whole
        fell = whole is not None and _scatters(whole) and whole.estimate <= -paired.LOG_MARGIN
        return fell and whole is not None and whole.p_loss() <= ALPHA_LATER

    @property
    def p(self) -> float | None:
        """Of a loss by any of the tests (`paired.cell_p`); None at a look.

        A test that may not decide adds nothing: the scatter of few prompts, positions of another drafter.
        """
        if self.look is not None:
            return None
        ps = [*(position.p for position in self.positions), *(stretch.p for stretch in self.stretches)]
        deciding = [p for p in ps if p is not None and self.pairs.same_drafter]
        tests = [(self.p_whole, paired.ALPHA_WHOLE)]
        tests += [(self.primary.p_loss(), self.alpha)] if self.scatter_counts else []
        return paired.cell_p(
            min(1.0, *(p * (paired.ALPHA_PRIMARY / alpha) for p, alpha in tests)),
            positions=min(deciding, default=1.0),
            prompts=self.p_prompts,
        )


def evidence(pairs: Pairs, *, look: int | None = None, test_positions: bool = True) -> Evidence:
    """What pairs show.

    Args:
        pairs: the prompts of both sides.
        look: of a sequential measurement, one of `paired.LOOKS`: its bounds are wider.
        test_positions: whether a lost position or stretch may decide.

    Raises:
        ValueError: one side has no decode step, or one prompt holds all of them.
    """
    judged = pairs.judged
    old, new = judged.tallies
    primary, whole = _tokens_per_step(judged), _tokens_per_step(pairs) if judged.share else None
    enough = primary.differing >= paired.MIN_DIFFERING and len(judged.prompts) >= paired.MIN_PROMPTS_POSITION
    positions = _reached(old, new) if test_positions and enough else []
    stretches = _along(pairs)  # of whole answers, since a beginning has no end
    tested = [s for s in stretches if test_positions and _counts(s[1])]
    ps = paired.holm([change.p_loss() for _, change in (*positions, *tested)])
    adjusted = dict(zip([start for start, _ in tested], ps[len(positions) :], strict=True))
    broken, cost, p_prompts = one_by_one(judged, old, new)
    return Evidence(
        pairs=judged,
        look=look,
        primary=primary,
        whole=whole,
        p_whole=whole.p_loss() if whole and test_positions and _scatters(whole) else 1.0,
        positions=tuple(
            Position(
                index=index,
                change=change,
                p=p,
                p_fewer=(fewer := _p_fewer(old, new, index + 1)),
                lost=pairs.same_drafter
                and p <= paired.ALPHA_POSITION
                and change.estimate <= -paired.MARGIN_POSITION
                and fewer <= ALPHA_FEWER,
            )
            for (index, change), p in zip(positions, ps, strict=False)
        ),
        stretches=tuple(
            StretchChange(
                start=start,
                change=change,
                p=adjusted.get(start),
                tested=start in adjusted and pairs.same_drafter,
                lost=pairs.same_drafter
                and adjusted.get(start, 1.0) <= paired.ALPHA_POSITION
                and change.estimate <= -paired.LOG_MARGIN,
            )
            for start, change in stretches
        ),
        broken=broken,
        cost=cost,
        p_prompts=p_prompts,
    )


def _scatters(change: PairedRatio) -> bool:
    """At least 10 prompts differ; among the few of `quick` any number will do."""
    return change.differing >= paired.MIN_DIFFERING or change.m < paired.MIN_PROMPTS_POSITION


def _tokens_per_step(pairs: Pairs) -> PairedRatio:
    old, new = pairs.tallies
    return paired.paired_log_ratio(old.committed, old.decode_steps, new.committed, new.decode_steps)


def _reached(old: Tallies, new: Tallies) -> list[tuple[int, PairedRatio]]:
    """Every position that both sides have and that has enough trials."""
    before, after = old.at_least, new.at_least
    tested: list[tuple[int, PairedRatio]] = []
    for j in range(1, min(len(before), len(after))):
        x0, n0, x1, n1 = before[j], before[j - 1], after[j], after[j - 1]
        # Events at the rate of both sides together: a position that died has none of its own.
        trials, accepted, reached = min(n0.sum(), n1.sum()), x0.sum() + x1.sum(), n0.sum() + n1.sum()
        if trials * min(accepted, reached - accepted) < paired.MIN_EVENTS * reached or not trials:
            continue
        try:
            change = paired.paired_difference(x0, n0, x1, n1)
        except ValueError:  # one prompt holds all steps that reached it
            continue
        if change.differing >= paired.MIN_DIFFERING and change.m >= paired.MIN_PROMPTS_POSITION:
            tested.append((j - 1, change))
    return tested


def _along(pairs: Pairs) -> list[tuple[int, PairedRatio]]:
    """Tokens per step in every stretch that two prompts or more reach on both sides; none of short ones."""
    starts = reached(list(itertools.chain.from_iterable(new for _, new in pairs.prompts)))
    if len(starts) <= 1:
        return []
    old, new = (split([sides[i] for sides in pairs.prompts]) for i in (0, 1))
    along = []
    for start, (x0, n0), (x1, n1) in zip(starts, old, new, strict=False):
        both = (n0 > 0) & (n1 > 0)
        if both.sum() > 1:
            along.append((start, paired.paired_log_ratio(x0[both], n0[both], x1[both], n1[both])))
    return along


def _counts(change: PairedRatio) -> bool:
    """Enough prompts reach a stretch, and differ there, for their scatter to decide."""
    few = change.differing < paired.MIN_DIFFERING and change.m >= paired.MIN_PROMPTS_POSITION
    return change.m >= paired.MIN_PROMPTS and not few


def _p_fewer(old: Tallies, new: Tallies, j: int) -> float:
    """One-sided p that the j-th draft token and those behind it gave fewer tokens per decode step.

    When a drafter gets better, more steps reach a later position. Harder ones are among them, so conditional
    acceptance there falls. When it gets better at later positions, easy text takes fewer steps, so a larger
    share of the steps is hard, and all positions before are accepted less often. A position is lost only if
    it and those behind it also give fewer tokens (intersection-union test, Berger 1982).
    """
    before, after = (side.at_least[j:].sum(axis=0) for side in (old, new))
    return paired.paired_difference(before, old.decode_steps, after, new.decode_steps).p_loss()


def position_at(pairs: Pairs, index: int) -> tuple[PairedRatio, float] | None:
    """The change at a position and its `Position.p_fewer`, however few prompts or steps there are.

    None where it has no change: k is smaller, or nothing reaches it on a side.
    """
    old, new = pairs.judged.tallies
    if index + 1 >= min(len(old.at_least), len(new.at_least)):
        return None
    sides = [(side.at_least[index + 1], side.at_least[index]) for side in (old, new)]
    try:
        return paired.paired_difference(*sides[0], *sides[1]), _p_fewer(old, new, index + 1)
    except ValueError:
        return None
