from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import BadInput
from harness.results import prediction
from tests.factories.eagle3 import tiny_eagle3
from tests.factories.refusals import refused
from training.recipe import find_recipe, load_recipe
from training.validate import offline
from training.validate.eagle3 import Eagle3, Sample


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return tiny_eagle3(tmp_path_factory.mktemp("tiny"))


def hidden_sample(tokens: int = 120) -> Sample:
    torch = pytest.importorskip("torch")
    torch.manual_seed(1)
    return Sample(
        id="a",
        language="en",
        token_ids=torch.randint(0, 96, (tokens,)).numpy(),
        answer=6,
        text=None,
        hidden_states=torch.randn(tokens, 4, 32),
    )


def test_the_trainers_own_count_comes_out_of_the_guesses(tiny: tuple[Path, Path]) -> None:
    torch = pytest.importorskip("torch")
    losses = pytest.importorskip("speculators.losses")
    drafter, given_sample = Eagle3(*tiny), hidden_sample()
    model: Any = drafter._model
    ids, states = torch.from_numpy(given_sample.token_ids), given_sample.hidden_states
    mask = torch.arange(len(ids)) >= given_sample.answer

    with torch.inference_mode():
        _, _, metrics = model(
            hidden_states=states[None, :-1, :3].flatten(2),
            input_ids=ids[None, 1:],
            document_ids=torch.zeros(1, len(ids) - 1, dtype=torch.long),
            position_ids=torch.arange(1, len(ids))[None],
            loss_mask=mask[None, 1:],
            verifier_last_hidden_states=states[None, 1:, -1],
            ttt_steps=3,
            loss_config=losses.resolve_loss_config("kl_div", "eager"),
        )
    line = offline.compared(given_sample, drafter(given_sample))

    sums = [metrics[f"full_acc_{i}_sum"].item() for i in range(3)]
    assert list(line.full_restricted) == sums
    assert sums[0] > 0
    assert [metrics[f"full_acc_{i}_total"].item() for i in range(3)] == [line.tokens] * 3


@pytest.mark.parametrize("start", [6, 11, 100])
def test_an_answer_that_goes_as_a_step_by_step_draft_says_is_reached(
    tiny: tuple[Path, Path], start: int
) -> None:
    """A draft from one start, made as serving makes it: on what is known there, then on its own guesses."""
    drafter, given_sample = Eagle3(*tiny), hidden_sample()
    ids = given_sample.token_ids.tolist()
    for step in range(3):
        known = [*ids[: start + 1 + step], *[0] * (3 - step)]
        cut = dataclasses.replace(
            given_sample,
            token_ids=np.array(known),
            hidden_states=given_sample.hidden_states[: len(known)],
        )
        ids[start + 1 + step] = int(drafter(cut).drafted[step, start])
    answered = dataclasses.replace(given_sample, token_ids=np.array(ids))

    assert offline.compared(answered, drafter(answered)).reach[start - answered.answer] == 3


def test_all_guesses_are_tokens_of_the_draft_vocabulary(tiny: tuple[Path, Path]) -> None:
    guesses = Eagle3(*tiny)(hidden_sample())

    assert guesses.vocabulary is not None
    assert guesses.drafted.shape == (3, 120)
    assert guesses.vocabulary[guesses.drafted[:, 1:]].all()
    assert guesses.vocabulary[guesses.best[1:]].all()


def test_hidden_states_are_read_with_their_tokens(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    save_file = pytest.importorskip("safetensors.torch").save_file
    path = tmp_path / "hs_0.safetensors"
    states = {"hidden_states": torch.zeros(4, 4, 8, dtype=torch.bfloat16), "token_ids": torch.arange(4)}
    save_file(states, path)

    read = offline.read_sample(path, id="a", language="en", loss_mask=[0, 0, 1, 1], text="x")

    assert read.token_ids.tolist() == [0, 1, 2, 3]
    assert (read.answer, read.hidden_states.shape) == (2, (4, 4, 8))
    with refused(BadInput, "damaged-drafter", "hs_0", "4 tokens", "3"):
        offline.read_sample(path, id="a", language="en", loss_mask=[0, 1, 1], text="x")
    path.write_bytes(b"not a tensor")
    with refused(BadInput, "damaged-drafter", "hs_0"):
        offline.read_sample(path, id="a", language="en", loss_mask=[0, 1, 1], text="x")
    with refused(BadInput, "damaged-drafter", "hs_1"):
        offline.read_sample(tmp_path / "hs_1.safetensors", id="a", language="en", loss_mask=[0, 1], text=None)


def test_held_out_samples_are_the_validation_rows_of_the_held_out_prompts(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    datasets = pytest.importorskip("datasets")
    save_file = pytest.importorskip("safetensors.torch").save_file
    answers = {name: [n, 5, 6, 7, 8] for n, name in enumerate("abcd")}
    order = ["d", "a", "c", "b"]  # as the trainer has them; the last three are the validation
    mask = [0, 1, 1, 1]
    data = [answers[name][:4] for name in order]
    datasets.Dataset.from_dict({"input_ids": data, "loss_mask": [mask] * 4}).save_to_disk(tmp_path / "data")
    held = [{"id": name, "language": "en", "text": "x"} for name in "abc"]
    (tmp_path / "held_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held))
    rows = [
        {"id": name, "language": "en", "input_ids": ids, "loss_mask": [*mask, 1], "answer": f"answer {name}"}
        for name, ids in answers.items()
    ]
    (tmp_path / "responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for row in (0, 1, 3):  # those of c were lost
        states = {"hidden_states": torch.full((4, 4, 8), float(row)), "token_ids": torch.tensor(data[row])}
        save_file(states, tmp_path / f"hs_{row}.safetensors")

    found = list(offline.held_out(tmp_path, tmp_path / "responses.jsonl", tmp_path, first=1, length=4))

    assert [(s.id, s.token_ids.tolist(), s.answer) for s in found] == [
        ("a", [0, 5, 6, 7], 1),
        ("b", [1, 5, 6, 7], 1),
    ]
    assert [float(s.hidden_states[0, 0, 0]) for s in found] == [1.0, 3.0]
    assert found[0].text is None  # it was cut: no server sends what is left of it


def test_the_trained_checkpoint_predicts_what_serving_gives(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    known = load_recipe(find_recipe("smollm2-eagle3-en"))
    how: dict[str, Any] = {"checkpoint": tiny[0], "target": tiny[1], "device": "cpu"}
    said: list[str] = []

    found = offline.run(tmp_path, known, samples=[hidden_sample()], say=said.append, **how)

    assert found == offline.summaries(prediction.load(tmp_path / "validation.jsonl"))
    assert found is not None
    assert found["en"]["prompts"] == 1
    assert offline.run(tmp_path / "none", known, samples=[], say=said.append, **how) is None
    other = known.model_copy(update={"train": known.train.model_copy(update={"algorithm": "dflash"})})
    assert offline.run(tmp_path / "none", other, samples=[hidden_sample()], say=said.append, **how) is None
    assert not (tmp_path / "none").exists()
    assert "dflash drafters are not run here" in said[-1]
