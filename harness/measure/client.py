"""One prompt in, one prompt record out: over `chat` or `raw`, streamed, never retried."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from pydantic import ValidationError

from harness.config.cells import FixedLength
from harness.config.prompts import Prompt, hash_of
from harness.config.stack import Profile
from harness.engine.http import Http
from harness.engine.metrics import SpecCounters, settled
from harness.errors import DraftgateError
from harness.measure.stream import BrokenOffError, Stream, count_of, counts_of
from harness.results.records import Finding, PromptRecord, Source
from harness.stats.acceptance import histogram_of, steps_of_pieces, undrafted_steps, with_undrafted
from harness.text.redaction import MOSTLY_RANDOM, without_keys
from harness.text.validation import first_fault

NOT_REPORTED = "acceptance-not-reported"
"""The `reason` in the finding of a request that was answered without its acceptance."""
_EXCERPT = 500
"""Characters of a message that quotes a server."""
OnTokens = Callable[[str, Sequence[int], Sequence[int]], None]
"""Told a prompt's id, the token ids that it was rendered to, and those of its answer."""


class _NotReportedError(ValueError):
    """The engine says nothing of acceptance in its responses."""


def seed_of(prompt: str, *, repeat: int, base: int) -> int:
    """A prompt's seed: its own, the same on every machine, another one in every repeat."""
    digest = hashlib.sha256(f"{base}/{repeat}/{prompt}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


class InFlight:
    """How many requests were sent and are not answered: the client counts, the watchdog reads."""

    def __init__(self) -> None:
        """None yet."""
        self.count = 0

    def __enter__(self) -> None:
        """One more."""
        self.count += 1

    def __exit__(self, *_: object) -> None:
        """One less, however it ended."""
        self.count -= 1


class Client:
    """Sends the prompts of one cell. Use as an async context manager."""

    def __init__(
        self,
        *,
        url: str,
        key: str,
        model: str,
        endpoint: str,
        profile: Profile,
        k: int,
        server: str,
        timeout_s: float,
        in_flight: InFlight | None = None,
        on_tokens: OnTokens | None = None,
        template: Mapping[str, Any] | None = None,
    ) -> None:
        """Nothing is sent yet.

        `server` is the start id that goes into every record, `template` what chat's template is told.
        """
        self._template = template
        self._in_flight = in_flight or InFlight()
        self._on_tokens = on_tokens
        self._openai = Http(url, key).openai(timeout_s=timeout_s)
        self._model, self._endpoint, self._server = model, endpoint, server
        self._profile, self._k = profile, k

    async def __aenter__(self) -> Self:
        """Keep connections open for all prompts."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close them."""
        await self._openai.close()

    def request(self, prompt: Prompt, *, seed: int, salt: str | None) -> dict[str, Any]:
        """The arguments of one request: every sampling parameter, so that no server default applies.

        `ignore_eos` is among them for a `FixedLength` profile alone.
        """
        sampling = self._profile.sampling
        extra: dict[str, Any] = {
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            "repetition_penalty": sampling.repetition_penalty,
            "return_token_ids": True,
        }
        if isinstance(self._profile, FixedLength):
            extra["ignore_eos"] = True
        if salt is not None:
            extra["cache_salt"] = salt
        body: dict[str, Any] = {
            "model": self._model,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "max_tokens": self._profile.max_tokens,
            "n": 1,
            "seed": seed,
            "stream": True,
            "stream_options": {"include_usage": True},
            "extra_body": extra,
        }
        if self._endpoint == "chat":
            if prompt.after:
                raise ValueError(f"the turn before it, {prompt.after}, has no answer to go on from")
            body["messages"] = list(prompt.messages) or [{"role": "user", "content": prompt.text}]
            body |= prompt.request
            if self._template:
                extra["chat_template_kwargs"] = dict(self._template)
        elif prompt.messages:
            raise ValueError("it is a chat, and raw knows no messages")
        else:
            body["prompt"] = prompt.text
        return body

    async def ask(
        self,
        prompt: Prompt,
        *,
        repeat: int,
        seed: int,
        salt: str | None,
        origin: float,
        segment: int = 0,
        counters: Callable[[], SpecCounters] | None = None,
    ) -> PromptRecord:
        """Send one prompt; a request that failed gives a record that says so.

        Args:
            prompt: what to ask.
            repeat: which pass over the prompts this is.
            seed: the request's.
            salt: of the prefix cache; None shares it.
            origin: `time.perf_counter()` at the start of this segment.
            segment: see `PromptRecord`.
            counters: reads /metrics; given where the engine reports no acceptance per request, which
                needs that no other request runs.

        Raises:
            ServerFailed: /metrics cannot be read.
        """
        before = await settled(counters) if counters else None
        began = time.perf_counter()
        stream, error = Stream(), None
        try:
            with self._in_flight:
                await self._receive(self.request(prompt, seed=seed, salt=salt), stream)
            error = stream.fault()
        except Exception as problem:  # noqa: BLE001 - whatever a server does to one request is a finding
            error = _failure(problem)
        moved = (await settled(counters)) - before if counters and before and not error else None
        text = without_keys(stream.text, least=MOSTLY_RANDOM)  # a server may send our headers back
        record: dict[str, Any] = {
            "prompt": prompt.id,
            "repeat": repeat,
            "seed": seed,
            "language": prompt.language,
            "category": prompt.category,
            "conversation": prompt.row if prompt.row != prompt.id else None,
            "prompt_hash": hash_of(stream.prompt_ids if stream.prompt_ids is not None else prompt.text),
            "prompt_text_hash": hash_of(prompt.text),
            "text": text,
            # Tokens without text: two such answers are not the same because both are empty.
            "text_hash": hash_of(stream.ids if len(stream.ids) > 1 and not stream.text else stream.text),
            "parts": stream.parts if text == stream.text else None,
            "part_tokens": stream.part_tokens if text == stream.text else None,
            "server": self._server,
            "segment": segment,
            "began_s": round(began - origin, 6),
            "ttft_s": round(stream.first - began, 6) if stream.first else None,
            "total_s": round(stream.last - began, 6) if stream.last else None,
        }
        if self._on_tokens:
            self._on_tokens(prompt.id, stream.prompt_ids or (), stream.ids)
        reason: dict[str, str] = {}
        try:
            if error is None:
                notes = (stream.note(prompt.id),) if stream.unread else ()
                given = {**record, **self._counts(stream, stream.usage or {}, moved), "findings": notes}
                if stream.held_back(given["output_tokens"]):
                    given["ttft_s"] = None
                return PromptRecord.model_validate(given)
        except _NotReportedError as problem:
            error, reason = f"its acceptance does not add up: {problem}", {"reason": NOT_REPORTED}
        except ValidationError as problem:
            field, fault = first_fault(problem, PromptRecord, given)
            error = f"its acceptance does not add up: {': '.join([*field[:1], fault])}"
        except (ValueError, DraftgateError) as problem:
            error = f"its acceptance does not add up: {problem}"
        return PromptRecord(
            **record,
            source="none",
            accepted=None,
            drafted=None,
            histogram=(0,) * (self._k + 1),
            draft_tokens=None,
            undrafted=0,
            prompt_tokens=len(stream.prompt_ids or ()),
            output_tokens=len(stream.ids),
            finish="error",
            findings=(Finding.fatal("request-failed", f"{prompt.id}: {_said(error)}", **reason),),
        )

    async def _receive(self, body: dict[str, Any], into: Stream) -> None:
        """Read an answer's events into `into`.

        Not through openai's models: to build them for every chunk costs more processor time than all the
        rest, which at 16 requests in flight is time that the server on the same machine lacks.
        """
        chat = self._endpoint == "chat"
        endpoint = self._openai.chat.completions if chat else self._openai.completions
        create: Any = endpoint.with_streaming_response.create
        async with create(**body) as response:
            await into.read(response.iter_bytes())

    def _counts(self, stream: Stream, usage: dict[str, Any], moved: SpecCounters | None) -> dict[str, Any]:
        """The part of a record that says what was drafted and accepted."""
        output = count_of(usage, "completion_tokens")
        source: Source = "none"
        accepted = drafted = draft_tokens = None
        histogram: tuple[int, ...] = (0,) * (self._k + 1)
        seen: int | None = len(stream.pieces) - 1
        if self._k and moved is not None:
            source = "counters"
            histogram = moved.histogram
            draft_tokens = moved.draft_tokens
            # One iteration of the engine is the prefill; chunked ones would show as undrafted steps,
            # but are more than the overshoot can explain and so are not believed.
            seen = moved.iterations - 1 if moved.iterations else seen
            if draft_tokens == self._k * moved.drafts:  # else each step's drafts are not known
                accepted = steps_of_pieces(stream.pieces, histogram)
                drafted = None if accepted is None else (self._k,) * moved.drafts
        elif self._k and stream.spec is not None:
            source = "request"
            histogram = counts_of(stream.spec, "acceptance_histogram")
            draft_tokens = count_of(stream.spec, "num_draft_tokens")
            if stream.spec.get("per_step_accepted") is not None:
                accepted = counts_of(stream.spec, "per_step_accepted")
                drafted = counts_of(stream.spec, "per_step_drafted")
                if histogram_of(accepted, self._k) != histogram:
                    raise ValueError(f"steps {list(accepted)} do not make the histogram {list(histogram)}")
        elif self._k:
            raise _NotReportedError("the response holds no metrics.speculative_decoding")
        elif stream.spec is not None:
            raise ValueError("the server drafts, and the cell is for no drafter")
        if len(histogram) != self._k + 1:
            raise ValueError(f"the engine reports k = {len(histogram) - 1}, the cell is for {self._k}")
        undrafted = undrafted_steps(
            histogram=histogram,
            last_accepted=accepted[-1] if accepted else None,
            output_tokens=output,
            decode_steps_seen=seen,
        )
        steps = stream.pieces[1:]
        whole = stream.pieces[:1] == [1] and sum(steps) == output - 1
        placed = undrafted and whole and len(steps) == sum(histogram) + undrafted
        if placed and accepted is not None:  # as many pieces as steps, but are they the steps?
            placed = with_undrafted(steps, accepted) is not None
        return {
            "source": source,
            "accepted": accepted,
            "drafted": drafted,
            "histogram": histogram,
            "draft_tokens": draft_tokens if self._k else 0,
            "undrafted": undrafted,
            "steps": steps if self._k and placed else None,
            "token_ids": stream.ids if len(stream.ids) == output else None,
            "prompt_tokens": count_of(usage, "prompt_tokens"),
            "output_tokens": output,
            "finish": stream.finish,
        }


def _said(error: str | None) -> str:
    """One line that is not too long, without the key: a server may send our headers back."""
    return " ".join(without_keys(str(error)).split())[:_EXCERPT]


def _failure(problem: Exception) -> str:
    """What went wrong, without the request in it (its header holds the key)."""
    if isinstance(problem, BrokenOffError):
        return str(problem)
    from openai import APIStatusError  # noqa: PLC0415 - the client has imported it by now

    if isinstance(problem, APIStatusError):
        said = problem.body if isinstance(problem.body, str) else json.dumps(problem.body, ensure_ascii=False)
        return f"the server answered {problem.status_code}: {said}"
    root: BaseException = problem
    while root.__cause__ is not None:
        root = root.__cause__
    # What it came of says more: of a connection that was closed openai says that it timed out.
    return f"{type(root).__name__}: {root or problem}" + f" ({type(problem).__name__})" * (
        root is not problem
    )


def not_reported(record: PromptRecord) -> bool:
    """Whether the answer came, but nothing about its acceptance."""
    return any(finding.values.get("reason") == NOT_REPORTED for finding in record.findings)
