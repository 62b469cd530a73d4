"""How often `--sequential` errs and what it saves, and what drafters that fail on a few prompts alone give.

    python -m tests.perf.looks [--cells N] [--seed N] [--ok-z Z Z Z Z Z]

Cells are drawn as in `tests.perf.power` and judged as `harness.judge.evidence` does: one look at a time until
one decides, with positions at the stop. A loss is at position 0 of every prompt, or the drafter is dead on
some prompts: their texts are the same, and none of their drafts is accepted any more.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import special
from tabulate import tabulate

from harness.stats import paired, same_text
from tests.perf import carry_out, parser_of, positive, say
from tests.perf.power import (
    BATCH,
    NOISES,
    SCATTERED,
    WHERE,
    Counts,
    Flags,
    Judged,
    Noise,
    Pool,
    Reals,
    chance_of,
    draw,
    fail,
    judged,
    pools,
    usable,
)

OPEN, IDENTICAL, REGRESSED, IMPROVED, OK = range(5)
Kinds = NDArray[np.int64]

SAME = NOISES[0]
LOSSES = (0.0, 0.02, 0.03, 0.05)
DEAD = (0.02, 0.05, 0.1)
"""Shares of tokens per step that are lost on dead prompts."""
FEW, FEW_OF = (1, 5, 9), 120
"""Prompts that a drafter is dead on, and of how many."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """Which of the rules hold: all, but for a comparison."""

    ok_z: Sequence[float] = paired.OK_Z
    unasked: bool = True
    """Prompts that were not asked yet may hide a loss."""
    one_by_one: bool = True
    """Broken prompts decide."""


def dead_on(counts: Counts, which: Flags) -> Counts:
    """The same, but on these prompts every token takes a step of its own."""
    alone = np.zeros_like(counts)
    alone[..., :3] = counts[..., :1]
    return np.where(which[..., np.newaxis], alone, counts)


def broken(old: Counts, dead: Flags) -> Flags:
    """Which dead prompts are broken: every old step has its match, and those with a token accept fewer."""
    fewer, steps = old[..., 3:].sum(axis=-1), old[..., 1]
    p = special.betainc(np.maximum(fewer, 1), steps - fewer + 1.0, same_text.CHANCE)
    found: Flags = dead & (fewer > 0) & (old.shape[1] * p <= paired.ALPHA_PROMPTS)
    return found


def decided(old: Counts, new: Counts, dead: Flags, look: int | None, rules: Rules) -> tuple[Kinds, Judged]:
    """The kind of verdict without positions, at a look or on all prompts at once."""
    said, m = judged(old, new), old.shape[1]
    d, se, few = said.estimate, said.se, said.differing < paired.MIN_DIFFERING
    alphas = (paired.ALPHA_PRIMARY, paired.alpha_ok(m))
    if look is not None:
        at = paired.LOOKS.index(look)
        alphas = (paired.tail(paired.REGRESSED_Z[at]), paired.tail(rules.ok_z[at]))
    lost_t, ok_t = (-special.stdtrit(said.df, alpha) * se for alpha in alphas)
    hit = broken(old, dead) if rules.one_by_one else np.zeros_like(dead)
    steps = old[..., 1].sum(axis=1)
    cost = 1 - steps / (steps + ((new - old)[..., 1] * hit).sum(axis=1))
    counted = ~few | (m < paired.MIN_PROMPTS_POSITION)
    unasked = few & (unseen(old, hit) >= paired.MARGIN)
    unasked &= rules.unasked and look not in (None, paired.LOOKS[-1])
    kinds = np.select(
        [
            (old == new).all(axis=(1, 2)) & ~unasked,
            (cost >= paired.MARGIN) | (counted & (d < 0) & (d <= -lost_t) & (d <= -paired.LOG_MARGIN)),
            counted & (d > 0) & (d >= lost_t) & (d >= paired.LOG_MARGIN),
            (d - ok_t > -paired.LOG_MARGIN) & ~unasked,
        ],
        [IDENTICAL, REGRESSED, IMPROVED, OK],
        OPEN,
    )
    return kinds, said


def unseen(old: Counts, hit: Flags) -> Reals:
    """`same_text.unseen_loss` of every cell."""
    m = old.shape[1]
    bounds = np.array([paired.share_bound(m, seen=seen) for seen in range(m + 1)])
    lost: Reals = bounds[hit.sum(axis=1)] * np.maximum(0, rate(old) - 1)
    return lost / (1 + lost)


def rate(counts: Counts) -> Reals:
    """Tokens per step of every cell."""
    rates: Reals = counts[..., 0].sum(axis=1) / counts[..., 1].sum(axis=1)
    return rates


def stopped(
    old: Counts, new: Counts, dead: Flags, truth: float, rules: Rules
) -> tuple[Kinds, Kinds, Flags, Flags]:
    """Of every cell the verdict and the prompts asked; and whether the interval at the stop holds the truth.

    The last two are that interval, for repeated looks, and one that forgets that there were several.
    """
    kinds, asked = (np.zeros(len(old), dtype=np.int64) for _ in range(2))
    covered, once = (np.zeros(len(old), dtype=bool) for _ in range(2))
    going = np.ones(len(old), dtype=bool)
    for look, z in zip(paired.LOOKS, paired.INTERVAL_Z, strict=True):
        found, said = decided(old[:, :look], new[:, :look], dead[:, :look], look, rules)
        stops = going & ((found != OPEN) | (look == paired.LOOKS[-1]))
        lost = said.alarms["position"] & (found != IDENTICAL)
        kinds[stops] = np.where(lost, REGRESSED, found)[stops]
        for inside, level in ((covered, paired.tail(z)), (once, 0.025)):
            half = -special.stdtrit(said.df, level) * said.se
            inside[stops] = (np.abs(said.estimate - truth) <= half)[stops]
        asked[stops], going = look, going & ~stops
    return kinds, asked, covered, once


def at_once(old: Counts, new: Counts, dead: Flags, rules: Rules) -> Kinds:
    """The verdicts on all prompts at once, positions too."""
    found, said = decided(old, new, dead, None, rules)
    return np.where(said.alarms["position"] & (found != IDENTICAL), REGRESSED, found)


def passes(kinds: Kinds) -> Flags:
    """Whether a case passes without a warning."""
    return (kinds == IDENTICAL) | (kinds == OK) | (kinds == IMPROVED)


def drawn(pool: Pool, noise: Noise, loss: float, on: str, rng: Generator) -> tuple[Counts, Counts, Flags]:
    """Both sides, and which prompts the drafter is dead on: so many that they lose this on average."""
    m, size = paired.LOOKS[-1], BATCH
    old, new = draw(pool, noise, m, size, rng)
    if on == "dead prompts":
        gain = float(pool.first[..., 0].sum() / pool.first[..., 1].sum()) - 1
        dead = rng.random((size, m)) < loss / ((1 - loss) * gain)
        return old, dead_on(old, dead), dead
    lost = fail(new, 0, chance_of(pool, 0, loss), rng) if loss else new
    return old, lost, np.zeros((size, m), dtype=bool)


def sequential(found: Sequence[Pool], cells: int, rng: Generator, rules: Rules) -> list[dict[str, Any]]:
    """Cells of 80 prompts, measured a look at a time, and the same ones at once."""
    noises = [SAME, *(noise for noise in NOISES if noise.name in SCATTERED)]
    cases = [(noise, loss, "all prompts") for noise in noises for loss in LOSSES]
    cases += [(SAME, loss, "dead prompts") for loss in DEAD]
    rows: list[dict[str, Any]] = []
    for noise, loss, on in cases:
        able = [p for p in found if usable(p, noise) and (not loss or chance_of(p, 0, loss) <= 1)]
        sums: dict[str, list[float]] = {}
        for pool in able:
            for _ in range(math.ceil(cells / len(able) / BATCH)):
                old, new, dead = drawn(pool, noise, loss, on, rng)
                kinds, asked, covered, naive = stopped(old, new, dead, math.log1p(-loss), rules)
                once = at_once(old, new, dead, rules)
                values = {
                    "passes": passes(kinds),
                    "before 80": passes(kinds) & (asked < paired.LOOKS[-1]),
                    "of 56": passes(kinds) & (asked == paired.LOOKS[-2]),
                    "regressed": kinds == REGRESSED,
                    "prompts": asked,
                    "covered": covered,
                    "by one look's": naive,
                    "80 at once: passes": passes(once),
                    "regressed at once": once == REGRESSED,
                }
                if noise is SAME and loss:  # else nothing that was not asked could hide a loss
                    early = stopped(old, new, dead, 0.0, dataclasses.replace(rules, unasked=False))[0]
                    values["passes, unasked ignored"] = passes(early)
                for name, value in values.items():
                    sums.setdefault(name, []).append(float(value.mean()))
        made = BATCH * len(sums["passes"])
        means = {name: round(float(np.mean(each)), 5) for name, each in sums.items()}
        rows.append({"texts": noise.name, "loss": loss, "on": on, "cells": made, **means})
        say(f"{noise.name} {loss:.0%} {on}")
    return rows


def few_prompts(found: Sequence[Pool], cells: int, rng: Generator) -> list[dict[str, Any]]:
    """Cells of 120 prompts of the same text with a drafter that is dead on so many of them."""
    rows: list[dict[str, Any]] = []
    for drafter in ("eagle3r1", "ngram"):
        mine = [pool for pool in found if f"{drafter}-k4 T=0 " in pool.name]
        for count in FEW if mine else ():
            sums: dict[str, list[float]] = {}
            for pool in mine:
                for _ in range(math.ceil(cells / len(mine) / BATCH)):
                    old, _ = draw(pool, SAME, FEW_OF, BATCH, rng)
                    dead = np.zeros(old.shape[:2], dtype=bool)
                    dead[:, :count] = True
                    new = dead_on(old, dead)
                    now, before = (
                        at_once(old, new, dead, Rules(one_by_one=whole)) for whole in (True, False)
                    )
                    change = rate(new) / rate(old) - 1
                    lost = change <= -paired.MARGIN
                    values = {
                        "change": change,
                        "lost 2 %": lost,
                        "of them regressed": lost & (now == REGRESSED),
                        "by scatter alone": lost & (before == REGRESSED),
                    }
                    for name, value in values.items():
                        sums.setdefault(name, []).append(float(value.mean()))
            made = BATCH * len(sums["change"])
            means = {name: float(np.mean(each)) for name, each in sums.items()}
            for name in ("of them regressed", "by scatter alone"):
                means[name] /= means["lost 2 %"] or 1
            means = {name: round(value, 4) for name, value in means.items()}
            rows.append({"drafter": drafter, "dead on": f"{count} of {FEW_OF}", "cells": made, **means})
            say(f"{drafter} {count}")
    return rows


def main() -> int:
    """The command line."""
    parser = parser_of("looks", __doc__)
    parser.add_argument("--cells", type=positive, default=20_000, help="a row, about (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--ok-z", type=float, nargs=len(paired.LOOKS), default=paired.OK_Z, help="of `ok` at each look"
    )
    options = parser.parse_args()

    def job() -> dict[str, Any]:
        found, rng = pools(WHERE), np.random.default_rng(options.seed)
        tables = {
            "few prompts": few_prompts(found, options.cells, rng),
            "sequential": sequential(found, options.cells, rng, Rules(ok_z=options.ok_z)),
        }
        for title, rows in tables.items():
            print(f"\n{title}")
            print(tabulate(rows, headers="keys", tablefmt="plain"), flush=True)
        return {"seed": options.seed, "ok_z": list(options.ok_z), **tables}

    return carry_out(job)


if __name__ == "__main__":
    sys.exit(main())
