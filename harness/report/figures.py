"""Finds the figures in a text of any script. A number is read whole, or it is no figure."""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal

_GAP = "\u00a0\u2007\u2009\u202f"
_NUMBER = rf"(?:(?:[+\-]|−[ {_GAP}]?)[*_`]*)?(?:[0-9]{{1,3}}(?:[,{_GAP}][0-9]{{3}})+|[0-9]+)(?:\.[0-9]+)?"
_UNIT = rf"(?:[*_`)]*[ {_GAP}]?(?:%|x|×|ms|tok/s)(?![A-Za-z0-9_/]))?"
_JOINING = "'’^:~×·—"
"""Between two digits these make one thing of them: a time, a product, a power, a range."""
_BEFORE = rf"(?<![0-9.,%+\-−–])(?<![0-9%][{_JOINING}{_GAP}])"
_BEYOND = rf"[0-9%]|[{_GAP}{_JOINING}.,\-–][0-9]|[ {_GAP}]?[‰‱十百千万亿兆萬億만억천]"
"""What a number does not end before: more of it, another unit, or a word that multiplies it."""
_TOKEN = re.compile(rf"{_BEFORE}(?P<number>{_NUMBER}|—)(?P<unit>{_UNIT})(?!{_BEYOND})")
_BETWEEN = re.compile(r"[\s*_()]*(?:→|->|/|of|\.\.)?[\s*_()]*")
_CLOSING = re.compile(r"[\s*_`)\]]*")
_WORD = re.compile(r"(?![×÷])[A-Za-z\u00c0-\u052f][\w.\-]*")
_RAISED = re.compile(r"(?<!\S)[⁰¹²³⁴-⁹]+(?!\S)")
_LINK = re.compile(r"\]\([^()\s]*\)")
_ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F) if chr(code) not in "，．"}
_DIGITS = frozenset({"Nd", "Nl", "No"})
_PLAIN = _FULL_WIDTH | str.maketrans("\u3000\u2010\u2011\u2012﹣﹪〜", " ----%~")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """A number as it is printed."""

    text: str
    value: Decimal | None
    """None for an em dash."""
    digits: int
    """After the point."""
    unit: str


def figures_in(text: str) -> tuple[Figure, ...]:
    """The numbers and em dashes of a text, in order."""
    return tuple(map(_figure, _tokens(_plain(text))))


def has_more(text: str) -> bool:
    """The text holds digits that are in none of its figures, in no word like `k4`, and mark no footnote."""
    text = _plain(text)
    begin, rest = 0, ""
    for token in _tokens(text):
        rest += text[begin : token.start()] + " "
        begin = token.end()
    rest = _RAISED.sub(" ", _WORD.sub(" ", rest + text[begin:]))
    return any(unicodedata.category(c) in _DIGITS for c in rest)


def figures_before(text: str) -> tuple[Figure, ...]:
    """The number that a text ends with, and those joined to it: `a..b`, `a → b (c)`, `a/b`, `a of b`."""
    text = _plain(text)
    kept: list[Figure] = []
    end = len(text)
    for token in reversed(_tokens(text)):
        joint = _BETWEEN if kept else _CLOSING
        between = text[token.end() : end]
        if not joint.fullmatch(between) or (kept and not between.strip(" *_)")):
            break
        kept.append(_figure(token))
        end = token.start()
    return tuple(reversed(kept))


def _plain(text: str) -> str:
    """As a reader sees it: no link targets, escapes or invisible characters; digits and signs of ASCII."""
    text = _ESCAPED.sub(r"\1", _LINK.sub("]", text))
    text = "".join(c for c in text if unicodedata.category(c) != "Cf")
    text = re.sub("(?<=[０-９])[，．](?=[０-９])", lambda found: ",."["，．".index(found[0])], text)
    return text.translate(_PLAIN).replace("..", " .. ")


def _tokens(text: str) -> Sequence[re.Match[str]]:
    """A number ends where it ends, also before 中文; in `k4`, `1e5`, `10⁵` and `1.2万` there is none."""
    return [token for token in _TOKEN.finditer(text) if not any(map(_of_a_word, _beside(token)))]


def _of_a_word(c: str) -> bool:
    """A letter of a script with capitals, or a digit that is none of ASCII's: the number goes on there."""
    return c == "_" or c.lower() != c.upper() or unicodedata.category(c) in _DIGITS


def _beside(token: re.Match[str]) -> str:
    begin, end = token.span()
    return token.string[max(begin - 1, 0) : begin] + token.string[end : end + 1]


def _figure(token: re.Match[str]) -> Figure:
    text = re.sub("[*_`]", "", token["number"])
    unit = token["unit"].strip(f"*_`) {_GAP}")
    if text == "—":
        return Figure(text=text, value=None, digits=0, unit=unit)
    plain = re.sub(rf"[, {_GAP}]", "", text).replace("−", "-")
    return Figure(text=text, value=Decimal(plain), digits=len(plain.partition(".")[2]), unit=unit)
