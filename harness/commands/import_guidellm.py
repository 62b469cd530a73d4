"""Reads GuideLLM's JSON: one cell for each benchmark in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.commands.import_parts import Acceptance, Foreign, parsed, read_tree
from harness.commands.import_requests import Imported, Request, sole_model
from harness.errors import BadInput, BadRecord
from harness.results.records import Count

TOOL = "guidellm"


class _Reported(Foreign):
    speculative_decoding: Acceptance | None = None


class _Tokens(Foreign):
    text_tokens: Count | None = None


class _Timings(Foreign):
    request_start: float | None = None
    first_token_iteration: float | None = None
    request_end: float | None = None
    token_iterations: Count | None = None


class _Info(Foreign):
    conversation_id: str | None = None
    turn_index: Count = 0
    timings: _Timings = _Timings()
    error: str | None = None


class _Stats(Foreign):
    request_id: str
    request_args: str | None = None
    output: str | None = None
    reasoning_output: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    info: _Info
    input_metrics: _Tokens
    output_metrics: _Tokens
    response_metrics: _Reported | None = None


class _Groups(Foreign):
    successful: tuple[_Stats, ...]
    errored: tuple[_Stats, ...] = ()
    incomplete: tuple[dict[str, Any], ...] = ()


class _Strategy(Foreign):
    type_: str
    streams: Count | None = None


class _Config(Foreign):
    strategy: _Strategy


class _Benchmark(Foreign):
    config: _Config
    requests: _Groups


class _Metadata(Foreign):
    guidellm_version: str | None = None


class _Report(Foreign):
    metadata: _Metadata = _Metadata()
    benchmarks: list[_Benchmark]


def read(path: Path) -> list[Imported]:
    """The requests of each benchmark of a report.

    Raises:
        BadInput: it has no benchmark.
        BadRecord: a field of it cannot be read.
    """
    report: _Report = parsed(_Report, read_tree(path), where=str(path))
    several = len(report.benchmarks) > 1
    if not report.benchmarks:
        raise BadInput(f"{path}: there is no benchmark in it: let one end", code="import-nothing")
    return [
        _imported(benchmark, path, report.metadata.guidellm_version, number, several=several)
        for number, benchmark in enumerate(report.benchmarks)
    ]


def _imported(
    benchmark: _Benchmark, path: Path, version: str | None, number: int, *, several: bool
) -> Imported:
    groups, strategy = benchmark.requests, benchmark.config.strategy
    at = f"{path}, benchmarks.{number}.requests"
    found: list[tuple[str, _Stats, str | None]]
    found = [(f"{at}.successful.{i}", one, None) for i, one in enumerate(groups.successful)]
    found += [(f"{at}.errored.{i}", one, one.info.error or "failed") for i, one in enumerate(groups.errored)]
    found.sort(key=lambda one: one[1].info.timings.request_start or 0.0)
    began = min((s for _, one, _ in found if (s := one.info.timings.request_start)), default=0.0)
    requests = tuple(_request(where, one, error, began) for where, one, error in found)
    return Imported(
        tool=TOOL,
        version=version,
        file=path,
        requests=requests,
        target=sole_model(r.asked for r in requests),
        concurrency=1 if strategy.type_ == "synchronous" else strategy.streams,
        left_out=len(groups.incomplete),
        part=f"{number + 1}-{strategy.type_}" if several else "",
    )


def _request(where: str, one: _Stats, error: str | None, began: float) -> Request:
    times, asked = one.info.timings, _body(one, where)
    start, first, end = times.request_start, times.first_token_iteration, times.request_end
    tokens = one.input_metrics.text_tokens, one.output_metrics.text_tokens
    if error is None and tokens[1] is None:
        raise BadRecord(f"{where}, field output_metrics.text_tokens: it does not say how many tokens")
    parts = [("reasoning", one.reasoning_output or ""), ("content", one.output or "")]
    parts += [("tool_calls", text) for call in one.tool_calls or () for text in _call(call)]
    return Request(
        where=where,
        key=f"{one.info.conversation_id}-{one.info.turn_index}",
        begun=f"{one.info.conversation_id}-0" if one.info.turn_index else None,
        asked=asked,
        acceptance=one.response_metrics.speculative_decoding if one.response_metrics else None,
        prompt_tokens=tokens[0] or 0,
        output_tokens=tokens[1] or 0,
        # Without `request_args` the report was written with a sample size, and holds no texts.
        parts=tuple(parts) if asked is not None else None,
        began_s=None if start is None else round(start - began, 6),
        ttft_s=None if start is None or first is None else round(first - start, 6),
        total_s=None if start is None or end is None else round(end - start, 6),
        pieces=times.token_iterations,
        error=error,
    )


def _call(call: dict[str, Any]) -> tuple[str, str]:
    function = call.get("function") or {}
    return str(function.get("name") or ""), str(function.get("arguments") or "")


def _body(one: _Stats, where: str) -> dict[str, Any] | None:
    """What was sent; None where the report does not hold it."""
    if one.request_args is None:
        return None
    try:
        body = json.loads(one.request_args)["body"]
    except (ValueError, KeyError, TypeError):
        raise BadRecord(f"{where}, field request_args: not the JSON of a request with a body") from None
    return body if isinstance(body, dict) else None
