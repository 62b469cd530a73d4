"""Lists the stages of a recipe, and estimates their work."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tabulate import tabulate

from harness.config.cells import ServerSpec, canonical
from harness.config.prompts import hash_of
from harness.engine.models import sha256_of
from harness.engine.server import Server
from harness.engine.watchdog import MOST_STALLS, Guard, guarded
from harness.errors import ServerFailed
from harness.provenance.record import weights_hash
from harness.text.console import Say
from training import benchmark, dataset, stages
from training.answers import generate
from training.answers.generate import Stall
from training.errors import Stalled
from training.export import export
from training.hidden import disk_space
from training.recipe import Recipe, Source
from training.servers import base_spec
from training.sources import gather
from training.sources.magpie import Magpie
from training.stages import Context, Stage
from training.trainer import rehearsal, stage

TOKENS_PER_ANSWER = 250
"""A guess, for the outlook of a dry run."""


def _target(context: Context) -> tuple[ServerSpec, str]:
    return base_spec(context.recipe, say=context.say)


@contextlib.contextmanager
def _serve(context: Context) -> Iterator[list[tuple[Server, Stall]]]:
    """The servers that answer, under the watchdog; new ones after a stall. The training gets ready, too."""
    slots, spec = context.servers.answering, _target(context)[0]
    with ThreadPoolExecutor(len(slots)) as pool:
        starting = [pool.submit(slot.get, spec) for slot in slots]
        rehearsal.begin(context)
    servers = [one.result() for one in starting]
    try:
        with contextlib.ExitStack() as watched:
            guards = [
                watched.enter_context(guarded(server, stall_seconds=context.stall_seconds))
                for server in servers
            ]
            yield [
                (server, functools.partial(_stalled, guard))
                for server, guard in zip(servers, guards, strict=True)
            ]
    except Stalled:
        context.servers.end_answering()
        raise


def _stalled(guard: Guard) -> str | None:
    return guard.stalled.reason if guard.stalled else None


def _prompts(context: Context) -> dict[str, Any]:
    """Starts the servers once a source asks the target, and new ones after each stall."""
    with contextlib.ExitStack() as opened:
        served: list[tuple[Magpie, Stall]] = []

        def reason() -> str | None:
            return next(filter(None, (stalled() for _, stalled in served)), None)

        def ask(source: Source, first: int, number: int) -> list[str | None]:
            for attempt in range(1, MOST_STALLS + 1):
                if not served:
                    for server, stalled in opened.enter_context(_serve(context)):
                        served.append((Magpie(server, context.recipe), stalled))
                try:
                    return gather.together([write for write, _ in served], source, first, number)
                except ServerFailed:
                    if not (why := reason()) or attempt == MOST_STALLS:
                        raise
                    context.say(f"the server stalled ({attempt} of {MOST_STALLS}): {why}")
                    opened.close()
                    context.servers.end_answering()
                    served.clear()
            raise AssertionError

        return gather.run(context.folder, context.recipe, ask=ask, say=context.say)


def _responses(context: Context) -> dict[str, Any]:
    return generate.run(
        context.folder,
        context.upstream["prompts"] / "prompts.jsonl",
        context.recipe,
        target=_target(context)[1],
        serve=lambda: _serve(context),
        say=context.say,
    )


def _dataset(context: Context) -> dict[str, Any]:
    answers = context.upstream["responses"] / "responses.jsonl"
    return dataset.run(context.folder, answers, context.recipe, say=context.say)


def _model(reference: str | None) -> list[str]:
    """What a folder of the user's holds; empty for a model that its name tells."""
    folder = Path(reference or "")
    if not folder.is_absolute():
        return []
    texts = (file for kind in ("*.json", "*.jinja", "*.model") for file in sorted(folder.glob(kind)))
    return [weights_hash(str(folder)), *(f"{file.name} {sha256_of(file)}" for file in texts)]


def _stack(recipe: Recipe) -> str:
    """The hash of the stack that measures; a record must not hold its environment."""
    return hash_of(canonical(benchmark.stack_of(recipe).model_dump(mode="json")))


STAGES = (
    Stage(
        name="prompts",
        version=3,
        inputs=lambda r: [r.target.model_dump(), _model(r.target.model), gather.inputs(r)],
        run=_prompts,
    ),
    Stage(
        name="responses",
        version=1,
        inputs=lambda r: [r.responses.model_dump(exclude={"concurrency", "servers"}), r.engine.args],
        run=_responses,
    ),
    Stage(
        name="dataset",
        version=1,
        inputs=lambda r: [r.dataset.model_dump(), r.check.held_out, *_model(r.train.from_pretrained)],
        run=_dataset,
    ),
    Stage(
        name="train",
        version=1,
        inputs=lambda r: [
            r.train.model_dump(exclude={"num_workers", "keep_last", "compile"}),
            r.hidden_states.model_dump(include={"mode", "layers", "args"}),
        ],
        run=stage.run,
    ),
    Stage(name="export", version=1, inputs=lambda r: [r.drafter, r.about], run=export.run),
    Stage(name="check", version=2, inputs=lambda r: [r.check.model_dump(), _stack(r)], run=benchmark.run),
)


def outlook(recipe: Recipe, work: Path) -> str:
    """What a run would do: stages, tokens, disk, and the trainer's command."""
    amounts = _amounts(recipe)
    rows = []
    for planned in stages.plan(recipe, STAGES, work):
        record = planned.record
        state = f"done in {record['seconds']:.0f} s" if record else "to do"
        rows.append([planned.stage.name, state, amounts[planned.stage.name], str(planned.folder)])
    command = " ".join(stage.command(recipe, Path("SETTINGS.json")))
    return f"{tabulate(rows, headers=['stage', 'state', 'how much', 'folder'])}\n\ntrainer: {command}"


def check_disk_space(recipe: Recipe, work: Path, say: Say) -> None:
    """Check the disk for a guessed number of tokens before anything starts; `train` checks it exactly.

    Raises:
        TrainingFailed: answers half as long as expected would have no room.
    """
    done = {planned.stage.name for planned in stages.plan(recipe, STAGES, work) if planned.record}
    if not done & {"dataset", "train"} and recipe.hidden_states.mode == "ahead":
        disk_space.check_disk_space(recipe, work, tokens=_likely(recipe), say=say)


def _likely(recipe: Recipe) -> int:
    return recipe.prompts.count * min(TOKENS_PER_ANSWER, recipe.responses.max_tokens)


def _amounts(recipe: Recipe) -> dict[str, str]:
    count = recipe.prompts.count
    at_most = count * recipe.responses.max_tokens
    likely = _likely(recipe)
    steps = -(-likely // recipe.train.total_seq_len) * recipe.train.epochs
    needed = disk_space.expected_bytes(recipe, likely)
    room = "— (the target is not here)" if needed is None else f"about {disk_space.size_of(needed)}"
    return {
        "prompts": f"{count:,} prompts",
        "responses": f"about {likely:,} tokens, at most {at_most:,}",
        "dataset": f"draft vocabulary {recipe.dataset.draft_vocab_size or 'of the target'}",
        "train": f"about {steps:,} steps; hidden states: {room}",
        "export": recipe.drafter,
        "check": f"k {', '.join(map(str, recipe.check.k))} on stack {recipe.check.stack}",
    }
