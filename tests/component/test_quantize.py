"""`kind = "quantize"`: what the patterns take and leave, and what is refused; llm-compressor is played."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.factories.tiny_target import tiny_target
from training import __main__ as cli
from training.targets.folder import Model, Tensor
from training.targets.patterns import takes
from training.targets.recipe import TARGETS, Quantize, load_target_recipe

pytestmark = pytest.mark.usefixtures("own_signals")

RECIPE = """\
schema = 1
name = "small"
about = "a test"
kind = "quantize"

[target]
model = "{base}"
dtype = "float32"

[divergence]
texts = 3
tokens = 24

[quantize]
scheme = "W8A8"
ignore = ["re:.*embed_tokens$", "re:.*norm$"]
optional = ["lm_head"]
python = "{python}"
"""
FAKE = """#!{python}
import json, shutil, sys
job = json.loads(sys.argv[3])
assert job["scheme"] == "W8A8" and job["ignore"] == ["re:.*embed_tokens$", "re:.*norm$", "lm_head"]
shutil.copytree(job["source"], job["folder"], dirs_exist_ok=True)
{more}
"""
LAYER = "model.language_model.layers.0."
GEMMA4 = {
    "model.language_model.embed_tokens.weight": (512, 64),
    f"{LAYER}layer_scalar": (1,),
    f"{LAYER}self_attn.q_proj.weight": (64, 64),
    f"{LAYER}self_attn.q_norm.weight": (16,),
    f"{LAYER}mlp.gate_proj.weight": (128, 64),
    f"{LAYER}router.scale": (64,),
    f"{LAYER}router.proj.weight": (8, 64),
    f"{LAYER}experts.gate_up_proj": (8, 64, 64),
    f"{LAYER}experts.down_proj": (8, 64, 32),
    f"{LAYER}post_feedforward_layernorm_1.weight": (64,),
    "model.vision_tower.patch_embedder.input_proj.weight": (32, 768),
    "model.vision_tower.encoder.layers.0.mlp.up_proj.linear.weight": (64, 32),
    "model.embed_vision.embedding_projection.weight": (64, 32),
}
"""A checkpoint of this architecture, a layer of each kind."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_target(tmp_path_factory.mktemp("tiny") / "base")


def recipe_of(tmp_path: Path, base: Path, *, more: str = "", **changes: str) -> Path:
    played = tmp_path / "python"
    played.write_text(FAKE.format(python=sys.executable, more=more))
    played.chmod(0o755)
    text = RECIPE.format(base=base, python=played)
    for old, new in changes.items():
        lines = [f"{old} = {new}" if line.startswith(f"{old} =") else line for line in text.splitlines()]
        text = "\n".join(lines)
    file = tmp_path / "recipe.toml"
    file.write_text(text)
    return file


