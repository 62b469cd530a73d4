"""The first stage: collects prompts from the recipe's sources, none of them twice or of the benchmark."""

from __future__ import annotations

import hashlib
import itertools
import math
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from harness.engine.models import sha256_of
from harness.errors import BadInput
from harness.results.files import as_line, drop_torn_line, json_lines, writing
from harness.text.console import Say
from training.errors import TrainingFailed
from training.recipe import Recipe, Source
from training.sources import datasets
from training.sources.decontamination import BENCHMARK, BenchmarkPrompts
from training.sources.dedup import Intake, Prompt, Share, table
from training.sources.templates import SHIPPED, Templates

FILE = "prompts.jsonl"
MOST_ASKED = 5
"""The target gets at most this many requests for each wanted prompt."""
MOST_READ = 20
"""At most this many rows of a file or a data set are read for each wanted prompt."""
OVER_ASK = 1.15
"""Requests for each missing prompt, since some of what the target writes is of no use."""
SMALLEST_BATCH = 16

Ask = Callable[[Source, int, int], list[str | None]]
"""Gives texts `first` to `first + number - 1` of a `self` source; see `magpie.Magpie`."""


class _Written(BaseModel):
    """A line of a source's journal; None stands for a text that is no prompt."""

    text: str | None


def inputs(recipe: Recipe) -> dict[str, Any]:
    """All that decides what this stage writes: settings, the files they name, the benchmark's prompts.

    Raises:
        BadInput: a file is not there.
    """
    shipped = sorted(BENCHMARK.glob("*/*.jsonl"))
    found: dict[str, Any] = {
        "prompts": recipe.prompts.model_dump(mode="json"),
        "files": [sha256_of(file_of(s)) for s in recipe.prompts.sources if s.path],
        "benchmark": hashlib.sha256("".join(map(sha256_of, shipped)).encode()).hexdigest(),
    }
    if any(source.kind == "self" for source in recipe.prompts.sources):
        found["target"] = recipe.target.model_dump(mode="json")
    return found


def file_of(source: Source) -> Path:
    """The file of a source: a path, or the name of one that is shipped.

    Raises:
        BadInput: there is none.
    """
    path = SHIPPED / str(source.path)  # an absolute path stays what it is
    if not path.is_file():
        known = ", ".join(sorted(p.name for p in SHIPPED.glob("*.toml")))
        raise BadInput(f"prompts.sources: {path} is not there; shipped are: {known}", code="too-few-prompts")
    return path


def run(folder: Path, recipe: Recipe, *, ask: Ask, say: Say) -> dict[str, Any]:
    """The stage: write prompts.jsonl. What the target wrote before an interruption is used again.

    Args:
        folder: the stage's own.
        recipe: its `prompts` table.
        ask: samples from the target; called only where a source is of kind `self`.
        say: shows the progress, then the counts.

    Raises:
        BadInput: a source cannot be used, or a template file gives too few prompts.
        TrainingFailed: there is no prompt at all.
    """
    prompts, counts = collect(recipe, folder=folder, ask=ask, say=say)
    with writing(folder / FILE) as file:
        file.writelines(as_line(prompt.line()) for prompt in prompts)
    return counts


def collect(recipe: Recipe, *, folder: Path, ask: Ask, say: Say) -> tuple[list[Prompt], dict[str, Any]]:
    """Collect the prompts of all sources, shuffled, and the counts by source; see `run`."""
    settings = recipe.prompts
    intake = Intake(settings, BenchmarkPrompts.shipped(words=settings.overlap_words))
    shares = _shares(recipe, folder)
    # The cheap ones first: what is wrong with them shows before the target works for an hour.
    for share in sorted(shares, key=lambda s: ("template", "jsonl", "hub", "self").index(s.source.kind)):
        if share.source.kind == "self":
            _from_target(share, intake, recipe=recipe, ask=ask, say=say)
        else:
            _from_files(share, intake, seed=settings.seed)
    if not intake.found:
        raise TrainingFailed(
            "no source gave a prompt; what became of their texts:\n" + table(shares),
            code="too-few-prompts",
        )
    say(table(shares) + "\n")
    for share in shares:
        if share.missing:
            say(
                f"draftgate: {share.name} gave {share.kept} of {share.wanted} prompts; "
                "no other source gives more instead\n"
            )
    prompts = sorted(intake.found.values(), key=lambda p: p.id)  # requests end in any order
    random.Random(settings.seed).shuffle(prompts)  # noqa: S311 - a shuffle, no secret
    counts = {
        "wanted": settings.count,
        "prompts": len(prompts),
        "by_source": {share.name: share.counts() for share in shares},
    }
    return prompts, counts


