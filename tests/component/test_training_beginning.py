from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("speculators")

import numpy as np  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from speculators.train.config import TrainConfig  # noqa: E402

from harness.config.variants import Target  # noqa: E402
from harness.errors import BadInput  # noqa: E402
from tests.factories.eagle3 import tiny_eagle3  # noqa: E402
from tests.factories.refusals import refused  # noqa: E402
from training.export.export import export  # noqa: E402
from training.hidden.extract import layers_of  # noqa: E402
from training.recipe import find_recipe, load_recipe  # noqa: E402
from training.trainer import stage, warm_start  # noqa: E402
from training.validate.eagle3 import EMBEDDINGS  # noqa: E402


@pytest.fixture
def exported(tmp_path: Path) -> tuple[Path, Path]:
    """A drafter without embeddings, and its target."""
    checkpoint, target = tiny_eagle3(tmp_path)
    drafter = tmp_path / "drafter"
    export(
        checkpoint=checkpoint,
        verifier=str(target),
        target=Target(model="org/tiny", dtype="bfloat16"),
        records={},
        texts={},
        to=drafter,
    )
    assert EMBEDDINGS not in load_file(drafter / "model.safetensors")
    return drafter, target


def test_an_exported_drafter_gets_the_targets_embeddings_back(
    exported: tuple[Path, Path], tmp_path: Path
) -> None:
    drafter, target = exported
    found = warm_start.arguments(str(drafter), target=str(target), to=tmp_path / "start")
    whole = load_file(Path(found["from_pretrained"]) / "model.safetensors")
    own = load_file(target / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(whole[EMBEDDINGS], own)
    assert {value.dtype for value in whole.values() if value.is_floating_point()} == {torch.float32}
    assert set(whole) == {*load_file(drafter / "model.safetensors"), EMBEDDINGS}


def test_its_verifier_is_the_target_at_hand(exported: tuple[Path, Path], tmp_path: Path) -> None:
    drafter, target = exported
    found = warm_start.arguments(str(drafter), target=str(target), to=tmp_path / "start")
    config = json.loads((Path(found["from_pretrained"]) / "config.json").read_text())
    assert config["speculators_config"]["verifier"]["name_or_path"] == str(target)


def test_it_keeps_its_own_vocabulary(exported: tuple[Path, Path], tmp_path: Path) -> None:
    drafter, target = exported
    found = warm_start.arguments(str(drafter), target=str(target), to=tmp_path / "start")
    tensors = load_file(drafter / "model.safetensors")
    assert found["draft_vocab_size"] == len(tensors["d2t"])
    assert np.array_equal(np.load(found["d2t_path"]), tensors["d2t"].numpy())
    assert np.array_equal(np.load(found["t2d_path"]), tensors["t2d"].numpy())


def test_a_hub_id_is_passed_on(tmp_path: Path) -> None:
    found = warm_start.arguments("org/drafter", target="/nowhere", to=tmp_path / "start")
    assert found == {"from_pretrained": "org/drafter"}


@pytest.mark.parametrize("started", [True, False])
def test_the_trainer_takes_its_arguments(
    exported: tuple[Path, Path], tmp_path: Path, *, started: bool
) -> None:
    drafter, target = exported
    (target / "config.json").write_text('{"num_hidden_layers": 8}', encoding="utf-8")
    changes = [f"train.from_pretrained={drafter}"] if started else []
    settings = stage.trainer_settings(
        load_recipe(find_recipe("smoke-cpu"), changes),
        tmp_path / "train", data=tmp_path, hidden=tmp_path, target=str(target), cpu=True,
    )  # fmt: skip
    config = TrainConfig.resolve(settings["arguments"])
    assert bool(config.draft.from_pretrained) == started


@pytest.mark.parametrize("broken", ["", "{}", "{"])
def test_what_is_no_drafter_is_refused(tmp_path: Path, broken: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text(broken)
    with refused(BadInput, "damaged-drafter", "train.from_pretrained"):
        warm_start.arguments(str(folder), target="/nowhere", to=tmp_path / "start")


def test_a_drafter_that_is_trained_further_keeps_its_layers(exported: tuple[Path, Path]) -> None:
    drafter, target = exported
    config = json.loads((drafter / "config.json").read_text())
    (drafter / "config.json").write_text(json.dumps(config | {"eagle_aux_hidden_state_layer_ids": [0, 1]}))
    recipe = load_recipe(find_recipe("smoke-cpu"), [f"train.from_pretrained={drafter}"])

    assert layers_of(recipe, str(target)) == (0, 1)
    others = load_recipe(
        find_recipe("smoke-cpu"), [f"train.from_pretrained={drafter}", "hidden_states.layers=[1]"]
    )
    with refused(BadInput, "training-option", "[1]", "[0, 1]"):
        layers_of(others, str(target))


def test_a_drafter_that_is_trained_further_keeps_its_vocabulary(exported: tuple[Path, Path]) -> None:
    drafter, _ = exported
    kept = load_file(drafter / "model.safetensors")["t2d"]

    found = warm_start.vocabulary(str(drafter))

    assert found is not None
    assert sorted(found) == [at for at, one in enumerate(kept.tolist()) if one]
