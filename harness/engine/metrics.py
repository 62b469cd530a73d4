"""Reads the counters on vLLM's /metrics page, and takes the difference of two readings."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import math
import re
import time
from collections.abc import Callable
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from harness.engine.http import Http, NoAnswer
from harness.errors import ServerFailed
from harness.stats.acceptance import histogram_from_positions

_PREFIX = "vllm:"
_COUNTS = {
    "drafts": "spec_decode_num_drafts_total",
    "draft_tokens": "spec_decode_num_draft_tokens_total",
    "accepted": "spec_decode_num_accepted_tokens_total",
    "generated": "generation_tokens_total",
    "prompted": "prompt_tokens_total",
    "finished": "request_success_total",
    "iterations": "iteration_tokens_total_count",
    "cached": "prefix_cache_hits_total",
    "queried": "prefix_cache_queries_total",
}
"""What we count, and vLLM's names for it."""
_SECONDS = {f"{part}_us": f"request_{part}_time_seconds_sum" for part in ("queue", "prefill", "decode")}
"""Seconds that all requests spent in each part of their life, which we keep as whole microseconds."""
_REQUESTS = {"running": "num_requests_running", "waiting": "num_requests_waiting"}
_USAGE = ("kv_cache_usage_perc", "gpu_cache_usage_perc")
_LOAD = {_COUNTS[name]: name for name in ("generated", "prompted")}
_LOAD |= {name: ours for ours, name in _REQUESTS.items()} | dict.fromkeys(_USAGE, "kv_usage")
"""What is read of each engine, by vLLM's names."""
_MOVING = (*_COUNTS, *_SECONDS)
_MOST = 2**53
_NO_NUMBER = re.compile("could not convert|invalid literal|cannot convert|list index|.*unpack")
_SHOWN = 120
"""Characters of what is wrong with a page, in a message."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Load:
    """What one of several engines has to do, and what it has done (data parallelism)."""

    engine: str
    running: int = 0
    waiting: int = 0
    generated: int = 0
    prompted: int = 0
    kv_usage: float = 0.0


class NotMetrics(ServerFailed):
    """A server answers, but not with vLLM's counters."""

    code = "not-metrics"

    def __init__(self, message: str, *, status: int | None = None) -> None:
        """What to say; the HTTP status where the server refuses the page."""
        super().__init__(message)
        self.status = status


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpecCounters:
    """One reading: counts since the start, summed over the engines (data parallelism has several)."""

    present: bool
    """Whether the page has speculative-decoding counters, that is, whether the server drafts."""
    drafts: int
    draft_tokens: int
    accepted: int
    per_position: tuple[int, ...]
    generated: int
    prompted: int
    finished: int
    """Requests that ended, for whatever reason."""
    iterations: int
    cached: int
    """Prompt tokens found in the prefix cache."""
    queried: int = 0
    """Prompt tokens looked for in it."""
    queue_us: int = 0
    """Summed over the requests that ended, as the next two. 0 where the engine does not time them."""
    prefill_us: int = 0
    decode_us: int = 0
    running: int
    waiting: int
    kv_usage: float
    """Share of the KV cache in use, 0 to 1, the fullest engine's."""
    engines: tuple[Load, ...] = ()
    """Of each engine, where there are several."""
    started: float
    """When the server's process began (Unix seconds). Another value means another server."""

    def __sub__(self, before: SpecCounters) -> SpecCounters:
        """What was counted since `before`; gauges keep this reading's value.

        Raises:
            ServerFailed: the server restarted in between, or a counter fell.
        """
        if self.started != before.started:
            raise ServerFailed(
                "the server restarted between two readings of /metrics, so its counters began anew: find out "
                "who restarts it, and measure again",
                code="counters-restarted",
            )
        moved: dict[str, Any] = {name: getattr(self, name) - getattr(before, name) for name in _MOVING}
        pairs = itertools.zip_longest(self.per_position, before.per_position, fillvalue=0)
        positions = tuple(a - b for a, b in pairs)
        least = {**moved, "per_position": min(positions, default=0)}
        if fell := [name for name, by in least.items() if by < 0]:
            raise ServerFailed(
                f"counters of /metrics fell between two readings: {', '.join(fell)}; measure at one server, "
                "without a proxy that has several behind it",
                code="counters-restarted",
            )
        return dataclasses.replace(self, per_position=positions, **moved)

    def kept(self) -> dict[str, int]:
        """What a cell's record keeps of a difference; no time where the engine does not tell it."""
        names = (name for name in _COUNTS if name != "iterations")
        times = {name: moved for name in _SECONDS if (moved := getattr(self, name))}
        return {name: getattr(self, name) for name in names} | times

    @property
    def histogram(self) -> tuple[int, ...]:
        """Verify steps by accepted tokens, k + 1 values."""
        return histogram_from_positions(self.drafts, self.per_position)