def _shares(recipe: Recipe, folder: Path) -> list[Share]:
    """The sources, each with its number of prompts; the numbers add up to the recipe's."""
    sources = recipe.prompts.sources
    total = math.fsum(source.weight for source in sources)
    shares: list[Share] = []
    given = 0
    for i, reached in enumerate(itertools.accumulate(source.weight for source in sources)):
        upto = round(min(1.0, reached / total) * recipe.prompts.count)
        name = _name_of(sources[i])
        if any(share.name == name for share in shares):
            name = f"{name}-{i}"
        journal = folder / f"self-{i}.jsonl"
        shares.append(Share(source=sources[i], name=name, wanted=upto - given, journal=journal))
        given = upto
    return shares


def _name_of(source: Source) -> str:
    if source.kind == "self":
        return f"self:{source.language}"
    return f"{source.kind}:{source.dataset if source.kind == 'hub' else Path(str(source.path)).stem}"


def _from_files(share: Share, intake: Intake, *, seed: int) -> None:
    source, most = share.source, MOST_READ * share.wanted
    texts: Iterator[str]
    if source.kind == "template":
        texts, most = (expansion.text for expansion in Templates(file_of(source)).draw(seed)), sys.maxsize
    else:
        texts = datasets.local(file_of(source)) if source.kind == "jsonl" else datasets.hub(source, seed=seed)
    while share.missing and share.made < most and (text := next(texts, None)) is not None:
        intake.take(share, text)
    if share.missing and source.kind == "template":
        raise BadInput(
            f"{file_of(source)}: gives {share.kept} distinct prompts, and {share.wanted} are wanted; "
            "lower prompts.count or its weight, or add templates or words",
            code="too-few-prompts",
        )


def _from_target(share: Share, intake: Intake, *, recipe: Recipe, ask: Ask, say: Say) -> None:
    drop_torn_line(share.journal)
    if share.journal.exists():
        for line in json_lines(share.journal, may_be_empty=True):
            written = line.model(_Written)
            if share.missing:
                intake.take(share, written.text)
    in_flight = recipe.responses.concurrency * recipe.responses.servers
    largest = max(4 * in_flight, SMALLEST_BATCH)
    most = MOST_ASKED * share.wanted
    while share.missing and share.made < most:
        likely = max(SMALLEST_BATCH, math.ceil(share.missing * OVER_ASK))
        texts = ask(share.source, share.made, min(largest, likely, most - share.made))
        with share.journal.open("a", encoding="utf-8") as file:
            file.writelines(as_line({"text": text}) for text in texts)
        for text in texts:
            if share.missing:
                intake.take(share, text)
        say(f"\rdraftgate: {share.name}: {share.kept} of {share.wanted} ({share.made} asked)")
    if share.missing:
        say(
            f"\ndraftgate: {share.name}: stopped: in {share.made} requests the target wrote "
            f"{share.kept} new prompts. A higher temperature may give more"
        )
    say("\n")


def together(writers: Sequence[Ask], source: Source, first: int, number: int) -> list[str | None]:
    """The texts that one writer would give; each of several is asked for an equal part of them.

    Raises:
        ServerFailed: a request failed.
    """
    each, more = divmod(number, len(writers))
    sizes = [each + (i < more) for i in range(len(writers))]
    firsts = itertools.accumulate(sizes, initial=first)
    with ThreadPoolExecutor(len(writers), thread_name_prefix="magpie") as pool:
        parts = pool.map(lambda write, at, size: write(source, at, size), writers, firsts, sizes)
    return [text for part in parts for text in part]
