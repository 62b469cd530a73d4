"""What an engine tells of texts: it is read and usable, or refused in a sentence that says where.

Inputs and their number are those of `tests.factories.damage`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from harness.config.prompts import Prompt
from harness.engine.server import Server
from harness.errors import DraftgateError
from harness.measure.chat_template import shell_of
from harness.measure.probe import Answer, Tokens
from harness.suites import self_drafting
from harness.suites.endpoints import VARIANTS, rendered
from harness.suites.known_answers import judge_greedy, judge_sampled
from tests.component.vllm_like import Reply, VllmLike, vllm_like
from tests.factories.damage import damaged, fuzz, harmless, json_of
from tests.factories.records import prompt_record, server_spec


@pytest.fixture(scope="module")
def vllm() -> Iterator[VllmLike]:
    with vllm_like() as fake:
        yield fake


def server_at(url: str) -> Server:
    return Server(
        url=url, key="sk-secret", spec=server_spec(k=2), model="tiny", start_id="f00d", version="0.32.0",
        attached=True, per_request=True, log=None,
    )  # fmt: skip


# What an engine says of a text

ANSWER = Answer(
    record=prompt_record(histogram=(1, 1, 0), accepted=(1, 0), drafted=(2, 2), draft_tokens=4, undrafted=0),
    prompt_ids=(1, 2),
    ids=(7, 8, 9, 10),
)
TOLD: dict[str, Any] = {
    "choices": [
        {
            "prompt_logprobs": [
                None,
                *(
                    {str(i): {"logprob": -0.3, "rank": 1}, str(i + 1): {"logprob": -1.5, "rank": 2}}
                    for i in range(5)
                ),
            ]
        }
    ]
}


@fuzz
@given(json_of(TOLD) | damaged(json.dumps(TOLD).encode()), st.sampled_from((0.0, 0.7)))
@example(json.dumps({"choices": [{"prompt_logprobs": [None]}]}).encode(), 0.0)
@example(json.dumps({"choices": [{"prompt_logprobs": [None] * 6}]}).encode(), 0.7)
@example(json.dumps({"choices": [{"prompt_logprobs": [{"5": {"logprob": 800.0}}] * 6}]}).encode(), 0.7)
@example(json.dumps({"choices": [{"prompt_logprobs": [{"5": {"logprob": float("nan")}}] * 6}]}).encode(), 0.7)
def test_the_probabilities_of_a_text(vllm: VllmLike, content: bytes, temperature: float) -> None:
    vllm.replies["/v1/completions"] = Reply(content)
    try:
        draft_tokens = self_drafting.draft_tokens_of(server_at(vllm.url), ANSWER, temperature)
    except DraftgateError as error:
        assert vllm.url in str(error)  # noqa: PT017 - a refusal is one of two good ends
        return
    assert len(draft_tokens) == 3
    assert all(0 <= place.chance <= 1 and place.gap >= 0 for place in draft_tokens)
    harmless(judge_greedy(draft_tokens, 2)[1] + judge_sampled(draft_tokens, 2)[1])


TOKENS = {"count": 3, "max_model_len": 64, "tokens": [1, 5, 9]}
TEXT = {"prompt": "<s>a"}


@fuzz
@given(json_of(TOKENS) | damaged(json.dumps(TOKENS).encode()), json_of(TEXT))
def test_the_tokens_of_a_text(vllm: VllmLike, content: bytes, text: bytes) -> None:
    vllm.replies |= {"/tokenize": Reply(content), "/detokenize": Reply(text)}
    tokens = Tokens(server_at(vllm.url))
    with contextlib.suppress(DraftgateError):
        shell = shell_of(tokens)
        asked = (Prompt(id="p", language="en", text="t"),)
        for variant in VARIANTS:
            for one in rendered(asked, variant, tokens=tokens, shell=shell):
                json.dumps(dataclasses.asdict(one))
    with contextlib.suppress(DraftgateError):
        tokens.text([1]).encode("utf-8", "surrogatepass")
