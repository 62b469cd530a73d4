from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from harness.measure.validity import total
from harness.results.prediction import Predicted, walk
from harness.results.records import Finding
from harness.suites.parity import KINDS, compare, ended, table
from harness.text.numbers import DASH
from harness.text.render import text_table
from tests.factories.predictions import (
    PROMPTS,
    TOKENS,
    K,
    answer,
    judged,
    predicted,
    reaches,
    served,
    spoiled,
)
from tests.factories.records import cell_record, failed_record
from tests.factories.tables import texts_of


def test_an_engine_that_guesses_as_the_trainer_does_has_parity_exactly() -> None:
    reach = reaches(1)

    found = judged(reach, reach)

    assert found.kind == "kept"
    assert found.primary is not None
    assert found.primary.identical
    assert found.primary.estimate == 0
    assert (found.prompts, found.same_text) == (PROMPTS, PROMPTS)
    assert all(p.gap is not None and p.gap.estimate == 0 for p in found.positions)


def test_what_the_engine_accepts_past_the_end_changes_nothing() -> None:
    reach = reaches(1)
    record = cell_record(*(answer(i, row, past_end=4) for i, row in enumerate(reach)), suite="parity")

    found = compare(predicted(reach), record, max_tokens=400)

    assert found.primary is not None
    assert found.primary.identical
    assert all(p.gap is not None and p.gap.estimate == 0 for p in found.positions)


@pytest.mark.parametrize(("past_end", "last"), [(0, 1), (2, 1), (3, 1)])
def test_the_last_step_is_cut_at_the_answers_end(past_end: int, last: int) -> None:
    tally = ended(
        answer(0, [4, 3, 2, 1, 0, 1], past_end=past_end), k=4
    )  # 5 tokens, then one and its bonus token

    assert tally.committed == 6
    assert tally.decode_steps == 2
    assert tally.at_least == (2, 2, 1, 1, 1)
    assert tally.accepted == 4 + last


def test_a_histogram_alone_keeps_its_steps_and_loses_no_token() -> None:
    tally = ended(answer(0, [4, 3, 2, 1, 0, 1], past_end=3, accepted=None, drafted=None), k=4)

    assert (tally.committed, tally.decode_steps) == (6, 2)


@pytest.mark.parametrize(
    ("loss", "kind"), [(0.0, "kept"), (0.005, "kept"), (0.12, "broken"), (0.5, "broken"), (1.0, "broken")]
)
def test_a_break_fails_and_a_trifle_does_not(loss: float, kind: str) -> None:
    reach = reaches(2)

    found = judged(reach, spoiled(reach, loss))

    assert found.kind == kind
    assert (KINDS[found.kind] == "failed") == (kind == "broken")


def test_the_bounds_are_one_sided_students_at_three_percent() -> None:
    """Near the margin the verdict follows the bound that the text gives, computed here by hand."""
    kinds = set()
    for seed in range(30):
        reach = reaches(seed, prompts=12)
        after = spoiled(reach, 0.06, seed=seed)
        found = judged(reach, after)
        x0 = x1 = np.full(12, TOKENS - 1.0)
        n0, n1 = (np.array([len(walk(r, k=K, tokens=TOKENS)) for r in side]) for side in (reach, after))
        d = math.log(n0.sum() / n1.sum())
        e = (x1 - n1 * x1.sum() / n1.sum()) / x1.mean() - (x0 - n0 * x0.sum() / n0.sum()) / x0.mean()
        half = scipy_stats.t.ppf(0.95, 11) * e.std(ddof=1) / math.sqrt(12)
        expected = "inconclusive"
        if d + half < math.log(0.97):
            expected = "broken"
        elif d - half > math.log(0.97):
            expected = "kept"
        assert found.kind == expected
        kinds.add(found.kind)
    assert {"broken", "inconclusive"} <= kinds


def test_other_texts_with_as_many_right_guesses_are_no_break() -> None:
    """An engine on other hardware writes other answers: the pairs differ, the drafter does not."""
    broken = 0
    for seed in range(40):
        found = judged(reaches(2 * seed), reaches(2 * seed + 1))
        broken += found.kind in {"broken", "better"}
    assert broken <= 2  # of 40, where 3 % are several standard errors away


def test_more_than_was_predicted_is_said() -> None:
    reach = reaches(3)

    found = judged(spoiled(reach, 0.3), reach)

    assert found.kind == "better"
    assert KINDS[found.kind] == "noteworthy"
    assert "not of this drafter" in found.text


def test_a_dead_drafter_is_a_break_and_no_refusal() -> None:
    dead = Finding(code="dead-drafter", hard=True, text="none of 99 drafts had its first token accepted")

    found = judged(reaches(1), [[0] * (TOKENS - 1)] * PROMPTS, findings=(dead,))

    assert found.kind == "broken"
    assert found.positions[0].served == 0


def test_what_is_no_measurement_is_refused() -> None:
    foreign = Finding(code="foreign-traffic", hard=True, text="the server finished 9 requests")

    found = judged(reaches(1), reaches(1), findings=(foreign,))

    assert (found.kind, found.measured) == ("invalid", False)
    assert "the server finished 9 requests" in found.text


