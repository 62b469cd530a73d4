from __future__ import annotations

import json
from typing import Any

import pytest

from harness.config.difference import Against, differences, listed, refuse_unmeant
from harness.errors import BadInput
from tests.factories.benches import stack


def between(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return dict(differences(stack(name="old", **old), stack(**new), ["none", "ngram"]))


DRAFTERS = {"none": {}, "ngram": {"method": "ngram", "k": [4], "prompt_lookup_max": 4}}


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ({}, {}, {}),
        (
            {},
            {"about": "x", "start_seconds": 5, "engine": {"port": 9, "start_timeout_s": 9}},
            {},
        ),  # no matter
        ({"target": {"model": "org/tiny", "dtype": "float32"}}, {}, {"target.dtype": ("float32", "auto")}),
        ({"engine": {"python": "/old/python"}}, {}, {"engine.python": ("/old/python", None)}),
        (
            {"engine": {"args": {"max-num-seqs": 1}}},
            {"engine": {"args": {"max_num_seqs": True}}},
            {"engine.args.max_num_seqs": (1, True)},
        ),
        ({"engine": {"args": {"a-b": 1}}}, {"engine": {"args": {"a_b": 1}}}, {}),
        ({"engine": {"env": {"X": "1"}}}, {}, {"engine.env.X": ("1", "(not set)")}),
        (
            {"drafters": DRAFTERS},
            {"drafters": DRAFTERS | {"ngram": DRAFTERS["ngram"] | {"prompt_lookup_max": 2}}},
            {"drafters.ngram.prompt_lookup_max": (4, 2)},
        ),
    ],
)
def test_what_a_server_notices_is_a_difference(
    old: dict[str, Any], new: dict[str, Any], found: dict[str, Any]
) -> None:
    assert between(old, new) == found


def test_a_secret_in_the_environment_is_not_shown() -> None:
    found = between({"engine": {"env": {"HF_TOKEN": "hf_" + "q" * 34}}}, {})

    assert "hf_" not in listed(found)
    assert list(found) == ["engine.env.HF_TOKEN"]


TWO: dict[str, tuple[Any, Any]] = {
    "engine.args.max_num_seqs": (64, 32),
    "target.dtype": ("auto", "float32"),
}


@pytest.mark.parametrize(
    "across",
    [
        ["engine.args.max_num_seqs", "target.dtype"],
        ["engine.args", "target"],
    ],
)
def test_several_differences_may_be_meant(across: list[str]) -> None:
    refuse_unmeant(TWO, across)


def test_one_difference_is_the_question() -> None:
    refuse_unmeant({}, [])
    refuse_unmeant({"target.dtype": ("auto", "float32")}, [])


@pytest.mark.parametrize(
    ("across", "named"),
    [
        ([], ("engine.args.max_num_seqs", "64", "32", "target.dtype", '"auto"', '"float32"')),
        (["target.dtype"], ("engine.args.max_num_seqs", "64", "32")),
        (["engine.arg"], ("engine.arg", "target.dtype")),  # half a word is no key
        (["engine.args", "target", "drafters"], ("drafters",)),
    ],
)
def test_what_nobody_meant_is_refused_with_both_values(across: list[str], named: tuple[str, ...]) -> None:
    with pytest.raises(BadInput) as refused:
        refuse_unmeant(TWO, across)

    assert refused.value.code == "stacks-differ"
    assert all(word in str(refused.value) for word in named)


def test_a_run_keeps_which_stack_it_was_compared_with_and_none_of_its_secrets() -> None:
    secret = {"env": {"HF_TOKEN": "hf_" + "q" * 34}}
    kept = [Against(stack=stack(engine=engine), blocks=6).recorded() for engine in ({}, secret, secret)]

    assert kept[0] != kept[1] == kept[2]
    assert "hf_" not in json.dumps(kept)
    assert kept[1] != Against(stack=stack(engine=secret), blocks=4).recorded()
