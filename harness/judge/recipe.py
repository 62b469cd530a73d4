"""What to run: the drafter that records support for a use, or why they support none.

Speed is that over `none` of the same run, on the same prompts. Where both ran on one start each, its interval
comes from the scatter between prompts, and starts differ by more than that: it describes. An interval over
pairs of starts is a claim, and is preferred.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from harness.config.cells import canonical
from harness.judge.curve import Measured
from harness.judge.pairing import drafting
from harness.judge.speedup import SpeedRecord, over_pairs
from harness.measure.validity import countable, mostly_degenerate, total
from harness.results.records import CellName, CellRecord
from harness.results.stretches import sums_of
from harness.stats.blocks import MARGIN
from harness.stats.paired import MIN_PROMPTS, PairedRatio, paired_log_ratio
from harness.text.render import by_text

LONG = 500
"""Answers that may have more tokens are long."""
ONE_START = "from one start each: a description, no claim"
_NO_EVIDENCE = {
    "unread-field": "parts of the answers were not read",
    "server-restarted": "its server was started anew while it was measured",
    "foreign-traffic": "other requests ran on the server",
}
"""Findings that make a cell no evidence, beside loops and what is no measurement at all."""
_MOST = 700.0
"""Its exponential is still a number."""
_INEXACT = "its drafts are not verified exactly, so the answers are not the target's alone"
_SAID = frozenset({"loops", "engine-mended", "engine-faulty", "engine-patched", "dynamic-k"})
"""Findings that a reader of a recommendation must know."""


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

    @property
    def cell(self) -> CellName:
        """Where, and which drafter."""
        return self.record.cell

    @property
    def name(self) -> str:
        """`ngram-k4`."""
        return drafting(self.cell)

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
        """It is faster: beyond its interval, and of one start each beyond what starts may differ by."""
        return self.sound and self.ends[0] > (1 if self.starts else 1 + MARGIN)

    @property
    def loses(self) -> bool:
        """It is slower, likewise."""
        return self.sound and self.ends[1] < (1 if self.starts else 1 - MARGIN)

    @property
    def gain(self) -> float:
        """Times as fast as `none`."""
        return math.exp(self.speed.estimate) if self.speed else math.nan

    @property
    def ends(self) -> tuple[float, float]:
        """Of the 95 % interval of `gain`."""
        low, high = self.speed.ci() if self.speed else (math.nan, math.nan)
        return math.exp(low), math.exp(min(high, _MOST))


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
        **({"flaw": change} if isinstance(change, str) else {"speed": change}),
    )


def of_speed(run: str, record: SpeedRecord) -> Evidence:
    """What the speed suite found over pairs of starts."""
    flaw = _INEXACT if record.identity.verification else ""
    try:
        return Evidence(run=run, record=record, speed=over_pairs(record.ratios), starts=True, flaw=flaw)
    except ValueError as error:
        return Evidence(run=run, record=record, starts=True, flaw=str(error))


def of_starts(run: str, record: CellRecord, measured: Measured) -> Evidence:
    """What a curve found on starts in turn.

    Args:
        run: its name.
        record: the curve's at the same k and load.
        measured: of it.
    """
    flaw = _INEXACT if record.identity.verification else _looped(record)
    head = record.model_copy(update={"prompts": ()})
    return Evidence(run=run, record=head, speed=measured.split.speed, starts=True, flaw=flaw)


def interval_of(record: CellRecord) -> tuple[float, float] | None:
    """The 95 % interval of tokens per step, from the scatter between prompts; None where there is none."""
    answers = filter(countable, record.prompts if record.valid else ())
    sums = sums_of(answers, lambda r: (r.tally.committed, r.tally.decode_steps))
    tokens, steps = ([pair[at] for pair in sums.values()] for at in (0, 1))
    if len(sums) < MIN_PROMPTS:
        return None
    change = paired_log_ratio(steps, steps, tokens, steps)
    ends = change.interval() if change.se else None
    return (math.exp(ends[0]), math.exp(min(ends[1], _MOST))) if ends else None


def _flaws(record: CellRecord, none: CellRecord) -> Iterator[str]:
    """Why a cell is no evidence of speed."""
    if record.identity.verification:
        yield _INEXACT
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


Kind = Literal["drafter", "none", "nothing", "not measured"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """What the evidence supports for one use."""

    use: str
    kind: Kind
    """A drafter, no drafter, nothing that can be said, or nothing measured."""
    why: str
    evidence: tuple[Evidence, ...] = ()
    chosen: Evidence | None = None
    """One of the evidence of the drafter that is chosen."""
    claimed: bool = False
    """Every place of it was measured over starts."""
    notes: tuple[str, ...] = ()


def uses(found: Sequence[Evidence]) -> Iterator[tuple[str, list[Evidence]]]:
    """The uses, and the evidence that bears on each: of the chat endpoint, where it was measured."""
    chat = [e for e in found if e.cell.endpoint == "chat"] or list(found)
    yield "one user chatting", [e for e in chat if e.in_flight == 1]
    yield "long answers", [e for e in chat if (e.record.identity.max_tokens or 0) > LONG]
    levels = sorted({e.in_flight for e in chat} - {1})
    if not levels:
        yield "many at once", []
    for level in levels:
        yield f"many at once: {level} in flight", [e for e in chat if e.in_flight == level]
    for language in sorted({e.cell.language for e in chat}):
        own = [e for e in chat if e.cell.language == language]
        fewest = min(e.in_flight for e in own)
        yield f"language {language}, {fewest} in flight", [e for e in own if e.in_flight == fewest]


def choose(use: str, evidence: Collection[Evidence]) -> Choice:
    """What the evidence supports.

    A drafter must pay in every place of the use; of several the one whose worst place gains most. That none
    pays is said only where every candidate is sound, and loses in every place.
    """
    rows = tuple(evidence)
    if not rows:
        return Choice(use=use, kind="not measured", why="not measured")
    places = {row.place for row in rows}
    strongest = {
        name: _strongest(row for row in rows if row.name == name)
        for name in dict.fromkeys(e.name for e in rows)
    }
    whole = {
        name: own for name, own in strongest.items()
        if own and {row.place for row in own} == places and all(row.sound for row in own)
    }  # fmt: skip
    paying = {name: own for name, own in whole.items() if all(row.pays for row in own)}
    flaws = _by_name((row.name, row.flaw) for row in rows if row.flaw)
    if paying:
        claimed = {name: all(row.starts for row in own) for name, own in paying.items()}
        best = max(paying, key=lambda name: (claimed[name], min(row.gain for row in paying[name])))
        own = paying[best]
        return Choice(
            use=use, kind="drafter", why=_praise(best, paying, places, claimed=claimed[best]),
            evidence=rows, chosen=own[0], claimed=claimed[best], notes=(*flaws, *_notes(own)),
        )  # fmt: skip
    if len(whole) == len(strongest) and all(row.loses for own in whole.values() for row in own):
        claimed_all = all(row.starts for own in whole.values() for row in own)
        said = f"every drafter that was measured is slower than none: {', '.join(whole)}"
        said += "" if claimed_all else f"; {ONE_START}"
        return Choice(
            use=use, kind="none", why=said, evidence=rows, chosen=rows[0], claimed=claimed_all,
            notes=_notes(rows),
        )  # fmt: skip
    return Choice(
        use=use, kind="nothing", why="; ".join(_open(strongest, places)) or "no evidence is sound",
        evidence=rows, notes=flaws,
    )  # fmt: skip


def _strongest(rows: Iterable[Evidence]) -> list[Evidence]:
    """In each place the evidence over starts, where there is some; else all."""
    places: dict[Any, list[Evidence]] = {}
    for row in rows:
        places.setdefault(row.place, []).append(row)
    return [
        row
        for own in places.values()
        for row in ([r for r in own if r.starts and r.sound] or [r for r in own if r.sound] or own)
    ]


def _praise(
    best: str, paying: Mapping[str, Sequence[Evidence]], places: Collection[Any], *, claimed: bool
) -> str:
    said = f"{best} is faster than none" + f" in each of {len(places)} places" * (len(places) > 1)
    worst = min(row.gain for row in paying[best])
    near = [n for n, own in paying.items() if n != best and min(row.ends[1] for row in own) >= worst]
    said += f"; not told apart from it: {', '.join(near)}" * bool(near)
    if len(paying) > 1:
        said += f"; the best of {len(paying)} that pay, so its figures are somewhat too high"
    return said if claimed else f"{said}; {ONE_START}"


def _open(strongest: Mapping[str, Sequence[Evidence]], places: Collection[Any]) -> tuple[str, ...]:
    """Why nothing is recommended, each reason with the drafters that it holds for."""
    return _by_name(
        (name, _reason(own, places)) for name, own in strongest.items() if any(row.sound for row in own)
    )


def _reason(own: Sequence[Evidence], places: Collection[Any]) -> str:
    if missing := len(places) - len({row.place for row in own if row.sound}):
        return f"no evidence in {missing} of {len(places)} places"
    if any(row.pays for row in own) and any(row.loses for row in own):
        return "faster than none in some places, slower in others"
    if all(row.loses for row in own):
        return "slower than none"
    if all(row.starts for row in own):
        return "not settled whether it pays"
    return f"not settled whether it pays by more than the {MARGIN:.0%} that starts may differ by"


def _notes(rows: Iterable[Evidence]) -> tuple[str, ...]:
    """What limits the reading of evidence."""
    said = [
        (row.name, f.text)
        for row in rows
        for f in getattr(row.record, "findings", ())
        if f.code in _SAID and not f.hard
    ]
    return _by_name(said)


def _by_name(said: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Each text once, after the drafters that it is said of."""
    return tuple(f"{', '.join(dict.fromkeys(who))}: {text}" for text, who in by_text(said).items())
