"""A streamed answer is read by the rules of the HTML standard, and all that the target wrote counts."""

from __future__ import annotations

import asyncio
import importlib
import json
import tomllib
from collections.abc import AsyncIterator, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from harness.measure.stream import BrokenOffError, Stream
from tests.factories.streams import GOOD, PIECES, chunk, raw_chunk, spec, usage

ROOT = Path(__file__).parents[2]
TEXT = "Bread is made of flour and water"
END = usage(8, spec())


def read(*pieces: bytes) -> Stream:
    async def body() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    stream = Stream()
    asyncio.run(stream.read(body()))
    return stream


def sent(*events: Any) -> bytes:
    texts = [e if isinstance(e, str) else json.dumps(e, ensure_ascii=False) for e in events]
    return "".join(f"data: {text}\n\n" for text in texts).encode()


def deltas(*given: dict[str, Any] | None, finish: str = "stop", ids: bool = True) -> Stream:
    """An answer of these deltas, a token each."""
    events = [chunk(ids=(at,) * ids) for at in range(1, len(given) + 1)]
    for event, delta in zip(events, given, strict=True):
        event["choices"][0]["delta"] = delta
    return read(sent(*events, chunk(finish=finish), usage(len(given)), "[DONE]"))


# What the target wrote


@pytest.mark.parametrize("ids", [True, False])
@pytest.mark.parametrize("field", ["reasoning", "reasoning_content", "content", "refusal"])
def test_whatever_the_field_it_is_text_with_times(field: str, *, ids: bool) -> None:
    stream = deltas({field: "Let me"}, {field: " see"}, ids=ids)

    assert (stream.text, stream.fault(), stream.unread) == ("Let me see", None, set())
    assert stream.pieces == [int(ids)] * 2
    assert stream.first
    assert stream.last
    part = field.removesuffix("_content")
    assert stream.parts == (None if part == "content" else ((part, 10),))


@pytest.mark.parametrize(
    ("given", "text", "parts"),
    [
        pytest.param(
            [{"reasoning": "a", "reasoning_content": "a"}, {"content": "b"}],
            "ab",
            (("reasoning", 1), ("content", 1)),
            id="vLLM 0.11 says it twice",
        ),
        pytest.param(
            [{"content": "bc", "reasoning": "a"}, {"content": "d"}],
            "abcd",
            (("reasoning", 1), ("content", 3)),
            id="both in one delta",
        ),
        pytest.param(
            [
                {"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": {"name": "f"}}]},
                {"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]},
                {"tool_calls": [{"index": 0, "function": {"arguments": " 1}"}}]},
            ],
            'f{"a": 1}',
            (("tool_calls", 9),),
            id="a tool call",
        ),
        pytest.param(
            [
                {
                    "tool_calls": [
                        {"function": {"arguments": "{}", "name": "f"}, "index": 0},
                        {"function": {"arguments": "{}", "name": "f"}, "index": 1},
                    ]
                }
            ],
            "f{}f{}",
            (("tool_calls", 6),),
            id="two tool calls in one delta",
        ),
        pytest.param(
            [{"function_call": {"name": "f", "arguments": "{}"}}],
            "f{}",
            (("tool_calls", 3),),
            id="function_call",
        ),
        pytest.param([{"role": "assistant", "content": ""}, {"content": "a"}], "a", None, id="role first"),
        pytest.param([None, {"content": "a"}, {}], "a", None, id="delta null"),
        pytest.param([{"content": None, "tool_calls": None}, {"content": "a"}], "a", None, id="fields null"),
        pytest.param([{"content": "a", "tool_calls": []}], "a", None, id="no tool calls"),
    ],
)
def test_parts_are_one_text_and_kept_apart(
    given: list[dict[str, Any] | None], text: str, parts: tuple[tuple[str, int], ...] | None
) -> None:
    stream = deltas(*given)

    assert (stream.text, stream.parts, stream.fault(), stream.unread) == (text, parts, None, set())
    assert len(stream.ids) == len(given)


