"""Forward passes of chosen batches, timed by the engine without a server: `vllm bench forward`, on a GPU.

vLLM has it from 0.33 on. It captures the pass of a batch, of the target and of a drafter that is a model, as
a CUDA graph and replays that. Sampling, the check of drafts, the scheduler and HTTP are left out, nothing is
compiled, and every draft counts as accepted.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field

from harness.config.cells import ServerSpec
from harness.config.engine_arguments import underscored
from harness.engine import process
from harness.engine.facts import command_line, devices_of, engine_facts, resolve_speculative
from harness.engine.models import resolve
from harness.errors import BadRecord, ServerFailed
from harness.results.files import read_json, write_atomically
from harness.results.records import SCHEMA, Record, load
from harness.text.console import Say

_EACH_S = 60.0
"""That a batch may take, beside the start."""


class Forward(Record):
    """What was timed for one server: `servers/<server>.forward.json` in a run."""

    schema_: Literal[1] = Field(alias="schema", default=SCHEMA)
    engine: str
    drafter: str
    k: int
    variant: str
    context: int
    """Tokens that each request has in the cache before."""
    seconds: dict[int, float]
    """The median of a pass, by requests in the batch. Each reads k drafts and one token more."""


def times_forward(spec: ServerSpec) -> bool:
    """Whether the engine of a server can time its passes: on one device, by a command that it has."""
    try:
        facts = engine_facts(spec.engine_python or sys.executable)
    except ServerFailed:
        return False
    return facts.forward and not facts.cpu and devices_of(spec.args) == 1


def measured(spec: ServerSpec, in_flight: Iterable[int], *, context: int, folder: Path, say: Say) -> Forward:
    """Time one pass of each batch, unless `folder` has it from before.

    Args:
        spec: the server whose model and drafter these are. It must not run meanwhile.
        in_flight: requests in a batch.
        context: tokens that each request has in the cache before.
        folder: of the servers of a run.
        say: gets a line about how long it takes.

    Raises:
        ServerFailed: the engine's command failed, took too long or wrote something else; with its reason.
        BadInput: model or drafter are not there, or the disk is full.
    """
    kept, levels = folder / f"{spec.label}.forward.json", sorted(in_flight)
    if kept.exists() and {*levels} <= (found := load(kept, Forward)).seconds.keys():
        return found
    facts = engine_facts(python := spec.engine_python or sys.executable)
    target = resolve(spec.target.model, say=say, python=spec.engine_python)
    speculative = resolve_speculative(spec, target=target, say=say)
    own = {name: v for name, v in underscored(spec.args).items() if name in facts.engine_arguments}
    alone = dataclasses.replace(spec, args={"load_format": "auto"} | own)  # by itself it makes weights up
    words = command_line(alone, model=target, speculative=speculative, per_request=False)
    k = spec.k
    for level in levels:
        words += ["--case", f"n{level}={level}*{k + 1}@{context + k + 1}" + f":{k}" * bool(k)]
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{spec.label}-forward-{secrets.token_hex(6)}"
    log, output = folder / f"{name}.log", folder / f"{name}.json"
    words += ["--kv-len-jitter", "0", "--output-json", str(output)]
    child = process.start(
        [python, "-m", "vllm.entrypoints.cli.main", "bench", "forward", *words],
        log=log,
        environment={**os.environ, "VLLM_NO_USAGE_STATS": "1", **spec.env},
    )
    what, began = f"the forward passes of {spec.label}", time.monotonic()
    try:
        while child.poll() is None:
            waited = time.monotonic() - began
            if waited > spec.start_timeout_s + _EACH_S * len(levels):
                raise ServerFailed(
                    process.obituary(f"{what} took more than {waited:.0f} s", log), code="engine-slow"
                )
            say(f"\rdraftgate: {what}: {waited:.0f} s")
            time.sleep(0.25)
        if child.returncode:
            ended = f"vllm bench forward ended with exit code {child.returncode} for {spec.label}"
            raise ServerFailed(process.obituary(ended, log), code="engine-died")
        timed = Forward(
            engine=facts.version, drafter=spec.drafter, k=k, variant=spec.variant, context=context,
            seconds=_medians(output, levels),
        )  # fmt: skip
    finally:
        process.stop(child)
        output.unlink(missing_ok=True)
    write_atomically(kept, timed.model_dump_json(by_alias=True, indent=1) + "\n")
    return timed


def _medians(output: Path, levels: Iterable[int]) -> dict[int, float]:
    try:
        cases = {case["case"]: float(case["median_us"]) / 1e6 for case in read_json(output)}
        found = {level: cases[f"n{level}"] for level in levels}
    except (BadRecord, LookupError, TypeError, ValueError) as error:
        what = f"vllm bench forward wrote what draftgate cannot read: {type(error).__name__}: {error}"
        raise ServerFailed(what, code="engine-died") from None
    if not all(0 < seconds < float("inf") for seconds in found.values()):
        raise ServerFailed(f"vllm bench forward wrote times that are none: {found}", code="engine-died")
    return found


def kept_in(folder: Path) -> list[Forward]:
    """What a run holds.

    Raises:
        BadRecord: a file is damaged.
    """
    return [load(path, Forward) for path in sorted(folder.glob("servers/*.forward.json"))]
