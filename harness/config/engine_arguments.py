"""What a stack passes on to vLLM as it is: arguments of the engine, and fields of its speculative config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from harness.config.toml import Document

_REFUSED = dict.fromkeys(
    {"model", "host", "port", "served_model_name", "speculative_config", "tokenizer", "revision"}
    | {"dtype", "quantization", "trust_remote_code", "per_request_spec_decode_metrics"}
    | {"spec_method", "spec_model", "spec_tokens"},
    "a stack has another key for it, or draftgate sets it itself",
) | dict.fromkeys(
    ("api_key", "hf_token", "ssl_keyfile_password"),
    "as an argument every user of this machine could read it; a secret stands in the environment",
)
"""Arguments of vLLM that a stack does not set, and why."""


def why_refused(name: str) -> str | None:
    """Why a stack does not set an argument of vLLM; None of those that it may."""
    return _REFUSED.get(spelled(name).split(".")[0])


def spelled(name: str) -> str:
    """The name of an argument, which a stack may write with hyphens, with underscores."""
    return name.replace("-", "_")


def underscored(args: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `[engine.args]` by names with underscores."""
    return {spelled(name): value for name, value in args.items()}


def replaced(args: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of vLLM with those of `own` in their place, however either spells a name."""
    changed = underscored(own)
    return {name: value for name, value in args.items() if spelled(name) not in changed} | dict(own)


def drafts_from_answers(method: str | None, settings: Mapping[str, Any]) -> bool:
    """The drafter drafts from earlier answers, to any request: suffix decoding, unless it keeps none."""
    return method == "suffix" and settings.get("suffix_decoding_max_cached_requests") != 0


def parses_calls(args: Mapping[str, Any]) -> bool:
    """Arguments of `[engine.args]` name a parser of the calls that the target writes by itself."""
    return "tool_call_parser" in underscored(args)


def check_arguments(loc: tuple[str, ...], args: Mapping[str, Any], document: Document) -> None:
    """All of it must be JSON, and no argument may have a key of its own in the stack.

    Args:
        loc: the key of their table.
        args: arguments of vLLM.
        document: in which they stand.

    Raises:
        BadInput: with file, line and key.
    """
    names: dict[str, str] = {}
    for name in args:
        other = names.setdefault(spelled(name), name)
        if other != name:
            what = f"{other} and {name} are one argument of vLLM, which stands there twice"
            raise document.wrong((*loc, name), what, code="stack-argument")
        if why := why_refused(name):
            raise document.wrong((*loc, name), f"{name} is not given here: {why}", code="stack-argument")
    check_json(loc, args, document)


def check_json(loc: tuple[str, ...], values: Mapping[str, Any], document: Document) -> None:
    """Check that each value of a table is JSON.

    Raises:
        BadInput: with file, line and key.
    """
    for name, value in values.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            what = f"{str(value)[:60]} cannot be given to vLLM: write a text, or a number that is finite"
            raise document.wrong((*loc, name), what, code="stack-value") from None
