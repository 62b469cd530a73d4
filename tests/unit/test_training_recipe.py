from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import BadInput
from tests.factories.refusals import refused
from training.recipe import RECIPES, find_recipe, load_recipe

SHIPPED = sorted(RECIPES.glob("*.toml"))
PLAIN = """schema = 1
name = "mine"
drafter = "mine"
[target]
model = "embedded:smollm2-135m-instruct"
[prompts]
count = 10
[[prompts.sources]]
kind = "self"
weight = 1
"""


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(PLAIN)
    return path


def test_shipped_recipes_are_valid() -> None:
    assert SHIPPED
    assert [load_recipe(path).name for path in SHIPPED] == [path.stem for path in SHIPPED]


def test_shipped_drafters_have_names_of_their_own() -> None:
    names = [load_recipe(path).drafter for path in SHIPPED]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("count = 10", "cuont = 10", "line 7, key prompts.cuont: unknown key (did you mean 'count'?)"),
        ("count = 10", "count = 0", "line 7, key prompts.count: must be more than 0, not 0"),
        ('kind = "self"', 'kind = "magic"', "key prompts.sources.0.kind"),
        ('kind = "self"', 'kind = "jsonl"', "a source of kind 'jsonl' needs a path"),
        ('kind = "self"', 'kind = "hub"', "a source of kind 'hub' needs a dataset"),
        ('drafter = "mine"', 'drafter = "Mine!"', "line 3, key drafter"),
        ("schema = 1", "schema = 2", "line 1, key schema"),
        ("[target]", "[target", "not TOML"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(plain: Path, old: str, new: str, says: str) -> None:
    plain.write_text(PLAIN.replace(old, new))
    with pytest.raises(BadInput) as caught:
        load_recipe(plain)
    assert says in str(caught.value)
    assert str(plain) in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "line", "key"),
    [
        ("count = 10", 'count = "10"', 7, "prompts.count"),
        ("count = 10", "count = true", 7, "prompts.count"),
        ("weight = 1", 'weight = "1"', 8, "prompts.sources.0.weight"),
        ('kind = "self"', 'kind = "self"\nlanguage = ""', 8, "prompts.sources.0.language"),
        ('kind = "self"', 'kind = "self"\nworkload = "../up"', 8, "prompts.sources.0.workload"),
        ("weight = 1", 'weight = 1\n[[prompts.sources]]\nkind = "self"\nweight = 2', 8, "prompts.sources"),
        ("weight = 1", "weight = 1\n[train]\ncompile = 1", 12, "train.compile"),
        ("weight = 1", "weight = 1e308", 8, "prompts.sources.0.weight"),
        ("count = 10", "count = 10\nseed = -1", 8, "prompts.seed"),
        ("weight = 1", "weight = 1\n[train]\nseed = -1", 12, "train.seed"),
        ("weight = 1", "weight = 1\n[train]\nseed = 4294967296", 12, "train.seed"),
        ("weight = 1", "weight = 1\n[train]\nttt_steps = 5\n[check]\nk = [5, 6]", 14, "check.k"),
        ("weight = 1", "weight = 1\n[check]\nk = [4, 4]", 12, "check.k"),
        ("weight = 1", "weight = 1\n[check]\nk = []", 12, "check.k"),
        ("weight = 1", "weight = 1\n[check]\nk = [0]", 12, "check.k.0"),
        ("weight = 1", 'weight = 1\n[check]\nk = ["4"]', 12, "check.k"),
        ("weight = 1", 'weight = 1\n[check]\nlanguages = ["en", "en"]', 12, "check.languages"),
        ("weight = 1", "weight = 1\n[hidden_states]\nlayers = [2, 9, 2]", 12, "hidden_states.layers"),
        ("weight = 1", "weight = 1\n[hidden_states]\nlayers = [-1]", 12, "hidden_states.layers.0"),
        ("weight = 1", "weight = 1\n[hidden_states.args]\na_b = 1\na-b = 2", 11, "hidden_states.args"),
    ],
)
def test_a_value_of_another_kind_or_said_twice_is_refused(
    plain: Path, old: str, new: str, line: int, key: str
) -> None:
    plain.write_text(PLAIN.replace(old, new))
    with refused(BadInput, "wrong-field", f"line {line}, key {key}: "):
        load_recipe(plain)


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ("[responses]\ntemperatures = {hot = 1}\n", "training-option"),
        ("[responses]\ntemperatures = {}\n", "training-option"),
        ("[engine.args]\nmax_model_len = 1\nmax-model-len = 2\n", "stack-argument"),
        ("[hidden_states.args]\napi-key = 's'\n", "stack-argument"),
        ("[responses]\ntemperatures = {'0' = 1e308, '1' = 1e308}\n", "training-option"),
        ("[target]\nmodel = 'org/other'\n", "damaged-file"),
        ("<<<<<<< HEAD\n", "damaged-file"),
    ],
)
def test_what_a_later_stage_would_refuse_is_refused_first(plain: Path, more: str, code: str) -> None:
    plain.write_text(PLAIN + more)
    with refused(BadInput, code, plain.name):
        load_recipe(plain)


