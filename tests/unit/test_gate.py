from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from harness.judge.footnotes import holm_notes
from harness.judge.verdict import Kind, Unsettled, Verdict, judge, worst
from harness.measure import validity
from harness.results.records import CellRecord
from harness.stats import paired, planning
from harness.stats.same_text import unseen_loss
from harness.text.numbers import percent, signed, signed_interval
from tests.factories.records import cell_name
from tests.factories.simulated import (
    HARD,
    IDENTITY,
    SAMPLED,
    WEAK,
    Table,
    cell,
    dead_from,
    drafter,
    edited,
    silent,
    some,
    worse,
)


def tokens_per_step(record: CellRecord) -> float:
    rate = validity.total(record.prompts).tokens_per_step
    assert rate is not None
    return rate


def lost_positions(verdict: Verdict) -> list[int]:
    return [p.index for p in verdict.positions if p.lost]


def test_the_same_answers_by_the_same_steps_are_identical_and_the_text_says_what_that_is_worth() -> None:
    verdict = judge(cell(drafter(1)), cell(drafter(1)))
    assert verdict.kind == "identical"
    assert not verdict.fails
    assert verdict.change == 0
    assert verdict.interval is None
    assert verdict.prompts == 120
    assert all(figure in verdict.text for figure in ("2.32", "2.5%", "3.1%"))


def test_identical_is_a_matter_of_steps_and_a_swapped_pair_of_them_is_not() -> None:
    """Two steps of 1 against one of 0 and one of 2: as many tokens in as many steps."""
    old = cell(drafter(1))
    steps = list(old.prompts[0].histogram)
    steps = [steps[0] + 1, steps[1] - 2, steps[2] + 1, *steps[3:]]
    moved = old.prompts[0].model_copy(update={"histogram": tuple(steps), "accepted": None, "drafted": None})
    verdict = judge(old, old.model_copy(update={"prompts": (moved, *old.prompts[1:])}))
    assert verdict.kind == "ok"
    assert verdict.change == 0


@pytest.mark.parametrize("field", ["undrafted", "output_tokens", "finish"])
def test_identical_means_all_of_the_steps(field: str) -> None:
    old = cell(drafter(1))
    first = old.prompts[0]
    other = {"undrafted": first.undrafted + 1, "output_tokens": first.output_tokens - 1, "finish": "stop"}
    moved = first.model_copy(update={field: other[field]})
    assert judge(old, old.model_copy(update={"prompts": (moved, *old.prompts[1:])})).kind != "identical"


def test_a_small_change_that_is_surely_inside_the_margin_is_ok() -> None:
    table = drafter(2)
    verdict = judge(cell(table), cell(worse(table, 0.002)))
    assert verdict.kind == "ok"
    assert not verdict.fails
    assert not verdict.lower
    assert verdict.same_text == 120
    assert "inside" not in verdict.text


def test_a_loss_reads_as_what_by_how_much_how_sure() -> None:
    table = drafter(3)
    old, new = cell(table), cell(worse(table, 0.2))
    verdict = judge(old, new)
    assert verdict.kind == "regressed"
    assert verdict.fails
    change = tokens_per_step(new) / tokens_per_step(old) - 1
    assert verdict.change == pytest.approx(change)
    assert -0.15 < change < -0.05
    assert verdict.interval is not None
    low, high = verdict.interval
    assert low < change < high < 0
    assert lost_positions(verdict) == [0]
    assert verdict.same_text == verdict.prompts == 120
    rates = f"{tokens_per_step(old):.2f} -> {tokens_per_step(new):.2f}"
    for figure in (rates, percent(change), signed_interval((low, high)), "position 0: 58.1 -> 47.6 %"):
        assert figure in verdict.text


def test_a_gain_is_improved_and_no_position_can_say_otherwise_alone() -> None:
    table = drafter(3)
    verdict = judge(cell(worse(table, 0.1)), cell(table))
    assert verdict.kind == "improved"
    assert not verdict.fails
    assert verdict.change == pytest.approx(0.045, abs=5e-4)
    assert verdict.interval == pytest.approx((0.036, 0.054), abs=5e-4)
    assert lost_positions(verdict) == []


