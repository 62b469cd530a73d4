"""What the suites have in common that measure `none` beside each drafter, on the same prompts."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from harness.config.cells import Cell, without_drafts
from harness.config.stack import Stack
from harness.results.records import CellRecord, PromptRecord
from harness.results.stretches import sums_of
from harness.results.whole import flaws_of
from harness.run import Run
from harness.stats.paired import PairedRatio, paired_log_ratio
from harness.suites.runner import Bench

T = TypeVar("T")
Figure = Callable[[PromptRecord], float | None]
"""Of an answer; None where it has none."""


def sparing(cell: Cell, stack: Stack, words: str) -> bool:
    """One endpoint, one language and one k of each drafter are enough, unless the words name others.

    These are `chat`, the stack's first language, and the largest k that the stack selects.
    """
    name, drafter = cell.name, stack.drafters[cell.name.drafter]
    ks = drafter.selected if isinstance(drafter.selected, tuple) else drafter.k
    others = {
        name.endpoint: name.endpoint != "chat" and "chat" in stack.endpoints and stack.endpoints,
        name.language: name.language in stack.languages[1:] and stack.languages,
        name.k: name.k != max(ks) and [f"k{k}" for k in drafter.k],
    }
    asked = set(re.findall(r"[\w.+-]+", words))
    return all(not values or asked & set(values) for values in others.values())


def with_none(run: Run, cells: Sequence[Cell]) -> list[Cell]:
    """The cells of `none` in the same places, then the cells. Of a server that was given, these alone."""
    plain = [] if run.options.server_url else [without_drafts(cell) for cell in cells]
    return list(dict.fromkeys([*plain, *cells]))


def measured_after_none(
    bench: Bench, suite: str, cell: Cell, measure: Callable[[Cell], T]
) -> tuple[T | None, T]:
    """What `measure` gives for the cell of `none` in the same place, and for a cell of a suite.

    All cells of `none` come first, so that its server starts once. There is none of a server that was given.
    """
    if suite not in bench.shared:
        plain = [one for one in with_none(bench.run, bench.cells) if not one.name.k]
        bench.shared[suite] = {one.name.place: measure(one) for one in plain}
    return bench.shared[suite].get(cell.name.place), measure(cell)


def paired(old: CellRecord, new: CellRecord, over: Figure, under: Figure) -> PairedRatio | None:
    """The change of sum over / sum under, prompt by prompt; None where too few prompts have both figures.

    The seeds and turns of one are summed, where an answer has all its figures.
    """
    before = {(r.prompt, r.repeat): r for r in old.prompts}

    def figures(r: PromptRecord) -> tuple[float, ...]:
        sides = before[r.prompt, r.repeat], r
        return tuple(figure(side) or 0.0 for side in sides for figure in (over, under))

    both = [r for r in new.prompts if (r.prompt, r.repeat) in before and all(figures(r))]
    try:
        return paired_log_ratio(*zip(*sums_of(both, figures).values(), strict=True))
    except (ValueError, TypeError):  # a scatter needs two prompts
        return None


def first_flaw(record: CellRecord) -> str:
    """Why a record is not a measurement: the first reason, and how many more there are."""
    hard = flaws_of(record.findings, record.prompts) or [record.why_invalid]
    return hard[0] + (f" (and {len(hard) - 1} more)" if len(hard) > 1 else "")


def decode_seconds(record: PromptRecord) -> float | None:
    """Seconds from the first token of an answer to its last; None where it was not timed."""
    if record.failed or record.ttft_s is None or record.total_s is None:
        return None
    return record.total_s - record.ttft_s


def later_tokens(record: PromptRecord) -> float:
    """Tokens of an answer after its first."""
    return record.output_tokens - 1


def committed(record: PromptRecord) -> float | None:
    """Tokens that the decode steps of an answer committed."""
    return None if record.failed else record.tally.committed


def decode_steps(record: PromptRecord) -> float | None:
    """Decode steps of an answer."""
    return None if record.failed else record.tally.decode_steps
