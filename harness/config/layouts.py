"""The layouts of prompt files: which column of which published data set holds what."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

REQUEST: Mapping[str, Any] = {"tools": list, "tool_choice": str | dict, "response_format": dict}
"""Columns that go into the request as they are, and what a server takes there."""
_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
}
"""How logs call the two sides of a chat."""


class Columns(BaseModel):
    """Which column holds what. A prompt is a text, the messages of a chat, or turns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str | None = None
    text: str | None = None
    messages: str | None = None
    """One request: all of them are sent as they are, and the last one is answered."""
    turns: str | None = None
    """Texts or messages. The user's are asked one after the other, with the model's own answers between."""
    system: str | None = None
    language: str | None = None
    category: str | None = None
    tools: str | None = None
    tool_choice: str | None = None
    response_format: str | None = None

    @property
    def named(self) -> dict[str, str]:
        """Those that are there, by what they hold."""
        return {role: column for role, column in self.model_dump().items() if column}


OPTIONAL = {name: name for name in ("id", "system", "language", "category", *REQUEST)}
LAYOUTS: Mapping[str, Mapping[str, str]] = {
    "mt-bench": {**OPTIONAL, "id": "question_id", "turns": "turns"},  # Spec-Bench and SPEED-Bench too
    "humaneval": {"id": "task_id", "text": "prompt"},
    "gsm8k": {"text": "question"},
    "sharegpt": {**OPTIONAL, "turns": "conversations"},
    "conversation": {**OPTIONAL, "id": "conversation_id", "turns": "conversation"},  # LMSYS-Chat, WildChat
    "chat": {**OPTIONAL, "messages": "messages"},
    "log": {**OPTIONAL, "turns": "messages"},
    "turns": {**OPTIONAL, "turns": "turns"},
    "text": {**OPTIONAL, "text": "text", "category": "kind"},
    "prompt": {**OPTIONAL, "text": "prompt"},
    "question": {**OPTIONAL, "text": "question"},
    "instruction": {**OPTIONAL, "text": "instruction"},
}
"""The columns of each layout, as its data are published. The first one that fits is taken."""
BESIDE: Mapping[str, frozenset[str]] = {"gsm8k": frozenset({"answer"}), "humaneval": frozenset({"task_id"})}
"""Columns that a layout must have beside that of its prompts."""


def role_of(message: dict[str, Any]) -> Any:
    """Whose message it is, as a server calls the roles."""
    role = message.get("role", message.get("from"))
    return _ROLES.get(role.lower(), role.lower()) if isinstance(role, str) else role


def parsed(value: Any) -> Any:
    """A value that a table without lists holds as JSON text."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def named(columns: Iterable[Any]) -> str:
    """The names of columns, for a message; in quotes where a space, or what nobody sees, is a part of one."""
    names = map(str, columns)
    return ", ".join(name if re.fullmatch(r"[\w.-]+", name) else repr(name) for name in names)
