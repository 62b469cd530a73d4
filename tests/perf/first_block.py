"""What it does to a curve's intervals that its first block both chooses a k and counts.

    python -m tests.perf.first_block

Ks that are equally fast beside one `none`, each start with the same scatter: how often does the 95 % interval
of the k that was fastest in the first block lie wholly above the truth, and how often below? And with the
first block left out?
"""

from __future__ import annotations

import numpy as np
from scipy import special

SAMPLES = 200_000


def off(blocks: int, ks: int, *, first: int = 0) -> tuple[float, float, float]:
    """Shares of the intervals above the truth and below, and the bias in scatters of a start."""
    rng = np.random.default_rng(0)
    change = rng.normal(size=(SAMPLES, blocks, ks)) - rng.normal(size=(SAMPLES, blocks, 1))
    best = change[:, 0].argmax(axis=1)
    own = np.take_along_axis(change, best[:, None, None], axis=2)[:, first:, 0]
    mean, n = own.mean(axis=1), blocks - first
    half = special.stdtrit(n - 1, 0.975) * own.std(axis=1, ddof=1) / np.sqrt(n)
    return float((mean > half).mean()), float((mean < -half).mean()), float(mean.mean())


if __name__ == "__main__":
    for blocks in (3, 4, 6):
        for ks in (1, 3, 4):
            for first in (0, 1):
                above, below, bias = off(blocks, ks, first=first)
                print(
                    f"{blocks} blocks{', without the first' * first}, {ks} ks: above {above:.2%}, "
                    f"below {below:.2%}, bias {bias:+.2f} scatters of a start"
                )
