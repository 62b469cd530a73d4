"""What records say of a drafter's speed over `none` of the same run, on the same prompts.

Where both ran on one start each, the interval comes from the scatter between prompts, and starts differ by
more than that: it describes. An interval over pairs of starts is a claim, and is preferred.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.config.cells import canonical
from harness.config.stack import NONE
from harness.engine.spelling import SCHEDULE
from harness.judge.collect import Entry
from harness.judge.in_turn import Drafts, Measured, followed
from harness.judge.pairing import counted, drafting, execution_notes
from harness.judge.speedup import SpeedRecord, over_pairs
from harness.judge.throughput import disturbed_in
from harness.measure.validity import countable, mostly_degenerate, speed_up, total
from harness.results.records import CellName, CellRecord, load
from harness.results.stretches import MOST_LOG, intervals_of, sums_of
from harness.results.timing import Speed, speed_of
from harness.stats.blocks import MARGIN
from harness.stats.paired import MIN_PROMPTS, PairedRatio, paired_log_ratio

_NO_EVIDENCE = {
    "unread-field": "parts of the answers were not read",
    "server-restarted": "its server was started anew while it was measured",
    "foreign-traffic": "other requests ran on the server",
}
"""Findings that make a cell no evidence, beside loops and what is no measurement at all."""
_INEXACT = "its drafts are not verified exactly, so the answers are not the target's alone"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
    """A drafter in one place at one load, compared with `none` of the same run."""

    run: str
    record: CellRecord | SpeedRecord
    """Without its prompts."""
    tokens_per_step: float | None = None
    interval: tuple[float, float] | None = None
    """Of tokens per step, 95 %."""
    speed: PairedRatio | None = None
    """tok/s over that of `none`, over prompts or over pairs of starts. None where a flaw says why."""
    starts: bool = False
    """Over pairs of starts."""
    flaw: str = ""
    """Why it is no evidence."""
    paths: tuple[str, ...] = ()
    """That the engine ran both in different ways: then not drafts alone make the difference."""
    schedule: Drafts | None = None
    """What an engine drafted at this load that chose k by a schedule; None where k is fixed."""

    @property
    def cell(self) -> CellName:
        """Where, and which drafter."""
        return self.record.cell

    @property
    def name(self) -> str:
        """`ngram-k4`; `ngram-scheduled` where the engine chose k by the size of the batch."""
        return f"{self.cell.drafter}-scheduled" if self.schedule else drafting(self.cell)

    @property
    def in_flight(self) -> int:
        """Requests at a time."""
        return self.record.identity.concurrency or 1

    @property
    def suite(self) -> str:
        """Where its file lies in the run."""
        return self.record.suite if isinstance(self.record, CellRecord) else "speed"

    @property
    def place(self) -> tuple[Any, ...]:
        """Where candidates are compared."""
        return (self.cell.place, self.in_flight)

    @property
    def block(self) -> str:
        """Target, engine and device: what differs in it is never compared."""
        of_target = ("target", "revision", "weights", "tokenizer", "dtype", "quantization")
        of_engine = ("engine", "engine_commit", "engine_files", "engine_env")
        identity, subject = self.record.identity, self.record.subject
        args = {n: v for n, v in subject.engine_args.items() if n != "enable_prefix_caching"}
        fields = [getattr(identity, n) for n in of_target] + [getattr(subject, n) for n in of_engine]
        patches = [patch.as_given() for patch in subject.patches]
        return canonical([*fields, patches, args, self.record.environment.model_dump()])

    @property
    def sound(self) -> bool:
        """It says something of the speed."""
        return not self.flaw and self.speed is not None

    @property
    def pays(self) -> bool:
        """It is faster: beyond its interval, and of one start each beyond what starts may differ by.

        Where a schedule says that nothing is drafted, it need not be faster, but no slower than the margin.
        """
        least = 1 - MARGIN if self.rests else 1 if self.starts else 1 + MARGIN
        return self.sound and self.ends[0] > least

    @property
    def loses(self) -> bool:
        """It is slower, likewise."""
        return self.sound and self.ends[1] < (1 if self.starts and not self.rests else 1 - MARGIN)

    @property
    def rests(self) -> bool:
        """A schedule drafts nothing at this load."""
        return self.schedule is not None and self.schedule.wanted == 0

    @property
    def gain(self) -> float:
        """Times as fast as `none`."""
        return math.exp(self.speed.estimate) if self.speed else math.nan

    @property
    def ends(self) -> tuple[float, float]:
        """Of the 95 % interval of `gain`."""
        low, high = self.speed.ci() if self.speed else (math.nan, math.nan)
        return math.exp(low), math.exp(min(high, MOST_LOG))


def of_cell(run: str, record: CellRecord, none: CellRecord | None) -> Evidence:
    """What a cell says, beside `none` of its run: of one start each, over the prompts that both answered."""
    change: str | PairedRatio = "its run has no `none` in the same place"
    if none is not None:
        change = next(_flaws(record, none), "") or _paired(record, none)
    return Evidence(
        run=run,
        record=record.model_copy(update={"prompts": ()}),
        tokens_per_step=total(record.prompts).tokens_per_step if record.valid else None,
        interval=interval_of(record),
        speed=None if isinstance(change, str) else change,
        flaw=change if isinstance(change, str) else "",
        paths=tuple(execution_notes(none, record)) if none else (),
    )


def of_speed(run: str, record: SpeedRecord) -> Evidence:
    """What the speed suite found over pairs of starts."""
    flaw = _INEXACT if record.identity.verification else _busy([record])
    try:
        return Evidence(run=run, record=record, speed=over_pairs(record.ratios), starts=True, flaw=flaw)
    except ValueError as error:
        return Evidence(run=run, record=record, starts=True, flaw=str(error))


def of_starts(
    run: str, record: CellRecord, measured: Measured, *, none: CellRecord | None = None
) -> Evidence:
    """What a curve found on starts in turn.

    Args:
        run: its name.
        record: the curve's at the same k and load.
        measured: of it.
        none: the curve's at this load, for how the engine ran it.
    """
    paths = tuple(execution_notes(none, record)) if none else ()
    flaw = _INEXACT if record.identity.verification else _looped(record) or _not_idle(measured.disturbed)
    head = record.model_copy(update={"prompts": ()})
    return Evidence(run=run, record=head, speed=measured.split.speed, starts=True, flaw=flaw, paths=paths)


def of_schedule(run: str, found: Sequence[Measured]) -> list[Evidence]:
    """What a curve found, load by load, on starts in turn of an engine that chose k by a schedule."""
    scheduled = [(one, one.scheduled) for one in found if one.scheduled]
    levels = [one.in_flight for one, _ in scheduled]
    return [
        dataclasses.replace(
            (said := of_starts(run, record, one)),
            flaw=said.flaw or _unscheduled(record, one, levels),
            schedule=one.drafts or Drafts(wanted=record.cell.k, longer=0, longest=0),
        )
        for one, record in scheduled
    ]


def _unscheduled(record: CellRecord, one: Measured, levels: Collection[int]) -> str:
    """Why a schedule is not to be recommended: it is not followed, or a part of it was not measured."""
    if not (one.drafts and one.drafts.follow):
        return followed(one.drafts)
    for first, last, k in record.subject.settings[SCHEDULE]:
        if not any(first <= level <= last for level in levels):
            return f"its k = {k} from {first} in flight on was not measured"
    return ""


def interval_of(record: CellRecord) -> tuple[float, float] | None:
    """The 95 % interval of tokens per step, from the scatter between prompts; None where there is none.

    Nor is there one of counts that are none.
    """
    counts = counted(record)
    try:
        return intervals_of(counts.records, counts.sums)[0] if record.valid else None
    except ValueError:
        return None


def _flaws(record: CellRecord, none: CellRecord) -> Iterator[str]:
    """Why a cell is no evidence of speed."""
    if record.identity.verification:
        yield _INEXACT
    if busy := _busy([none, record]):
        yield busy
    for one in (record, none):
        if not one.valid:
            yield f"{drafting(one.cell)} is INVALID: {one.why_invalid}"
        if looped := _looped(one):
            yield looped
        for finding in (*one.findings, *(f for r in one.prompts for f in r.findings)):
            if finding.code in _NO_EVIDENCE:
                yield f"{drafting(one.cell)}: {_NO_EVIDENCE[finding.code]}"
    for what in ("identity", "environment"):
        for field in getattr(record, what).differences(getattr(none, what)):
            yield f"`none` ran under another {field}"


def _busy(records: Sequence[CellRecord | SpeedRecord]) -> str:
    return _not_idle(disturbed_in(enumerate(records)))


def _not_idle(why: str) -> str:
    return f"not measured on an idle machine: {why}" if why else ""


def _looped(record: CellRecord) -> str:
    return (
        f"most answers of {drafting(record.cell)} end in a loop" if mostly_degenerate(record.findings) else ""
    )


def _paired(record: CellRecord, none: CellRecord) -> PairedRatio | str:
    """The change of tokens a second of a request; or why there is none."""
    sides = ([r for r in one.prompts if r.total_s and countable(r)] for one in (none, record))
    old, new = (sums_of(answers, lambda r: (r.output_tokens, r.total_s or 0)) for answers in sides)
    both = [name for name in new if name in old]
    if not both:
        return "nothing was timed"
    if len(both) < MIN_PROMPTS:
        return f"{len(both)} prompts were timed on both sides, and {MIN_PROMPTS} are needed"
    columns = [[side[name][at] for name in both] for side in (old, new) for at in (0, 1)]
    try:
        change = paired_log_ratio(*columns)
    except ValueError as error:  # times that nobody can have measured
        return str(error)
    return change if change.interval() else "a few answers hold nearly all of its time: it has no interval"


def plain_of(entry: Entry) -> CellRecord | None:
    """`none` of the same endpoint, language, workload and run: its file lies beside.

    Raises:
        BadRecord: it is damaged, and `entry.plain` is set.
    """
    found = _timed_plain_of(entry)
    return found[0] if found else None


def speed_up_of(
    entry: Entry, record: CellRecord, speed: Speed | None
) -> tuple[float | None, tuple[str, ...]]:
    """`validity.speed_up` of a cell of this speed over `none` beside it; what else than drafts may make it.

    Raises:
        BadRecord: see `plain_of`.
    """
    found = _timed_plain_of(entry)
    gained = speed_up(record, found[0], speeds=(speed, found[1])) if found else None
    if found is None or gained is None:
        return None, ()
    return gained, tuple(f"speed-up: {text}" for text in execution_notes(found[0], record))


def _timed_plain_of(entry: Entry) -> tuple[CellRecord, Speed | None] | None:
    path = entry.path.with_name(f"{(name := entry.cell.model_copy(update={'drafter': NONE, 'k': 0}))}.json")
    found = _plain(path, path.stat().st_mtime_ns) if entry.plain and path.is_file() else None
    return found if found and found[0].cell == name else None


@functools.lru_cache(maxsize=2)  # cells of one place stand together, on two sides
def _plain(path: Path, _time_ns: int) -> tuple[CellRecord, Speed | None]:
    return (record := load(path, CellRecord)), speed_of(record.prompts)
