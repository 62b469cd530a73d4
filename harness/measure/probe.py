"""Asks a server for answers with token ids, for log probabilities of a text, and for its tokenizer's work."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from harness.config.engine_arguments import underscored
from harness.config.prompts import Prompt
from harness.config.stack import Profile
from harness.engine.http import NOT_SHOWN, NoAnswer
from harness.engine.metrics import settled
from harness.engine.server import Server
from harness.engine.watchdog import STALL_SECONDS, guarded
from harness.errors import ServerFailed
from harness.measure import validity
from harness.measure.client import Client, seed_of
from harness.results.records import CellName, PromptRecord
from harness.results.whole import flaws_of

MOST_LOGPROBS = 100
"""Likeliest tokens asked for at each token of a text."""
_REQUEST_S = 300.0
_ROUNDING = 1e-3
_LEAST = -math.log(2**31)
"""The likeliest of 2**31 tokens that are all as likely: a vocabulary has none less likely."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer: our record of it, and the token ids of the prompt and of the answer."""

    record: PromptRecord
    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]


def ask(
    server: Server,
    prompts: Sequence[Prompt],
    profile: Profile,
    *,
    endpoint: str = "chat",
    repeats: Sequence[int] = (0,),
    stall_seconds: float = STALL_SECONDS,
    template: Mapping[str, Any] | None = None,
) -> tuple[list[Answer], str]:
    """Send prompts as the suites do, each repeat with seeds of its own; `template` is what chat's is told.

    Returns:
        The answers, repeat by repeat in the order of the prompts; and why they are not a measurement (empty
        if they are).

    Raises:
        ServerFailed: /metrics cannot be read, or the server had work and did nothing for `stall_seconds`. It
            is ended then, and evidence lies beside its log.
    """
    with guarded(server, stall_seconds=stall_seconds, note="known answers") as guard:
        try:
            answered = asyncio.run(_ask(server, prompts, profile, endpoint, repeats, template=template))
        except ServerFailed:
            if guard.stalled is None:
                raise
    if guard.stalled:
        raise ServerFailed(
            f"server {server.spec.label} stalled: {guard.stalled.reason}; read its log, and measure again",
            code="server-stalled",
        )
    return answered


async def _ask(
    server: Server,
    prompts: Sequence[Prompt],
    profile: Profile,
    endpoint: str,
    repeats: Sequence[int],
    *,
    template: Mapping[str, Any] | None,
) -> tuple[list[Answer], str]:
    spec = server.spec
    by_counters = server.counters if spec.k and not server.per_request else None
    before, secret = await settled(server.counters), secrets.token_hex(8)
    wanted = [(prompt, repeat) for repeat in repeats for prompt in prompts]
    todo, by_number = iter(enumerate(wanted)), dict[int, Answer]()

    async def worker() -> None:
        last: list[tuple[int, ...]] = []

        def on_tokens(_: str, prompt_ids: Sequence[int], ids: Sequence[int]) -> None:
            last[:] = [tuple(prompt_ids), tuple(ids)]

        async with Client(
            url=server.url, key=server.key, model=server.model, endpoint=endpoint, profile=profile,
            k=spec.k, server=server.start_id, timeout_s=spec.request_timeout_s, on_tokens=on_tokens,
            template=template,
        ) as client:  # fmt: skip
            for number, (prompt, repeat) in todo:  # one iterator for all workers
                record = await client.ask(
                    prompt,
                    repeat=repeat,
                    seed=seed_of(prompt.id, repeat=repeat, base=0),
                    salt=f"{secret}-{number}" if profile.cache == "cold" else None,
                    origin=0.0,
                    counters=by_counters,
                )
                by_number[number] = Answer(record=record, prompt_ids=last[0], ids=last[1])

    # A request whose acceptance is read from counters must run alone.
    await asyncio.gather(*(worker() for _ in range(1 if by_counters else profile.concurrency)))
    answers = [by_number[number] for number in range(len(wanted))]
    delta = await settled(server.counters) - before
    cell = CellName(endpoint=endpoint, language="en", workload="instruct", drafter=spec.drafter, k=spec.k)
    records = [answer.record for answer in answers]
    findings = validity.findings(
        cell,
        records,
        moved=delta.kept(),
        cache="warm",  # the cache is not judged here
        patches=(),
    )
    return answers, "; ".join(flaws_of(findings, records))


