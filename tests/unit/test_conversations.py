"""Turns of one conversation are not independent: every interval and test counts conversations."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from harness.config.prompts import Prompt, first_rows
from harness.judge import over_none
from harness.judge.beginning import beginning_of
from harness.judge.curve import accepted_at
from harness.judge.pairing import pair
from harness.judge.verdict import Verdict, judge, judge_pairs
from harness.results.records import CellRecord, PromptRecord, dump_cell, load, tallies
from harness.results.stretches import intervals_of
from harness.stats.paired import LOOKS, MIN_PROMPTS, PairedRatio
from harness.suites import beside_none, tools
from harness.suites.acceptance import in_sequence
from tests.factories.records import cell_record, prompt_record

TURNS = 3


def answer(row: int, turn: int, steps: Sequence[int], **changes: Any) -> PromptRecord:
    """A turn of a row, with the drafts that each of its steps accepted."""
    name = f"row-{row:03}"
    histogram = tuple(int(n) for n in np.bincount(np.asarray(steps, dtype=int), minlength=5))
    known = {
        "accepted": tuple(int(s) for s in steps),
        "drafted": None,
        "draft_tokens": None,
        "histogram": histogram,
        "undrafted": 0,
        "output_tokens": 1 + int(sum(steps)) + len(steps),
        "finish": "stop",
        "prompt_hash": f"{name}#{turn}",
        "text_hash": f"{name}#{turn}",
        "conversation": name if turn > 1 else None,
    }
    return prompt_record(name if turn == 1 else f"{name}#{turn}", **(known | changes))


def cell(answers: Sequence[PromptRecord]) -> CellRecord:
    return cell_record(*answers, findings=())


def drawn(rng: np.random.Generator, rows: int, *, turns: int = TURNS) -> list[PromptRecord]:
    """Rows whose turns are all alike: the most that turns of one row can depend on each other."""
    steps = [rng.binomial(4, rng.beta(2, 3), size=12) for _ in range(rows)]
    return [answer(row, turn, s) for row, s in enumerate(steps) for turn in range(1, turns + 1)]


def verdict(seed: int, *, turns: int, rows: int = 30) -> Verdict:
    one, other = (drawn(np.random.default_rng(seed + i), rows, turns=turns) for i in (0, 1))
    return judge(cell(one), cell(other))


def test_turns_that_repeat_their_row_do_not_shrink_the_interval() -> None:
    for seed in range(0, 20, 2):
        alone, thrice = (verdict(seed, turns=turns) for turns in (1, TURNS))
        assert thrice.interval == pytest.approx(alone.interval)
        assert (thrice.prompts, thrice.same_text) == (30, 30)
        assert thrice.primary
        assert alone.primary
        assert thrice.primary.p_loss() == pytest.approx(alone.primary.p_loss())


def test_a_change_of_nothing_is_found_as_often_as_alpha_says() -> None:
    cells = 250
    found = [verdict(seed, turns=TURNS, rows=15).primary for seed in range(1000, 1000 + 2 * cells, 2)]
    alarms = sum(change.p_loss() <= 0.05 for change in found if change)
    assert alarms <= scipy.stats.binom.ppf(0.999, cells, 0.05)


@pytest.mark.parametrize("rows", [MIN_PROMPTS - 1, MIN_PROMPTS])
def test_a_verdict_needs_as_many_conversations_as_prompts(rows: int) -> None:
    said = verdict(0, turns=TURNS, rows=rows)
    assert (said.kind == "invalid") == (rows < MIN_PROMPTS)


def test_what_was_compared_is_called_by_its_name() -> None:
    alone, thrice = (verdict(0, turns=turns) for turns in (1, TURNS))
    assert (alone.unit, thrice.unit) == ("prompts", "conversations")
    assert "30 conversations" in thrice.text
    assert any("90" in note for note in thrice.notes)
    assert not alone.notes


@pytest.mark.parametrize(
    "width",
    [
        lambda rs: np.diff(intervals_of(rs, tallies(rs))[0] or (0, 0)),
        lambda rs: np.diff(over_none.interval_of(cell(rs)) or (0, 0)),
        lambda rs: accepted_at(rs, 4)[1],
        lambda rs: changed(rs).se,
        lambda rs: np.diff(intervals_of(rs, tallies(rs))[1][1] or (0, 0)),
    ],
    ids=["table", "recipe", "curve", "suites", "positions"],
)
def test_the_interval_of_one_cell_counts_conversations(
    width: Callable[[Sequence[PromptRecord]], float],
) -> None:
    alone, thrice = (drawn(np.random.default_rng(3), 20, turns=turns) for turns in (1, TURNS))
    assert width(thrice) == pytest.approx(width(alone))
    assert width(alone) > 0


def changed(records: Sequence[PromptRecord]) -> PairedRatio:
    plain = [r.model_copy(update={"output_tokens": 20}) for r in records]
    found = beside_none.paired(cell(plain), cell(records), beside_none.later_tokens, lambda _: 1.0)
    assert found
    return found


def test_a_conversation_with_a_broken_call_is_lost_once() -> None:
    asked = [
        Prompt(id="row-000", language="en", text="a", request={"response_format": {"type": "json_object"}})
    ]
    asked += [
        Prompt(id=f"row-000#{turn}", language="en", text="a", row="row-000", request=asked[0].request)
        for turn in (2, 3)
    ]
    good, bad = ([answer(0, t, [1], text=text) for t in (1, 2, 3)] for text in ("{}", "no"))
    pairs = tools.Pairs.of({p.id: p for p in asked}, cell(good), cell(bad))
    assert pairs.lost == ["row-000"]
    assert pairs.rows()[-1]["prompts"] == 1


def test_behind_the_turn_that_parts_nothing_is_a_common_beginning() -> None:
    ids = tuple(range(10))
    old = tuple(answer(0, t, [2, 2, 2], token_ids=ids) for t in (1, 2, 3))
    parted = answer(0, 2, [2, 2, 2], token_ids=(*ids[:5], 99, *ids[6:]), text_hash="other")
    found = beginning_of(old, (old[0], parted, old[2]))
    assert found
    for side in found:
        assert [r.tally.decode_steps for r in side] == [3, 1, 0]


def test_later_turns_that_follow_other_answers_may_still_be_compared_up_to_there() -> None:
    ids = tuple(range(37))
    steps = [2] * 12
    old, new = [], []
    for row in range(20):
        same = {"token_ids": ids, "prompt_text_hash": f"text-{row}"}
        for turn in (1, 2):
            more = {**same, "prompt_text_hash": f"text-{row}-{turn}"}
            old.append(answer(row, turn, steps, **more))
            other = {"token_ids": (*ids[:-1], 99), "text_hash": "x"}
            other |= {"prompt_hash": f"other-{row}"} if turn > 1 else {}
            new.append(answer(row, turn, steps if turn == 1 else [1] * 18, **(more | other)))
    pairs = pair(cell(old), cell(new))
    assert pairs.same_start
    (note,) = pairs.notes
    assert re.findall(r"\d+", note) == ["20", "40", "20"]
    shown = judge_pairs(pairs)
    assert shown.share is not None
    assert shown.share < 0.5


def test_a_look_asks_whole_conversations() -> None:
    prompts = [
        Prompt(id=f"{row}#{turn}", language="en", text="a", row=f"{row}")
        for row in range(100)
        for turn in range(TURNS)
    ]
    asked = in_sequence(prompts)
    assert len(asked) == TURNS * LOOKS[-1]
    for look in LOOKS:
        first = first_rows(asked, look)
        assert first == asked[: TURNS * look]
    assert first_rows(asked, None) == asked


def test_files_of_before_are_read_and_those_of_now_come_back(tmp_path: Path) -> None:
    now = cell(drawn(np.random.default_rng(0), 2))
    path = tmp_path / "cell.json"
    path.write_text(dump_cell(now))
    assert load(path, CellRecord) == now
    data = json.loads(path.read_text())
    for one in data["prompts"]:
        del one["conversation"]
    path.write_text(json.dumps(data))
    assert [r.unit for r in load(path, CellRecord).prompts] == [r.prompt for r in now.prompts]
