"""Events of a stream as vLLM sends them."""

from __future__ import annotations

from typing import Any

CHAT = "/v1/chat/completions"
RAW = "/v1/completions"


def chunk(
    text: str = "", ids: tuple[int, ...] = (), *, finish: str | None = None, **more: Any
) -> dict[str, Any]:
    """One event of a chat stream, as vLLM sends them."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish, "token_ids": list(ids) or None}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "tiny",
        "choices": [choice],
    } | more


def raw_chunk(text: str, ids: tuple[int, ...], *, finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "text": text, "finish_reason": finish, "token_ids": list(ids)}
    choice["prompt_token_ids"] = [9, 8, 7]
    return {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "tiny", "choices": [choice]}


def as_raw(event: Any) -> Any:
    """The same event of a chat stream as the other endpoint sends it."""
    if not isinstance(event, dict) or not event.get("choices"):
        return event
    event = dict(event)
    rendered = {"prompt_token_ids": event.pop("prompt_token_ids")} if "prompt_token_ids" in event else {}
    choices = [
        {"text": (choice.get("delta") or {}).get("content") or ""}
        | {name: value for name, value in choice.items() if name != "delta"}
        | rendered
        for choice in event["choices"]
    ]
    return event | {"object": "text_completion", "choices": choices}


def usage(tokens: int, spec: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "tiny",
        "choices": [],
        "usage": {"prompt_tokens": 3, "completion_tokens": tokens, "total_tokens": 3 + tokens},
        "metrics": {"speculative_decoding": spec} if spec is not None else None,
    }


def spec(**changes: Any) -> dict[str, Any]:
    """Three verify steps at k = 2: 0, 2 and 1 accepted, so 6 tokens after the first."""
    return {
        "acceptance_histogram": [1, 1, 1],
        "num_draft_tokens": 6,
        "per_step_accepted": [0, 2, 1],
        "per_step_drafted": [2, 2, 2],
    } | changes


PIECES = (
    chunk(prompt_token_ids=[5, 6, 7]),
    chunk("Bread", (1,)),
    chunk(" is", (2,)),
    chunk(" made of flour", (3, 4, 5)),
    chunk(" and", (6,)),
    chunk(" water", (7, 8), finish="stop"),
)
GOOD = (*PIECES, usage(8, spec()), "[DONE]")
"""Five pieces with tokens: the first, three verify steps, and one step without drafts."""
