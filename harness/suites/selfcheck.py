"""Is the instrument sound? The target drafts for itself, on a server of its own, and its acceptance is known.

What was found is kept in the user's cache, by all that could change it: engine, target, arguments, hardware,
the patch, and the definitions of our own figures. Only a sound instrument is remembered.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field

from harness.config.cells import ServerSpec, canonical, server_spec
from harness.config.prompts import Prompt
from harness.config.stack import Drafter, Profile, Sampling, Stack
from harness.engine.facts import engine_facts
from harness.engine.models import cache_folder, resolve, sha256_of
from harness.engine.server import Server, running
from harness.engine.watchdog import STALL_SECONDS
from harness.errors import DraftgateError
from harness.measure import validity
from harness.measure.probe import MOST_LOGPROBS, Answer, ask, prompt_logprobs
from harness.provenance import integrity, record as provenance
from harness.results.files import write_atomically
from harness.stats.acceptance import METRIC_VERSION
from harness.suites import known_answers as known
from harness.suites.known_answers import Outcome, Place
from harness.suites.random_drafter import write as write_guesser
from harness.text.console import Say

K = 3
DRAFTER = "self"
TEMPERATURE = 0.7
VERSION = 1
"""Changes with what is checked here: what an older version found sound is looked at again."""
_OFTEN = 24
"""Tokens of the random drafter's vocabulary: those that the target says most often."""
_RATES = (0.8, 0.5, 0.2)
"""Unconditional acceptance at each position that vLLM is told to give."""


class BrokenInstrument(DraftgateError):  # noqa: N818 - reads as what it is
    """What draftgate would measure here is not what happens: nothing may be measured."""


class Check(BaseModel):
    """One known answer, and what was seen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    outcome: Outcome
    text: str

    def __str__(self) -> str:
        return f"{self.name}: {self.outcome}: {self.text}"


class Calibration(BaseModel):
    """What calibrating an engine with a target found."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_: Literal[1] = Field(default=1, alias="schema")
    engine: str
    patches: tuple[str, ...]
    checks: tuple[Check, ...]
    often: tuple[int, ...] = ()
    """The tokens that stand most often in the answers at T=0."""

    @property
    def broken(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.outcome == "broken")

    def sentence(self) -> str:
        """What is broken, in one sentence."""
        what = "; ".join(f"{check.name}: {check.text}" for check in self.broken)
        patch = (
            f" (patches in force: {', '.join(self.patches)})" if self.patches else " (no patch is in force)"
        )
        return (
            f"the instrument is broken: {self.engine} with this target does not give what is known, so "
            f"nothing measured here would be true: {what}{patch}; patch the engine, or measure all the same "
            "with --calibration warn"
        )


def self_spec(stack: Stack, *, prefix_cache: bool = True) -> ServerSpec:
    """The server on which the target of a stack drafts for itself, whatever drafters the stack has."""
    itself = Drafter(name=DRAFTER, method="draft_model", model="target", k=(K,))
    return with_logprobs(server_spec(stack, itself, K, prefix_cache=prefix_cache))


def with_logprobs(spec: ServerSpec) -> ServerSpec:
    """The same server, allowed to tell as many log probabilities as are asked for here."""
    if "max_logprobs" in {name.replace("-", "_") for name in spec.args}:
        return spec
    return dataclasses.replace(spec, args={**spec.args, "max_logprobs": MOST_LOGPROBS})


def key_of(spec: ServerSpec, *, target: str, patch: str) -> str:
    """All that may change what calibrating gives, hashed; `target` is its folder or hub id."""
    facts = engine_facts(spec.engine_python or sys.executable)
    env = {**os.environ, **spec.env}
    described = {
        "version": (VERSION, METRIC_VERSION),
        "engine": (facts.package, facts.version, spec.engine_python),
        "changed": integrity.changed_files(facts.folder) if facts.folder else None,
        "loads_code": [(name, env[name]) for name in integrity.code_loaders(env)],
        "target": (spec.target.model_dump(mode="json"), provenance.weights_hash(target)),
        "args": spec.args,
        "env": spec.env,
        "drafting": spec.speculative,
        "mend": (patch, sha256_of(Path(__file__).parents[1] / "engine" / "vllm_plugin.py")),
        "environment": provenance.environment(),
    }
    return hashlib.sha256(canonical(described).encode()).hexdigest()[:24]