def test_a_gain_over_all_does_not_hide_a_position_that_died() -> None:
    table = drafter(4, WEAK)
    better = np.where(table == 0, np.random.default_rng(1).integers(0, 2, table.shape), table)
    verdict = judge(cell(table), cell(dead_from(better, 3)))
    assert verdict.change is not None
    assert verdict.change > 0.05
    assert verdict.kind == "regressed"
    assert 3 in lost_positions(verdict)


@pytest.mark.parametrize("seed", range(5))
def test_a_dead_position_is_found_though_it_costs_one_percent(seed: int) -> None:
    table = drafter(seed, WEAK)
    verdict = judge(cell(table), cell(dead_from(table, 3)))
    assert verdict.change is not None
    assert -0.02 < verdict.change < -0.005
    assert verdict.kind == "regressed"
    assert lost_positions(verdict) == [3]
    assert re.search(r"position 3: \d\d\.\d -> 0\.0 %", verdict.text)


def test_between_two_drafters_a_position_is_shown_and_decides_nothing() -> None:
    table = drafter(0, WEAK)
    other = cell(dead_from(table, 3), cell=cell_name(drafter="suffix"))
    verdict = judge(cell(table), other)
    assert verdict.kind == "ok"
    assert 3 in [p.index for p in verdict.positions]
    assert lost_positions(verdict) == []


def test_a_position_that_nothing_reaches_any_more_is_not_tested() -> None:
    table = drafter(5, WEAK)
    verdict = judge(cell(table), cell(dead_from(table, 2)))
    assert lost_positions(verdict) == [2]
    assert [p.index for p in verdict.positions] == [0, 1, 2]


def test_a_position_with_few_events_is_not_tested() -> None:
    """Twenty accepted and twenty refused a side; 120 prompts of this drafter have fewer at position 3."""
    table = drafter(6, (0.3, 0.2, 0.2, 0.2))
    verdict = judge(cell(table), cell(dead_from(table, 3)))
    assert verdict.kind == "ok"
    assert 3 not in [p.index for p in verdict.positions]


def test_a_position_that_hardly_ever_refuses_is_not_tested() -> None:
    table = drafter(6, (0.4, 1.4, 0.5, 0.5))
    verdict = judge(cell(table), cell(worse(table, 0.1)))
    assert [p.index for p in verdict.positions] == [0, 2, 3]


def test_a_position_that_neither_side_reaches_is_not_tested() -> None:
    table = dead_from(drafter(5), 2)
    verdict = judge(cell(table), cell(worse(table, 0.1)))
    assert [p.index for p in verdict.positions] == [0, 1]


def test_a_position_of_which_few_prompts_differ_is_not_tested() -> None:
    table = drafter(5)
    old, dead = cell(table), cell(dead_from(table, 3))
    slower = [
        p.model_copy(update={"histogram": (p.histogram[0] + 1, p.histogram[1] - 1, *p.histogram[2:])})
        for p in old.prompts[9:40]
    ]
    new = old.model_copy(update={"prompts": (*dead.prompts[:9], *slower, *old.prompts[40:])})
    assert [p.index for p in judge(old, new).positions] == [0, 1]


def test_the_p_of_positions_are_corrected_together() -> None:
    table = drafter(5)
    positions = judge(cell(table), cell(worse(table, 0.03))).positions
    assert len(positions) == 4
    assert tuple(p.p for p in positions) == paired.holm([p.change.p_loss() for p in positions])


def test_positions_need_twenty_prompts() -> None:
    table = drafter(7, WEAK, prompts=200)
    table[:, 90:] = 4  # enough events in few prompts
    old, new = cell(table), cell(dead_from(table, 3))
    assert judge(some(old, 19), some(new, 19)).positions == ()
    assert judge(some(old, 20), some(new, 20)).positions != ()


def test_a_cell_of_another_k_is_compared_at_the_positions_that_both_have() -> None:
    table = drafter(8)
    verdict = judge(cell(table), cell(dead_from(table, 2), k=2))
    assert verdict.kind == "regressed"
    assert {p.index for p in verdict.positions} == {0, 1}
    assert lost_positions(verdict) == []


def test_significant_but_inside_the_margin_is_ok_and_says_lower() -> None:
    table = drafter(9, prompts=400)
    verdict = judge(cell(table), cell(worse(table, 0.012)))
    assert verdict.primary is not None
    assert verdict.primary.p_loss() <= paired.ALPHA_PRIMARY
    assert verdict.kind == "ok"
    assert verdict.lower
    assert not verdict.fails


