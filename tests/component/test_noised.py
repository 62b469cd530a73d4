from __future__ import annotations

from pathlib import Path

import pytest

from harness.config.stack import load_stack
from harness.errors import BadInput
from tests.perf import DATA
from tests.perf.noised import noised, stack_with

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")


def drafter(folder: Path, layer: str) -> Path:
    folder.mkdir()
    chance = torch.Generator().manual_seed(1)
    names = (f"{layer}.mlp.up_proj.weight", "lm_head.weight")
    weights = {name: torch.randn(64, 64, generator=chance).to(torch.bfloat16) for name in names}
    weights[f"{layer}.norm.weight"] = torch.ones(64)
    safetensors.save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return folder


@pytest.mark.parametrize("layer", ["midlayer", "layers.0"])
def test_only_matrices_of_the_layer_get_noise_of_the_size_asked_for(tmp_path: Path, layer: str) -> None:
    source = drafter(tmp_path / "head", layer)
    assert noised(source, tmp_path / "a", noise=0.15, seed=0) == [f"{layer}.mlp.up_proj.weight"]
    noised(source, tmp_path / "b", noise=0.15, seed=0)

    old, a, b = (safetensors.load_file(tmp_path / name / "model.safetensors") for name in ("head", "a", "b"))
    moved = {name: (a[name].float() - old[name].float()).std().item() for name in old}
    assert moved.pop(f"{layer}.mlp.up_proj.weight") == pytest.approx(0.15, rel=0.1)
    assert set(moved.values()) == {0.0}
    assert all(torch.equal(a[name], b[name]) for name in old)
    assert {name: w.dtype for name, w in a.items()} == {name: w.dtype for name, w in old.items()}
    assert (tmp_path / "a" / "config.json").read_text() == "{}"


def test_a_folder_without_a_layer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no matrix of a layer among lm_head"):
        noised(drafter(tmp_path / "head", "other"), tmp_path / "a", noise=0.1, seed=0)
    with pytest.raises(BadInput, match="no drafter to put noise on"):
        noised(tmp_path / "nothing", tmp_path / "b", noise=0.1, seed=0)


def test_the_stack_has_one_more_drafter(tmp_path: Path) -> None:
    path = tmp_path / "stack.toml"
    stack_with(path, (DATA / "stacks/smollm2-cpu.toml").read_text(), tmp_path / "head", 4)

    told, shipped = load_stack(path), load_stack(DATA / "stacks/smollm2-cpu.toml")
    assert told.drafters["head"].model == str(tmp_path / "head")
    assert told.drafters["head"].k == (4,)
    assert told.profiles == shipped.profiles