def prompt_logprobs(
    server: Server, ids: Sequence[int], *, most: int = MOST_LOGPROBS
) -> list[dict[int, float]]:
    """For each token of a text, log probabilities of the `most` likeliest tokens there, at temperature 1.

    vLLM adds that of the token itself. The first token has none. They come from a prefill without drafts, so
    not by the way that is checked.

    Raises:
        ServerFailed: the server does not return them.
    """
    allowed = underscored(server.spec.args).get("max_logprobs", 20)
    count = min(most, allowed) if isinstance(allowed, int) and allowed > 0 else most
    body = {"model": server.model, "prompt": list(ids), "max_tokens": 1, "prompt_logprobs": count}
    data = server.http.json("/v1/completions", body, timeout_s=_REQUEST_S)
    try:
        lists = data["choices"][0]["prompt_logprobs"]
        by_token = [
            {int(token): float(entry["logprob"]) for token, entry in (here or {}).items()} for here in lists
        ]
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
        by_token = []
    if len(by_token) == len(ids) and all(are_logprobs(here) for here in by_token[1:]):
        return by_token
    raise ServerFailed(
        f"{server.url} returns no usable log probabilities of a prompt (prompt_logprobs): use an engine that "
        "does",
        code="engine-cannot-tell",
    )


def are_logprobs(here: Mapping[int, float]) -> bool:
    """All are finite, at most 0 but for rounding, and one is as likely as a vocabulary allows."""
    values = here.values()
    return any(value > _LEAST for value in values) and all(-math.inf < value <= _ROUNDING for value in values)


class NoTokenizerError(ServerFailed):
    """The server does not show its tokenizer's work."""

    code = "no-answer"


class Tokens:
    """A server's own tokenizer."""

    def __init__(self, server: Server, template: Mapping[str, Any] | None = None) -> None:
        """Nothing is sent yet. `template`: what the chat template is told (`chat_template_kwargs`)."""
        self._server, self._template = server, template
        self.window: int | None = None
        """The server's max_model_len, once it has said it."""

    def chat(self, text: str) -> tuple[int, ...]:
        """Tokens of a user's message, with the template that the server applies.

        Raises:
            ServerFailed: no usable answer.
        """
        told = {"chat_template_kwargs": dict(self._template)} if self._template else {}
        return self._ids({"messages": [{"role": "user", "content": text}], **told})

    def raw(self, text: str, *, special: bool = True) -> tuple[int, ...]:
        """Tokens of a completion's prompt; with `special`, also what the tokenizer puts before every text.

        Raises:
            ServerFailed: no usable answer.
        """
        return self._ids({"prompt": text, "add_special_tokens": special})

    def text(self, ids: Sequence[int]) -> str:
        """The text of tokens, special ones included.

        Raises:
            ServerFailed: no usable answer.
        """
        return str(self._post("detokenize", {"tokens": list(ids)}).get("prompt", ""))

    def _ids(self, body: dict[str, Any]) -> tuple[int, ...]:
        said = self._post("tokenize", body)
        ids, window = said.get("tokens"), said.get("max_model_len")
        self.window = window if type(window) is int else self.window
        if not isinstance(ids, list) or not all(type(i) is int for i in ids):
            raise ServerFailed(
                f"{self._server.url}/tokenize returned no tokens: use a newer engine",
                code="engine-cannot-tell",
            )
        return tuple(ids)

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._server.http.json(f"/{path}", {"model": self._server.model, **body}, timeout_s=30)
        except NoAnswer as error:
            if error.status in NOT_SHOWN:
                raise NoTokenizerError(f"{error}: ask a server that shows /{path}") from None
            raise
