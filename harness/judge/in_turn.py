"""Estimates speed-ups from a curve's starts in turn: of a k, or a schedule of k, over `none`, in pairs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

from harness.engine.spelling import SCHEDULE
from harness.judge.curve import Curve, Grid
from harness.judge.throughput import Split, disturbed_in, split
from harness.results.records import CellRecord
from harness.results.timing import Work, work_of
from harness.text.numbers import numbered

SCHEDULED = -1
"""In place of k: the engine chose it by the size of the batch."""
Starts = Mapping[tuple[int, int, int], CellRecord]
"""By pair, k and requests in flight; k = 0 is `none`."""
_OPEN = 0.85
"""Share of the best k's utility from which on one start of each does not tell which is better."""
_FEWEST = 2
"""Pairs of starts."""
_MOST_LONGER = 0.5
"""Share of the steps that may draft more than a schedule says of its load: a batch fills, and runs empty."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drafts:
    """What an engine with a schedule drafted at a load."""

    wanted: int
    """k, as the schedule says."""
    longer: float
    """Share of the steps that drafted more."""
    longest: int
    """Tokens that a step drafted at most."""

    @property
    def follow(self) -> bool:
        """Most steps draft no more than the schedule says, and some as much."""
        return self.longer <= _MOST_LONGER and self.longest >= self.wanted


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """A k at a load, measured again beside `none` on starts in turn."""

    k: int
    """Or SCHEDULED."""
    in_flight: int
    split: Split
    """Over `none` at the same load."""
    disturbed: str = ""
    """Why these starts were not timed on an idle machine; empty where they were."""
    drafts: Drafts | None = None
    """Of a schedule; None where the engine does not tell the length of each draft."""
    scheduled: CellRecord | None = None
    """The first start with the schedule, without its prompts; None where k is fixed."""

    def __str__(self) -> str:
        """`k = 4: 1.26x (95 % CI 1.20..1.32)`."""
        low, high = self.split.speed.ci()
        times = f"{math.exp(self.split.speed.estimate):.2f}x"
        what = "the schedule" if self.k == SCHEDULED else f"k = {self.k}"
        return f"{what}: {times} (95 % CI {math.exp(low):.2f}..{math.exp(high):.2f})"

    @property
    def advice(self) -> str:
        """The same, and whether it pays."""
        low, high = self.split.speed.ci()
        pays = "" if low > 0 else ", so off" if high < 0 else ", so it is not settled that it pays"
        return f"{self}{pays}"


def candidates(found: Curve) -> dict[int, set[int]]:
    """Where each k is measured again: at the loads where it is the best, or a neighbour not far behind.

    `none` at all of these. At a load where every k is far behind `none` nothing is.
    """
    again: dict[int, set[int]] = {}
    ks = sorted({point.k for point in found.points})
    for level in found.levels:
        best = found.best(level)
        near = ks[max(0, (at := ks.index(best.k)) - 1) : at + 2]
        points = (p for p in found.points if p.in_flight == level and p.k in near)
        for k in {p.k for p in points if p.k and p.utility >= _OPEN * best.utility}:
            for one in (0, k):
                again.setdefault(one, set()).add(level)
    return dict(sorted(again.items()))


def with_first(grid: Grid, starts: Starts) -> Starts:
    """Starts in turn, with those of the curve itself as their first block where they have none."""
    again = {(k, level) for _, k, level in starts if k != SCHEDULED}
    return {**{(0, *where): grid[where] for where in again if where in grid}, **starts}


def measured(starts: Starts) -> list[Measured]:
    """What starts in turn show, by load and k.

    Raises:
        ValueError: fewer than two pairs, a start is missing, or nothing was timed on one.
    """
    pairs = sorted({pair for pair, *_ in starts})
    if len(pairs) < _FEWEST:
        raise ValueError(f"it has {numbered(len(pairs), 'pair')} of starts, and {_FEWEST} are needed")

    def of(k: int, level: int) -> list[CellRecord]:
        return [starts[pair, k, level] for pair in pairs if (pair, k, level) in starts]

    def works(k: int, level: int) -> list[list[Work]]:
        found = [[work] for record in of(k, level) if (work := work_of(record))]
        if len(found) < len(pairs):
            raise ValueError(f"k = {k} was not timed at {level} in flight in each of {len(pairs)} pairs")
        return found

    return [
        Measured(
            k=k,
            in_flight=level,
            split=split(works(0, level), works(k, level), unit="pairs of starts"),
            disturbed=disturbed_in((one == k, record) for one in (0, k) for record in of(one, level)),
            drafts=_drafts(of(k, level), level) if k == SCHEDULED else None,
            scheduled=of(k, level)[0].model_copy(update={"prompts": ()}) if k == SCHEDULED else None,
        )
        for level, k in sorted({(level, k) for _, k, level in starts if k})
    ]


def k_at(schedule: Iterable[Sequence[int]], in_flight: int) -> int:
    """What a schedule says of a load."""
    return next((k for first, last, k in schedule if first <= in_flight <= last), 0)


def _drafts(records: Sequence[CellRecord], in_flight: int) -> Drafts | None:
    answers = [r for record in records for r in record.prompts if not r.failed]
    if any(r.drafted is None and r.draft_tokens != 0 for r in answers):
        return None
    lengths = [length for r in answers for length in (*(r.drafted or ()), *[0] * r.undrafted)]
    wanted = k_at(records[0].subject.settings[SCHEDULE], in_flight)
    longer = sum(length > wanted for length in lengths) / max(1, len(lengths))
    return Drafts(wanted=wanted, longer=longer, longest=max(lengths, default=0))


def advice(found: Sequence[Measured]) -> list[str]:
    """What to run at each load, by starts in turn; and whether a schedule is followed, and pays."""
    said = []
    for level in dict.fromkeys(one.in_flight for one in found if one.k != SCHEDULED):
        fixed = [one for one in found if one.in_flight == level and one.k != SCHEDULED]
        best = max(fixed, key=lambda one: one.split.speed.estimate)
        said.append(f"measured in turn at {level} in flight: the best is {best.advice}")
    scheduled = [one for one in found if one.k == SCHEDULED]
    said += [f"at {o.in_flight} in flight {o.advice}; {followed(o.drafts)}" for o in scheduled]
    why = next((one.disturbed for one in found if one.disturbed), "")
    return said + [f"measured in turn, but not on an idle machine: {why}"] * bool(why)


def followed(drafts: Drafts | None) -> str:
    """Whether an engine drafted as its schedule says."""
    if drafts is None:
        return "the engine does not tell the length of each draft"
    if drafts.follow:
        return f"drafts follow it (k = {drafts.wanted})"
    did = f"{drafts.longer:.0%} of the steps draft more, the longest {drafts.longest}"
    return f"the engine does not follow it: it says k = {drafts.wanted}, and {did}"
