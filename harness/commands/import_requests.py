"""Makes prompt records of the requests that another tool recorded, and a cell of these.

What the file does not hold is not measured, and stands nowhere. Figures that follow from what it holds are
derived as the client derives them from an answer; a finding says which.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.commands.import_parts import Acceptance
from harness.config.prompts import hash_of
from harness.config.stack import LETTERS, NAME, NONE, Sampling
from harness.errors import BadInput
from harness.measure.validity import findings
from harness.results.conditions import UNVERIFIED, Environment, Identity, Subject
from harness.results.records import CellName, CellRecord, Finding, PromptRecord, validated
from harness.stats.acceptance import METRIC_VERSION, undrafted_steps

SUITE = PROFILE = "imported"
ANY = "any"
"""The language and the workload of prompts whose file names neither."""
NO_SEED = -1
_ENDPOINTS = {"messages": "chat", "prompt": "raw"}
_ROLE, _CONTENT = "role", "content"
_EXCERPT = 300
"""Characters of a message that quotes a file."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """A request and its answer, as far as a file tells of them. Times in seconds."""

    where: str
    """File and line or field."""
    key: str
    """Names the prompt where its text is not there."""
    asked: dict[str, Any] | None
    """The body that was sent."""
    history: tuple[Any, ...] = ()
    """The bodies before it in a conversation."""
    begun: str | None = None
    """Of a later turn: the key of the first one."""
    acceptance: Acceptance | None
    prompt_tokens: int
    output_tokens: int
    parts: tuple[tuple[str, str], ...] | None
    """Of the answer's text; None where the file does not hold it."""
    began_s: float | None
    ttft_s: float | None
    total_s: float | None
    pieces: int | None
    """Of the stream that held tokens, the first one included."""
    error: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Imported:
    """The requests that one file tells of, or one benchmark of several in it."""

    tool: str
    version: str | None
    file: Path
    requests: tuple[Request, ...]
    target: str | None
    concurrency: int | None
    endpoint: str | None = None
    """Where the requests themselves do not tell it."""
    left_out: int = 0
    """Requests that the tool itself broke off."""
    warmups: int = 0
    part: str = ""
    """Names the benchmark, where the file holds several."""


def sole_model(bodies: Iterable[dict[str, Any] | None]) -> str | None:
    """The model that all requests name; None where they name several, or none."""
    models = {model for body in bodies if body and isinstance(model := body.get("model"), str)}
    return models.pop() if len(models) == 1 else None


def cell_of(found: Imported, *, drafter: str | None, provenance: dict[str, Any]) -> CellRecord:
    """The cell that a file's requests make.

    Args:
        found: the requests.
        drafter: what proposed the tokens; no file says it.
        provenance: what ran where.

    Raises:
        BadInput: there is no request, no acceptance, or no drafter for it.
        BadRecord: the figures of a request contradict each other.
    """
    _check(found, drafter)
    drafts = any(r.acceptance for r in found.requests)
    k = _most_drafted(found.requests)
    seen: Counter[str] = Counter()
    records = []
    named = {request.key: _prompt_of(request) for request in found.requests}
    for request in found.requests:
        prompt, begun = _prompt_of(request), request.begun and named.get(request.begun, request.begun)
        records.append(_record(request, prompt, conversation=begun, repeat=seen[prompt], k=k, drafts=drafts))
        seen[prompt] += 1
    bodies = [r.asked for r in found.requests if r.asked is not None]
    name = CellName(
        endpoint=_endpoint(bodies) or found.endpoint or ANY,
        language=ANY,
        workload=ANY,
        drafter=str(drafter),
        k=k if drafts else 0,
    )
    most = _sole([_most_tokens(body) for body in bodies])
    sampling = {key: _number(_sole([body.get(key) for body in bodies])) for key in Sampling.model_fields}
    known = {"target": found.target, "max_tokens": most, "concurrency": found.concurrency}
    own = findings(name, records, moved=None, cache=UNVERIFIED, patches=(), max_tokens=most)
    no_text = any(r.parts is None for r in found.requests)
    return CellRecord(
        stack=found.tool,
        profile=PROFILE,
        suite=f"{SUITE}/{found.part}" if found.part else SUITE,
        cell=name,
        identity=Identity(
            imported=found.tool,
            endpoint=name.endpoint,
            sampling={key: value for key, value in sampling.items() if value is not None},
            metric_version=METRIC_VERSION,
            **{key: value for key, value in known.items() if value is not None},
        ),
        subject=Subject(drafter=name.drafter, k=name.k, unverified=["method", "settings"]),
        environment=Environment(cpu=UNVERIFIED),
        provenance=provenance,
        warmups=found.warmups,
        counters={},
        findings=(*(f for f in own if not (no_text and f.code == "no-text")), _note(found, known, sampling)),
        prompts=tuple(records),
    )


def _check(found: Imported, drafter: str | None) -> None:
    what = f"{found.file}: {found.part}: " if found.part else f"{found.file}: "
    if not found.requests:
        raise BadInput(f"{what}no request in it is finished: let some end", code="import-nothing")
    drafts = any(r.acceptance for r in found.requests)
    if drafts and not _most_drafted(found.requests):
        raise BadInput(f"{what}the requests have acceptance, but not one draft", code="import-nothing")
    if not drafts and drafter != NONE:
        raise BadInput(
            f"{what}no request has its acceptance: start vLLM with --per-request-spec-decode-metrics detailed"
            f" (0.29 or later) and ask again, or say --drafter {NONE} where the server drafted nothing",
            code="import-nothing",
        )
    if drafts and drafter in (None, NONE):
        raise BadInput(
            f"{what}the requests have acceptance, but no file says which drafter proposed the tokens: "
            "name it, like --drafter eagle3",
            code="import-drafter",
        )
    if not NAME.fullmatch(str(drafter)):
        raise BadInput(f"--drafter {drafter}: not a name ({LETTERS})", code="import-drafter")


