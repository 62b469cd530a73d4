"""Checks what starts a server (are its names known, its models there?), and writes it as a user would."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable
from typing import Any

from harness.config.cells import ServerSpec
from harness.config.engine_arguments import spelled, underscored
from harness.config.toml import Document
from harness.engine.facts import EngineFacts, engine_facts, options
from harness.engine.models import check_reference
from harness.engine.offers import verification_of
from harness.errors import BadInput, ServerFailed
from harness.results.conditions import UNVERIFIED, Identity, Subject
from harness.text.validation import did_you_mean

_OURS = frozenset({"method", "model", "num_speculative_tokens"})
SCHEDULE = "num_speculative_tokens_per_batch_size"
"""The field of a drafter that gives k by ranges of batch sizes: `[[first, last, k], ...]`."""
_ALWAYS = frozenset({"max_model_len", "port"})
"""Arguments of every vLLM. Where these are not found, its sources lie elsewhere, and nothing is checked."""
_NOT_TO_SERVE = frozenset({"host", "port", "api_key", "served_model_name", "per_request_spec_decode_metrics"})
"""Arguments that are a measurement's own."""
_VARIED = ("variants", "references")
"""Tables of a stack that have arguments of their own."""
_MODELS = re.compile(r"SpeculativeConfig\([^)]*?\bmodel='(?P<drafter>[^']+)'")
_TARGET = re.compile(r"^model='(?P<model>[^']+)'")
_TOKENIZER = re.compile(r", tokenizer='(?P<tokenizer>[^']+)'")


def check(spec: ServerSpec) -> None:
    """Check that its models are there, and that the engine knows its method, its fields and its arguments.

    Where there is no engine to ask only the models are checked.

    Raises:
        BadInput: what is not there or not known, and what was probably meant.
        ServerFailed: the stack names an interpreter that has no engine.
    """
    try:
        check_reference(spec.target.model)
    except BadInput as error:
        if "model" not in spec.changes:
            raise
        raise _at(spec, "model", str(error), code=error.code) from None
    drafter = spec.speculative or {}
    if drafter.get("model", "target") != "target":
        try:
            check_reference(drafter["model"])
        except BadInput as error:
            raise BadInput(f"drafter {spec.drafter!r}: {error}", code=error.code) from None
    try:
        facts = engine_facts(spec.engine_python or sys.executable)
    except ServerFailed:
        if spec.engine_python:
            raise
        return
    check_names(spec, facts)


def takes_schedule(spec: ServerSpec) -> bool:
    """Whether the engine drafts as many tokens as a schedule says of the batch's size."""
    try:
        facts = engine_facts(spec.engine_python or sys.executable)
    except ServerFailed:
        return False
    return SCHEDULE in facts.dynamic_k


def check_names(spec: ServerSpec, facts: EngineFacts) -> None:
    """Check that an engine knows the method, the drafter's fields and the arguments.

    Raises:
        BadInput: the first that it does not know.
    """
    drafter, whose = spec.speculative or {}, f"drafter {spec.drafter!r} of stack {spec.stack}"
    if drafter and facts.methods:
        _known(facts, f"{whose}: method", [str(drafter["method"])], facts.methods)
    if facts.drafter_fields:
        _known(facts, f"{whose}: field", drafter.keys() - _OURS, facts.drafter_fields)
    if facts.verification and (way := verification_of(drafter)):
        _known(facts, f"{whose}: a way to verify drafts", [way], facts.verification)
    if facts.arguments >= _ALWAYS and (word := _unknown(spec.args, facts.arguments)):
        raise _at(spec, word, _why(facts, word, facts.arguments), code="unknown-to-engine")


def _at(spec: ServerSpec, key: str, what: str, *, code: str) -> BadInput:
    """The error that says what is wrong with a key of a variant, or with an argument: with file and line."""
    if spec.source is None:
        return BadInput(f"stack {spec.stack}, engine.args: {key!r}: {what}", code=code)
    document = Document(spec.source)
    own = [of for of in _VARIED if key in document.tables.get(of, {}).get(spec.variant, {})]
    return document.wrong((*((own[0], spec.variant) if own else ("engine", "args")), key), what, code=code)


def _known(facts: EngineFacts, what: str, words: Iterable[str], known: frozenset[str]) -> None:
    if word := _unknown(words, known):
        raise BadInput(f"{what} {word!r}: {_why(facts, word, known)}", code="unknown-to-engine")


def _unknown(words: Iterable[str], known: frozenset[str]) -> str | None:
    """The first word that is not known, in whatever way it is spelled."""
    for word in words:
        name = spelled(word).split(".")[0]
        if not {word, name, name.removeprefix("no_")} & known:
            return word
    return None


def _why(facts: EngineFacts, word: str, known: frozenset[str]) -> str:
    return f"{facts.package} {facts.version} does not know it{did_you_mean(word, known)}"


def serve_command(identity: Identity, subject: Subject) -> str:
    """The `vllm serve` of a recorded server, for a shell.

    Without what only the measurement needed: host, port, key, counts in each response, a cache that a profile
    switched off. A model that was a folder is `/path/to/NAME`, since a record names no folder of a machine.
    What a record hides stays `***`.
    """
    config = subject.resolved_config or ""
    target = _reference(identity.target or "MODEL")
    model, tokenizer = (found[1] if (found := one.search(config)) else None for one in (_TARGET, _TOKENIZER))
    given = underscored(dict(sorted(subject.engine_args.items())))
    if identity.cache == "off" and given.get("enable_prefix_caching") is False:
        del given["enable_prefix_caching"]
    own = {
        "revision": None if identity.revision == UNVERIFIED else identity.revision,
        "dtype": identity.dtype,
        "quantization": identity.quantization,
        "tokenizer": _reference(tokenizer) if tokenizer and tokenizer != model else None,
        "trust_remote_code": subject.trust_remote_code or None,
        "speculative_config": _speculative(identity, subject, model=target, config=config),
    }
    env = subject.engine_env if isinstance(subject.engine_env, dict) else {}
    words = [*options(own), *options({n: v for n, v in given.items() if n not in _NOT_TO_SERVE})]
    before = [f"{name}={shlex.quote(str(value))}" for name, value in sorted(env.items())]
    return " ".join([*before, "vllm", "serve", shlex.join([target, *words])])


def _speculative(identity: Identity, subject: Subject, *, model: str, config: str) -> dict[str, Any] | None:
    if subject.method is None:
        return None
    found: dict[str, Any] = {"method": subject.method, "num_speculative_tokens": subject.k}
    found |= subject.settings
    if subject.weights is not None:
        same = subject.weights == identity.weights != UNVERIFIED
        named = _MODELS.search(config)
        found["model"] = model if same else _reference(named["drafter"] if named else str(subject.drafter))
    return found


def _reference(name: str) -> str:
    """A hub id as it is; of a folder its name below `/path/to`."""
    return name if "/" in name else f"/path/to/{name}"