def test_a_significant_gain_inside_the_margin_is_ok() -> None:
    table = drafter(9, prompts=400)
    verdict = judge(cell(worse(table, 0.012)), cell(table))
    assert verdict.primary is not None
    assert verdict.primary.p_gain() <= paired.ALPHA_PRIMARY
    assert (verdict.kind, verdict.lower) == ("ok", False)


def test_inconclusive_says_what_could_have_been_seen_and_what_would_settle_it() -> None:
    """Other texts, so that 24 prompts say little."""
    old = cell(drafter(10, prompts=24), identity=SAMPLED, seed=1, text="a")
    new = cell(drafter(11, prompts=24), identity=SAMPLED, seed=2, text="b")
    verdict = judge(old, new)
    assert verdict.kind == "inconclusive"
    assert not verdict.fails
    assert verdict.primary is not None
    change, why = verdict.primary, verdict.unsettled
    assert why is not None
    assert why.rule == "scatter"
    assert why.could_see == planning.minimum_detectable_loss(change.se, change.df)
    assert why.prompts == planning.prompts_to_settle(change.estimate, change.se, change.m, change.df)
    assert f"{why.could_see:.1%}" in verdict.text
    assert f" {why.prompts} prompts" in verdict.text


def test_a_drafter_that_drafts_less_is_regressed_though_tau_rose() -> None:
    table = drafter(12, WEAK)
    old, new = cell(table), cell(silent(table, below=2))
    tau = [validity.total(r.prompts).tau for r in (old, new)]
    assert tau[0] is not None
    assert tau[1] is not None
    assert tau[1] > 1.5 * tau[0]
    verdict = judge(old, new)
    assert verdict.kind == "regressed"
    change = tokens_per_step(new) / tokens_per_step(old) - 1
    assert verdict.change == pytest.approx(change)
    assert change < -0.1


def test_fewer_than_eight_prompts_are_no_comparison() -> None:
    old, new = cell(drafter(13)), cell(worse(drafter(13), 0.5))
    verdict = judge(some(old, 7), some(new, 7))
    assert verdict.kind == "invalid"
    assert verdict.fails
    assert verdict.primary is None
    assert verdict.change is None
    assert verdict.interval is None
    assert "7 prompts" in verdict.text
    assert judge(some(old, 8), some(new, 8)).kind == "regressed"


def test_less_than_nine_tenths_in_common_is_refused() -> None:
    old, new = cell(drafter(14)), cell(drafter(14))
    verdict = judge(old, edited(new, 13))
    assert verdict.kind == "invalid"
    assert "107 of 120 prompts" in verdict.text
    assert judge(old, edited(new, 12)).kind == "identical"


@pytest.mark.parametrize("side", ["old", "new"])
def test_the_larger_side_counts(side: str) -> None:
    whole, part = cell(drafter(14)), some(cell(drafter(14)), 107)
    verdict = judge(part, whole) if side == "old" else judge(whole, part)
    assert verdict.kind == "invalid"
    assert "107 of 120 prompts" in verdict.text


@pytest.mark.parametrize("count", [6, 1])
def test_an_edited_prompt_is_left_out_and_noted(count: int) -> None:
    verdict = judge(cell(drafter(15)), edited(cell(drafter(15)), count))
    assert verdict.kind == "identical"
    assert verdict.prompts == 120 - count
    [note] = verdict.notes
    assert note.startswith(f"{count} of 120 prompts")
    assert f"all {120 - count} prompts" in verdict.text


def test_raw_against_chat_is_refused_with_both_named() -> None:
    raw = cell(drafter(16), identity=IDENTITY | {"endpoint": "raw", "chat_template": None})
    verdict = judge(cell(drafter(16)), raw)
    assert verdict.kind == "invalid"
    assert all(part in verdict.text for part in ("chat_template", '"872be49dbb638044"', "null"))
    only = cell(drafter(16), identity=IDENTITY | {"endpoint": "raw"})
    text = judge(cell(drafter(16)), only).text
    assert all(part in text for part in ("endpoint", '"chat"', '"raw"', "--across endpoint"))


