"""Do more answers refuse than before? The same questions on two sides: targets, runs, or drafters."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from harness.judge.pairing import ENOUGH_IN_COMMON, OF_TARGET, Refused, pair
from harness.judge.verdict import Kind, Verdict, worst
from harness.measure.refusals import sorts_of
from harness.results.records import CellRecord
from harness.stats.shares import ALPHA, change_interval, mcnemar
from harness.text.numbers import signed_interval

MARGIN = 0.02
"""Share of the questions that may be refused more. Policy."""
_ANSWERS, _NONE = frozenset({"answered", "refused"}), frozenset({"empty", "loop"})
_NAMED = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class RefusalChange:
    """What became of the same questions."""

    sorts: Mapping[str, tuple[str, str]]
    """Before and after, by question."""

    @classmethod
    def of(cls, old: CellRecord, new: CellRecord) -> RefusalChange | None:
        """Of two cells; None where one was not looked at, or is of other questions."""
        before, after = sorts_of(old), sorts_of(new)
        if not (before and after):
            return None
        texts = {r.prompt: r.prompt_text_hash for r in old.prompts}
        edited = {r.unit for r in new.prompts if texts.get(r.prompt) != r.prompt_text_hash}
        both = {unit: (before[unit], after[unit]) for unit in before if unit in after and unit not in edited}
        enough = both and len(both) >= ENOUGH_IN_COMMON * max(len(before), len(after))
        return cls(sorts=both) if enough else None

    def _became(self, before: Collection[str], after: Collection[str]) -> list[str]:
        return [unit for unit, (a, b) in self.sorts.items() if a in before and b in after]

    @property
    def more(self) -> list[str]:
        """Answered before, and refused now."""
        return self._became({"answered"}, {"refused"})

    @property
    def fewer(self) -> list[str]:
        """Refused before, and answered now."""
        return self._became({"refused"}, {"answered"})

    @property
    def silenced(self) -> list[str]:
        """With an answer before, be it a refusal, and with none now: empty, or a loop."""
        return self._became(_ANSWERS, _NONE)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of the change of the share that is refused, 95 %, over the questions that both sides answer."""
        both = self._became({"refused"}, {"refused"})
        neither = self._became({"answered"}, {"answered"})
        counts = (len(self.fewer), len(self.more), len(both), len(neither))
        return change_interval(*counts) if sum(counts) else None

    @property
    def p(self) -> float:
        """One-sided, that as many or more are refused anew where chance alone decides (exact McNemar)."""
        return mcnemar(len(self.more), len(self.fewer))

    def sentence(self) -> str:
        """How many are refused anew, with the interval and p."""
        more, fewer, ends = self.more, self.fewer, self.interval
        of = len(self._became(_ANSWERS, _ANSWERS))
        if ends is None:
            return f"none of {len(self.sorts)} questions has an answer on both sides"
        text = f"of {of} questions that both sides answer {len(more)} are refused anew{_named(more)}, "
        text += f"{len(fewer)} no longer: {100 * (len(more) - len(fewer)) / of:+.1f} points "
        text += f"(95 % CI {signed_interval(ends)}), exact McNemar p = {self.p:.2g} of more refusals, "
        text += f"{mcnemar(len(fewer), len(more)):.2g} of fewer"
        lost = self.silenced
        return text + (f"; {len(lost)} have no answer any more{_named(lost)}" if lost else "")

    def verdict(self, against: str) -> Verdict:
        """Regressed where more are refused, or have no answer, than chance explains and the margin allows.

        Invalid where no question has an answer on both sides, and none has lost its own.
        """
        more, fewer, of = len(self.more), len(self.fewer), len(self.sorts)
        again = self._became(_NONE, _ANSWERS)
        lost = [
            p <= ALPHA and excess >= MARGIN * of
            for p, excess in (
                (self.p, more - fewer),
                (mcnemar(len(self.silenced), len(again)), len(self.silenced) - len(again)),
            )
        ]
        kind: Kind = "inconclusive" if more > fewer else "ok"
        text, both = self.sentence(), len(self._became(_ANSWERS, _ANSWERS))
        if any(lost) or not both:
            kind = "regressed" if any(lost) else "invalid"
        elif all(before == after for before, after in self.sorts.values()):
            kind, text = "identical", f"the same {both} questions are answered, and refused"
            text += f"; {of - both} have no answer on either side" if both < of else ""
        return Verdict(kind=kind, text=text, prompts=of, against=against, p=self.p)


def with_refusals(verdict: Verdict, old: CellRecord, new: CellRecord) -> Verdict:
    """The verdict on a cell's steps, or on its refusals where that is worse; a note has the figures."""
    change = RefusalChange.of(old, new)
    if change is None:
        return verdict
    own = change.verdict(verdict.against)
    verdict = dataclasses.replace(verdict, notes=(*verdict.notes, f"refusals: {own.text}"))
    if own.kind in ("regressed", "inconclusive") and worst([verdict, own]).kind != verdict.kind:
        return dataclasses.replace(verdict, kind=own.kind, text=own.text, p=own.p)
    return verdict


def judge(old: CellRecord, new: CellRecord, *, across: Collection[str], against: str) -> Verdict:
    """The verdict on the refusals of `new`; invalid where the two cannot be compared.

    It is about the target, so what two targets differ in may differ.
    """
    try:
        pair(old, new, across={*across, *OF_TARGET})
    except Refused as refusal:
        return Verdict(kind="invalid", text=f"not comparable with the {against}: {refusal}", against=against)
    change = RefusalChange.of(old, new)
    if change is None:
        text = f"not comparable with the {against}: it does not say which of these questions it refuses"
        return Verdict(kind="invalid", text=text, against=against)
    return change.verdict(against)


def _named(units: Sequence[str]) -> str:
    return f" ({', '.join(units[:_NAMED])}{', ...' * (len(units) > _NAMED)})" if units else ""
