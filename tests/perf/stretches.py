"""How often a cell of long answers is red for nothing, and what it sees, by simulation.

    python -m tests.perf.stretches [--cells N]

A cell is 12 prompts x 1,500 tokens, drawn from 200 simulated ones, and judged whole. Honest pairs have other
texts on the second side, with the sides swapped at random: the same drafter, its steps in another order, and
a share of the answers in a loop from some token on.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.random import Generator
from tabulate import tabulate

from harness.judge.pairing import Pairs
from harness.judge.verdict import judge_pairs
from harness.results.records import PromptRecord
from tests.factories import simulated
from tests.factories.simulated import STRONG, WEAK, Table
from tests.perf import carry_out, parser_of, positive, say

PROMPTS, TOKENS, SIZES = 200, 1500, (8, 12)
LOOPS = (0.0, 0.1, 0.3)
LATE = (0.03, 0.05, 0.1)
Answers = tuple[PromptRecord, ...]


def drawn(old: Answers, new: Answers, m: int, rng: Generator, *, swapped: bool) -> Pairs:
    """So many of the prompts, sides swapped at random where nothing was lost."""
    at, swap = rng.choice(len(old), m, replace=False), rng.random(m) < swapped / 2
    pairs = ((new[i], old[i]) if s else (old[i], new[i]) for i, s in zip(at, swap, strict=True))
    return Pairs(prompts=tuple(((a,), (b,)) for a, b in pairs), notes=())


def red(old: Table, new: Table, m: int, cells: int, *, honest: bool, same_text: bool) -> dict[str, Any]:
    """How many cells are regressed, how many of them by a stretch, and what they lost on average.

    Of honest cells also how often the 95 % intervals of stretches hold no change.
    """
    rng, texts = np.random.default_rng(m), ("a", "a" if same_text else "b")
    sides = [simulated.cell(t, text=x, seed=x != "a").prompts for t, x in zip((old, new), texts, strict=True)]
    said = [judge_pairs(drawn(sides[0], sides[1], m, rng, swapped=honest)) for _ in range(cells)]
    held = [low <= 0 <= high for v in said for low, high in (s.change.ci() for s in v.stretches)]
    return {
        "m": m,
        "cells": cells,
        "change": round(float(np.mean([v.change or 0.0 for v in said])), 4),
        "red": sum(v.kind == "regressed" for v in said),
        "by a stretch": sum(any(s.lost for s in v.stretches) for v in said),
        **({"covered": round(float(np.mean(held)), 4)} if honest else {}),
    }


def fading(table: Table, loss: float) -> Table:
    """So many drafts fail at once after 1,000 tokens that tokens per step fall by `loss` there."""
    rate = 1 + table.mean()
    return simulated.late(table, simulated.worse(table, loss * rate / (rate - 1)), 1000)


def job(cells: int) -> dict[str, Any]:
    """Both tables."""
    honest, found = [], []
    for name, rates in (("strong", STRONG), ("weak", WEAK)):
        table = simulated.drafter(1, rates, prompts=PROMPTS, tokens=TOKENS)
        for loops in LOOPS:
            old, new = (simulated.looping(simulated.other_text(table, s), loops, s) for s in (1, 2))
            for m in SIZES:
                result = red(old, new, m, cells, honest=True, same_text=False)
                honest.append({"drafter": name, "loops": loops, **result})
        losses: dict[str, Callable[[Table], Table]] = {
            f"dies after {token}": functools.partial(simulated.dead_after, token=token)
            for token in (500, 1000, 1400)
        }
        losses |= {f"{loss:.0%} less after 1000": functools.partial(fading, loss=loss) for loss in LATE}
        for what, lose in losses.items():
            for text, honest_side in (("same", table), ("other", simulated.other_text(table, 1))):
                few = max(1, cells // 20)
                result = red(table, lose(honest_side), SIZES[-1], few, honest=False, same_text=text == "same")
                found.append({"drafter": name, "what": what, "text": text, **result})
    for title, figures in (("no loss, other texts", honest), ("losses", found)):
        say(title)
        print(tabulate(figures, headers="keys", tablefmt="plain"))
    return {"honest": honest, "found": found}


def main() -> int:
    """The command line."""
    parser = parser_of("stretches", __doc__)
    parser.add_argument("--cells", type=positive, default=10_000, help="of each honest kind (%(default)s)")
    options = parser.parse_args()
    return carry_out(lambda: job(options.cells))


if __name__ == "__main__":
    sys.exit(main())
