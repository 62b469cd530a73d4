"""Which language a text is in, told by its script. Pure."""

from __future__ import annotations

import re

ENOUGH_LETTERS = 12

_SCRIPTS = {
    "en": (re.compile(r"[A-Za-z\u00c0-\u024f]"), 1 / 4),
    "zh": (re.compile(r"[\u3400-\u9fff\uf900-\ufaff]"), 1),
    # Japanese has Han letters too, about as many as kana: without these it would pass for Chinese.
    "kana": (re.compile(r"[\u3041-\u30fa]"), 1),
    "hangul": (re.compile(r"[\uac00-\ud7af]"), 1),
}
"""Letters, and what one says: a word of four Latin letters weighs as one Han letter."""
KNOWN = ("en", "zh")


def in_language(text: str, language: str) -> bool | None:
    """More than half of the letters are of the language's script; None where that can't be told.

    Scripts are told apart, not languages: French passes for English, and simplified Chinese is Chinese.
    """
    if language not in KNOWN:
        return None
    weights = {name: len(script.findall(text)) * weight for name, (script, weight) in _SCRIPTS.items()}
    if sum(weights.values()) < ENOUGH_LETTERS / 4:
        return None
    return weights[language] * 2 > sum(weights.values())