@pytest.mark.parametrize(
    "delta",
    [
        {"thinking": "a"},
        {"content": [{"type": "text", "text": "a"}]},
        {"content": {"parts": ["a"]}},
        {"content": 4},
        {"content": None, "audio": {"transcript": "a"}},
        {"tool_calls": [{"index": 0, "custom": {"name": "f", "input": "x"}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": {"a": "b"}}}]},
        {"output_ids": [1, 2]},
    ],
    ids=str,
)
def test_text_in_a_field_that_is_not_known_is_no_answer(delta: dict[str, Any]) -> None:
    for given in ([delta], [{"role": "assistant", "content": ""}, delta, {"content": "b"}]):
        stream = deltas(*given)
        assert {field.partition(".")[0] for field in stream.unread} <= delta.keys()
        assert min(stream.unread) in str(stream.fault())


def test_a_field_that_is_not_known_beside_text_is_a_note() -> None:
    opening = {"role": "assistant", "content": "", "conversation": "c-1"}
    for stream in (
        deltas({"content": "a", "detail": [{"text": "a"}]}, {"content": "b"}),
        deltas({"content": "a"}, {"content": "b", "detail": {"token": "b"}}),
        deltas(opening, {"content": "ab"}, ids=False),
    ):
        assert (stream.text, stream.fault()) == ("ab", None)
        assert stream.note("p").values == {"fields": next(iter(stream.unread))}
        assert not stream.note("p").hard


def test_what_is_known_and_no_text_is_no_finding() -> None:
    event = chunk("a", (1,), finish="stop", system_fingerprint="x", service_tier="y")
    event["choices"][0] |= {
        "logprobs": {"content": [{"token": "a"}]}, "stop_reason": "</s>", "routed_experts": "AAA=",
        "native_finish_reason": "eos", "content_filter_results": {"hate": {"severity": "safe"}},
    }  # fmt: skip
    stream = read(sent(event, usage(1)))

    assert (stream.text, stream.unread, stream.fault()) == ("a", set(), None)


def test_the_other_endpoint_is_read_alike() -> None:
    stream = read(sent(raw_chunk("a", (1,)), raw_chunk("b", (2,), finish="length"), usage(2)))
    assert (stream.text, stream.parts, stream.fault()) == ("ab", None, None)
    other = raw_chunk("", (1,))
    other["choices"][0]["answer"] = other["choices"][0].pop("text") + "b"
    assert "answer" in str(read(sent(other, raw_chunk("a", (2,), finish="stop"), usage(2))).fault())


def test_tokens_that_never_came_are_no_answer() -> None:
    assert "8 tokens" in str(read(sent(chunk(finish="stop"), usage(8))).fault())
    assert read(sent(chunk(finish="stop"), usage(1))).fault() is None  # the end alone


def test_a_second_answer_was_not_asked_for() -> None:
    other = chunk("b", (2,))
    other["choices"][0]["index"] = 1
    with pytest.raises(BrokenOffError):
        read(sent(chunk("a", (1,)), other))


# The rules for events

BODY = sent(*PIECES, END)
SAID = "Bread is\u2028made\u2029of\x85flour\x0band\x0c\x1c水 🍞"
ODD = sent(chunk(prompt_token_ids=[5]), chunk(SAID[:9], (1,)), chunk(SAID[9:], (2,), finish="stop"), usage(2))


def same(stream: Stream, text: str = TEXT) -> bool:
    known = text, None, ([5, 6, 7] if text == TEXT else [5])
    return (stream.text, stream.fault(), stream.prompt_ids) == known


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(BODY + b"data:[DONE]\n\n", id="no space before DONE"),
        pytest.param(BODY.replace(b"data: ", b"data:") + b"data: [DONE]\n\n", id="no space"),
        pytest.param(BODY.replace(b"\n", b"\r\n"), id="CRLF"),
        pytest.param(BODY.replace(b"\n", b"\r"), id="CR"),
        pytest.param(BODY.replace(b"\n\n", b"\r\n\n"), id="both"),
        pytest.param(b"\xef\xbb\xbf" + BODY, id="byte-order mark"),
        pytest.param(b": hi\n\n" + BODY.replace(b"data: ", b":\ndata: "), id="comments"),
        pytest.param(b"retry: 9\n\nid: 1\n\nevent: ping\n\nid\n\n" + BODY, id="events without data"),
        pytest.param(BODY.replace(b"data: ", b"id: 4\nevent: message\ndata: "), id="names and ids"),
        pytest.param(BODY.replace(b'"choices"', b'\ndata:"choices"'), id="data over two lines"),
        pytest.param(BODY.replace(b"data: ", b"other: x\nx\ndata: "), id="fields that are not known"),
        pytest.param(sent("null", '{"choices": null}', "{}", "") + BODY, id="nothing in them"),
        pytest.param(BODY + b"data: [DO", id="what is cut off is no event"),
    ],
)
def test_every_form_of_a_stream_is_the_same_answer(body: bytes) -> None:
    assert same(read(body))
    assert same(read(*(body[at : at + 1] for at in range(len(body)))))


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_stream_may_be_cut_at_every_byte(end: bytes, mark: bytes) -> None:
    body = mark + ODD.replace(b"\n", end)
    assert [at for at in range(len(body) + 1) if not same(read(body[:at], body[at:]), SAID)] == []


@pytest.mark.parametrize(
    "last",
    [
        sent({"error": {"message": "engine died", "code": 500}}),
        sent({"error": "engine died"}),
        sent({"error": "engine died"} | chunk("more", (9,))),
        sent({"object": "error", "message": "engine died", "code": 500}, "[DONE]"),
        sent({"detail": "engine died"}),
        sent("engine died"),
        sent('"engine died"'),
        sent('["engine died"]'),
        sent({"choices": "engine died"}),
        sent({"choices": ["engine died"]}),
        sent({"choices": [{"delta": "engine died"}]}),
        sent({"choices": [], "usage": "engine died"}),
        b'event: error\ndata: {"message": "engine died"}\n\n',
        b"event: error\ndata: engine died\n\n",
        b'event: error\ndata: {"choices": [], "why": "engine died"}\n\n',
    ],
    ids=str,
)
def test_every_error_event_is_quoted(last: bytes) -> None:
    for before in (b"", sent(*PIECES[:3]), BODY):
        with pytest.raises(BrokenOffError, match="engine died"):
            read(before + last)


@pytest.mark.parametrize("body", [b"<html>\n\nengine died\n\n", b'{"error": "engine died"}', b"engine died"])
def test_what_is_no_stream_is_quoted(body: bytes) -> None:
    assert "engine died" in str(read(body).fault())


def test_what_was_cut_off_is_quoted() -> None:
    fault = str(read(sent(*PIECES[:3]) + b'data: {"error": "engine died"}').fault())
    assert "engine died" in fault
    assert "Bread" not in fault


def test_a_long_event_before_it_is_not_quoted() -> None:
    body = sent(chunk(prompt_token_ids=list(range(30_000))), *PIECES[1:3]) + b"data: engine died"
    for size in (1, 7, 4096, len(body)):
        fault = str(read(*(body[at : at + size] for at in range(0, len(body), size))).fault())
        assert fault.partition(": ")[2] == "data: engine died"


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(UnicodeDecodeError):
        read(BODY.replace(b"flour", b"fl\xffur"))


# How it ended


@pytest.mark.parametrize("end", ["stop", "length", "tool_calls"])
def test_a_known_end_is_one(end: str) -> None:
    assert deltas({"content": "a"}, finish=end).fault() is None


@pytest.mark.parametrize(
    "end", ["abort", "error", "repetition", "content_filter", "Stop", "eos", 7, ["stop"]]
)
def test_any_other_end_is_named(end: Any) -> None:
    assert str(end) in str(deltas({"content": "a"}, finish=end).fault())
    for ends in ([end, "stop"], ["stop", end]):
        events = [chunk("a", (1,), finish=one) for one in ends]
        assert str(end) in str(read(sent(*events, usage(2))).fault())


@pytest.mark.parametrize("end", [None, ""])
def test_without_an_end_there_is_no_answer(end: str | None) -> None:
    assert read(sent(*PIECES[:-1], chunk(" water", (7, 8), finish=end), END)).fault()


def test_a_good_stream_has_counts_whatever_the_order_of_its_fields() -> None:
    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: turned(value[name]) for name in reversed(value)}
        return [turned(one) for one in value] if isinstance(value, list) else value

    events: Iterable[Any] = (turned(event) for event in GOOD)
    for stream in (read(sent(*GOOD)), read(sent(*events))):
        assert same(stream)
        assert (stream.pieces, stream.ids) == ([1, 1, 3, 1, 2], [1, 2, 3, 4, 5, 6, 7, 8])
        assert stream.usage == END["usage"]
        assert stream.spec == spec()


