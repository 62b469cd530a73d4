"""Reads AIPerf's `profile_export.jsonl`, and what lies beside it: the prompts, the answers, the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from harness.commands.import_parts import Acceptance, Foreign, parsed, read_tree
from harness.commands.import_requests import Imported, Request, sole_model
from harness.errors import BadRecord
from harness.results.files import json_lines
from harness.results.records import Count, Seconds

TOOL = "aiperf"
PROMPTS, ANSWERS, SUMMARY = "inputs.json", "outputs.json", "profile_export_aiperf.json"
_ENDPOINTS = {"chat": "chat", "completions": "raw"}
_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0}


class _Number(Foreign):
    value: Seconds
    unit: str


class _Numbers(Foreign):
    value: tuple[Seconds, ...]


class _Metrics(Foreign):
    usage_prompt_tokens: _Number | None = None
    usage_completion_tokens: _Number | None = None
    input_sequence_length: _Number | None = None
    output_sequence_length: _Number | None = None
    request_latency: _Number | None = None
    time_to_first_token: _Number | None = None
    inter_chunk_latency: _Numbers | None = None


class _Metadata(Foreign):
    session_num: Count
    x_request_id: str | None = None
    conversation_id: str | None = None
    turn_index: Count | None = None
    request_start_ns: Annotated[int, Field(ge=0)]
    benchmark_phase: str
    was_cancelled: bool = False


class _Line(Foreign):
    metadata: _Metadata
    metrics: _Metrics
    spec_decode_acceptance: Acceptance | None = None
    error: dict[str, Any] | None = None


def read(path: Path) -> list[Imported]:
    """The requests of an export; one cell's.

    Raises:
        BadRecord: a line of it, or a file beside it, cannot be read.
    """
    lines = [(line.where, parsed(_Line, line.data, where=line.where)) for line in json_lines(path)]
    measured = [(where, line) for where, line in lines if line.metadata.benchmark_phase != "warmup"]
    whole = [(where, line) for where, line in measured if not line.metadata.was_cancelled]
    whole.sort(key=lambda one: (one[1].metadata.session_num, one[1].metadata.turn_index or 0))
    prompts, answers = _prompts(path.parent / PROMPTS), _answers(path.parent / ANSWERS)
    began = min((line.metadata.request_start_ns for _, line in whole), default=0)
    summary = _summary(path.parent / SUMMARY)
    return [
        Imported(
            tool=TOOL,
            version=summary.aiperf_version,
            file=path,
            requests=tuple(_request(where, line, prompts, answers, began) for where, line in whole),
            target=sole_model(body for bodies in prompts.values() for body in bodies),
            concurrency=summary.concurrency,
            endpoint=_ENDPOINTS.get(summary.input_config.endpoint.type or ""),
            left_out=len(measured) - len(whole),
            warmups=len(lines) - len(measured),
        )
    ]


def _request(
    where: str, line: _Line, prompts: dict[str, list[Any]], answers: dict[str, str], began: int
) -> Request:
    at, metrics = line.metadata, line.metrics
    turn = at.turn_index or 0
    bodies = prompts.get(at.conversation_id or "", [])
    found = bodies[turn] if turn < len(bodies) else None
    answer = answers.get(at.x_request_id or "")
    tokens = [
        metrics.usage_prompt_tokens or metrics.input_sequence_length,
        metrics.usage_completion_tokens or metrics.output_sequence_length,
    ]
    if not line.error and None in tokens:
        raise BadRecord(f"{where}, field metrics: neither usage_* nor *_sequence_length says how many tokens")
    said = line.error or {}
    return Request(
        where=where,
        key=f"{at.conversation_id}-{turn}",
        begun=f"{at.conversation_id}-0" if turn else None,
        asked=found,
        history=tuple(bodies[:turn]),
        acceptance=line.spec_decode_acceptance,
        prompt_tokens=int(tokens[0].value) if tokens[0] else 0,
        output_tokens=int(tokens[1].value) if tokens[1] else 0,
        parts=None if answer is None else (("content", answer),),
        began_s=(at.request_start_ns - began) / 1e9,
        ttft_s=_seconds(metrics.time_to_first_token, where),
        total_s=_seconds(metrics.request_latency, where),
        pieces=len(metrics.inter_chunk_latency.value) + 1 if metrics.inter_chunk_latency else None,
        error=f"{said.get('type', 'failed')}: {said.get('message', '')}" if line.error else None,
    )


def _seconds(time: _Number | None, where: str) -> float | None:
    if time is None:
        return None
    if time.unit not in _SECONDS:
        raise BadRecord(
            f"{where}, field metrics: the unit {time.unit!r} of a time is not one of {[*_SECONDS]}"
        )
    return round(time.value * _SECONDS[time.unit], 9)


class _Session(Foreign):
    session_id: str
    payloads: list[dict[str, Any]]


class _Sessions(Foreign):
    data: list[_Session]


class _Answer(Foreign):
    x_request_id: str | None = None
    response_text: str | None = None


class _Answers(Foreign):
    data: list[_Answer]


def _prompts(path: Path) -> dict[str, list[Any]]:
    """The bodies of each conversation; none where the file is not there."""
    if not path.is_file():
        return {}
    return {one.session_id: one.payloads for one in parsed(_Sessions, read_tree(path), where=str(path)).data}


def _answers(path: Path) -> dict[str, str]:
    """The text of each answer by the id of its request; none where the file is not there."""
    if not path.is_file():
        return {}
    said = parsed(_Answers, read_tree(path), where=str(path)).data
    return {a.x_request_id: a.response_text for a in said if a.x_request_id and a.response_text is not None}


class _Phase(Foreign):
    kind: str | None = None
    concurrency: Any = None


class _Endpoint(Foreign):
    type: str | None = None


class _Config(Foreign):
    endpoint: _Endpoint = _Endpoint()
    phases: tuple[_Phase, ...] = ()


class _Summary(Foreign):
    aiperf_version: str | None = None
    input_config: _Config = _Config()

    @property
    def concurrency(self) -> int | None:
        """Requests in flight, where the run had one level."""
        levels = [phase.concurrency for phase in self.input_config.phases if phase.kind == "profiling"]
        return levels[0] if len(levels) == 1 and type(levels[0]) is int else None


def _summary(path: Path) -> _Summary:
    found: _Summary = parsed(_Summary, read_tree(path), where=str(path)) if path.is_file() else _Summary()
    return found
