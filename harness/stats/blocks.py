"""Two sides measured in turn, each time on a start of its own: the change, and what so many blocks can see.

A block is four starts, in the order A B B A or B A A B: a drift along a block touches both sides alike.
Starts of one server differ by more than its requests do (Kalibera and Jones 2013), so the unit is the block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from harness.stats.paired import ALPHA_OK, ALPHA_PRIMARY, MOST, POWER, PairedRatio

OLD, NEW = 0, 1
MARGIN = 0.03
"""Share of tok/s that may be lost. Policy: wider than for tokens per step, since starts differ."""
LOG_MARGIN = -math.log(1 - MARGIN)
SCATTER = 0.01
"""The standard deviation of log tok/s between starts that a plan assumes."""
MOST_BLOCKS = 1000
_LEAST, _MOST = 1e-150, 1e150
"""What a speed can be: the ratio of two is still a number."""
_ALL = 1 - 1e-9
"""The largest loss that is planned for."""
_ROUNDING = 1e-12
_ORDERS = ((OLD, NEW, NEW, OLD), (NEW, OLD, OLD, NEW))


def order(block: int) -> tuple[int, ...]:
    """Which side each start of a block has: A B B A in blocks 0, 2, ..., B A A B in the others."""
    return _ORDERS[block % len(_ORDERS)]


def over_blocks(old: Sequence[Sequence[float]], new: Sequence[Sequence[float]]) -> PairedRatio:
    """The change from old to new: the mean over blocks of the difference of mean logs, with its t interval.

    Args:
        old: positive values of the old side's starts, block by block.
        new: those of the new side.

    Raises:
        ValueError: fewer than two blocks, not as many on both sides, or a value that is not above 0.
    """
    if len(old) != len(new) or len(old) < 2:  # noqa: PLR2004
        raise ValueError(f"{len(old)} and {len(new)} blocks: at least 2 are needed, as many on both sides")
    means = np.array([[_mean_log(block) for block in side] for side in (old, new)])
    values, blocks = means[NEW] - means[OLD], len(old)
    estimate, se = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(blocks)
    return PairedRatio(
        r0=math.exp(means[OLD].mean()),
        r1=math.exp(means[NEW].mean()),
        estimate=estimate if abs(estimate) > _ROUNDING else 0.0,
        se=se if se > _ROUNDING * max(1.0, abs(estimate)) else 0.0,
        m=blocks,
        differing=int(np.count_nonzero(np.abs(values) > _ROUNDING)),
        df=blocks - 1,
    )


def over_sessions(old: Sequence[Sequence[float]], new: Sequence[Sequence[float]]) -> PairedRatio:
    """The change between two sets of sessions, by Welch's t on the sessions' mean logs.

    Args:
        old: positive values of the starts, session by session.
        new: those of the other set, which may have another number of sessions.

    Raises:
        ValueError: a side has fewer than two sessions, or a value that is not above 0.
    """
    if min(len(old), len(new)) < 2:  # noqa: PLR2004
        raise ValueError(f"{len(old)} and {len(new)} sessions: each side needs at least 2")
    logs = [np.array([_mean_log(session) for session in side]) for side in (old, new)]
    variances = [float(side.var(ddof=1)) / len(side) for side in logs]
    total = math.fsum(variances)
    parts = math.fsum(v**2 / (len(side) - 1) for v, side in zip(variances, logs, strict=True))
    sessions, varied = min(len(old), len(new)), math.sqrt(total) > _ROUNDING
    return PairedRatio(
        r0=math.exp(logs[OLD].mean()),
        r1=math.exp(logs[NEW].mean()),
        estimate=float(logs[NEW].mean() - logs[OLD].mean()),
        se=math.sqrt(total) if varied else 0.0,
        m=sessions,
        differing=sessions,
        df=total**2 / parts if varied else len(old) + len(new) - 2,
    )


def _mean_log(values: Sequence[float]) -> float:
    if not values or not all(_LEAST <= value <= _MOST for value in values):
        raise ValueError(f"{list(values)} are no speeds: each must be above 0, and none may be without end")
    return math.fsum(map(math.log, values)) / len(values)


def power(blocks: int, loss: float, *, scatter: float = SCATTER) -> float:
    """How often so many blocks call a loss of so much tok/s regressed, if starts scatter by `scatter`.

    By the noncentral t; and the estimate must reach the margin. A block's difference is of two means over two
    starts, so its standard deviation is that of one start.

    Raises:
        ValueError: fewer than two blocks, or more than 2**53; a loss outside 0..1; or no scatter.
    """
    if not (2 <= blocks <= MOST and 0 <= loss < 1 and _ROUNDING < scatter < math.inf):  # noqa: PLR2004
        raise ValueError(f"{blocks} blocks, a loss of {loss} and a scatter of {scatter} make no plan")
    se, df, change = scatter / math.sqrt(blocks), blocks - 1, math.log1p(-loss)
    significant = 1 - special.nctdtr(df, -change / se, special.stdtrit(df, 1 - ALPHA_PRIMARY))
    return float(min(significant, special.ndtr((-LOG_MARGIN - change) / se)))


def detectable(blocks: int, *, scatter: float = SCATTER) -> float:
    """The smallest loss, a fraction, that so many blocks call regressed with chance POWER.

    Raises:
        ValueError: as `power`.
    """
    low, high = 0.0, _ALL
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if power(blocks, middle, scatter=scatter) >= POWER else (middle, high)
    return high


def scatter_of(change: PairedRatio) -> float:
    """The standard deviation between starts that blocks with this error have had."""
    return change.se * math.sqrt(change.m)


def settled_by(change: PairedRatio) -> int | None:
    """How many blocks would say `ok` or `regressed` four times in five, if the change were as measured.

    None where no number would, at the margin itself; or where nothing scatters, so that it is settled.
    """
    scatter, loss = scatter_of(change), min(-math.expm1(change.estimate), _ALL)
    for blocks in range(change.m + 1, MOST_BLOCKS + 1) if scatter else ():
        if change.estimate > -LOG_MARGIN:
            t = special.stdtrit(blocks - 1, 1 - ALPHA_OK) + special.stdtrit(blocks - 1, POWER)
            if change.estimate - t * scatter / math.sqrt(blocks) > -LOG_MARGIN:
                return blocks
        elif power(blocks, loss, scatter=scatter) >= POWER:
            return blocks
    return None
