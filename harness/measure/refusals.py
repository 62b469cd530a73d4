"""Which answers of a cell refuse, and which are none: kept with the cell, since their texts may not be."""

from __future__ import annotations

import json
from typing import Literal, get_args

from harness.measure.structured import part_of
from harness.results.records import CellRecord, Finding, PromptRecord
from harness.stats.refusals import answer_of, has_phrase, refuses
from harness.stats.text_quality import degenerate

CODE = "refusals"
"""Of the finding that says it."""
Sort = Literal["refused", "answered", "empty", "loop"]
"""What an answer is. The last two are none: they neither refuse nor answer."""
_WORST = ("refused", "loop", "empty", "answered")
"""Of the turns of a conversation, which one counts."""


def sort_of(record: PromptRecord) -> Sort:
    """What one answer is, by its content: what the target thinks before it does not count."""
    if record.failed:
        return "empty"
    if part_of(record, "refusal").strip():
        return "refused"
    text = answer_of(part_of(record, "content"))
    if refuses(text):
        return "refused"
    if not any(map(str.isalnum, text)):
        return "empty"
    return "loop" if degenerate(text) else "answered"


def sorted_out(record: CellRecord, *, texts: bool) -> CellRecord:
    """The cell with a finding that says what each of its answers is.

    Args:
        record: as it was measured. One that has the finding stays as it is.
        texts: keep the answers; else their hashes alone stay.
    """
    if any(finding.code == CODE for finding in record.findings):
        return record
    by_sort: dict[str, list[str]] = {sort: [] for sort in get_args(Sort)}
    for r in record.prompts:
        by_sort[sort_of(r)].append(r.prompt)
    phrased = sum(has_phrase(part_of(r, "content")) for r in record.prompts)
    count, of = len(by_sort["refused"]), len(record.prompts)
    named = {sort: json.dumps(prompts) for sort, prompts in by_sort.items() if sort != "answered"}
    text = f"{count} of {of} answers refuse ({phrased} by the lists of phrases)"
    finding = Finding.note(CODE, text, count=count, of=of, phrases=phrased, **named)
    changes: dict[str, object] = {"findings": (*record.findings, finding)}
    if not texts:
        bare = {"text": "", "token_ids": None, "parts": None, "part_tokens": None}
        changes["prompts"] = tuple(r.model_copy(update=bare) for r in record.prompts)
    return record.model_copy(update=changes)


def sorts_of(record: CellRecord) -> dict[str, Sort]:
    """What each answer of a cell is, by prompt, or by conversation; empty where nobody looked."""
    said = next((finding.values for finding in record.findings if finding.code == CODE), None)
    if said is None:
        return {}
    known: dict[str, Sort] = {}
    for sort in get_args(Sort):
        known |= dict.fromkeys(json.loads(str(said.get(sort, "[]"))), sort)
    found: dict[str, Sort] = {}
    for r in record.prompts:
        sort = known.get(r.prompt, "answered")
        found[r.unit] = min(sort, found.get(r.unit, sort), key=_WORST.index)
    return found
