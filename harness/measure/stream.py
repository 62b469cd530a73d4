"""What a streamed answer says: its text by parts, its tokens, how it ended, or why it broke off."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from harness.results.records import ENDS, Finding

_MARK = b"\xef\xbb\xbf"
_BOUNDARY = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_MOST_QUOTED = 20_000
"""Bytes of what is no event; many more than a message shows, so that a key in it is whole and gets hidden."""
_MOST_TOKENS = 2**31
_MOST_COUNTED = 2**53
_SHOWN = 60
"""Characters of a value in a message."""
_LEAST_GAP_S = 1e-4
"""Between two pieces, on average: no forward pass is that short. Pieces that were held back come so."""
_FEW, _MOST_AT_FIRST = 20, 0.25
"""An answer may begin with so many tokens at one time, or this share of its own: a busy client reads late."""

_CALLS = "tool_calls"
_PARTS = {
    "reasoning": "reasoning",
    "reasoning_content": "reasoning",
    "content": "content",
    "text": "content",
    "refusal": "refusal",
    "tool_calls.function.name": _CALLS,
    "tool_calls.function.arguments": _CALLS,
    "function_call.name": _CALLS,
    "function_call.arguments": _CALLS,
}
"""Fields that hold what the target wrote, in the order in which it writes them, and the answer's part."""
_ORDER = {name: at for at, name in enumerate(dict.fromkeys(".".join(_PARTS).split(".")))}
_NOT_WRITTEN = frozenset({
    "delta", "role", "index", "finish_reason", "stop_reason", "logprobs", "prompt_logprobs", "token_ids",
    "prompt_token_ids", "routed_experts", "tool_calls.id", "tool_calls.type", "tool_calls.index",
    "matched_stop", "native_finish_reason", "content_filter_results",  # of others than vLLM
})  # fmt: skip
"""Fields of a choice and its delta that hold nothing of the answer's text."""


class BrokenOffError(ValueError):
    """What came is no answer; the message says why, in the server's words where it has some."""