def refused(file: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and sentence; nothing is left of the target, and no traceback is shown."""
    code = cli.main(["target", str(file), "--output", str(file.parent / "made")])
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert not [path for path in file.parent.iterdir() if "made" in path.name]
    return code, told


def test_the_patterns_and_the_sizes_are_said_and_stand_in_the_card(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (base / "draftgate.json").write_text("{}")  # says something of this folder alone
    file = recipe_of(tmp_path, base)
    assert cli.main(["target", str(file), "--output", str(tmp_path / "made")]) == 0

    told = capsys.readouterr().err
    assert "ignore 're:.*embed_tokens$': model.embed_tokens.weight: 1 " in told
    assert "ignore 'lm_head': nothing" in told
    assert "model.layers.*.mlp.down_proj.weight: 3 " in told
    assert "before" in told
    assert not (tmp_path / "made" / "draftgate.json").exists()
    change = json.loads((tmp_path / "made" / "target.json").read_text())["change"]
    assert change["scheme"] == "W8A8"
    assert change["ignore 'lm_head'"] == "nothing"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"ignore": '["re:.*embed_tokens$", "re:.*norm$", "re:.*rooter.*"]'}, "quantize-ignore"),
        ({"ignore": '["re:.*"]'}, "quantize-ignore"),
        ({"ignore": '["re:("]'}, "wrong-field"),
        ({"ignore": '["re:.*norm$", "re:.*norm$"]'}, "wrong-field"),
        ({"scheme": '"W3A3"'}, "wrong-field"),
        ({"python": '"/no/such/python"'}, "quantize-env"),
    ],
)
def test_a_recipe_that_cannot_be_meant_is_refused(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, str], code: str
) -> None:
    exit_code, told = refused(recipe_of(tmp_path, base, **changes), capsys)
    assert exit_code == 2
    assert f"[{code}]" in told


def test_a_program_that_fails_leaves_no_target(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exit_code, told = refused(recipe_of(tmp_path, base, more="sys.exit('RuntimeError: no room')"), capsys)
    assert exit_code == 1
    assert "no room" in told


@pytest.mark.parametrize("by", ["config", "tensor"])
def test_a_quantised_folder_is_not_quantised_again(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str], by: str
) -> None:
    torch = pytest.importorskip("safetensors.torch")
    again = tmp_path / "again"
    again.mkdir()
    for path in base.iterdir():
        (again / path.name).write_bytes(path.read_bytes())
    if by == "config":
        config = json.loads((again / "config.json").read_text())
        config["quantization_config"] = {"quant_method": "compressed-tensors"}
        (again / "config.json").write_text(json.dumps(config))
    else:
        tensors = torch.load_file(again / "model.safetensors")
        tensors["model.layers.0.mlp.up_proj.weight_scale"] = tensors["model.norm.weight"].clone()
        torch.save_file(tensors, again / "model.safetensors", metadata={"format": "pt"})
    exit_code, told = refused(recipe_of(tmp_path, again), capsys)
    assert exit_code == 2
    assert "[target-folder]" in told


def test_a_target_that_does_not_fit_in_memory_is_refused_before(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.targets.memory.free_bytes", lambda: 2**20)
    exit_code, told = refused(recipe_of(tmp_path, base), capsys)
    assert exit_code == 2
    assert "[target-memory]" in told


def model_of(shapes: dict[str, tuple[int, ...]], **config: Any) -> Model:
    tensors = {
        name: Tensor(name=name, file=Path("model.safetensors"), shape=shape, dtype="BF16")
        for name, shape in shapes.items()
    }
    return Model(folder=Path("/target"), config=config, tensors=tensors)


def taken(model: Model, tmp_path: Path, **patterns: list[str]) -> set[str]:
    _, document = load_target_recipe(recipe_of(tmp_path, tmp_path))
    ignore, optional = patterns.get("ignore", []), patterns.get("optional", [])
    found = takes(model, ignore=ignore, optional=optional, document=document)
    return {weight.module for weight in found.quantised}


def test_the_shipped_list_leaves_what_decides_and_what_is_no_text(tmp_path: Path) -> None:
    recipe, document = load_target_recipe(TARGETS / "gemma4-26b-fp8.toml")
    change: Quantize = recipe.change
    model = model_of(GEMMA4, text_config={"num_experts": 8})
    found = takes(model, ignore=change.ignore, optional=change.optional, document=document)
    experts = {
        f"{LAYER}experts.{i}.{part}" for i in range(8) for part in ("gate_proj", "up_proj", "down_proj")
    }
    attention = {f"{LAYER}self_attn.q_proj", f"{LAYER}mlp.gate_proj"}
    assert {weight.module for weight in found.quantised} == experts | attention
    assert [weight.part for weight in found.left] == ["layer_scalar"]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.layers.0.mlp.gate.weight", (4, 64)),
        ("model.layers.0.block_sparse_moe.gate.weight", (8, 64)),
        ("model.layers.0.mlp.shared_expert_gate.weight", (1, 64)),
        ("model.layers.0.feed_forward.router.weight", (8, 64)),
        ("model.layers.0.moe.switch.weight", (8, 64)),  # a row for each expert
    ],
)
def test_a_router_is_never_quantised(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    weights = {name: shape, "model.layers.0.mlp.experts.0.up_proj.weight": (32, 64)}
    model = model_of(weights, num_local_experts=8)
    with pytest.raises(Exception, match="router") as caught:
        taken(model, tmp_path)
    assert getattr(caught.value, "code", "") == "quantize-router"
    assert taken(model, tmp_path, ignore=[name.removesuffix(".weight")])


def test_a_gate_without_experts_and_attention_with_as_many_rows_are_no_routers(tmp_path: Path) -> None:
    dense = {"model.layers.0.mlp.gate.weight": (8, 64)}
    assert taken(model_of(dense), tmp_path)
    mixture = {
        "model.layers.0.self_attn.k_proj.weight": (8, 64),
        "model.layers.0.experts.0.w1.weight": (8, 64),
    }
    assert len(taken(model_of(mixture, num_experts=8), tmp_path)) == 2


def test_what_is_no_matrix_needs_a_pattern(tmp_path: Path) -> None:
    model = model_of({"conv.weight": (8, 4, 3), "up.weight": (8, 8)})
    with pytest.raises(Exception, match="conv") as caught:
        taken(model, tmp_path)
    assert getattr(caught.value, "code", "") == "quantize-ignore"
    assert taken(model, tmp_path, optional=["conv"]) == {"up"}


def test_shipped_recipes_are_whole() -> None:
    kinds = {path.stem: load_target_recipe(path)[0].kind for path in TARGETS.glob("*.toml")}
    assert {"smollm2-int8", "smollm2-fp8", "gemma4-26b-fp8"} <= {
        name for name, kind in kinds.items() if kind == "quantize"
    }
