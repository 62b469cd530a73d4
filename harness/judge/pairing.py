"""How two cells are matched prompt by prompt, and when they say nothing about each other."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from collections.abc import Collection
from typing import Any

from harness.measure.validity import countable
from harness.results.records import CellRecord, PromptRecord, tallies
from harness.stats.acceptance import Tallies

ENOUGH_IN_COMMON = 0.9
"""Share of the prompts that both sides must have."""
MOST_SILENCED = 0.05
"""Share of the prompts whose answer may have become empty, or one token; a single prompt always may."""

_RENDERING = frozenset({"endpoint", "language", "target", "tokenizer", "chat_template", "workload"})
"""A comparison across one of these pairs prompts by id: no two are rendered to the same tokens."""


class Refused(Exception):  # noqa: N818 - a verdict, not a failure of ours
    """Two records that say nothing about each other; the text says why."""


@dataclasses.dataclass(frozen=True)
class Counted:
    """The answers of a cell that reached a decode step, and their sums: made once, used often."""

    records: list[PromptRecord]
    sums: Tallies


def counted(record: CellRecord) -> Counted:
    """What of a cell counts."""
    records = [r for r in record.prompts if countable(r)]
    return Counted(records, tallies(records))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairs:
    """What two cells have in common: for each prompt, the records of both sides."""

    prompts: tuple[tuple[tuple[PromptRecord, ...], tuple[PromptRecord, ...]], ...]
    notes: tuple[str, ...]
    """What limits the reading, for a footnote."""
    same_drafter: bool = True
    """False where another drafter or another k drafts at other steps, so that a position is not the same."""
    counts: tuple[Counted, ...] = ()
    """Of both sides, where they are known."""
    silenced: int = 0
    """Prompts that the old side answered, and the new one with no decode step."""

    @functools.cached_property
    def tallies(self) -> tuple[Tallies, Tallies]:
        """Of both sides, prompt by prompt, the seeds of one summed."""
        old, new = (self._side(i) for i in (0, 1))
        return old, new

    def _side(self, i: int) -> Tallies:
        groups = [sides[i] for sides in self.prompts]
        records = list(itertools.chain.from_iterable(groups))
        known = self.counts[i] if self.counts else None
        sums = known.sums if known and known.records == records else tallies(records)
        return sums.grouped([len(group) for group in groups])

    @functools.cached_property
    def same_text(self) -> int:
        """Prompts whose answers are the same on both sides."""
        return sum([r.text_hash for r in old] == [r.text_hash for r in new] for old, new in self.prompts)

    @property
    def identical(self) -> bool:
        """Every histogram, every undrafted step and every answer's length are the same."""

        def steps(records: tuple[PromptRecord, ...]) -> list[tuple[object, ...]]:
            return [(r.histogram, r.undrafted, r.output_tokens, r.finish) for r in records]

        return all(steps(old) == steps(new) for old, new in self.prompts)


def pair(
    old: CellRecord,
    new: CellRecord,
    *,
    across: Collection[str] = (),
    counts: tuple[Counted, Counted] | None = None,
) -> Pairs:
    """Match two cells prompt by prompt.

    Args:
        old: the baseline.
        new: what is judged.
        across: fields of the identity that may differ, because the comparison is about them.
        counts: of both, where they are known.

    Raises:
        Refused: one is not a measurement, a field of the identity differs (named, with both values),
            or too few prompts are in common.
    """
    for side, record in (("the baseline", old), ("this run", new)):
        if not record.valid:
            raise Refused(f"{side} is not a measurement: {record.why_invalid}")
    differ = old.identity.differences(new.identity)
    for field, (before, after) in differ.items():
        if field not in across:
            raise Refused(
                f"{field} differs: {json.dumps(before)} in the baseline, {json.dumps(after)} now "
                f"(--across {field} compares across it)"
            )
    by_id = bool(_RENDERING & differ.keys())
    counts = counts or (counted(old), counted(new))
    left, right = (_by_prompt(side.records, by_id=by_id) for side in counts)
    common = [key for key in left if key in right]
    # Stopped early on purpose: the prompts that were not asked are not missing.
    larger = len(right) if new.stopped_at is not None else max(len(left), len(right))
    if larger == 0 or len(common) < ENOUGH_IN_COMMON * larger:
        raise Refused(
            f"{len(common)} of {larger} prompts are in common (baseline {len(left)}, now {len(right)}), "
            f"at least {ENOUGH_IN_COMMON:.0%} must be"
        )
    notes = [*_environment_notes(old, new)]
    if len(common) < larger:
        notes.append(f"{larger - len(common)} of {larger} prompts have no partner and are left out")
    pairs = [(left[key], right[key]) for key in common]
    shared = [_same_seeds(a, b) for a, b in pairs]
    if all(a for a, _ in shared):
        pairs = shared
    elif any(record.identity.sampling.get("temperature") for record in (old, new)):
        notes.append("other seeds: paired by prompt alone, which takes more prompts for the same certainty")
    empty = {r.prompt for r in new.prompts if not countable(r)}
    silenced = sum(any(r.prompt in empty for r in rs) for key, rs in left.items() if key not in right)
    if silenced > max(1, MOST_SILENCED * larger):
        raise Refused(f"{silenced} of {larger} prompts had an answer and have none with a decode step now")
    return Pairs(
        prompts=tuple(pairs),
        notes=tuple(notes),
        same_drafter=_drafting(old) == _drafting(new),
        counts=counts,
        silenced=silenced,
    )


def _drafting(record: CellRecord) -> tuple[object, ...]:
    """What makes a drafter the same one: a retrained head of the same name is another."""
    subject, cell = record.subject, record.cell
    return cell.drafter, cell.k, subject.method, subject.settings, subject.weights


def _by_prompt(records: list[PromptRecord], *, by_id: bool) -> dict[str, tuple[PromptRecord, ...]]:
    groups: dict[str, tuple[PromptRecord, ...]] = {}
    for r in records:
        key = r.prompt if by_id else r.prompt_hash
        groups[key] = (*groups.get(key, ()), r)
    return {
        key: rs if len(rs) == 1 else tuple(sorted(rs, key=lambda r: (r.seed, r.repeat)))
        for key, rs in groups.items()
    }


def _same_seeds(
    old: tuple[PromptRecord, ...], new: tuple[PromptRecord, ...]
) -> tuple[tuple[PromptRecord, ...], tuple[PromptRecord, ...]]:
    one_each = len(old) == len(new) == 1
    if old[0].seed == new[0].seed if one_each else [r.seed for r in old] == [r.seed for r in new]:
        return old, new
    seeds = {r.seed for r in old} & {r.seed for r in new}
    return tuple(r for r in old if r.seed in seeds), tuple(r for r in new if r.seed in seeds)


def _environment_notes(old: CellRecord, new: CellRecord) -> list[str]:
    differ = old.environment.differences(new.environment)
    return [
        f"another environment: {field} was {_brief(before)}, is {_brief(after)}"
        for field, (before, after) in differ.items()
    ]


def _brief(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
