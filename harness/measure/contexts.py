"""Puts real text before prompts, so that each is as many tokens long as is wanted."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.config.prompts import Prompt
from harness.results.files import json_lines

SEPARATOR = "\n\n---\n\n"
"""Stands between the text and the prompt."""
_UNITS = re.compile(r"\s+|[\u2e80-\u9fff\uf900-\uffef]|[^\s\u2e80-\u9fff\uf900-\uffef]+")
"""What a text is cut into: words, the spaces between them, and single characters of Chinese and the like."""
_MOST_UNITS = 4
"""For each token wanted; a token is longer than a quarter of a unit."""

Count = Callable[[str], int]
"""Tokens of a prompt with this text, as the server renders it."""


def texts_of(folder: Path, prompts: Sequence[Prompt], language: str) -> list[str]:
    """Texts in a language, the longest first: those that come with draftgate, else those of `prompts`.

    Of a prompt that quotes something below its first paragraph it is what is quoted. None is one of
    `prompts`, as far as others are there.

    Args:
        folder: holds the prompt files, as `workload/language.jsonl`.
        prompts: that are asked.
        language: of the texts.
    """
    files = sorted(folder.glob(f"*/{language}.jsonl"))
    known = [str(line.data["text"]) for file in files for line in json_lines(file)]
    asked = [prompt.text for prompt in prompts]
    others = [text for text in known if text not in set(asked)] or asked
    return sorted((text.partition("\n\n")[2] or text for text in others), key=len, reverse=True)


def lengthened(prompts: Sequence[Prompt], texts: Sequence[str], tokens: int, count: Count) -> list[Prompt]:
    """The same prompts, each behind as much text as makes it at most `tokens` tokens long.

    Each prompt has other text before it, and the same text at every length, as far as that goes. Texts that
    are used up begin again.

    Args:
        prompts: to lengthen. Each has fewer than `tokens` tokens.
        texts: to put before them.
        tokens: of each prompt, as `count` counts them; one word more would be too long.
        count: measures a text.
    """
    return [
        _behind(prompt, texts[i % len(texts) :], texts, tokens, count) for i, prompt in enumerate(prompts)
    ]


def behind_one_text(
    prompts: Sequence[Prompt], texts: Sequence[str], tokens: int, count: Count
) -> list[Prompt]:
    """The same prompts, all behind one text. The longest of them is then at most `tokens` tokens long."""
    longest = max(prompts, key=lambda prompt: count(prompt.text))
    (whole,) = lengthened([longest], texts, tokens, count)
    text = whole.text.removesuffix(longest.text)
    return [dataclasses.replace(prompt, text=text + prompt.text) for prompt in prompts]


def _behind(prompt: Prompt, first: Sequence[str], texts: Sequence[str], tokens: int, count: Count) -> Prompt:
    all_of_them = itertools.chain(first, itertools.cycle(texts))
    words = itertools.chain.from_iterable(_UNITS.findall(f"{text}\n\n") for text in all_of_them)
    units = list(itertools.islice(words, _MOST_UNITS * tokens))

    def text(length: int) -> str:
        return f"{''.join(units[:length]).strip()}{SEPARATOR}{prompt.text}"

    fits = bisect.bisect_right(range(1, len(units)), tokens, key=lambda length: count(text(length)))
    return dataclasses.replace(prompt, text=text(fits))
