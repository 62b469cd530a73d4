"""How often blocks of starts find a loss of speed, and how often they cry wolf, by simulation.

    python -m tests.perf.blocks [--cells N] [--scatter SHARE] [--drift SHARE]

Each start's log tok/s scatters by a normal error, and the machine drifts along the blocks. The verdict is the
gate's own. `planned` is what the plan of `bench_suites/test_throughput.py` promises.
"""

from __future__ import annotations

import argparse
import math
import sys
from typing import Any

import numpy as np
from tabulate import tabulate

from harness.judge.throughput import decided
from harness.stats import blocks
from tests.perf import carry_out, positive

BLOCKS, LOSSES = (2, 3, 4, 5, 6, 8), (0.0, 0.03, 0.05, 0.1)


def rates(of: int, loss: float, options: argparse.Namespace, rng: np.random.Generator) -> dict[str, float]:
    """Shares of `options.cells` simulated sessions of `of` blocks that end in each kind of verdict."""
    kinds = dict.fromkeys(("regressed", "inconclusive", "ok", "improved"), 0)
    for _ in range(options.cells):
        logs = rng.normal(0, options.scatter, (of, 4))
        logs += np.cumsum(np.full((of, 4), options.drift), axis=None).reshape(of, 4)
        sides: dict[int, list[list[float]]] = {blocks.OLD: [], blocks.NEW: []}
        for number, block in enumerate(logs):
            order = blocks.order(number)
            for side, values in sides.items():
                shift = math.log1p(-loss) if side == blocks.NEW else 0.0
                values.append([math.exp(x + shift) for x, s in zip(block, order, strict=True) if s == side])
        kinds[decided(blocks.over_blocks(sides[blocks.OLD], sides[blocks.NEW]))] += 1
    return {kind: count / options.cells for kind, count in kinds.items()}


def main() -> int:
    """Print the table; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.perf.blocks", description=__doc__.split("\n")[0])
    parser.add_argument("--cells", type=positive, default=40_000, help="sessions a row (%(default)s)")
    parser.add_argument("--scatter", type=float, default=blocks.SCATTER, help="between starts (%(default)s)")
    parser.add_argument("--drift", type=float, default=0.0, help="of log tok/s from start to start")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    def job() -> dict[str, Any]:
        rng = np.random.default_rng(options.seed)
        rows = [
            {"blocks": of, "loss": loss, **rates(of, loss, options, rng),
             "planned": blocks.power(of, loss, scatter=options.scatter) if loss else None}
            for of in BLOCKS for loss in LOSSES
        ]  # fmt: skip
        print(tabulate(rows, headers="keys", floatfmt=".4f", missingval="—"))
        return {"cells": options.cells, "scatter": options.scatter, "drift": options.drift, "rows": rows}

    return carry_out(job)


if __name__ == "__main__":
    sys.exit(main())
