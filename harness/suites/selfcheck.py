"""The self-check suite: does the instrument give answers that are known beforehand?

In the short form the target drafts for itself, on a server of its own, before the first server of a run.
What was found is kept in the user's cache, by all that could change it: engine, target, arguments, hardware,
the patch, and the definitions of our own figures. Only a sound instrument is remembered.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from filelock import FileLock

from harness.config.cells import Cell, ServerSpec, canonical, server_spec
from harness.config.prompts import Prompt, load_prompts
from harness.config.stack import Drafter, Profile, Stack
from harness.engine.facts import engine_facts
from harness.engine.models import cache_folder, conversion_s, located, resolve, sha256_of
from harness.engine.slot import Slot
from harness.engine.watchdog import STALL_SECONDS
from harness.errors import BadInput, BadRecord, DraftgateError, ServerFailed
from harness.measure.probe import Answer, ask
from harness.measure.validity import total
from harness.provenance.hardware import environment
from harness.provenance.integrity import changed_files, code_loaders
from harness.provenance.record import is_hashed, weights_hash
from harness.results.files import read_json, write_atomically
from harness.results.names import BASE, SERVERS
from harness.run import Run
from harness.stats.acceptance import METRIC_VERSION
from harness.suites.known_answers import DraftToken, Result, judge_guessing, judge_sampled, verified
from harness.suites.random_drafter import write as write_random_drafter
from harness.suites.runner import Bench, Kind, Outcome
from harness.suites.self_drafting import (
    ITSELF,
    MOST_TOKENS,
    NO_STEPS,
    TEMPERATURE,
    K,
    SelfCheck,
    check_itself,
    lacks_steps,
    name_of,
    self_spec,
)
from harness.text.console import Say

SUITE = "self-check"
MARKER = "self_check"
"""Of its cases: they run only where their file or this marker is named."""
SHORT, FULL = 2, 8
"""Prompts of the short form, and of the suite."""
VERSION = 1
"""Changes with what is checked here: what an older version found sound is checked again."""
_RATES = (0.8, 0.5, 0.2)
"""Unconditional acceptance at each position, which vLLM is told to give."""


class BrokenInstrument(DraftgateError):  # noqa: N818 - reads as what it is
    """What draftgate would report here is not what happens, so nothing may be measured."""

    code = "broken-instrument"


def key_of(spec: ServerSpec, *, target: str, patch: str) -> str:
    """A hash of all that may change what the self-check finds; `target` is its folder or hub id."""
    facts = engine_facts(spec.engine_python or sys.executable)
    env = {**os.environ, **spec.env}
    here = environment(spec, python=spec.engine_python)  # a GPU computes alike on half the threads
    described = {
        "version": (VERSION, METRIC_VERSION),
        "engine": (facts.package, facts.version, spec.engine_python),
        "changed": changed_files(facts.folder) if facts.folder else None,
        "loads_code": [(name, env[name]) for name in code_loaders(env, facts.folder)],
        "target": (spec.target.model_dump(mode="json"), weights_hash(target)),
        "args": spec.args,
        "env": spec.env,
        "drafting": spec.speculative,
        "mend": (patch, sha256_of(Path(__file__).parents[1] / "engine" / "vllm_plugin.py")),
        "environment": here.model_dump(exclude={"threads"} if here.gpus else None),
    }
    return hashlib.sha256(canonical(described).encode()).hexdigest()[:24]


def ensure(
    slot: Slot,
    stack: Stack,
    prompts: Sequence[Prompt],
    *,
    say: Say,
    patch: str = "1",
    prefix_cache: bool = True,
    again: bool = False,
    stall_seconds: float = STALL_SECONDS,
) -> SelfCheck:
    """The short self-check of a stack's engine and target: from the cache, or done now.

    Args:
        slot: where its server runs.
        stack: whose engine and target are checked.
        prompts: to draft for; two are enough.
        say: called with what takes long.
        patch: what the slot's servers are started with; see `server.running`.
        prefix_cache: whether the servers that will measure have one.
        again: do it whatever the cache knows.
        stall_seconds: how long the server may have work and do nothing.

    Raises:
        ServerFailed: the engine could not be started with the target drafting for itself, or it stalled.
        BadInput: the target is not there.
    """
    spec = self_spec(stack, prefix_cache=prefix_cache)
    path = _path_of(spec, target=resolve(spec.target.model, say=say, python=spec.engine_python), patch=patch)
    with contextlib.ExitStack() as locked:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            locked.enter_context(FileLock(path.with_suffix(".lock")))
            unwritable = ""
        except OSError as error:
            unwritable = f"cannot write {path.parent}: {error.strerror}"
        if not again and (remembered := _remembered(path)):
            return remembered
        how = "then remembered" if not unwritable else f"in every run: {unwritable}"
        say(f"draftgate: self-check: the target drafts for itself on a server of its own ({how})")
        began = time.monotonic()
        found = check_itself(slot.get(spec), prompts, say=say, stall_seconds=stall_seconds)
        slot.close()
        found = found.model_copy(update={"took_s": round(time.monotonic() - began, 1)})
        if not (found.broken or unwritable):
            try:
                write_atomically(path, found.model_dump_json(by_alias=True, indent=1) + "\n")
            except BadInput as error:
                say(f"draftgate: self-check: not remembered: {error}")
        return found


def checked(cells: Iterable[Cell]) -> tuple[str, ...]:
    """The variants of these cells: each has a self-check. A reference has none, since it drafts nothing."""
    return tuple(dict.fromkeys(cell.name.variant for cell in cells if not cell.name.reference))


def seconds_ahead(run: Run, variants: Iterable[str] = (BASE,)) -> float:
    """Seconds of the self-checks before the first cell; 0 where there is none, or they are remembered."""
    if run.options.self_check == "off" or run.options.server_url:
        return 0
    return sum(_seconds_ahead(run, variant) for variant in variants)


def _seconds_ahead(run: Run, variant: str) -> float:
    options = run.options
    spec = self_spec(options.stack.varied(variant), prefix_cache=options.profile.cache != "off")
    target = located(spec.target.model)
    try:
        if is_hashed(target) and _remembered(_path_of(spec, target=target, patch=options.patch)):
            return 0
    except ServerFailed:  # there is no engine: its start will say so
        return 0
    return conversion_s(spec.target.model) + run.pace.self_checking_s(SHORT * len(CHECKS), MOST_TOKENS)


def _path_of(spec: ServerSpec, *, target: str, patch: str) -> Path:
    return cache_folder() / "self-checks" / f"{key_of(spec, target=target, patch=patch)}.json"


def _remembered(path: Path) -> SelfCheck | None:
    try:
        found = SelfCheck.model_validate(read_json(path))
    except (BadRecord, ValueError):  # there is none yet, or it is damaged
        return None
    sound = sorted(check.name for check in found.checks if check.outcome == "ok")
    return found if sound == sorted(check.name for check in found.checks) == sorted(CHECKS) else None


def _checks(bench: Bench) -> SelfCheck:
    """Self-drafting on the prompts of the suite, once for all of its cases."""
    if SUITE not in bench.shared:
        server = bench.slot.get(self_spec(bench.run.options.stack))
        stall_seconds = bench.run.options.stall_seconds
        bench.shared[SUITE] = check_itself(
            server, _prompts(bench.run), say=bench.say, stall_seconds=stall_seconds
        )
    found: SelfCheck = bench.shared[SUITE]
    return found


def _prompts(run: Run) -> tuple[Prompt, ...]:
    return load_prompts(run.data / "prompts", "instruct", run.options.stack.languages[0], at_most=FULL)


def _asked(bench: Bench, drafter: Drafter) -> tuple[list[Answer], str]:
    """What the target answers with a drafter, and why that is not a measurement; empty where it is."""
    server = bench.slot.get(server_spec(bench.run.options.stack, drafter, K))
    prompts = _prompts(bench.run)
    profile = Profile(prompts=len(prompts), max_tokens=64)
    return ask(server, prompts, profile, stall_seconds=bench.run.options.stall_seconds)


def drafting_for_itself(bench: Bench, temperature: float) -> Outcome:
    """The target drafts for itself: it must accept as often as its own probabilities say.

    Raises:
        ServerFailed: see `check_itself`.
    """
    name = name_of(temperature)
    check = next(check for check in _checks(bench).checks if check.name == name)
    return _outcome(name, check.outcome, check.text)


def random_weights(bench: Bench) -> Outcome:
    """Draft with random weights, made for this target: acceptance must be near 0, and not 0.

    Raises:
        ServerFailed: the engine could not be started with it.
        BadInput: the target's sizes are not known.
    """
    name, stack = "a drafter with random weights", bench.run.options.stack
    target = Path(resolve(stack.target.model, say=bench.say, python=stack.engine.python))
    if not target.is_dir():
        return _outcome(name, "not checked", "— (the target is no folder here)")
    often = _checks(bench).often
    folder = bench.run.folder.resolve()  # a stack takes a relative path for a hub id
    weights = folder / SERVERS / "random-weights"
    write_random_drafter(weights, target=target, tokens=often, k=K)
    answers, flaw = _asked(bench, Drafter(name="random", method="eagle3", model=str(weights), k=(K,)))
    if flaw:
        return _outcome(name, "broken", flaw)
    tally = total(answer.record for answer in answers)
    return _outcome(name, *judge_guessing(tally.at_least[1], tally.verify_steps, tally.drafted or 0, K))


def synthetic(bench: Bench) -> Outcome:
    """Tell vLLM the rates at which it accepts (`rejection_sample_method`): we must count those.

    Raises:
        ServerFailed: the engine could not be started with it.
        BadInput: the target is not there.
    """
    name = "vLLM's synthetic acceptance"
    engine = bench.run.options.stack.engine
    if not environment(engine, python=engine.python).gpus:
        why = "— (vLLM's CPU sampler refuses it: Synthetic acceptance not supported with CPU sampling)"
        return _outcome(name, "not checked", why)
    facts = engine_facts(engine.python or sys.executable)
    if "synthetic_acceptance_rates" not in facts.drafter_fields:
        why = f"— ({facts.package} {facts.version} has none)"
        return _outcome(name, "not checked", why)
    rates = {"rejection_sample_method": "synthetic", "synthetic_acceptance_rates": list(_RATES)}
    answers, flaw = _asked(bench, Drafter.model_validate({**ITSELF, **rates}))
    if flaw:
        return _outcome(name, "broken", flaw)
    if lacks_steps(answers):
        return _outcome(name, "not checked", NO_STEPS)
    given = [after / before for before, after in itertools.pairwise((1.0, *_RATES))]
    draft_tokens = [
        DraftToken(position=position, accepted=accepted, chance=given[position], gap=math.inf)
        for answer in answers
        if answer.record.accepted is not None and answer.record.drafted is not None
        for _, position, accepted in verified(answer.record.accepted, answer.record.drafted, len(answer.ids))
    ]
    return _outcome(name, *judge_sampled(draft_tokens, K))


_KINDS: dict[Result, Kind] = {"ok": "fine", "broken": "invalid", "not checked": "unchecked"}
"""Whatever a broken instrument gives is not a measurement."""


def _outcome(name: str, result: Result, text: str) -> Outcome:
    return Outcome(suite=SUITE, cell=name, kind=_KINDS[result], sentence=f"{result}: {text}")


CHECKS = tuple(name_of(temperature) for temperature in (0.0, TEMPERATURE))
"""The checks of the short form. A cached result without one of them is ignored."""
