"""What answers of unequal length do to false alarms and intervals: plain errors, and those of the jackknife.

    python -m tests.perf.lengths [--cells N] [--sigma S] [--seed N]

Honest cells are drawn as in `tests.perf.power`. Each answer then counts as often as a log-normal number says,
on both sides, so that a few answers hold most steps. `plain` is the linearised standard error over m prompts
with m - 1 degrees of freedom; the gate's is that of the delete-one jackknife, with the effective number of
prompts less one (Kish 1965).
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
from scipy import special
from tabulate import tabulate

from harness.stats import paired
from tests.perf import carry_out, parser_of, positive, say
from tests.perf.power import (
    BATCH,
    NOISES,
    SCATTERED,
    SIZES,
    WHERE,
    Flags,
    Reals,
    draw,
    log_ratio,
    pools,
    usable,
)


def plain(old: Reals, new: Reals) -> tuple[Reals, Reals, Reals]:
    """Estimates, linearised errors and degrees of freedom; (cells, m, columns) as `log_ratio` has them."""
    x0, n0, x1, n1 = (side[..., i] for side in (old, new) for i in (0, 1))
    rates = [x.sum(axis=1, keepdims=True) / n.sum(axis=1, keepdims=True) for x, n in ((x0, n0), (x1, n1))]
    errors = [
        (x - rate * n) / x.mean(axis=1, keepdims=True)
        for x, n, rate in ((x0, n0, rates[0]), (x1, n1, rates[1]))
    ]
    m = x0.shape[1]
    se = (errors[1] - errors[0]).std(axis=1, ddof=1) / math.sqrt(m)
    return np.log(rates[1] / rates[0])[:, 0], se, np.full(len(se), m - 1.0)


def said(change: tuple[Reals, Reals, Reals], differing: Reals, m: int) -> tuple[Flags, Flags]:
    """Whether a cell is regressed by its tokens per step, and whether its 95 % interval holds no change."""
    d, se, df = change
    counted = (differing >= paired.MIN_DIFFERING) | (m < paired.MIN_PROMPTS_POSITION)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.where(se > 0, special.stdtr(df, d / se), d >= 0)
    red = counted & (p <= paired.ALPHA_PRIMARY) & (d <= -paired.LOG_MARGIN)
    # Of less than two prompts' worth there is no bound, and where no prompt differs there is no scatter.
    unbounded = (df < 1) & (se > 0)
    return red, unbounded | (np.abs(d) <= special.stdtrit(np.maximum(df, 1), 0.975) * se)


def main() -> int:
    """The command line."""
    parser = parser_of("lengths", __doc__)
    parser.add_argument("--cells", type=positive, default=20_000, help="a row, about (%(default)s)")
    parser.add_argument("--sigma", type=float, default=1.3, help="of the logarithm of a length (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    def job() -> dict[str, Any]:
        found, rng = pools(WHERE), np.random.default_rng(options.seed)
        rows: list[dict[str, Any]] = []
        for noise in (noise for noise in NOISES if noise.name in SCATTERED):
            able = [pool for pool in found if usable(pool, noise)]
            for m in SIZES:
                sums: dict[str, list[float]] = {}
                for pool in able:
                    for _ in range(math.ceil(options.cells / len(able) / BATCH)):
                        sides = draw(pool, noise, m, BATCH, rng)
                        differing = (sides[0][..., :2] != sides[1][..., :2]).any(axis=-1).sum(axis=1)
                        lengths = rng.lognormal(0, options.sigma, size=(BATCH, m, 1))
                        old, new = (side * lengths for side in sides)
                        changes = {"plain": plain(old, new), "jackknife": log_ratio(old, new)}
                        for name, change in changes.items():
                            red, covered = said(change, differing, m)
                            sums.setdefault(f"{name}: regressed", []).append(float(red.mean()))
                            sums.setdefault(f"{name}: covered", []).append(float(covered.mean()))
                        worth = float(np.median(changes["jackknife"][2])) + 1
                        sums.setdefault("worth, prompts", []).append(worth)
                made = BATCH * len(sums["worth, prompts"])
                means = {name: round(float(np.mean(each)), 6) for name, each in sums.items()}
                rows.append({"texts": noise.name, "m": m, "cells": made, **means})
                say(f"{noise.name} {m}")
        print(tabulate(rows, headers="keys", tablefmt="plain"), flush=True)
        return {"seed": options.seed, "sigma": options.sigma, "rows": rows}

    return carry_out(job)


if __name__ == "__main__":
    sys.exit(main())
