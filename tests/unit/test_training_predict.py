from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from harness.config.prompts import hash_of, load_held_out
from harness.errors import BadInput, BadRecord
from harness.results import prediction
from harness.results.prediction import Predicted, summarise, walk
from harness.stats.acceptance import overshoot_of
from tests.factories.refusals import refused
from training.validate import offline
from training.validate.eagle3 import Eagle3, Guesses, Sample

K = 3
PROMPT = [90, 91, 92, 93]
ANSWER = [10, 11, 12, 13, 14, 15]


def sample(answer: list[int] = ANSWER, **changes: Any) -> Sample:
    known: dict[str, Any] = {
        "id": "a",
        "language": "en",
        "token_ids": np.array([*PROMPT, *answer]),
        "answer": len(PROMPT),
        "text": f"text of {answer}",
        "hidden_states": None,
    }
    return Sample(**(known | changes))


def copying(sample: Sample, *, wrong: tuple[tuple[int, int], ...] = (), vocabulary: Any = None) -> Guesses:
    """A drafter that knows the answer, but for its guesses (step, for token) in `wrong`."""
    ids = sample.token_ids
    after = [np.concatenate([ids[1 + s :], np.full(1 + s, -1)]) for s in range(K)]
    drafted = np.stack(after)
    for step, token in wrong:
        drafted[step, sample.answer + token - 1 - step] = -2
    return Guesses(drafted=drafted, best=np.append(ids[1:], -3), vocabulary=vocabulary)


def test_a_drafter_that_copies_reaches_the_end_from_everywhere() -> None:
    line = offline.compared(sample(), copying(sample()))

    assert line.reach == (3, 3, 3, 2, 1)
    assert line.tokens == 6
    assert line.positions == 5
    assert line.full == (5, 4, 3)
    assert line.histogram == (
        0,
        1,
        0,
        1,
    )  # tokens 1 to 4 in one step, then the last with a bonus past the end
    assert line.full_restricted == (5, 4, 3)  # of 6 tokens: what follows the last is not known
    assert (line.outside, line.vocab_misses, line.not_argmax) == ((), 0, 0)


def test_a_wrong_guess_ends_its_own_draft_and_no_other() -> None:
    line = offline.compared(sample(), copying(sample(), wrong=((1, 3),)))

    assert line.reach == (3, 1, 3, 2, 1)  # of the draft from token 1, guess 1 is the one for token 3


def test_a_first_guess_that_is_wrong_is_met_only_where_serving_starts() -> None:
    line = offline.compared(sample(), copying(sample(), wrong=((0, 2), (0, 5))))

    assert line.reach == (3, 0, 3, 2, 0)
    assert line.histogram == (1, 0, 0, 1)  # the wrong guess for token 2 is skipped, the one for 5 is not
    assert line.full == (3, 3, 2)


def test_drafts_from_inside_the_prompt_do_not_count() -> None:
    guesses = copying(sample())
    guesses.drafted[:, : len(PROMPT)] = -2

    assert offline.compared(sample(), guesses).reach == (3, 3, 3, 2, 1)


def test_a_token_outside_the_draft_vocabulary_is_a_miss_that_the_trainer_does_not_count() -> None:
    vocabulary = np.ones(100, dtype=bool)
    vocabulary[12] = False
    guesses = copying(sample(), vocabulary=vocabulary)
    at = len(PROMPT) + 1  # where the guess for token 2 of the answer starts
    for step in range(K):
        guesses.drafted[step, at - step] = 50
    guesses.best[at] = 50

    line = offline.compared(sample(), guesses)

    assert line.outside == (2,)
    assert line.reach == (1, 0, 3, 2, 1)
    assert line.vocab_misses == 2
    assert line.full_restricted == (5, 4, 3)
    assert line.not_argmax == 0


def test_an_answer_that_was_not_greedy_shows() -> None:
    guesses = copying(sample())
    guesses.best[len(PROMPT) + 2] = 77

    assert offline.compared(sample(), guesses).not_argmax == 1


def test_prompt_and_answer_are_known_by_the_hashes_that_a_client_gives_them() -> None:
    line = offline.compared(sample(), copying(sample()))

    assert line.prompt_hash == hash_of(PROMPT)
    assert line.text_hash == hash_of(f"text of {ANSWER}")


def test_an_answer_of_one_token_has_no_decode_step() -> None:
    assert [line.tokens for line in offline.predict([sample([10]), sample([10, 11])], copying)] == [2]


@pytest.mark.parametrize(("mask", "start"), [([0, 0, 1, 1], 2), ([0, 1], 1)])
def test_an_answer_begins_where_the_mask_does(mask: list[int], start: int) -> None:
    assert offline.answer_of(mask) == start


@pytest.mark.parametrize("mask", [[], [0, 0], [1, 1], [0, 1, 0], [0, 1, 0, 1]])
def test_a_mask_of_anything_but_prompt_and_answer_is_refused(mask: list[int]) -> None:
    with refused(BadInput, "damaged-drafter"):
        offline.answer_of(mask)


reaches = st.integers(1, 5).flatmap(
    lambda k: st.tuples(st.just(k), st.lists(st.integers(0, k), min_size=1, max_size=40))
)


