"""Does a cell file agree with itself? What a merge of two files leaves does not."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from harness.results.grouping import grouped

if TYPE_CHECKING:
    from harness.results.records import CellRecord, Finding, PromptRecord

_FIGURES = re.compile(r"\b[0-9a-f-]{8,}\b|\b(?![45]\d\d\b)\d+", re.IGNORECASE)
"""Counts, and the ids of requests; but no status of HTTP."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contradiction:
    """What is wrong with a cell file as a whole, and where."""

    text: str
    near: tuple[str, str | None]
    """A key of the file and its value there; None for any value."""


def contradiction(cell: CellRecord) -> Contradiction | None:
    """What stands twice in a cell, or which sum is not that of its prompts; None where it agrees with itself.

    A file made by hand of some of a cell's prompts is read: its counters went around others too.
    """
    for records in (cell.prompts, cell.reserve):
        asked = [(r.prompt, r.repeat) for r in records]
        if len(set(asked)) < len(asked):
            prompt, repeat = next(one for one, count in Counter(asked).items() if count > 1)
            text = f"the prompt {prompt!r} (repeat {repeat}) stands twice"
            return Contradiction(text=text, near=("prompt", prompt))
    for prompt in {r.prompt for r in cell.reserve} & {r.prompt for r in cell.prompts if cell.reserve}:
        return Contradiction(text=f"{prompt!r} stands in prompts and in reserve", near=("prompt", prompt))
    for r in (*cell.prompts, *cell.reserve):
        # Recordings have no texts, and tests name their texts themselves.
        if r.text and r.text_hash != _hash_of(r.text) and re.fullmatch("[0-9a-f]{16}", r.text_hash):
            text = f"the text of {r.prompt!r} is not that of its text_hash"
            return Contradiction(text=text, near=("prompt", r.prompt))
    said = Counter((finding.code, finding.text) for finding in cell.findings)
    of_prompts = {(finding.code, finding.text) for r in cell.prompts for finding in r.findings}
    for code, finding in of_prompts - said.keys():
        return Contradiction(text=f"findings lack the prompt's {code}: {finding}", near=("findings", None))
    for (code, finding), count in said.items():
        # A prompt that failed in every repeat may have said the same each time.
        if count > 1 and (code, finding) not in of_prompts:
            return Contradiction(text=f"the finding {code} stands twice: {finding}", near=("findings", None))
    return _wrong_sum(cell) if cell.counters.get("finished") == len(cell.prompts) else None


def _wrong_sum(cell: CellRecord) -> Contradiction | None:
    count = len(cell.prompts)
    for finding in cell.findings:
        if finding.values.get("of", count) != count:
            text = f"there are {count} prompts, but a finding says: {finding.text}"
            return Contradiction(text=text, near=("findings", None))
    for name, total in counted(cell.prompts).items() if cell.valid else ():
        if cell.counters.get(name, total) != total:
            text = f"counters.{name} is {cell.counters[name]}, but the prompts make {total}"
            return Contradiction(text=text, near=("counters", None))
    return None


def said_of(findings: Iterable[Finding], records: Collection[PromptRecord]) -> list[tuple[bool, str]]:
    """What findings about these answers say, each with whether it is hard.

    Where several answers say the same, but for figures and ids, it is one text with their number.
    """
    prompts = {record.prompt for record in records}

    def alike(finding: Finding) -> tuple[bool, str, str]:
        prompt, _, text = finding.text.partition(": ")
        kind = (finding.code, _FIGURES.sub("0", text)) if prompt in prompts else (finding.text, "")
        return finding.hard, *kind

    return [
        (
            hard,
            (f"{len(own)} of {len(records)} answers, like " if own[1:] and of_answers else "") + own[0].text,
        )
        for (hard, _, of_answers), own in grouped(findings, alike).items()
    ]


def flaws_of(findings: Iterable[Finding], records: Collection[PromptRecord]) -> list[str]:
    """What the hard ones among them say."""
    return [text for hard, text in said_of(findings, records) if hard]


def counted(records: Iterable[PromptRecord]) -> dict[str, int]:
    """What the engine's counters must move by, by their names, while these prompts are answered."""
    answered = [record for record in records if not record.failed]
    return {
        "drafts": sum(sum(r.histogram) for r in answered),
        "accepted": sum(j * steps for r in answered for j, steps in enumerate(r.histogram)),
        "generated": sum(r.output_tokens for r in answered),
    }


@functools.lru_cache(maxsize=1024)  # where nothing is sampled, many cells have the same answers
def _hash_of(text: str) -> str:
    """As the client makes it."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