def test_a_temperature_that_makes_no_sense_is_refused_by_its_key(plain: Path) -> None:
    plain.write_text(f"{PLAIN}[responses]\ntemperatures = {{ hot = 1 }}\n")
    with refused(BadInput, "training-option", plain.name, "responses.temperatures", "'hot'"):
        load_recipe(plain)


def test_a_drafter_without_greedy_answers_is_foretold_nothing(plain: Path) -> None:
    plain.write_text(f"{PLAIN}[train]\nttt_steps = 3\n[responses]\ntemperatures = {{ '0.7' = 1 }}\n")

    assert load_recipe(plain).check.k == (4,)


def test_a_text_that_is_none_is_refused(plain: Path) -> None:
    with refused(BadInput, "training-option", plain.name):
        load_recipe(plain, ["about=\udcff"])


def test_a_value_is_set_once(plain: Path) -> None:
    with refused(BadInput, "training-option", "train.epochs"):
        load_recipe(plain, ["train.epochs=1", "train.epochs = 2"])


def test_an_unknown_recipe_names_those_there_are() -> None:
    with refused(BadInput, "unknown-name", "nonsense", "smoke-cpu"):
        find_recipe("nonsense")


def test_a_recipe_by_name_and_by_path(plain: Path) -> None:
    assert find_recipe("smoke-cpu") == RECIPES / "smoke-cpu.toml"
    assert find_recipe(str(plain)) == plain


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with refused(BadInput, "unknown-name", "none.toml"):
        find_recipe(str(tmp_path / "none.toml"))


def test_single_values_can_be_changed(plain: Path) -> None:
    changes = ["train.epochs=3", "drafter=other", 'responses.temperatures={ "0.7" = 1 }']
    recipe = load_recipe(plain, changes)
    assert recipe.train.epochs == 3
    assert recipe.drafter == "other"
    assert recipe.responses.temperatures == {"0.7": 1.0}


@pytest.mark.parametrize(
    ("change", "code", "name"),
    [
        ("epochs", "training-option", "KEY=VALUE"),
        ("=3", "training-option", "KEY=VALUE"),
        ("name.epochs=3", "training-option", "name"),
        ("train.epoch=3", "wrong-field", "key train.epoch"),
    ],
)
def test_a_change_that_makes_no_sense(plain: Path, change: str, code: str, name: str) -> None:
    with refused(BadInput, code, name):
        load_recipe(plain, [change])


def test_paths_are_relative_to_the_recipe(plain: Path) -> None:
    text = PLAIN.replace('kind = "self"', 'kind = "jsonl"\npath = "./mine.jsonl"')
    plain.write_text(text + '[train]\nfrom_pretrained = "./drafter"\n')
    recipe = load_recipe(plain)
    assert recipe.prompts.sources[0].path == str(plain.parent / "mine.jsonl")
    assert recipe.train.from_pretrained == str(plain.parent / "drafter")


def test_a_hub_id_stays_one(plain: Path) -> None:
    plain.write_text(PLAIN + '[train]\nfrom_pretrained = "org/drafter"\n')
    assert load_recipe(plain).train.from_pretrained == "org/drafter"
