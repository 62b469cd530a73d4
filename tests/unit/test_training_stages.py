from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from harness.config.stack import load_stack
from harness.config.variants import Target
from harness.errors import BadInput
from tests.factories.refusals import refused
from training import stages
from training.__main__ import speaker
from training.benchmark import newest, write_stack
from training.recipe import Recipe, find_recipe, load_recipe
from training.servers import open_servers
from training.stages import Context, Stage


class Kitchen:
    """Two stages that note when they are done."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.fail: str | None = None

    def stage(self, name: str, inputs: Any) -> Stage:
        def run(context: Context) -> dict[str, Any]:
            (context.folder / "half").write_text("half")
            if self.fail == name:
                raise KeyboardInterrupt
            self.done.append(name)
            return {"upstream": sorted(context.upstream)}

        return Stage(name=name, version=1, inputs=inputs, run=run)

    @property
    def stages(self) -> tuple[Stage, ...]:
        return (self.stage("first", lambda r: r.prompts.count), self.stage("second", lambda r: r.train.lr))


@pytest.fixture
def kitchen() -> Kitchen:
    return Kitchen()


@pytest.fixture
def base(tmp_path: Path) -> Context:
    recipe = load_recipe(find_recipe("smoke-cpu"))
    return Context(
        recipe=recipe,
        work=tmp_path,
        servers=open_servers(recipe, tmp_path, lambda _: None),
        say=lambda _: None,
    )


def changed(base: Context, **train: Any) -> Context:
    recipe: Recipe = base.recipe
    return dataclasses.replace(
        base, recipe=recipe.model_copy(update={"train": recipe.train.model_copy(update=train)})
    )


def test_all_once_then_nothing(kitchen: Kitchen, base: Context) -> None:
    records = stages.carry_out(kitchen.stages, base)
    assert kitchen.done == ["first", "second"]
    assert records["second"]["counts"] == {"upstream": ["first"]}
    assert stages.carry_out(kitchen.stages, base) == records
    assert kitchen.done == ["first", "second"]


@pytest.mark.parametrize(
    ("before", "only", "alone"), [(False, None, False), (True, None, True), (False, "first", True)]
)
def test_a_stage_knows_that_no_other_will_follow(
    base: Context, only: str | None, *, before: bool, alone: bool
) -> None:
    seen = list[bool]()

    def run(context: Context) -> dict[str, Any]:
        seen.append(context.alone)
        return {}

    first = Stage(name="first", version=1, inputs=lambda _: None, run=run)
    stages.carry_out((first,), dataclasses.replace(base, alone=before), only=only)
    assert seen == [alone]


def test_a_change_redoes_that_stage_and_those_after_it(kitchen: Kitchen, base: Context) -> None:
    stages.carry_out(kitchen.stages, base)
    stages.carry_out(kitchen.stages, changed(base, lr=0.5))
    assert kitchen.done == ["first", "second", "second"]
    more = base.recipe.prompts.model_copy(update={"count": 1})
    other = dataclasses.replace(base, recipe=base.recipe.model_copy(update={"prompts": more}))
    stages.carry_out(kitchen.stages, other)
    assert kitchen.done[3:] == ["first", "second"]


def test_recipes_that_agree_share_a_stage(kitchen: Kitchen, base: Context) -> None:
    mine, other = (stages.plan(c.recipe, kitchen.stages, base.work) for c in (base, changed(base, lr=0.5)))
    assert mine[0].folder == other[0].folder
    assert mine[1].folder != other[1].folder


def test_a_stage_that_was_cut_off_is_not_done(kitchen: Kitchen, base: Context) -> None:
    kitchen.fail = "second"
    with pytest.raises(KeyboardInterrupt):
        stages.carry_out(kitchen.stages, base)
    kitchen.fail = None
    stages.carry_out(kitchen.stages, base)
    assert kitchen.done == ["first", "second"]


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"schema": 9}'])
def test_a_record_that_cannot_be_read_counts_for_nothing(kitchen: Kitchen, base: Context, text: str) -> None:
    stages.carry_out(kitchen.stages, base)
    planned = stages.plan(base.recipe, kitchen.stages, base.work)
    (planned[0].folder / stages.DONE).write_text(text)
    stages.carry_out(kitchen.stages, base)
    assert kitchen.done == ["first", "second", "first", "second"]


def test_only_one_stage(kitchen: Kitchen, base: Context) -> None:
    with refused(BadInput, "training-option", "first"):
        stages.carry_out(kitchen.stages, base, only="second")
    stages.carry_out(kitchen.stages, base, only="first")
    assert kitchen.done == ["first"]
    stages.carry_out(kitchen.stages, base, only="second")
    assert kitchen.done == ["first", "second"]


def test_from_a_stage_on_again(kitchen: Kitchen, base: Context) -> None:
    stages.carry_out(kitchen.stages, base)
    _, second = stages.plan(base.recipe, kitchen.stages, base.work)
    (second.folder / "half").write_text("what it would go on with")
    (second.folder / "results").mkdir()
    stages.carry_out(kitchen.stages, base, start="second")
    assert kitchen.done == ["first", "second", "second"]
    assert not (second.folder / "results").exists()
    stages.carry_out(kitchen.stages, base, start="first")
    assert kitchen.done[3:] == ["first", "second"]


def test_from_a_stage_that_was_cut_off_goes_on(kitchen: Kitchen, base: Context) -> None:
    kitchen.fail = "second"
    with pytest.raises(KeyboardInterrupt):
        stages.carry_out(kitchen.stages, base)
    _, second = stages.plan(base.recipe, kitchen.stages, base.work)
    (second.folder / "results").mkdir()
    kitchen.fail = None
    stages.carry_out(kitchen.stages, base, start="second")
    assert (second.folder / "results").exists()


def test_what_was_made_from_an_earlier_try_is_made_again_from_nothing(
    kitchen: Kitchen, base: Context
) -> None:
    stages.carry_out(kitchen.stages, base)
    _, second = stages.plan(base.recipe, kitchen.stages, base.work)
    stages.carry_out(kitchen.stages, base, only="first")
    assert second.record is None

    kitchen.fail = "second"
    with pytest.raises(KeyboardInterrupt):
        stages.carry_out(kitchen.stages, base)
    (second.folder / "checkpoint").touch()
    with pytest.raises(KeyboardInterrupt):
        stages.carry_out(kitchen.stages, base)
    assert (second.folder / "checkpoint").exists()  # it goes on
    with pytest.raises(KeyboardInterrupt):
        stages.carry_out(kitchen.stages, base, start="first")
    assert not (second.folder / "checkpoint").exists()

    kitchen.fail = None
    stages.carry_out(kitchen.stages, base)
    assert kitchen.done == ["first", "second", "first", "first", "second"]


def test_one_stage_alone_and_all_from_another_are_refused_together(kitchen: Kitchen, base: Context) -> None:
    with refused(BadInput, "training-option", "--only second --from first"):
        stages.carry_out(kitchen.stages, base, only="second", start="first")


@pytest.mark.parametrize("how", ["only", "start"])
def test_an_unknown_stage_names_those_there_are(kitchen: Kitchen, base: Context, how: str) -> None:
    with refused(BadInput, "training-option", "'third'", "first, second"):
        stages.carry_out(kitchen.stages, base, **{how: "third"})


def test_the_record_says_what_it_was_made_from(kitchen: Kitchen, base: Context) -> None:
    stages.carry_out(kitchen.stages, base)
    first, second = stages.plan(base.recipe, kitchen.stages, base.work)
    record = json.loads((second.folder / stages.DONE).read_text())
    assert record["inputs"] == base.recipe.train.lr
    assert record["upstream"] == {"first": first.folder.name}


def test_the_served_drafter_is_read_from_cells_and_not_from_what_a_run_keeps_of_its_servers(
    tmp_path: Path,
) -> None:
    files = [tmp_path / "results/run" / name for name in ("acceptance/a.json", "parity/a.json")]
    for file in [*files, tmp_path / "results/run/servers/self-check.json"]:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}", encoding="utf-8")

    assert newest(tmp_path / "results") == files


def test_progress_that_no_terminal_shows_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    say = speaker()
    for seconds in range(50):
        say(f"\rstarting: {seconds} s")
    say("started")

    *progress, last = capsys.readouterr().err.splitlines()
    assert last == "started"
    assert len(progress) <= 1


def test_a_drafter_is_checked_under_the_target_of_its_recipe(base: Context, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "mine.toml").write_text(
        'schema = 1\nname = "mine"\nendpoints = ["chat"]\nlanguages = ["en"]\n'
        '[target]\nmodel = "hub/another"\ndtype = "bfloat16"\n'
        '[drafters.none]\n[drafters.mine]\nmethod = "eagle3"\nmodel = "./head"\nk = [2]\n'
    )
    recipe = base.recipe.model_copy(
        update={
            "target": Target(model=str(tmp_path / "changed"), dtype="float32", trust_remote_code=True),
            "check": base.recipe.check.model_copy(update={"stack": str(own / "mine.toml")}),
        }
    )
    folder = tmp_path / "check"
    folder.mkdir()

    checked = load_stack(
        write_stack(dataclasses.replace(base, recipe=recipe, folder=folder), tmp_path / "drafter")
    )

    assert checked.target == Target(model=str(tmp_path / "changed"), dtype="bfloat16", trust_remote_code=True)
    assert checked.drafters["mine"].model == str(own / "head")
    assert checked.drafters[recipe.drafter].model == str(tmp_path / "drafter")
