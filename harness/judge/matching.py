"""Which answers of two cells belong together: by the prompt, its text, its seeds and its conversation."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence, Sized

from harness.results.grouping import grouped
from harness.results.records import PromptRecord

Answers = tuple[PromptRecord, ...]
"""To one prompt, of all its seeds."""


def by_prompt(records: list[PromptRecord]) -> dict[str, Answers]:
    """The answers to each prompt, by its id; those of several seeds in their order."""
    groups = grouped(records, operator.attrgetter("prompt"))
    if len(groups) == len(records):
        return {r.prompt: (r,) for r in records}
    return {key: tuple(sorted(rs, key=lambda r: (r.seed, r.repeat))) for key, rs in groups.items()}


def by_conversation(pairs: Sequence[tuple[Answers, Answers]]) -> tuple[tuple[Answers, Answers], ...]:
    """The turns of each row as one pair, in order."""
    units = [old[0].unit for old, _ in pairs]
    if len(set(units)) == len(pairs):
        return tuple(pairs)
    rows: dict[str, tuple[Answers, Answers]] = {}
    for unit, (old, new) in zip(units, pairs, strict=True):
        before, after = rows.get(unit, ((), ()))
        rows[unit] = ((*before, *old), (*after, *new))
    return tuple(rows.values())


def matched(
    left: dict[str, Answers], right: dict[str, Answers], *, by_id: bool
) -> tuple[dict[str, str], str]:
    """The partner of each prompt by their ids; and what to say of those that only have the id in common.

    A prompt that was renamed is found by what it was rendered to.
    """
    matched = {
        key: key for key, rs in left.items() if key in right and (by_id or _same_prompt(rs, right[key]))
    }
    if not by_id:
        free = {rs[0].prompt_hash: key for key, rs in right.items() if key not in matched}
        for key, rs in left.items():
            if key not in matched and (partner := free.pop(rs[0].prompt_hash, None)):
                matched[key] = partner
    same_id = (left.keys() & right.keys()) - matched.keys()
    texts = [(left[key][0].prompt_text_hash, right[key][0].prompt_text_hash) for key in same_id]
    if any(None in pair for pair in texts):
        return matched, (
            "; one file is too old to say whether prompts of the same id that were rendered to other tokens "
            "have the same text: measure it anew"
        )
    return matched, f"; {len(same_id)} of the same id have another text" if same_id else ""


def _same_prompt(old: Answers, new: Answers) -> bool:
    """Whether two prompts of one id have the same text."""
    if len(old) == len(new) == 1:
        return _same_text(old[0], new[0])
    return all(itertools.starmap(_same_text, itertools.product(old, new)))


def _same_text(old: PromptRecord, new: PromptRecord) -> bool:
    if old.prompt_hash == new.prompt_hash:
        return True
    if old.prompt_text_hash and new.prompt_text_hash:
        return old.prompt_text_hash == new.prompt_text_hash
    # The hash in an older file may be of the text.
    return old.prompt_text_hash == new.prompt_hash or old.prompt_hash == new.prompt_text_hash


def turns_notes(units: Sized, pairs: list[tuple[Answers, Answers]]) -> list[str]:
    """What to say of conversations: how many there are, and how many turns follow other answers."""
    if len(units) == len(pairs):
        return []
    other = sum(bool(a.conversation) and a.prompt_hash != b.prompt_hash for (a, *_), (b, *_) in pairs)
    follow = f"; {other} of these follow other answers than before" if other else ""
    return [f"the turns of a row count as one: {len(units)} conversations of {len(pairs)} prompts{follow}"]


def rendering_notes(pairs: list[tuple[Answers, Answers]]) -> list[str]:
    """What to say of prompts with the same text that were not surely rendered to the same tokens."""
    differ = [(a, b) for (a, *_), (b, *_) in pairs if a.prompt_hash != b.prompt_hash]
    other = sum(None not in (a.rendered_hash, b.rendered_hash) for a, b in differ)
    notes = []
    if other:
        notes.append(
            f"{other} of {len(pairs)} prompts have the same text, but were rendered to other tokens (a chat "
            "template that writes the date, say)"
        )
    if unknown := len(differ) - other:
        notes.append(
            f"{unknown} of {len(pairs)} prompts have the same text, but one side does not say to which "
            "tokens it was rendered"
        )
    return notes


def same_seeds(
    old: tuple[PromptRecord, ...], new: tuple[PromptRecord, ...]
) -> tuple[tuple[PromptRecord, ...], tuple[PromptRecord, ...]]:
    """The answers with the seeds that both sides have; none where they share no seed."""
    one_each = len(old) == len(new) == 1
    if old[0].seed == new[0].seed if one_each else [r.seed for r in old] == [r.seed for r in new]:
        return old, new
    seeds = {r.seed for r in old} & {r.seed for r in new}
    return tuple(r for r in old if r.seed in seeds), tuple(r for r in new if r.seed in seeds)
