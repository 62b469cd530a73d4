"""Matches two cells prompt by prompt, and refuses two that cannot be compared."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from harness.judge.beginning import beginning_of
from harness.judge.matching import (
    by_conversation,
    by_prompt,
    matched,
    rendering_notes,
    same_seeds,
    turns_notes,
)
from harness.measure.validity import countable
from harness.results.records import CellName, CellRecord, PromptRecord, tallies
from harness.stats.acceptance import Tallies
from harness.text.numbers import numbered

ENOUGH_IN_COMMON = 0.9
"""Share of the prompts that both sides must have."""
ENOUGH_KNOWN = 0.9
"""Share of the prompts whose common beginning must be known, where texts part."""
ENOUGH_SHARED = 0.25
"""Share of the tokens that the common beginnings must hold. Fewer say too little about the answers."""
ENOUGH_BEGUN = 0.5
"""Share of the prompts whose common beginning must hold a decode step."""
MOST_SILENCED = 0.05
"""Share of the answers that may have become empty, or one token. A single one always may."""

_RENDERING = frozenset(
    {"endpoint", "language", "target", "tokenizer", "chat_template", "workload", "thinking"}
)
"""A comparison across one of these pairs prompts by id, since their rendered tokens differ."""
_OF_MODEL = ("target", "revision", "weights", "tokenizer", "chat_template")
OF_TARGET = (*_OF_MODEL, "dtype", "quantization")
"""Fields of the identity that two targets differ in."""
_MOVED: Mapping[str, tuple[str, ...]] = {
    "model": _OF_MODEL,
    "revision": _OF_MODEL,
    "served_name": ("target",),
    "tokenizer": ("tokenizer", "chat_template"),
    "dtype": ("dtype",),
    "quantization": ("quantization",),
}
"""Fields of the identity that a key of a variant may change."""


Unit = Literal["prompts", "conversations"]


class Refused(Exception):  # noqa: N818 - a verdict, not a failure of ours
    """Two records cannot be compared; the text says why."""


@dataclasses.dataclass(frozen=True)
class Counted:
    """The answers of a cell that reached a decode step, and their sums."""

    records: list[PromptRecord]
    sums: Tallies


def counted(record: CellRecord) -> Counted:
    """The answers of a cell that count."""
    records = [r for r in record.prompts if countable(r)]
    return Counted(records, tallies(records))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairs:
    """What two cells have in common: for each prompt, the records of both sides.

    Turns of a conversation are not independent, so that a conversation stands here as one prompt does.
    """

    prompts: tuple[tuple[tuple[PromptRecord, ...], tuple[PromptRecord, ...]], ...]
    notes: tuple[str, ...]
    """Footnotes."""
    same_drafter: bool = True
    """False where the drafter or k differs. It then drafts at other steps, and positions are not the same."""
    counts: tuple[Counted, ...] = ()
    """Of both sides, if the caller has them already."""
    silenced: int = 0
    """Prompts with an answer that has a decode step on the old side, and none on the new one."""
    silent: int = 0
    """Prompts with one answer on both sides that has no decode step: they are alike, and not in `prompts`."""
    same_start: bool = False
    """Where texts part, what comes before may be compared: one drafter and k, and nothing is sampled."""
    share: float | None = None
    """Of the tokens, where answers are cut to the beginning that both sides share; None for whole ones."""

    @functools.cached_property
    def judged(self) -> Pairs:
        """What a verdict rests on: where texts part, the beginnings that both sides share.

        The texts alone decide whether: it must not be picked by what the steps show. These are the pairs
        themselves, perhaps with a note, where nothing parts, or the beginnings are not known or too short.
        """
        if not self.same_start or self.same_text in (None, len(self.prompts)) or self.identical:
            return self
        cut = [sides for sides in itertools.starmap(beginning_of, self.prompts) if sides]
        left_out = len(self.prompts) - len(cut)
        if len(cut) < ENOUGH_KNOWN * len(self.prompts):
            return self._whole(
                f"texts part, and of {left_out} of {len(self.prompts)} {self.unit} no record says where (it "
                "has no token ids, or no order of steps): whole answers are compared"
            )
        notes = self.notes
        if left_out:
            what = numbered(left_out, self.unit[:-1])
            notes += (f"left out, since no record says where the texts part: {what}",)
        begun = dataclasses.replace(self, prompts=tuple(cut), counts=(), same_start=False, notes=notes)
        share = sum(t.committed.sum() for t in begun.tallies) / sum(t.committed.sum() for t in self.tallies)
        with_steps = np.minimum(*(t.decode_steps for t in begun.tallies)) > 0
        if share < ENOUGH_SHARED or with_steps.mean() < ENOUGH_BEGUN:
            return self._whole(f"texts part after {share:.0%} of the tokens: whole answers are compared")
        return dataclasses.replace(begun, share=float(share))

    def _whole(self, why: str) -> Pairs:
        return dataclasses.replace(self, notes=(*self.notes, why), same_start=False)

    @functools.cached_property
    def unit(self) -> Unit:
        """What `prompts` are called."""
        turns = any(r.conversation for old, _ in self.prompts for r in old)
        return "conversations" if turns else "prompts"

    @functools.cached_property
    def tallies(self) -> tuple[Tallies, Tallies]:
        """Of both sides, prompt by prompt, the seeds and turns of one summed."""
        old, new = (self._side(i) for i in (0, 1))
        return old, new

    def _side(self, i: int) -> Tallies:
        groups = [sides[i] for sides in self.prompts]
        records = list(itertools.chain.from_iterable(groups))
        known = self.counts[i] if self.counts else None
        sums = known.sums if known and known.records == records else tallies(records)
        return sums.grouped([len(group) for group in groups])

    @functools.cached_property
    def same_text(self) -> int | None:
        """Prompts whose answers are the same on both sides; None where a file does not hold all texts."""
        same = 0
        for sides in self.prompts:
            old, new = ([r.text_hash for r in side] for side in sides)
            if "" in old or "" in new:
                return None
            same += old == new
        return same

    @functools.cached_property
    def identical(self) -> bool:
        """Every histogram, every undrafted step and every answer's length are the same.

        Of answers without a draft also the text: their steps are alike whatever the target says.
        """

        def steps(records: tuple[PromptRecord, ...]) -> list[tuple[object, ...]]:
            text = ["" if sum(r.histogram) else r.text_hash or id(r) for r in records]
            return [
                (r.histogram, r.undrafted, r.output_tokens, r.finish, said)
                for r, said in zip(records, text, strict=True)
            ]

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
        counts: of both, if the caller has them already.

    Raises:
        Refused: one is not a measurement, a field of the identity differs (named, with both values),
            or too few prompts are in common.
    """
    differ = _differ(old, new, across)
    counts = counts or (counted(old), counted(new))
    left, right = (by_prompt(side.records) for side in counts)
    partners, edited = matched(left, right, by_id=bool(_RENDERING & differ.keys()))
    # Stopped early on purpose: the prompts that were not asked are not missing.
    larger = len(right) if new.stopped_at is not None else max(len(left), len(right))
    if larger == 0 or len(partners) < ENOUGH_IN_COMMON * larger:
        raise Refused(
            f"{len(partners)} of {larger} prompts are in common (baseline {len(left)}, now {len(right)}), "
            f"at least {ENOUGH_IN_COMMON:.0%} must be{edited}"
        )
    notes = [*_environment_notes(old, new), *execution_notes(old, new, varied(old, new, across))]
    notes += _settings_notes(old, new)
    if len(partners) < larger:
        notes.append(f"{larger - len(partners)} of {larger} prompts have no partner and are left out")
    pairs = [(left[key], right[partner]) for key, partner in partners.items()]
    begun = [] if _RENDERING & differ.keys() else [(a, b) for a, b in pairs if not a[0].conversation]
    rendered = rendering_notes(begun)
    notes += rendered
    shared = [same_seeds(a, b) for a, b in pairs]
    if all(a for a, _ in shared):
        pairs = shared
    elif any(record.identity.sampling.get("temperature") for record in (old, new)):
        notes.append("other seeds: paired by prompt alone, which takes more prompts for the same certainty")
    units = by_conversation(pairs)
    notes += turns_notes(units, pairs)
    silent = len(counts[1].records) < len(new.prompts)
    silenced, asked = _silenced(counts[0].records, new.prompts) if silent else ([], 0)
    if len(silenced) > max(1, MOST_SILENCED * asked):
        raise Refused(f"{len(silenced)} of {asked} answers had a decode step and have none now")
    return Pairs(
        prompts=units,
        notes=tuple(notes),
        same_drafter=_same_drafter(old, new),
        counts=counts,
        silenced=len({*silenced}),
        silent=len(_silent(old) & _silent(new)),
        same_start=bool(old.cell.k)
        and not differ
        and not rendered
        and (old.cell.drafter, old.cell.k) == (new.cell.drafter, new.cell.k)
        and old.identity.sampling.get("temperature") == 0,
    )


