"""What pydantic finds wrong is said in our words, whatever it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import InitErrorDetails
from pydantic_core.core_schema import ErrorType

from harness.text.validation import did_you_mean, first_fault, near_path


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    depth: int = Field(default=1, ge=1)
    kind: Literal["warm", "cold"] = "warm"


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    schema_: int = Field(alias="schema", default=1)
    one: Inner = Inner()
    named: dict[str, Inner] = {}
    several: tuple[Inner, ...] = ()
    either: bool | tuple[int, ...] = True


def fault(data: Any) -> tuple[tuple[str, ...], str]:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(data)
    return first_fault(caught.value, Outer, data)


@pytest.mark.parametrize(
    ("data", "key", "text"),
    [
        ({"schem": 1}, "schem", "unknown key (did you mean 'schema'?)"),
        ({"one": {"dept": 2}}, "one.dept", "unknown key (did you mean 'depth'?)"),
        ({"named": {"a": {"kinds": 2}}}, "named.a.kinds", "unknown key (did you mean 'kind'?)"),
        ({"several": [{}, {"Depth": 2}]}, "several.1.Depth", "unknown key (did you mean 'depth'?)"),
        ({"xyz": 1}, "xyz", "unknown key"),
        (
            {"one": {"kind": "wram"}},
            "one.kind",
            "must be 'warm' or 'cold', not 'wram' (did you mean 'warm'?)",
        ),
        ({"one": {"depth": 0}}, "one.depth", "must be 1 or more, not 0"),
        ({"one": {"depth": [1]}}, "one.depth", "must be a whole number, not a list of 1"),
        ({"one": None}, "one", "must be a table, not nothing"),
        ({"either": 1.5}, "either", "must be true or false, not 1.5, or must be a list, not 1.5"),
        ([1], "", "must be a table, not a list of 1"),
    ],
)
def test_a_fault_has_its_key_and_our_words(data: Any, key: str, text: str) -> None:
    found, said = fault(data)

    assert (".".join(found), said) == (key, text)


@pytest.mark.parametrize("kind", get_args(ErrorType))
def test_no_word_of_pydantic_gets_out(kind: Any) -> None:
    context = dict.fromkeys(
        ("gt", "ge", "lt", "le", "min_length", "max_length", "actual_length", "multiple_of"), 3
    )
    words = ("expected", "error", "pattern", "field_type", "class", "class_name", "method_name", "attribute")
    details = InitErrorDetails(type=kind, loc=("one",), input="?", ctx=context | dict.fromkeys(words, "x"))
    try:
        error = ValidationError.from_exception_data("Outer", [details])
        theirs = error.errors()[0]["msg"]
    except (TypeError, KeyError, ValueError):
        pytest.skip("no such error can be made here")

    key, said = first_fault(error, Outer, {"one": "?"})

    assert key == ("one",)
    assert kind in ("value_error", "assertion_error") or theirs not in said
    assert not {"Input", "input", "Value error", "valid", "permitted"} & set(said.split())


def test_a_near_name_is_offered_and_a_far_one_is_not(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()

    assert did_you_mean("NGRAM", ["ngram", "eagle3"]) == " (did you mean 'ngram'?)"
    assert did_you_mean("medusa", ["ngram", "eagle3"]) == ""
    assert near_path(tmp_path / "reslts") == " (did you mean 'results'?)"
    assert "no folder" in near_path(tmp_path / "nowhere" / "deep")
