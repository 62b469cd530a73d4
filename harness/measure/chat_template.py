"""What a chat template makes of a prompt: in tokens by the server's tokenizer, in text by hand."""

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
"""They share no letter, so that what both become has only the template in common."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shell:
    """What a chat template puts around a user's words."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    bos: int | None
    """The token that a text begins with; None where the tokenizer has none."""

    def template(self, ids: Sequence[int]) -> Template:
        """Whether it stands around these tokens, once or twice."""
        whole = tuple(ids)
        begins, ends = whole[: len(self.before)] == self.before, _ends(whole, self.after)
        if max(_count(whole, self._opening), _count(whole, self.after)) > 1:
            return "doubled"
        if begins and ends and (self.before or self.after):
            return "present"
        return "partial" if (begins and self._opening) or (ends and self.after) else "missing"

    @property
    def _opening(self) -> tuple[int, ...]:
        """Its beginning without the token that every text may begin with."""
        return self.before[1:] if self.before and self.before[0] == self.bos else self.before

    def double_bos(self, ids: Sequence[int]) -> bool:
        """The text begins twice."""
        return self.bos is not None and tuple(ids[:2]) == (self.bos, self.bos)


def _ends(ids: tuple[int, ...], with_: tuple[int, ...]) -> bool:
    return ids[len(ids) - len(with_) :] == with_


def _count(ids: tuple[int, ...], part: tuple[int, ...]) -> int:
    return sum(ids[i : i + len(part)] == part for i in range(len(ids) - len(part) + 1)) if part else 0


def shell_of(tokens: Tokens) -> Shell:
    """What the server's template puts around a message, by the tokens of two that have nothing in common.

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
    """Renders a user's message by the template in a model's folder, as a person would by hand.

    None where the folder has none, or jinja2 is not installed: then the server's own rendering, turned back
    into text, must do.
    """
    if folder is None:
        return None
    try:
        import jinja2.sandbox  # noqa: PLC0415 - comes with every engine, the core does not need it
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
            f"the chat template of {folder.name} is none: {error}", code="chat-template"
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
