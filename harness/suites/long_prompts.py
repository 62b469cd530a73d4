"""Prompts behind a long text: how long they may be, how long asking them takes, and where they are kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.config.cells import Cell, with_profile
from harness.config.engine_arguments import underscored
from harness.config.prompts import Prompt
from harness.errors import BadInput, BadRecord
from harness.measure.contexts import Count, texts_of
from harness.measure.probe import Tokens
from harness.results.files import as_line, json_lines, write_atomically
from harness.run import Run
from harness.suites.beside_none import with_none
from harness.suites.runner import Bench

LENGTHS = (256, 1024, 4096, 16384)
"""Tokens of a prompt with the text before it."""
_LAST = 0.75
"""Of the room that the model has: the last length, where it has not room for all of them."""
_APART = 1.25
"""So much longer than the one before it that is."""
_LEAST = 32
"""Tokens of text before a prompt at least."""
_PREFILL = 20
"""Tokens of a prompt that take as long as one of an answer: a guess, for the plan."""

Made = dict[int, list[Prompt]]
"""Prompts by their length in tokens."""
Make = Callable[[Sequence[Prompt], Sequence[str], Sequence[int], Count], Made]
"""Makes them of prompts, texts and the lengths that there is room for; the last one counts tokens."""


def window_of(args: Mapping[str, Any]) -> int | None:
    """The max_model_len that a stack gives the engine; None where it gives none, or not as a number."""
    given = str(underscored(args).get("max_model_len"))
    return int(given) if re.fullmatch("[1-9][0-9]{0,8}", given) else None


def lengths(window: int | None, max_tokens: int) -> tuple[int, ...]:
    """The lengths that a model has room for, with an answer of `max_tokens`.

    Where that is not for all, the last one takes three quarters of the room.
    """
    if window is None:
        return LENGTHS
    fit = tuple(length for length in LENGTHS if length <= window - max_tokens)
    last = int(_LAST * (window - max_tokens))
    return (*fit, last) if fit and fit != LENGTHS and last > _APART * fit[-1] else fit


def planned(cell: Cell, *, least: int) -> tuple[int, ...]:
    """The lengths at which a cell will be asked, as far as its stack says how long a context may be.

    Raises:
        BadInput: there is room for fewer than `least` of them.
    """
    window, most = window_of(cell.spec.args), cell.profile.max_tokens
    found = lengths(window, most)
    if len(found) < least:
        room = max(0, (window or 0) - most)
        raise BadInput(
            f"max_model_len is {window}: {room} tokens beside an answer of {most} are too few for a context; "
            "raise max_model_len, or lower --max-tokens",
            code="context-too-short",
        )
    return found


def texts_alone(run: Run, cell: Cell, *, why: str = "text goes before a text alone") -> tuple[Prompt, ...]:
    """The prompts of a cell, each of which is a text and no chat; `why` that must be.

    Raises:
        BadInput: one is a chat; see also `Run.prompts`.
    """
    prompts = run.prompts(cell)
    chat = next((prompt for prompt in prompts if prompt.messages), None)
    if chat:
        what = f"{cell.name.workload}: the prompt {chat.id} is a chat, and {why}"
        raise BadInput(f"{what}: name another workload, or use prompts of one text each", code="not-a-text")
    return prompts


def effort(run: Run, cells: Sequence[Cell], tokens: Sequence[int]) -> tuple[int, int, float]:
    """How many cells are measured with those of `none`, with how many requests, and in how many seconds.

    Args:
        run: whose.
        cells: of the suite.
        tokens: of the prompt, of each time that a prompt is asked.

    Raises:
        BadInput: see `texts_alone`.
    """
    measured = with_none(run, cells)
    counts, requests = {}, 0
    for cell in measured:
        prompts, profile = len(texts_alone(run, cell)), cell.profile
        run.warmups(cell)
        requests += len(tokens) * prompts
        answers = len(tokens) * prompts + sum(tokens) * prompts / (_PREFILL * profile.max_tokens)
        counts[with_profile(cell, concurrency=1)] = answers
    return len(measured), requests, run.pace.cells_s(counts)


def long_prompts(bench: Bench, suite: str, cell: Cell, make: Make) -> Made:
    """The prompts of a place, as `make` made them for this run: both sides of a comparison get the same.

    Raises:
        BadRecord: the run's file of them is damaged.
        ServerFailed: the server does not count tokens.
    """
    path = bench.run.folder / suite / f"{'-'.join(cell.name.place)}.jsonl"
    if not path.is_file():
        made = _made(bench, cell, make)
        lines = [
            {"length": n, "id": p.id, "language": p.language, "category": p.category, "text": p.text}
            for n, prompts in made.items()
            for p in prompts
        ]
        write_atomically(path, "".join(map(as_line, lines)))
        return made
    return _read(path)


def kept_in(folder: Path, suite: str) -> Iterator[Prompt]:
    """The prompts that a run made for a suite.

    Raises:
        BadRecord: a file of them is damaged.
    """
    for path in sorted((folder / suite).glob("*.jsonl")):
        for prompts in _read(path).values():
            yield from prompts


def _read(path: Path) -> Made:
    found: Made = {}
    for line in json_lines(path, may_be_empty=True):
        one = dict(line.data)
        try:
            found.setdefault(int(one.pop("length")), []).append(Prompt(**one))
        except (KeyError, TypeError, ValueError):
            raise BadRecord(f"{line.where}: not a prompt as it was written; start without --resume") from None
    return found


def _made(bench: Bench, cell: Cell, make: Make) -> Made:
    tokens = Tokens(bench.slot.get(cell.spec), cell.template)
    render = tokens.chat if cell.name.endpoint == "chat" else tokens.raw

    def count(text: str) -> int:
        return len(render(text))

    prompts = texts_alone(bench.run, cell)
    longest = max(count(prompt.text) for prompt in prompts)
    room = lengths(tokens.window or window_of(cell.spec.args), cell.profile.max_tokens)
    bench.say(f"draftgate: {'-'.join(cell.name.place)}: making prompts")
    texts = texts_of(bench.run.data / "prompts", prompts, cell.name.language)
    return make(prompts, texts, [n for n in room if n > longest + _LEAST], count)
