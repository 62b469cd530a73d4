"""Hides what no record and no message may hold: keys, tokens, passwords, and the name of the user's home."""

from __future__ import annotations

import contextlib
import functools
import html
import json
import os
import re
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

HIDDEN = "***"
_SECRET_NAME = re.compile(r"(?i)(key|token|secret|passw|credential|auth)")
_SECRET = re.compile(
    r"\b(hf_|sk-|gh[pousr]_|glpat-|xox[abprs]-|AKIA)[A-Za-z0-9_-]{8,}|(?i:bearer\s+)[^\s\"']{8,}"
)
"""Keys and tokens that their own form gives away."""
_SECRET_OPTION = re.compile(
    r"(?i)(--?[\w-]*(?:api-key|hf-token|secret|passw\w*|credential)[\w-]*[= ]+)(?!-)\S+"
)
_KEY_FOLLOWS = r"(?P<name>\b(?:bearer|basic)\s+|(?:key|token|secret|passw\w*|authorization)\W{1,5})"
_KEYS: set[str] = set()
MOSTLY_RANDOM = 8
"""Characters from which on a key is no word of an ordinary text."""


def keep_secret(key: str) -> None:
    """From now on `without_keys` hides `key`."""
    _KEYS.update({key, key.strip()} - {""})


def without_keys(text: str, *, least: int = 1) -> str:
    """A text without the keys that this process knows, also where it quotes them escaped or encoded.

    Args:
        text: a message, or what a server said: it may send our headers back.
        least: characters of a key that is looked for everywhere. A shorter one may be a word of an ordinary
            text, so it is hidden only after a name that says that a key follows.
    """
    keys = frozenset(key for key in _KEYS if len(key) >= least)
    text = _any_form_of(keys).sub(HIDDEN, text) if keys else text
    short = frozenset(_KEYS - keys)
    return _any_form_of(short, after=_KEY_FOLLOWS).sub(rf"\g<name>{HIDDEN}", text) if short else text


@functools.lru_cache(maxsize=16)
def _any_form_of(keys: frozenset[str], *, after: str = "") -> re.Pattern[str]:
    forms = {form for key in keys for form in _forms(key)}
    longest_first = sorted(forms, key=len, reverse=True)
    ends = r"(?!\w)" if after else ""
    return re.compile(f"{after}(?:{'|'.join(map(re.escape, longest_first))}){ends}", re.IGNORECASE)


def _forms(key: str) -> set[str]:
    """How a text may write a key: as it is, as Python, JSON, a URL or HTML write it, or decoded wrongly."""
    wide = raw = key.encode("utf-8", "surrogatepass")
    with contextlib.suppress(UnicodeEncodeError):  # bytes that were no UTF-8 when they were read
        raw = key.encode("utf-8", "surrogateescape")
    return {
        key,
        repr(key)[1:-1],
        ascii(key)[1:-1],
        repr(raw)[2:-1],
        repr(wide)[2:-1],
        json.dumps(key)[1:-1],
        json.dumps(key, ensure_ascii=False)[1:-1],
        html.escape(key),
        html.escape(key, quote=False),
        urllib.parse.quote(raw),
        urllib.parse.quote(raw, safe=""),
        urllib.parse.quote_plus(raw),
        raw.decode("latin-1"),
        raw.decode("utf-8", "replace"),
    }


def in_texts(value: Any, change: Callable[[str], str]) -> Any:
    """A value with every text in it changed, but for the keys of its tables."""
    if isinstance(value, Mapping):
        return {key: in_texts(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [in_texts(item, change) for item in value]
    return change(value) if isinstance(value, str) else value


def without_home(value: Any) -> Any:
    """A value with `~` for the user's home folder in its texts, and without user and password in URLs."""
    return in_texts(value, _without_home)


def _without_home(text: str) -> str:
    homes = {str(Path.home()), os.path.realpath(Path.home())} - {"/"}
    for home in sorted(homes, key=len, reverse=True):
        text = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)
    return re.sub(r"://[^/@\s]*@", f"://{HIDDEN}@", text)


def without_secrets(value: Any) -> Any:
    """The same, also without keys, tokens and passwords: known to this process, or by their form or name."""
    if isinstance(value, dict):
        return {
            key: HIDDEN
            if isinstance(item, str) and item and _SECRET_NAME.search(str(key))
            else without_secrets(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [without_secrets(item) for item in value]
    if isinstance(value, str):
        value = without_keys(value, least=MOSTLY_RANDOM)
        value = _SECRET.sub(HIDDEN, _SECRET_OPTION.sub(rf"\1{HIDDEN}", value))
    return without_home(value)
