"""Prompts behind real text: as many tokens as were wanted, in the prompt's language, the same every time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.config.prompts import Prompt, load_prompts
from harness.measure.contexts import SEPARATOR, lengthened, texts_of
from harness.plugin import DATA

PROMPTS = DATA / "prompts"


def words(text: str) -> int:
    """A tokenizer: a token a word, or a Chinese character."""
    return sum(1 if word.isascii() else len(word) for word in text.split())


def asked(language: str, count: int = 8) -> tuple[Prompt, ...]:
    return load_prompts(PROMPTS, "instruct", language, at_most=count)


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("tokens", [256, 1500])
def test_a_prompt_has_the_tokens_that_were_wanted_and_asks_last(language: str, tokens: int) -> None:
    prompts = asked(language)
    found = lengthened(prompts, texts_of(PROMPTS, prompts, language), tokens, words)

    for prompt, longer in zip(prompts, found, strict=True):
        assert tokens - 20 < words(longer.text) <= tokens
        assert longer.text.endswith(SEPARATOR + prompt.text)
        assert (longer.id, longer.language) == (prompt.id, language)
    assert len({longer.text[:200] for longer in found}) == len(found)


def test_a_longer_context_begins_as_the_shorter_one_does() -> None:
    prompts = asked("en")
    short, long = (lengthened(prompts, texts_of(PROMPTS, prompts, "en"), n, words) for n in (256, 1024))

    for one, other in zip(short, long, strict=True):
        assert other.text.startswith(one.text.partition(SEPARATOR)[0])


def test_text_comes_from_the_prompts_of_the_language_without_what_they_ask() -> None:
    prompts = asked("zh")
    texts = texts_of(PROMPTS, prompts, "zh")

    assert len(texts[0]) > 200
    assert not {prompt.text for prompt in prompts} & set(texts)
    assert not any("整理成三個重點" in text for text in texts[:20])


def test_a_language_that_has_no_files_takes_the_prompts_themselves(tmp_path: Path) -> None:
    own = [Prompt(id="a", language="de", text="Warum ist der Himmel blau?")]
    (found,) = lengthened(own, texts_of(tmp_path, own, "de"), 64, words)

    assert words(found.text) == 64
    assert json.dumps(found.text).count("Himmel") > 10
