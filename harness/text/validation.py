"""Says in plain words which field of a file does not fit its model, and what was probably meant."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

_NEAR = 0.7
"""How alike two names must be (`difflib`), from 0 to 1."""
_LONG = 60
"""Characters of a value in a message."""
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "string": "a text",
    "bool": "true or false",
    **dict.fromkeys(("tuple", "list", "set"), "a list"),
    **dict.fromkeys(("dict", "mapping", "model", "dataclass"), "a table"),
}
"""What a field must be, by the first word of pydantic's name for the error."""
_BOUNDS = {
    "greater_than": "more than {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "{min_length} values or more",
    "too_long": "{max_length} values at most",
    "string_too_short": "at least {min_length} characters long",
    "string_too_long": "at most {max_length} characters long",
    "string_pattern_mismatch": "of the form {pattern}",
    "literal_error": "{expected}",
}


def kind_of(value: object) -> str:
    """What a JSON value is, in plain words."""
    kinds = {bool: "true or false", type(None): "null", int: "number", float: "number", str: "text"}
    return {**kinds, list: "list", dict: "table"}.get(type(value), "something else")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'ngram'?)`; empty where no known name is near."""
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=_NEAR)
    return f" (did you mean {by_lower[near[0]]!r}?)" if near else ""


def near_path(path: Path) -> str:
    """The same of a file or folder that is not there: near is what stands beside it."""
    with contextlib.suppress(OSError, ValueError):
        parent = path.parent
        if not parent.is_dir():
            return f" (there is no folder {parent}{near_path(parent)})"
        return did_you_mean(path.name, (beside.name for beside in parent.iterdir()))
    return ""


def first_fault(
    error: ValidationError, kind: type[BaseModel], data: Any, *, by_hand: bool = False
) -> tuple[tuple[str, ...], str]:
    """The key of the first field that does not fit, and what is wrong with it.

    Args:
        error: what pydantic raised.
        kind: the model that it raised it of.
        data: what it validated.
        by_hand: a person wrote it: a key that is unknown explains one that is missing.
    """
    found = error.errors(include_url=False)
    first = next((e for e in found if by_hand and e["type"] == "extra_forbidden"), found[0])
    key = _key(first, data)
    texts = dict.fromkeys(_in_words(e, kind) for e in found if _key(e, data) == key)
    return tuple(map(str, key)), ", or ".join(texts)


def _key(error: ErrorDetails, data: Any) -> tuple[int | str, ...]:
    """Where it stands in the data. Pydantic's own path also says which member of a union did not fit."""
    path = error["loc"]
    for depth, part in enumerate(path):
        in_list = isinstance(data, list | tuple) and isinstance(part, int) and part < len(data)
        if not in_list and not (isinstance(data, dict) and part in data):
            return path[: depth + (error["type"] == "missing" and depth == len(path) - 1)]
        data = data[part]
    return path


def _in_words(error: ErrorDetails, kind: type[BaseModel]) -> str:
    name, context, value = error["type"], error.get("ctx", {}), error["input"]
    if name == "missing":
        return "it is missing"
    if name == "extra_forbidden":
        word = str(error["loc"][-1])
        return f"unknown key{did_you_mean(word, _names(kind, error['loc'][:-1]))}"
    if name in ("value_error", "assertion_error"):  # a sentence of our own
        return str(context["error"])
    if name in _BOUNDS:
        text = f"must be {_BOUNDS[name].format_map(context)}, not {_shown(value)}"
        known = str(context.get("expected", "")).split("'")[1::2]
        return text + (did_you_mean(value, known) if isinstance(value, str) else "")
    wanted = _KINDS.get(name.split("_")[0])
    return f"must be {wanted}, not {_shown(value)}" if wanted else f"{_shown(value)} does not fit"


def _shown(value: Any) -> str:
    if isinstance(value, dict | list | tuple):
        return "a table" if isinstance(value, dict) else f"a list of {len(value)}"
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= _LONG else f"{text[: _LONG - 3]}..."


def _names(kind: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """The keys of the table at `loc`, as a file has them."""
    models = [kind]
    for part in loc:
        fields = [model.model_fields.get(str(part)) for model in models]
        inside = [model for field in fields if field for model in _models(field.annotation)]
        models = inside or models  # the key of a dict of tables names no field
    return [field.alias or name for model in models for name, field in model.model_fields.items()]


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models in a type, however they are wrapped."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]
