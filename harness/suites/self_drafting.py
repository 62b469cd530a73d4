"""The target drafts for itself: what it accepts, against what its own probabilities say."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from harness.config.cells import ServerSpec, server_spec
from harness.config.engine_arguments import underscored
from harness.config.prompts import Prompt
from harness.config.stack import Drafter, Profile, Sampling, Stack
from harness.engine.server import Server
from harness.engine.watchdog import STALL_SECONDS
from harness.measure.probe import MOST_LOGPROBS, Answer, ask, prompt_logprobs
from harness.provenance.record import patches_of
from harness.results.records import Record
from harness.suites.known_answers import (
    DraftToken,
    Result,
    draft_token_of,
    judge_greedy,
    judge_sampled,
    verified,
)
from harness.text.console import Say

K = 3
ITSELF = {"name": "self", "method": "draft_model", "model": "target", "k": (K,)}
"""The drafter that is the target."""
TEMPERATURE = 0.7
MOST_TOKENS = 64
"""Of an answer."""
_OFTEN = 24
"""Tokens in the random drafter's vocabulary: those that the target says most often."""
NO_STEPS = "— (the engine does not report single steps, and its stream does not show them)"


class Check(Record):
    """One known answer, and what was seen."""

    name: str
    outcome: Result
    text: str

    def __str__(self) -> str:
        return f"{self.name}: {self.outcome}: {self.text}"


class SelfCheck(Record):
    """What the self-check of an engine with a target found."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    engine: str
    patches: tuple[str, ...]
    checks: tuple[Check, ...]
    often: tuple[int, ...] = ()
    """The tokens that stand most often in the answers at T=0."""
    took_s: float | None = None
    """Seconds, with the start of its server."""

    @property
    def broken(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.outcome == "broken")

    def sentence(self) -> str:
        """What is broken, in one sentence."""
        what = "; ".join(f"{check.name}: {check.text}" for check in self.broken)
        named = f"patches in force: {', '.join(self.patches)}" if self.patches else "no patch is in force"
        return (
            f"the instrument is broken: {self.engine} with this target does not give what is known, so "
            f"nothing measured here would be true: {what} ({named}); patch the engine"
        )


def self_spec(stack: Stack, *, prefix_cache: bool = True) -> ServerSpec:
    """The server on which the target of a stack drafts for itself, whatever drafters the stack has."""
    itself = Drafter.model_validate(ITSELF)
    return with_logprobs(server_spec(stack, itself, K, prefix_cache=prefix_cache))


def with_logprobs(spec: ServerSpec) -> ServerSpec:
    """The same server, allowed to return as many log probabilities as we ask for."""
    if "max_logprobs" in underscored(spec.args):
        return spec
    return dataclasses.replace(spec, args={**spec.args, "max_logprobs": MOST_LOGPROBS})


def check_itself(
    server: Server,
    prompts: Sequence[Prompt],
    *,
    say: Say,
    max_tokens: int = MOST_TOKENS,
    stall_seconds: float = STALL_SECONDS,
) -> SelfCheck:
    """Let the target on `server` draft for itself at T=0 and at T=0.7, and check what it accepts.

    Raises:
        ServerFailed: the server does not answer, stalls, or gives no log probabilities.
    """
    checks, said = [], Counter[int]()
    for temperature in (0.0, TEMPERATURE):
        say(f"\rdraftgate: self-check: T={temperature:g}, {len(prompts)} prompts")
        count, sampling = len(prompts), Sampling(temperature=temperature)
        profile = Profile(prompts=count, max_tokens=max_tokens, concurrency=count, sampling=sampling)
        answers, hard = ask(server, prompts, profile, stall_seconds=stall_seconds)
        checks.append(_check(server, answers, hard, temperature))
        if not temperature:
            said.update(token for answer in answers for token in answer.ids)
    return SelfCheck(
        engine=f"vLLM {server.version}",
        patches=tuple(str(patch.fault) for patch in patches_of(server) if patch.patched),
        checks=tuple(checks),
        often=tuple(token for token, _ in said.most_common(_OFTEN)),
    )


def name_of(temperature: float) -> str:
    """The check of self-drafting at a temperature."""
    return f"the target drafting for itself at T={temperature:g}"


def _check(server: Server, answers: Sequence[Answer], hard: str, temperature: float) -> Check:
    name = name_of(temperature)
    if hard:
        return Check(name=name, outcome="broken", text=hard)
    if lacks_steps(answers):
        return Check(name=name, outcome="not checked", text=NO_STEPS)
    draft_tokens = [token for answer in answers for token in draft_tokens_of(server, answer, temperature)]
    outcome, text = (judge_sampled if temperature else judge_greedy)(draft_tokens, server.spec.k)
    return Check(name=name, outcome=outcome, text=text)


def lacks_steps(answers: Sequence[Answer]) -> bool:
    """Every answer has checked drafts, and of none is it known which drafts were right."""
    records = [answer.record for answer in answers]
    return bool(records) and all(r.accepted is None and sum(r.histogram) for r in records)


def draft_tokens_of(server: Server, answer: Answer, temperature: float) -> list[DraftToken]:
    """The draft tokens of an answer that were checked, with the target's probabilities of them.

    None are returned where not every step is known: there are undrafted ones, or a histogram alone.

    Raises:
        ServerFailed: the server gives no log probabilities.
    """
    record = answer.record
    if record.accepted is None or record.drafted is None or record.undrafted:
        return []
    # At T=0 only how far the two likeliest are apart matters. A hundred take seconds an answer.
    ids, most = [*answer.prompt_ids, *answer.ids], MOST_LOGPROBS if temperature else 2
    logprobs = prompt_logprobs(server, ids, most=most)
    start = len(answer.prompt_ids)
    return [
        draft_token_of(position, logprobs[start + index], temperature, accepted=accepted)
        for index, position, accepted in verified(record.accepted, record.drafted, len(answer.ids))
    ]
