"""Numbers as a text prints them: how many digits, which unit, and an em dash for what was not measured."""

from __future__ import annotations

import dataclasses
import re
from decimal import Decimal

_SPACE = "\u00a0\u2009\u202f"
_NUMBER = rf"[+\-−]?(?:[0-9]{{1,3}}(?:[,{_SPACE}][0-9]{{3}})+|[0-9]+)(?:\.[0-9]+)?"
_UNIT = rf"(?:[*_`)]*[ {_SPACE}]?(?:%|x|×|ms|tok/s)(?![\w/]))?"
_TOKEN = re.compile(rf"(?<![\w.,+\-−–])(?P<number>{_NUMBER}|—)(?P<unit>{_UNIT})(?![\w%]|[.,][0-9])")
_BETWEEN = re.compile(r"[\s*_()]*(?:→|->|/|of|\.\.)?[\s*_()]*")
_CLOSING = re.compile(r"[\s*_`)\]]*")


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
    apart = text.replace("..", " .. ")
    return tuple(_figure(found) for found in _TOKEN.finditer(apart))


def figures_before(text: str) -> tuple[Figure, ...]:
    """The number that a text ends with, and those joined to it: `a..b`, `a → b (c)`, `a/b`, `a of b`."""
    apart = text.replace("..", " .. ")
    kept: list[Figure] = []
    end = len(apart)
    for token in reversed(list(_TOKEN.finditer(apart))):
        joint = _BETWEEN if kept else _CLOSING
        between = apart[token.end() : end]
        if not joint.fullmatch(between) or (kept and not between.strip(" *_)")):
            break
        kept.append(_figure(token))
        end = token.start()
    return tuple(reversed(kept))


def _figure(found: re.Match[str]) -> Figure:
    text = found["number"]
    unit = found["unit"].strip(f"*_`) {_SPACE}")
    if text == "—":
        return Figure(text=text, value=None, digits=0, unit=unit)
    plain = re.sub(rf"[,{_SPACE}]", "", text).replace("−", "-")
    return Figure(text=text, value=Decimal(plain), digits=len(plain.partition(".")[2]), unit=unit)
