"""Removes what no record may hold: keys, tokens, passwords, and the name of the user's home. Pure."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

_SECRET_NAME = re.compile(r"(?i)(key|token|secret|passw|credential|auth)")
_SECRET = re.compile(
    r"\b(hf_|sk-|gh[pousr]_|glpat-|xox[abprs]-|AKIA)[A-Za-z0-9_-]{8,}|(?i:bearer\s+)[^\s\"']{8,}"
)
"""Keys and tokens that their own form gives away."""
_SECRET_OPTION = re.compile(
    r"(?i)(--?[\w-]*(?:api-key|hf-token|secret|passw\w*|credential)[\w-]*[= ]+)(?!-)\S+"
)


def without_home(value: Any) -> Any:
    """A value with `~` for the user's home folder in its texts, and without user and password in URLs."""
    if isinstance(value, dict):
        return {key: without_home(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_home(item) for item in value]
    if not isinstance(value, str):
        return value
    homes = {str(Path.home()), os.path.realpath(Path.home())} - {"/"}
    for home in sorted(homes, key=len, reverse=True):
        value = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", value)
    return re.sub(r"://[^/@\s]*@", "://***@", value)


def without_secrets(value: Any) -> Any:
    """The same, also without keys, tokens and passwords: known by their form or by their names."""
    if isinstance(value, dict):
        return {
            key: "***"
            if isinstance(item, str) and item and _SECRET_NAME.search(str(key))
            else without_secrets(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [without_secrets(item) for item in value]
    if isinstance(value, str):
        value = _SECRET.sub("***", _SECRET_OPTION.sub(r"\1***", value))
    return without_home(value)