def test_across_lets_it_through_and_pairs_by_prompt_id() -> None:
    new = edited(cell(drafter(17), identity=IDENTITY | {"endpoint": "raw"}), 120)
    verdict = judge(cell(drafter(17)), new, across=["endpoint"])
    assert verdict.kind == "identical"
    assert verdict.prompts == 120


def test_across_what_does_not_change_the_prompts_still_pairs_by_their_hash() -> None:
    new = edited(cell(drafter(17), identity=IDENTITY | {"quantization": "fp8"}), 3)
    verdict = judge(cell(drafter(17)), new, across=["quantization"])
    assert verdict.prompts == 117


def test_another_environment_is_a_footnote_with_both_values() -> None:
    other = {"cpu": "Another CPU", "threads": 4, "gpus": []}
    verdict = judge(cell(drafter(18)), cell(drafter(18), environment=other))
    assert verdict.kind == "identical"
    assert verdict.notes == (
        "another environment: cpu was A CPU, is Another CPU",
        "another environment: threads was 2, is 4",
    )


@pytest.mark.parametrize(("seed", "noted"), [(0, False), (1, True)])
def test_other_seeds_are_noted_where_they_matter(*, seed: int, noted: bool) -> None:
    old, new = cell(drafter(19), identity=SAMPLED), cell(drafter(19), identity=SAMPLED, seed=seed)
    assert (
        any(note.startswith("other seeds: paired by prompt alone") for note in judge(old, new).notes) is noted
    )
    assert judge(cell(drafter(19)), cell(drafter(19), seed=seed)).notes == ()


@pytest.mark.parametrize(("side", "name"), [(0, "the baseline"), (1, "this run")])
def test_a_hard_finding_on_either_side_is_invalid(side: int, name: str) -> None:
    sides = [cell(drafter(20)), cell(drafter(20))]
    sides[side] = sides[side].model_copy(update={"findings": (HARD,)})
    verdict = judge(*sides)
    assert verdict.kind == "invalid"
    assert verdict.text.endswith(f"{name} is not a measurement: {HARD.text}")


def test_a_soft_finding_is_not_in_the_way() -> None:
    soft = HARD.model_copy(update={"hard": False})
    assert judge(cell(drafter(20)), cell(drafter(20), findings=(soft,))).kind == "identical"


def test_cells_without_a_decode_step_are_not_comparable() -> None:
    old = cell(drafter(20))
    none = [p.model_copy(update={"histogram": (0,), "accepted": None, "undrafted": 0}) for p in old.prompts]
    verdict = judge(old, old.model_copy(update={"prompts": tuple(none)}))
    assert verdict.kind == "invalid"


def test_ten_small_losses_pass_one_by_one_and_the_anchor_sees_them() -> None:
    """0.8 % a release: inside the margin each time, 8 % after ten."""
    releases = [drafter(21)]
    for number in range(10):
        releases.append(worse(releases[-1], 0.0145, seed=number))
    cells = [cell(table) for table in releases]
    rolling = [judge(old, new) for old, new in itertools.pairwise(cells)]
    assert [v.kind for v in rolling] == ["ok"] * 10
    changes = [v.change for v in rolling if v.change is not None]
    assert -0.01 < sum(changes) / len(changes) < -0.006
    against_anchor = judge(cells[0], cells[-1], against="anchor")
    assert against_anchor.kind == "regressed"
    assert "paired over 120 prompts against the anchor, 120 with the same text" in against_anchor.text
    assert worst([rolling[-1], against_anchor]) is against_anchor


def test_the_order_of_prompts_does_not_matter() -> None:
    table = drafter(22)
    old, new = cell(table), cell(worse(table, 0.05))
    turned = new.model_copy(update={"prompts": new.prompts[::-1]})
    assert judge(old, new).text == judge(old, turned).text
    shuffled = old.model_copy(update={"prompts": old.prompts[60:] + old.prompts[:60]})
    assert judge(old, new).text == judge(shuffled, turned).text


def test_seeds_of_a_prompt_are_summed_and_only_shared_ones_count() -> None:
    tables = [drafter(s, prompts=30) for s in (23, 24)]
    both = [cell(t, identity=SAMPLED, seed=s) for s, t in enumerate(tables)]
    old = both[0].model_copy(update={"prompts": both[0].prompts + both[1].prompts})
    same = judge(old, old)
    assert (same.kind, same.prompts) == ("identical", 30)
    part = judge(old, both[1])
    assert (part.kind, part.prompts, part.notes) == ("identical", 30, ())


