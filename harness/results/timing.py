"""Computes rates from times of prompt records. Each has one name and one formula; none stands for another."""

from __future__ import annotations

import dataclasses
import math
import operator
import statistics
from collections import defaultdict
from collections.abc import Iterable
from typing import Annotated, Protocol

from pydantic import Field

from harness.results.records import ENDS, CellRecord, PromptRecord, Record, Seconds, Source

_LEAST_S, _MOST_S = 1e-6, 1e9
"""Less time than this was not measured, and more is none that anybody waited for."""
PARTS = ("queue", "prefill", "decode")
"""Of a request's time in the engine, in order."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast a cell was, as its client saw it."""

    aggregate: float
    """Aggregate tok/s: output tokens of all prompts / wall time of the passes over them."""
    mean_prompt: float
    """Mean of the prompts' own rates, output tokens / total seconds, in tok/s."""
    ttft_s: float | None
    """Time to first token, median over the prompts that show it. None, as the next, where at most half do."""
    tpot_s: float | None
    """Time per output token after the first: summed seconds / summed tokens, over prompts."""


def in_ms(seconds: float | None) -> float | None:
    """The same in milliseconds."""
    return None if seconds is None else seconds * 1000


class Timed(Protocol):
    """The fields of a prompt record that say when it was answered."""

    source: Source
    segment: int
    repeat: int
    began_s: float | None
    """From the beginning of the segment."""
    total_s: float | None
    """Until its end."""


def wall_of(records: Iterable[Timed]) -> float:
    """Seconds of the passes over the prompts, from the first request's start to the last one's end.

    Passes that ran together share their time; what lies between two passes is nobody's, and no more is the
    time between the segments of a resumed cell. 0 where nothing was timed.
    """
    passes: dict[tuple[int, int], tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    wall = 0.0
    for r in records:
        if r.began_s is None or r.total_s is None:
            continue
        if r.source == "counters":  # one at a time; what lies between two is our wait for the counters
            wall += r.total_s
        else:
            began, ended = passes[r.segment, r.repeat]
            began.append(r.began_s)
            ended.append(r.began_s + r.total_s)
    until: dict[int, float] = {}
    spans = [(at, min(began), max(ended)) for (at, _), (began, ended) in passes.items()]
    for segment, begin, end in sorted(spans):
        wall += max(0.0, end - max(begin, until.get(segment, begin)))
        until[segment] = max(end, until.get(segment, end))
    return wall if wall >= _LEAST_S else 0.0


def speed_of(records: Iterable[PromptRecord]) -> Speed | None:
    """The speed of a cell; None where nothing was timed."""
    known = [
        (r, r.output_tokens, total)
        for r in records
        if (total := r.total_s) is not None and r.began_s is not None
        if (r.ttft_s or 0) <= total >= _LEAST_S and r.finish in ENDS
    ]
    if not known:
        return None
    timed, tokens, totals = zip(*known, strict=True)
    wall = wall_of(timed)
    if not wall or sum(tokens) <= len(tokens):
        return None
    firsts = [(ttft, total - ttft, n - 1) for r, n, total in known if (ttft := r.ttft_s) is not None]
    ttfts, after, later = zip(*firsts, strict=True) if 2 * len(firsts) > len(known) else ((), (), ())
    return Speed(
        aggregate=sum(tokens) / wall,
        mean_prompt=statistics.fmean(map(operator.truediv, tokens, totals)),
        ttft_s=statistics.median(ttfts) if ttfts else None,
        tpot_s=sum(after) / sum(later) if sum(later) else None,
    )


LASTING_S, _MOST_TIMES = 3.0, 20
"""Seconds that a timed pass takes at least, if that needs no more than so many."""


def times_of(seconds: float) -> int:
    """How often what takes so long has to be done to last: a start of a second or two scatters for itself."""
    return max(1, min(_MOST_TIMES, math.ceil(LASTING_S / seconds)))


class Work(Record):
    """What a cell did on one start: speed = tokens / steps * steps / seconds."""

    tokens: Annotated[int, Field(gt=0)]
    """Of all answers."""
    steps: Annotated[int, Field(gt=0)]
    """Forward passes that the answers took part in: their decode steps, and one for the first token of each.
    So without drafts there is a token a step."""
    seconds: Annotated[float, Field(gt=0, le=_MOST_S)]
    """Wall time, as in `Speed.aggregate`."""
    queue_s: Seconds | None = None
    """Summed over the requests by the engine, as the next two; None where it does not tell."""
    prefill_s: Seconds | None = None
    decode_s: Seconds | None = None

    @property
    def rate(self) -> float:
        """Aggregate tok/s."""
        return self.tokens / self.seconds


def work_of(record: CellRecord) -> Work | None:
    """What a cell did; None where nothing was timed."""
    speed = speed_of(record.prompts)
    if speed is None:
        return None
    answered = [r for r in record.prompts if not r.failed]
    tokens = sum(r.output_tokens for r in answered)
    times = {f"{part}_s": us / 1e6 for part in PARTS if (us := record.counters.get(f"{part}_us"))}
    return Work(
        tokens=tokens,
        steps=sum(r.tally.decode_steps + 1 for r in answered),
        seconds=tokens / speed.aggregate,
        **times,
    )