def _most_drafted(requests: Sequence[Request]) -> int:
    return max((r.acceptance.most for r in requests if r.acceptance), default=0)


def _prompt_of(request: Request) -> str:
    """The id of a prompt: the same wherever its text is the same, since no tool numbers prompts alike."""
    if request.asked is None:
        return re.sub(r"[^\w.-]", "_", request.key)
    return hash_of(_text_of(request))


def _text_of(request: Request) -> str:
    """What was asked: the text alone of one user's message, else all messages."""
    bodies = (*request.history, request.asked or {})
    said = [message for body in bodies for message in _messages(body)]
    if len(said) == 1 and said[0].get(_ROLE) == "user" and isinstance(said[0].get(_CONTENT), str):
        return str(said[0][_CONTENT])
    return json.dumps(said, sort_keys=True, ensure_ascii=False)


def _messages(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        yield {_ROLE: "user", _CONTENT: body.get("prompt", messages)}
        return
    for message in messages:
        content = message.get(_CONTENT)
        if isinstance(content, list) and all(_is_text(part) for part in content):
            content = "".join(part["text"] for part in content)
        yield {**message, _CONTENT: content}


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and part.keys() == {"type", "text"} and isinstance(part["text"], str)


def _endpoint(bodies: Sequence[dict[str, Any]]) -> str | None:
    found = {_ENDPOINTS[key] for body in bodies for key in _ENDPOINTS if key in body}
    return found.pop() if len(found) == 1 else None


def _most_tokens(body: dict[str, Any]) -> int | None:
    most = body.get("max_completion_tokens", body.get("max_tokens"))
    return most if isinstance(most, int) and most > 0 else None


def _sole(values: Sequence[Any]) -> Any:
    """The value of all; None where they differ, or there is none."""
    return values[0] if values and all(value == values[0] for value in values) else None


def _number(value: Any) -> float | None:
    return value if type(value) in (int, float) and math.isfinite(value) else None


def _record(
    request: Request, prompt: str, *, conversation: str | None, repeat: int, k: int, drafts: bool
) -> PromptRecord:
    error, acceptance = request.error, request.acceptance
    if not error and drafts and acceptance is None and request.output_tokens > 1:
        error = "it has no acceptance, and others have"
    histogram = acceptance.histogram(k) if acceptance else (0,) * ((k if drafts else 0) + 1)
    steps = (acceptance.per_step_accepted, acceptance.per_step_drafted) if acceptance else (None, None)
    body = request.asked or {}
    text = "".join(text for _, text in request.parts or ())
    lengths = tuple((name, len(text)) for name, text in request.parts or () if text)
    asked = hash_of(_text_of(request) if request.asked is not None else f"{prompt}/{request.prompt_tokens}")
    failed = Finding.fatal("request-failed", f"{request.where}: {' '.join(str(error).split())[:_EXCERPT]}")
    undrafted = (
        0
        if error
        else undrafted_steps(
            histogram=histogram,
            last_accepted=steps[0][-1] if steps[0] else None,
            output_tokens=request.output_tokens,
            decode_steps_seen=request.pieces - 1 if request.pieces else None,
        )
    )
    fields = {
        "prompt": prompt,
        "repeat": repeat,
        "seed": body["seed"] if isinstance(body.get("seed"), int) else NO_SEED,
        "language": ANY,
        "conversation": conversation,
        "source": "request" if acceptance else "none",
        "accepted": steps[0] if None not in steps else None,
        "drafted": steps[1] if None not in steps else None,
        "histogram": histogram,
        "draft_tokens": acceptance.num_draft_tokens if acceptance else None if drafts else 0,
        "undrafted": undrafted,
        "prompt_tokens": request.prompt_tokens,
        "prompt_hash": asked,
        "prompt_text_hash": asked if request.asked is not None else None,
        "output_tokens": request.output_tokens,
        "finish": "error" if error else "length" if request.output_tokens == _most_tokens(body) else "stop",
        "text_hash": hash_of(text) if request.parts is not None else "",
        "text": text,
        "parts": lengths if {name for name, _ in lengths} - {_CONTENT} else None,
        "server": SUITE,
        "began_s": request.began_s,
        "ttft_s": request.ttft_s,
        "total_s": request.total_s,
        "findings": (failed,) if error else (),
    }
    return validated(fields, PromptRecord, where=request.where)


def _note(found: Imported, known: dict[str, Any], sampling: dict[str, Any]) -> Finding:
    """The footnote that says what a file does not hold."""
    requests = found.requests
    lacks = {
        "texts of prompts (told apart by id)": any(r.asked is None for r in requests),
        "texts of answers": any(r.parts is None for r in requests),
        "times": any(r.total_s is None for r in requests),
        "single steps": any(r.acceptance and r.acceptance.per_step_accepted is None for r in requests),
        **{name: value is None for name, value in known.items()},
        "the rest of the sampling" if any(v is not None for v in sampling.values()) else "sampling": None
        in sampling.values(),
    }
    missing = [name for name, lacking in lacks.items() if lacking]
    ended = (
        "is not known, and counts as stopped" if known["max_tokens"] is None else "is derived from max_tokens"
    )
    text = (
        f"imported from {found.tool} {found.version or '(version unknown)'}; not in its file: "
        f"{', '.join([*missing, 'token ids, weights, engine, machine'])}; how an answer ended {ended}"
    )
    if found.left_out:
        text += f"; {found.left_out} requests that the tool broke off are left out"
    return Finding.note("imported", text, tool=found.tool, left_out=found.left_out)
