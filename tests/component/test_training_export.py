from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.config.variants import Target
from harness.engine.models import sha256_of
from harness.errors import BadInput
from harness.report.card import values_of
from tests.factories.eagle3 import tiny_eagle3
from tests.factories.records import cell_record, prompt_record
from tests.factories.refusals import refused
from training.errors import TrainingFailed
from training.export import export, model_card
from training.recipe import find_recipe, load_recipe
from training.stages import Context
from training.validate.eagle3 import Eagle3, Sample

TARGET = Target(model="embedded:smollm2-135m-instruct", dtype="bfloat16")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return tiny_eagle3(tmp_path_factory.mktemp("tiny"))


def exported(tiny: tuple[Path, Path], to: Path, **changes: Any) -> dict[str, Any]:
    checkpoint, verifier = tiny
    values: dict[str, Any] = {
        "checkpoint": checkpoint,
        "verifier": str(verifier),
        "target": TARGET,
        "records": {"drafter": "tiny1", "recipe": {"name": "tiny"}},
        "texts": {
            "log.txt": f"loading {verifier}/model.safetensors\n",
            "validation.jsonl": '{"a": "/home/b"}\n',
        },
        "to": to,
    }
    return export.export(**(values | changes))


def tensors(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = pytest.importorskip("safetensors.torch").load_file(folder / "model.safetensors")
    return loaded


def test_the_folder_holds_what_the_engine_needs_and_no_embeddings(
    tiny: tuple[Path, Path], tmp_path: Path
) -> None:
    exported(tiny, tmp_path / "tiny1")

    before, after = tensors(tiny[0]), tensors(tmp_path / "tiny1")
    assert set(before) - set(after) == {"embed_tokens.weight"}
    assert {"d2t", "t2d", "lm_head.weight", "fc.weight", "norm.weight", "input_norm.weight"} < set(after)
    assert all((after[name] == before[name]).all() for name in after)
    assert {str(t.dtype) for t in after.values()} == {"torch.bfloat16", "torch.int64", "torch.bool"}


def test_the_configuration_says_to_every_engine_what_was_trained(
    tiny: tuple[Path, Path], tmp_path: Path
) -> None:
    exported(tiny, tmp_path / "tiny1")

    config = json.loads((tmp_path / "tiny1" / "config.json").read_text())
    assert config["speculators_config"]["verifier"]["name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    layer = config["transformer_layer_config"]
    assert config["norm_output"] is layer["norm_output"] is True
    assert layer["fc_norm"] is False
    assert layer["num_aux_hidden_states"] == 3
    assert config["dtype"] == layer["dtype"] == "bfloat16"
    assert config["eagle_aux_hidden_state_layer_ids"] == [1, 3, 5]


def test_the_engine_makes_of_the_configuration_what_was_trained(
    tiny: tuple[Path, Path], tmp_path: Path
) -> None:
    base = pytest.importorskip("vllm.transformers_utils.configs.speculators.base")
    exported(tiny, tmp_path / "tiny1")

    config = base.SpeculatorsConfig.from_pretrained(tmp_path / "tiny1")

    assert (config.norm_output, config.norm_before_fc, config.norm_before_residual) == (True, True, True)
    assert (config.draft_vocab_size, config.num_aux_hidden_states, config.vocab_size) == (48, 3, 96)
    assert config.eagle_aux_hidden_state_layer_ids == [1, 3, 5]
    assert config.architectures == ["Eagle3LlamaForCausalLM"]


def test_four_layers_are_told_as_four(tmp_path: Path) -> None:
    exported(tiny_eagle3(tmp_path, layers=(1, 2, 3, 5)), tmp_path / "tiny1")

    config = json.loads((tmp_path / "tiny1" / "config.json").read_text())
    assert config["transformer_layer_config"]["num_aux_hidden_states"] == 4


def test_the_exported_drafter_guesses_as_its_checkpoint_does(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    exported(tiny, tmp_path / "tiny1")
    sample = Sample(
        id="a", language="en", token_ids=np.arange(40) * 7 % 96, answer=5, text=None,
        hidden_states=torch.randn(40, 4, 32),
    )  # fmt: skip

    before, after = Eagle3(*tiny)(sample), Eagle3(tmp_path / "tiny1", tiny[1])(sample)

    assert (before.drafted == after.drafted).all()
    assert (before.best == after.best).all()


def test_an_exported_drafter_has_the_embeddings_of_the_verifier_it_is_run_with(
    tiny: tuple[Path, Path], tmp_path: Path
) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    exported(tiny, tmp_path / "tiny1")
    # Another verifier than the one before: memory that held its embeddings must not do for these.
    verifier = shutil.copytree(tiny[1], tmp_path / "target")
    weights = safetensors.load_file(verifier / "model.safetensors")
    weights["model.embed_tokens.weight"] *= -2
    safetensors.save_file(weights, verifier / "model.safetensors", metadata={"format": "pt"})

    model = Eagle3(tmp_path / "tiny1", verifier)._model

    assert (model.embed_tokens.weight == weights["model.embed_tokens.weight"]).all()


def test_the_same_checkpoint_gives_the_same_bytes(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    first = exported(tiny, tmp_path / "one")
    again = exported(tiny, tmp_path / "two")

    assert first == again
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_every_file_has_its_size_and_hash(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    exported(tiny, tmp_path / "tiny1")

    known = export.load(tmp_path / "tiny1")
    assert set(known["files"]) == {"config.json", "log.txt", "model.safetensors", "validation.jsonl"}
    for name, file in known["files"].items():
        path = tmp_path / "tiny1" / name
        assert file == {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        assert file["sha256"] in (tmp_path / "tiny1" / "README.md").read_text(encoding="utf-8")


def test_nothing_names_a_place_on_this_machine(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    exported(
        tiny, tmp_path / "tiny1", records={"drafter": "tiny1", "training": {"log": str(tmp_path / "x.log")}}
    )

    for name in ("config.json", "log.txt", "training.json", "README.md"):
        text = (tmp_path / "tiny1" / name).read_text(encoding="utf-8")
        assert str(tmp_path.parent) not in text
    assert (tmp_path / "tiny1" / "log.txt").read_text(encoding="utf-8") == "loading …/model.safetensors\n"
    assert "/home/b" in (tmp_path / "tiny1" / "validation.jsonl").read_text()  # a prompt's own words stay


def test_embeddings_that_are_not_the_targets_stay(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint = tmp_path / "trained"
    shutil.copytree(tiny[0], checkpoint)
    values = tensors(checkpoint)
    values["embed_tokens.weight"][3] += 1
    pytest.importorskip("safetensors.torch").save_file(values, checkpoint / "model.safetensors")

    exported((checkpoint, tiny[1]), tmp_path / "tiny1")

    assert "embed_tokens.weight" in tensors(tmp_path / "tiny1")


def test_weights_that_are_not_finite_are_refused(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint = tmp_path / "trained"
    shutil.copytree(tiny[0], checkpoint)
    values = tensors(checkpoint)
    values["fc.weight"][0, 0] = float("nan")
    pytest.importorskip("safetensors.torch").save_file(values, checkpoint / "model.safetensors")

    with refused(BadInput, "damaged-drafter", "fc.weight"):
        exported((checkpoint, tiny[1]), tmp_path / "tiny1")
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_a_drafter_that_was_there_stays_until_the_new_one_is_whole(
    tiny: tuple[Path, Path], tmp_path: Path
) -> None:
    exported(tiny, tmp_path / "tiny1")
    (tmp_path / "tiny1" / "old").touch()
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny[0], damaged)
    (damaged / "model.safetensors").write_bytes(b"")
    with pytest.raises(BadInput):
        exported((damaged, tiny[1]), tmp_path / "tiny1")
    assert (tmp_path / "tiny1" / "old").exists()

    exported(tiny, tmp_path / "tiny1")
    assert not (tmp_path / "tiny1" / "old").exists()


@pytest.mark.parametrize("config", ["", "[]", "{}", '{"transformer_layer_config": {}}'])
def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)

    with refused(BadInput, "damaged-drafter", "config.json"):
        exported((tmp_path, tmp_path), tmp_path / "out")


def test_served_figures_go_into_records_and_card(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "tiny1"
    exported(tiny, folder)
    prompts = [prompt_record(f"instruct-{i:03}") for i in range(8)]
    one = values_of(cell_record(*prompts), run="a")

    export.add_served(folder, [one])
    export.add_served(folder, [one | {"tokens_per_step": 9.87}, one | {"language": "zh"}])

    known = export.load(folder)["served"]
    assert [(s["language"], round(s["tokens_per_step"], 2)) for s in known] == [("en", 9.87), ("zh", 2.38)]
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "9.87" in card
    assert "Chinese" in card


def test_the_card_of_a_drafter_names_its_method_as_vllm_does() -> None:
    text = model_card.text({"recipe": {"train": {"algorithm": "peagle"}}})

    assert '{"method": "eagle3"' in text


def stages_in(folder: Path, tiny: tuple[Path, Path]) -> dict[str, Path]:
    """What the stages before the export left."""
    stages = {name: folder / name for name in ("prompts", "responses", "dataset", "train")}
    for place in stages.values():
        place.mkdir()
        (place / "stage.json").write_text(
            json.dumps({"schema": 1, "seconds": 2.5, "counts": {"train_rows": 2}})
        )
    row = {"id": "a", "source": "template:x", "language": "en", "text": "Hi", "prompt": "Hi"}
    answer = row | {"temperature": 0.0, "loss_mask": [0, 1, 1], "input_ids": [1, 2, 3]}
    other = {"id": "b", "source": "self", "language": "zh"}
    (stages["prompts"] / "prompts.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row | other) + "\n")
    (stages["responses"] / "responses.jsonl").write_text(json.dumps(answer) + "\n")
    dropped = {"schema": 1, "dropped": {"degenerate": {"zh": {"self": 1}}}, "kept": {}}
    (stages["responses"] / "dropped.json").write_text(json.dumps(dropped))
    (stages["dataset"] / "held_out.jsonl").write_text(json.dumps(row) + "\n")
    (stages["train"] / "report.json").write_text(json.dumps({"steps": 12, "fetch_frac": 0.03}))
    (stages["train"] / "log.txt").write_text(f"saved {folder}/checkpoints\n")
    shutil.copytree(tiny[0], stages["train"] / "checkpoints" / "best")
    return stages


def context(folder: Path, stages: dict[str, Path], verifier: Path) -> Any:
    known = load_recipe(find_recipe("smollm2-eagle3-en"))
    target = known.target.model_copy(update={"model": str(verifier), "served_name": "org/tiny"})
    values: dict[str, Any] = {
        "recipe": known.model_copy(update={"target": target}), "work": folder, "folder": folder / "export",
        "upstream": stages, "servers": None, "say": lambda _: None, "stall_seconds": 1.0,
        "keep_hidden_states": False,
    }  # fmt: skip
    return Context(**values)


def test_the_stage_tells_how_the_drafter_was_made(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    stages = stages_in(tmp_path, tiny)

    counts = export.run(context(tmp_path, stages, tiny[1]))

    folder = tmp_path / "export" / "eagle3r1"
    known = export.load(folder)
    assert counts["sha256"] == sha256_of(folder / "model.safetensors")
    assert known["target"] == "org/tiny"
    assert known["data"]["sources"] == [
        {"source": "self", "language": "zh", "prompts": 1, "answers": 0, "tokens": 0},
        {"source": "template:x", "language": "en", "prompts": 1, "answers": 1, "tokens": 2},
    ]
    assert known["data"]["dropped"] == {"degenerate": 1}
    assert known["data"]["train_rows"] == 2
    assert known["training"]["steps"] == 12
    assert known["seconds"]["train"] == 2.5
    assert known["validation"] is None
    assert known["versions"]["draftgate"]
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "org/tiny" in text
    assert (
        str(tmp_path)
        not in text + (folder / "training.json").read_text() + (folder / "recipe.toml").read_text()
    )


def test_without_a_validated_checkpoint_there_is_nothing_to_export(
    tiny: tuple[Path, Path], tmp_path: Path
) -> None:
    stages = stages_in(tmp_path, tiny)
    shutil.rmtree(stages["train"] / "checkpoints")

    with refused(TrainingFailed, "training-stopped", "best"):
        export.run(context(tmp_path, stages, tiny[1]))
