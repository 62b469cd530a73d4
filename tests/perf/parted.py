"""What the common beginning is worth where texts part: cells drawn from recorded steps, judged both ways.

    python -m tests.perf.parted [--quick] [--seed N] [--records FILE_OR_FOLDER ...]

The prompts are those of recorded cells that hold every step in order. Where a text parts is drawn from a real
pair of recordings: a cell, and the same on another kind of CPU (the share of the text that both have). Up to
there the new side makes the same steps, but for a share of them that numerics changed. Beyond, the steps of
another prompt stand in. A loss is made by letting accepted drafts fail at the first position, each with the
same chance, on the whole new side: what follows then begins earlier.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import special
from tabulate import tabulate

from harness.errors import BadInput
from harness.judge.evidence import ALPHA_LATER
from harness.measure.validity import countable
from harness.results.records import CellRecord, load
from harness.stats import paired as stats
from harness.stats.same_text import common_tokens
from tests.perf import ROOT, carry_out, parser_of, say
from tests.perf.power import Counts, Flags, Judged, Reals, judged

Steps = NDArray[np.int64]
"""Tokens that each decode step accepted: (prompts, steps), NO_STEP after the last."""
Sides = tuple[Counts, Counts]

RECORDINGS = ROOT / "tests/data/recordings"
CELL = "chat-en-instruct-ngram-k4.json"
NO_STEP = -9
NUMERICS = 0.01
"""Steps that accept what any other step may, on another kind of CPU: 5 of 674 were seen to differ."""
SIZES = (8, 40, 120)
LOSSES = (0.0, 0.02, 0.03, 0.05)
BATCH = 200
_SHOWN = {
    "whole ok": "whole answers: ok, %",
    "whole red": "regressed, %",
    "change": "change on the beginning, %",
    "ok": "beginning: ok, %",
    "red": "regressed, %",
}


def parting(old: CellRecord, new: CellRecord) -> Reals:
    """The share of each text that both sides have, 1 where it is the same."""
    there = {r.prompt_hash: r.text for r in new.prompts}
    texts = [(r.text, there[r.prompt_hash]) for r in old.prompts if r.prompt_hash in there and r.text]
    return np.array([common_tokens(*both) / max(map(len, both)) for both in texts])


def steps_of(cell: CellRecord) -> Steps:
    """Of every answer that holds them.

    Raises:
        BadInput: no answer does.
    """
    found = [r.accepted_by_step for r in cell.prompts if countable(r) and r.accepted_by_step]
    if not found:
        raise BadInput(f"{cell.cell}: no answer holds its steps in order")
    longest = max(map(len, found))
    return np.array([[*steps, *[NO_STEP] * (longest - len(steps))] for steps in found])


def counts_of(steps: Steps, within: NDArray[np.int64] | None, k: int) -> Counts:
    """(..., k + 3) as `tests.perf.power` has them: of the steps that end within so many tokens."""
    there = steps != NO_STEP
    committed = np.where(there, 1 + np.maximum(steps, 0), 0)
    if within is not None:
        there &= 1 + committed.cumsum(axis=-1) <= within[..., np.newaxis]
    sums = [(committed * there).sum(axis=-1), there.sum(axis=-1)]
    return np.stack([*sums, *((there & (steps == j)).sum(axis=-1) for j in range(k + 1))], axis=-1)


def chance_of(steps: Steps, loss: float) -> float:
    """The chance to fail at the first position that costs this share of all tokens per step."""
    accepted = int(np.maximum(steps, 0).sum())
    return loss * (accepted + int((steps != NO_STEP).sum())) / accepted


def draw(
    steps: Steps, shares: Reals, *, m: int, cells: int, chance: float, k: int, rng: Generator
) -> tuple[Sides, Sides]:
    """Both sides of cells of m prompts: their whole answers, and the beginnings that they share."""
    chosen, others = rng.integers(len(steps), size=(2, cells, m))
    old = steps[chosen]
    any_step = rng.choice(steps[steps >= 0], size=old.shape)
    new = np.where((rng.random(old.shape) < NUMERICS) & (old >= 0), any_step, old)
    after = steps[others]
    if chance:
        new, after = (np.where((s > 0) & (rng.random(s.shape) < chance), 0, s) for s in (new, after))
    tokens = 1 + counts_of(old, None, k)[..., 0]
    share = rng.choice(shares, size=(cells, m))
    within = np.where(share < 1, np.ceil(share * tokens), 10**6).astype(np.int64)
    begun = counts_of(old, within, k), counts_of(new, within, k)
    rest = counts_of(after, None, k) - counts_of(after, within, k)
    return (counts_of(old, None, k), begun[1] + np.where((share < 1)[..., np.newaxis], rest, 0)), begun


def verdicts(whole: Sides, begun: Sides) -> dict[str, Reals]:
    """What whole answers alone would say, and what the gate says, by beginnings first."""
    m = begun[0].shape[1]
    all_of_it, first = judged(*whole), judged(*begun)
    red = first.alarms["position"] | _lost(first, m, stats.ALPHA_PRIMARY - stats.ALPHA_WHOLE)
    red |= _lost(all_of_it, m, stats.ALPHA_WHOLE)
    later = _lost(all_of_it, m, ALPHA_LATER)  # not red, and not ok either
    return {
        "whole ok": _inside(all_of_it, m) & ~all_of_it.alarms["gate"],
        "whole red": all_of_it.alarms["gate"],
        "change": np.expm1(first.estimate),
        "ok": _inside(first, m) & ~red & ~later,
        "red": red,
    }


def _lost(side: Judged, m: int, alpha: float) -> Flags:
    counted = (side.differing >= stats.MIN_DIFFERING) | (m < stats.MIN_PROMPTS_POSITION)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.where(side.se > 0, special.stdtr(side.df, side.estimate / side.se), side.estimate >= 0)
    lost: Flags = counted & (p <= alpha) & (side.estimate <= -stats.LOG_MARGIN)
    return lost


def _inside(side: Judged, m: int) -> Flags:
    bound = special.stdtrit(side.df, 1 - stats.alpha_ok(m)) * side.se
    inside: Flags = side.estimate - bound > -stats.LOG_MARGIN
    return inside


def job(paths: Sequence[Path], cells: int, seed: int) -> dict[str, Any]:
    """The table, and its figures.

    Raises:
        BadInput: a cell does not hold its steps.
        BadRecord: one cannot be trusted.
    """
    shares = parting(*(load(RECORDINGS / side / CELL, CellRecord) for side in ("bfloat16", "isa")))
    rng = np.random.default_rng(seed)
    figures: list[dict[str, Any]] = []
    for path in paths:
        record = load(path, CellRecord)
        steps, k = steps_of(record), record.cell.k
        for m in SIZES:
            for loss in LOSSES:
                chance = chance_of(steps, loss)
                found = [
                    verdicts(*draw(steps, shares, m=m, cells=BATCH, chance=chance, k=k, rng=rng))
                    for _ in range(cells // BATCH)
                ]
                rates = {name: float(np.mean([f[name] for f in found])) for name in found[0]}
                figures.append({"cell": str(record.cell), "m": m, "loss": loss, **rates})
                say(f"{record.cell} {m} {loss}")
    rows = [
        [f["cell"], str(f["m"]), f"{f['loss']:.0%}", *(f"{100 * f[name]:.2f}" for name in _SHOWN)]
        for f in figures
    ]
    header = ["cell", "m", "true loss", *_SHOWN.values()]
    print(f"texts part in {np.mean(shares < 1):.0%} of the prompts; {shares.mean():.0%} of a text is common")
    print(tabulate(rows, headers=header, disable_numparse=True, stralign="right"), flush=True)
    return {"seed": seed, "cells": cells, "figures": figures}


def main() -> int:
    """The command line."""
    parser = parser_of("parted", __doc__)
    parser.add_argument("--records", type=Path, nargs="+", help="cell files (recordings of EAGLE-3)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the cells")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    known = [
        RECORDINGS / "bfloat16" / f"chat-{language}-instruct-eagle3r1-k4.json" for language in ("en", "zh")
    ]
    paths = options.records or known
    return carry_out(lambda: job(paths, 2000 if options.quick else 20_000, options.seed))


if __name__ == "__main__":
    sys.exit(main())
