"""The speed-up over `none` from interleaved pairs of server starts, and its verdict against earlier ones.

One server start is one observation. Starts differ more than requests do, so an interval from the requests of
one start is far too narrow. Two sessions differ in more than their starts (Kalibera and Jones 2013): what the
machine did on one day is in all starts of that day. So speed then and speed now are compared only over
several sessions of each, a session being one observation.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from harness.errors import BadRecord
from harness.judge import throughput
from harness.judge.baselines import device_name
from harness.judge.throughput import Split, cause
from harness.judge.verdict import Verdict
from harness.results.conditions import Environment, Identity, Subject
from harness.results.files import write_atomically
from harness.results.names import Name
from harness.results.records import SCHEMA, CellName, Record, load
from harness.results.timing import Work
from harness.stats import blocks
from harness.stats.paired import PairedRatio
from harness.text.numbers import percent

MIN_PAIRS = 6
MIN_SESSIONS = 4
LEAST, MOST = 1e-6, 1e6
"""A speed-up outside these was not measured."""


class Session(Record):
    """The pairs of starts of one run."""

    time: str
    """When it ended; two sessions differ in it."""
    starts: Annotated[tuple[tuple[Work, Work], ...], Field(min_length=1)]
    """Of `none` and of the drafter, pair by pair."""


class SpeedRecord(Record):
    """A speed-up, measured over pairs of starts."""

    schema_: Literal[1] = Field(alias="schema", default=SCHEMA)
    stack: Name
    profile: Name
    cell: CellName
    identity: Identity
    subject: Subject
    environment: Environment
    provenance: dict[str, Any]
    ratios: tuple[Annotated[float, Field(ge=LEAST, le=MOST)], ...]
    """Aggregate tok/s of the drafter over that of `none`, a value a pair of starts, in order."""
    sessions: tuple[Session, ...] = ()
    """All that are known of these conditions. The ratios are those of the last one. Files of older versions
    have none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeedUp:
    """A geometric mean with its 95 % interval: t over the pairs' log ratios."""

    value: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        """`1.26x (95 % CI 1.23..1.29 over 6 pairs of starts)`."""
        return (
            f"{self.value:.2f}x (95 % CI {self.low:.2f}..{self.high:.2f} over {self.pairs} pairs of starts)"
        )


def over_pairs(ratios: Sequence[float]) -> PairedRatio:
    """The change from `none` over pairs of starts.

    Raises:
        ValueError: fewer than two ratios, or one that is not within LEAST..MOST.
    """
    wrong = [r for r in ratios if not LEAST <= r <= MOST]
    if wrong:
        raise ValueError(f"{wrong[0]:g} is no speed-up: one lies within {LEAST:g}..{MOST:g}")
    return blocks.over_blocks([[1.0]] * len(ratios), [[r] for r in ratios])


def speed_up(ratios: Sequence[float]) -> SpeedUp:
    """The speed-up over `none` of pairs of starts.

    Raises:
        ValueError: see `over_pairs`.
    """
    mean = over_pairs(ratios)
    low, high = mean.ci()
    return SpeedUp(value=math.exp(mean.estimate), low=math.exp(low), high=math.exp(high), pairs=len(ratios))


def over_none(session: Session) -> Split:
    """What a speed-up is made of: tokens per step and seconds per step, the drafter's over those of `none`.

    Raises:
        ValueError: it has one pair of starts alone.
    """
    none, drafter = zip(*session.starts, strict=True)
    return throughput.split([[w] for w in none], [[w] for w in drafter], unit="pairs of starts")


