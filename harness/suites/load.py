"""One server under more and more requests: what each level gave, and whether acceptance moved. Pure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

from harness.judge import verdict as gate
from harness.judge.verdict import Verdict
from harness.measure import validity
from harness.report.run_table import MARKS
from harness.results.records import CellRecord, PromptRecord
from harness.results.timing import speed_of, wall_of
from harness.stats import paired as stats
from harness.text.numbers import DASH, number, signed, signed_interval

LEVELS = (1, 4, 16, 64)
"""Requests in flight. The first level is what the others are held against."""
_FOR_EACH = 2
"""Requests for each one in flight: a level is held for a while, not only reached."""


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

    def kept(self, record: PromptRecord) -> bool:
        """The request was answered without an error, and in time."""
        if record.failed or record.ttft_s is None or record.total_s is None:
            return False
        later = record.output_tokens - 1
        in_time = later < 1 or record.total_s - record.ttft_s <= self.tpot_s * later
        return record.ttft_s <= self.ttft_s and in_time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Level:
    """What came of so many requests in flight."""

    in_flight: int
    asked: int
    """Requests sent."""
    record: CellRecord
    """As it is on disk."""

    @property
    def errors(self) -> int:
        """Requests that gave no answer."""
        return sum(r.failed for r in self.record.prompts)

    @property
    def lost(self) -> int:
        """Requests that were sent and have no record, or somebody else's."""
        return self.asked - len({(r.prompt, r.repeat) for r in self.record.prompts})


def passes(in_flight: int, prompts: int) -> int:
    """How often the prompts are sent at a level: two requests at least for each one in flight."""
    return math.ceil(_FOR_EACH * in_flight / prompts)


def per_second(records: Sequence[PromptRecord]) -> float | None:
    """Requests answered without an error / wall time of the level; None where nothing was timed."""
    return _rate(records, [not r.failed for r in records])


def goodput(records: Sequence[PromptRecord], bound: Bound) -> float | None:
    """Requests answered without an error and within `bound` / wall time of the level.

    Requests that keep their latency objectives per second: DistServe (Zhong et al. 2024), and what
    `--goodput` of vLLM's own benchmark counts. None where nothing was timed.
    """
    return _rate(records, [bound.kept(r) for r in records])


def _rate(records: Sequence[PromptRecord], good: Iterable[bool]) -> float | None:
    wall = wall_of(records)
    return sum(good) / wall if wall else None


def compared(first: Level, other: Level) -> Verdict:
    """A level against the first one, prompt by prompt, seed by seed."""
    if validity.remembers(first.record.subject):
        text = "the drafter drafts from earlier answers, and the first level gave it those of all prompts"
        return Verdict(kind="invalid", text=text)
    against = f"{first.in_flight} in flight"
    return gate.judge(first.record, other.record, across={"concurrency"}, against=against)


def moved(verdict: Verdict) -> bool:
    """Acceptance changed by more than its noise, up or down and however little.

    One-sided p <= `stats.ALPHA_PRIMARY` either way, and as many differing prompts as the gate asks for.
    """
    primary = verdict.primary
    if primary is None or primary.differing < min(stats.MIN_DIFFERING, primary.m):
        return False
    return min(primary.p_loss(), primary.p_gain()) <= stats.ALPHA_PRIMARY


def faults(levels: Sequence[Level]) -> list[str]:
    """What makes the case fail, a sentence each."""
    found = []
    for level in levels:
        at = f"at {level.in_flight} in flight"
        if level.errors:
            why = next(f.text for r in level.record.prompts if r.failed for f in r.findings)
            found.append(f"{at} {level.errors} of {level.asked} requests had no answer: {why}")
        if level.lost:
            found.append(f"{at} {level.lost} of {level.asked} requests have no record")
        others = [f.text for f in level.record.findings if f.hard and f.code != "request-failed"]
        if others and not level.errors:
            found.append(f"{at}: not a measurement: {'; '.join(others)}")
    return found


def rows(levels: Sequence[Level], bound: Bound) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a cell's table, a row a level.

    `change %` and its interval are tokens per step against the first level; `pos i` is acceptance at
    position i in percent; `goodput` as above.
    """
    k = levels[0].record.cell.k
    header = ["in flight", "requests", "errors", "lost", "tok/step", "change %", "95 % CI", ""]
    header += [f"pos {i}" for i in range(k)]
    header += ["req/s", "goodput", "aggregate tok/s", "TTFT ms", "TPOT ms"]
    table = []
    for level in levels:
        records = level.record.prompts
        tally, speed = validity.total(records), speed_of(records)
        verdict = compared(levels[0], level) if level is not levels[0] else None
        table.append(
            [
                str(level.in_flight),
                str(level.asked),
                str(level.errors),
                str(level.lost),
                number(tally.tokens_per_step),
                *_change(verdict),
                *(number(rate, 1, scale=100) for rate in tally.acceptance),
                number(per_second(records)),
                number(goodput(records, bound)),
                number(speed.aggregate if speed else None, 1),
                number(speed.ttft_s if speed else None, 0, scale=1000),
                number(speed.tpot_s if speed else None, 1, scale=1000),
            ]
        )
    return header, table


def _change(verdict: Verdict | None) -> list[str]:
    if verdict is None:
        return [DASH, DASH, ""]
    if verdict.change is None:
        return [DASH, DASH, MARKS["invalid"]]
    identical = MARKS["identical"] if verdict.kind == "identical" else ""
    return [signed(verdict.change), signed_interval(verdict.interval), "≠" if moved(verdict) else identical]


def sentences(levels: Sequence[Level]) -> list[str]:
    """What was said of each level against the first one, where there is something to say."""
    found = []
    first, *others = levels
    for level in others:
        verdict = compared(first, level)
        at = f"at {level.in_flight} in flight"
        if moved(verdict):
            found.append(
                f"{at} acceptance is not that of {first.in_flight}, beyond its noise: {verdict.text}"
            )
        elif verdict.primary is None:
            found.append(f"{at} acceptance is not compared: {verdict.text}")
    return found


def notes(levels: Sequence[Level]) -> list[str]:
    """The findings, the same one of several levels on one line."""
    where: dict[str, list[str]] = {}
    for level in levels:
        soft = [f.text for f in level.record.findings if not f.hard]
        for text in dict.fromkeys([*soft, *level.record.trusted]):
            where.setdefault(text, []).append(str(level.in_flight))
    return [f"note: at {', '.join(at)} in flight: {text}" for text, at in where.items()]
