from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from harness.config.cells import FixedLength
from harness.config.prompts import Prompt
from harness.config.stack import Profile, Sampling
from harness.engine.metrics import SpecCounters
from harness.measure.client import Client
from harness.results.records import PromptRecord
from tests.component.vllm_like import Reply, VllmLike, as_events, as_json, vllm_like
from tests.factories.streams import CHAT, GOOD, PIECES, RAW, chunk, raw_chunk, spec, usage

KEY = "sk-very-secret-0123456789"
PROMPT = Prompt(id="instruct-001", language="en", text="Tell me about bread.")


Ask = Callable[..., PromptRecord]


@pytest.fixture
def ask(vllm: VllmLike) -> Ask:
    """Sends one prompt to the fake, which answers with `reply` on both endpoints."""

    def sent(
        reply: Reply,
        *,
        k: int = 2,
        endpoint: str = "chat",
        timeout_s: float = 10,
        salt: str | None = "salt",
        url: str = vllm.url,
        counters: Callable[[], SpecCounters] | None = None,
    ) -> PromptRecord:
        vllm.replies.update({CHAT: reply, RAW: reply})
        profile = Profile(prompts=1, max_tokens=64, sampling=Sampling(temperature=0.7, top_k=40, min_p=0.1))

        async def once() -> PromptRecord:
            async with Client(
                url=url, key=KEY, model="tiny", endpoint=endpoint, profile=profile, k=k, server="f00d",
                timeout_s=timeout_s,
            ) as client:  # fmt: skip
                return await client.ask(
                    PROMPT, repeat=1, seed=42, salt=salt, origin=0.0, segment=3, counters=counters
                )

        return asyncio.run(once())

    return sent


def counters(**changes: Any) -> SpecCounters:
    values: dict[str, Any] = {
        "present": True, "drafts": 0, "draft_tokens": 0, "accepted": 0, "per_position": (0, 0),
        "generated": 0, "prompted": 0, "finished": 0, "iterations": 0, "cached": 0, "running": 0,
        "waiting": 0, "kv_usage": 0.0, "started": 1.0,
    }  # fmt: skip
    return SpecCounters(**values | changes)


class ScriptedCounters:
    """Fake of /metrics: one reading before the answer, another after it, each given twice."""

    def __init__(self, before: SpecCounters, after: SpecCounters) -> None:
        self._readings = iter([before, before, after, after])

    def __call__(self) -> SpecCounters:
        return next(self._readings)


# A good answer


def test_a_good_stream_becomes_a_record(ask: Ask) -> None:
    record = ask(as_events(*GOOD))

    assert record.findings == ()
    assert (record.prompt, record.repeat, record.seed, record.language) == ("instruct-001", 1, 42, "en")
    assert (record.server, record.segment) == ("f00d", 3)
    assert record.text == "Bread is made of flour and water"
    assert (record.finish, record.output_tokens, record.prompt_tokens) == ("stop", 8, 3)
    assert (record.source, record.histogram, record.draft_tokens) == ("request", (1, 1, 1), 6)
    assert (record.accepted, record.drafted, record.undrafted) == ((0, 2, 1), (2, 2, 2), 1)
    assert (record.token_ids, record.steps) == ((1, 2, 3, 4, 5, 6, 7, 8), (1, 3, 1, 2))
    assert record.accepted_by_step == (0, 2, -1, 1)
    assert record.ttft_s is not None
    assert record.total_s is not None
    assert 0 < record.ttft_s <= record.total_s


def test_an_answer_that_comes_at_one_time_does_not_show_its_first_token(ask: Ask) -> None:
    record = ask(as_events(chunk("a", (1,) * 24, finish="stop"), usage(24), "[DONE]"), k=0)

    assert (record.finish, record.output_tokens, record.ttft_s, record.findings) == ("stop", 24, None, ())
    assert record.total_s


