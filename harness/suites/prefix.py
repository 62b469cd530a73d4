"""The prefix suite: does a drafter cost hits in the prefix cache, and what does that cost in time?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from harness.config.cells import Cell, with_profile
from harness.config.engine_arguments import underscored
from harness.config.prompts import Prompt
from harness.errors import BadInput
from harness.measure.contexts import Count, behind_one_text
from harness.report import run_table
from harness.report.run_table import Column, Values
from harness.results.records import CellRecord, PromptRecord
from harness.run import Run
from harness.stats.paired import PairedRatio
from harness.suites.beside_none import first_flaw, measured_after_none, paired, sparing
from harness.suites.long_prompts import Made, effort, long_prompts, planned
from harness.suites.runner import Bench, Kind, Outcome, Suite
from harness.text.numbers import duration, share, signed, signed_interval
from harness.text.render import Piece

MOST = 4096
"""Tokens of a prompt with the text that all share."""
HALF = 0.5
"""Of the cached tokens that `none` finds: a drafter that finds no more than this fails. Policy."""
COLD, SHARED = "cold", "shared"
"""Each prompt with a cache of its own, and all with one: the first one fills it, the others find its text."""


def _plan(run: Run, cells: Sequence[Cell]) -> list[str]:
    caching = underscored(cells[0].spec.args).get("enable_prefix_caching")
    if cells[0].profile.cache == "off" or caching is False:
        raise BadInput(
            "the profile (cache) or the stack (enable_prefix_caching) starts the engine without a prefix "
            "cache, and this suite asks what is found in it: name another profile, or leave that out",
            code="no-prefix-cache",
        )
    tokens = min(planned(cells[0], least=1)[-1], MOST)
    count, requests, seconds = effort(run, cells, (tokens, tokens))
    text = f"prefix: {count} cells with those of `none`, {tokens:,} tokens at most; {requests} requests, "
    return [text + f"one at a time; about {duration(seconds)}, a guess"]


SUITE = Suite(
    name="prefix", by_path=True, own_servers=True, drafting=True, beside_none=True, takes=sparing, plan=_plan
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
    """A drafter or `none`: the same prompts with the cache cold, and shared."""

    cold: CellRecord
    shared: CellRecord

    @property
    def asked(self) -> int:
        """Requests that may find the text: all but the first."""
        return len(self.shared.prompts) - 1

    @property
    def hits(self) -> int:
        """Prompt tokens that they found in the cache."""
        return self.shared.counters.get("cached", 0)

    @property
    def queries(self) -> int:
        """Prompt tokens that all requests looked for in it."""
        return self.shared.counters.get("queried", 0)

    @property
    def whole(self) -> bool:
        """The counters hold all requests: the measurement was not interrupted."""
        return self.shared.counters.get("finished") == len(self.shared.prompts)

    @property
    def later(self) -> CellRecord:
        """The shared one without the request that fills the cache."""
        began = [(r.began_s or 0.0, r.prompt) for r in self.shared.prompts]
        first = min(began)[1]
        rest = tuple(r for r in self.shared.prompts if r.prompt != first)
        return self.shared.model_copy(update={"prompts": rest})

    @property
    def saved(self) -> PairedRatio | None:
        """The change of the time to first token from a cold cache to one that holds the text."""
        return paired(self.cold, self.later, _ttft, _one)


def prefix(bench: Bench, cell: Cell) -> Outcome:
    """Ask prompts that share a long text, with `none` and with a drafter, and count what the cache gives.

    Raises:
        BadInput, ServerFailed: see `Bench.measured`.
    """
    plain, drafted = measured_after_none(bench, SUITE.name, cell, lambda one: _measured(bench, one))
    assert plain is not None, "the suite starts its own servers"  # noqa: S101
    kind, sentence = judged(plain, drafted)
    return Outcome(
        suite=SUITE.name,
        cell=str(cell),
        kind=kind,
        sentence=sentence,
        table=report(plain, drafted, sentence),
        figures={"cell": str(cell), "none": figures(plain), "drafter": figures(drafted)},
    )


def _measured(bench: Bench, cell: Cell) -> Side:
    records = []
    for name, cache in ((COLD, "cold"), (SHARED, "warm")):
        one = with_profile(cell, concurrency=1, cache=cache)
        ((_, prompts),) = long_prompts(bench, SUITE.name, one, _made).items()
        suite = f"{SUITE.name}-{name}"
        records.append(bench.measured(one, suite=suite, prompts=prompts, timed=bench.run.timed))
    return Side(cold=records[0], shared=records[1])


def _made(prompts: Sequence[Prompt], texts: Sequence[str], tokens: Sequence[int], count: Count) -> Made:
    if not tokens:
        raise BadInput(
            "the model has no room for these prompts behind a text: raise max_model_len, or lower "
            "--max-tokens",
            code="context-too-short",
        )
    length = min(tokens[-1], MOST)
    return {length: behind_one_text(prompts, texts, length, count)}


def judged(plain: Side, drafted: Side) -> tuple[Kind, str]:
    """Whether the drafter costs hits, and the sentence that says so, with counts."""
    for record in (plain.cold, plain.shared, drafted.cold, drafted.shared):
        if not record.valid:
            return "invalid", f"not a measurement: {record.cell}: {first_flaw(record)}"
    if not (plain.whole and drafted.whole):
        return "unsure", "an interruption filled the cache twice: measure it again without --resume"
    if not all(0 <= side.hits < math.inf for side in (plain, drafted)):
        return "invalid", f"not a measurement: {plain.hits} and {drafted.hits} cached tokens are no counts"
    if not plain.hits:
        return "unchecked", f"`none` finds none of {plain.queries} tokens in the cache: is it switched off?"
    lost = plain.hits - drafted.hits
    counts = f"of {plain.hits} cached tokens that `none` finds in {plain.asked} requests"
    if lost <= 0:
        return "fine", f"finds {drafted.hits} {counts}"
    text = f"loses {lost} {counts}, {lost / plain.asked:.0f} a request ({lost / plain.hits:.0%})"
    return ("failed" if lost >= HALF * plain.hits else "noteworthy"), text


def figures(side: Side) -> Values:
    """The figures of a side by name; times in ms, without the request that fills the cache."""
    saved = side.saved
    return {
        "side": str(side.cold.cell.drafter if side.cold.cell.k == 0 else side.cold.cell),
        "requests": side.asked,
        "queries": side.queries,
        "hits": side.hits,
        "hits_a_request": side.hits / side.asked if side.asked else None,
        "hit_rate": side.hits / side.queries if side.queries else None,
        "cold_ttft_ms": saved.r0 * 1000 if saved else None,
        "shared_ttft_ms": saved.r1 * 1000 if saved else None,
        "ttft_change": saved.change if saved else None,
        "ttft_ci": saved.change_ci() if saved else None,
    }


def report(plain: Side, drafted: Side, sentence: str) -> tuple[Piece, ...]:
    """A row for `none` and one for the drafter, and below what the drafter changes."""
    columns = [
        Column("", "side", align="l"),
        Column("requests", "requests", run_table.count, rank=5),
        Column("queried", "queries", run_table.count, rank=6),
        Column("hits", "hits", run_table.count, rank=7),
        Column("a request", "hits_a_request", run_table.count, rank=8),
        Column("hit %", "hit_rate", share),
        Column("cold TTFT ms", "cold_ttft_ms", run_table.count, rank=3),
        Column("shared TTFT ms", "shared_ttft_ms", run_table.count, rank=2),
        Column("change %", "ttft_change%", signed),
        Column("95 % CI", "ttft_ci%", signed_interval, rank=1),
    ]
    prompts = [r.prompt_tokens for r in drafted.shared.prompts if not r.failed]
    longest = max(prompts, default=0)
    head = f"{drafted.cold.cell}: {len(prompts)} prompts of at most {longest} tokens, all behind one text"
    lines: list[Piece] = [run_table.block(columns, [figures(plain), figures(drafted)], head), sentence]
    against = paired(plain.later, drafted.later, _ttft, _one)
    if against:
        change = f"{signed(against.change)} % (95 % CI {signed_interval(against.change_ci())})"
        lines.append(f"shared TTFT against `none`: {change}, of one start of each server: no claim")
    return tuple(lines)


def _ttft(record: PromptRecord) -> float | None:
    return None if record.failed else record.ttft_s


def _one(_: PromptRecord) -> float:
    return 1.0