def _silent(record: CellRecord) -> set[tuple[str, str | None, str]]:
    """The prompts with an answer that has no decode step, and the answer."""
    there = (r for r in record.prompts if not (r.failed or countable(r)))
    return {(r.prompt, r.prompt_text_hash, r.text_hash) for r in there}


def _silenced(old: Sequence[PromptRecord], new: Sequence[PromptRecord]) -> tuple[list[str], int]:
    """The prompts of the old answers that have no decode step on the new side, and how many were asked again.

    A prompt stands there once for each such answer. One that was renamed is known by what it was rendered to.
    """
    there = {(name, r.repeat): countable(r) for r in new for name in (r.prompt_hash, r.prompt)}
    found = [(r.prompt, there.get((r.prompt, r.repeat), there.get((r.prompt_hash, r.repeat)))) for r in old]
    return [p for p, counts in found if counts is False], sum(counts is not None for _, counts in found)


def _differ(old: CellRecord, new: CellRecord, across: Collection[str]) -> dict[str, tuple[Any, Any]]:
    """The fields of the identity that differ, and may."""
    for side, record in (("the baseline", old), ("this run", new)):
        if not record.valid:
            raise Refused(f"{side} is not a measurement: {record.why_invalid}")
        if record.cell.reference:
            raise Refused("a reference stands beside the others, and is not paired")
    differ = old.identity.differences(new.identity)
    meant = _meant(old, new, across)
    for field, (before, after) in sorted(differ.items(), key=lambda one: one[0] != "variant"):
        if field not in meant:
            raise Refused(
                f"{field} differs: {json.dumps(before)} in the baseline, {json.dumps(after)} now "
                f"(--across {field} compares across it)"
            )
    return differ


