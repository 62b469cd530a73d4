"""Old against new, for speed: the verdict on blocks of starts, and whose fault it is.

tok/s is tokens per step over seconds per step, on every start. So the logs of the two ratios add up to that
of the speed, start by start and block by block.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from harness.judge.verdict import Kind, Verdict
from harness.provenance.surroundings import Surroundings
from harness.results.conditions import Environment
from harness.results.timing import PARTS, Work
from harness.stats import blocks
from harness.stats.blocks import LOG_MARGIN, MARGIN
from harness.stats.paired import ALPHA_OK, ALPHA_PRIMARY, PairedRatio
from harness.text.numbers import number, percent, signed, signed_interval
from harness.text.render import Block

MOST_OTHERS = 0.05
"""Share of the machine's processor time that other programs may take while a CPU engine is timed."""
MOST_CLOCK = 0.1
"""By how much the clock may differ between two starts of one side."""
_MATTERS = 0.01
"""Share of a request's time in the engine: queues of microseconds double and halve."""


class Timed(Protocol):
    """A record with times."""

    provenance: dict[str, Any]
    """It may hold what was seen around the start."""
    environment: Environment


Side = Sequence[Sequence[Work]]
"""The starts of one side, block by block."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """A change of speed, and what it is made of: `speed` is `tokens` less `seconds`, as logs."""

    speed: PairedRatio
    """tok/s."""
    tokens: PairedRatio
    """Tokens per step."""
    seconds: PairedRatio
    """Seconds per step."""
    unit: str = "blocks"
    """What the intervals come from."""
    parts: dict[str, PairedRatio]
    """Seconds a request spends in the queue, in prefill and in decode, where the engine tells them."""


def split(
    old: Side, new: Side, *, unit: str = "blocks", by: Callable[..., PairedRatio] = blocks.over_blocks
) -> Split:
    """The change of speed between two sides, and what it is made of.

    Args:
        old: one side.
        new: the other.
        unit: what a block is called.
        by: makes a change of both sides' values, block by block.

    Raises:
        ValueError: as `by` does; or a start has no tokens, no steps or took no time.
    """

    def change(what: Callable[[Work], float]) -> PairedRatio:
        return by(*([[what(work) for work in block] for block in side] for side in (old, new)))

    works = [work for side in (old, new) for block in side for work in block]
    if not all(0 < value < math.inf for one in works for value in (one.tokens, one.steps, one.seconds)):
        raise ValueError("a start without tokens, steps or seconds has no speed")
    told = [part for part in PARTS if all(getattr(work, f"{part}_s") for work in works)]
    return Split(
        speed=change(lambda work: work.rate),
        tokens=change(lambda work: work.tokens / work.steps),
        seconds=change(lambda work: work.seconds / work.steps),
        unit=unit,
        parts={part: change(operator.attrgetter(f"{part}_s")) for part in told},
    )


def decided(change: PairedRatio) -> Kind:
    """The kind of verdict on a change of speed, by its t and the margin of 3 %."""
    if change.p_loss() <= ALPHA_PRIMARY and change.estimate <= -LOG_MARGIN:
        return "regressed"
    if change.p_gain() <= ALPHA_PRIMARY and change.estimate >= LOG_MARGIN:
        return "improved"
    return "ok" if change.lower_bound(1 - ALPHA_OK) > -LOG_MARGIN else "inconclusive"


def judge(found: Split) -> Verdict:
    """The verdict, with its cause."""
    kind, speed = decided(found.speed), found.speed
    text = cause(found)
    if kind == "inconclusive":
        scatter = blocks.scatter_of(speed)
        seen = f"starts scatter by {100 * scatter:.1f} %, so {speed.m} {found.unit} would find a loss of "
        text += f"; {seen}{100 * blocks.detectable(speed.m, scatter=scatter):.1f} % four times in five"
        if more := blocks.settled_by(speed):
            text += f"; {more} {found.unit} would settle it"
    elif kind == "ok" and seen_in(speed) and speed.estimate < 0:
        text += f"; inside the margin of {MARGIN:.0%}"
    return Verdict(kind=kind, text=text)


def seen_in(change: PairedRatio) -> bool:
    """Whether its 95 % interval leaves 0 out."""
    low, high = change.ci()
    return not low <= 0 <= high


def cause(found: Split) -> str:
    """`9.1 % slower (95 % CI -9.9..-8.3 over 6 blocks): steps take 10.0 % longer, acceptance is the same`."""
    speed = found.speed
    many = f"95 % CI {signed_interval(speed.change_ci())} over {speed.m} {found.unit}"
    how = f"{abs(100 * speed.change):.1f} % {'slower' if speed.estimate < 0 else 'faster'} ({many})"
    if not seen_in(speed):
        how = f"no difference seen: {percent(speed.change)} ({many})"
    return f"{how}: {'; '.join([', '.join(_factors(found)), *_within(found)])}"


def _factors(found: Split) -> Iterator[str]:
    seconds, tokens = found.seconds, found.tokens
    size, how = abs(100 * seconds.change), "longer" if seconds.estimate > 0 else "less time"
    alike = "steps take as long" if _alike(seconds) else "no change of steps seen"
    yield f"steps take {size:.1f} % {how}" if seen_in(seconds) else alike
    size, how = abs(100 * tokens.change), "more" if tokens.estimate > 0 else "fewer"
    alike = "acceptance is the same" if _alike(tokens) else "no change of acceptance seen"
    yield f"a step makes {size:.1f} % {how} tokens" if seen_in(tokens) else alike


def _alike(change: PairedRatio) -> bool:
    """Its 95 % interval leaves out a change of the margin, either way: more than that none was seen."""
    low, high = change.ci()
    return -LOG_MARGIN < low <= high < LOG_MARGIN


def _within(found: Split) -> Iterator[str]:
    """Where the time of a request went, if it moved by a part that matters."""
    least = _MATTERS * sum(change.r0 for change in found.parts.values())
    parts = {n: c for n, c in found.parts.items() if seen_in(c) and abs(c.r1 - c.r0) >= least}
    moved = [f"{name} {percent(change.change)}" for name, change in parts.items()]
    if moved and seen_in(found.seconds):
        yield f"of a request's time: {', '.join(moved)}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneStart:
    """Speed of one start of each side: a description without an interval, no claim."""

    tok_s: tuple[float, float]
    tokens: float
    """Relative change of tokens per step."""

    @property
    def speed(self) -> float:
        """Relative change of tok/s."""
        return self.tok_s[1] / self.tok_s[0] - 1

    @property
    def seconds(self) -> float:
        """Relative change of seconds per step: speed ratio = tokens ratio / seconds ratio."""
        return (1 + self.tokens) / (1 + self.speed) - 1

    @property
    def text(self) -> str:
        """For formats that have no table of it."""
        made = f"tokens per step {percent(self.tokens)}, seconds per step {percent(self.seconds)}"
        old, new = self.tok_s
        return f"tok/s {old:.1f} -> {new:.1f} ({percent(self.speed)}): {made}; one start each, so no claim"


def of_one_start(tok_s: tuple[float, float], tokens_per_step: tuple[float, float]) -> OneStart | None:
    """What two starts say of a speed; nothing of less than the margin."""
    found = OneStart(tok_s=tok_s, tokens=tokens_per_step[1] / tokens_per_step[0] - 1)
    return found if abs(found.speed) >= MARGIN else None


def table(found: Split, requests: int, *, sides: tuple[str, str] = ("old", "new")) -> Block:
    """Both sides and the change of each part, with intervals; `requests` a start."""
    rows = [
        _line("tok/s", found.speed, 1, 1.0),
        _line("tokens per step", found.tokens, 3, 1.0),
        _line("ms per step", found.seconds, 2, 1e3),
    ]
    rows += [_line(f"{part} ms a request", c, 1, 1e3 / requests) for part, c in found.parts.items()]
    return Block(
        header=("", *sides, "change %", "95 % CI"), rows=tuple(rows), align="lrrrr", ranks=(0, 1, 1, 0, 2)
    )


def _line(name: str, change: PairedRatio, digits: int, scale: float) -> tuple[str, ...]:
    sides = (number(rate, digits, scale=scale) for rate in (change.r0, change.r1))
    return (name, *sides, signed(change.change), signed_interval(change.change_ci()))


def figures(found: Split) -> dict[str, float | int | None]:
    """For a program: each ratio new over old, less 1, with its interval."""
    values: dict[str, float | int | None] = {"blocks": found.speed.m}
    named = {"tok_s": found.speed, "tokens_per_step": found.tokens, "seconds_per_step": found.seconds}
    for name, change in (named | {f"{part}_s": c for part, c in found.parts.items()}).items():
        low, high = change.change_ci() or (None, None)
        values |= {f"{name}_change": change.change, f"{name}_low": low, f"{name}_high": high}
    return values


def disturbed_in(starts: Iterable[tuple[int, Timed]]) -> str:
    """Why starts, each with its side, were not timed on an idle machine; empty where they were.

    Nothing is known of starts that nobody watched: those of an older version, or of a server elsewhere.
    """
    of = [(side, record, seen) for side, record in starts if (seen := Surroundings.of(record.provenance))]
    return disturbed([(side, seen) for side, _, seen in of], gpu=any(r.environment.gpus for _, r, _ in of))


def disturbed(starts: Sequence[tuple[int, Surroundings | None]], *, gpu: bool) -> str:
    """Why the starts of a block are no fair comparison; empty where they are.

    Args:
        starts: each one's side, and what was seen around it; None where nobody looked.
        gpu: the engine computes on GPUs, so that other programs on the processors hardly slow it down.
    """
    seen = [(side, around) for side, around in starts if around is not None]
    if len(seen) < len(starts):
        return "nobody watched the machine during one of its starts"
    most = max((around.others or 0.0 for _, around in seen), default=0.0)
    if most > MOST_OTHERS and not gpu:
        return f"other programs took {most:.0%} of the processors (at most {MOST_OTHERS:.0%} may be)"
    if slowed := sum(around.slowed for _, around in seen):
        return f"the machine slowed itself down for heat or power ({slowed} times)"
    for clock in ("cpu_mhz", "sm_mhz"):
        for side in (blocks.OLD, blocks.NEW):
            clocks = [c for of, around in seen if of == side and (c := getattr(around, clock))]
            if clocks and min(clocks) < (1 - MOST_CLOCK) * max(clocks):
                return f"the clock changed from start to start: {clocks[0]:.0f} and {clocks[-1]:.0f} MHz"
    return ""
