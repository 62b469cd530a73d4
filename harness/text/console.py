"""What a command writes to its user's terminal."""

from __future__ import annotations

import datetime as dt
import os
import sys
from collections.abc import Callable

from harness.errors import BadInput
from harness.text.render import visible

Say = Callable[[str], None]
"""Says a line to whoever watches: on a terminal, in a log, or nowhere."""


def show(text: str) -> None:
    """Write to standard output.

    Raises:
        BadInput: it cannot be written to. A reader that stopped reading, like `head`, is no error.
    """
    try:
        sys.stdout.write(_plain(text, sys.stdout.encoding))
        sys.stdout.flush()
    except OSError as error:
        # Python would complain again when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise BadInput(
                f"cannot write to standard output: {error.strerror}", code="cannot-print"
            ) from None


def say(text: str) -> None:
    """Write a line with the time to standard output."""
    show(f"{dt.datetime.now().astimezone():%H:%M:%S} {visible(text)}\n")


def complain(text: str) -> None:
    """Write a sentence to standard error."""
    sys.stderr.write(_plain(f"draftgate: {visible(text)}\n", sys.stderr.encoding))


def _plain(text: str, encoding: str | None) -> str:
    """What this stream can write: a terminal that has no em dash gets an escape, not a traceback."""
    encoding = encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
