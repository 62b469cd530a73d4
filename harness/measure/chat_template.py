"""Finds a chat template in the tokens of a prompt, and renders a prompt by it without a server."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from harness.errors import ServerFailed
from harness.measure.probe import Tokens

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
    before = _common(one, two)
    after = tuple(reversed(_common(one[::-1], two[::-1])))
    plain, with_special = tokens.raw(_PROBES[0], special=False), tokens.raw(_PROBES[0])
    added_first = with_special[0] if with_special[-len(plain) :] == plain != with_special else None
    return Shell(
        before=before, after=after, bos=added_first if added_first is not None else (before or (None,))[0]
    )


def _common(one: tuple[int, ...], two: tuple[int, ...]) -> tuple[int, ...]:
    length = 0
    while length < min(len(one), len(two)) and one[length] == two[length]:
        length += 1
    return one[:length]


def template_of(folder: Path | None) -> Callable[[str], str] | None:
    """A function that renders a user's message by the template in a model's folder.

    None if the folder has no template, or jinja2 is not installed. The caller then turns the server's own
    rendering back into text.
    """
    if folder is None:
        return None
    try:
        import jinja2.sandbox  # noqa: PLC0415 - every engine brings it, and the core does not need it
    except ImportError:
        return None
    config: dict[str, Any] = {}
    source: Any = None
    with contextlib.suppress(OSError, ValueError):
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        source = config.get("chat_template")
    with contextlib.suppress(OSError, UnicodeDecodeError):
        source = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if not isinstance(source, str):
        return None

    def refuse(message: str) -> str:
        raise ServerFailed(
            f"the chat template of {folder.name} refuses a user's message: {message}", code="chat-template"
        )

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = refuse
    special = {
        name: value.get("content") if isinstance(value, dict) else value
        for name, value in config.items()
        if name.endswith("_token")
    }
    try:
        template = environment.from_string(source)
    except jinja2.TemplateError as error:
        raise ServerFailed(
            f"the chat template of {folder.name} is not valid Jinja: {error}", code="chat-template"
        ) from None

    def render(text: str) -> str:
        message = {"role": "user", "content": text}
        try:
            return template.render(messages=[message], add_generation_prompt=True, **special)
        except jinja2.TemplateError as error:
            raise ServerFailed(
                f"the chat template of {folder.name} cannot be rendered: {error}", code="chat-template"
            ) from None

    return render
