"""How often the gate is wrong, and what it sees, by simulation over real prompt records.

    python -m tests.perf.power [--quick] [--records FILE_OR_FOLDER ...]

Cells are drawn with replacement from the prompts of recorded ones. Two recordings of a cell with different
seeds make honest pairs, sides swapped at random so that nothing is lost: `sampled` takes the other seed's
record for every prompt, `diverged` for a share of them. Where a cell was recorded once, the record of another
prompt stands in, which scatters more (`stand-in`). A loss is made by letting accepted drafts fail at a
position, each with the same chance: the answer then ends that many tokens earlier, after as many steps.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import special
from tabulate import tabulate

from harness.errors import BadInput
from harness.judge.baselines import ANCHOR
from harness.judge.evidence import ALPHA_FEWER
from harness.measure.validity import countable
from harness.results.records import CellRecord, PromptRecord, load
from harness.stats import paired, planning
from harness.stats.acceptance import Tally
from tests.perf import ROOT, carry_out, parser_of, say

Counts = NDArray[np.int64]
"""(..., k + 3): tokens committed, decode steps, and verify steps by accepted tokens."""
Reals = NDArray[np.float64]
Flags = NDArray[np.bool_]

WHERE = (ROOT / "tests/data/recordings/bfloat16", ROOT / "tests/data/recordings")
SIZES = (8, 20, 40, 80, 120)
LOSSES = tuple(range(1, 11))
FIXED = 0.05
ENOUGH_PROMPTS = 40
BATCH = 1000
_ROUNDING = 1e-12
METHODS = ("gate", "primary", "position", "welch", "fixed", "fixed_position")
TITLES = ("gate", "of it primary", "of it positions", "Welch, unpaired", "5 %", "5 % a position")
ONE_CONDITION = "by conditional acceptance alone, %"
PLANNED = 0.03  # the loss that prompts are planned for


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pool:
    """The prompts of one recorded cell."""

    name: str
    first: Counts
    second: Counts | None
    """The same prompts with another seed; None where there is no such recording."""

    @property
    def k(self) -> int:
        """Draft tokens per step."""
        return int(self.first.shape[-1]) - 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noise:
    """How the second side of an honest pair differs from the first."""

    name: str
    share: float
    """Of the prompts that have another text."""
    seeds: bool
    """It is that of another seed; else of another prompt."""


NOISES = (
    Noise(name="identical", share=0.0, seeds=False),
    Noise(name="diverged 10 %", share=0.1, seeds=True),
    Noise(name="diverged 30 %", share=0.3, seeds=True),
    Noise(name="sampled", share=1.0, seeds=True),
    Noise(name="stand-in 10 %", share=0.1, seeds=False),
    Noise(name="stand-in 30 %", share=0.3, seeds=False),
    Noise(name="stand-in all", share=1.0, seeds=False),
)
SCATTERED = ("diverged 30 %", "sampled")
"""The kinds that differ by themselves, of those that have two recordings."""


def counts_of(records: Iterable[PromptRecord], k: int) -> list[int]:
    """A row of Counts: the records of one prompt, summed."""
    row = [0] * (k + 3)
    for record in records:
        tally: Tally = record.tally
        row[0] += tally.committed
        row[1] += tally.decode_steps
        for tokens, steps in enumerate(record.histogram):
            row[2 + tokens] += steps
    return row


def pools(paths: Sequence[Path]) -> list[Pool]:
    """What the cell files at `paths` hold, every seed of a cell beside the others.

    Raises:
        BadInput: no cell with a drafter and enough prompts.
        BadRecord: one cannot be trusted.
    """
    groups: dict[str, dict[str, dict[tuple[int, int], PromptRecord]]] = {}
    depth: dict[str, int] = {}
    for path in paths:
        for file in sorted(path.rglob("*.json")) if path.is_dir() else [path]:
            if file.name.endswith(ANCHOR) or file.name == "run.json":
                continue
            cell = load(file, CellRecord)
            if cell.cell.k and cell.valid:
                temperature = cell.identity.sampling.get("temperature", 0)
                name = f"{cell.cell} T={temperature:g} {cell.identity.max_tokens} tokens"
                depth[name] = cell.cell.k
                prompts = groups.setdefault(name, {})
                for r in filter(countable, cell.prompts):
                    # At T=0 a seed says nothing, and of several recordings the first one counts.
                    key = (r.seed, r.repeat) if temperature else (0, 0)
                    prompts.setdefault(r.prompt_hash, {}).setdefault(key, r)
    found = []
    for name, prompts in groups.items():
        if len(prompts) < ENOUGH_PROMPTS:
            continue
        seeds = [[group[key] for key in sorted(group)] for group in prompts.values()]
        both = [s for s in seeds if len(s) > 1]
        two = len(both) >= ENOUGH_PROMPTS
        sides = [np.array([counts_of(s[i : i + 1], depth[name]) for s in (both if two else seeds)])
                 for i in ((0, 1) if two else (0,))]  # fmt: skip
        found.append(Pool(name=name, first=sides[0], second=sides[1] if two else None))
    if not found:
        raise BadInput(f"no cell with a drafter and {ENOUGH_PROMPTS} prompts in {', '.join(map(str, paths))}")
    return found


def draw(pool: Pool, noise: Noise, m: int, cells: int, rng: Generator) -> tuple[Counts, Counts]:
    """Honest cells of m prompts, both sides: arrays (cells, m, k + 3)."""
    chosen = rng.integers(len(pool.first), size=(cells, m))
    old = pool.first[chosen]
    if noise.seeds and pool.second is not None:
        other = pool.second[chosen]
    else:
        other = pool.first[rng.integers(len(pool.first), size=(cells, m))]
    new = np.where((rng.random((cells, m)) < noise.share)[..., None], other, old)
    swapped = (rng.random((cells, m)) < 0.5)[..., None]
    return np.where(swapped, new, old), np.where(swapped, old, new)


def fail(counts: Counts, position: int, chance: float, rng: Generator) -> Counts:
    """The same with accepted drafts failing at `position`, each with this chance."""
    made = counts.copy()
    for tokens in range(position + 1, counts.shape[-1] - 2):
        gone = rng.binomial(counts[..., 2 + tokens], chance)
        made[..., 2 + tokens] -= gone
        made[..., 2 + position] += gone
        made[..., 0] -= gone * (tokens - position)
    return made


def chance_of(pool: Pool, position: int, loss: float) -> float:
    """The chance to fail at `position` that costs this share of tokens per step; above 1 there is none."""
    tokens = np.arange(pool.k + 1)
    both = pool.first if pool.second is None else np.concatenate([pool.first, pool.second])
    most = (both[:, 2:].sum(axis=0) * np.clip(tokens - position, 0, None)).sum()
    return float(loss * both[:, 0].sum() / most) if most else math.inf


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
    """What every method says of many cells."""

    estimate: Reals
    se: Reals
    df: Reals
    differing: Counts
    alarms: dict[str, Flags]
    """By METHODS; and `one_condition`, the gate if a position needed no fewer tokens per decode step."""


def judged(old: Counts, new: Counts) -> Judged:
    """`harness.judge.verdict.judge_pairs` on arrays, and what else is in use."""
    m = old.shape[1]
    estimate, se, df = log_ratio(old, new)
    differing = ((old[..., :2] != new[..., :2]).any(axis=-1)).sum(axis=1)
    enough = (differing >= paired.MIN_DIFFERING) | (m < paired.MIN_PROMPTS_POSITION)
    primary = enough & (_p_loss(estimate, se, df) <= paired.ALPHA_PRIMARY) & (estimate <= -paired.LOG_MARGIN)
    sides = [np.flip(np.flip(s[..., 2:], -1).cumsum(axis=-1), -1) for s in (old, new)]
    lost = alone = np.zeros(len(old), dtype=bool)
    if m >= paired.MIN_PROMPTS_POSITION:
        found = _positions(*sides, old[..., 1].astype(float), new[..., 1].astype(float))
        lost, alone = (enough & flags for flags in found)
    change = np.expm1(estimate)
    rates = [a.sum(axis=1)[:, 1:] / np.maximum(1, a.sum(axis=1)[:, :1]) for a in sides]
    return Judged(
        estimate=estimate,
        se=se,
        df=df,
        differing=differing,
        alarms={
            "gate": primary | lost,
            "primary": primary,
            "position": lost,
            "one_condition": primary | alone,
            "welch": _welch(old, new),
            "fixed": change <= -FIXED,
            "fixed_position": ((rates[1] <= (1 - FIXED) * rates[0]) & (rates[0] > 0)).any(axis=1),
        },
    )


def log_ratio(old: Counts | Reals, new: Counts | Reals) -> tuple[Reals, Reals, Reals]:
    """Estimates, their jackknife errors and degrees of freedom, as `paired_log_ratio` has them."""
    sides = [s[..., i].astype(float) for s in (old, new) for i in (0, 1)]
    total = [a.sum(axis=1, keepdims=True) for a in sides]
    x0, n0, x1, n1 = (t - a for t, a in zip(total, sides, strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        se = _jackknife(np.log(x1 * n0 / (x0 * n1)))
    estimate = np.log(total[2] * total[1] / (total[0] * total[3]))[:, 0]
    return estimate, se, _df(sides[1] + sides[3])


def _jackknife(without: Reals) -> Reals:
    """Of estimates without each prompt: (cells, m)."""
    m = without.shape[1]
    errors: Reals = np.sqrt((m - 1) / m * ((without - without.mean(axis=1, keepdims=True)) ** 2).sum(axis=1))
    return np.where(errors > _ROUNDING, errors, 0.0)


def _df(steps: Reals) -> Reals:
    shares: Reals = steps.sum(axis=1) ** 2 / (steps**2).sum(axis=1) - 1
    return shares


def _p_loss(estimate: Reals, se: Reals, df: Reals) -> Reals:
    with np.errstate(divide="ignore", invalid="ignore"):
        p: Reals = np.where(se > 0, special.stdtr(df, estimate / se), estimate >= 0)
    return p


def _positions(old: Counts, new: Counts, steps0: Reals, steps1: Reals) -> tuple[Flags, Flags]:
    """Whether a position was lost: by both of its conditions, and by conditional acceptance alone.

    Args:
        old: (cells, m, k + 1) verify steps that accepted at least j.
        new: of the other side.
        steps0: (cells, m) decode steps of the old side.
        steps1: of the new one.
    """
    ps, changes, given = [], [], []
    for j in range(1, old.shape[-1]):
        x0, n0, x1, n1 = (
            s[..., i].astype(float) for s, i in ((old, j), (old, j - 1), (new, j), (new, j - 1))
        )
        total = [a.sum(axis=1, keepdims=True) for a in (x0, n0, x1, n1)]
        trials = np.minimum(total[1], total[3])
        accepted, reached = total[0] + total[2], total[1] + total[3]
        events = trials * np.minimum(accepted, reached - accepted) >= paired.MIN_EVENTS * reached
        used = ((n0 > 0) | (n1 > 0)).sum(axis=1)
        differing = ((x0 != x1) | (n0 != n1)).sum(axis=1)
        tested = events[:, 0] & (trials[:, 0] > 0) & (differing >= paired.MIN_DIFFERING)
        tested = np.logical_and(tested, used >= paired.MIN_PROMPTS_POSITION)
        change, se, df = _difference(x0, n0, x1, n1)
        # Fewer tokens per decode step from this position and those behind it, too.
        tokens = (side[..., j:].sum(axis=-1).astype(float) for side in (old, new))
        fewer = _p_loss(*_difference(next(tokens), steps0, next(tokens), steps1)) <= ALPHA_FEWER
        ps.append(np.where(tested, _p_loss(change, se, df), np.inf))
        changes.append(np.where(tested, change, 0.0))
        given.append(fewer)
    p = np.stack(ps, axis=1)
    order = p.argsort(axis=1)
    left = np.isfinite(p).sum(axis=1, keepdims=True) - np.arange(p.shape[1])
    with np.errstate(invalid="ignore"):
        adjusted = np.maximum.accumulate(np.take_along_axis(p, order, axis=1) * np.maximum(left, 1), axis=1)
    material, fewer = (np.take_along_axis(np.stack(a, axis=1), order, axis=1) for a in (changes, given))
    alone = (adjusted <= paired.ALPHA_POSITION) & (material <= -paired.MARGIN_POSITION)
    return (alone & fewer).any(axis=1), alone.any(axis=1)


def _difference(x0: Reals, n0: Reals, x1: Reals, n1: Reals) -> tuple[Reals, Reals, Reals]:
    """`paired_difference` over arrays: prompts without a step on either side are none of its m."""
    total = [a.sum(axis=1, keepdims=True) for a in (x0, n0, x1, n1)]
    left = [t - a for t, a in zip(total, (x0, n0, x1, n1), strict=True)]
    used = (n0 > 0) | (n1 > 0)
    m = used.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        without = np.where(used, left[2] / left[3] - left[0] / left[1], 0.0)
        scatter = np.where(used, without - (without.sum(axis=1) / m)[:, np.newaxis], 0.0)
        se = np.sqrt((m - 1) / m * (scatter**2).sum(axis=1))
        change = (total[2] / total[3] - total[0] / total[1])[:, 0]
        return change, np.where(se > _ROUNDING, se, 0.0), _df(n0 + n1)


def _welch(old: Counts, new: Counts) -> Flags:
    """Unpaired, on tokens per step of each prompt, at the same alpha and margin."""
    values = [s[..., 0] / np.maximum(1, s[..., 1]) for s in (old, new)]
    m = old.shape[1]
    variances = [v.var(axis=1, ddof=1) / m for v in values]
    means = [v.mean(axis=1) for v in values]
    both = variances[0] + variances[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        df = both**2 * (m - 1) / (variances[0] ** 2 + variances[1] ** 2)
        p = special.stdtr(df, (means[1] - means[0]) / np.sqrt(both))
    flags: Flags = (p <= paired.ALPHA_PRIMARY) & (means[1] <= (1 - paired.MARGIN) * means[0])
    return flags


def usable(pool: Pool, noise: Noise) -> bool:
    """It can be made of this pool; a stand-in only where there is no second seed."""
    return noise.share == 0 or noise.seeds == (pool.second is not None)


def alarms(
    found: Sequence[Pool],
    noise: Noise,
    m: int,
    *,
    cells: int,
    rng: Generator,
    loss: tuple[int, float] | None = None,
) -> dict[str, Any] | None:
    """How many cells each method calls regressed, over all pools alike; None where no pool can have it.

    Args:
        found: the pools.
        noise: of the honest pairs.
        m: prompts a cell.
        cells: how many, at least.
        rng: source of chance.
        loss: a position (-1 is the deepest) and the share of tokens per step lost there; None for none.
    """
    hits = dict.fromkeys(METHODS, 0)
    worst, made, inside = 0.0, 0, 0
    able = []
    for pool in found:
        position = loss[0] % pool.k if loss else 0
        chance = chance_of(pool, position, loss[1]) if loss else 0.0
        if usable(pool, noise) and chance <= 1:
            able.append((pool, position, chance))
    for pool, position, chance in able:
        mine = np.zeros(len(METHODS), dtype=np.int64)
        share = math.ceil(cells / len(able))
        for size in [BATCH] * (share // BATCH) + [share % BATCH] * bool(share % BATCH):
            old, new = draw(pool, noise, m, size, rng)
            if chance:
                new = fail(new, position, chance, rng)
            said = judged(old, new)
            mine += [int(said.alarms[name].sum()) for name in METHODS]
            half = special.stdtrit(said.df, 0.975) * said.se
            truth = math.log1p(-loss[1]) if loss else 0.0
            inside += int((np.abs(said.estimate - truth) <= half).sum())
        for name, hit in zip(METHODS, mine, strict=True):
            hits[name] += int(hit)
        worst, made = max(worst, mine[0] / share), made + share
    return (
        {"cells": made, "alarms": hits, "worst": round(worst, 6), "covered": round(inside / made, 4)}
        if made
        else None
    )


def prompts_needed(
    pool: Pool, noise: Noise, rng: Generator, position: int = 0
) -> tuple[int | None, int | None] | None:
    """For a loss of 3 % with power 0.8: paired, and unpaired; from the scatter of a large resample."""
    loss = PLANNED
    chance = chance_of(pool, position, loss)
    if chance > 1:
        return None
    many = 20_000
    old, new = draw(pool, noise, many, 1, rng)
    new = fail(new, position, chance, rng)
    _, se, _ = log_ratio(old, new)
    still = np.ones_like(old)  # a side that never changes leaves the scatter of the other alone
    alone = [log_ratio(still, side)[1][0] for side in (old, new)]
    planned = [
        planning.prompts_to_settle(math.log1p(-loss), float(scatter), many, many - 1)
        for scatter in (se[0], math.hypot(*alone))
    ]
    return planned[0], planned[1]


def job(paths: Sequence[Path], cells: int, seed: int) -> dict[str, Any]:
    """All tables, and their figures.

    Raises:
        BadInput: see `pools`.
        BadRecord: see `pools`.
    """
    found = pools(paths)
    rng = np.random.default_rng(seed)
    for pool in found:
        seeds = "two seeds" if pool.second is not None else "one recording"
        print(f"{pool.name}: {len(pool.first)} prompts, {seeds}, tokens per step {_rate(pool.first):.2f}")
    noises = [noise for noise in NOISES if any(usable(pool, noise) for pool in found)]
    figures: dict[str, Any] = {"seed": seed, "pools": [pool.name for pool in found]}
    say("(a)")
    figures["a"] = coverage(found, noises, cells, rng)
    say("(b)")
    figures["b"] = false_alarms(found, noises, cells, rng)
    say("(c)")
    figures["c"] = power(found, noises, max(200, cells // 20), rng)
    say("(d)")
    figures["d"] = needed(found, noises, rng)
    say("(e)")
    figures["e"] = known_changes(found, max(200, cells // 20), rng)
    say("(f)")
    figures["f"] = came_back(max(200, cells // 20), rng)
    say("(g)")
    figures["g"] = ok_at_the_margin(found, max(200, cells // 20), rng)
    return figures


def _rate(counts: Counts) -> float:
    return float(counts[..., 0].sum() / counts[..., 1].sum())


def _show(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"\n{title}")
    print(tabulate(rows, headers=header, disable_numparse=True, stralign="right"), flush=True)


def coverage(
    found: Sequence[Pool], noises: Sequence[Noise], cells: int, rng: Generator
) -> list[dict[str, Any]]:
    """(a) Of the 95 % interval, around a true loss of 3 % at position 0."""
    figures = []
    for noise in noises:
        for m in SIZES:
            result = alarms(found, noise, m, cells=cells, rng=rng, loss=(0, PLANNED))
            if result:
                figures.append({"noise": noise.name, "m": m, "covered": result["covered"]})
    names = list(dict.fromkeys(f["noise"] for f in figures))
    rows = [[n, *(f"{100 * f['covered']:.1f}" for f in figures if f["noise"] == n)] for n in names]
    _show(
        f"(a) coverage of the 95 % interval, %, true loss 3 %, {cells} cells a row and m",
        ["other text", *(f"m={m}" for m in SIZES)],
        rows,
    )
    return figures


def false_alarms(
    found: Sequence[Pool], noises: Sequence[Noise], cells: int, rng: Generator
) -> list[dict[str, Any]]:
    """(b) In cells that lost nothing."""
    figures = []
    for noise in noises:
        for m in SIZES:
            result = alarms(found, noise, m, cells=cells, rng=rng)
            if result:
                figures.append({"noise": noise.name, "m": m, **result})
    rows = [
        [
            f["noise"],
            str(f["m"]),
            str(f["cells"]),
            *(f"{100 * f['alarms'][name] / f['cells']:.3f}" for name in METHODS),
            f"{100 * f['worst']:.3f}",
        ]
        for f in figures
    ]
    _show("(b) false alarms, % of cells", ["other text", "m", "cells", *TITLES, "gate, worst pool"], rows)
    return figures


def power(found: Sequence[Pool], noises: Sequence[Noise], cells: int, rng: Generator) -> list[dict[str, Any]]:
    """(c) Cells of 120 prompts that are called regressed, by what they truly lost."""
    figures = []
    for position, where in ((0, "position 0"), (-1, "the last position")):
        for noise in noises:
            for loss in LOSSES:
                result = alarms(found, noise, SIZES[-1], cells=cells, rng=rng, loss=(position, loss / 100))
                if result:
                    figures.append({"noise": noise.name, "at": where, "loss": loss, **result})
    rows = [
        [
            f["at"],
            f["noise"],
            f"{f['loss']} %",
            *(f"{100 * f['alarms'][n] / f['cells']:.1f}" for n in METHODS),
        ]
        for f in figures
    ]
    _show(
        f"(c) power over {SIZES[-1]} prompts, % of {cells} cells",
        ["lost at", "other text", "true loss", *TITLES],
        rows,
    )
    return figures


def needed(found: Sequence[Pool], noises: Sequence[Noise], rng: Generator) -> list[dict[str, Any]]:
    """(d) Prompts for a loss of 3 %."""
    figures = [
        {"pool": pool.name, "noise": noise.name, "paired": many[0], "unpaired": many[1]}
        for pool in found
        for noise in noises
        if usable(pool, noise) and (many := prompts_needed(pool, noise, rng))
    ]
    rows = [[str(value) for value in f.values()] for f in figures]
    header = ["cell", "other text", "paired", "unpaired"]
    _show(f"(d) prompts for a loss of {PLANNED:.0%} at position 0, found with power 0.8", header, rows)
    return figures


def known_changes(found: Sequence[Pool], cells: int, rng: Generator) -> list[dict[str, Any]]:
    """(e) The same text: a drafter that died from a position on, and one that got better.

    Better: a tenth of the steps that accepted nothing accept one token. Conditional acceptance falls then,
    since more steps reach the next position, and no cell may be called regressed.
    """
    figures: list[dict[str, Any]] = []
    for pool in found:
        for what in (*range(pool.k), "better"):
            old, _ = draw(pool, NOISES[0], SIZES[-1], cells, rng)
            if isinstance(what, int):
                new = fail(old, what, 1.0, rng)
            else:
                gained, new = rng.binomial(old[..., 2], 0.1), old.copy()
                for at, by in ((0, 1), (2, -1), (3, 1)):
                    new[..., at] += by * gained
            said = judged(old, new)
            red = {name: said.alarms[name] for name in ("gate", "one_condition")}
            values: dict[str, Any] = {"change": np.expm1(said.estimate), **red}
            means = {name: round(float(value.mean()), 4) for name, value in values.items()}
            figures.append({"pool": pool.name, "what": what, **means})
    rows = [
        [f["pool"], str(f["what"]), f"{100 * f['change']:+.1f}",
         *(f"{100 * f[name]:.1f}" for name in ("gate", "one_condition"))]
        for f in figures
    ]  # fmt: skip
    header = ["cell", "dead from position", "tokens per step, %", "regressed, %", ONE_CONDITION]
    _show(f"(e) known changes over {SIZES[-1]} prompts of the same text, {cells} cells a row", header, rows)
    return figures


def came_back(cells: int, rng: Generator) -> list[dict[str, Any]]:
    """(f) Positions that were dead and came back, from real runs: k = 2 stands for k = 4 with two dead ones.

    Easy text then takes fewer steps, so more of the steps are hard, and position 0 is accepted less often.
    """
    figures: list[dict[str, Any]] = []
    for place in ("chat-en", "chat-zh", "raw-en", "raw-zh"):
        dead, whole = (load(WHERE[0] / f"{place}-instruct-ngram-k{k}.json", CellRecord) for k in (2, 4))
        rows = [
            {r.prompt: counts_of([r], whole.cell.k) for r in filter(countable, side.prompts)}
            for side in (dead, whole)
        ]
        both = [np.array([side[prompt] for prompt in rows[0] if prompt in rows[1]]) for side in rows]
        chosen = rng.integers(len(both[0]), size=(cells, SIZES[-1]))
        back, died = (judged(both[i][chosen], both[1 - i][chosen]) for i in (0, 1))
        values = {
            "change": float(np.expm1(back.estimate).mean()),
            "before": float(both[0][:, 3:].sum() / both[0][:, 2:].sum()),
            "after": float(both[1][:, 3:].sum() / both[1][:, 2:].sum()),
            "red": float(back.alarms["gate"].mean()),
            "one_condition": float(back.alarms["one_condition"].mean()),
            "found": float(died.alarms["gate"].mean()),
        }
        figures.append({"cell": str(whole.cell), **{name: round(v, 4) for name, v in values.items()}})
    shown = [[f["cell"], *(f"{100 * value:.1f}" for value in list(f.values())[1:])] for f in figures]
    header = [
        "cell",
        "tokens per step, +%",
        "position 0 before, %",
        "after, %",
        "regressed, %",
        ONE_CONDITION,
        "regressed if they died, %",
    ]
    _show(f"(f) positions 2 and 3 came back, over {SIZES[-1]} prompts, {cells} cells a row", header, shown)
    return figures


def ok_at_the_margin(found: Sequence[Pool], cells: int, rng: Generator) -> list[dict[str, Any]]:
    """(g) Cells of the same text that lost just the margin at position 0, and are `ok` by their bound."""
    figures: list[dict[str, Any]] = []
    for pool in found:
        chance = chance_of(pool, 0, paired.MARGIN)
        for m in SIZES if chance <= 1 else ():
            old, _ = draw(pool, NOISES[0], m, cells, rng)
            estimate, se, df = log_ratio(old, fail(old, 0, chance, rng))
            for alpha in (paired.alpha_ok(m), paired.ALPHA_OK):
                bound = estimate - special.stdtrit(df, 1 - alpha) * se
                share = round(float((bound > -paired.LOG_MARGIN).mean()), 4)
                figures.append({"pool": pool.name, "m": m, "alpha": alpha, "ok": share})
    rows = []
    for name in dict.fromkeys(f["pool"] for f in figures):
        mine = [100 * f["ok"] for f in figures if f["pool"] == name]
        both = zip(mine[::2], mine[1::2], strict=True)
        rows.append([name, *(f"{ok:.1f} ({plain:.1f})" for ok, plain in both)])
    title = f"(g) ok at a loss of just 2 %, % of {cells} cells, and were alpha 5 % at every size"
    _show(title, ["cell", *(f"m={m}" for m in SIZES)], rows)
    return figures


def main() -> int:
    """The command line."""
    parser = parser_of("power", __doc__)
    parser.add_argument(
        "--records", type=Path, nargs="+", help="cell files or folders of them (the baselines and recordings)"
    )
    parser.add_argument("--quick", action="store_true", help="a fifth of the cells: about a minute")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    paths = options.records or [path for path in WHERE if path.exists()]
    return carry_out(lambda: job(paths, 20_000 if options.quick else 100_000, options.seed))


if __name__ == "__main__":
    sys.exit(main())