@pytest.mark.parametrize(
    ("given", "tokens"),
    [
        ([({"reasoning": "a"}, 1), ({"reasoning": "b"}, 2), ({"content": "c"}, 3)], (3, 3)),
        ([({"reasoning": "a", "content": "b"}, 4), ({"content": "c"}, 1)], (4, 1)),
        ([({}, 1), ({"reasoning": "a"}, 2), ({}, 1), ({"content": "c"}, 1), ({}, 1)], (4, 2)),
        ([({"content": "a"}, 2), ({"content": "b"}, 1)], None),
    ],
)
def test_the_tokens_of_a_part_are_those_that_came_with_its_text(
    given: list[tuple[dict[str, Any], int]], tokens: tuple[int, ...] | None
) -> None:
    events = [chunk(ids=(7,) * count) for _, count in given]
    for event, (delta, _) in zip(events, given, strict=True):
        event["choices"][0]["delta"] = delta
    total = sum(count for _, count in given)
    whole = read(sent(*events, chunk(finish="stop"), usage(total), "[DONE]"))
    short = read(sent(*events, chunk(finish="stop"), usage(total + 1), "[DONE]"))

    assert (whole.part_tokens, short.part_tokens) == (tokens, None)


def test_openai_still_has_the_class_that_reads_streams_and_no_version_is_allowed_that_nobody_tried() -> None:
    """It is not published. Where it is gone: read streams otherwise, or lower the bound in pyproject.toml."""
    reader = importlib.import_module("openai._streaming").SSEDecoder()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (asked,) = [one for one in project["dependencies"] if one.startswith("openai")]
    major = int(version("openai").partition(".")[0])

    assert callable(reader.aiter_bytes)
    assert f"<{major + 1}" in asked


