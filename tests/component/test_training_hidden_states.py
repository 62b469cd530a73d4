from __future__ import annotations

import struct
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("speculators")

from safetensors.torch import save_file  # noqa: E402
from speculators.train.distributed_batch_sampler import MultipackDistributedBatchSamplerV2  # noqa: E402

from harness.errors import BadInput  # noqa: E402
from tests.factories.refusals import refused  # noqa: E402
from training.hidden.disk_space import folder_with_space, hidden_folder  # noqa: E402
from training.hidden.extract import (  # noqa: E402
    ENDED,
    MISSING,
    check,
    finished,
    server_spec,
    trainers_order,
)
from training.hidden.reader import PrefetchedTransfer  # noqa: E402
from training.recipe import find_recipe, load_recipe  # noqa: E402
from training.servers import base_spec, open_servers  # noqa: E402
from training.stages import Context  # noqa: E402

RECIPE = load_recipe(find_recipe("smoke-cpu"))


def sample(path: Path, tokens: int) -> Path:
    states = torch.zeros(tokens, 4, 8, dtype=torch.bfloat16)
    save_file({"hidden_states": states, "token_ids": torch.arange(tokens)}, path)
    return path


def test_the_order_is_the_one_in_which_the_trainer_asks() -> None:
    lengths = [30 + 7 * (i % 13) for i in range(50)]
    order = trainers_order(lengths, split=40, recipe=RECIPE)
    assert sorted(order) == list(range(50))
    sampler = MultipackDistributedBatchSamplerV2(
        RECIPE.train.total_seq_len, lengths[:40], num_replicas=1, rank=0, seed=RECIPE.train.seed
    )
    asked = [int(row) for batch in sampler for row in batch]
    assert order[: len(asked)] == asked
    assert set(order[40:]) == set(range(40, 50))


@pytest.mark.parametrize(
    ("cpu", "given", "method"),
    [(False, {}, "fork"), (False, {"VLLM_WORKER_MULTIPROC_METHOD": "spawn"}, "spawn"), (True, {}, None)],
)
def test_a_gpus_engine_is_forked_unless_the_recipe_says_otherwise(
    tmp_path: Path,
    cpu: bool,  # noqa: FBT001
    given: dict[str, str],
    method: str | None,
) -> None:
    (tmp_path / "config.json").write_text('{"num_hidden_layers": 30}')
    recipe = RECIPE.model_copy(update={"engine": RECIPE.engine.model_copy(update={"env": given})})
    base, _ = base_spec(recipe, say=lambda _: None)
    spec = server_spec(recipe, base, target=str(tmp_path), folder=tmp_path, cpu=cpu, shared=True)
    assert dict(spec.env).get("VLLM_WORKER_MULTIPROC_METHOD") == method


def test_an_argument_of_this_server_replaces_the_engines_however_it_is_spelled(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"num_hidden_layers": 30}')
    states = RECIPE.hidden_states.model_copy(update={"args": {"max-model-len": 4096}})
    recipe = RECIPE.model_copy(update={"hidden_states": states})
    base, _ = base_spec(RECIPE, say=lambda _: None)
    assert "max_model_len" in base.args

    spec = server_spec(recipe, base, target=str(tmp_path), folder=tmp_path, cpu=True, shared=True)

    assert spec.args["max-model-len"] == 4096
    assert "max_model_len" not in spec.args


def test_a_whole_file_passes(tmp_path: Path) -> None:
    check(sample(tmp_path / "hs_0.safetensors", 5), tokens=5)


def test_a_file_of_another_sample_does_not(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="5 tokens, not 6"):
        check(sample(tmp_path / "hs_0.safetensors", 5), tokens=6)


@pytest.mark.parametrize("keep", [0, 4, 40, -1])
def test_a_file_that_was_cut_off_does_not(tmp_path: Path, keep: int) -> None:
    path = sample(tmp_path / "hs_0.safetensors", 5)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError):  # noqa: PT011 - the header's own error, or ours
        check(path, tokens=5)


def test_what_is_no_safetensors_file_does_not(tmp_path: Path) -> None:
    path = tmp_path / "hs_0.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 40) + b"x" * 64)
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        check(path, tokens=5)


def test_the_trainer_waits_for_a_file_that_comes(tmp_path: Path) -> None:
    def later() -> None:
        time.sleep(0.1)
        sample(tmp_path / "part", 5).rename(tmp_path / "hs_3.safetensors")

    thread = threading.Thread(target=later)
    thread.start()
    found = PrefetchedTransfer(tmp_path, patience_s=30).get_cached(3)
    thread.join()
    assert found is not None
    assert found["token_ids"].tolist() == [0, 1, 2, 3, 4]


