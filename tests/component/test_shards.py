"""A plan is made, each shard is measured by a run of its own, and the runs become one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.judge.collect import collect
from tests.component import forked
from tests.component.fake_engine import Fake, bench

SUITE = "bench_suites/test_acceptance.py"


def measured(fake: Fake, tmp_path: Path, *words: str) -> Path:
    before = set((tmp_path / "results").glob("*"))
    code, output = bench(fake, tmp_path, *words)
    assert code == 0, output
    (folder,) = set((tmp_path / "results").glob("*")) - before
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The plan of two shards, the run of each, and the run of all cells."""
    tmp_path = tmp_path_factory.mktemp("shards")
    (tmp_path / "fake").mkdir()
    fake = Fake(tmp_path / "fake")
    fake.stack = fake.stack.replace('["chat"]', '["chat", "raw"]')
    whole = measured(fake, tmp_path, "--prompts", "8")
    plan = tmp_path / "plan.json"
    words = ["--stack", str(tmp_path / "tiny.toml"), "--prompts", "8", "--gate", "off", "--self-check", "off"]
    assert main(["plan", "acceptance", *words, "--shards", "2", "--output", str(plan)]) == 0
    shards = {
        f"shard{n}": measured(fake, tmp_path, "--prompts", "8", "--shard", f"{plan}:{n}") for n in (0, 1)
    }
    return {"plan": plan, "whole": whole, **shards}


def texts(run: Path) -> dict[str, list[tuple[str, str]]]:
    cells = [json.loads(path.read_text()) for path in sorted(run.glob("acceptance/*.json"))]
    return {str(cell["cell"]): [(p["prompt"], p["text"]) for p in cell["prompts"]] for cell in cells}


def test_the_manifest_says_what_each_machine_measures(made: dict[str, Path]) -> None:
    shards = json.loads(made["plan"].read_text())["shards"]

    assert [shard["number"] for shard in shards] == [0, 1]
    assert [len(shard["cases"]) for shard in shards] == [1, 1]
    assert all(shard["command"][:3] == ["draftgate", "bench", "acceptance"] for shard in shards)
    assert [shard["command"][-1] for shard in shards] == [f"{made['plan']}:{n}" for n in (0, 1)]


def test_the_shards_together_are_the_whole_run(made: dict[str, Path], tmp_path: Path) -> None:
    output = tmp_path / "merged"

    assert main(["merge", str(made["shard1"]), str(made["shard0"]), "--output", str(output)]) == 0

    assert texts(output) == texts(made["whole"])
    assert len(texts(output)) == 2
    assert main(["compare", str(made["whole"]), str(output)]) == 0
    assert [entry.cell for entry in collect(output).entries] == [
        entry.cell for entry in collect(made["whole"]).entries
    ]
    record = json.loads((output / "run.json").read_text())
    assert record["finished"]
    assert "shard" not in record["options"]


def changed(run: Path, folder: Path, **fields: Any) -> Path:
    """A copy whose run.json has other values, each at the path that its name says."""
    copy = folder / f"changed-{run.name}"
    shutil.copytree(run, copy)
    record = json.loads((copy / "run.json").read_text())
    for path, value in fields.items():
        *parents, last = path.split("__")
        at = record
        for parent in parents:
            at = at[parent]
        at[last] = value
    (copy / "run.json").write_text(json.dumps(record))
    return copy


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"stack": "another"}, "other-shard"),
        ({"options__shard__plan": "0" * 16}, "other-shard"),
        ({"options__shard__number": 0}, "other-shard"),
        ({"environment__cpu": "another"}, "other-shard"),
        ({"environment__gpus": [{"name": "H200"}]}, "other-shard"),
        ({"provenance__commit": "0" * 40}, "other-shard"),
        ({"provenance__packages__vllm": "0.1"}, "other-shard"),
        ({"finished": False}, "no-shard"),
    ],
)
def test_what_does_not_belong_together_is_refused(
    made: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    fields: dict[str, Any],
    code: str,
) -> None:
    other = changed(made["shard1"], tmp_path, **fields)
    output = tmp_path / "merged"

    assert main(["merge", str(made["shard0"]), str(other), "--output", str(output)]) == 2

    assert f"[{code}]" in capsys.readouterr().err
    assert not output.exists()
    assert list(tmp_path.iterdir()) == [other]


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (("shard0",), "other-shard"),
        (("shard0", "shard0"), "other-shard"),
        (("whole", "shard0"), "no-shard"),
        (("shard0", "shard1", "whole"), "no-shard"),
        (("plan",), "cannot-read"),
    ],
)
def test_a_shard_is_missing_or_is_none(
    made: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    names: tuple[str, ...],
    code: str,
) -> None:
    runs = [str(made[name]) for name in names]

    assert main(["merge", *runs, "--output", str(tmp_path / "merged")]) == 2

    assert f"[{code}]" in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--prompts", "9"), "another-plan"),
        (("-m", "raw"), "another-plan"),
    ],
)
def test_a_shard_is_measured_by_the_command_of_its_plan(
    made: dict[str, Path], tmp_path: Path, words: tuple[str, ...], code: str
) -> None:
    given = {"--prompts": "8", **dict([words])}
    done, output = forked.run(
        "pytest", "-p", "no:cacheprovider", SUITE, "--stack", str(made["plan"].parent / "tiny.toml"),
        "--results", str(made["plan"].parent / "results"), "--gate", "off", "--self-check", "off",
        "--shard", f"{made['plan']}:0", *(word for pair in given.items() for word in pair),
        output=tmp_path / "output",
    )  # fmt: skip

    assert done == 4
    assert f"[{code}]" in output


def test_a_stack_that_changed_is_another_server(made: dict[str, Path], tmp_path: Path) -> None:
    stack = made["plan"].parent / "tiny.toml"
    other = tmp_path / "tiny.toml"
    other.write_text(
        stack.read_text().replace("[engine.env]", "[engine.args]\nmax_model_len = 99\n[engine.env]")
    )
    code, output = forked.run(
        "pytest", "-p", "no:cacheprovider", SUITE, "--stack", str(other), "--prompts", "8", "--gate", "off",
        "--self-check", "off", "--collect-only", "--shard", f"{made['plan']}:0", output=tmp_path / "output",
    )  # fmt: skip

    assert code == 4
    assert "[another-plan]" in output
