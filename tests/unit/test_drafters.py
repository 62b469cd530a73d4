"""The drafters that are shipped: whole, small, and said where they come from."""

from __future__ import annotations

from pathlib import Path

import pytest

import fixtures
from harness.cli import main
from harness.config.stack import find_stack, load_stack
from harness.engine.models import sha256_of
from training.export import export, model_card
from training.recipe import find_recipe, load_recipe

DATA = Path(fixtures.__file__).parent
SHIPPED = sorted((DATA / "drafters").iterdir())
MOST_BYTES = 25_000_000


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_a_shipped_drafter_is_small_and_what_its_records_say(folder: Path) -> None:
    assert sum(file.stat().st_size for file in folder.iterdir()) < MOST_BYTES
    records = export.load(folder)
    assert {"model.safetensors", "config.json", "recipe.toml", "log.txt"} <= set(records["files"])
    for name, file in records["files"].items():
        assert sha256_of(folder / name) == file["sha256"], name


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_a_shipped_card_is_that_of_its_records_and_its_figures_hold(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(DATA.parent)
    card, known = folder / "README.md", export.load(folder)
    assert card.read_text(encoding="utf-8") == model_card.text(known)
    assert main(["claims", str(card), "tests/data/recordings", "--allow-none"]) == 0
    referring = [one for one in known["served"] if "reference" in one]
    assert int(capsys.readouterr().out.split()[1]) == 16 * len(referring)  # n, and 5 figures with their ends


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_a_shipped_drafter_was_made_by_the_recipe_that_names_it(folder: Path) -> None:
    same_speed = ["train.compile=false"]  # it is no part of what is made
    made = load_recipe(folder / "recipe.toml", same_speed)
    shipped = load_recipe(find_recipe(made.name), same_speed)
    differs = {
        name
        for name in type(made).model_fields
        if name != "check" and getattr(made, name) != getattr(shipped, name)
    }
    assert (made.drafter, differs) == (folder.name, set())


def test_the_embedded_stack_has_all_of_them() -> None:
    stack = load_stack(find_stack("smollm2-cpu", DATA / "stacks"))
    there = {Path(d.model).name for d in stack.drafters.values() if d.model and "/" in d.model}
    assert there == {folder.name for folder in SHIPPED}
