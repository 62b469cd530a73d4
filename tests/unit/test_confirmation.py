"""A second look at a regressed cell: do other prompts show the same loss?"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from harness.config.stack import Profile
from harness.errors import BadInput
from harness.judge.baselines import ANCHOR, beside, find, move_anchor, reserve_of, store
from harness.judge.collect import collect
from harness.judge.compare import compare
from harness.judge.confirmation import confirmed
from harness.judge.verdict import Verdict, judge
from harness.results.records import CellRecord, dump_cell, load
from harness.suites import acceptance
from tests.factories import runs
from tests.factories.benches import bench
from tests.factories.simulated import HARD, WEAK, Table, cell, dead_from, drafter, some, worse

FIRST, RESERVE = drafter(1), drafter(2)
LOSS = judge(cell(FIRST), cell(worse(FIRST, 0.2), text="other"))
SUITE = "acceptance/reserve"


def changed(table: Table, *at: int) -> Table:
    """The same, but the prompts `at` lost all their drafts."""
    made = table.copy()
    made[list(at)] = 0
    return made


def fails_late(table: Table) -> Table:
    """The same, but 7 % of the drafts fail at their first token from token 1000 on."""
    failed = np.random.default_rng(5).random(table.shape) < 0.07
    failed[:, :1000] = False
    return np.where(failed & (table > 0), 0, table)


def second(old: CellRecord, new: CellRecord, first: Verdict = LOSS) -> Verdict:
    assert first.confirmable
    return confirmed(first, old, new)


# Tokens per step


def test_a_loss_that_other_prompts_show_too_is_confirmed() -> None:
    found = second(cell(RESERVE), cell(worse(RESERVE, 0.2), text="other"))

    assert LOSS.loss == "tokens"
    assert found.kind == "regressed"
    assert found.confirmation is not None
    assert found.confirmation < 0.001
    assert found.primary == LOSS.primary


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(RESERVE, RESERVE, id="the same again"),
        pytest.param(worse(RESERVE, 0.2), RESERVE, id="a gain"),
        pytest.param(RESERVE, drafter(3), id="scatter"),
    ],
)
def test_a_loss_that_other_prompts_do_not_show_warns(old: Table, new: Table) -> None:
    found = second(cell(old), cell(new, text="other"))

    assert found.kind == "inconclusive"
    assert not found.fails
    assert found.unsettled
    assert found.unsettled.rule == "unconfirmed"
    assert found.confirmation is not None
    assert found.confirmation > 0.05


def test_few_prompts_that_differ_confirm_no_more_than_their_signs_do() -> None:
    """Three that lost, of 120: a t of them gives 0.04, their signs 1/8. Five give 1/32."""
    three, five = (
        second(cell(RESERVE), cell(changed(RESERVE, *range(count)), text="other")) for count in (3, 5)
    )

    assert (three.kind, three.confirmation) == ("inconclusive", 0.125)
    assert (five.kind, five.confirmation) == ("regressed", 0.03125)


# A position


DIED = judge(cell(drafter(1, WEAK)), cell(dead_from(drafter(1, WEAK), 3)))


def test_a_lost_position_is_confirmed_at_that_position() -> None:
    weak = drafter(2, WEAK)
    found = second(cell(weak), cell(dead_from(weak, 3)), DIED)
    at_another = second(cell(weak), cell(dead_from(weak, 2)), DIED)
    nowhere = second(cell(weak), cell(weak), DIED)

    assert DIED.loss == "position"
    assert [p.index for p in DIED.positions if p.lost] == [3]
    assert found.kind == "regressed"
    assert at_another.kind == nowhere.kind == "inconclusive"
    assert nowhere.confirmation == 1.0


@pytest.mark.parametrize("prompts", [12, 19, 30])
def test_a_reserve_that_is_smaller_than_the_first_look_confirms_a_dead_position_too(prompts: int) -> None:
    weak = drafter(2, WEAK)
    dead, same = (some(cell(table), prompts) for table in (dead_from(weak, 3), weak))

    assert second(same, dead, DIED).kind == "regressed"
    assert second(same, same, DIED).kind == "inconclusive"


@pytest.mark.parametrize(("surest", "kind"), [(3, "regressed"), (1, "inconclusive"), (2, "inconclusive")])
def test_of_several_lost_positions_the_surest_is_looked_at(surest: int, kind: str) -> None:
    """On the other prompts position 3 alone is dead."""
    positions = [
        dataclasses.replace(p, lost=p.index > 0, p=1e-6 if p.index == surest else 1e-3)
        for p in DIED.positions
    ]
    for order in (positions, positions[::-1]):
        first = dataclasses.replace(DIED, positions=tuple(order))
        weak = drafter(2, WEAK)
        assert second(cell(weak), cell(dead_from(weak, 3)), first).kind == kind


def test_a_position_that_gives_as_many_tokens_as_before_confirms_nothing() -> None:
    """Its conditional acceptance fell, since a better drafter reaches it in harder steps."""
    weak = drafter(2, WEAK)
    shy = np.where(weak < 3, 0, weak)  # reaches position 3 only where it accepts it
    found = second(cell(shy), cell(np.where(weak == 0, 3, weak)), DIED)

    assert found.kind == "inconclusive"


def test_a_late_loss_is_confirmed_where_it_was_seen() -> None:
    """The loss is inside the margin of the whole answer: only the last tokens show it."""
    old, again = (drafter(seed, prompts=12, tokens=2000) for seed in (1, 2))
    first = judge(cell(old), cell(fails_late(old), text="other"))
    found = second(cell(again), cell(fails_late(again), text="other"), first)
    well = second(cell(again), cell(again), first)
    fails_early = np.concatenate([worse(again, 0.3)[:, :100], again[:, 100:]], axis=1)
    early = second(cell(again), cell(fails_early, text="other"), first)

    assert first.loss == "stretch"
    assert found.kind == "regressed"
    assert well.kind == early.kind == "inconclusive"


# What needs no second look, and what cannot have one


def test_prompts_that_broke_need_no_second_look() -> None:
    found = judge(cell(FIRST), cell(changed(FIRST, *range(9))))

    assert (found.kind, found.loss) == ("regressed", "prompts")
    assert not found.confirmable


@pytest.mark.parametrize(
    "new", [cell(RESERVE, findings=(HARD,)), some(cell(RESERVE), 60), some(cell(RESERVE), 0)]
)
def test_a_reserve_that_cannot_be_compared_leaves_the_cell_red(new: CellRecord) -> None:
    found = second(cell(RESERVE), new)

    assert (found.kind, found.confirmation) == ("regressed", None)
    assert "not confirmed" in found.text


# Where it lies


def reserve(worse: int = 0, **changes: object) -> CellRecord:
    record = runs.cell(worse=worse, suite=SUITE, **changes)  # type: ignore[arg-type]
    prompts = (p.model_copy(update={"prompt": f"r-{p.prompt}", "prompt_hash": f"r{p.prompt_hash}"})
               for p in record.prompts)  # fmt: skip
    return record.model_copy(update={"prompts": tuple(prompts)})


def test_a_reserve_is_read_back_and_a_record_without_one_is_written_as_ever(tmp_path: Path) -> None:
    path = store(tmp_path, runs.cell(), reserve=reserve())
    written = load(path, CellRecord)
    found = reserve_of(path, written)

    assert found is not None
    assert [p.prompt for p in found.prompts] == [p.prompt for p in reserve().prompts]
    assert not found.reserve
    assert '"reserve"' not in dump_cell(runs.cell())
    assert reserve_of(store(tmp_path / "none", runs.cell()), runs.cell()) is None


def test_a_new_baseline_without_a_reserve_keeps_none_of_an_older_one(tmp_path: Path) -> None:
    store(tmp_path, runs.cell(), reserve=reserve())
    path = store(tmp_path, runs.cell(worse=1))

    old, anchor = find(tmp_path, runs.cell()), runs.anchor(tmp_path, runs.cell())
    assert old is not None
    assert anchor is not None
    assert not old.reserve
    assert anchor.reserve  # that of the baseline that it was

    move_anchor(path, "smaller drafter")
    assert not load(path.with_suffix(ANCHOR), CellRecord).reserve


def test_a_reserve_that_is_no_measurement_makes_no_baseline(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        store(tmp_path, runs.cell(), reserve=reserve(findings=(HARD,)))

    assert caught.value.code == "not-a-baseline"
    assert not list(tmp_path.rglob("*.json"))


# Baselines, anchors, comparisons


def outcome(folder: Path, record: CellRecord, again: CellRecord | None) -> Verdict:
    """The verdict on a run that measured `record`, and its reserve where that was needed."""
    ours = bench(folder, profile=Profile(prompts=24, max_tokens=64, confirm=True))
    runs.write_cell(ours.run.folder / "acceptance", record)
    if again:
        runs.write_cell(ours.run.folder / SUITE, again)
    return acceptance.verdict(ours.run, record)


def test_each_side_is_confirmed_against_its_own_reserve(tmp_path: Path) -> None:
    """The baseline has been let slip once; the loss against the anchor is the larger one, and real."""
    store(tmp_path / "baselines", runs.cell(), reserve=reserve())
    store(tmp_path / "baselines", runs.cell(worse=2), reserve=reserve(worse=4))

    found = outcome(tmp_path, runs.cell(worse=4), reserve(worse=4))
    well = outcome(tmp_path, runs.cell(worse=4), reserve())

    assert (found.kind, found.against) == ("regressed", "anchor")
    assert well.kind == "inconclusive"


def test_a_comparison_of_runs_says_what_the_gate_said(tmp_path: Path) -> None:
    store(tmp_path / "baselines", runs.cell(), reserve=reserve())
    for name, again, kind in (("chance", reserve(), "inconclusive"), ("loss", reserve(worse=4), "regressed")):
        folder = runs.write_run(tmp_path / name, runs.cell(worse=4))
        path = runs.write_cell(folder / SUITE, again)
        assert path == beside(folder / "acceptance" / path.name)
        found = compare([collect(tmp_path / "baselines"), collect(folder)])

        (row,) = found.rows
        assert row.others[0]
        assert row.others[0].verdict.kind == kind
        assert found.one_sided == (0,)


def test_a_reserve_alone_is_compared_like_any_cell(tmp_path: Path) -> None:
    path = runs.write_cell(tmp_path / SUITE, reserve())

    assert [str(e.cell) for e in collect(path.parent).entries] == [path.stem]
