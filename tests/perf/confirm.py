"""What a second look at regressed cells does to false alarms and to power, on the records of `power`.

    python -m tests.perf.confirm [--cells N] [--honest N] [--seed N]

A cell is drawn and judged as in `tests.perf.power`. Where it is regressed, its reserve is drawn from the same
prompts with the same noise and the same loss, and confirms it or not as `harness.judge.confirmation` does. A
false alarm gets many reserves, since false alarms are few.
"""

from __future__ import annotations

import argparse
import math
import sys
from typing import Any

import numpy as np
from numpy.random import Generator

from harness.stats import paired
from tests.perf import carry_out, say
from tests.perf.power import (
    BATCH,
    NOISES,
    SCATTERED,
    WHERE,
    Counts,
    Noise,
    Pool,
    chance_of,
    draw,
    fail,
    judged,
    pools,
    usable,
)

PROMPTS = 120
RESERVES = 200
"""Of each false alarm."""
LOSSES = (0.0, 0.02, 0.03, 0.05)
NIGHTS = 30


def ps_of(old: Counts, new: Counts) -> tuple[float, list[float]]:
    """The p of tokens per step in one cell, and for each position the larger p of its two tests."""
    x0, n0, x1, n1 = (side[:, i].astype(float) for side in (old, new) for i in (0, 1))
    primary = paired.paired_log_ratio(x0, n0, x1, n1)
    a, b = (np.flip(np.flip(side[:, 2:], -1).cumsum(axis=-1), -1) for side in (old, new))
    positions = []
    for j in range(1, a.shape[1]):
        try:
            inner = paired.paired_difference(a[:, j], a[:, j - 1], b[:, j], b[:, j - 1])
            outer = paired.paired_difference(a[:, j:].sum(axis=1), n0, b[:, j:].sum(axis=1), n1)
            positions.append(max(inner.p_loss(), outer.p_loss()))
        except ValueError:  # no step reached it
            positions.append(1.0)
    return max(primary.p_loss(), 2.0**-primary.differing), positions


def one_cell(pool: Pool, noise: Noise, size: int, loss: float, rng: Generator) -> tuple[Counts, Counts]:
    """Cells of PROMPTS prompts; with a loss, at position 0."""
    old, new = draw(pool, noise, PROMPTS, size, rng)
    return old, fail(new, 0, chance_of(pool, 0, loss), rng) if loss else new


def looks(found: list[Pool], noise: Noise, loss: float, cells: int, rng: Generator) -> dict[str, Any]:
    """Cells, those that are red at the first look, and those that stay red."""
    able = [p for p in found if usable(p, noise) and (not loss or chance_of(p, 0, loss) <= 1)]
    made, red, kept = 0, 0, 0.0
    for pool in able:
        for _ in range(math.ceil(cells / len(able) / BATCH)):
            old, new = one_cell(pool, noise, BATCH, loss, rng)
            alarms = judged(old, new).alarms
            made += BATCH
            for i in np.flatnonzero(alarms["gate"]):
                red += 1
                _, positions = ps_of(old[i], new[i])
                surest = int(np.argmin(positions))
                reserves = 1 if loss else RESERVES
                again = one_cell(pool, noise, reserves, loss, rng)
                for before, after in zip(*again, strict=True):
                    tokens, by_position = ps_of(before, after)
                    p = tokens if alarms["primary"][i] else by_position[surest]
                    kept += (p <= paired.ALPHA_CONFIRM) / reserves
    return {"noise": noise.name, "loss": loss, "cells": made, "red": red, "confirmed": round(kept, 2)}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.perf.confirm", description=__doc__)
    parser.add_argument("--cells", type=int, default=4000, help="with a loss (%(default)s)")
    parser.add_argument("--honest", type=int, default=100_000, help="without one (%(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    def job() -> dict[str, Any]:
        rng, found = np.random.default_rng(options.seed), pools(WHERE)
        rows = []
        for noise in (n for n in NOISES if n.name in SCATTERED):  # where nothing scatters, no alarm is false
            for loss in LOSSES:
                row = looks(found, noise, loss, options.cells if loss else options.honest, rng)
                rate, after = row["red"] / row["cells"], row["confirmed"] / row["cells"]
                month = [f"{n}: {n * NIGHTS * rate:.2f} -> {n * NIGHTS * after:.3f}" for n in (16, 64, 300)]
                honest = "" if loss else f"; false reds a month by cells a night: {', '.join(month)}"
                say(f"{noise.name}, loss {loss:.0%}: red {rate:.3%}, confirmed {after:.3%}{honest}")
                rows.append(row)
        return {"seed": options.seed, "rows": rows}

    return carry_out(job)


if __name__ == "__main__":
    sys.exit(main())
