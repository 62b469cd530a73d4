from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

from harness.config.variants import Target
from harness.errors import BadInput
from harness.report.card import values_of
from tests.factories.records import cell_record, prompt_record
from tests.factories.refusals import refused
from training.export import export
from training.export.scrub import public_name, recipe_toml, scrubbed
from training.recipe import find_recipe, load_recipe


@pytest.mark.parametrize(
    ("text", "code"), [("", "damaged-file"), ("[]", "damaged-file"), ('{"schema": 2}', "damaged-drafter")]
)
def test_records_of_another_version_are_refused(tmp_path: Path, text: str, code: str) -> None:
    (tmp_path / "training.json").write_text(text)

    with refused(BadInput, code, "training.json"):
        export.add_served(tmp_path, [])


def test_served_figures_have_intervals_over_prompts() -> None:
    prompts = [prompt_record(f"p{i}", histogram=(9 - i, i, 0, 0, 0), accepted=None) for i in range(9)]

    one = values_of(cell_record(*prompts, suite="contract"), run="old")

    assert one["prompts_of"] == "held out in training"
    assert one["acceptance"][0] == 36 / 81
    low, high = one["acceptance_ci"][0]
    assert low < 4 / 9 < high
    shares = [i / 9 for i in range(9)]  # nine prompts of nine steps each: the mean of their shares, and its t
    half = 2.306 * np.std(shares, ddof=1) / 9**0.5
    assert (low, high) == pytest.approx((4 / 9 - half, 4 / 9 + half), abs=1e-3)
    assert values_of(cell_record(prompts[0]), run="old")["tokens_per_step_ci"] is None


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (Target(model="embedded:smollm2-135m-instruct"), "HuggingFaceTB/SmolLM2-135M-Instruct"),
        (Target(model="org/model"), "org/model"),
        (Target(model="/data/models/big"), "big"),
        (Target(model="/data/models/big", served_name="org/big"), "org/big"),
    ],
)
def test_a_target_is_called_what_others_call_it(target: Target, name: str) -> None:
    assert public_name(target) == name


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("in /home/someone/work/x.py, line 3", "in …/x.py, line 3"),
        ("'/tmp/a/b'", "'…/b'"),
        ("file:///tmp/a/b", "…/b"),
        ("cc -I/usr/include/python3.11 x.c", "cc -I…/python3.11 x.c"),
        ("saved to ~/runs/step-1/", "saved to …/step-1"),
        ("http://127.0.0.1:8000/v1/chat/completions", "http://127.0.0.1:8000/v1/chat/completions"),
        ("org/model at 57/33/20 tokens/s", "org/model at 57/33/20 tokens/s"),
        ("and/or", "and/or"),
    ],
)
def test_of_a_path_its_last_part_is_left(text: str, left: str) -> None:
    assert scrubbed(text) == left


@given(st.lists(st.sampled_from(["home", "tmp", "x.py", "a b", "data", "run-1"]), min_size=2, max_size=5))
def test_no_path_with_a_folder_stays(parts: list[str]) -> None:
    whole = "/" + "/".join(part.replace(" ", "") for part in parts)

    assert not re.search(r"/[\w.]+/", scrubbed(f"see {whole} there"))


@pytest.mark.parametrize("name", ["smollm2-eagle3-en"])
def test_the_recipe_as_it_was_used_reads_as_the_recipe(tmp_path: Path, name: str) -> None:
    known = load_recipe(find_recipe(name))
    path = tmp_path / "recipe.toml"

    path.write_text(recipe_toml(known), encoding="utf-8")

    assert load_recipe(path) == known


def test_a_recipe_does_not_tell_where_things_lay(tmp_path: Path) -> None:
    known = load_recipe(find_recipe("smollm2-eagle3-en"))
    target = known.target.model_copy(update={"model": "/data/models/big"})
    hidden = known.hidden_states.model_copy(update={"folder": "/ramdisk/hs"})

    text = recipe_toml(known.model_copy(update={"target": target, "hidden_states": hidden}))

    assert "…/big" in text
    assert "/ramdisk" not in text
