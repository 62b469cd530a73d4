"""However a server writes an answer down and TCP cuts it, the client makes the same record of it.

Inputs and their number are those of `tests.factories.damage`.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, strategies as st

from harness.config.prompts import Prompt
from harness.config.stack import Profile
from harness.measure.client import Client
from harness.results.records import ENDS, UNTIMED, PromptRecord
from tests.component.vllm_like import Reply, VllmLike, vllm_like
from tests.factories.damage import fuzz
from tests.factories.streams import CHAT, RAW, as_raw, chunk, usage

PARTS = ("reasoning", "reasoning_content", "content", "refusal")
SCRIPTS = 'bread 麵包和水 хлеб パンと 빵과 물 خبز रोटी ขนมปัง 🍞\u2028\u2029\x85\ufeff\v\f\x1c\r\n\t"\\:'
TEXTS = st.text(st.sampled_from(SCRIPTS), min_size=1, max_size=12)
NO_TEXT = {"null": None, "no": False, "number": 3, "list": [], "object": {}, "text": ""}
"""Fields that may stand anywhere; those of `OTHERS` only beside what an event is known by."""
OTHERS = st.dictionaries(TEXTS, TEXTS | st.integers() | st.lists(TEXTS, max_size=2), max_size=2)
NOISE = ("", ":\n", ": data: x\n\n", "retry: 5\n", "id: 3\n", "event: ping\n\n", "\n\n")
ERRORS = (
    {"error": {"message": "engine died", "code": 500}}, {"object": "error", "message": "engine died"},
    {"detail": "engine died"}, "engine died", '"engine died"', {"choices": "engine died"},
)  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[VllmLike]:
    with vllm_like() as vllm:
        yield vllm


@st.composite
def answers(draw: st.DrawFn) -> list[dict[str, Any]]:
    """A chat stream: a delta with text in one part, or with tokens alone, or with part of a tool call."""
    events: list[dict[str, Any]] = [chunk(prompt_token_ids=[5, 6])]
    for at in range(draw(st.integers(1, 5))):
        event = chunk(ids=tuple(range(at, at + draw(st.integers(0, 3)))))
        text = draw(TEXTS)
        calls = [{"index": 0, "function": {"name": "f", "arguments": text}}]
        event["choices"][0]["delta"] = draw(
            st.sampled_from([*({part: text} for part in PARTS), {"tool_calls": calls}, {}])
        )
        events.append(event)
    events[-1]["choices"][0]["finish_reason"] = draw(st.sampled_from(sorted(ENDS)))
    tokens = sum(len(e["choices"][0].get("token_ids") or ()) for e in events)
    return [*events, usage(max(tokens, 1))]


def rewritten(value: Any, draw: random.Random, more: dict[str, Any]) -> Any:
    """The same fields in another order, and others among them."""
    if isinstance(value, list):
        return [rewritten(one, draw, NO_TEXT) for one in value]
    if not isinstance(value, dict):
        return value
    fields = [(name, rewritten(one, draw, NO_TEXT)) for name, one in value.items()]
    fields += [(f"x_{name}", one) for name, one in more.items() if draw.random() < 0.5]
    draw.shuffle(fields)
    return dict(fields)


@st.composite
def written(draw: st.DrawFn, events: list[Any]) -> bytes:
    """The events as a body, in one of the forms that the HTML standard allows."""
    end, space = draw(st.sampled_from(("\n", "\r\n", "\r"))), draw(st.sampled_from(("", " ")))
    noise = st.sampled_from([one.replace("\n", end) for one in NOISE])
    shuffled = random.Random(draw(st.integers()))  # noqa: S311 - a test
    more = draw(OTHERS)
    body = ""
    for event in [*events, "[DONE]"]:
        text = event
        if not isinstance(event, str):
            indent, ascii_ = draw(st.sampled_from((None, 1))), draw(st.booleans())
            text = json.dumps(rewritten(event, shuffled, more), indent=indent, ensure_ascii=ascii_)
        body += draw(noise) + "".join(f"data:{space}{line}{end}" for line in text.split("\n")) + end
    return draw(st.sampled_from((b"", b"\xef\xbb\xbf"))) + body.encode()


def record_of(server: VllmLike, reply: Reply, endpoint: str) -> PromptRecord:
    server.replies.update({CHAT: reply, RAW: reply})

    async def asked() -> PromptRecord:
        async with Client(
            url=server.url, key="none", model="tiny", endpoint=endpoint, k=0, server="f00d", timeout_s=10,
            profile=Profile(prompts=1, max_tokens=64),
        ) as client:  # fmt: skip
            prompt = Prompt(id="p", language="en", text="t")
            return await client.ask(prompt, repeat=0, seed=1, salt=None, origin=0.0)

    return asyncio.run(asked())


def events_of(body: bytes, cuts: list[int]) -> Reply:
    return Reply(body, kind="text/event-stream").in_pieces(*(cut % len(body) for cut in cuts))


CUTS = st.lists(st.integers(0, 10_000), max_size=4)


@fuzz
@given(st.data(), st.sampled_from(("chat", "raw")))
def test_an_answer(server: VllmLike, data: st.DataObject, endpoint: str) -> None:
    events = data.draw(answers())
    said = [e["choices"][0]["delta"] for e in events if e["choices"]]
    text = "".join(d.get("content", "") for d in said)
    if endpoint == "chat":
        texts = (d["tool_calls"][0]["function"] if "tool_calls" in d else d for d in said)
        text = "".join(value for d in texts for value in d.values())
    else:
        events = [as_raw(event) for event in events]
    body = data.draw(written(events))
    record = record_of(server, events_of(body, data.draw(CUTS)), endpoint)

    assert record.findings == ()
    assert record.text == text
    assert record.token_ids is None or record.token_ids == tuple(
        i for e in events for c in e["choices"] for i in c.get("token_ids") or ()
    )
    plain = "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode()
    other = record_of(server, events_of(plain, []), endpoint)
    assert record.model_copy(update=UNTIMED) == other.model_copy(update=UNTIMED)


@fuzz
@given(st.data(), st.sampled_from(ERRORS))
def test_an_answer_that_breaks_off(server: VllmLike, data: st.DataObject, error: Any) -> None:
    events: list[Any] = data.draw(answers())
    at = data.draw(st.integers(0, len(events)))
    plain = json.dumps(error) if not isinstance(error, str) else error
    body = data.draw(written([*events[:at], plain, *events[at:]]))
    record = record_of(server, events_of(body, data.draw(CUTS)), "chat")

    (finding,) = record.findings
    assert finding.code == "request-failed"
    assert "engine died" in finding.text


def test_an_answer_byte_by_byte(server: VllmLike) -> None:
    events = [chunk("麵包\u2028", (1,), prompt_token_ids=[5]), chunk(" 🍞", (2,), finish="stop"), usage(2)]
    body = "".join(f"data: {json.dumps(event, ensure_ascii=False)}\r\n\r\n" for event in events).encode()
    reply = Reply([body[at : at + 1] for at in range(len(body))], kind="text/event-stream")

    assert record_of(server, reply, "chat").text == "麵包\u2028 🍞"
