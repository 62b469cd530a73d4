"""Checks what a server is to be started with, before it starts: are names known, and are models there?"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from harness.config.cells import ServerSpec
from harness.engine.facts import EngineFacts, engine_facts
from harness.engine.models import check_reference
from harness.engine.offers import verification_of
from harness.errors import BadInput, ServerFailed
from harness.text.validation import did_you_mean

_OURS = frozenset({"method", "model", "num_speculative_tokens"})
SCHEDULE = "num_speculative_tokens_per_batch_size"
"""The field of a drafter that gives k by ranges of batch sizes: `[[first, last, k], ...]`."""
_ALWAYS = frozenset({"max_model_len", "port"})
"""Arguments of every vLLM. Where these are not found, its sources lie elsewhere, and nothing is checked."""


def check(spec: ServerSpec) -> None:
    """Check that its models are there, and that the engine knows its method, its fields and its arguments.

    Where there is no engine to ask only the models are checked.

    Raises:
        BadInput: what is not there or not known, and what was probably meant.
        ServerFailed: the stack names an interpreter that has no engine.
    """
    check_reference(spec.target.model)
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
    if facts.arguments >= _ALWAYS:
        _known(facts, f"stack {spec.stack}, engine.args:", spec.args, facts.arguments)


def _known(facts: EngineFacts, what: str, words: Iterable[str], known: frozenset[str]) -> None:
    for word in words:
        name = word.replace("-", "_").split(".")[0]
        if not {word, name, name.removeprefix("no_")} & known:
            engine = f"{facts.package} {facts.version} does not know it"
            raise BadInput(f"{what} {word!r}: {engine}{did_you_mean(word, known)}", code="unknown-to-engine")
