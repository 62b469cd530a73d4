"""Attaches to a server that somebody else started, after a check that it is the one that a cell needs.

What it does not say is no reason to refuse it: the stack is believed then, and the measurement says so.
"""

from __future__ import annotations

import json
import re
from typing import Any

from harness.config.cells import ServerSpec
from harness.engine import metrics
from harness.engine.facts import served_name
from harness.engine.http import NO_KEY, NOT_SHOWN, Http, NoAnswer
from harness.engine.server import Server
from harness.errors import ServerFailed
from harness.results.conditions import UNVERIFIED
from harness.text.numbers import numbered
from harness.text.redaction import without_keys, without_secrets


def attach(url: str, spec: ServerSpec, *, key: str | None) -> Server:
    """Use a server that runs already, after a check that it is the one that `spec` describes.

    Raises:
        BadInput: the key cannot be sent.
        ServerFailed: nobody answers; it serves another model; it does not draft though `spec` has a drafter,
            or drafts though `spec` has none; it drafts with another k.
    """
    asked = Http(url.rstrip("/").removesuffix("/v1"), key)
    model, *said = _model(asked, spec)
    counters, *more = _counters(asked)
    if counters:
        _check_drafter(asked.url, spec, counters)
    return Server(
        url=asked.url,
        key=key or NO_KEY,
        spec=spec,
        model=model,
        start_id=f"attached-{int(counters.started) if counters else 0}",
        version=_version(asked),
        attached=True,
        per_request=spec.speculative is not None,
        log=None,
        speculative=spec.speculative,
        counts=counters is not None,
        unverified=(*said, *more, *_drafter_as_said(spec), *_warm(spec, counters)),
    )


def _model(asked: Http, spec: ServerSpec) -> tuple[str, *tuple[str, ...]]:
    """The name that requests use for the target, and what a reader must know of it."""
    wanted = served_name(spec)
    try:
        listed = asked.json("/v1/models").get("data")
    except NoAnswer as error:
        if error.status not in NOT_SHOWN:
            raise
        return wanted, f"{error}: that it serves {wanted} is not checked"
    cards = [card for card in listed if isinstance(card, dict)] if isinstance(listed, list) else []
    named = [(name, card) for card in cards if isinstance(name := card.get("id"), str)]
    names = [name for name, _ in named]
    if wanted in names:
        return (wanted,)
    for name, card in named:
        if spec.target.served_name is None and _is_target(card, spec.target.model):
            called = f"the server calls the target {without_keys(name)}, the stack {wanted}"
            return name, f"{called}: they are taken as the same model"
    raise ServerFailed(
        f"{asked.url} serves {without_keys(', '.join(names)) or 'no model'}, the stack wants {wanted!r}: "
        "set target.served_name in the stack, or name another server",
        code="other-model",
    )


def _is_target(card: dict[str, Any], reference: str) -> bool:
    """Whether a model that the server lists is plainly the one that the stack names.

    Its name, or the model behind its name (`root`), has the same last part; and where both are ids of the
    hub, the same owner. An adapter (`parent`) is another model.
    """
    names = [card.get("id"), None if card.get("parent") else card.get("root")]
    return any(_same(name, reference.removeprefix("embedded:")) for name in names if isinstance(name, str))


def _same(name: str, reference: str) -> bool:
    one, other = (_hub_id(text).rstrip("/").casefold().split("/") for text in (name, reference))
    ids_of_the_hub = len(one) == len(other) == 2  # noqa: PLR2004 - an owner and a name
    return one == other if ids_of_the_hub else one[-1] == other[-1] != ""


def _hub_id(text: str) -> str:
    """The id that a folder of the hub's cache is of; any other text as it is."""
    cached = re.search(r"models--([^/]+)/snapshots/", text)
    return cached[1].replace("--", "/", 1) if cached else text


def _counters(asked: Http) -> tuple[metrics.SpecCounters | None, *tuple[str, ...]]:
    """The counters, or None and what is not checked without them."""
    try:
        return (metrics.fetch(asked),)
    except metrics.NotMetrics as error:
        if error.status is None:
            raise
        what = "other requests, the prefix cache, the drafter and the counts of the answers"
        return None, f"{error}: {what} are not checked by its counters"


_OTHERS = "select its cells with -m, or start it as they need it"


def _check_drafter(url: str, spec: ServerSpec, counters: metrics.SpecCounters) -> None:
    k = len(counters.per_position)
    if spec.speculative and not counters.present:
        why = "has no speculative-decoding counters: it does not draft (or runs with --disable-log-stats), "
        why += f"but the cells are for drafter {spec.label}"
    elif counters.present and not spec.speculative:
        why = f"drafts, but the cells are for drafter {spec.label}, which does not"
    elif counters.present and k not in (0, spec.k):
        why = f"drafts {k} tokens a step, the cells are for k = {spec.k}"
    else:
        return
    raise ServerFailed(f"{url} {why}: {_OTHERS}", code="other-drafter")


def _drafter_as_said(spec: ServerSpec) -> tuple[str, ...]:
    if spec.speculative is None:
        return ()
    known = without_secrets(dict(spec.speculative))
    said = ", ".join(f"{name} {json.dumps(value)}" for name, value in known.items())
    return (f"the drafter is as the stack says ({said}): no server tells what it drafts with",)


def _warm(spec: ServerSpec, counters: metrics.SpecCounters | None) -> tuple[str, ...]:
    """What the drafter may remember of requests before ours: not even a salt keeps it from that."""
    if not spec.remembers or (counters and not counters.finished):
        return ()
    before = (
        f"had finished {numbered(counters.finished, 'request')}" if counters else "may have finished requests"
    )
    why = f"the server {before} before, and the drafter drafts from earlier answers"
    return (f"{why}: start it anew, or set suffix_decoding_max_cached_requests to 0",)


def _version(asked: Http) -> str:
    try:
        version = asked.json("/version").get("version")
    except NoAnswer as error:
        if error.cause:
            raise
        version = None
    return without_keys(version) if isinstance(version, str) and version else UNVERIFIED