# When its tokens came


def came(
    monkeypatch: pytest.MonkeyPatch, *clumps: list[int], step_s: float = 0.005, ids: bool = True
) -> Stream:
    """An answer of pieces with so many tokens. Those of a clump come at one time, the next a step later."""
    clock, stream = 100.0, Stream()
    monkeypatch.setattr("harness.measure.stream.time.perf_counter", lambda: clock)
    for clump in clumps:
        for tokens in clump:
            clock += 0.00002
            stream.take(json.dumps(chunk("a", tuple(range(tokens)) if ids else ())))
        clock += 0.005
    return stream


@pytest.mark.parametrize("ids", [True, False])
@pytest.mark.parametrize(
    "clumps",
    [
        pytest.param([[96]], id="all in one piece"),
        pytest.param([[1] * 96], id="a proxy held the pieces back"),
        pytest.param([[1] * 60, *[[1]] * 36], id="or most of them"),
        pytest.param([[1] * 32, [1] * 32, [1] * 32], id="they came in clumps"),
    ],
)
def test_of_tokens_that_came_together_nobody_knows_when_the_first_was_there(
    clumps: list[list[int]], monkeypatch: pytest.MonkeyPatch, *, ids: bool
) -> None:
    assert came(monkeypatch, *clumps, ids=ids).held_back(96)


def test_a_large_first_piece_holds_tokens_back_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert came(monkeypatch, [60], *[[1]] * 36).held_back(96)


@pytest.mark.parametrize(
    ("clumps", "tokens"),
    [
        pytest.param([[1]] * 96, 96, id="a step at a time"),
        pytest.param([[1], *[[3]] * 31, [2]], 96, id="drafted"),
        pytest.param([[1], *[[10]] * 9, [5]], 96, id="pieces of ten, as --stream-interval makes them"),
        pytest.param([[1, 3], *[[1]] * 92], 96, id="a busy client read the first two steps at once"),
        pytest.param([[1], [1] * 60, *[[1]] * 35], 96, id="what waited later"),
        pytest.param([[1]], 1, id="one token"),
        pytest.param([[1] * 20], 20, id="too few to say"),
        pytest.param([], 0, id="nothing"),
    ],
)
def test_of_tokens_that_came_as_they_were_made_it_is_known(
    clumps: list[list[int]], tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not came(monkeypatch, *clumps).held_back(tokens)


def test_pieces_without_token_ids_hold_characters_of_several_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not came(monkeypatch, *[[3]] * 32, ids=False).held_back(96)
