"""The method's promises, on cells drawn from recorded prompts; at length: `python -m tests.perf.power`."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from harness.errors import BadInput
from harness.judge.pairing import Pairs
from harness.judge.verdict import judge, judge_pairs
from harness.results.records import PromptRecord, dump_cell
from harness.stats import paired
from tests.factories.records import prompt_record
from tests.factories.simulated import SAMPLED, cell, dead_from, drafter
from tests.perf import ROOT, looks, power
from tests.perf.power import NOISES, Counts, Pool

GATE = ROOT / "tests/data/recordings/bfloat16"
CELLS = 4000
SAME, *_, ALL = NOISES
SOME = next(noise for noise in NOISES if noise.name == "stand-in 30 %")


@pytest.fixture(scope="module")
def recorded() -> list[Pool]:
    return power.pools([GATE / f"chat-{language}-instruct-ngram-k4.json" for language in ("en", "zh")])


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def as_record(row: Counts) -> PromptRecord:
    """A prompt with these sums."""
    committed, steps, *histogram = map(int, row)
    return prompt_record(
        accepted=None,
        drafted=None,
        histogram=tuple(histogram),
        undrafted=steps - sum(histogram),
        output_tokens=committed + 1,
        finish="stop",
    )


def test_the_bound_on_alarms_is_that_of_the_method() -> None:
    assert scipy.stats.binom.ppf(0.999, 20_000, 0.001) in (34, 35)


@pytest.mark.parametrize("m", power.SIZES)
@pytest.mark.parametrize("loss", [0.0, 0.04])
def test_the_simulation_judges_as_the_gate_does(recorded: list[Pool], m: int, loss: float) -> None:
    kinds: set[tuple[bool, bool]] = set()
    for number, pool in enumerate(recorded):
        for noise in (SAME, SOME, ALL):
            old, new = power.draw(pool, noise, m, 4, rng(number))
            if loss:
                new = power.fail(new, 1, power.chance_of(pool, 1, loss), rng(number + 10))
            said = power.judged(old, new)
            for i in range(len(old)):
                sides = ([as_record(row) for row in side[i]] for side in (old, new))
                pairs = Pairs(prompts=tuple(((a,), (b,)) for a, b in zip(*sides, strict=True)), notes=())
                verdict = judge_pairs(pairs)
                assert verdict.primary is not None
                assert said.estimate[i] == pytest.approx(verdict.primary.estimate, abs=1e-12)
                assert said.se[i] == pytest.approx(verdict.primary.se, abs=1e-12)
                lost = any(p.lost for p in verdict.positions)
                assert (said.alarms["gate"][i], said.alarms["position"][i]) == (
                    verdict.kind == "regressed",
                    lost,
                )
                kinds.add((verdict.kind == "regressed", lost))
    assert len(kinds) > (m >= paired.MIN_PROMPTS_POSITION and loss > 0)


KINDS = {"inconclusive": looks.OPEN, "identical": looks.IDENTICAL, "regressed": looks.REGRESSED,
         "improved": looks.IMPROVED, "ok": looks.OK}  # fmt: skip


@pytest.mark.parametrize("look", [None, *paired.LOOKS])
def test_and_at_every_look(recorded: list[Pool], look: int | None) -> None:
    kinds: set[str] = set()
    for number, (pool, noise) in enumerate(itertools.product(recorded, (SAME, SOME, ALL))):
        old, new = power.draw(pool, noise, look or 120, 3, rng(number))
        none = np.zeros(old.shape[:2], dtype=bool)
        for loss in (0.0, 0.05, 0.1):
            worse = power.fail(new, 0, power.chance_of(pool, 0, loss), rng(number)) if loss else new
            said, _ = looks.decided(old, worse, none, look, looks.Rules())
            for i in range(len(old)):
                sides = ([as_record(row) for row in side[i]] for side in (old, worse))
                pairs = Pairs(prompts=tuple(((a,), (b,)) for a, b in zip(*sides, strict=True)), notes=())
                verdict = judge_pairs(pairs, look=look, test_positions=False)
                kinds.add(verdict.kind)
                assert said[i] == KINDS[verdict.kind]
    assert len(kinds) >= 2


def test_and_of_drafters_that_are_dead_on_some_prompts() -> None:
    """Steps of the same text, as the records of a real drafter have them."""
    table = drafter(31, prompts=80)
    whole = cell(table)
    k = whole.cell.k
    for count in (0, 1, 3, 9):
        lost = cell(np.concatenate([dead_from(table[:count], 0), table[count:]]))
        old, new = (np.array([[power.counts_of([r], k) for r in side.prompts]]) for side in (whole, lost))
        dead = np.arange(80)[np.newaxis] < count
        said, _ = looks.decided(old, new, dead, 80, looks.Rules())
        verdict = judge(whole, lost.model_copy(update={"stopped_at": 80}), positions=False)
        assert said[0] == KINDS[verdict.kind]
        assert int(looks.broken(old, dead).sum()) == len(verdict.broken)
        assert looks.dead_on(old, dead)[..., 1] == pytest.approx(new[..., 1], abs=5)


@pytest.mark.parametrize("m", power.SIZES)
@pytest.mark.parametrize("noise", [SAME, SOME, ALL], ids=lambda noise: str(noise.name))
def test_a_cell_that_lost_nothing_is_called_regressed_once_in_a_thousand(
    recorded: list[Pool], noise: power.Noise, m: int
) -> None:
    result = power.alarms(recorded, noise, m, cells=CELLS, rng=rng(m))
    assert result is not None
    assert result["alarms"]["gate"] <= scipy.stats.binom.ppf(0.999, result["cells"], 0.001)


@pytest.mark.parametrize(("noise", "m"), [(ALL, 8), (ALL, 20), (ALL, 120), (SAME, 80), (SAME, 120)])
def test_the_interval_covers_what_was_lost(recorded: list[Pool], noise: power.Noise, m: int) -> None:
    """94.5 to 95.7 %, as far as so many cells can tell."""
    result = power.alarms(recorded, noise, m, cells=CELLS, rng=rng(m), loss=(0, 0.03))
    assert result is not None
    low, high = (scipy.stats.binom.ppf(q, result["cells"], p) for q, p in ((0.001, 0.945), (0.999, 0.957)))
    assert low <= result["covered"] * result["cells"] <= high


def test_what_the_gate_sees_and_the_others_do_not(recorded: list[Pool]) -> None:
    found = power.alarms(recorded, SAME, 120, cells=400, rng=rng(1), loss=(0, 0.03))
    assert found is not None
    assert found["alarms"]["gate"] >= 0.95 * found["cells"]
    assert found["alarms"]["welch"] == found["alarms"]["fixed"] == 0
    honest = power.alarms(recorded, SOME, 120, cells=1000, rng=rng(1))
    assert honest is not None
    assert honest["alarms"]["fixed_position"] > 0.03 * honest["cells"]
    assert honest["alarms"]["gate"] <= 4


@pytest.mark.parametrize("position", [0, 3])
def test_a_loss_is_as_large_as_it_is_said_to_be(recorded: list[Pool], position: int) -> None:
    for pool in recorded:
        chance = power.chance_of(pool, position, 0.01)
        whole = np.repeat(pool.first[np.newaxis], 3000, axis=0)
        lost = power.fail(whole, position, chance, rng(1))
        assert lost[..., 0].sum() / whole[..., 0].sum() == pytest.approx(0.99, abs=1e-4)
        assert (lost[..., 2:].sum(axis=-1) == whole[..., 2:].sum(axis=-1)).all()
        assert (lost[..., 1] == whole[..., 1]).all()


def test_two_recordings_with_other_seeds_make_an_honest_pair(tmp_path: Path) -> None:
    for seed in (1, 2):
        record = cell(drafter(seed, prompts=60), identity=SAMPLED, seed=seed)
        (tmp_path / f"{seed}.json").write_text(dump_cell(record), encoding="utf-8")
    [pool] = power.pools([tmp_path])
    assert pool.second is not None
    assert pool.first.shape == pool.second.shape == (60, 7)
    assert (pool.first != pool.second).any()
    names = [noise.name for noise in NOISES if power.usable(pool, noise)]
    assert names == ["identical", "diverged 10 %", "diverged 30 %", "sampled"]
    old, new = power.draw(pool, NOISES[3], 60, 50, rng(1))
    assert np.log(new[..., 0].mean() / old[..., 0].mean()) == pytest.approx(0, abs=0.01)


def test_without_a_second_seed_another_prompt_stands_in(tmp_path: Path) -> None:
    record = cell(drafter(1, prompts=60))
    for name in ("one", "two"):
        (tmp_path / f"{name}.json").write_text(dump_cell(record), encoding="utf-8")
    [pool] = power.pools([tmp_path])
    assert pool.second is None
    names = [noise.name for noise in NOISES if power.usable(pool, noise)]
    assert names == ["identical", "stand-in 10 %", "stand-in 30 %", "stand-in all"]


def test_nothing_to_draw_from_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no cell with a drafter and 40 prompts in"):
        power.pools([tmp_path])
