"""How often a search stops a trial too early, and what that saves, by simulation over real records.

    python -m tests.perf.prune [--cells N] [--prompts N] [--records FILE_OR_FOLDER ...]

The best trial and another one are drawn as in `tests.perf.power`: the same prompts, and a share of them with
the record of another seed or prompt. A loss lets accepted drafts fail at the first position. The rule is the
search's own: at each look the paired change with its bound.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from tabulate import tabulate

from harness.stats import paired
from tests.perf import carry_out, positive
from tests.perf.power import NOISES, WHERE, Counts, Noise, Pool, chance_of, draw, fail, pools, usable

LOSSES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)


def stopped_at(best: Counts, trial: Counts) -> int | None:
    """The look that stops a trial: arrays (prompts, k + 3)."""
    for look in (look for look in paired.LOOKS if look < len(best)):
        (x0, n0), (x1, n1) = (side[:look, :2].T for side in (best, trial))
        change = paired.paired_log_ratio(x0, n0, x1, n1)
        if (
            change.estimate < 0
            and change.estimate + paired.sequential_thresholds(look, change.df)[0] * change.se <= 0
        ):
            return look
    return None


def row(
    found: list[Pool], noise: Noise, loss: float, options: argparse.Namespace, rng: Generator
) -> dict[str, Any]:
    """Shares of the trials that stop at each look, over all pools alike, and how many prompts one asks.

    Empty where no pool can have the noise or the loss.
    """
    able = [pool for pool in found if usable(pool, noise) and chance_of(pool, 0, loss) <= 1]
    stops: list[int | None] = []
    for pool in able:
        cells = math.ceil(options.cells / len(able))
        best, trial = draw(pool, noise, options.prompts, cells, rng)
        trial = fail(trial, 0, chance_of(pool, 0, loss), rng) if loss else trial
        stops += [stopped_at(*pair) for pair in zip(best, trial, strict=True)]
    if not stops:
        return {}
    shares = {f"at {look}": stops.count(look) / len(stops) for look in paired.LOOKS if look < options.prompts}
    asked = float(np.mean([options.prompts if stop is None else stop for stop in stops]))
    return {"noise": noise.name, "loss": loss, **shares, "stopped": sum(shares.values()), "prompts": asked}


def main() -> int:
    """Print the table; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.perf.prune", description=__doc__.split("\n")[0])
    parser.add_argument("--cells", type=positive, default=4000, help="trials a row (%(default)s)")
    parser.add_argument("--prompts", type=positive, default=80, help="of a trial (%(default)s)")
    parser.add_argument("--records", type=Path, nargs="+", default=list(WHERE))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    def job() -> dict[str, Any]:
        rng, found = np.random.default_rng(options.seed), pools(options.records)
        rows = [r for noise in NOISES for loss in LOSSES if (r := row(found, noise, loss, options, rng))]
        print(tabulate(rows, headers="keys", floatfmt=".4f"))
        return {"trials": options.cells, "rows": rows}

    return carry_out(job)


if __name__ == "__main__":
    sys.exit(main())
