"""The speed-up over `none` from interleaved pairs of server starts, and its verdict.

One server start is one observation. Starts differ more than requests do, so an interval from the requests of
one start is far too narrow.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from scipy import special

from harness.judge.baselines import device_name
from harness.judge.verdict import Kind, Verdict
from harness.results.conditions import Environment, Identity, Subject
from harness.results.files import write_atomically
from harness.results.records import SCHEMA, CellName, Name, Record, load
from harness.stats.paired import ALPHA_OK, ALPHA_PRIMARY
from harness.text.numbers import percent

MIN_PAIRS = 6
MARGIN = 0.03
"""Share of the speed-up that may be lost. Policy: wider than for tokens per step, since starts differ."""
_LOG_MARGIN = -math.log(1 - MARGIN)
LEAST, MOST = 1e-6, 1e6
"""A speed-up outside these was not measured."""


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


def speed_up(ratios: Sequence[float]) -> SpeedUp:
    """The speed-up over `none` of pairs of starts.

    Raises:
        ValueError: fewer than two ratios, or one that is not within LEAST..MOST.
    """
    mean, se, df = _mean_log(ratios)
    half = float(special.stdtrit(df, 0.975)) * se
    return SpeedUp(
        value=math.exp(mean), low=math.exp(mean - half), high=math.exp(mean + half), pairs=len(ratios)
    )


def _mean_log(ratios: Sequence[float]) -> tuple[float, float, int]:
    """Mean, its standard error, and the degrees of freedom of that."""
    wrong = [r for r in ratios if not LEAST <= r <= MOST]
    if wrong:
        raise ValueError(f"{wrong[0]:g} is no speed-up: one lies within {LEAST:g}..{MOST:g}")
    values = [math.log(r) for r in ratios]
    return statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values)), len(values) - 1


def judge(old: SpeedRecord, new: SpeedRecord) -> Verdict:
    """Welch's t over the log ratios of two sets of pairs. Invalid where anything but the subject differs."""
    differ = {
        "identity": old.identity.differences(new.identity),
        "environment": old.environment.differences(new.environment),
    }
    for what, fields in differ.items():
        for field, (before, after) in fields.items():
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
        (mean0, se0, df0), (mean1, se1, df1) = (_mean_log(record.ratios) for record in (old, new))
    except ValueError as error:
        return Verdict(kind="invalid", text=str(error))
    change, se = mean1 - mean0, math.hypot(se0, se1)
    text = f"speed-up {speed_up(old.ratios)} -> {speed_up(new.ratios)} ({percent(math.expm1(change))})"
    if se == 0:
        return Verdict(kind="ok" if change > -_LOG_MARGIN else "regressed", text=text)
    df = se**4 / (se0**4 / df0 + se1**4 / df1)
    significant = special.stdtr(df, change / se) <= ALPHA_PRIMARY
    gained = special.stdtr(df, -change / se) <= ALPHA_PRIMARY
    inside = change - float(special.stdtrit(df, 1 - ALPHA_OK)) * se > -_LOG_MARGIN
    kind: Kind
    if significant and change <= -_LOG_MARGIN:
        kind = "regressed"
    elif gained and change >= _LOG_MARGIN:
        kind = "improved"
    else:
        kind = "ok" if inside else "inconclusive"
    more = "; more pairs of starts may settle it (--pairs)" if kind == "inconclusive" else ""
    return Verdict(kind=kind, text=text + more)


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
