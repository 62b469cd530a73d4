"""`python -m training` up to the point where it would start something."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tomli_w

from harness.config.stack import find_stack, load_stack
from harness.config.variants import Target
from harness.engine.slot import Slot
from tests.factories.refusals import refused
from training import __main__ as cli, benchmark, stages
from training.errors import TrainingFailed
from training.hidden import disk_space
from training.pipeline import STAGES
from training.recipe import Source, find_recipe, load_recipe
from training.servers import open_servers
from training.stages import Context
from training.trainer import stage

pytestmark = pytest.mark.usefixtures("own_signals")

NAMES = ["prompts", "responses", "dataset", "train", "export", "check"]


class Started(Exception):  # noqa: N818
    """Something was, where nothing should be."""


@pytest.fixture(autouse=True)
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: Any, **__: Any) -> None:
        raise Started

    monkeypatch.setattr(Slot, "get", started)
    monkeypatch.setattr("subprocess.Popen", started)
    monkeypatch.setattr(cli, "quiet", lambda _: None)  # it is for the whole process


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A target's folder, and a machine whose engine is one for CPUs."""
    folder = tmp_path / "target"
    folder.mkdir()
    (folder / "config.json").write_text('{"hidden_size": 576, "num_hidden_layers": 30}')
    monkeypatch.setattr(disk_space, "resolve", lambda *_, **__: str(folder))
    return folder


def run(capsys: pytest.CaptureFixture[str], work: Path, *words: str) -> tuple[int, str, str]:
    code = cli.main(["run", words[0], "--work", str(work), *words[1:]])
    told = capsys.readouterr()
    assert "Traceback" not in told.err
    return code, told.out, told.err


def full(monkeypatch: pytest.MonkeyPatch, free: int = 10_000_000) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))


def test_a_dry_run_says_what_would_be_done_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, target: Path
) -> None:
    code, out, _ = run(capsys, tmp_path / "work", "smoke-cpu", "--dry-run")

    assert code == 0
    rows = [re.split(r"\s{2,}", line) for line in out.splitlines()[2:8]]
    assert [row[0] for row in rows] == NAMES
    assert {row[1] for row in rows} == {"to do"}
    assert [row[-1].rpartition("-")[0] for row in rows] == [str(tmp_path / "work" / name) for name in NAMES]
    assert rows[0][2] == "48 prompts"
    assert rows[1][2] == "about 3,072 tokens, at most 3,072"
    assert rows[3][2] == "about 12 steps; hidden states: about 14 MB"
    assert re.search(r"^trainer: \S+ -m training.trainer.process SETTINGS.json$", out, re.MULTILINE)
    assert not (tmp_path / "work").exists()


def test_a_dry_run_shows_what_is_done_and_how_several_gpus_are_used(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, target: Path
) -> None:
    first = stages.plan(load_recipe(find_recipe("smoke-cpu")), STAGES, tmp_path)[0]
    first.folder.mkdir()
    (first.folder / stages.DONE).write_text(json.dumps({"schema": 1, "made_from": [], "seconds": 12.3}))
    _, out, _ = run(capsys, tmp_path, "smoke-cpu", "--dry-run", "--set", "train.gpus=4")

    assert re.search(r"^prompts +done in 12 s", out, re.MULTILINE)
    assert re.search(r"^responses +to do", out, re.MULTILINE)
    assert "torch.distributed.run --nproc-per-node 4 -m training.trainer.process SETTINGS.json" in out


def test_a_target_that_is_not_here_is_not_fetched_for_a_dry_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, _ = run(capsys, tmp_path, "smoke-cpu", "--dry-run", "--set", "target.model=somebody/something")
    assert code == 0
    assert "hidden states: — (the target is not here)" in out