def ensure(
    stack: Stack,
    prompts: Sequence[Prompt],
    *,
    folder: Path,
    say: Say,
    patch: str = "1",
    prefix_cache: bool = True,
    again: bool = False,
    stall_seconds: float = STALL_SECONDS,
) -> Calibration:
    """The short calibration of a stack's engine and target: from the cache, or done now.

    Args:
        stack: whose engine and target are calibrated.
        prompts: to draft for; two are enough.
        folder: the server's log goes there.
        say: told what takes long.
        patch: see `server.running`.
        prefix_cache: whether the servers that will measure have one.
        again: do it whatever the cache knows.
        stall_seconds: how long the server may have work and do nothing.

    Raises:
        ServerFailed: the engine could not be started with the target drafting for itself, or it stalled.
        BadInput: the target is not there.
    """
    spec = self_spec(stack, prefix_cache=prefix_cache)
    target = resolve(spec.target.model, say=say, python=spec.engine_python)
    path = cache_folder() / "calibrations" / f"{key_of(spec, target=target, patch=patch)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not again and (remembered := _remembered(path)):
            return remembered
        say("draftgate: calibrating: the target drafts for itself on a server of its own (then remembered)")
        with running(spec, folder=folder, say=say, patch=patch) as server:
            found = calibrate(server, prompts, say=say, stall_seconds=stall_seconds)
        if not found.broken:
            write_atomically(path, found.model_dump_json(by_alias=True, indent=1) + "\n")
        return found


def _remembered(path: Path) -> Calibration | None:
    try:
        found = Calibration.model_validate_json(path.read_bytes())
    except (OSError, ValueError):  # none yet, or damaged: then it is done again
        return None
    sound = {check.name for check in found.checks if check.outcome == "ok"}
    return found if sound == {check.name for check in found.checks} == set(_SHORT) else None


def calibrate(
    server: Server,
    prompts: Sequence[Prompt],
    *,
    say: Say,
    max_tokens: int = 64,
    stall_seconds: float = STALL_SECONDS,
) -> Calibration:
    """Self-drafting on `server` at T=0 and at T=0.7, against what must come of it.

    Raises:
        ServerFailed: the server does not answer, stalls, or tells no log probabilities.
    """
    checks, said = [], Counter[int]()
    for temperature in (0.0, TEMPERATURE):
        say(f"\rdraftgate: calibrating: T={temperature:g}, {len(prompts)} prompts")
        profile = Profile(
            prompts=len(prompts), max_tokens=max_tokens, sampling=Sampling(temperature=temperature)
        )
        answers, hard = ask(server, prompts, profile, stall_seconds=stall_seconds)
        checks.append(_check(server, answers, hard, temperature))
        if not temperature:
            said.update(token for answer in answers for token in answer.ids)
    return Calibration(
        engine=f"vLLM {server.version}",
        patches=tuple(str(patch["fault"]) for patch in provenance.patches_of(server) if patch["mended"]),
        checks=tuple(checks),
        often=tuple(token for token, _ in said.most_common(_OFTEN)),
    )


def guessing(
    stack: Stack,
    prompts: Sequence[Prompt],
    often: Sequence[int],
    *,
    folder: Path,
    say: Say,
    patch: str = "1",
) -> Check:
    """A drafter with random weights, made for this target: acceptance near 0, and not 0.

    `often` are tokens that the target says often: see `Calibration.often`.

    Raises:
        ServerFailed: the engine could not be started with it.
        BadInput: the target's sizes are not known.
    """
    name = "a drafter with random weights"
    target = Path(resolve(stack.target.model, say=say, python=stack.engine.python))
    if not target.is_dir():
        return Check(name=name, outcome="not checked", text="— (the target is no folder here)")
    weights = folder.resolve() / "random-weights"  # a relative path is no folder to a stack
    write_guesser(weights, target=target, tokens=often, k=K)
    spec = server_spec(stack, Drafter(name="random", method="eagle3", model=str(weights), k=(K,)), K)
    with running(spec, folder=folder, say=say, patch=patch) as server:
        answers, hard = ask(server, prompts, Profile(prompts=len(prompts), max_tokens=64))
    if hard:
        return Check(name=name, outcome="broken", text=hard)
    tally = validity.total(answer.record for answer in answers)
    outcome, text = known.judge_guessing(tally.at_least[1], tally.verify_steps, tally.drafted or 0, K)
    return Check(name=name, outcome=outcome, text=text)