def eight(fewer: int, table: np.ndarray) -> tuple[CellRecord, CellRecord]:
    """Of 8 prompts, the first `fewer` lose half of their drafts."""
    bad = worse(table, 0.5)
    bad[fewer:] = table[fewer:]
    return cell(table), cell(bad)


@pytest.mark.parametrize("seed", range(5))
def test_quick_trips_on_a_large_loss_in_all_of_its_prompts(seed: int) -> None:
    verdict = judge(*eight(8, drafter(seed, prompts=8)))
    assert verdict.kind == "regressed"
    assert verdict.positions == ()


@pytest.mark.parametrize("seed", range(5))
def test_quick_names_the_prompts_that_lost(seed: int) -> None:
    verdict = judge(*eight(3, drafter(seed, prompts=8)))
    assert verdict.kind == "regressed"
    assert set(verdict.broken) <= {"instruct-000", "instruct-001", "instruct-002"}
    assert verdict.broken[0] in verdict.text


def dead_on(table: Table, count: int) -> Table:
    """The same, but on the first `count` prompts nothing is accepted."""
    made = table.copy()
    made[:count] = np.minimum(made[:count], 0)
    return made


@pytest.mark.parametrize("dead", [5, 9])
def test_a_drafter_that_died_on_few_prompts_of_the_same_text_is_regressed_on_them(dead: int) -> None:
    table = drafter(31)
    verdict = judge(cell(table), cell(dead_on(table, dead)))
    assert verdict.kind == "regressed"
    assert verdict.broken == tuple(f"instruct-{i:03}" for i in range(dead))
    assert verdict.positions == ()


def test_one_that_seldom_drafts_is_found_too_where_its_steps_are_placed() -> None:
    table = silent(drafter(32, (0.9, 0.9, 0.9, 0.9)), below=2)
    verdict = judge(cell(table), cell(dead_on(table, 9)))
    assert verdict.kind == "regressed"
    assert len(verdict.broken) == 9


def test_a_broken_prompt_that_costs_less_than_the_margin_is_named_and_no_more() -> None:
    table = drafter(33)
    verdict = judge(cell(table), cell(dead_on(table, 1)))
    assert verdict.kind != "regressed"
    assert verdict.broken == ("instruct-000",)
    assert "instruct-000" in verdict.text


def test_between_drafters_or_texts_no_prompt_is_called_broken() -> None:
    table = drafter(34)
    retrained = {"drafter": "ngram", "weights": "another"}
    assert judge(cell(table), cell(dead_on(table, 9), subject=retrained)).broken == ()
    assert judge(cell(table), cell(dead_on(table, 9), text="other")).broken == ()


def test_numerics_break_no_prompt() -> None:
    """One step in twenty differs: several times what another kind of CPU does."""
    for seed in range(20):
        table = drafter(seed)
        moved = np.random.default_rng(seed).random(table.shape) < 0.05
        assert judge(cell(table), cell(np.where(moved, 0, table))).broken == ()


def test_a_better_drafter_is_red_no_more_often_than_chance_allows() -> None:
    """A tenth of the steps that accepted nothing accept one: conditional acceptance falls, nothing is lost.

    Whether fewer steps accept more than one is left to chance, at 0.05: more than 6 of 40 come in 0.3 %.
    """
    red = 0
    for seed in range(40):
        table = drafter(seed, WEAK)
        helped = (np.random.default_rng(seed).random(table.shape) < 0.1) & (table == 0)
        verdict = judge(cell(table), cell(np.where(helped, 1, table)))
        assert verdict.change is not None
        assert verdict.change > 0.01
        red += verdict.fails
    assert red <= 6


def test_a_retrained_head_of_the_same_name_is_judged_by_its_tokens_alone() -> None:
    table = drafter(0, WEAK)
    retrained = cell(dead_from(table, 3), subject={"drafter": "ngram", "weights": "another"})
    assert judge(cell(table), cell(dead_from(table, 3))).kind == "regressed"
    assert lost_positions(judge(cell(table), retrained)) == []