def test_an_unknown_recipe_names_those_there_are(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = run(capsys, tmp_path / "work", "smoke-gpu")
    assert code == 2
    assert "[unknown-name]" in err
    assert "smoke-gpu" in err
    assert "smoke-cpu" in err
    assert not (tmp_path / "work").exists()


def test_an_unknown_key_is_named_with_its_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = find_recipe("smoke-cpu").read_text()
    recipe = tmp_path / "mine.toml"
    recipe.write_text(text.replace("ttt_steps = 2", "ttt_stepz = 2"))
    line = next(n for n, found in enumerate(text.splitlines(), start=1) if found.startswith("ttt_steps"))
    code, _, err = run(capsys, tmp_path / "work", str(recipe))
    assert code == 2
    assert f"{recipe}, line {line}, key train.ttt_stepz: " in err


def test_a_stage_alone_needs_those_before_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, target: Path
) -> None:
    code, _, err = run(capsys, tmp_path, "smoke-cpu", "--only", "train")
    assert code == 2
    assert "[training-option]" in err
    assert "--only train: prompts" in err


@pytest.mark.parametrize("option", ["--from", "--only"])
@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_an_unknown_stage_names_those_there_are(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, option: str, more: list[str]
) -> None:
    code, _, err = run(capsys, tmp_path / "work", "smoke-cpu", option, "trian", *more)
    assert code == 2
    assert "[training-option]" in err
    assert "'trian'" in err
    assert ", ".join(NAMES) in err
    assert not (tmp_path / "work").exists()


