"""Tokens per decode step along an answer, shown and judged."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from harness.judge.collect import collect
from harness.judge.compare import compare
from harness.judge.pairing import Pairs
from harness.judge.verdict import Verdict, judge, judge_pairs
from harness.report.compare_table import document
from harness.report.export import as_data, csv_rows
from harness.report.run_table import report, stretch_table, written
from harness.results.records import dump_cell, tallies
from harness.results.stretches import intervals_of, name_of, reached, split, stretches_of
from harness.stats.acceptance import added
from harness.stats.paired import ALPHA_CELL, holm
from harness.text.render import as_json
from tests.factories.records import cell_name, cell_record, prompt_record
from tests.factories.simulated import (
    Table,
    answer,
    cell,
    dead_after,
    dead_from,
    drafter,
    late,
    looping,
    other_text,
    worse,
)

LONG = 1500
CELLS = 300


def test_a_stretch_is_named_by_its_tokens() -> None:
    assert [name_of(start) for start in (0, 100, 1000)] == ["0-99", "100-499", "1000+"]


def test_a_step_counts_where_its_first_token_lies() -> None:
    """The first token comes before any step. Of 3 tokens each, the 34th step begins at token 100."""
    steps = (3,) * 40
    r = prompt_record(
        accepted=(2,) * 40, drafted=(4,) * 40, histogram=(0, 0, 40, 0, 0), undrafted=0, output_tokens=121
    )
    assert r.committed == steps
    tokens, decode_steps = split([[r]])[:, :, 0].T
    assert tokens.tolist() == [99, 21, 0, 0]
    assert decode_steps.tolist() == [33, 7, 0, 0]


@pytest.mark.parametrize("changes", [{"steps": (1, 0, 5)}, {"accepted": (0, 90)}, {"accepted": (0,)}])
def test_steps_that_are_not_those_of_the_answer_count_nowhere(changes: dict[str, tuple[int, ...]]) -> None:
    r = prompt_record(accepted=(2, 2), drafted=(4, 4), histogram=(0, 0, 2), undrafted=0, output_tokens=7)
    assert split([[r]])[0, 0, 0] == 6
    assert not split([[r.model_copy(update=changes)]]).any()


@pytest.mark.parametrize(("finish", "last"), [("length", 4), ("stop", 2)])
def test_the_last_step_counts_in_every_sum_alike(finish: str, last: int) -> None:
    r = prompt_record(
        accepted=(3, 3), drafted=(4, 4), histogram=(0, 0, 0, 2, 0), undrafted=0, output_tokens=7,
        finish=finish,
    )  # fmt: skip
    assert split([[r]])[0, 0, 0] == 4 + last == r.tally.committed


def test_undrafted_steps_are_placed_where_the_stream_placed_them() -> None:
    steps = (1,) * 120 + (5,) * 4
    r = prompt_record(
        accepted=(4,) * 4, drafted=(4,) * 4, histogram=(0, 0, 0, 0, 4), undrafted=120, steps=steps,
        output_tokens=141,
    )  # fmt: skip
    assert split([[r]])[:, 1, 0].tolist() == [99, 25, 0, 0]


def test_the_seeds_of_a_prompt_are_summed_and_other_prompts_are_not() -> None:
    record = cell(drafter(1, prompts=3, tokens=200))
    a, b, c = record.prompts
    together, apart = split([[a, b], [c]]), split([[a], [b], [c]])
    assert np.array_equal(together[..., 0], apart[..., 0] + apart[..., 1])
    assert np.array_equal(together[..., 1], apart[..., 2])


def test_the_stretches_of_a_cell_add_up_to_it() -> None:
    record = cell(drafter(1, prompts=12, tokens=LONG))
    sums = split([[r] for r in record.prompts]).sum(axis=(0, 2))
    assert sums[0] == sum(r.tally.committed for r in record.prompts)
    assert sums[1] == sum(r.tally.decode_steps for r in record.prompts)
    found = stretches_of(record.prompts)
    assert [(s.start, s.prompts) for s in found] == [(0, 12), (100, 12), (500, 12), (1000, 12)]
    for s in found:
        assert s.tokens_per_step
        assert s.interval
        assert 1 < s.interval[0] < s.tokens_per_step < s.interval[1] < 5


def test_a_drafter_that_died_shows_where() -> None:
    found = stretches_of(cell(dead_after(drafter(1, prompts=12, tokens=LONG), 500)).prompts)
    rates = [s.tokens_per_step for s in found]
    assert [rate == 1 for rate in rates] == [False, False, True, True]
    assert [s.interval is None for s in found] == [False, False, True, True]


def test_short_answers_have_no_stretches() -> None:
    assert stretches_of(cell(drafter(1, prompts=12)).prompts) == ()
    assert stretches_of(()) == ()


def test_what_is_not_known_is_none() -> None:
    unknown = {"accepted": None, "drafted": None}
    record = cell(drafter(1, prompts=3, tokens=600))
    blind = [r.model_copy(update=unknown) for r in record.prompts]
    assert reached(blind) == (0, 100, 500)
    assert [(s.prompts, s.tokens_per_step, s.interval) for s in stretches_of(blind)] == [(0, None, None)] * 3
    one = stretches_of([record.prompts[0], *blind[1:]])
    assert all(s.prompts == 1 and s.tokens_per_step and s.interval is None for s in one)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """12 prompts of 400 that are the truth: 95 %, with room for 200 draws and a jackknife of few."""
    records = cell(drafter(7, prompts=400, tokens=600)).prompts
    truth = stretches_of(records)[1].tokens_per_step
    rng, held = np.random.default_rng(0), 0
    for _ in range(200):
        interval = stretches_of([records[i] for i in rng.choice(400, 12, replace=False)])[1].interval
        assert interval
        held += interval[0] <= (truth or 0) <= interval[1]
    assert 180 <= held <= 198


def test_so_does_that_of_acceptance_at_a_position() -> None:
    records = cell(drafter(7, prompts=400)).prompts
    truth = added([r.tally for r in records]).acceptance
    rng, held = np.random.default_rng(0), [0] * len(truth)
    for _ in range(200):
        drawn = [records[i] for i in rng.choice(400, 12, replace=False)]
        for i, interval in enumerate(intervals_of(drawn, tallies(drawn))[1]):
            assert interval
            held[i] += interval[0] <= (truth[i] or 0) <= interval[1]
    assert all(180 <= n <= 198 for n in held), held


def test_acceptance_has_an_interval_only_where_prompts_differ_and_enough_of_them() -> None:
    table = drafter(7, prompts=12)
    few, dead = (list(cell(t).prompts) for t in (table[:7], dead_from(table, 2)))
    assert intervals_of(few, tallies(few))[1] == (None,) * 4
    first, *_, last = intervals_of(dead, tallies(dead))[1]
    assert first
    assert last is None
    seeds = [r.model_copy(update={"seed": seed}) for r in dead for seed in (0, 1)]  # no new prompts
    assert intervals_of(seeds, tallies(seeds))[1][0] == pytest.approx(first)
    assert intervals_of([], tallies([]))[1] == ()


# Shown


def test_the_table_of_a_run_has_a_row_for_each_cell_with_long_answers() -> None:
    long = cell(dead_after(drafter(1, prompts=12, tokens=600), 100))
    longer = cell(drafter(1, prompts=8, tokens=1200), cell=cell_name(language="zh"))
    blind = [r.model_copy(update={"accepted": None}) for r in long.prompts]
    unknown = long.model_copy(update={"prompts": tuple(blind), "cell": cell_name(language="fr")})
    plain = long.model_copy(update={"cell": cell_name(drafter="none", k=0)})
    header, rows = written(*stretch_table([plain, cell(drafter(1)), long, longer, unknown]))
    assert header == ["cell", "answers", "0-99", "100-499", "500-999", "1000+"]
    assert [row[:2] for row in rows] == [
        ["chat-en-instruct-ngram-k4", "12/12/12"],
        ["chat-zh-instruct-ngram-k4", "8/8/8/8"],
        ["chat-fr-instruct-ngram-k4", "0/0/0"],
    ]
    assert rows[0][3:] == ["1.00", "1.00", "—"]
    assert re.fullmatch(r"\d\.\d\d \(\d\.\d\d\.\.\d\.\d\d\)", rows[0][2])
    assert rows[2][2:] == ["—"] * 4
    assert "along the answers" in report([long])
    assert "along the answers" not in report([cell(drafter(1))])


def test_a_comparison_shows_and_exports_the_stretches(tmp_path: Path) -> None:
    old = drafter(1, prompts=12, tokens=600)
    paths = []
    for name, table in (("old", old), ("new", dead_after(old, 100))):
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(dump_cell(cell(table)), encoding="utf-8")
    found = compare([collect(path) for path in paths])
    *_, block = document(found).blocks
    assert block.header == ("cell", "0-99", "100-499", "500-999")
    assert block.rows[0][2].endswith("▼")
    header, [line] = csv_rows(found)
    values = dict(zip(header, line, strict=True))
    assert values["new_tokens_per_step_from_100"] == 1
    assert values["new_tokens_per_step_from_100_low"] is None
    stretch = found.rows[0].figures.stretches[1]
    assert values["base_tokens_per_step_from_100"] == stretch.tokens_per_step
    assert (values["base_tokens_per_step_from_100_low"], values["base_tokens_per_step_from_100_high"]) == (
        stretch.interval
    )
    [data] = json.loads(as_json(as_data(found, exit_code=1)))["cells"]
    assert [s["start"] for s in data["base"]["stretches"]] == [0, 100, 500]
    assert [s["lost"] for s in data["against"][0]["stretches"]] == [False, True, True]


def test_a_comparison_of_short_answers_has_no_stretches(tmp_path: Path) -> None:
    path = tmp_path / "short.json"
    path.write_text(dump_cell(cell(drafter(1))), encoding="utf-8")
    found = compare([collect(path), collect(path)])
    assert len(document(found).blocks) == 2
    assert not any("_from_" in name for name in csv_rows(found)[0])


# Judged


def lost(verdict: Verdict) -> list[int]:
    return [s.start for s in verdict.stretches if s.lost]


def fails_late(table: Table, share: float, *, seed: int) -> Table:
    """The same, but from token 1,000 on a share of the drafts fails at once."""
    return late(table, worse(table, share, seed=seed), 1000)


@pytest.mark.parametrize("text", ["t", "other"])
@pytest.mark.parametrize("seed", range(3))
def test_a_drafter_that_dies_after_500_tokens_is_regressed_and_said_to_be_so(seed: int, text: str) -> None:
    """Also where the texts differ, so that no prompt can be judged by itself."""
    old = drafter(seed, prompts=12, tokens=LONG)
    new = dead_after(old if text == "t" else drafter(seed + 50, prompts=12, tokens=LONG), 500)
    verdict = judge(cell(old), cell(new, text=text, seed=text != "t"))
    assert verdict.kind == "regressed"
    assert lost(verdict) == [500, 1000]
    assert "tokens 500-999" in verdict.text


@pytest.mark.parametrize("seed", [0, 1, 5])
def test_a_late_loss_inside_the_margin_of_the_whole_is_regressed(seed: int) -> None:
    old = drafter(seed, prompts=12, tokens=LONG)
    verdict = judge(cell(old), cell(fails_late(old, 0.1, seed=seed)))
    assert verdict.change is not None
    assert -0.02 < verdict.change < 0
    assert verdict.broken == ()
    assert (verdict.kind, lost(verdict)) == ("regressed", [1000])


def test_a_late_loss_that_may_be_chance_is_named() -> None:
    old = drafter(0, prompts=12, tokens=LONG)
    verdict = judge(cell(old), cell(fails_late(old, 0.06, seed=0)))
    assert (verdict.kind, lost(verdict)) == ("ok", [])
    assert [s.start for s in verdict.stretches if s.lower] == [1000]
    assert "tokens 1000+" in verdict.text


def test_a_gain_at_the_beginning_does_not_hide_a_loss_at_the_end() -> None:
    new = drafter(1, prompts=12, tokens=LONG)
    old = late(worse(new, 0.4), new, 500)
    verdict = judge(cell(old), cell(fails_late(new, 0.1, seed=1)))
    assert verdict.change is not None
    assert verdict.change > 0
    assert (verdict.kind, lost(verdict)) == ("regressed", [1000])


def test_another_drafter_and_an_early_look_lose_no_stretch_and_show_all() -> None:
    old = drafter(1, prompts=16, tokens=LONG)
    late = fails_late(old, 0.06, seed=1)
    retrained = judge(cell(old), cell(late, subject={"drafter": "ngram", "weights": "another"}))
    look = judge(cell(old), cell(late, stopped_at=16), positions=False)
    for verdict in (retrained, look):
        assert verdict.kind != "regressed"
        assert [s.start for s in verdict.stretches] == [0, 100, 500, 1000]
        assert not any(s.tested for s in verdict.stretches)
    assert {s.p for s in look.stretches} == {None}
    assert "tokens 1000+" in retrained.text


def test_a_stretch_that_few_prompts_reach_is_shown_and_not_tested() -> None:
    old = drafter(1, prompts=12, tokens=LONG)
    new = fails_late(old, 0.5, seed=1)
    sides = []
    for table in (old, new):
        rows = [row if i < 7 else row[:900] for i, row in enumerate(table)]
        sides.append(cell_record(*(answer(i, row, text="t", seed=0, k=4) for i, row in enumerate(rows))))
    verdict = judge(*sides)
    assert [(s.start, s.change.m, s.p is None) for s in verdict.stretches][-2:] == [
        (500, 12, False),
        (1000, 7, True),
    ]


def test_no_stretch_is_judged_where_steps_are_not_known() -> None:
    record = cell(drafter(1, prompts=12, tokens=LONG))
    blind = record.model_copy(
        update={"prompts": tuple(r.model_copy(update={"accepted": None}) for r in record.prompts)}
    )
    assert judge(record, blind).stretches == ()


def test_stretches_and_positions_share_their_alpha() -> None:
    """120 prompts of 200 tokens: Holm counts the positions and both stretches as one family."""
    old = drafter(3, prompts=60, tokens=200)
    verdict = judge(cell(old), cell(worse(old, 0.03)))
    raw = [one.change.p_loss() for one in (*verdict.positions, *verdict.stretches)]
    assert len(verdict.positions) == 4
    assert len(raw) == 6
    assert [one.p for one in (*verdict.positions, *verdict.stretches)] == list(holm(raw))


def test_cells_that_lost_nothing_are_called_regressed_no_more_often_than_alpha_allows() -> None:
    """Twelve pairs of answers with other texts, drawn from 200, a third of them ending in a loop."""
    table = drafter(1, prompts=200, tokens=LONG)
    sides = [
        cell(looping(other_text(table, seed), 0.3, seed), text=str(seed), seed=seed).prompts
        for seed in (1, 2)
    ]
    rng = np.random.default_rng(0)
    red = 0
    for _ in range(CELLS):
        drawn = zip(rng.choice(200, 12, replace=False), rng.integers(0, 2, 12), strict=True)
        prompts = tuple(((sides[s][i],), (sides[1 - s][i],)) for i, s in drawn)
        red += judge_pairs(Pairs(prompts=prompts, notes=())).kind == "regressed"
    assert red <= binom.ppf(0.999, CELLS, ALPHA_CELL)