def test_the_hashes_are_of_the_text_and_of_the_rendered_tokens(ask: Ask) -> None:
    record = ask(as_events(*GOOD))

    # sha256 of "Bread is made of flour and water" and of "[5, 6, 7]"
    assert (record.text_hash, record.prompt_hash) == ("c30e0543c91d381a", "c4461cca81cc2d79")


def test_without_rendered_tokens_the_hash_is_of_the_text(ask: Ask) -> None:
    record = ask(as_events(*GOOD[1:]))

    assert record.prompt_hash == "f7cf533224dce2f9"  # sha256 of "Tell me about bread."


def test_the_raw_endpoint_gives_the_same_record(ask: Ask) -> None:
    pieces = [
        raw_chunk(" Bread", (1,)),
        raw_chunk(" is", (2,)),
        raw_chunk("\n燈", (3, 4, 5), finish="length"),
    ]

    steps = spec(acceptance_histogram=[1, 0, 1], per_step_accepted=[0, 2], per_step_drafted=[1, 2])

    record = ask(as_events(*pieces, usage(5, steps), "[DONE]"), endpoint="raw")

    assert record.findings == ()
    assert (record.text, record.finish) == (" Bread is\n燈", "length")
    assert record.prompt_hash == "0b30afccf94ef042"  # sha256 of "[9, 8, 7]"
    assert (record.histogram, record.undrafted) == ((1, 0, 1), 0)


def test_an_engine_that_reports_the_histogram_alone_leaves_the_steps_unknown(ask: Ask) -> None:
    alone = {"acceptance_histogram": [1, 1, 1], "num_draft_tokens": 6}

    record = ask(as_events(*PIECES, usage(8, alone), "[DONE]"))

    assert record.findings == ()
    assert (record.accepted, record.drafted, record.histogram) == (None, None, (1, 1, 1))


def test_pieces_that_are_not_what_the_steps_accepted_are_not_taken_for_steps(ask: Ask) -> None:
    """One piece holds parts of two steps, as many pieces as steps all the same."""
    pieces = (*PIECES[:2], chunk(" is made", (2, 3)), chunk(" of flour", (4, 5)), *PIECES[4:])

    record = ask(as_events(*pieces, usage(8, spec()), "[DONE]"))

    assert record.findings == ()
    assert record.undrafted == 1
    assert (record.steps, record.accepted_by_step) == (None, None)
    assert record.token_ids == (1, 2, 3, 4, 5, 6, 7, 8)


def test_token_ids_that_are_not_all_of_them_are_not_kept(ask: Ask) -> None:
    pieces = (*PIECES[:-1], chunk(" water", (7,), finish="stop"))

    assert ask(as_events(*pieces, usage(8, spec()), "[DONE]")).token_ids is None


def test_a_server_that_returns_no_token_ids_still_gives_a_record(ask: Ask) -> None:
    pieces = [chunk(piece["choices"][0]["delta"]["content"]) for piece in PIECES[1:-1]]

    record = ask(as_events(*pieces, chunk(" water", finish="stop"), usage(8, spec()), "[DONE]"))

    assert (record.findings, record.output_tokens) == ((), 8)
    assert (record.token_ids, record.steps, record.accepted) == (None, None, (0, 2, 1))


def test_without_a_drafter_every_token_is_a_step(ask: Ask) -> None:
    record = ask(as_events(*PIECES, usage(8), "[DONE]"), k=0)

    assert record.findings == ()
    assert (record.source, record.histogram, record.draft_tokens, record.undrafted) == ("none", (0,), 0, 7)


def test_acceptance_read_from_the_counters(ask: Ask) -> None:
    moved = counters(drafts=3, draft_tokens=6, accepted=3, per_position=(2, 1), iterations=5, generated=8)

    record = ask(as_events(*PIECES, usage(8), "[DONE]"), counters=ScriptedCounters(counters(), moved))

    assert record.findings == ()
    assert (record.source, record.histogram, record.draft_tokens) == ("counters", (1, 1, 1), 6)
    assert (record.accepted, record.undrafted) == (None, 1)