def test_a_disk_without_room_is_said_before_anything_starts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3,072 tokens x 4 layers x 576 values of 2 bytes are 14.2 MB."""
    full(monkeypatch, free=7_000_000)
    code, _, err = run(capsys, tmp_path, "smoke-cpu")
    assert code == 1
    assert "[disk-space]" in err
    assert not [part for part in (str(tmp_path), "7 MB", "3,072 tokens", "14 MB") if part not in err]
    assert not list(tmp_path.glob("prompts-*"))


def test_hidden_states_take_two_bytes_a_value(target: Path) -> None:
    recipe = load_recipe(find_recipe("smoke-cpu"))
    assert disk_space.needed_bytes(recipe, str(target), 1_000_000) == 4_608_000_000


def test_a_disk_that_may_do_is_only_mentioned(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full(monkeypatch)
    said: list[str] = []
    recipe = load_recipe(find_recipe("smoke-cpu"))
    disk_space.check_disk_space(recipe, tmp_path, tokens=3072, say=said.append)
    assert said
    assert "10 MB" in said[0]
    assert "14 MB" in said[0]
    full(monkeypatch, free=20_000_000)
    disk_space.check_disk_space(recipe, tmp_path, tokens=3072, say=said.append)
    assert len(said) == 1


def test_the_exact_room_is_looked_for_before_server_and_trainer(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("speculators")
    data = tmp_path / "dataset-0" / "data"
    rows = {"input_ids": [[1] * 50] * 100, "loss_mask": [[1] * 50] * 100, "seq_len": [50] * 100}
    datasets.Dataset.from_dict(rows).save_to_disk(str(data))
    monkeypatch.setattr(stage, "is_cpu", lambda *_: True)
    monkeypatch.setattr(stage, "base_spec", lambda *_, **__: (None, str(target)))
    full(monkeypatch)
    recipe = load_recipe(find_recipe("smoke-cpu"))
    context = Context(
        recipe=recipe,
        work=tmp_path,
        servers=open_servers(recipe, tmp_path, lambda _: None),
        say=lambda _: None,
        folder=tmp_path / "train-0",
        upstream={"dataset": data.parent},
    )
    with refused(TrainingFailed, "disk-space", "5,000 tokens", "23 MB"):
        stage.run(context)


@pytest.mark.parametrize(("command", "act"), [("run", "_run"), ("target", "_target"), ("smoke", "_smoke")])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_that_is_ended_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    act: str,
    number: signal.Signals,
) -> None:
    monkeypatch.setattr(cli, act, lambda _: signal.raise_signal(number))

    assert cli.main([command, "it"]) == cli.INTERRUPTED
    assert f"python -m training {command} it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("what", "first"),
    [("target", "prompts"), ("source", "prompts"), ("start", "dataset"), ("stack", "check")],
)
def test_a_file_that_is_named_and_was_written_anew_is_another(tmp_path: Path, what: str, first: str) -> None:
    for name in ("target", "start", "a", "b"):
        (tmp_path / name).mkdir()
    for name in ("target", "start"):
        (tmp_path / name / "config.json").write_text("{}")
    for name in ("a", "b"):
        (tmp_path / name / "p.jsonl").write_text('{"text": "x"}\n')
    stack = load_stack(find_stack("smollm2-cpu", benchmark.STACKS)).model_dump(
        mode="json", by_alias=True, exclude_unset=True
    )
    stack["drafters"] = {"none": {}}
    (tmp_path / "s.toml").write_text(tomli_w.dumps(stack))
    recipe = load_recipe(find_recipe("smoke-cpu"))
    sources = [Source(kind="jsonl", path=str(tmp_path / name / "p.jsonl"), weight=1) for name in ("a", "b")]
    recipe = recipe.model_copy(
        update={
            "target": Target(model=str(tmp_path / "target")),
            "prompts": recipe.prompts.model_copy(update={"sources": tuple(sources)}),
            "train": recipe.train.model_copy(update={"from_pretrained": str(tmp_path / "start")}),
            "check": recipe.check.model_copy(update={"stack": str(tmp_path / "s.toml")}),
        }
    )
    before = stages.plan(recipe, STAGES, tmp_path)

    if what in ("target", "start"):
        (tmp_path / what / "model.safetensors").write_text("other weights")
    elif what == "source":
        (tmp_path / "a" / "p.jsonl").write_text('{"text": "y"}\n')
    else:
        (tmp_path / "s.toml").write_text(tomli_w.dumps(stack | {"about": "another"}))

    pairs = zip(before, stages.plan(recipe, STAGES, tmp_path), strict=True)
    assert next(old.stage.name for old, new in pairs if old.folder != new.folder) == first


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ("check.stack=nonexistent", "unknown-name", "nonexistent"),
        ("check.profile=gaet", "training-option", "gaet"),
        ('check.languages=["en", "xx"]', "training-option", "xx"),
        ("hidden_states.layers=[99]", "training-option", "99"),
        ("train.from_pretrained=/no/such", "damaged-drafter", "/no/such"),
    ],
)
@pytest.mark.usefixtures("target")
def test_what_a_late_stage_would_refuse_is_refused_before_the_first(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, change: str, code: str, says: str
) -> None:
    exit_code, _, err = run(capsys, tmp_path / "work", "smoke-cpu", "--set", change)

    assert exit_code == 2
    assert f"[{code}]" in err
    assert says in err


@pytest.mark.parametrize("foretold", [False, True])
def test_a_drafter_of_which_nothing_is_foretold_is_measured_behind_a_self_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, foretold: bool
) -> None:
    recipe = load_recipe(find_recipe("smoke-cpu"))
    drafter = tmp_path / "export" / recipe.drafter
    drafter.mkdir(parents=True)
    if foretold:
        (drafter / "validation.jsonl").touch()
    asked: list[list[str]] = []
    monkeypatch.setattr(benchmark.program, "run", lambda command, **_: asked.append(command))
    monkeypatch.setattr(benchmark.export, "add_served", lambda *_: None)
    servers = open_servers(recipe, tmp_path, lambda _: None)
    context = Context(
        recipe=recipe, work=tmp_path, folder=tmp_path, servers=servers, say=lambda _: None,
        upstream={"export": tmp_path / "export"},
    )  # fmt: skip

    benchmark.run(context)

    assert ("--self-check" in asked[0]) is foretold


@pytest.mark.parametrize("value", ["nan", "-5", "0", "soon"])
def test_a_time_that_is_none_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, value: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(capsys, tmp_path, "smoke-cpu", "--dry-run", "--stall-seconds", value)