def _meant(old: CellRecord, new: CellRecord, across: Collection[str]) -> Collection[str]:
    """The fields that may differ: those named, and what two variants change, if the variant is named."""
    if "variant" not in across or old.cell.variant == new.cell.variant:
        return across
    return {*across, *(field for key in varied(old, new, across) for field in _MOVED.get(key, ()))}


def varied(old: CellRecord, new: CellRecord, across: Collection[str]) -> Collection[str]:
    """The keys that the variants of two cells change, and what follows, where the variant is compared."""
    keys = {**old.subject.variant, **new.subject.variant} if "variant" in across else {}
    return {*keys, *(("tokenizer", "served_model_name") if "model" in keys else ())}


def _same_drafter(old: CellRecord, new: CellRecord) -> bool:
    """Whether two cells have the same drafter: a retrained head of the same name is another."""
    if (old.cell.drafter, old.cell.k) != (new.cell.drafter, new.cell.k):
        return False
    sides = (old.subject, new.subject)
    if any(side.method is None for side in sides) and any(side.unverified for side in sides):
        return True  # an older file does not say what a server that was not ours drafted with
    one, other = ((side.method, side.settings, side.weights) for side in sides)
    return one == other


def _environment_notes(old: CellRecord, new: CellRecord) -> list[str]:
    differ = old.environment.differences(new.environment)
    return [
        f"another environment: {field} was {brief(before)}, is {brief(after)}"
        for field, (before, after) in differ.items()
    ]


def execution_notes(old: CellRecord, new: CellRecord, meant: Collection[str] = ()) -> list[str]:
    """That the engine made two configurations of what it was given, apart from drafts and what is `meant`."""
    differ = _changes(*(without(record.subject.execution, meant) for record in (old, new)))
    who = " and ".join(dict.fromkeys(drafting(record.cell) for record in (old, new)))
    return [f"the engine runs {who} by different paths: {differ}"] if differ else []


def _settings_notes(old: CellRecord, new: CellRecord) -> list[str]:
    """That the drafter was told something else: it is another drafter then, whatever its name."""
    before, after = old.subject.settings, new.subject.settings
    differ = _changes(dict.fromkeys(after) | before, dict.fromkeys(before) | after)
    return [f"settings of the drafter differ: {differ}"] if differ else []


def without(values: Any, meant: Collection[str]) -> Any:
    """The same mapping without the keys that are meant to differ; what is no mapping stays."""
    return {k: v for k, v in values.items() if k not in meant} if isinstance(values, dict) else values


def _changes(before: Any, after: Any) -> str:
    """The entries that differ, of those that both have; empty where a side is not known."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return ""
    both = sorted(name for name in before.keys() & after.keys() if before[name] != after[name])
    return ", ".join(
        f"{name.replace('_', ' ')} {brief(before[name])} -> {brief(after[name])}" for name in both
    )


def drafting(cell: CellName) -> str:
    """`ngram-k4`; `none` has no k."""
    return f"{cell.drafter}-k{cell.k}" if cell.k else cell.drafter


def brief(value: Any) -> str:
    """A field's value as a person writes it: 0, not 0.0; a text without quotes."""
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