def test_prompts_that_are_rendered_otherwise_are_not_compared() -> None:
    reach = reaches(1)
    answers = [answer(i, row, prompt_hash="other" if i < 10 else f"hash-{i}") for i, row in enumerate(reach)]

    found = compare(predicted(reach), cell_record(*answers), max_tokens=400)

    assert found.kind == "invalid"
    assert "50 of 60 prompts can be compared, 54 are the least" in found.text
    assert "10 prompts are rendered to other tokens" in found.text


def test_prompts_whose_tokens_the_server_hides_are_compared_with_a_note() -> None:
    reach = reaches(1)
    hidden = [answer(i, row, prompt_hash=f"t{i}", prompt_text_hash=f"t{i}") for i, row in enumerate(reach)]
    found = compare(predicted(reach), cell_record(*hidden), max_tokens=400)
    known = compare(predicted(reach), cell_record(*(answer(*r) for r in enumerate(reach))), max_tokens=400)
    assert found.kind == known.kind == "kept"
    assert len(found.notes) == len(known.notes) + 1
    other = [answer(i, row, prompt_hash="other", prompt_text_hash=f"t{i}") for i, row in enumerate(reach)]
    assert compare(predicted(reach), cell_record(*other), max_tokens=400).kind == "invalid"


def test_a_few_lost_prompts_are_counted_and_no_more() -> None:
    reach = reaches(1)
    answers = [answer(i, row) for i, row in enumerate(reach[:-1])]

    found = compare(
        predicted(reach), cell_record(*answers, failed_record(f"p{PROMPTS - 1:03}")), max_tokens=400
    )

    assert found.kind == "kept"
    assert found.prompts == PROMPTS - 1
    assert found.notes[0] == "1 prompts have no answer with a decode step"


def test_seven_prompts_are_too_few() -> None:
    reach = reaches(1, prompts=7)

    assert judged(reach, reach).kind == "invalid"


def test_a_smaller_k_is_predicted_from_the_same_guesses() -> None:
    reach = reaches(4)

    found = judged(reach, reach_at(reach, 2), k=2)

    assert found.kind == "kept"
    assert found.primary is not None
    assert found.primary.identical
    assert len(found.positions) == 2


def reach_at(reach: list[list[int]], k: int) -> list[list[int]]:
    return [[min(n, k) for n in row] for row in reach]


def test_shorter_answers_are_predicted_from_the_same_guesses() -> None:
    reach = reaches(4)
    cut = [[min(n, 40 - 1 - start) for start, n in enumerate(row[:39])] for row in reach]

    found = compare(predicted(reach), served(cut), max_tokens=40)

    assert found.primary is not None
    assert found.primary.identical
    assert found.summary is not None
    assert found.summary.walk == tuple(p.predicted for p in found.positions)


def test_answers_that_differ_are_counted() -> None:
    reach = reaches(1)
    answers = [answer(i, row, text_hash="other" if i % 2 else f"text-{i}") for i, row in enumerate(reach)]

    found = compare(predicted(reach), cell_record(*answers), max_tokens=400)

    assert found.same_text == PROMPTS // 2
    assert "30 with the same answer" in found.text


def test_what_explains_the_trainers_figure_is_told() -> None:
    lines = predicted(reaches(1))
    first = lines[0]
    unknown = tuple(s + 1 + n for s, n in enumerate(first.reach) if n < min(K, TOKENS - 1 - s))[:1]
    known = first.model_dump(include={"id", "language", "tokens", "prompt_hash", "text_hash", "reach"})
    lines[0] = Predicted.of(**known, outside=unknown, full_restricted=first.full, not_argmax=90)
    lines[1:] = [line.model_copy(update={"not_argmax": 90}) for line in lines[1:]]

    found = compare(lines, served([list(line.reach) for line in lines]), max_tokens=400)

    told = " ".join(found.notes)
    assert "% of first wrong guesses were for tokens the drafter cannot say" in told
    assert "from the first 4 tokens of an answer" in told
    assert "answers that were not greedy" in told


def test_the_table_sets_all_figures_side_by_side() -> None:
    reach = reaches(5)
    found = judged(reach, spoiled(reach, 0.2))
    benchmark = total(served(reaches(6, 0.3)).prompts)

    header, body = texts_of(table(found, benchmark))

    assert [row[0] for row in body] == ["position 0", "position 1", "position 2", "position 3", "tokens/step"]
    assert found.summary is not None
    assert body[0][1] == f"{100 * found.summary.trainer[0]:.1f}"
    assert body[0][3] == f"{100 * float(found.positions[0].predicted or 0):.1f}"
    assert body[0][5].startswith("-")
    assert body[0][7] == f"{100 * float(benchmark.acceptance[0] or 0):.1f}"
    assert body[4][3:5] == [f"{found.primary.r0:.2f}", f"{found.primary.r1:.2f}"] if found.primary else False
    assert text_table(header, body)


def test_a_benchmark_that_was_not_measured_is_an_em_dash() -> None:
    reach = reaches(5)

    _, body = texts_of(table(judged(reach, reach), None))

    assert [row[-1] for row in body] == [DASH] * 5
