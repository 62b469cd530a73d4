"""Which option of a question a target takes: by the likelihoods of all, or by what it writes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.config.questions import LETTERS, Question
from harness.engine.server import Server
from harness.errors import ServerFailed
from harness.measure.probe import Tokens, prompt_logprobs
from harness.stats.same_text import common_tokens

_ALONE = r"([A-Z])(?![A-Za-z+#]|['’][A-Za-z])"
"""A letter that is no part of a word or a name, like those of `I'm` and `C++`."""
_SAYS = tuple(
    re.compile(rf"(?i:{what})\s*(?i:is|是|為|为)?\s*[:：]?\s*[(（\"'*]*{_ALONE}")
    for what in ("answer|答案", "option|選項|选项")
)
"""`The answer is B`, `答案是 B`; where an answer says nothing like it, `option B`."""
_BEGINS = re.compile(rf"[\W_]*{_ALONE}[\W_]*(.*)", re.DOTALL)
_NOT = re.compile(
    r"\s+(?:is|was)(?:n't|\s+(?:wrong|incorrect|false|not)\b)|\s*是?(?:錯|错|不[是對对正])", re.IGNORECASE
)
"""An option that is named to be ruled out."""
_SAME = 1e-6
"""Two log-likelihoods that differ by less are the same."""


def log_likelihoods(server: Server, question: Question, language: str) -> tuple[float, ...]:
    """Of each option: the sum of its tokens' log probabilities behind the question, at temperature 1.

    They come from a prefill (`prompt_logprobs` of /v1/completions), so no drafter has a part in them. The
    tokens of an option are those in which context and option together leave those of the context.

    Raises:
        ServerFailed: the server counts no tokens, or gives no log probabilities.
    """
    tokens, context = Tokens(server), question.context(language)
    before = tokens.raw(context)
    found = []
    for option in question.continuations(language):
        ids = tokens.raw(context + option)
        start = common_tokens(before, ids)
        by_token = prompt_logprobs(server, ids, most=1)
        try:
            found.append(sum(by_token[at][ids[at]] for at in range(max(1, start), len(ids))))
        except KeyError:
            raise ServerFailed(
                f"{server.url} returns the log probabilities of likely tokens, and not that of the prompt's "
                "own: use an engine that does",
                code="engine-cannot-tell",
            ) from None
    return tuple(found)


def likeliest(question: Question, sums: Sequence[float], *, per_character: bool = False) -> tuple[int, ...]:
    """The options of the largest log-likelihood; of two that are the same both.

    Args:
        question: with the options.
        sums: the log-likelihood of each.
        per_character: divide each by the characters of its option first. That is `acc_norm` of the field;
            without it, `acc`.
    """
    sizes = [len(option) if per_character else 1 for option in question.options]
    scores = [value / size for value, size in zip(sums, sizes, strict=True)]
    return tuple(at for at, score in enumerate(scores) if score >= max(scores) - _SAME)


def chosen(question: Question, text: str) -> int | None:
    """The option that an answer names; None where that cannot be read.

    By its letter, where the answer begins with it or says that it is the answer; else by its text, where the
    answer has that of one option alone.
    """
    letters, options = LETTERS[: len(question.options)], [option.casefold() for option in question.options]
    if begins := _BEGINS.match(text):
        letter, rest = begins.groups()
        at = letters.find(letter)
        a_word = rest[:1].islower() and text[begins.start(1) + 1 : begins.start(1) + 2] == " "
        repeated = at >= 0 and rest.casefold().startswith(options[at])
        if repeated or (at >= 0 and not a_word and not _NOT.match(text, begins.end(1))):
            return at
    for says in _SAYS:
        for found in says.finditer(text):
            if (at := letters.find(found[1])) >= 0 and not _NOT.match(text, found.end()):
                return at
    named = [at for at, option in enumerate(options) if option in text.casefold()]
    return named[0] if len(named) == 1 else None
