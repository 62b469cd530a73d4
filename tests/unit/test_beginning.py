"""Where texts part, the verdict rests on the beginning that both sides share."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray

from harness.cli import main
from harness.judge.beginning import beginning_of
from harness.judge.pairing import pair
from harness.judge.verdict import Unsettled, Verdict, judge
from harness.report.run_table import verdict_report
from harness.results.records import CellRecord, load
from harness.stats.same_text import common_tokens, steps_within
from tests.factories.records import prompt_record
from tests.factories.runs import write_cell
from tests.factories.simulated import (
    IDENTITY,
    PROMPTS,
    SAMPLED,
    TOKENS,
    WEAK,
    Table,
    cell,
    dead_from,
    drafter,
    parted,
    silent,
    worse,
)
from tests.perf import parted as parted_cells

Parts = NDArray[np.int64]
Recorded = tuple[parted_cells.Steps, NDArray[np.float64]]


def where(seed: int, *, prompts: int = PROMPTS, mean: int = 43) -> Parts:
    """Tokens at which texts part: many early, some never."""
    drawn = np.random.default_rng(seed).geometric(1 / mean, size=prompts)
    return np.minimum(1 + drawn, TOKENS)


def both(old: Table, new: Table, seed: int) -> Verdict:
    """Of two sides whose texts part."""
    parts = where(seed, prompts=len(old))
    other = drafter(seed + 1000, prompts=len(old))
    return judge(cell(old, text="a", parts=parts), cell(parted(new, other, parts), text="b", parts=parts))


@pytest.mark.parametrize(
    ("old", "new", "common"),
    [((), (), 0), ((1, 2), (1, 2), 2), ((1, 2), (1, 2, 3), 2), ((1, 2, 3), (1, 9, 3), 1), ((7,), (8, 7), 0)],
)
def test_texts_are_common_up_to_the_first_token_that_differs(
    old: tuple[int, ...], new: tuple[int, ...], common: int
) -> None:
    assert common_tokens(old, new) == common


@pytest.mark.parametrize(
    ("tokens", "steps"), [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (6, 2), (7, 3), (99, 3)]
)
def test_a_step_counts_that_ends_before_the_texts_part(tokens: int, steps: int) -> None:
    # The first token, one, one without a draft, and four.
    assert steps_within((0, -1, 3), tokens) == steps


def test_a_beginning_is_a_record_of_its_steps() -> None:
    # Tokens: 1, then steps of 1, 1, 4, 4, 1 (no draft), 2, 5, 1 (no draft).
    old = prompt_record(steps=(1, 1, 4, 4, 1, 2, 5, 1), token_ids=range(20))
    new = old.model_copy(update={"token_ids": (*range(12), 99, *range(13, 20)), "text_hash": "other"})

    cut = beginning_of((old,), (new,))

    assert cut is not None
    (first,), (second,) = cut
    assert first.accepted == second.accepted == (0, 0, 3, 3)
    assert (first.histogram, first.undrafted) == ((2, 0, 0, 2, 0), 1)
    assert (first.tally.committed, first.tally.decode_steps) == (11, 5)
    assert first.text_hash == second.text_hash


def test_of_the_same_text_nothing_is_cut() -> None:
    old = prompt_record(output_tokens=19, token_ids=range(19))
    new = old.model_copy(update={"token_ids": None})
    assert beginning_of((old,), (old,)) == ((old,), (old,))
    assert beginning_of((new,), (old,)) == ((new,), (old,))


@pytest.mark.parametrize("lacks", [{"token_ids": None}, {"steps": None}, {"accepted": None, "drafted": None}])
def test_a_record_that_does_not_say_where_it_parts_has_no_beginning(lacks: dict[str, None]) -> None:
    old = prompt_record(steps=(1, 1, 4, 4, 1, 2, 5, 1), token_ids=range(20))
    new = old.model_copy(update={"token_ids": (*range(12), 99, *range(13, 20)), "text_hash": "other"})
    assert beginning_of((old,), (new.model_copy(update=lacks),)) is None
    assert beginning_of((old.model_copy(update=lacks),), (new,)) is None


def test_the_same_drafter_on_another_machine_is_ok_on_the_common_beginning() -> None:
    verdict = both(drafter(1), drafter(1), 1)
    assert verdict.kind == "ok"
    assert verdict.change == 0
    assert verdict.share == pytest.approx(0.4, abs=0.05)
    assert f"{verdict.share:.0%}" in verdict.text
    assert "2.9%" in verdict.text  # what may hide
    assert verdict.whole is not None
    assert verdict.whole.se > 0.01
    assert len(verdict.notes) == 1


def test_without_the_beginnings_it_would_be_inconclusive() -> None:
    parts = where(1)
    new = parted(drafter(1), drafter(1001), parts)
    assert judge(cell(drafter(1), text="a"), cell(new, text="b")).kind == "inconclusive"


def test_a_loss_of_a_twentieth_is_found_there() -> None:
    verdict = both(drafter(2), worse(drafter(2), 0.1), 2)
    assert verdict.kind == "regressed"
    assert verdict.whole is not None
    assert verdict.whole.p_loss() > 0.0008


def test_positions_and_prompts_are_judged_there_too() -> None:
    dead = both(drafter(3), dead_from(drafter(3), 3), 3)
    assert [position.index for position in dead.positions if position.lost] == [3]
    table = drafter(4)
    broken = table.copy()
    broken[:9] = 0
    found = both(table, broken, 4)
    assert found.kind == "regressed"
    assert set(found.broken) <= {f"instruct-{i:03}" for i in range(9)}
    assert len(found.broken) >= 5


def test_one_that_seldom_drafts_is_compared_where_its_steps_are_placed() -> None:
    table = silent(drafter(5, (0.9,) * 4), below=3)
    assert both(table, table, 5).change == 0


def test_a_drafter_that_dies_after_the_texts_part_is_still_regressed() -> None:
    """No guard is lost: whole answers keep a part of alpha."""
    parts = where(6)
    new = parted(drafter(6), np.zeros_like(drafter(6)), parts)
    verdict = judge(cell(drafter(6), text="a", parts=parts), cell(new, text="b", parts=parts))
    assert verdict.kind == "regressed"
    assert verdict.change == pytest.approx(0, abs=0.01)
    assert verdict.whole is not None
    assert f"{1 - np.exp(verdict.whole.estimate):.1%}" in verdict.text
    assert verdict.p is not None
    assert verdict.p <= 0.0012


@pytest.mark.parametrize("seed", range(5))
def test_among_few_prompts_a_drafter_that_gets_worse_after_the_texts_part_is_not_ok(seed: int) -> None:
    """Their beginnings are the same, and twenty whole answers are too few for what is left of alpha."""
    parts, table = np.full(20, 48), drafter(seed, WEAK, prompts=20)
    new = parted(table, worse(drafter(seed + 100, WEAK, prompts=20), 0.5), parts)
    verdict = judge(cell(table, text="a", parts=parts), cell(new, text="b", parts=parts))
    assert verdict.primary is not None
    assert verdict.primary.identical
    assert verdict.fails or verdict.unsettled == Unsettled(rule="later")


@pytest.mark.parametrize(
    "changes",
    [
        {"identity": SAMPLED},
        {"identity": IDENTITY | {"sampling": {}}},
    ],
    ids=["sampled", "temperature not known"],
)
def test_where_chance_decides_where_texts_part_whole_answers_are_compared(changes: dict[str, object]) -> None:
    parts = where(7)
    new = cell(parted(drafter(7), drafter(8), parts), text="b", parts=parts, **changes)
    assert judge(cell(drafter(7), text="a", parts=parts, **changes), new).share is None


def test_between_two_drafters_or_two_quantizations_whole_answers_are_compared() -> None:
    parts = where(8)
    old = cell(drafter(8), text="a", parts=parts)
    new = cell(parted(drafter(8), drafter(9), parts), text="b", parts=parts)
    named = new.model_copy(update={"cell": new.cell.model_copy(update={"drafter": "other"})})
    assert judge(old, named).share is None
    other = new.model_copy(update={"identity": new.identity.model_copy(update={"quantization": "awq"})})
    assert judge(old, other, across={"quantization"}).share is None
    assert judge(old, new).share is not None


def test_records_that_do_not_say_where_texts_part_are_compared_whole_and_say_so() -> None:
    parts = where(9)
    old = cell(drafter(9), text="a", parts=parts)
    new = cell(parted(drafter(9), drafter(10), parts), text="b")
    verdict = judge(old, new)
    assert verdict.share is None
    assert ["120 of 120" in note for note in verdict.notes] == [True]


def test_a_few_that_do_not_say_it_are_left_out() -> None:
    parts = where(10)
    old = cell(drafter(10), text="a", parts=parts)
    new = cell(parted(drafter(10), drafter(11), parts), text="b", parts=parts)
    prompts = [p.model_copy(update={"token_ids": None}) if i < 12 else p for i, p in enumerate(new.prompts)]
    verdict = judge(old, new.model_copy(update={"prompts": tuple(prompts)}))
    assert (verdict.prompts, verdict.kind) == (108, "ok")
    assert ["12 " in note for note in verdict.notes] == [True, False]


def test_beginnings_that_are_too_short_say_nothing() -> None:
    parts = np.full(PROMPTS, 9)
    old = cell(drafter(11), text="a", parts=parts)
    verdict = judge(old, cell(parted(drafter(11), drafter(12), parts), text="b", parts=parts))
    assert verdict.share is None
    assert len(verdict.notes) == 1


def test_among_few_prompts_some_may_part_before_the_first_step_ends() -> None:
    parts = np.array([1, 2, 60, 70, 80, 90, 96, 96])
    table = drafter(12, prompts=8)
    old = cell(table, text="a", parts=parts)
    new = cell(parted(table, drafter(13, prompts=8), parts), text="b", parts=parts)
    verdict = judge(old, new)
    assert (verdict.kind, verdict.prompts) == ("ok", 8)
    assert verdict.share is not None


def test_the_texts_alone_decide_what_is_compared() -> None:
    """Not what the steps show: a second look would cost certainty."""
    parts = where(13)
    old = cell(drafter(13), text="a", parts=parts)
    for table in (drafter(13), worse(drafter(13), 0.5)):
        new = cell(parted(table, drafter(14), parts), text="b", parts=parts)
        assert pair(old, new).judged.share is not None


@pytest.mark.parametrize("mean", [35, 60])
def test_cutting_costs_both_sides_the_same(mean: int) -> None:
    """A loss is as large on the beginnings as it is on whole answers of the same text."""
    changes = []
    for seed in range(8):
        table = drafter(seed)
        less = worse(table, 0.1, seed=seed + 50)
        parts = where(seed, mean=mean)
        new = cell(parted(less, drafter(seed + 500), parts), text="b", parts=parts)
        verdict = judge(cell(table, text="a", parts=parts), new)
        whole = judge(cell(table), cell(less))
        assert verdict.primary is not None
        assert whole.primary is not None
        changes.append(verdict.primary.estimate - whole.primary.estimate)
    assert np.mean(changes) == pytest.approx(0, abs=0.004)


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    """The steps of a recorded drafter, and where the texts of two kinds of CPU parted."""
    at = parted_cells.RECORDINGS
    record = load(at / "bfloat16/chat-en-instruct-eagle3r1-k4.json", CellRecord)
    sides = [load(at / side / parted_cells.CELL, CellRecord) for side in ("bfloat16", "isa")]
    return parted_cells.steps_of(record), parted_cells.parting(*sides)


def judged(recorded: Recorded, m: int, loss: float) -> dict[str, float]:
    """Shares of 1,000 cells drawn from those records."""
    steps, shares = recorded
    chance = parted_cells.chance_of(steps, loss)
    rng = np.random.default_rng(m)
    found = [
        parted_cells.verdicts(*parted_cells.draw(steps, shares, m=m, cells=200, chance=chance, k=4, rng=rng))
        for _ in range(5)
    ]
    return {name: float(np.mean([f[name] for f in found])) for name in found[0]}


@pytest.mark.parametrize("m", parted_cells.SIZES)
def test_of_cells_whose_texts_part_one_in_a_thousand_is_called_regressed(recorded: Recorded, m: int) -> None:
    same = judged(recorded, m, 0.0)
    assert same["red"] * 1000 <= scipy.stats.binom.ppf(0.999, 1000, 0.001)
    assert same["ok"] > 3 * same["whole ok"] or same["ok"] > 0.99


def test_what_the_beginnings_find_and_whole_answers_do_not(
    recorded: Recorded,
) -> None:
    lost = judged(recorded, 120, 0.03)
    assert lost["red"] > 0.95
    assert lost["whole red"] < 0.3
    assert lost["ok"] < 0.01
    assert judged(recorded, 8, 0.02)["ok"] < 0.1


def test_the_simulation_cuts_as_the_gate_does() -> None:
    table = drafter(5)
    parts = where(5)
    old = cell(table, text="a", parts=parts)
    new = cell(parted(table, drafter(6), parts), text="b", parts=parts)
    steps = parted_cells.steps_of(old)
    cut = parted_cells.counts_of(steps, parts, 4)
    begun = pair(old, new).judged.tallies[0]
    assert cut[:, 0].tolist() == begun.committed.tolist()
    assert cut[:, 1].tolist() == begun.decode_steps.tolist()


def test_tables_and_exports_say_what_was_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = where(1)
    old = cell(drafter(1), text="a", parts=parts)
    new = cell(parted(drafter(1), drafter(1001), parts), text="b", parts=parts)
    sides = [str(write_cell(tmp_path / name, side)) for name, side in (("a", old), ("b", new))]
    verdict = judge(old, new)
    [note], whole = verdict.notes, verdict.whole
    assert whole is not None
    assert "39%" in note
    assert f"{whole.r0:.2f} -> {whole.r1:.2f}" in note
    assert note in verdict_report([(new, verdict)])
    assert main(["compare", *sides]) == 0
    assert note in capsys.readouterr().out
    main(["compare", *sides, "--format", "json"])
    [against] = json.loads(capsys.readouterr().out)["cells"][0]["against"]
    assert against["common_beginning"] == pytest.approx(0.389, abs=0.001)
    assert against["whole_answers"]["r0"] > against["tokens_per_step"][0]
