"""Finds a chat template in the tokens of a prompt, and renders a prompt by it without a server."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from harness.errors import ServerFailed
from harness.measure.probe import Tokens
from harness.stats.same_text import common_tokens

Template = Literal["present", "doubled", "partial", "missing"]
_PROBES = ("Q", "7")
"""They share no letter, so their tokens have only the template in common."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shell:
    """The tokens that a chat template puts around a message."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    bos: int | None
    """The token that every text begins with; None if the tokenizer has none."""

    def template(self, ids: Sequence[int]) -> Template:
        """Whether these tokens have the template around them, and whether once or twice."""
        whole = tuple(ids)
        begins, ends = whole[: len(self.before)] == self.before, _ends(whole, self.after)
        if max(_count(whole, self._opening), _count(whole, self.after)) > 1:
            return "doubled"
        if begins and ends and (self.before or self.after):
            return "present"
        return "partial" if (begins and self._opening) or (ends and self.after) else "missing"

    @property
    def _opening(self) -> tuple[int, ...]:
        """`before` without the token that every text begins with."""
        return self.before[1:] if self.before and self.before[0] == self.bos else self.before

    def double_bos(self, ids: Sequence[int]) -> bool:
        """These tokens begin with that token twice."""
        return self.bos is not None and tuple(ids[:2]) == (self.bos, self.bos)


def _ends(ids: tuple[int, ...], with_: tuple[int, ...]) -> bool:
    return ids[len(ids) - len(with_) :] == with_


def _count(ids: tuple[int, ...], part: tuple[int, ...]) -> int:
    return sum(ids[i : i + len(part)] == part for i in range(len(ids) - len(part) + 1)) if part else 0


def shell_of(tokens: Tokens) -> Shell:
    """The shell of the server's template, from the tokens of two messages that share nothing.

    Raises:
        ServerFailed: no usable answer.
    """
    one, two = (tokens.chat(probe) for probe in _PROBES)
    before = one[: common_tokens(one, two)]
    after = one[len(one) - common_tokens(one[::-1], two[::-1]) :]
    plain, with_special = tokens.raw(_PROBES[0], special=False), tokens.raw(_PROBES[0])
    added_first = with_special[0] if with_special[-len(plain) :] == plain != with_special else None
    return Shell(
        before=before, after=after, bos=added_first if added_first is not None else (before or (None,))[0]
    )


def template_of(folder: Path | None, told: Mapping[str, bool] | None = None) -> Callable[[str], str] | None:
    """A function that renders a user's message by the template in a model's folder, as transformers does.

    The template is `told` further values.

    None if the folder has no tokenizer with a template, or transformers is not installed. The caller then
    turns the server's own rendering back into text.
    """
    if folder is None:
        return None
    try:
        from transformers import AutoTokenizer  # noqa: PLC0415 - every engine brings it, the core lacks it

        # What comes with a tokenizer as code is not run here: the server's rendering says the same.
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception:  # noqa: BLE001 - it cannot be loaded in as many ways as there are tokenizers
        return None
    if not tokenizer.chat_template:
        return None

    def render(text: str) -> str:
        found, why = None, ""
        # As the engine does: a template that reads parts, and no text, is given parts.
        for content in (text, [{"type": "text", "text": text}]):
            message = {"role": "user", "content": content}
            try:
                shown = tokenizer.apply_chat_template(
                    [message], add_generation_prompt=True, tokenize=False, **(told or {})
                )
            except Exception as error:  # noqa: BLE001 - a template is a program, and raises what it likes
                why = why or " ".join(str(error).split()) or type(error).__name__
                continue
            if text.strip() in str(shown):
                return str(shown)
            found = found or str(shown)
        if found is None:
            raise ServerFailed(
                f"the chat template of {folder.name} does not render a user's message: {why}; take the "
                "template of the model's own repository, or a newer transformers",
                code="chat-template",
            )
        return found

    return render