def parse(text: str) -> SpecCounters:
    """Read one /metrics page.

    Only `_total` samples are counters: `_created` ones hold a time and would be summed with them.

    Raises:
        NotMetrics: the page is not in Prometheus' text format, or not vLLM's.
    """
    sums: dict[str, float] = {}
    positions: dict[int, float] = {}
    kv_usage = 0.0
    loads: dict[str, dict[str, float]] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                name = sample.name.removeprefix(_PREFIX)
                if (of := _LOAD.get(name)) and (engine := sample.labels.get("engine")):
                    load = loads.setdefault(engine, {})
                    load[of] = load.get(of, 0.0) + sample.value
                if name == "spec_decode_num_accepted_tokens_per_pos_total":
                    at = int(sample.labels["position"])
                    positions[at] = positions.get(at, 0.0) + sample.value
                elif name in _USAGE:
                    kv_usage = max(kv_usage, sample.value)
                else:
                    sums[name] = sums.get(name, 0.0) + sample.value
        counts = {ours: _count(sums.get(name, 0.0)) for ours, name in (_COUNTS | _REQUESTS).items()}
        counts |= {ours: _count(1e6 * sums.get(name, 0.0)) for ours, name in _SECONDS.items()}
        per_position = tuple(_count(positions[i]) for i in range(len(positions)))
        engines = tuple(_load(engine, load) for engine, load in sorted(loads.items()))
    except KeyError:
        why = "it counts accepted tokens, but not at every position"
        raise NotMetrics(f"/metrics is not readable as Prometheus text: {why}") from None
    except (ValueError, OverflowError, IndexError, TypeError) as error:
        # Python's own words for a number that is none say nothing to a reader of the page.
        why = "a number in it is none, or it is cut off" if _NO_NUMBER.match(str(error)) else str(error)
        raise NotMetrics(f"/metrics is not readable as Prometheus text: {why[:_SHOWN]}") from None
    if _COUNTS["generated"] not in sums:
        raise NotMetrics("/metrics has no vllm:generation_tokens_total: not vLLM, or --disable-log-stats")
    started = sums.get("process_start_time_seconds", 0.0)
    return SpecCounters(
        present=_COUNTS["drafts"] in sums,
        per_position=per_position,
        kv_usage=kv_usage if math.isfinite(kv_usage) else 0.0,
        started=started if math.isfinite(started) else 0.0,
        engines=engines if len(engines) > 1 else (),
        **counts,
    )


def _load(engine: str, load: dict[str, float]) -> Load:
    usage = load.pop("kv_usage", 0.0)
    counts = {name: _count(value) for name, value in load.items()}
    return Load(engine=engine, kv_usage=usage if math.isfinite(usage) else 0.0, **counts)


def _count(value: float) -> int:
    if not 0 <= value <= _MOST:
        raise ValueError(f"{value} is no count")
    return int(value)


def page_of(server: Http, *, timeout_s: float = 10.0) -> str:
    """The text of the server's /metrics.

    Raises:
        NotMetrics: the server has no such page, or does not show it to us.
        ServerFailed: no answer.
    """
    try:
        return server.text("/metrics", timeout_s=timeout_s)
    except NoAnswer as error:
        if error.status and (error.status < 500 or error.status == 501):  # noqa: PLR2004
            raise NotMetrics(str(error), status=error.status) from None
        raise


def fetch(server: Http) -> SpecCounters:
    """Read the server's /metrics.

    Raises:
        ServerFailed: no answer, or an unreadable one.
    """
    return parse(page_of(server))


async def settled(
    read: Callable[[], SpecCounters], *, patience_s: float = 10.0, pause_s: float = 0.05
) -> SpecCounters:
    """Read until nothing runs and two readings in a row agree.

    The engine hands out the last tokens of an answer before it counts them, so that a reading
    right after an answer can miss its last step.

    Raises:
        ServerFailed: requests are still running after `patience_s`: somebody else uses the server.
    """
    deadline = time.monotonic() + patience_s
    last = await asyncio.to_thread(read)
    while True:
        await asyncio.sleep(pause_s)
        now = await asyncio.to_thread(read)
        if now == last and now.running == 0 and now.waiting == 0:
            return now
        if time.monotonic() > deadline:
            raise ServerFailed(
                f"the server is not idle: {now.running} requests running, {now.waiting} waiting, "
                "none of them ours; measure on a server that nobody else uses",
                code="server-busy",
            )
        last = now