def test_counters_and_the_pieces_of_the_stream_tell_each_step(ask: Ask) -> None:
    moved = counters(drafts=4, draft_tokens=8, accepted=4, per_position=(2, 2), iterations=5, generated=8)

    record = ask(as_events(*PIECES, usage(8), "[DONE]"), counters=ScriptedCounters(counters(), moved))

    assert record.findings == ()
    # The last step committed three tokens, of which the answer holds two.
    assert (record.accepted, record.drafted) == ((0, 2, 0, 2), (2, 2, 2, 2))


# What is sent


def test_every_sampling_parameter_is_sent_and_no_end_is_ignored(ask: Ask, vllm: VllmLike) -> None:
    ask(as_events(*GOOD))

    [(path, headers, body)] = vllm.requests
    assert path == CHAT
    assert headers["authorization"] == f"Bearer {KEY}"
    assert body == {
        "model": "tiny", "messages": [{"role": "user", "content": "Tell me about bread."}], "max_tokens": 64,
        "temperature": 0.7, "top_p": 1.0, "top_k": 40, "min_p": 0.1, "presence_penalty": 0.0,
        "frequency_penalty": 0.0, "repetition_penalty": 1.0, "n": 1, "seed": 42, "stream": True,
        "stream_options": {"include_usage": True}, "return_token_ids": True, "cache_salt": "salt",
    }  # fmt: skip


def test_without_a_salt_none_is_sent_and_raw_sends_the_text_alone(ask: Ask, vllm: VllmLike) -> None:
    ask(as_events(*GOOD), endpoint="raw", salt=None)

    [(path, _, body)] = vllm.requests
    assert path == RAW
    assert body["prompt"] == "Tell me about bread."
    assert "cache_salt" not in body
    assert "messages" not in body


# A request that failed