@given(reaches, st.integers(1, 6), st.integers(2, 50))
def test_a_walk_is_a_record_that_reconciles(drawn: tuple[int, list[int]], k: int, limit: int) -> None:
    most, raw = drawn
    tokens = len(raw) + 1
    reach = tuple(min(right, tokens - 1 - start) for start, right in enumerate(raw))

    line = Predicted.of(
        id="a", language="en", tokens=tokens, prompt_hash="p", text_hash=None, reach=reach, outside=(),
        full_restricted=(0,) * most, not_argmax=0,
    )  # fmt: skip
    steps = walk(reach, k=most, tokens=tokens)

    assert sum(n + 1 for n in steps) - (tokens - 1) in (0, 1)
    assert overshoot_of(line.histogram, undrafted=0, output_tokens=tokens) in (0, 1)
    cut = line.tally(k=min(k, most), max_tokens=limit)
    assert cut.committed == min(tokens, limit) - 1
    assert cut.decode_steps <= cut.committed
    assert Predicted.model_validate_json(line.model_dump_json(by_alias=True)) == line


def test_all_right_takes_a_step_every_k_and_one_tokens_and_all_wrong_one_every_token() -> None:
    assert walk([4] * 20, k=4, tokens=21) == [4, 4, 4, 4]
    assert walk([0] * 20, k=4, tokens=21) == [0] * 20
    assert walk([4] * 20, k=2, tokens=8) == [2, 2, 1]


def test_serving_meets_hard_starts_more_often_than_they_stand_in_the_answer() -> None:
    line = Predicted.of(
        id="a", language="en", tokens=25, prompt_hash="p", text_hash=None, reach=(1, 1, 0) * 8, outside=(),
        full_restricted=(16,), not_argmax=0,
    )  # fmt: skip

    found = summarise([line])

    assert found.full == (2 / 3,)  # two starts of three are easy, but one in two that serving meets
    assert found.walk == (1 / 2,)
    assert found.tokens_per_step == 1.5


def test_a_summary_holds_the_figures_by_language(tmp_path: Path) -> None:
    one = offline.compared(sample(), copying(sample()))
    other = offline.compared(
        sample(id="b", language="zh"), copying(sample(), wrong=tuple((0, t) for t in range(1, 6)))
    )

    found = offline.summaries([other, one])

    (tmp_path / "validation.jsonl").write_text(prediction.dump([other, one]), encoding="utf-8")
    assert prediction.load(tmp_path / "validation.jsonl") == (one, other)
    assert found["all"]["prompts"] == 2
    assert found["en"]["tokens_per_step"] == 2.5  # five tokens after the first in two steps
    assert found["zh"]["tokens_per_step"] == 1.0
    assert found["all"]["trainer"][0] == 5 / 12
    assert found["zh"]["vocab_share"] == 0.0
    assert found["en"]["accepted_first"] == 3.0
    assert found["en"]["accepted_rest"] == 1.5


def test_more_guesses_than_there_were_cannot_be_foretold() -> None:
    with pytest.raises(ValueError, match="k is 4"):
        summarise([offline.compared(sample(), copying(sample()))], k=4)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"histogram": [9, 0, 0, 0]}, "histogram"),
        ({"reach": [4, 3, 3, 2, 1]}, "4"),
        ({"reach": [1]}, "5"),
        ({"tokens": "six"}, "tokens"),
        ({"more": 1}, "more"),
    ],
)
def test_a_line_that_does_not_add_up_is_named(tmp_path: Path, change: dict[str, Any], name: str) -> None:
    path = tmp_path / "validation.jsonl"
    line = offline.compared(sample(), copying(sample()))
    text = prediction.dump([line])
    path.write_text(text + json.dumps({**json.loads(text), "id": "b", **change}) + "\n", encoding="utf-8")

    with refused(BadRecord, "damaged-file", "line 2", name):
        prediction.load(path)


def test_a_prompt_predicted_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "validation.jsonl"
    path.write_text(2 * prediction.dump([offline.compared(sample(), copying(sample()))]), encoding="utf-8")

    with refused(BadRecord, "damaged-file", "line 2", "'a'"):
        prediction.load(path)


@given(st.text(max_size=60))
def test_any_text_is_a_validation_file_or_is_refused(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.jsonl"
        path.write_text(text, encoding="utf-8")
        for load in (prediction.load, load_held_out):
            with contextlib.suppress(BadRecord):
                assert load(path) == ()


def test_held_out_prompts_are_read_by_id_language_and_text(tmp_path: Path) -> None:
    path = tmp_path / "held_out.jsonl"
    path.write_text('{"id": "a", "language": "zh", "text": "你好嗎", "source": "x"}\n', encoding="utf-8")

    assert [(p.id, p.language, p.text) for p in load_held_out(path)] == [("a", "zh", "你好嗎")]


def test_a_folder_without_an_eagle3_checkpoint_is_refused(tmp_path: Path) -> None:
    with refused(BadInput, "damaged-drafter", "config.json"):
        Eagle3(tmp_path, tmp_path)
    (tmp_path / "config.json").write_text('{"speculators_model_type": "dflash"}', encoding="utf-8")
    with refused(BadInput, "damaged-drafter", "'dflash'"):
        Eagle3(tmp_path, tmp_path)
