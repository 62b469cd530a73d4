"""Counted without waiting, counted the same; compiled where that is wanted and possible."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("speculators")

from speculators.models.metrics import compute_accuracy_single_step  # noqa: E402
from torch.optim import _muon  # noqa: E402

from training.recipe import find_recipe, load_recipe  # noqa: E402
from training.trainer import speculators_patches, stage  # noqa: E402


@pytest.mark.parametrize("kind", [torch.bool, torch.int64])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("after", [True, False])
def test_the_figures_are_those_of_speculators(
    kind: Any,
    masked: bool,  # noqa: FBT001
    after: bool,  # noqa: FBT001
) -> None:
    torch.manual_seed(0)
    pred, target = torch.randint(0, 3, (2, 1, 200))
    mask = torch.randint(0, 2, (1, 200)).to(kind) if masked else None
    before = torch.randint(0, 2, (1, 200)).to(kind) if after else None
    ours, theirs = (None if before is None else before.clone() for _ in range(2))

    counted = speculators_patches.accuracy(pred, target, mask, ours)
    expected = compute_accuracy_single_step(pred, target, mask, theirs)

    assert [float(n) for n in counted] == [float(n) for n in expected]
    assert 0 < counted[0] < counted[1]
    if ours is not None:
        assert torch.equal(ours, theirs)


def test_on_a_cpu_muon_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(_muon, "_zeropower_via_newtonschulz", _muon._zeropower_via_newtonschulz)  # put back
    weight = torch.nn.Parameter(torch.zeros(16, 16))
    weight.grad = torch.randn(16, 16)
    exact = weight.grad.double().as_subclass(speculators_patches.InFloat32)
    wanted = _muon._zeropower_via_newtonschulz(exact, (3.4445, -4.775, 2.0315), 5, 1e-7)

    speculators_patches.muon_in_float32()
    torch.optim.Muon([weight], lr=1.0, weight_decay=0.0, momentum=0.0, nesterov=False).step()

    assert torch.allclose(-weight.double(), wanted, atol=1e-5)  # bfloat16 is wrong by 1e-3


@pytest.mark.parametrize(
    ("changes", "cpu", "compiled", "replayed"),
    [
        (["train.compile=true"], False, True, True),
        (["train.compile=true", "train.gpus=2"], False, True, False),
        (["train.compile=true"], True, False, False),
        (["train.compile=false"], False, False, False),
    ],
)
def test_the_trainer_compiles_where_the_recipe_wants_it_and_there_is_a_gpu(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: list[str],
    *,
    cpu: bool,
    compiled: bool,
    replayed: bool,
) -> None:
    (tmp_path / "config.json").write_text('{"num_hidden_layers": 30}')
    recipe = load_recipe(find_recipe("smoke-cpu"), changes)
    settings = stage.trainer_settings(
        recipe, tmp_path, data=tmp_path, hidden=tmp_path, target=str(tmp_path), cpu=cpu
    )
    assert (settings["compile"], settings["replayed"]) == (compiled, replayed)
    tells = "import os; print(os.environ.get('TORCH_COMPILE_DISABLE', 'compiles'), flush=True)"
    monkeypatch.delenv("TORCH_COMPILE_DISABLE", raising=False)
    monkeypatch.setattr(stage, "command", lambda *_: [sys.executable, "-c", tells])
    with stage._trainer(settings, tmp_path, recipe) as process:
        process.wait()
    assert (tmp_path / "log.txt").read_text() == ("compiles\n" if compiled else "1\n")