def failed_text(record: PromptRecord) -> str:
    """The one finding of a record that is no measurement."""
    [finding] = record.findings
    assert (finding.code, finding.hard, record.finish, record.source) == (
        "request-failed",
        True,
        "error",
        "none",
    )
    assert (record.histogram, record.undrafted) == ((0, 0, 0), 0)
    assert record.failed
    assert finding.text.startswith("instruct-001: ")
    assert KEY[:4] not in finding.text
    assert "\n" not in finding.text
    for word in ("pydantic", "validation error", "input_value", "int()", "NoneType", "subscript"):
        assert word not in finding.text
    return finding.text


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        pytest.param(
            as_json({"error": {"message": "engine is dead", "code": 500}}, 500),
            "engine is dead",
            id="500",
        ),
        pytest.param(
            Reply(b"<html>bad\ngateway", 502, "text/html"),
            "the server answered 502: <html>bad gateway",
            id="not JSON",
        ),
        pytest.param(
            as_json({"error": {"message": f"bad header: Bearer {KEY}"}}, 401),
            "the server answered 401: ",
            id="the key comes back",
        ),
        pytest.param(as_json({}, 404), "the server answered 404: ", id="404"),
        pytest.param(Reply(b"x" * 480 + KEY.encode(), 500), "x", id="the key comes back at the cut"),
        pytest.param(Reply((b"x" * 480 + KEY.encode()) * 40), "xxx", id="the same, and no stream"),
        pytest.param(as_events(*PIECES[:3], cut=True), "Error", id="cut in the middle"),
        pytest.param(as_events(*PIECES[:3]), "the stream ended before the answer did", id="ends early"),
        pytest.param(as_events(), "the stream ended before the answer did", id="empty"),
        pytest.param(
            as_events(*PIECES, "[DONE]"), "without token counts (include_usage)", id="no token counts"
        ),
        pytest.param(as_events(*PIECES[:3], '{"id": "chatcm'), '{"id": "chatcm', id="torn JSON"),
        pytest.param(as_events(*PIECES[:3], "nonsense"), ": nonsense", id="garbage"),
        pytest.param(as_events(*PIECES[:3], "[1, 2]"), "[1, 2]", id="a list"),
        pytest.param(as_events(*PIECES[:3], "null"), "the stream ended before the answer did", id="null"),
        pytest.param(as_events(*PIECES[:3], {"choices": 4}), '{"choices": 4}', id="another shape"),
        pytest.param(
            as_events(*PIECES[:3], {"error": {"message": "EngineCore died", "code": 500}}),
            "EngineCore died",
            id="error in the stream",
        ),
        pytest.param(Reply(raw=b"SSH-2.0-OpenSSH_9.6\r\n"), "Error", id="not HTTP"),
        pytest.param(Reply(raw=b""), "Error", id="closed at once"),
        pytest.param(
            as_events(*PIECES, usage(8), "[DONE]"),
            "the response holds no metrics.speculative_decoding",
            id="no acceptance",
        ),
        pytest.param(
            as_events(
                *PIECES, usage(8, spec(acceptance_histogram=[1, 1, 1, 0], per_step_accepted=None)), "[DONE]"
            ),
            "the engine reports k = 3, the cell is for 2",
            id="another k",
        ),
        pytest.param(
            as_events(*PIECES, usage(8, spec(acceptance_histogram=[2, 1, 0])), "[DONE]"),
            "steps [0, 2, 1] do not make the histogram [2, 1, 0]",
            id="steps and histogram disagree",
        ),
        pytest.param(
            as_events(*PIECES, usage(8, spec(per_step_accepted=[0, 3, 1])), "[DONE]"),
            "a verify step accepted 3 tokens, but k is 2",
            id="a step beyond k",
        ),
        pytest.param(
            as_events(*PIECES, usage(8, spec(per_step_drafted=[2])), "[DONE]"),
            "3 accepted counts, but 1 drafted ones",
            id="steps of two lengths",
        ),
        pytest.param(
            as_events(*PIECES, usage(8, {"num_draft_tokens": 3}), "[DONE]"),
            "does not add up: 'acceptance_histogram'",
            id="no histogram",
        ),
        pytest.param(
            as_events(*PIECES, usage(8, spec(acceptance_histogram=None)), "[DONE]"),
            "does not add up: ",
            id="histogram null",
        ),
        pytest.param(
            as_events(*PIECES, usage(8) | {"metrics": [1]}, "[DONE]"), '"metrics": [1]', id="metrics a list"
        ),
        pytest.param(
            as_events(*PIECES, usage(8) | {"metrics": {"speculative_decoding": "on"}}, "[DONE]"),
            '"speculative_decoding": "on"',
            id="acceptance a text",
        ),
        pytest.param(
            as_events(*PIECES, usage(8, spec(acceptance_histogram=[1, "1", 1])), "[DONE]"),
            "'acceptance_histogram' holds what is no count: [1, \"1\", 1]",
            id="a count is a text",
        ),
        pytest.param(
            as_events(*PIECES, usage(8, spec(num_draft_tokens=None)), "[DONE]"),
            "'num_draft_tokens' holds what is no count: [null]",
            id="a count is null",
        ),
        pytest.param(
            as_events(*PIECES, usage(8, spec(per_step_accepted=[0, 2, -1])), "[DONE]"),
            "'per_step_accepted' holds what is no count",
            id="a count is negative",
        ),
        pytest.param(
            as_events(*PIECES, usage(8, spec(per_step_drafted="222")), "[DONE]"),
            "'per_step_drafted' holds what is no count",
            id="counts are a text",
        ),
        *(
            pytest.param(
                as_events(*PIECES, usage(8) | {"usage": counts}, "[DONE]"),
                "without token counts: " + says,
                id=says,
            )
            for counts, says in (
                ({"completion_tokens": 8}, "'prompt_tokens' is missing"),
                ({"prompt_tokens": 3}, "'completion_tokens' is missing"),
                (
                    {"prompt_tokens": 3, "completion_tokens": None},
                    "'completion_tokens' holds what is no count",
                ),
                ({"prompt_tokens": -3, "completion_tokens": 8}, "'prompt_tokens' holds what is no count"),
                (
                    {"prompt_tokens": 3, "completion_tokens": 8.5},
                    "'completion_tokens' holds what is no count",
                ),
            )
        ),
        pytest.param(
            as_events(*PIECES, usage(7, spec()), "[DONE]"),
            "8 tokens came, and the server counts 7",
            id="more tokens than counted",
        ),
        pytest.param(
            as_events(chunk("Hi", finish="stop"), usage(0), "[DONE]"),
            "1 tokens came, and the server counts 0",
            id="text and no tokens",
        ),
        pytest.param(as_events(*PIECES[:3], "[" * 100_000), "the server broke off: [[", id="nested deeply"),
        pytest.param(
            as_events(*PIECES, usage(8) | {"usage": {}}, "[DONE]"),
            "without token counts (include_usage)",
            id="empty usage",
        ),
    ],
)
def test_a_request_that_failed_is_a_record_that_says_why(ask: Ask, reply: Reply, says: str) -> None:
    assert says in failed_text(ask(reply))