def synthetic(stack: Stack, prompts: Sequence[Prompt], *, folder: Path, say: Say, patch: str = "1") -> Check:
    """vLLM accepts drafts at rates that it is told (`rejection_sample_method`): they are what we count.

    Raises:
        ServerFailed: the engine could not be started with it.
        BadInput: the target is not there.
    """
    name = "vLLM's synthetic acceptance"
    if not provenance.environment()["gpus"]:
        why = "— (vLLM's CPU sampler refuses it: Synthetic acceptance not supported with CPU sampling)"
        return Check(name=name, outcome="not checked", text=why)
    facts = engine_facts(stack.engine.python or sys.executable)
    if not {"synthetic", "synthetic_acceptance_rates"} & facts.methods:
        why = f"— ({facts.package} {facts.version} has none)"
        return Check(name=name, outcome="not checked", text=why)
    itself = Drafter.model_validate(
        {
            "name": DRAFTER,
            "method": "draft_model",
            "model": "target",
            "k": (K,),
            "rejection_sample_method": "synthetic",
            "synthetic_acceptance_rates": list(_RATES),
        }
    )
    spec = server_spec(stack, itself, K)
    with running(spec, folder=folder, say=say, patch=patch) as server:
        answers, hard = ask(server, prompts, Profile(prompts=len(prompts), max_tokens=64))
    if hard:
        return Check(name=name, outcome="broken", text=hard)
    if _untold(answers):
        return Check(name=name, outcome="not checked", text=_UNTOLD)
    given = [after / before for before, after in itertools.pairwise((1.0, *_RATES))]
    places = [
        Place(position=position, accepted=accepted, chance=given[position], gap=math.inf)
        for answer in answers
        if answer.record.accepted is not None and answer.record.drafted is not None
        for _, position, accepted in known.verified(
            answer.record.accepted, answer.record.drafted, len(answer.ids)
        )
    ]
    outcome, text = known.judge_sampled(places, K)
    return Check(name=name, outcome=outcome, text=text)


def name_of(temperature: float) -> str:
    """The check of self-drafting at a temperature."""
    return f"the target drafting for itself at T={temperature:g}"


_SHORT = tuple(name_of(temperature) for temperature in (0.0, TEMPERATURE))
"""The checks of the short form: a memory that lacks one is none."""


def _check(server: Server, answers: Sequence[Answer], hard: str, temperature: float) -> Check:
    name = name_of(temperature)
    if hard:
        return Check(name=name, outcome="broken", text=hard)
    if _untold(answers):
        return Check(name=name, outcome="not checked", text=_UNTOLD)
    places = [place for answer in answers for place in places_of(server, answer, temperature)]
    outcome, text = (known.judge_sampled if temperature else known.judge_greedy)(places, server.spec.k)
    return Check(name=name, outcome=outcome, text=text)


_UNTOLD = "— (the engine tells no acceptance of single steps, and its stream came in other pieces)"


def _untold(answers: Sequence[Answer]) -> bool:
    """Drafts were checked in all of them, and in none is it known which were right."""
    records = [answer.record for answer in answers]
    return bool(records) and all(r.accepted is None and sum(r.histogram) for r in records)


def places_of(server: Server, answer: Answer, temperature: float) -> list[Place]:
    """The draft tokens of an answer that were checked, with the probabilities of the target there.

    An answer whose steps are not all known (undrafted ones among them, or a histogram alone) has none.

    Raises:
        ServerFailed: the server tells no log probabilities.
    """
    record = answer.record
    if record.accepted is None or record.drafted is None or record.undrafted:
        return []
    told = prompt_logprobs(server, [*answer.prompt_ids, *answer.ids])
    start = len(answer.prompt_ids)
    return [
        known.place_of(position, told[start + index], temperature, accepted=accepted)
        for index, position, accepted in known.verified(record.accepted, record.drafted, len(answer.ids))
    ]