@dataclasses.dataclass
class Stream:
    """What came back so far."""

    pieces: list[int] = dataclasses.field(default_factory=list)
    """Tokens of each chunk that carried some; 0 where it had their text alone."""
    ids: list[int] = dataclasses.field(default_factory=list)
    finish: str = ""
    """The first that is not one of `ENDS`, else the last."""
    usage: dict[str, Any] | None = None
    spec: dict[str, Any] | None = None
    prompt_ids: list[int] | None = None
    first: float | None = None
    last: float | None = None
    unread: set[str] = dataclasses.field(default_factory=set)
    """Fields that may hold text of the answer, but we don't know them."""
    _written: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    """Part and text of each piece."""
    _tokens: list[int] = dataclasses.field(default_factory=list)
    """Of each of these; those of a chunk without text are of the text before."""
    _ahead: int = 0
    """Tokens before any text."""
    _at_first: int = 0
    """Pieces that came with the first one."""
    _lost: bool = False
    """A delta held something in such fields alone, after the one that opens the answer."""
    _events: int = 0
    _rest: bytes = b""
    """What came from the piece on in which the last event ended; all where none came."""

    @property
    def text(self) -> str:
        """All that the target wrote, in order."""
        return "".join(text for _, text in self._written)

    @property
    def parts(self) -> tuple[tuple[str, int], ...] | None:
        """See `PromptRecord.parts`."""
        runs = itertools.groupby(self._written, key=lambda piece: piece[0])
        found = tuple((part, sum(len(text) for _, text in run)) for part, run in runs)
        return None if {part for part, _ in found} <= {"content"} else found

    @property
    def part_tokens(self) -> tuple[int, ...] | None:
        """See `PromptRecord.part_tokens`."""
        if self.parts is None or (self.usage or {}).get("completion_tokens") != len(self.ids):
            return None
        pieces = zip(self._written, self._tokens, strict=True)
        runs = itertools.groupby(pieces, key=lambda piece: piece[0][0])
        return tuple(sum(tokens for _, tokens in run) for _, run in runs)

    async def read(self, body: AsyncIterator[bytes]) -> None:
        """Take all events of an answer's body, however it is cut.

        Raises:
            BrokenOffError: the server says that something went wrong, or what we cannot read.
            Exception: whatever the connection raises.
        """
        # As the HTML standard wants, but for what `_kept` and the end of this function add. It is as fast as
        # httpx-sse and as reading by hand; `openai.AsyncStream` around it fails on an event without data, and
        # hides an event's name. Imported here: that takes half a second, and a refusal need not wait for it.
        from openai._streaming import SSEDecoder  # noqa: PLC0415

        async for event in SSEDecoder().aiter_bytes(self._kept(body)):
            if event.data:  # the standard: without data it is no event
                self._events += 1
                self.take(event.data, error=event.event == "error")

    async def _kept(self, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Its pieces, without the mark that may stand before the first line."""
        start: bytes | None = b""
        seen = 0
        async for piece in body:
            if start is None:
                yield piece
            elif len(start + piece) < len(_MARK) and _MARK.startswith(start + piece):
                start += piece
            else:
                yield (start + piece).removeprefix(_MARK)
                start = None
            if self._events > seen:  # these ended in this piece
                self._rest, seen = piece, self._events
            elif len(self._rest) < _MOST_QUOTED:
                self._rest += piece

    def take(self, data: str, *, error: bool = False) -> None:
        """Add one event.

        Args:
            data: of the event.
            error: the event's name says that it is an error.

        Raises:
            BrokenOffError: see `read`.
        """
        now = time.perf_counter()
        if data.strip() == "[DONE]":
            return
        try:
            chunk = None if error else json.loads(data)
        except (ValueError, RecursionError):
            error = True
        if error or not isinstance(chunk, dict | None):
            raise BrokenOffError(f"the server broke off: {data}")
        if not chunk:
            return
        if chunk.get("error") or chunk.get("object") == "error" or not chunk.keys() & {"choices", "usage"}:
            raise BrokenOffError(f"the server broke off: {data}")
        choices, usage, metrics = (chunk.get(name) or {} for name in ("choices", "usage", "metrics"))
        tables = isinstance(usage, dict) and isinstance(metrics, dict)
        spec = (metrics.get("speculative_decoding") or {}) if tables else {}
        if not (tables and isinstance(spec, dict) and isinstance(choices or [], list)):
            raise BrokenOffError(f"the server sent what is no part of an answer: {data}")
        for choice in choices:
            if not isinstance(choice, dict) or not isinstance(choice.get("delta") or {}, dict):
                raise BrokenOffError(f"the server sent what is no part of an answer: {data}")
            if choice.get("index"):
                raise BrokenOffError(f"the server sent a second answer, and one was asked for: {data}")
            self._take_choice(choice, chunk.get("prompt_token_ids"), now)
        self.spec = spec or self.spec
        self.usage = usage or self.usage

    def _take_choice(self, choice: Mapping[str, Any], prompt_ids: Any, now: float) -> None:
        fields = {**choice, **(choice.get("delta") or {})}
        opens = "role" in fields and not self.pieces and not self.unread
        ids = _ids(choice.get("token_ids")) or ()
        self.prompt_ids = self.prompt_ids or _ids(prompt_ids or choice.get("prompt_token_ids"))
        filled = {name: fields[name] for name in fields.keys() - _NOT_WRITTEN if fields[name]}
        if filled.get("reasoning") == filled.get("reasoning_content"):  # vLLM 0.11 sends it by both names
            filled.pop("reasoning_content", None)
        pieces, unread = [], set()
        for path, value in _leaves(filled):
            if path in _PARTS and isinstance(value, str):
                pieces.append((_PARTS[path], value))
            else:
                unread.add(path)
        "".join(text for _, text in pieces).encode()  # half of a surrogate pair is no text, and not stored
        self._lost |= bool(unread) and not pieces and (not opens or bool(ids))
        self.unread |= unread
        if ids or pieces:
            self.pieces.append(len(ids))
            self.ids += ids
            self._count(len(ids), len(pieces))
            self._written += pieces
            self.first = self.first or now
            self.last = now
            if now - self.first <= _LEAST_GAP_S * (len(self.pieces) - 1):
                self._at_first = len(self.pieces)
        if choice.get("finish_reason") and (not self.finish or self.finish in ENDS):
            self.finish = str(choice["finish_reason"])

    def _count(self, tokens: int, pieces: int) -> None:
        """Say which pieces of text the tokens of a chunk are of: its first, else the last that came."""
        if pieces:
            self._tokens += [self._ahead + tokens, *[0] * (pieces - 1)]
            self._ahead = 0
        elif self._tokens:
            self._tokens[-1] += tokens
        else:
            self._ahead += tokens

    def held_back(self, tokens: int) -> bool:
        """Whether the answer began with many tokens at one time: then the time of the first is not known.

        A proxy that buffers sends them so, and a server that does not stream.

        Args:
            tokens: of the whole answer.
        """
        at_first = sum(self.pieces[: self._at_first])
        if not self.ids and self.pieces:  # then they are alike, as far as we know
            at_first = tokens * self._at_first // len(self.pieces)
        return at_first > max(_FEW, _MOST_AT_FIRST * tokens)

    def fault(self) -> str | None:
        """Why what came is not a whole answer; None where it is one."""
        if not self.finish:
            rest = _BOUNDARY.split(self._rest)[-1] if self._events else self._rest
            said = rest.decode(errors="replace").strip()
            return "the stream ended before the answer did" + (f": {said}" if said else "")
        if self.finish not in ENDS:
            return f"the server ended it with finish_reason {self.finish}"
        if self.usage is None:
            return "the stream ended without token counts (include_usage)"
        if self._lost:
            fields = ", ".join(sorted(self.unread))
            return f"its text is in a field that draftgate does not know: {fields}"
        return self._lacks(self.usage)

    def _lacks(self, usage: Mapping[str, Any]) -> str | None:
        """Which of its tokens are not known, or did not come."""
        try:
            generated = count_of(usage, "completion_tokens")
            count_of(usage, "prompt_tokens")
        except ValueError as error:
            return f"the stream ended without token counts: {error}"
        if generated < max(len(self.ids), bool(self.text)):
            return f"{max(len(self.ids), 1)} tokens came, and the server counts {generated}"
        if generated > 1 and not self.pieces:
            return f"{generated} tokens were generated, and none of them came"
        return None

    def note(self, prompt: str) -> Finding:
        """That the answer to `prompt` came with fields that may be text."""
        fields = ", ".join(sorted(self.unread))
        return Finding.note("unread-field", f"{prompt}: draftgate does not know {fields}", fields=fields)


def count_of(fields: Mapping[str, Any], name: str) -> int:
    """What a server counted.

    Raises:
        ValueError: it is missing, or no count.
    """
    return counts_of({name: [fields[name]]} if name in fields else {}, name)[0]


def counts_of(fields: Mapping[str, Any], name: str) -> tuple[int, ...]:
    """Likewise a list of counts."""
    if name not in fields:
        raise ValueError(f"{name!r} is missing")
    found = fields[name]
    if not isinstance(found, list) or not all(type(n) is int and 0 <= n < _MOST_COUNTED for n in found):
        raise ValueError(f"{name!r} holds what is no count: {json.dumps(found)[:_SHOWN]}")
    return tuple(found)


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Whatever may be text or tokens, and the path of its field; the order of the fields does not matter."""
    if path in _NOT_WRITTEN or value is None or value == "" or isinstance(value, bool):
        return
    if isinstance(value, dict):
        for name in sorted(value, key=lambda name: _ORDER.get(name, len(_ORDER))):
            yield from _leaves(value[name], f"{path}.{name}" if path else name)
    elif isinstance(value, list) and not any(type(one) is int for one in value):
        for one in value:
            yield from _leaves(one, path)
    elif isinstance(value, str | list) or path in _PARTS:
        yield path, value


def _ids(value: Any) -> list[int] | None:
    """Token ids, where there are some.

    Raises:
        BrokenOffError: something else is there.
    """
    if value and not (
        isinstance(value, list) and all(type(i) is int and 0 <= i < _MOST_TOKENS for i in value)
    ):
        raise BrokenOffError("its token ids are none")
    return value or None
