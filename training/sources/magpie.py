"""Has the target write prompts as Magpie does: after an empty user turn it writes what its users ask."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from typing import Any

import openai

from harness.config.stack import Sampling
from harness.engine.server import Server
from harness.errors import BadInput, ServerFailed
from harness.stats.text_quality import degenerate
from harness.text.redaction import without_keys
from training.recipe import Recipe, Source
from training.tokenizer import tokenizer_of

MAX_TOKENS = 128
OF_ONE = 16
"""Prompts that one request asks for. To a client a request costs more than a prompt to a small target."""
LEAST_CHARACTERS = 10
LEAST_LETTERS = 0.6
"""Share of the characters that are not white space."""
_SENTINEL = "MAGPIEUSERTEXT"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opening:
    """The beginning of a chat, up to the user's text, and the end of the user's turn."""

    prompt: str
    end: str
    end_id: int | None
    """Of the special token that ends the turn; None where that is plain text."""
    specials: tuple[str, ...]


def opening(tokenizer: Any, name: str) -> Opening:
    """Cut the tokenizer's chat template at the user's text.

    Raises:
        BadInput: it has none, or leaves out the user's text or the end of the turn.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise BadInput(
            f"{name}: its tokenizer has no chat template, so it cannot write prompts by itself; "
            "leave the sources of kind 'self' out of the recipe",
            code="target-cannot-write",
        )
    turn = [{"role": "user", "content": _SENTINEL}]
    rendered = str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=False))
    before, found, after = rendered.rpartition(_SENTINEL)
    added = (getattr(tokenizer, "added_tokens_decoder", None) or {}).values()
    special = [token for token in added if getattr(token, "special", False)]
    specials = tuple(sorted({str(token) for token in (*tokenizer.all_special_tokens, *special)} - {""}))
    firsts = [(after.index(token), -len(token), token) for token in specials if token in after]
    end = min(firsts)[2] if firsts else after.strip()
    if not found or not end:
        what = "does not show where the user's turn ends" if found else "leaves out the user's text"
        raise BadInput(
            f"{name}: its chat template {what}; leave the sources of kind 'self' out of the recipe",
            code="target-cannot-write",
        )
    return Opening(
        prompt=before,
        end=end,
        end_id=int(tokenizer.convert_tokens_to_ids(end)) if firsts else None,
        specials=specials,
    )


def usable(text: str, finish: str, start: Opening) -> str | None:
    """The target's text if it is a prompt: a whole turn, mostly of letters, that does not loop; else None."""
    text = text.strip().removesuffix(start.end).strip()
    dense = [c for c in text if not c.isspace()]
    whole = finish == "stop" and len(text) >= LEAST_CHARACTERS
    letters = sum(c.isalpha() for c in dense) >= LEAST_LETTERS * len(dense)
    special = any(token in text for token in start.specials)
    return text if whole and letters and not special and not degenerate(text) else None


class Magpie:
    """Samples user turns from a served target; `gather.run` calls it as `ask`."""

    def __init__(self, server: Server, recipe: Recipe, *, start: Opening | None = None) -> None:
        """Prepare; this sends nothing.

        Args:
            server: serves the target.
            recipe: says how many requests are in flight, and the seed.
            start: by default taken from the target's own chat template.

        Raises:
            BadInput: see `opening`; or the target has no tokenizer.
        """
        self._server, self._recipe = server, recipe
        target = server.target_path or recipe.target.model
        self._start = start or opening(tokenizer_of(target), target)

    def __call__(self, source: Source, first: int, number: int) -> list[str | None]:
        """Texts `first` to `first + number - 1` of all that the source can give; None for what is no prompt.

        Raises:
            ServerFailed: a request failed; nothing of this call is returned.
        """
        return asyncio.run(self._all(source, first, number))

    async def _all(self, source: Source, first: int, number: int) -> list[str | None]:
        room = asyncio.Semaphore(max(1, self._recipe.responses.concurrency // OF_ONE))
        client = self._server.http.openai(timeout_s=self._recipe.engine.request_timeout_s, retries=2)

        async def some(n: int) -> list[str | None]:
            async with room:
                try:
                    answer = await client.completions.create(**self.request(source, n))
                except openai.OpenAIError as error:
                    why = f"{type(error).__name__}: {without_keys(str(error))[:300]}"
                    raise ServerFailed(
                        f"the target's server wrote no prompt: {why}; read its log", code="too-few-prompts"
                    ) from None
            try:
                choices = {choice.index: choice for choice in answer.choices}
                ordered = [choices[index] for index in range(OF_ONE)]
                return [usable(choice.text, choice.finish_reason, self._start) for choice in ordered]
            except (AttributeError, LookupError, TypeError):  # openai's client lets any JSON pass, and text
                raise ServerFailed(
                    f"the target's server wrote no prompt, but {str(answer)[:300]}; read its log",
                    code="too-few-prompts",
                ) from None

        async with client:
            try:
                async with asyncio.TaskGroup() as group:
                    requests = range(first // OF_ONE, -(-(first + number) // OF_ONE))
                    tasks = [group.create_task(some(n)) for n in requests]
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None
        texts = [text for task in tasks for text in task.result()]
        return texts[first % OF_ONE :][:number]

    def request(self, source: Source, number: int) -> dict[str, Any]:
        """The arguments of one request: every sampling parameter, so that no server default applies."""
        label = f"{self._recipe.prompts.seed}/{source.language}/{source.temperature}/{number}"
        extra: dict[str, Any] = {
            **Sampling(temperature=source.temperature).model_dump(),
            "add_special_tokens": False,  # the template has written them
            "skip_special_tokens": False,  # otherwise a special token in the text would be invisible
        }
        if self._start.end_id is not None:
            extra["stop_token_ids"] = [self._start.end_id]
        return {
            "model": self._server.model,
            "prompt": self._start.prompt,
            "max_tokens": MAX_TOKENS,
            "n": OF_ONE,
            "seed": int.from_bytes(hashlib.sha256(label.encode()).digest()[:4]) // 2,
            "stop": [self._start.end],
            "extra_body": extra,
        }