def emptied(record: CellRecord, count: int) -> CellRecord:
    """The same cell, but its last `count` answers are empty."""
    nothing = {"output_tokens": 1, "histogram": (0,) * 5, "accepted": (), "drafted": (), "undrafted": 0}
    prompts = [p.model_copy(update=nothing) for p in record.prompts[-count:]]
    return record.model_copy(update={"prompts": (*record.prompts[:-count], *prompts)})


def test_answers_that_became_empty_forbid_identical_and_are_counted() -> None:
    old = cell(drafter(1))
    verdict = judge(old, emptied(old, 3))
    assert verdict.kind == "ok"
    assert "3 prompts" in verdict.text


def test_many_answers_that_became_empty_fail() -> None:
    old = cell(drafter(1))
    assert judge(old, emptied(old, 12)).kind == "invalid"
    assert judge(emptied(old, 12), old).kind == "identical"  # gained, not lost


@pytest.mark.parametrize(("count", "kind"), [(12, "ok"), (13, "invalid")])
def test_answers_of_one_seed_of_two_that_became_empty_are_counted(count: int, kind: Kind) -> None:
    first, second = cell(drafter(1), identity=SAMPLED), cell(drafter(2), identity=SAMPLED, seed=1)

    def both(again: CellRecord) -> CellRecord:
        repeats = [p.model_copy(update={"repeat": 1}) for p in again.prompts]
        return first.model_copy(update={"prompts": (*first.prompts, *repeats)})

    assert judge(both(second), both(second)).kind == "identical"
    assert judge(both(second), both(emptied(second, count))).kind == kind


def test_an_empty_answer_to_a_prompt_that_was_renamed_is_counted() -> None:
    old = cell(drafter(1))
    new = emptied(old, 3)
    renamed = tuple(p.model_copy(update={"prompt": f"other-{p.prompt}"}) for p in new.prompts)
    assert judge(old, new.model_copy(update={"prompts": renamed})).kind == "ok"


@pytest.mark.parametrize("m", [8, 20, 120])
def test_where_few_prompts_differ_the_sentence_says_what_may_hide_as_it_does_where_none_does(m: int) -> None:
    table = drafter(1, prompts=m)
    changed = table.copy()
    changed[0, 1] = (table[0, 1] + 2) % 5  # where the first step begins
    one, none = judge(cell(table), cell(changed)), judge(cell(table), cell(table))
    assert one.primary is not None
    assert (one.kind, none.kind, one.primary.differing, one.broken) == ("ok", "identical", 1, ())
    hidden = f"{unseen_loss(one.primary.r0, paired.share_bound(m)):.1%}"
    assert hidden in none.text
    assert hidden in one.text


@pytest.mark.parametrize(("look", "stops"), [(16, False), (24, False), (80, True)])
def test_an_early_look_does_not_stop_on_identical(look: int, *, stops: bool) -> None:
    """At 16 prompts a drafter that died on a sixth of them may still hide."""
    old = cell(drafter(1))
    new = some(old, look, stopped_at=look)
    assert (judge(old, new).kind != "inconclusive") is stops


def test_the_interval_of_a_look_is_one_for_repeated_looks() -> None:
    table = drafter(2)
    old, new = cell(table), some(cell(worse(table, 0.1)), 24, stopped_at=24)
    verdict = judge(old, new)
    assert verdict.primary is not None
    assert verdict.interval is not None
    once = verdict.primary.ci()
    assert verdict.interval[0] < np.expm1(once[0]) < np.expm1(once[1]) < verdict.interval[1]


def parted(old: Table, new: Table) -> Verdict:
    """Of two cells of which no answer has the same text, so that no prompt can be judged by itself."""
    return judge(cell(old), cell(new, text="other"))


def test_a_loss_that_the_rule_of_few_forbids_promises_nothing_of_more_prompts() -> None:
    table = drafter(31)
    verdict = parted(table, dead_on(table, 9))
    assert verdict.kind == "inconclusive"
    assert verdict.change is not None
    assert verdict.change < -paired.MARGIN
    assert verdict.unsettled == Unsettled(rule="few-differ")


