"""Makes prompts from a template file (sentences with slots, and words for the slots), none of them twice.

    plain = 0.1                          # share typed the hasty way: no capitals, no full stop (short ones)

    [templates]                          # by kind
    explanation = ["Explain {concept} to {audience}.", ...]

    [weights]                            # optional: a template of this kind is drawn so much more often
    explanation = 2

    [words]
    concept = ["inflation", ...]
    audience = ["a ten-year-old", "my {relative}"]     # a word may hold slots itself

`{city}` is one word wherever it stands in a template, `{city2}` another one of the list. A word at the
start of a sentence gets a capital.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import math
import random
import re
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from harness.config.toml import Document
from harness.errors import BadInput

SHIPPED = Path(__file__).parents[1] / "prompts"
PLAIN_AT_MOST = 100
"""Characters. Longer requests keep their capitals: nobody writes those in haste."""

MOST_NESTED = 50
"""Levels of lists of words within lists of words."""
MOST_BITS = 4096
"""Limits the number of expansions: a list that uses another one twice squares it."""
TRIES = 20
"""After so many random draws that had come before, a template's rest is drawn in a shuffled order."""

_SLOT = re.compile(r"\{([a-z_]+)[0-9]?\}")
_SENTENCE_START = re.compile(r"(?:^|[.?!][\"”]? |\n)[\"“]?\Z")


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    plain: float = Field(default=0, ge=0, le=1)
    templates: dict[str, tuple[str, ...]] = Field(min_length=1)
    weights: dict[str, float] = {}
    words: dict[str, tuple[str, ...]] = {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Expansion:
    """One text, and the kind of request it is."""

    kind: str
    text: str


class Templates:
    """The templates of one file."""

    def __init__(self, path: Path) -> None:
        """Read and check a file.

        Raises:
            BadInput: it is not there, not TOML, or a slot has no words; the message names the place.
        """
        self.path = path
        self._file = Document(path).model(_File)
        self._check()

    @property
    def words(self) -> dict[str, tuple[str, ...]]:
        """The lists of words."""
        return self._file.words

    @cached_property
    def all(self) -> tuple[tuple[str, str], ...]:
        """Kind and text of every template."""
        return tuple((kind, text) for kind, texts in self._file.templates.items() for text in texts)

    @cached_property
    def size(self) -> int:
        """How many expansions there are."""
        return sum(self.size_of(text) for _, text in self.all)

    def size_of(self, text: str) -> int:
        """How many expansions a template, or a word, has."""
        return math.prod(math.perm(self._sizes[name], times) for name, times in Counter(_lists(text)).items())

    def draw(self, seed: int) -> Iterator[Expansion]:
        """All expansions in a random order that the seed alone decides; templates take their turns."""
        chance = random.Random(f"{seed}/{self.path.name}")  # noqa: S311 - a shuffle, no secret
        live = [(kind, text, _Turns(self, text, chance)) for kind, text in self.all]
        weights = [self._file.weights.get(kind, 1.0) for kind, _, _ in live]
        while live:
            i = chance.choices(range(len(live)), weights)[0]
            kind, text, turns = live[i]
            expanded = self.expand(text, turns.next())
            if len(expanded) <= PLAIN_AT_MOST and chance.random() < self._file.plain:
                expanded = _plain(expanded)
            yield Expansion(kind=kind, text=expanded)
            if not turns.left:
                del live[i], weights[i]

    def number(self, text: str, chance: random.Random) -> int:
        """A random expansion of a template or a word; a word is as likely with slots in it as without."""
        number, scale = 0, 1
        taken: dict[str, list[int]] = {}
        for name in _lists(text):
            before = taken.setdefault(name, [])
            drawn = None
            while drawn is None or drawn in before:
                i = chance.randrange(len(self.words[name]))
                drawn = self._starts[name][i] + self.number(self.words[name][i], chance)
            number += scale * (drawn - sum(other < drawn for other in before))
            scale *= self._sizes[name] - len(before)
            before.append(drawn)
        return number

    def expand(self, text: str, number: int, *, inside: bool = False) -> str:
        """Expansion `number` of a template, of `size_of(text)`; `inside`: of a word, in a sentence begun."""
        words: dict[str, str] = {}
        taken: dict[str, list[int]] = {}
        parts: list[str] = []
        at = 0
        for slot in _SLOT.finditer(text):
            whole, name = slot.group(0, 1)
            if whole not in words:
                before = taken.setdefault(name, [])
                number, digit = divmod(number, self._sizes[name] - len(before))
                for other in sorted(before):
                    digit += other <= digit
                before.append(digit)
                words[whole] = self._word(name, digit)
            word = words[whole]
            parts.append(text[at : slot.start()])
            so_far = ("," if inside else "") + "".join(parts)
            parts.append(word[:1].upper() + word[1:] if _SENTENCE_START.search(so_far) else word)
            at = slot.end()
        return "".join([*parts, text[at:]]).strip()

    def _word(self, name: str, number: int) -> str:
        i = bisect.bisect_right(self._starts[name], number) - 1
        word = self.words[name][i]
        return self.expand(word, number - self._starts[name][i], inside=True) if "{" in word else word

    @cached_property
    def _starts(self) -> dict[str, list[int]]:
        """The number of each word's first expansion in its list."""
        return {
            name: [0, *itertools.accumulate(self.size_of(word) for word in words[:-1])]
            for name, words in self.words.items()
        }

    @cached_property
    def _sizes(self) -> dict[str, int]:
        sizes: dict[str, int] = {}

        def size_of_list(name: str, above: tuple[str, ...]) -> int:
            if name in above:
                raise BadInput(
                    f"{self.path}, words.{above[-1]}: {{{name}}} leads back to itself", code="prompt-template"
                )
            if len(above) > MOST_NESTED:
                raise BadInput(f"{self.path}, words.{name}: nested too deeply", code="prompt-template")
            if name not in sizes:
                total = 0
                for word in self.words[name]:
                    inner = Counter(_lists(word)).items()
                    total += math.prod(math.perm(size_of_list(n, (*above, name)), k) for n, k in inner)
                    if total.bit_length() > MOST_BITS:
                        raise BadInput(
                            f"{self.path}, words.{name}: more expansions than can be counted",
                            code="prompt-template",
                        )
                sizes[name] = total
            return sizes[name]

        for name in self.words:
            size_of_list(name, ())
        return sizes

    def _check(self) -> None:
        places = [(f"templates.{kind}", text) for kind, text in self.all]
        places += [(f"words.{name}", word) for name, words in self.words.items() for word in words]
        for place, text in places:
            names = _SLOT.findall(text)
            if missing := [name for name in names if not self.words.get(name)]:
                raise BadInput(
                    f"{self.path}, {place}: {{{missing[0]}}} has no words: {text!r}", code="prompt-template"
                )
            if text.count("{") != len(names):
                raise BadInput(
                    f"{self.path}, {place}: a brace that is no {{slot}}: {text!r}", code="prompt-template"
                )
        if unknown := set(self._file.weights) - set(self._file.templates):
            raise BadInput(
                f"{self.path}, weights.{min(unknown)}: there are no templates of this kind",
                code="prompt-template",
            )
        if not all(1e-9 < weight < 1e9 for weight in self._file.weights.values()):  # noqa: PLR2004
            raise BadInput(
                f"{self.path}, weights: a weight is not more than 0, or beyond all measure",
                code="prompt-template",
            )
        for kind, text in self.all:
            if short := [name for name, times in Counter(_lists(text)).items() if times > self._sizes[name]]:
                raise BadInput(
                    f"{self.path}, templates.{kind}: {{{short[0]}}} has too few words: {text!r}",
                    code="prompt-template",
                )


class _Turns:
    """The expansions of one template, in random order."""

    def __init__(self, templates: Templates, text: str, chance: random.Random) -> None:
        self.left = templates.size_of(text)
        self._templates, self._text, self._chance = templates, text, chance
        self._seen: set[int] = set()
        self._rest = _shuffled(self.left, chance)

    def next(self) -> int:
        for _ in range(TRIES):
            number = self._templates.number(self._text, self._chance)
            if number not in self._seen:
                break
        else:  # few are left, or they are unlikely ones
            number = next(n for n in self._rest if n not in self._seen)
        self._seen.add(number)
        self.left -= 1
        return number


def _shuffled(size: int, chance: random.Random) -> Iterator[int]:
    """Yield 0 .. size-1 in random order, with memory only for those given so far."""
    moved: dict[int, int] = {}
    for left in range(size, 0, -1):
        i = chance.randrange(left)
        found = moved.get(i, i)
        last = moved.pop(left - 1, left - 1)
        if i < left - 1:
            moved[i] = last
        yield found


def _lists(text: str) -> list[str]:
    """The lists that a text takes words from, a name for each word."""
    return [name for _, name in dict.fromkeys(slot.group(0, 1) for slot in _SLOT.finditer(text))]


def _plain(text: str) -> str:
    return text if "\n" in text or '"' in text else text.lower().rstrip(".?")
