"""How often `draftgate history` finds a change in simulated years, and how often there was none.

    python -m tests.perf.history [--years N] [--runs N]

The log figure of a run scatters by a normal error; `lasting` is the correlation of one run with the next. A
drift takes 0.5 % a week; a step takes 3 % in mid-year. `weeks` is the median of the week in which
the drift first shows, if somebody looks after each run.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from harness.report.history import changes_of
from tests.perf import carry_out, positive

WEEKS, DRIFT, STEP = 52, 0.005, 0.03
SCATTERS = ((0.0, 0.0), (0.003, 0.0), (0.01, 0.0), (0.02, 0.0), (0.04, 0.0), (0.01, 0.3), (0.02, 0.3))
"""Of one run, and how much of it lasts."""


def year(runs: int, scatter: float, lasting: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Log figures of a steady year."""
    errors = rng.normal(0, scatter, runs)
    for i in range(1, runs):
        errors[i] = lasting * errors[i - 1] + math.sqrt(1 - lasting**2) * errors[i]
    return errors


def found(logs: NDArray[np.float64]) -> bool:
    """Whether a year has a change."""
    return bool(changes_of("tokens_per_step", list(2 * np.exp(logs))))


def rates(scatter: float, lasting: float, options: argparse.Namespace) -> dict[str, float | None]:
    """Shares of simulated years that show a change: steady, drifting, with a step."""
    rng = np.random.default_rng(options.seed)
    weeks = np.arange(options.runs) * WEEKS / options.runs
    seen = dict.fromkeys(("steady", "drift", "step"), 0)
    first = []
    for _ in range(options.years):
        steady = year(options.runs, scatter, lasting, rng)
        drifting = steady + weeks * math.log1p(-DRIFT)
        step = steady + np.where(weeks >= WEEKS / 2, math.log1p(-STEP), 0)
        for name, logs in zip(seen, (steady, drifting, step), strict=True):
            seen[name] += found(logs)
        first += [next((weeks[i - 1] for i in range(2, len(weeks) + 1) if found(drifting[:i])), math.inf)]
    shown = statistics.median(first)
    return {
        **{name: count / options.years for name, count in seen.items()},
        "weeks": float(shown) if math.isfinite(shown) else None,
    }


def main() -> int:
    """Print the table; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.perf.history", description=__doc__.split("\n")[0])
    parser.add_argument("--years", type=positive, default=1000, help="a row (%(default)s)")
    parser.add_argument("--runs", type=positive, default=WEEKS, help="a year (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    def job() -> dict[str, Any]:
        rows = [{"scatter": s, "lasting": c, **rates(s, c, options)} for s, c in SCATTERS]
        print(tabulate(rows, headers="keys", missingval="—"))
        return {"years": options.years, "runs": options.runs, "rows": rows}

    return carry_out(job)


if __name__ == "__main__":
    sys.exit(main())
