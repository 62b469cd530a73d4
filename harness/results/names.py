"""Names that become files: what may stand in that of a cell, and how that of a run is made."""

from __future__ import annotations

import datetime as dt
import re
import secrets
from typing import Annotated, Literal

from pydantic import AfterValidator

_LEADS_AWAY = re.compile("[/\\\\\0\ud800-\udfff]")
_NAMED_AT_MOST = 64
"""Characters: the parts of a cell's name make a file name together."""


def _one_folder(name: str) -> str:
    """A part of a path, so that what a file says leads nowhere else."""
    if not name or name.startswith(".") or len(name) > _NAMED_AT_MOST or _LEADS_AWAY.search(name):
        raise ValueError(f"{name[:80]!r} is not a name: it would lead to another folder, or to none")
    return name


def folders(name: str) -> str:
    """A path of such parts."""
    return "/".join(_one_folder(part) for part in name.split("/"))


Name = Annotated[str, AfterValidator(_one_folder)]
Thinking = Literal["on", "off"]
BASE = "base"
"""The variant that is a stack as it stands; no name says it."""
SERVERS = "servers"
"""In the folder of a run: what it keeps of its servers. No cell is there."""
REFERENCE = "(reference)"
"""Behind the name of a cell that only stands beside others."""


def thinking_word(thinking: str) -> str:
    """Of the name of a cell, and for -m: `think_on`."""
    return f"think_{thinking}"


def new_name(stack: str) -> str:
    """Of a run's folder: it sorts by time, and two in one second differ."""
    return f"{dt.datetime.now(dt.UTC):%Y%m%d-%H%M%S}-{stack}-{secrets.token_hex(2)}"