def test_a_small_loss_of_few_prompts_may_yet_be_shown_to_be_small() -> None:
    """The rule of few forbids a loss of the margin or more; `ok` asks for more prompts alone."""
    table = drafter(31, prompts=40)
    bad = table.copy()
    bad[:2] = worse(table, 0.4)[:2]
    verdict = parted(table, bad)
    assert verdict.kind == "inconclusive"
    assert verdict.change is not None
    assert -paired.MARGIN < verdict.change < 0
    assert verdict.unsettled is not None
    assert verdict.unsettled.rule == "scatter"
    assert verdict.unsettled.prompts is not None
    assert verdict.unsettled.prompts > 40


def test_prompts_that_settle_are_enough_for_ten_to_differ() -> None:
    """Of 8 prompts one died: its scatter alone would ask for fewer than the rule does."""
    table = drafter(31, prompts=8)
    verdict = parted(table, dead_on(table, 1))
    assert verdict.kind == "inconclusive"
    assert verdict.unsettled is not None
    assert verdict.unsettled.prompts is not None
    assert verdict.unsettled.prompts >= 80


def test_a_look_says_that_prompts_are_left_to_ask() -> None:
    old = cell(drafter(1))
    verdict = judge(old, some(old, 16, stopped_at=16))
    assert verdict.unsettled == Unsettled(rule="unasked")


def test_a_look_could_have_seen_what_its_own_wider_bounds_show() -> None:
    table = drafter(10, prompts=24)
    sides = cell(table), cell(drafter(11, prompts=24), text="b")
    once, look = (
        judge(sides[0], sides[1].model_copy(update={"stopped_at": at})).unsettled for at in (None, 24)
    )
    assert once is not None
    assert look is not None
    assert once.could_see is not None
    assert look.could_see is not None
    assert look.could_see > once.could_see
    assert look.prompts == once.prompts


@pytest.mark.parametrize(("differing", "kind"), [(9, "ok"), (10, "regressed")])
def test_ten_prompts_must_differ_for_their_scatter_to_decide(differing: int, kind: Kind) -> None:
    """Where the texts differ, so that no prompt can be judged by itself."""
    table = drafter(25, prompts=40)
    bad = table.copy()
    bad[:differing, ::2] = 0
    old, new = cell(table), cell(bad)
    other = [p.model_copy(update={"text_hash": "x"}) for p in new.prompts[:differing]]
    verdict = judge(old, new.model_copy(update={"prompts": (*other, *new.prompts[differing:])}))
    assert verdict.primary is not None
    assert verdict.primary.differing == differing
    assert verdict.broken == ()
    assert (verdict.kind == "regressed") is (kind == "regressed")


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0123, "+1.2"), (-0.069, "-6.9"), (0.0, "0.0"), (-0.0004, "0.0"), (0.0004, "0.0")]
)
def test_shares_are_shown_with_their_sign(value: float, shown: str) -> None:
    assert signed(value) == shown
    assert percent(value) == f"{shown} %"


def test_the_worst_verdict_decides() -> None:
    order: list[Kind] = ["invalid", "regressed", "inconclusive", "ok", "improved", "identical"]
    verdicts = [Verdict(kind=kind, text="") for kind in order]
    for i in range(len(order)):
        assert worst(verdicts[i:][::-1]).kind == order[i]
    first, second = Verdict(kind="ok", text="one"), Verdict(kind="ok", text="two")
    assert worst([first, second]) is first


@pytest.mark.parametrize(("look", "kind"), [(16, "inconclusive"), (None, "regressed")])
def test_a_sequential_look_takes_more_than_a_single_one(look: int | None, kind: Kind) -> None:
    """4.3 standard errors of 16 prompts: one test needs 3.8, the first of five looks 5.5."""
    table = drafter(3, prompts=16)
    verdict = judge(cell(table), cell(worse(table, 0.1, seed=3), stopped_at=look))
    assert verdict.primary is not None
    assert -4.4 < verdict.primary.estimate / verdict.primary.se < -4.2
    assert verdict.kind == kind


@pytest.mark.parametrize(
    ("old", "new"),
    [(drafter(3), worse(drafter(3), 0.1)), (drafter(0, WEAK), dead_from(drafter(0, WEAK), 3))],
    ids=["tokens per step", "position"],
)
def test_what_regressed_has_a_p_within_the_alpha_of_a_cell(old: Table, new: Table) -> None:
    verdict = judge(cell(old), cell(new))
    assert verdict.kind == "regressed"
    assert verdict.p is not None
    assert verdict.p <= paired.ALPHA_CELL
    back = judge(cell(new), cell(old)).p
    assert back is not None
    assert back > paired.ALPHA_CELL


