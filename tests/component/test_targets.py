"""`python -m training target`, on a target of a few thousand weights."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.engine.models import sha256_of
from tests.factories.tiny_target import tiny_target
from training import __main__ as cli
from training.targets import ablate, memory

pytestmark = pytest.mark.usefixtures("own_signals")

RECIPE = """\
schema = 1
name = "changed"
about = "a test"
kind = "noise"

[target]
model = "./base"
dtype = "float32"

[divergence]
texts = 3
tokens = 24

[noise.matrices]
"*.mlp.down_proj.weight" = 0.1
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_target(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture
def room(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the unchanged target in it."""
    monkeypatch.setattr(cli, "end_like_ctrl_c", lambda: None)  # it is for the whole process
    shutil.copytree(base, tmp_path / "base")
    return tmp_path


def make(
    room: Path, capsys: pytest.CaptureFixture[str], *words: str, recipe: str = RECIPE
) -> tuple[int, str, str]:
    """Exit code, standard output and error of the command; what it leaves is whole or not there."""
    (room / "recipe.toml").write_text(recipe)
    code = cli.main(["target", str(room / "recipe.toml"), "--output", str(room / "out" / "made"), *words])
    told = capsys.readouterr()
    assert "Traceback" not in told.err
    left = [path.name for path in (room / "out").iterdir()] if (room / "out").exists() else []
    assert left == (["made"] if code == 0 and "--dry-run" not in words else [])
    return code, told.out, told.err


def refused(
    room: Path, capsys: pytest.CaptureFixture[str], code: str, *words: str, recipe: str = RECIPE
) -> str:
    """The sentence with which bad input is refused."""
    exit_code, out, err = make(room, capsys, *words, recipe=recipe)
    assert (exit_code, out) == (2, "")
    assert f"[{code}]" in err
    return err


def tensors(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = pytest.importorskip("safetensors.torch").load_file(folder / "model.safetensors")
    return loaded


def records(room: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((room / "out" / "made" / "target.json").read_text())
    return found


def test_noise_changes_the_matrices_that_are_named_and_nothing_else(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make(room, capsys)[0] == 0

    before, after = tensors(room / "base"), tensors(room / "out" / "made")
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed == {f"model.layers.{layer}.mlp.down_proj.weight" for layer in range(3)}
    for name in changed:
        was = before[name].float()
        assert float((after[name].float() - was).std() / was.std()) == pytest.approx(0.1, rel=0.15)
    assert {str(of.dtype) for of in after.values()} == {"torch.bfloat16"}


def test_the_folder_is_a_target_with_its_card_and_hashes(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = make(room, capsys)
    made, known = room / "out" / "made", records(room)

    assert {"config.json", "tokenizer.json", "README.md"} < {path.name for path in made.iterdir()}
    assert known["base"]["sha256"] == {"model.safetensors": sha256_of(room / "base" / "model.safetensors")}
    assert known["files"]["model.safetensors"]["sha256"] == sha256_of(made / "model.safetensors")
    assert known["divergence"]["mean"] > 0
    assert known["divergence"]["low"] < known["divergence"]["mean"] < known["divergence"]["high"]
    assert (
        known["divergence"]["texts"] == sum(of["texts"] for of in known["divergence"]["files"].values()) == 6
    )
    assert f"{known['divergence']['mean']:.4f}" in (made / "README.md").read_text()
    assert f"{known['divergence']['mean']:.4f}" in out
    assert str(room) not in (made / "target.json").read_text() + (made / "README.md").read_text()


def test_no_change_diverges_by_nothing_at_all(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make(room, capsys, "--set", 'noise.matrices={"*" = 0}')[0] == 0

    assert records(room)["divergence"] == records(room)["divergence"] | {
        "mean": 0, "low": 0, "high": 0, "same_best": 1
    }  # fmt: skip
    after = room / "out" / "made" / "model.safetensors"
    assert sha256_of(after) == sha256_of(room / "base" / "model.safetensors")


def test_a_seed_gives_the_same_target_twice_and_another_seed_another(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hashes = []
    for seed in (1, 1, 2):
        make(room, capsys, "--set", f"noise.seed={seed}")
        hashes.append(
            (sha256_of(room / "out" / "made" / "model.safetensors"), records(room)["recipe_sha256"])
        )
        shutil.rmtree(room / "out")
    assert hashes[0] == hashes[1]
    assert hashes[0][0] != hashes[2][0]
    assert hashes[0][1] != hashes[2][1]


def test_a_dry_run_says_what_would_be_changed_and_makes_nothing(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = make(room, capsys, "--dry-run")
    assert code == 0
    assert "3, 1,152 values" in out
    assert "GiB" in out


@pytest.mark.parametrize(
    ("target", "towards"), [("./base", "org/towards"), ("org/base", "./base"), ("org/base", "org/towards")]
)
def test_a_dry_run_fetches_nothing(
    room: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    towards: str,
) -> None:
    def only_here(*_: object, local_files_only: bool, **__: object) -> str:
        assert local_files_only
        raise FileNotFoundError("set local_files_only to False")

    monkeypatch.setattr("huggingface_hub.snapshot_download", only_here)
    change = f'[merge]\nmodel = "{towards}"\nweight = 0.5\n'
    recipe = RECIPE.replace('"noise"', '"merge"').replace("./base", target).partition("[noise")[0] + change

    code, _, err = make(room, capsys, "--dry-run", recipe=recipe)

    assert code == 2
    assert "a dry run fetches nothing" in err
    assert "[model-missing]" in err


def test_a_folder_that_is_there_is_left_as_it_is(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(room, capsys)
    before = (room / "out" / "made" / "target.json").read_bytes()
    assert cli.main(["target", str(room / "recipe.toml"), "--output", str(room / "out" / "made")]) == 2
    assert "[would-overwrite]" in capsys.readouterr().err
    assert (room / "out" / "made" / "target.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ('"*.mlp.up_proj.weights" = 1', "target-names"),
        ('"*.input_layernorm.weight" = 1', "target-names"),
        ('"*" = "much"', "wrong-field"),
        ('"*" = -1', "wrong-field"),
        ('"*" = 1\n[merge]\nweight = 1', "wrong-field"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused_with_its_line(
    room: Path, capsys: pytest.CaptureFixture[str], change: str, code: str
) -> None:
    err = refused(room, capsys, code, recipe=RECIPE.replace('"*.mlp.down_proj.weight" = 0.1', change))
    assert f"{room / 'recipe.toml'}, line " in err


def test_a_kind_without_its_table_is_refused(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(room, capsys, "wrong-field", recipe=RECIPE.partition("[noise")[0])


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def cut(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def lose_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def lose_a_tensor(folder: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    kept = tensors(folder)
    del kept["model.norm.weight"]
    safetensors.save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def lose_a_shard(folder: Path) -> None:
    index = {"weight_map": dict.fromkeys(tensors(folder), "model-00001-of-00002.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def quantise(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "compressed-tensors"}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (shutil.rmtree, "model-missing"),
        (lambda folder: (folder / "config.json").unlink(), "model-missing"),
        (break_config, "target-folder"),
        (cut, "target-folder"),
        (lose_weights, "target-folder"),
        (lose_a_tensor, "target-folder"),
        (lose_a_shard, "target-folder"),
        (quantise, "target-folder"),
    ],
)
def test_a_folder_that_is_no_model_is_refused(
    room: Path, capsys: pytest.CaptureFixture[str], damage: Any, code: str
) -> None:
    damage(room / "base")
    refused(room, capsys, code)


def test_a_target_that_does_not_fit_in_memory_is_refused_before_it_is_loaded(
    room: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: 2**10)
    monkeypatch.setattr("training.targets.noise.write_changed", None)
    assert "GiB" in refused(room, capsys, "target-memory")


def test_an_interrupted_command_leaves_nothing(
    room: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.targets.divergence.measure", interrupt)
    assert make(room, capsys)[0] == 130


ABLATE = (
    RECIPE.partition("[noise")[0].replace("noise", "ablate")
    + """
[ablate]
prompts = ["./lists.jsonl", "./prose.jsonl"]
direction_layer = 1
"""
)


def prompts(room: Path, lists: list[str], prose: list[str]) -> None:
    for name, texts in (("lists", lists), ("prose", prose)):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (room / f"{name}.jsonl").write_text(lines)


@pytest.fixture
def styles(room: Path) -> Path:
    prompts(room, ["list: cats", "list: dogs and more", "list: tea"], ["tell me of cats", "tell of tea"])
    return room


def test_an_ablation_takes_one_direction_out_of_what_the_stated_layers_write(
    styles: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch")
    assert make(styles, capsys, "--set", "ablate.layers=[0, 2]", recipe=ABLATE)[0] == 0

    before, after = tensors(styles / "base"), tensors(styles / "out" / "made")
    changed = {name for name in before if not before[name].equal(after[name])}
    parts = ("self_attn.o_proj", "mlp.down_proj")
    assert changed == {f"model.layers.{layer}.{part}.weight" for layer in (0, 2) for part in parts}
    lost = torch.cat([(before[name].double() - after[name].double()) for name in sorted(changed)], dim=1)
    left = torch.cat([after[name].double() for name in sorted(changed)], dim=1)
    sizes = torch.linalg.svdvals(lost)
    assert sizes[1] < 0.05 * sizes[0]  # what was taken has one direction, up to the rounding of bfloat16
    direction = torch.linalg.svd(lost).U[:, 0]
    assert (direction @ left).norm() < 0.02 * (direction @ (left + lost)).norm()  # and nothing of it is left


def test_an_ablation_of_every_layer_and_the_embeddings_leaves_no_difference(
    styles: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make(styles, capsys, "--set", "ablate.embeddings=true", recipe=ABLATE)[0] == 0
    change = records(styles)["change"]
    assert "model.embed_tokens.weight" in change["matrices"]
    assert abs(change["difference_after"]) < 0.02 * change["difference_before"]
    assert records(styles)["divergence"]["mean"] > 0


@pytest.mark.parametrize("key", ["layers=[0, 3]", "direction_layer=3"])
def test_a_layer_that_does_not_exist_is_refused_with_its_line(
    styles: Path, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    err = refused(styles, capsys, "target-names", "--set", f"ablate.{key}", recipe=ABLATE)
    assert "no layer 3" in err
    assert "recipe.toml, line " in err


def test_the_state_after_the_last_layer_has_no_direction_to_take(
    styles: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """transformers gives it behind the final norm."""
    err = refused(styles, capsys, "target-names", "--set", "ablate.direction_layer=2", recipe=ABLATE)
    assert "key ablate.direction_layer" in err


def test_texts_that_had_a_part_in_the_change_are_not_held_out(
    styles: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = json.dumps([str(styles / "lists.jsonl")])
    err = refused(styles, capsys, "target-prompts", "--set", f"divergence.files={texts}", recipe=ABLATE)
    assert "key divergence.files" in err


@pytest.mark.parametrize(
    ("shape", "axis"), [((8, 8), -2), ((8, 20), -2), ((4, 8, 20), -2), ((4, 20, 8), -1), ((4, 8, 8), None)]
)
def test_a_matrix_is_written_along_the_axis_that_its_shape_tells(
    shape: tuple[int, ...], axis: int | None
) -> None:
    assert ablate._axis(shape, 8) == axis


@pytest.mark.parametrize("prose", [["a", "b"], ["b", "a"], ["c", "a"]])
def test_two_prompt_files_that_are_the_same_or_share_prompts_are_refused(
    room: Path, capsys: pytest.CaptureFixture[str], prose: list[str]
) -> None:
    prompts(room, ["a", "b"], prose)
    refused(room, capsys, "target-prompts", recipe=ABLATE)


MERGE = (
    RECIPE.partition("[noise")[0].replace("noise", "merge")
    + """
[merge]
model = "./other"
weight = 0.25
"""
)


def test_a_merge_lies_between_the_two_checkpoints(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_target(room / "other", seed=1)
    assert make(room, capsys, recipe=MERGE)[0] == 0
    one, other, made = (tensors(room / name) for name in ("base", "other", "out/made"))
    for name in made:
        expected = 0.75 * one[name].float() + 0.25 * other[name].float()
        assert made[name].float().allclose(expected, atol=0.01)
    assert records(room)["change"]["sha256"] == [sha256_of(room / "other" / "model.safetensors")]


def test_a_merge_with_itself_is_no_change(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make(room, capsys, "--set", "merge.model=" + json.dumps(str(room / "base")), recipe=MERGE)[0] == 0
    assert records(room)["divergence"]["mean"] == 0


def test_a_merge_with_another_shape_is_refused(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_target(room / "other", tied=False)
    lose_a_tensor(room / "other")
    assert "model.norm.weight" in refused(room, capsys, "target-folder", recipe=MERGE)


def test_a_merge_with_a_tensor_more_is_refused(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_target(room / "other", tied=False)
    err = refused(room, capsys, "target-folder", recipe=MERGE)
    assert "lm_head.weight" in err
    assert "key merge.model" in err


def test_a_merge_with_a_quantised_checkpoint_names_that_one(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_target(room / "other")
    quantise(room / "other")
    err = refused(room, capsys, "target-folder", recipe=MERGE)
    assert "key merge.model" in err
    assert str(room / "other") in err


@pytest.mark.parametrize(
    ("change", "code"), [("target.dtype=bf16", "wrong-field"), ("about=\udcff", "training-option")]
)
def test_a_value_that_nothing_can_use_is_refused_at_once(
    room: Path, capsys: pytest.CaptureFixture[str], change: str, code: str
) -> None:
    refused(room, capsys, code, "--dry-run", "--set", change)


def test_files_of_one_name_are_all_measured(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = []
    for name in "ab":
        (room / name / "texts").mkdir(parents=True)
        files.append(room / name / "texts" / "en.jsonl")
        files[-1].write_text(f'{{"text": "one of {name}"}}\n{{"text": "another of {name}"}}\n')
    assert make(room, capsys, "--set", f"divergence.files={json.dumps([*map(str, files)])}")[0] == 0
    assert records(room)["divergence"]["texts"] == 4


def test_too_few_texts_are_told_with_their_file_before_anything_is_made(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (room / "few.jsonl").write_text('{"text": "one alone"}\n')
    files = json.dumps([str(room / "few.jsonl")])
    err = refused(room, capsys, "too-few-prompts", "--dry-run", "--set", f"divergence.files={files}")
    assert "few.jsonl" in err


def command(room: Path, body: str) -> str:
    """A recipe whose program is this Python."""
    (room / "own.py").write_text(
        f"import json, pathlib, shutil, sys\nbase, out = map(pathlib.Path, sys.argv[-2:])\n{body}\n"
    )
    words = json.dumps([sys.executable, str(room / "own.py")])
    return RECIPE.partition("[noise")[0].replace("noise", "command") + f"\n[command]\nprogram = {words}\n"


COPY = "shutil.copytree(base, out, dirs_exist_ok=True)"


def test_a_program_of_the_users_makes_the_target(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make(room, capsys, recipe=command(room, COPY))[0] == 0
    assert records(room)["divergence"]["mean"] == 0
    assert records(room)["change"]["program"][0] == Path(sys.executable).name


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("print('no such thing'); sys.exit(3)", "command-failed"),
        ("pass", "model-missing"),
        (f"{COPY}; (out / 'model.safetensors').write_bytes(b'half')", "target-folder"),
        (f"{COPY}; (out / 'config.json').write_text('{{}}')", "target-folder"),
        (f"{COPY}; (base / 'model.safetensors').open('ab').write(b'x')", "command-failed"),
        (f"{COPY}; (base / 'config.json').open('a').write(' ')", "command-failed"),
    ],
)
def test_what_a_program_leaves_is_checked(
    room: Path, capsys: pytest.CaptureFixture[str], body: str, code: str
) -> None:
    err = refused(room, capsys, code, recipe=command(room, body))
    assert "exit(3)" not in body or "no such thing" in err


def test_a_program_that_the_system_cannot_run_is_a_sentence(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (room / "own").write_text("no first line that names an interpreter")
    (room / "own").chmod(0o755)
    program = f"command.program={json.dumps([str(room / 'own')])}"
    refused(room, capsys, "command-failed", "--set", program, recipe=command(room, COPY))


def test_a_program_that_is_not_there_is_refused(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(
        room,
        capsys,
        "command-failed",
        "--set",
        'command.program=["no-such-program"]',
        recipe=command(room, ""),
    )
