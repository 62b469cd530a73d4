from __future__ import annotations

import json
from pathlib import Path

import pytest

from training.trainer.checkpoints import STATE, VALIDATION, Checkpoints, Step, forget_after


@pytest.fixture
def store(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", keep_last=2)


def written(store: Checkpoints, text: str) -> Path:
    folder = store.current / ".saving"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text(text)
    return folder


def saved(store: Checkpoints, step: int, *, epoch: int = 0, local: int | None = None) -> None:
    store.keep(
        written(store, f"weights {step}"),
        epoch=epoch,
        local_step=step if local is None else local,
        global_step=step,
    )


def resumed_at(step: int, *, local: int = 2) -> Step:
    return Step(Path(), epoch=0, local_step=local, global_step=step)


def test_the_last_few_are_kept(store: Checkpoints) -> None:
    for step in (4, 8, 12):
        saved(store, step)
    assert [s.global_step for s in store.steps()] == [8, 12]


def test_the_best_outlives_pruning(store: Checkpoints) -> None:
    saved(store, 4)
    store.crown(store.steps()[-1], {"loss_epoch": 1.5})
    for step in (8, 12, 16):
        saved(store, step)
    assert (store.best / "model.safetensors").read_text() == "weights 4"
    assert store.best_loss() == (1.5, 0)


def test_a_better_one_replaces_the_best(store: Checkpoints) -> None:
    saved(store, 4)
    store.crown(store.steps()[-1], {"loss_epoch": 1.5})
    saved(store, 8, epoch=1)
    store.crown(store.steps()[-1], {"loss_epoch": 1.25})
    assert (store.best / "model.safetensors").read_text() == "weights 8"
    assert store.best_loss() == (1.25, 1)
    assert json.loads((store.best / VALIDATION).read_text())["step"] == 8


def test_resumes_from_the_newest_as_speculators_expects_it(store: Checkpoints) -> None:
    saved(store, 4)
    saved(store, 10, epoch=1, local=2)
    resumed = Checkpoints(store.folder, keep_last=2).open()
    assert resumed is not None
    assert (resumed.epoch, resumed.local_step, resumed.global_step) == (1, 2, 10)
    assert (store.current / "1" / "model.safetensors").read_text() == "weights 10"
    assert json.loads((store.current / "1" / STATE).read_text())["local_step"] == 2


def test_what_led_to_nothing_is_not_gone_on_from(store: Checkpoints) -> None:
    for step in (4, 8):
        saved(store, step)
    store.crown(store.steps()[-1], {"loss_epoch": 1.5})
    store.drop_from(8)
    assert [s.global_step for s in store.steps()] == [4]
    assert store.best_loss() == (1.5, 0)


def test_an_epoch_that_is_validated_is_over(store: Checkpoints) -> None:
    saved(store, 4)
    assert store.end_epoch(store.steps()[-1]).local_step == 0
    resumed = store.open()
    assert resumed is not None
    assert (resumed.epoch, resumed.local_step, resumed.global_step) == (0, 0, 4)
    assert json.loads((store.current / "0" / STATE).read_text())["local_step"] == 0


def test_the_best_is_there_after_a_coronation_that_was_cut_off(store: Checkpoints) -> None:
    saved(store, 4)
    store.crown(store.steps()[-1], {"loss_epoch": 1.5})
    store.best.rename(store.folder / ".best-old")
    store.open()
    assert store.best_loss() == (1.5, 0)
    (store.folder / "best").rename(store.folder / ".best-old")
    saved(store, 8, epoch=1)
    store.crown(store.steps()[-1], {"loss_epoch": 1.25})
    store.best.rename(store.folder / ".best")
    (store.folder / ".best-old").mkdir()
    store.open()
    assert store.best_loss() == (1.25, 1)
    assert not list(store.folder.glob(".best*"))


def test_from_scratch_where_nothing_was_saved(store: Checkpoints) -> None:
    assert store.open() is None
    assert list(store.current.iterdir()) == []


def test_what_was_cut_off_is_not_there(store: Checkpoints) -> None:
    saved(store, 4)
    (store.folder / "step-000008").mkdir()
    (store.folder / "step-000008" / "model.safetensors").write_text("half")
    (store.folder / "step-000012").mkdir()
    (store.folder / "step-000012" / STATE).write_text('{"epoch": 0, "loc')
    written(store, "being written when it was killed")
    resumed = store.open()
    assert resumed is not None
    assert resumed.global_step == 4
    assert not (store.current / ".saving").exists()


def test_the_checkpoint_and_what_speculators_reads_are_one_file(store: Checkpoints) -> None:
    saved(store, 4)
    store.open()
    one, other = store.folder / "step-000004/model.safetensors", store.current / "0/model.safetensors"
    assert one.stat().st_ino == other.stat().st_ino  # no room taken twice


def test_metrics_of_steps_that_are_done_again_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"train": {"loss": 1.0}, "step": step}) for step in range(6)]
    path.write_text("\n".join(lines) + '\n{"train": {"lo')
    forget_after(path, resumed_at(4))
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 1, 2, 3]


@pytest.mark.parametrize(("local", "kept"), [(0, [2, 4]), (2, [2])])
def test_a_validation_is_forgotten_where_it_will_be_done_again(
    tmp_path: Path, local: int, kept: list[int]
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"val": {}, "step": step}) + "\n" for step in (2, 4, 6)))
    forget_after(path, resumed_at(4, local=local))
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == kept


def test_from_scratch_all_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"train": {}, "step": 0}\n{"val": {}, "step": 0}\n')
    forget_after(path, None)
    assert path.read_text() == ""


def test_no_metrics_yet(tmp_path: Path) -> None:
    forget_after(tmp_path / "metrics.jsonl", resumed_at(4))
    assert not (tmp_path / "metrics.jsonl").exists()
