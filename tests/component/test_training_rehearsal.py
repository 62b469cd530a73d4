"""What begins while the target still answers, and where it does."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("speculators")

from tests.factories.records import server_spec
from training.recipe import Recipe, find_recipe, load_recipe
from training.servers import EarlySlot, Servers, base_spec
from training.stages import Context
from training.trainer import rehearsal, stage


class Began(EarlySlot):
    """Notes what was begun, and starts nothing."""

    def __init__(self) -> None:
        super().__init__(lambda _: contextlib.nullcontext(), lambda _: None)  # type: ignore[arg-type,return-value]
        self.specs: list[Any] = []

    def begin(self, spec: Any) -> None:
        self.begun = True
        self.specs.append(spec)


@pytest.fixture
def trainers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """The settings of each trainer that starts; a program that ends when it is killed stands for it."""
    found: list[dict[str, Any]] = []

    def start(settings: dict[str, Any], folder: Path, recipe: Recipe) -> subprocess.Popen[bytes]:
        del folder, recipe
        found.append(settings)
        return subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
        )

    target = tmp_path / "target"
    target.mkdir()
    (target / "config.json").write_text('{"num_hidden_layers": 30, "hidden_size": 576}', encoding="utf-8")
    monkeypatch.setattr(stage, "start", start)
    monkeypatch.setattr(rehearsal, "is_cpu", lambda _: False)
    monkeypatch.setattr(rehearsal, "base_spec", lambda *_, **__: (server_spec(speculative=None), str(target)))
    return found


def context(tmp_path: Path, *changes: str, alone: bool = False) -> tuple[Context, Began]:
    recipe = load_recipe(find_recipe("smollm2-eagle3-fast"), changes)
    slot = Began()
    servers = Servers(answering=(), hidden=slot)
    return Context(recipe=recipe, work=tmp_path, servers=servers, say=lambda _: None, alone=alone), slot


def test_the_hidden_states_server_starts_and_a_step_is_compiled(
    tmp_path: Path, trainers: list[dict[str, Any]]
) -> None:
    where, slot = context(tmp_path)
    for _ in range(2):
        rehearsal.begin(where)
    assert [spec.drafter for spec in slot.specs] == ["hidden-states"]
    (one,) = trainers
    assert (one["rehearsal"], one["compile"]) == (True, True)
    (child,) = where.rehearsal
    stage.end_rehearsal(where, wait_s=0)
    assert (child.returncode, where.rehearsal) == (-signal.SIGKILL, [])


@pytest.mark.parametrize(
    ("changes", "alone"),
    [
        ((), True),
        (("hidden_states.mode=online",), False),
        (("hidden_states.gpu_memory=0.5",), False),
        (("responses.servers=6",), False),
    ],
)
def test_nothing_begins_where_it_is_of_no_use_or_has_no_room(
    tmp_path: Path, trainers: list[dict[str, Any]], changes: tuple[str, ...], *, alone: bool
) -> None:
    where, slot = context(tmp_path, *changes, alone=alone)
    rehearsal.begin(where)
    assert (slot.specs, trainers) == ([], [])


def test_a_step_that_is_not_compiled_needs_no_rehearsal(
    tmp_path: Path, trainers: list[dict[str, Any]]
) -> None:
    where, slot = context(tmp_path, "train.compile=false")
    rehearsal.begin(where)
    assert (len(slot.specs), trainers) == (1, [])


@pytest.mark.nightly  # a real trainer: a quarter of a minute
@pytest.mark.parametrize("name", ["smollm2-eagle3-fast", "smollm2-eagle3-further"])
def test_a_real_trainer_rehearses_on_a_data_set_of_nothing(tmp_path: Path, name: str) -> None:
    recipe = load_recipe(find_recipe(name), ["train.total_seq_len=256"])
    _, target = base_spec(recipe, say=lambda _: None)
    settings = rehearsal.settings_of(recipe, tmp_path, target=target, cpu=True)
    with stage.start(settings, tmp_path, recipe) as child:
        assert child.wait(timeout=300) == 0
    assert json.loads((tmp_path / "outcome.json").read_text())["kind"] == "done"
    assert not list((tmp_path / "checkpoints").glob("*/*.safetensors"))
