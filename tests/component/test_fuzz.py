"""Whatever an engine sends: it is read and usable, or refused in a sentence that says where.

A second's worth of inputs in every run; `DRAFTGATE_FUZZ=long` (make test-all): 100,000, others each time.
"""
# ruff: noqa: PT017 - a refusal is one of two good ends

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest
from hypothesis import given, settings, strategies as st

from harness.config.prompts import Prompt
from harness.config.stack import Profile
from harness.engine.attached import attach
from harness.errors import ServerFailed
from harness.measure.client import Client
from harness.results.records import PromptRecord
from harness.text import render
from tests.component.vllm_like import Reply, VllmLike, vllm_like
from tests.factories.damage import (
    LONG,
    as_bytes,
    damaged,
    fuzz,
    harmless,
    json_of,
)
from tests.factories.metrics_page import PAGE
from tests.factories.records import server_spec
from tests.factories.streams import CHAT, GOOD, RAW, raw_chunk, usage


@pytest.fixture(scope="module")
def vllm() -> Iterator[VllmLike]:
    with vllm_like() as fake:
        yield fake


STREAMS = {
    "chat": list(GOOD[:-1]),
    "raw": [
        raw_chunk("Bread", (1,)),
        raw_chunk(" is", (2, 3), finish="stop"),
        usage(
            3,
            {
                "acceptance_histogram": [0, 1, 0],
                "num_draft_tokens": 2,
                "per_step_accepted": [1],
                "per_step_drafted": [2],
            },
        ),
    ],
}


@st.composite
def streams(draw: st.DrawFn, endpoint: str) -> bytes:
    """Server-sent events, one of them changed, or bytes that were some."""
    events = list(STREAMS[endpoint])
    texts = [as_bytes(event) for event in events]
    at = draw(st.integers(0, len(events) - 1))
    texts[at] = draw(json_of(events[at]))
    body = b"".join(b"data: " + text + b"\n\n" for text in [*texts, b"[DONE]"])
    return draw(
        st.just(body) | st.just(body) | damaged(body) if all(b < 128 for b in body) else st.just(body)
    )


@settings(fuzz, max_examples=fuzz.max_examples if LONG else 5)
@given(st.data(), st.sampled_from(("chat", "raw")), st.sampled_from((0, 2)))
def test_a_stream_of_an_engine(vllm: VllmLike, data: st.DataObject, endpoint: str, k: int) -> None:
    body = data.draw(streams(endpoint))
    reply = Reply(body, kind="text/event-stream")
    vllm.replies.update({CHAT: reply, RAW: reply})

    async def asked() -> PromptRecord:
        async with Client(
            url=vllm.url,
            key="sk-secret",
            model="tiny",
            endpoint=endpoint,
            profile=Profile(prompts=1, max_tokens=8),
            k=k,
            server="f00d",
            timeout_s=10,
        ) as client:
            return await client.ask(
                Prompt(id="p", language="en", text="t"), repeat=0, seed=1, salt=None, origin=0.0
            )

    record = asyncio.run(asked())
    assert record.failed == any(f.code == "request-failed" for f in record.findings)
    assert len(record.histogram) == k + 1
    json.dumps(record.model_dump(mode="json"), ensure_ascii=False, allow_nan=False).encode()
    assert PromptRecord.model_validate_json(record.model_dump_json()) == record


MODELS = {"object": "list", "data": [{"id": "tiny", "object": "model"}]}


@fuzz
@given(json_of(MODELS) | damaged(json.dumps(MODELS).encode()), json_of({"version": "0.32.0"}))
def test_a_server_to_attach_to(vllm: VllmLike, listed: bytes, version: bytes) -> None:
    vllm.replies.update(
        {"/v1/models": Reply(listed), "/version": Reply(version), "/metrics": Reply(PAGE.encode())}
    )
    try:
        found = attach(vllm.url, server_spec(k=3), key=None)
    except ServerFailed as error:
        assert vllm.url in str(error)
    else:
        assert found.model == "tiny"
        harmless(render.visible(found.version))
