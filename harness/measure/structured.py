"""Answers that must be a tool call, or JSON of a schema: what a prompt wants, and whether an answer is it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal

from jsonschema import Draft202012Validator, SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable

from harness.config.prompts import Prompt
from harness.errors import BadInput
from harness.measure.turns import texts_of
from harness.results.records import PromptRecord

CALL, SCHEMA = "call", "schema"
Flaw = Literal["", "no answer", "no call", "another function", "not JSON", "not of the schema"]
"""What is wrong with an answer; empty where it is valid."""


def kind_of(prompt: Prompt) -> str:
    """`call`, `schema`, or nothing where a prompt asks for neither."""
    if prompt.request.get("tools") and prompt.request.get("tool_choice") != "none":
        return CALL
    form = prompt.request.get("response_format")
    return SCHEMA if isinstance(form, dict) and form.get("type") in ("json_schema", "json_object") else ""


def _schemas(prompt: Prompt) -> dict[str, Any]:
    """The schema of the arguments of each function that may be called by its name, or of the answer by ""."""
    if kind_of(prompt) == CALL:
        functions = [tool["function"] for tool in prompt.request["tools"]]
        known = {function["name"]: function.get("parameters", {}) for function in functions}
        choice = prompt.request.get("tool_choice")
        named = {choice["function"]["name"]} if isinstance(choice, dict) else known.keys()
        return {name: known[name] for name in named}
    return {"": prompt.request["response_format"].get("json_schema", {}).get("schema", {})}


def check_schemas(prompt: Prompt) -> None:
    """Raise BadInput where what a prompt asks for is no schema, or has none."""
    try:
        for schema in _schemas(prompt).values():
            Draft202012Validator.check_schema(schema)
            if away := re.search(r'"\$(?:dynamicRef|ref)": "([^"#][^"]*)', json.dumps(schema)):
                raise ValueError(f"it refers to {away[1][:80]}, which is not fetched")  # noqa: TRY301
    except (KeyError, TypeError, AttributeError, ValueError, SchemaError) as error:
        what = getattr(error, "message", None) or f"{type(error).__name__}: {error}"
        raise BadInput(
            f"the prompt {prompt.id}: its tools or response_format hold no JSON schema: {what}; correct it",
            code="prompt-row",
        ) from None


def flaw_of(prompt: Prompt, record: PromptRecord) -> Flaw:
    """What is wrong with an answer.

    Valid is a call, or several, of functions that there are, with arguments of their schemas; or an answer of
    its schema.
    """
    if record.failed:
        return "no answer"
    schemas = _schemas(prompt)
    if kind_of(prompt) == SCHEMA:
        return _flaw_of_json(part_of(record, "content"), schemas[""])
    text = part_of(record, "tool_calls")
    return _flaw_of_calls(text, schemas) if text else "no call"


def _flaw_of_calls(text: str, schemas: Mapping[str, Any]) -> Flaw:
    """What is wrong with calls, each a name and its arguments, one behind the other."""
    names = sorted(schemas, key=len, reverse=True)
    while text:
        name = next((name for name in names if text.startswith(name)), None)
        if name is None:
            return "another function"
        text = text[len(name) :]
        try:
            _, end = json.JSONDecoder().raw_decode(text)
        except ValueError:
            return "not JSON"
        if flaw := _flaw_of_json(text[:end], schemas[name]):
            return flaw
        text = text[end:].lstrip()
    return ""


def _flaw_of_json(text: str, schema: Mapping[str, Any]) -> Flaw:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return "not JSON"
    try:
        # With a registry of nothing: no reference in a schema is fetched.
        fits = Draft202012Validator(schema, registry=Registry()).is_valid(value)
    except (Unresolvable, RecursionError):
        fits = False
    return "" if fits else "not of the schema"


def part_of(record: PromptRecord, name: str) -> str:
    """What an answer says in one of its parts."""
    return "".join(text for part, text in texts_of(record) if part == name)