def test_a_request_that_failed_keeps_what_came_back(ask: Ask) -> None:
    record = ask(as_events(*PIECES[:4], cut=True))

    assert record.text == "Bread is made of flour"
    assert (record.output_tokens, record.prompt_tokens) == (5, 3)


def test_a_server_that_is_silent_is_given_up(ask: Ask) -> None:
    text = failed_text(ask(as_events(*PIECES[:3], stall=True), timeout_s=0.3))

    assert "Timeout" in text


def test_a_long_answer_may_take_longer_than_a_server_may_be_silent(ask: Ask) -> None:
    reply = as_events(*PIECES, usage(8, spec()), "[DONE]", pause=0.3)

    assert ask(reply, timeout_s=1.5).findings == ()


def test_a_server_that_is_gone_is_named(ask: Ask) -> None:
    with vllm_like() as gone:
        url = gone.url

    assert "Connect" in failed_text(ask(as_events(), url=url))


def test_nothing_is_sent_twice(ask: Ask, vllm: VllmLike) -> None:
    ask(as_json({"error": {"message": "busy"}}, 503))

    assert len(vllm.requests) == 1


def test_text_that_is_no_unicode_is_a_failed_request(ask: Ask) -> None:
    event = json.dumps(chunk("\ud83d", (1,), finish="stop"))

    record = ask(as_events(event, usage(1, spec()), "[DONE]"))

    assert record.failed


def test_counters_of_another_k_do_not_add_up(ask: Ask) -> None:
    moved = counters(drafts=3, draft_tokens=6, accepted=3, per_position=(2, 1, 0))

    record = ask(as_events(*PIECES, usage(8), "[DONE]"), counters=ScriptedCounters(counters(), moved))

    assert "the engine reports k = 3, the cell is for 2" in failed_text(record)


def test_a_connection_that_the_server_closed_is_not_called_a_timeout(ask: Ask) -> None:
    text = failed_text(ask(Reply(raw=b"")))

    assert "ServerDisconnectedError: Server disconnected" in text
    assert "timed out" not in text


def test_counters_are_not_read_again_after_a_failure(ask: Ask) -> None:
    record = ask(as_json({}, 500), counters=ScriptedCounters(counters(), counters(drafts=-1)))

    assert "the server answered 500" in failed_text(record)


def test_an_answer_ends_by_itself_unless_its_length_is_fixed(vllm: VllmLike) -> None:
    profile = Profile(prompts=1, max_tokens=64)

    def asked(profile: Profile) -> dict[str, Any]:
        client = Client(
            url=vllm.url, key=KEY, model="tiny", endpoint="chat", profile=profile, k=0, server="f00d",
            timeout_s=1,
        )  # fmt: skip
        extra: dict[str, Any] = client.request(PROMPT, seed=1, salt=None)["extra_body"]
        return extra

    assert asked(FixedLength(**profile.model_dump())) == {**asked(profile), "ignore_eos": True}
    assert "ignore_eos" not in asked(profile)