def test_the_trainer_does_not_wait_for_one_that_was_lost(tmp_path: Path) -> None:
    (tmp_path / f"hs_3{MISSING}").touch()
    assert PrefetchedTransfer(tmp_path, patience_s=30).get_cached(3) is None


def test_nor_after_the_end(tmp_path: Path) -> None:
    sample(tmp_path / "hs_1.safetensors", 2)
    finished(tmp_path, ended=True)
    waiting = PrefetchedTransfer(tmp_path, patience_s=30)
    assert waiting.get_cached(0) is None
    assert waiting.get_cached(1) is not None


def test_nor_for_ever(tmp_path: Path) -> None:
    assert PrefetchedTransfer(tmp_path, patience_s=0.05).get_cached(0) is None


def test_a_new_try_asks_again_for_what_was_lost(tmp_path: Path) -> None:
    (tmp_path / f"hs_3{MISSING}").touch()
    finished(tmp_path, ended=True)
    finished(tmp_path, ended=False)
    assert not (tmp_path / ENDED).exists()
    assert not list(tmp_path.glob(f"*{MISSING}"))


def sharing(tmp_path: Path, *, keep: bool = False) -> Context:
    """A training whose data another one may have too; a target with two layers of four values."""
    states = RECIPE.hidden_states.model_copy(update={"folder": str(tmp_path / "states"), "layers": (0, 1)})
    return Context(
        recipe=RECIPE.model_copy(update={"hidden_states": states}), work=tmp_path, keep_hidden_states=keep,
        servers=open_servers(RECIPE, tmp_path, lambda _: None), say=lambda _: None,
        upstream={"dataset": tmp_path / "dataset-1"},
    )  # fmt: skip


@pytest.fixture
def shared_data(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text('{"hidden_size": 4, "num_hidden_layers": 2}')
    (tmp_path / "dataset-1" / "data").mkdir(parents=True)
    (tmp_path / "dataset-1" / "data" / "0.arrow").write_text("rows")
    return str(tmp_path)


def test_a_training_that_ends_leaves_another_its_hidden_states(tmp_path: Path, shared_data: str) -> None:
    with hidden_folder(sharing(tmp_path), shared_data, tokens=1) as mine:
        with hidden_folder(sharing(tmp_path), shared_data, tokens=1) as others:
            assert others == mine
        assert mine.is_dir()
    assert not mine.exists()


def test_hidden_states_stay_where_a_training_fails_or_they_are_to_be_kept(
    tmp_path: Path, shared_data: str
) -> None:
    with pytest.raises(KeyboardInterrupt), hidden_folder(sharing(tmp_path), shared_data, tokens=1) as mine:
        raise KeyboardInterrupt
    assert mine.is_dir()
    with hidden_folder(sharing(tmp_path, keep=True), shared_data, tokens=1):
        pass
    assert mine.is_dir()


def test_hidden_states_of_other_rows_are_no_earlier_try(tmp_path: Path, shared_data: str) -> None:
    with hidden_folder(sharing(tmp_path, keep=True), shared_data, tokens=1) as before:
        pass
    (tmp_path / "dataset-1" / "data" / "0.arrow").write_text("sampled anew")
    with hidden_folder(sharing(tmp_path), shared_data, tokens=1) as after:
        assert after != before


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path, shared_data: str) -> None:
    (tmp_path / "states").touch()
    with refused(BadInput, "cannot-write", "states"), hidden_folder(sharing(tmp_path), shared_data, tokens=1):
        pass


def test_room_is_looked_for_where_the_recipe_says(tmp_path: Path) -> None:
    place, free = folder_with_space(1, given=str(tmp_path), work=tmp_path / "work")
    assert place == tmp_path
    assert free > 0


def test_without_room_anywhere_the_last_place_is_named(tmp_path: Path) -> None:
    place, free = folder_with_space(1 << 60, given=None, work=tmp_path)
    assert place == tmp_path
    assert free < 1 << 60


def test_what_an_earlier_try_left_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shm" / "ours").mkdir(parents=True)
    (tmp_path / "shm" / "ours" / "hs_0.safetensors").write_bytes(bytes(900))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=300))
    given = str(tmp_path / "shm")
    assert folder_with_space(1000, given=given, work=tmp_path, name="ours") == (tmp_path / "shm", 1200)
    assert folder_with_space(1000, given=given, work=tmp_path, name="theirs") == (tmp_path / "shm", 300)


def test_a_folder_that_is_not_made_yet_has_the_room_of_the_disk(tmp_path: Path) -> None:
    assert folder_with_space(1, given=str(tmp_path / "a" / "b"), work=tmp_path)[1] > 0
