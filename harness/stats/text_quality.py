"""Whether an answer got stuck in a loop, and whether it is in the language that was asked for. Pure.

Three signs of a loop, for every language and for code: the end is one piece again and again, n-grams come
back, and the second half adds little for a compressor. `python -m tests.perf.degenerate` prints how often
they err.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import zlib
from collections import Counter

WINDOW = 2400
"""Characters at the end that are read. A longer text of any kind repeats n-grams."""
LOOP_SHARE = 0.3
"""Share of these that must be one piece over and over, up to the end."""
LOOP_TIMES = 3
LOOP_LEAST = 24
"""Characters of a loop; a Han letter counts as three."""
N = 4
"""Units of an n-gram: words, numbers, single Han letters and marks."""
REPEATED = 0.2
"""Share of the second half's n-grams that stand at least twice before them."""
COST = 0.17
"""Bytes that the second half adds to the first when deflated, per byte of it."""

_HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_UNITS = re.compile(r"[A-Za-z\u00c0-\u024f]+|\d+|\S")
_NUMBER = re.compile(r"^[ \t]*\d{1,3}(?:[.)][ \t]+|、)(?=\S)", re.MULTILINE)
_LAST_NUMBER = re.compile(r"\n[ \t]*\d{1,3}[.)、]?\Z")
_CUT = "\ufffd"
"""What is left of a letter of which max_tokens cut off a byte."""

ENOUGH_LETTERS = 12

_SCRIPTS = {
    "en": (re.compile(r"[A-Za-z\u00c0-\u024f]"), 1 / 4),
    "zh": (re.compile(r"[\u3400-\u9fff\uf900-\ufaff]"), 1),
    # Japanese has about as many Han letters as kana. Without these two it would pass for Chinese.
    "kana": (re.compile(r"[\u3041-\u30fa]"), 1),
    "hangul": (re.compile(r"[\uac00-\ud7af]"), 1),
}
"""Letters, and the weight of one: a word of four Latin letters weighs as one Han letter."""
KNOWN = ("en", "zh")


@dataclasses.dataclass(frozen=True)
class Signs:
    """What the end of an answer shows. Each sign is looked for when it is asked for."""

    text: str

    @functools.cached_property
    def loop(self) -> bool:
        """Its end is one piece, three times or more."""
        text = self.text
        for period in range(1, len(text) // LOOP_TIMES + 1):
            length = 0
            while length < len(text) - period and text[-1 - length] == text[-1 - length - period]:
                length += 1
            repeated = length + period
            long_enough = repeated >= max(LOOP_TIMES * period, len(text) * LOOP_SHARE)
            if length and long_enough and repeated + 2 * len(_HAN.findall(text[-repeated:])) >= LOOP_LEAST:
                return True
        return False

    @functools.cached_property
    def repeated(self) -> float:
        """The share of the second half's n-grams that come back."""
        units = _UNITS.findall(self.text)
        seen: Counter[tuple[str, ...]] = Counter()
        looked_at = again = 0
        for end in range(N, len(units) + 1):
            gram = tuple(units[end - N : end])
            if end > len(units) // 2:
                looked_at += 1
                again += seen[gram] >= LOOP_TIMES - 1
            seen[gram] += 1
        return again / looked_at if looked_at else 0.0

    @functools.cached_property
    def cost(self) -> float:
        """What the second half adds for a compressor, per byte of it."""
        whole, half = (t.encode(errors="replace") for t in (self.text, self.text[: len(self.text) // 2]))
        return (_deflated(whole) - _deflated(half)) / (len(whole) - len(half)) if whole else 1.0

    @property
    def stuck(self) -> bool:
        """Whether it is a loop, or one in which a word changes. To say something twice is no loop."""
        return self.loop or (self.repeated >= REPEATED and self.cost <= COST)


def signs(text: str) -> Signs:
    """The signs of the end of an answer, without the numbers before the items of a list."""
    text = text.rstrip().removesuffix(_CUT).rstrip()[-WINDOW:]
    return Signs(_NUMBER.sub("", _LAST_NUMBER.sub("", text)))


def degenerate(text: str) -> bool:
    """Whether the answer got stuck."""
    return signs(text).stuck


def _deflated(data: bytes) -> int:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return len(deflate.compress(data)) + len(deflate.flush())


def in_language(text: str, language: str) -> bool | None:
    """Whether more than half of the letters are of the language's script; None where too few letters say it.

    It knows scripts, not languages: French passes for English, and simplified Chinese for Chinese.
    """
    if language not in KNOWN:
        return None
    weights = {name: len(script.findall(text)) * weight for name, (script, weight) in _SCRIPTS.items()}
    if sum(weights.values()) < ENOUGH_LETTERS / 4:
        return None
    return weights[language] * 2 > sum(weights.values())
