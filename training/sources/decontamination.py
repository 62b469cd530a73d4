"""Finds out whether two prompts are the same, and whether a prompt repeats one of the benchmark."""

from __future__ import annotations

import hashlib
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Literal

from harness.config.prompts import load_prompts
from harness.config.shipped import DATA
from harness.errors import BadInput

BENCHMARK = DATA / "prompts"
HAN_PER_WORD = 1.5
"""Chinese is written without spaces. Its words have one or two characters in running text, so a run of
8 words is as long as one of 12 characters, and as telling."""
SHORT = 4
"""A benchmark prompt shorter than a run is searched for as a whole if it has at least this many words."""

_HAN = r"\u3400-\u9fff\uf900-\ufaff"
_APOSTROPHES = "'’"
_IS_HAN = re.compile(f"[{_HAN}]")
_BESIDE_HAN = re.compile(f"(?<=[{_HAN}]) | (?=[{_HAN}])")


def normalised(text: str) -> str:
    """Letters, digits and single spaces: case, width, punctuation and white space do not count.

    An apostrophe joins what it stands between; beside a Chinese character no space is kept.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    letters = (c if unicodedata.category(c)[0] in "LMN" else "" if c in _APOSTROPHES else " " for c in folded)
    return _BESIDE_HAN.sub("", " ".join("".join(letters).split()))


def id_of(text: str) -> str:
    """The id of a prompt. Prompts that count as the same have the same id."""
    return hashlib.sha256(normalised(text).encode()).hexdigest()[:16]


class BenchmarkPrompts:
    """The prompts that no drafter may be trained on."""

    def __init__(self, texts: Iterable[str], *, words: int) -> None:
        """A run of `words` words in common, or of 1.5 times as many Chinese characters, is an overlap."""
        self._words, self._characters = words, round(words * HAN_PER_WORD)
        self._same = {normalised(text) for text in texts} - {""}

    @classmethod
    def shipped(cls, *, words: int) -> BenchmarkPrompts:
        """All prompts under fixtures/prompts.

        Raises:
            BadInput: they are not there, so nothing can be compared with them.
        """
        texts = []
        for path in sorted(BENCHMARK.glob("*/*.jsonl")):
            prompts = load_prompts(BENCHMARK, path.parent.name, path.stem, at_most=sys.maxsize)
            texts += [prompt.text for prompt in prompts]
        if not texts:
            raise BadInput(
                f"{BENCHMARK}: the benchmark's prompts are not there, and prompts for training are "
                "compared with them. Install draftgate with its fixtures",
                code="too-few-prompts",
            )
        return cls(texts, words=words)

    def match(self, text: str) -> Literal["same", "overlap"] | None:
        """Whether this is a benchmark prompt, or shares a run of words with one."""
        plain = normalised(text)
        if plain in self._same:
            return "same"
        padded = f" {plain} "
        if any(short in padded for short in self._shorts):
            return "overlap"
        return None if self._runs.isdisjoint(self._runs_of(plain)) else "overlap"

    @cached_property
    def _runs(self) -> frozenset[str]:
        return frozenset(run for plain in self._same for run in self._runs_of(plain))

    @cached_property
    def _shorts(self) -> tuple[str, ...]:
        """A Chinese prompt counts as one word, so it is never among them."""
        return tuple(f" {p} " for p in self._same if SHORT <= len(p.split()) < self._words)

    def _runs_of(self, plain: str) -> Iterator[str]:
        words = plain.split()
        for i in range(len(words) - self._words + 1):
            yield " ".join(words[i : i + self._words])
        if not _IS_HAN.search(plain):
            return
        packed = plain.replace(" ", "")
        for i in range(len(packed) - self._characters + 1):
            run = packed[i : i + self._characters]
            if len(_IS_HAN.findall(run)) * 2 > len(run):  # otherwise it is code or a quotation in English
                yield run