def judge(old: SpeedRecord, new: SpeedRecord) -> Verdict:
    """The drafter's tok/s then and now, by Welch's t over sessions.

    Not its speed-up: that stays the same where the engine got slower with and without drafts, and it rises
    where only `none` did. Invalid where anything but the subject differs. With too few sessions it is a
    footnote, and no verdict. A session that the old record holds is not one of the new ones.
    """
    for what in ("identity", "environment"):
        for field, (before, after) in getattr(old, what).differences(getattr(new, what)).items():
            return Verdict(
                kind="invalid",
                text=f"not comparable: {field} ({what}) was {json.dumps(before)}, is {json.dumps(after)}; "
                "speed is compared only where nothing but the subject differs",
            )
    if min(len(old.ratios), len(new.ratios)) < MIN_PAIRS:
        return Verdict(
            kind="invalid",
            text=f"not comparable: {len(old.ratios)} and {len(new.ratios)} pairs of starts, but a claim "
            f"needs {MIN_PAIRS}",
        )
    try:
        text = f"speed-up {speed_up(old.ratios)} -> {speed_up(new.ratios)}"
    except ValueError as error:
        return Verdict(kind="invalid", text=str(error))
    before = {session.time for session in old.sessions}
    new = new.model_copy(update={"sessions": tuple(s for s in new.sessions if s.time not in before)})
    counts = len(old.sessions), len(new.sessions)
    if min(counts) < MIN_SESSIONS:
        moved = [f"tok/s of {who} {percent(m)}" for at, who in enumerate(("none", "the drafter")) if (
            m := _moved(old, new, at)) is not None]  # fmt: skip
        return Verdict(
            kind="inconclusive",
            text="; ".join([text, *moved])
            + f": a footnote, no verdict: {counts[0]} and {counts[1]} sessions, and sessions differ by more "
            f"than their starts; {MIN_SESSIONS} of each would do, or both stacks in one session "
            "(bench_suites/test_throughput.py)",
        )
    none, drafter = (
        throughput.split(
            *([[pair[at] for pair in s.starts] for s in record.sessions] for record in (old, new)),
            unit="sessions",
            by=blocks.over_sessions,
        )
        for at in (0, 1)
    )
    said = f"{cause(drafter)}; none: {cause(none)}; {text}"
    return Verdict(kind=throughput.decided(drafter.speed), text=said)


def _moved(old: SpeedRecord, new: SpeedRecord, at: int) -> float | None:
    """By how much tok/s of a side moved from the newest old session to the newest new one."""
    if not (old.sessions and new.sessions):
        return None
    before, after = (
        math.fsum(math.log(pair[at].rate) for pair in session.starts) / len(session.starts)
        for session in (old.sessions[-1], new.sessions[-1])
    )
    return math.expm1(after - before)


def with_sessions(results: Path, found: SpeedRecord) -> SpeedRecord:
    """The same with all sessions of these conditions and this subject that runs in `results` hold.

    A file that cannot be read is left out.
    """
    sessions = {session.time: session for session in found.sessions}
    for path in sorted(results.glob(f"*/speed/{found.cell}.json")):
        try:
            other = load(path, SpeedRecord)
        except BadRecord:
            continue
        fields = ("stack", "profile", "cell", "identity", "subject", "environment")
        if all(getattr(other, field) == getattr(found, field) for field in fields):
            sessions |= {session.time: session for session in other.sessions}
    newest = found.sessions[-1:]
    earlier = [s for _, s in sorted(sessions.items()) if s not in newest]
    return found.model_copy(update={"sessions": (*earlier, *newest)})


def path_of(folder: Path, record: SpeedRecord) -> Path:
    """`<stack>/<device>/<profile>/speed/<cell>.json` below `folder`."""
    device = device_name(record.environment)
    return folder / record.stack / device / record.profile / "speed" / f"{record.cell}.json"


def find(folder: Path, record: SpeedRecord) -> SpeedRecord | None:
    """The stored speed-up of the same cell; None where there is none.

    Raises:
        BadRecord: the file is there, but is damaged.
    """
    path = path_of(folder, record)
    return load(path, SpeedRecord) if path.exists() else None


def write(path: Path, record: SpeedRecord) -> None:
    """Write a record, a field a line.

    Raises:
        BadInput: the file cannot be written.
    """
    lines = [
        f'"{key}": {json.dumps(value, ensure_ascii=False)}'
        for key, value in record.model_dump(mode="json", by_alias=True).items()
    ]
    write_atomically(path, "{\n" + ",\n".join(lines) + "\n}\n")
