"""The load suite: what becomes of acceptance, speed and errors when more requests are in flight."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

from harness.config.cells import Cell, with_profile
from harness.judge.pairing import MOST_SILENCED
from harness.judge.verdict import Verdict, judge
from harness.measure.measurement import Measurement
from harness.measure.validity import countable, remembers
from harness.report import run_table
from harness.report.run_table import Column, Values, marked
from harness.report.sentence import MARKS
from harness.results.records import CellRecord, PromptRecord
from harness.results.timing import wall_of
from harness.run import Run
from harness.suites.runner import Bench, Kind, Outcome, Suite
from harness.text.numbers import duration, number, signed, signed_interval
from harness.text.render import Block, Piece, by_text

LEVELS = (1, 4, 16, 64)
"""Requests in flight. The other levels are compared with the first."""
_FOR_EACH = 2
"""Requests for each one in flight: a level lasts for a while."""


def _plan(run: Run, cells: Sequence[Cell]) -> list[str]:
    levels = run.options.levels
    run.refuse_in_flight(cells, max(levels))
    requests = {cell: sum(_repeats(run, n, cell) * len(run.prompts(cell)) for n in levels) for cell in cells}
    seconds = duration(
        sum(run.pace.answers_s(with_profile(cell, concurrency=1), count) for cell, count in requests.items())
    )
    text = f"load: {', '.join(map(str, levels))} in flight, {sum(requests.values())} requests; "
    return [text + f"less than {seconds}, which is what they take one at a time"]


SUITE = Suite(name="load", by_path=True, plan=_plan)


def under_load(bench: Bench, cell: Cell) -> Outcome:
    """Measure a cell at each number of requests in flight, on one server.

    Raises:
        BadInput, ServerFailed: see `Bench.measured`.
    """
    options = bench.run.options
    levels = [_measured(bench, cell, in_flight) for in_flight in options.levels]
    if not cell.name.reference:
        levels = against_first(levels)
    wrong, said = faults(levels), sentences(levels)
    kind: Kind = "failed" if wrong else "noteworthy" if said else "fine"
    if any(level.flaws for level in levels):
        kind = "invalid"
    bound = Bound(ttft_s=options.ttft_s, tpot_s=options.tpot_s)
    return Outcome(
        suite=SUITE.name,
        cell=str(cell),
        kind=kind,
        sentence="; ".join([*wrong, *said]),
        table=report(levels, bound),
    )


def _measured(bench: Bench, cell: Cell, in_flight: int) -> Level:
    """One level: the prompts as often as it takes, in one stream."""
    one = with_profile(cell, concurrency=in_flight)
    prompts, repeats = bench.run.prompts(one), _repeats(bench.run, in_flight, one)
    record = bench.measured(
        one,
        suite=f"{SUITE.name}-{in_flight:02d}",
        prompts=prompts,
        repeats=repeats,
        timed=bench.run.timed,
        passes=Measurement.all_passes,
    )
    return Level(in_flight=in_flight, asked=repeats * len(prompts), record=record)


def _repeats(run: Run, in_flight: int, cell: Cell) -> int:
    return max(run.options.repeats, passes(in_flight, len(run.prompts(cell))))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bound:
    """How long a request may take to be a good one.

    The defaults are what MLPerf Inference asks of Llama 2 70B in its Server scenario: policy, not physics.
    """

    ttft_s: float = 2.0
    """Time to first token."""
    tpot_s: float = 0.2
    """Time per output token after it, of this request."""

    def __str__(self) -> str:
        return f"TTFT <= {self.ttft_s * 1000:g} ms and TPOT <= {self.tpot_s * 1000:g} ms"

    def kept(self, record: PromptRecord) -> bool | None:
        """The request was answered without an error, and in time; None where its times leave that open."""
        if record.failed:
            return False
        later, first, whole = record.output_tokens - 1, record.ttft_s, record.total_s
        if whole is None:
            return None
        if first is None:  # it came at some time before the end
            if whole > self.ttft_s + self.tpot_s * later:
                return False
            return True if whole <= min(self.ttft_s, self.tpot_s * later) else None
        return first <= self.ttft_s and whole >= first and (later < 1 or whole - first <= self.tpot_s * later)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Level:
    """What came of so many requests in flight."""

    in_flight: int
    asked: int
    """Requests sent."""
    record: CellRecord
    """As it is on disk."""
    verdict: Verdict | None = None
    """Against the first level; None of that one."""

    @property
    def errors(self) -> int:
        """Requests that gave no answer."""
        return sum(r.failed for r in self.record.prompts)

    @property
    def flaws(self) -> list[str]:
        """Why this is not a measurement, apart from missing answers."""
        hard = [f.text for f in self.record.findings if f.hard and f.code != "request-failed"]
        return [] if self.errors else hard

    @property
    def lost(self) -> int:
        """Requests that were sent and have no record of their own."""
        return self.asked - len({(r.prompt, r.repeat) for r in self.record.prompts})


def passes(in_flight: int, prompts: int) -> int:
    """How often the prompts are sent at a level, so that there are two requests for each one in flight."""
    return math.ceil(_FOR_EACH * in_flight / prompts)


def per_second(records: Sequence[PromptRecord]) -> float | None:
    """Requests answered without an error / wall time of the level; None where nothing was timed."""
    return _rate(records, [not r.failed for r in records])


def goodput(records: Sequence[PromptRecord], bound: Bound) -> float | None:
    """Requests answered without an error and within `bound` / wall time of the level.

    Requests that keep their latency objectives per second: DistServe (Zhong et al. 2024), and what
    `--goodput` of vLLM's own benchmark counts. None where nothing was timed, or the times of an answer, whose
    first token was not seen, leave open whether it is a good one.
    """
    kept = [bound.kept(r) for r in records]
    return None if None in kept else _rate(records, map(bool, kept))


def _rate(records: Sequence[PromptRecord], good: Iterable[bool]) -> float | None:
    wall = wall_of(records)
    return sum(good) / wall if wall else None


def against_first(levels: Sequence[Level]) -> list[Level]:
    """The same levels, the later ones with their verdict against the first."""
    first, *others = levels
    return [first, *(dataclasses.replace(level, verdict=compared(first, level)) for level in others)]


def compared(first: Level, other: Level) -> Verdict:
    """A level against the first one, prompt by prompt, seed by seed."""
    if remembers(first.record.subject):
        text = "the drafter drafts from earlier answers, and the first level gave it those of all prompts"
        return Verdict(kind="invalid", text=text)
    against = f"{first.in_flight} in flight"
    return judge(first.record, other.record, across={"concurrency"}, against=against)


def moved(verdict: Verdict) -> bool:
    """Acceptance changed by more than its noise: see `PairedRatio.moved`."""
    return verdict.primary is not None and verdict.primary.moved


def faults(levels: Sequence[Level]) -> list[str]:
    """What makes the case fail, a sentence each."""
    found = []
    for level in levels:
        at = f"at {level.in_flight} in flight"
        silent = _silent(levels[0].record, level.record)
        if silent > max(1, MOST_SILENCED * len(levels[0].record.prompts)):
            found.append(f"{at} {silent} answers have no decode step, and had one before")
        if level.errors:
            texts = (f.text for r in level.record.prompts if r.failed for f in r.findings)
            why = next(texts, "no reason is known")
            found.append(f"{at} {level.errors} of {level.asked} requests had no answer: {why}")
        if not level.asked:
            found.append(f"{at} nothing was asked")
        if level.lost:
            found.append(f"{at} {level.asked} requests were sent, {level.asked - level.lost} have a record")
        if level.flaws:
            found.append(f"{at}: not a measurement: {'; '.join(level.flaws)}")
    return found


def _silent(first: CellRecord, record: CellRecord) -> int:
    """Answers with no decode step, to prompts that had one at the first level."""
    before = {r.prompt for r in first.prompts if countable(r)}
    return sum(r.prompt in before and not r.failed and not countable(r) for r in record.prompts)


def table(levels: Sequence[Level], bound: Bound) -> Block:
    """A cell's table, a row a level.

    `change %` and its interval are tokens per step against the first level; `pos i` is acceptance at
    position i in percent; `goodput` as above.
    """
    columns = [
        *(
            Column(name, name, run_table.count, rank=rank)
            for name, rank in (("in flight", 0), ("requests", 3), ("errors", 1), ("lost", 2))
        ),
        Column("tok/step", "tokens_per_step", number),
        Column("change %", "change%", signed),
        Column("95 % CI", "ci%", signed_interval, rank=4),
        Column("", "mark", align="l"),
        *run_table.positions(levels[0].record.cell.k),
        Column("req/s", "per_second", number, rank=9),
        Column("goodput", "goodput", number, rank=1),
        *(column for column in run_table.SPEED if column.name != "mean_prompt_tok_s"),
    ]
    head = f"{marked(levels[0].record)}: goodput is requests a second with {bound}"
    head += "; change against the first level; positions in %"
    return run_table.block(columns, [_row(level, bound) for level in levels], head)


def _row(level: Level, bound: Bound) -> Values:
    records = level.record.prompts
    values: Values = {"in flight": level.in_flight, "requests": level.asked, "errors": level.errors}
    values |= {"lost": level.lost, **run_table.answer_values(records)}
    values |= {"per_second": per_second(records), "goodput": goodput(records, bound)}
    verdict = level.verdict
    if verdict is None:
        return values
    mark = MARKS[verdict.kind] if verdict.kind in ("identical", "invalid") else ""
    return {**values, **run_table.verdict_values(verdict), "mark": "≠" if moved(verdict) else mark}


def sentences(levels: Sequence[Level]) -> list[str]:
    """What the comparison of each level with the first one found, where it found something."""
    found = []
    for level in levels:
        at, verdict = f"at {level.in_flight} in flight", level.verdict
        if verdict is None:
            continue
        if moved(verdict):
            first = levels[0].in_flight
            found.append(f"{at} acceptance is not that of {first}, beyond its noise: {verdict.text}")
        elif verdict.primary is None:
            found.append(f"{at} acceptance is not compared: {verdict.text}")
    return found


def notes(levels: Sequence[Level]) -> list[str]:
    """The findings, on one line where several levels have the same."""
    said = []
    for level in levels:
        soft = [f.text for f in level.record.findings if not f.hard]
        said += [(str(level.in_flight), text) for text in dict.fromkeys([*soft, *level.record.trusted])]
    return [f"note: at {', '.join(at)} in flight: {text}" for text, at in by_text(said).items()]


def report(levels: Sequence[Level], bound: Bound) -> tuple[Piece, ...]:
    """The table of a cell, with what limits its reading below."""
    return (table(levels, bound), *sentences(levels), *faults(levels), *notes(levels))
