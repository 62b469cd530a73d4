"""Makes prompts from a template file (sentences with slots, and words for the slots), none twice.

    plain = 0.1                          # share of short ones without capitals and full stop

    [templates]                          # by kind
    explanation = ["Explain {concept} to {audience}.", ...]

    [weights]                            # optional: how much more often such a template is drawn
    explanation = 2

    [words]
    concept = ["inflation", ...]
    audience = ["a ten-year-old", "my {relative}"]     # a word may hold slots itself

`{city}` is one word wherever it stands in a template, `{city2}` another one of the list. A word at the
start of a sentence gets a capital.
"""

from __future__ import annotations

import dataclasses
import graphlib
import random
import re
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NoReturn

from pydantic import BaseModel, ConfigDict, Field

from harness.config.toml import Document
from harness.errors import BadInput

SHIPPED = Path(__file__).parents[1] / "prompts"
PLAIN_AT_MOST = 100
"""Characters. Longer requests keep their capitals: people take their time for those."""
TRIES = 500
"""A template that gives nothing new in so many draws is not drawn again."""
MOST_NESTED = 50
"""Levels of lists of words within lists of words."""
MOST_CHARACTERS = 100_000
"""Of one expansion. Each level of lists may double its length."""

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
            BadInput: it is not there, not TOML, or a slot has no words; the message names the table.
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

    def draw(self, seed: int) -> Iterator[Expansion]:
        """Different expansions in an order that the seed alone decides, until no template gives a new one."""
        chance = random.Random(f"{seed}/{self.path.name}")  # noqa: S311 - a shuffle, no secret
        live = list(self.all)
        weights = [self._file.weights.get(kind, 1.0) for kind, _ in live]
        seen: set[str] = set()
        while live:
            i = chance.choices(range(len(live)), weights)[0]
            kind, template = live[i]
            text = next((t for _ in range(TRIES) if (t := self.expand(template, chance)) not in seen), None)
            if text is None:
                del live[i], weights[i]
                continue
            seen.add(text)
            hasty = len(text) <= PLAIN_AT_MOST and chance.random() < self._file.plain
            yield Expansion(kind=kind, text=_plain(text) if hasty else text)

    def expand(self, text: str, chance: random.Random, *, inside: bool = False) -> str:
        """A random expansion of a template; `inside`: of a word, in a sentence begun.

        A word is as likely with slots in it as without.
        """
        words: dict[str, str] = {}
        taken: set[tuple[str, str]] = set()
        parts: list[str] = []
        at = 0
        for slot in _SLOT.finditer(text):
            whole, name = slot.group(0, 1)
            if whole not in words:
                word = chance.choice(self.words[name])
                while (name, word) in taken:  # there are as many different ones as slots
                    word = chance.choice(self.words[name])
                taken.add((name, word))
                words[whole] = self.expand(word, chance, inside=True)
            word = words[whole]
            parts.append(text[at : slot.start()])
            so_far = ("," if inside else "") + "".join(parts)
            parts.append(word[:1].upper() + word[1:] if _SENTENCE_START.search(so_far) else word)
            at = slot.end()
        return "".join([*parts, text[at:]]).strip()

    def _check(self) -> None:
        texts = [(f"templates.{kind}", text) for kind, text in self.all]
        texts += [(f"words.{name}", word) for name, words in self.words.items() for word in words]
        for table, text in texts:
            names = _SLOT.findall(text)
            if missing := [name for name in names if not self.words.get(name)]:
                self._refuse(table, f"{{{missing[0]}}} has no words: {text!r}")
            if text.count("{") != len(names):
                self._refuse(table, f"a brace that is no {{slot}}: {text!r}")
            times = Counter(name for _, name in {slot.group(0, 1) for slot in _SLOT.finditer(text)})
            if short := [name for name, n in times.items() if n > len(set(self.words[name]))]:
                self._refuse(table, f"{{{short[0]}}} has too few words: {text!r}")
        for kind, weight in self._file.weights.items():
            if kind not in self._file.templates:
                self._refuse(f"weights.{kind}", "there are no templates of this kind")
            if not 1e-9 < weight < 1e9:  # noqa: PLR2004
                self._refuse(f"weights.{kind}", "a weight is more than 0 and less than a thousand million")
        self._check_nesting()

    def _check_nesting(self) -> None:
        inner = {name: set(_SLOT.findall(" ".join(words))) for name, words in self.words.items()}
        longest: dict[str, int] = {}
        deepest: dict[str, int] = {}
        try:
            for name in graphlib.TopologicalSorter(inner).static_order():
                deepest[name] = 1 + max((deepest[other] for other in inner[name]), default=0)
                longest[name] = max(
                    (
                        len(word) + sum(map(longest.__getitem__, _SLOT.findall(word)))
                        for word in self.words[name]
                    ),
                    default=0,
                )
                if deepest[name] > MOST_NESTED or longest[name] > MOST_CHARACTERS:
                    self._refuse(f"words.{name}", "nested too deeply, or too long a text")
        except graphlib.CycleError as error:
            self._refuse(f"words.{error.args[1][0]}", "leads back to itself")

    def _refuse(self, table: str, why: str) -> NoReturn:
        raise BadInput(f"{self.path}, {table}: {why}", code="prompt-template")


def _plain(text: str) -> str:
    return text if "\n" in text or '"' in text else text.lower().rstrip(".?")
