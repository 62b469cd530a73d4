"""The prompts of paired cells, one by one, and their answers, as far as the page has room for them."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import zlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from harness.config.prompts import Prompt, hash_of, load_prompts
from harness.config.shipped import DATA
from harness.errors import BadInput
from harness.judge.collect import Entry
from harness.judge.compare import CellComparison
from harness.judge.footnotes import as_subject
from harness.judge.pairing import pair
from harness.results.records import CellName, CellRecord, PromptRecord, load
from harness.stats.acceptance import Tallies
from harness.stats.same_text import common_tokens
from harness.text.render import visible_lines

_LONGEST = 200_000
"""Characters of a text that the page holds."""
_LONG_PROMPT = 20_000
"""Characters of a prompt that goes in after the answers: a few such prompts would leave them no room."""
_GZIP = 31
"""`wbits` of a stream that a browser's DecompressionStream reads."""


@dataclasses.dataclass
class Texts:
    """Every text once. Those that matter most come first, since the page may not have room for all."""

    _urgency: dict[str, float] = dataclasses.field(default_factory=dict)

    def add(self, text: str, urgency: float) -> str:
        """Keep a text, the smallest `urgency` first; the text as it is kept."""
        if len(text) > _LONGEST:
            text = f"{text[:_LONGEST]}\n[{len(text) - _LONGEST} more characters are left out]"
        text = visible_lines(text.replace("\r\n", "\n"))
        self._urgency[text] = min(urgency, self._urgency.get(text, urgency))
        return text

    def in_order(self) -> list[str]:
        """All texts."""
        return sorted(self._urgency, key=self._urgency.__getitem__)


def packed(texts: Iterable[str], at_most: int) -> str:
    """A JSON array of the first texts that so many bytes hold: gzip in base64, as a page can carry it."""
    pack = zlib.compressobj(level=9, wbits=_GZIP)
    out, waiting, room = bytearray(pack.compress(b"[")), 0, at_most * 3 // 4
    for i, text in enumerate(texts):
        raw = ("," * bool(i) + json.dumps(text, ensure_ascii=False)).encode()
        if len(out) + waiting + len(raw) > room:  # as if what waits could not be compressed
            out += pack.flush(zlib.Z_SYNC_FLUSH)
            waiting = 0
            if len(out) + len(raw) > room:
                break
        out += pack.compress(raw)
        waiting += len(raw)
    return base64.b64encode(bytes(out) + pack.compress(b"]") + pack.flush()).decode()


class Asked:
    """The texts of prompts. A record holds the hash of its prompt alone."""

    def __init__(self, own: Mapping[str, str]) -> None:
        """Those that come with draftgate, and `own`, by their hashes."""
        self._own = own
        self._known: dict[tuple[str, str], Mapping[str, Prompt]] = {}

    def text(self, cell: CellName, record: PromptRecord) -> str | None:
        """What was asked; None where nobody here has that very text."""
        hashes = (record.prompt_text_hash, record.prompt_hash)
        if own := next((self._own[one] for one in hashes if one and one in self._own), None):
            return own
        where = (cell.workload, cell.language)
        if where not in self._known:
            try:
                found = load_prompts(DATA / "prompts", *where, at_most=1 << 20)
            except BadInput:
                found = ()
            self._known[where] = {prompt.id: prompt for prompt in found}
        prompt = self._known[where].get(record.prompt)
        same = prompt and hash_of(prompt.text) in hashes
        return prompt.text if prompt and same else None


def prompts_of(
    old: Entry, new: CellComparison, across: Collection[str], texts: Texts, asked: Asked
) -> dict[str, list[Any]]:
    """The pairs that a verdict rests on: a list for each field, with a value a prompt, since there are many.

    `texts` takes their answers. Fields that end with 0 and 1 are of the old and of the new side. Tokens per
    step are those of the common beginnings where the verdict is on these. A prompt with several answers shows
    the first that differ.
    """
    records = [as_subject(load(e.path, CellRecord), across) for e in (old, new.figures.entry)]
    pairs = pair(*records, across=across)
    judged = {a[0].prompt: i for i, (a, _) in enumerate(pairs.judged.prompts)}
    found: list[dict[str, Any]] = []
    for whole, (before, after) in enumerate(pairs.prompts):
        at = judged.get(before[0].prompt)
        rates = [_rate(side, at) for side in pairs.judged.tallies]
        both = next((s for s in zip(before, after, strict=False) if not _same(*s)), (before[0], after[0]))
        a, b = both
        ratio = rates[1] / rates[0] if rates[0] and rates[1] else 1.0
        prompt = asked.text(records[0].cell, a) or asked.text(records[1].cell, b)
        known = None not in (a.token_ids, b.token_ids)
        one: dict[str, Any] = {
            "prompt": a.prompt,
            "asked": prompt and texts.add(prompt, -1.0 if len(prompt) <= _LONG_PROMPT else math.inf),
            "same": int(_same(a, b)) if a.text_hash and b.text_hash else None,
            "part": common_tokens(a.token_ids or (), b.token_ids or ()) if known else None,
            "answers": len(before),
            "broken": int(a.prompt in new.verdict.broken),
        }
        for side, (tallies, record) in enumerate(zip(pairs.tallies, both, strict=True)):
            one |= {
                f"rate{side}": rates[side],
                f"text{side}": texts.add(record.text, ratio + _same(a, b)) if record.text else None,
                f"tokens{side}": int(tallies.output_tokens[whole]),
                f"steps{side}": int(tallies.decode_steps[whole]),
                f"finish{side}": record.finish,
            }
        found.append(one)
    return {field: [one[field] for one in found] for field in found[0]}


def _same(a: PromptRecord, b: PromptRecord) -> bool:
    return a.text_hash == b.text_hash


def _rate(side: Tallies, at: int | None) -> float | None:
    if at is None or not side.decode_steps[at]:
        return None
    return round(float(side.committed[at] / side.decode_steps[at]), 4)