def test_where_too_few_prompts_differ_or_positions_are_not_the_same_they_lend_no_p() -> None:
    old = cell(drafter(3))
    some_worse = cell(np.concatenate([worse(drafter(3), 0.4)[:9], drafter(3)[9:]]), text="other")
    assert judge(old, some_worse).p == 1.0
    weak, dead = drafter(5, WEAK), dead_from(drafter(5, WEAK), 3)
    other = judge(cell(weak), cell(dead, cell=cell_name(drafter="other")))
    assert other.primary is not None
    assert other.p == paired.cell_p(other.primary.p_loss())


def test_a_cell_that_is_red_by_its_prompts_alone_has_their_p() -> None:
    """Nine of 120 prompts differ, so that their scatter counts for nothing."""
    table = drafter(31)
    verdict = judge(cell(table), cell(dead_on(table, 9)))
    assert verdict.kind == "regressed"
    assert verdict.p is not None
    assert verdict.p <= paired.ALPHA_CELL
    one = judge(cell(table), cell(dead_on(table, 1))).p
    assert one is not None
    assert verdict.p <= one <= paired.ALPHA_CELL


def test_nor_does_the_note_below_a_table_call_it_not_significant() -> None:
    table = drafter(31)
    verdict = judge(cell(table), cell(dead_on(table, 9)))
    [note] = holm_notes([("dead", verdict), ("same", judge(cell(table), cell(table)))])
    assert "1 of 1 regressed" in note
    assert "dead" not in note


@pytest.mark.parametrize("new", [worse(drafter(3, prompts=16), 0.3), drafter(3, prompts=16)])
def test_after_several_looks_or_none_there_is_no_p(new: Table) -> None:
    assert judge(cell(drafter(3, prompts=16)), cell(new, stopped_at=16)).p is None
    assert judge(cell(drafter(3, prompts=16)), some(cell(new), 4)).p is None


def test_prompts_not_asked_after_an_early_stop_are_not_missing() -> None:
    old, new = cell(drafter(26)), cell(worse(drafter(26), 0.3))
    assert judge(old, some(new, 16)).kind == "invalid"
    stopped = judge(old, some(new, 16, stopped_at=16))
    assert (stopped.kind, stopped.prompts) == ("regressed", 16)


def ended_at_once(record: CellRecord, *places: int) -> CellRecord:
    """The same cell, but the answers to these prompts have one token: they end before a decode step."""
    none = {
        "output_tokens": 1,
        "histogram": (0, 0, 0, 0, 0),
        "undrafted": 0,
        "steps": None,
        "token_ids": None,
    }
    prompts = tuple(p.model_copy(update=none) if i in places else p for i, p in enumerate(record.prompts))
    return record.model_copy(update={"prompts": prompts})


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        pytest.param((0,), (0,), "identical", id="one on both sides"),
        pytest.param((0, 1, 2, 3), (0, 1, 2, 3), "identical", id="half of them"),
        pytest.param((0, 1, 2, 3, 4), (0, 1, 2, 3, 4), "invalid", id="more than half"),
        pytest.param((0,), (1,), "invalid", id="another one"),
        pytest.param((), (0,), "invalid", id="a new one"),
    ],
)
def test_eight_prompts_are_identical_although_some_answers_end_before_a_decode_step_on_both_sides(
    old: tuple[int, ...], new: tuple[int, ...], kind: Kind
) -> None:
    record = some(cell(drafter(5)), 8)
    before, after = ended_at_once(record, *old), ended_at_once(record, *new)
    assert judge(before, after).kind == kind
    other = tuple(p.model_copy(update={"text_hash": "other"}) for p in after.prompts[: len(new)])
    assert (
        judge(before, after.model_copy(update={"prompts": other + after.prompts[len(new) :]})).kind
        == "invalid"
    )


def test_of_fewer_than_eight_prompts_with_a_decode_step_no_loss_is_judged() -> None:
    old, new = (some(cell(table), 8) for table in (drafter(5), worse(drafter(5), 0.5)))
    assert judge(ended_at_once(old, 0), ended_at_once(new, 0)).kind == "invalid"
