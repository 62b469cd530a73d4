"""What a command writes to its user's terminal."""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from harness.errors import BadInput
from harness.text.render import visible

_COLOURS = {"✓": 32, "▲": 32, "?": 33, "≠": 33, "▼": 31, "✗": 31}
"""Of each mark, as terminals number them: green, yellow, red."""
_MARK = re.compile(rf"(?<!\S)[{''.join(_COLOURS)}](?!\S)")
_RARELY_S = 60
Say = Callable[[str], None]
"""Says a line to whoever watches: on a terminal, in a log, or nowhere."""


def show(text: str) -> None:
    """Write to standard output.

    Raises:
        BadInput: it cannot be written to. A reader that stopped reading, like `head`, is no error.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        _give_up(sys.stdout)
        if not isinstance(error, BrokenPipeError):
            raise BadInput(
                f"cannot write to standard output: {error.strerror}", code="cannot-print"
            ) from None


def say(text: str) -> None:
    """Write a line with the time to standard output."""
    show(f"{dt.datetime.now().astimezone():%H:%M:%S} {visible(text)}\n")


def complain(text: str) -> None:
    """Write a sentence to standard error."""
    sys.stderr.write(f"draftgate: {visible(text)}\n")


def settle_in() -> None:
    """Make this process at home where it was started: whatever it prints can be written, and it has a home.

    A character that a stream cannot write becomes an escape. What a closed stream gets is lost. A user
    whom the system does not know, and who has no HOME, gets one among the temporary files: libraries look
    for theirs there.
    """
    sys.stdout = sys.stdout or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for good
    sys.stderr = sys.stderr or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for good
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        Path.home()
    except RuntimeError:
        user, home = f"uid-{os.getuid()}", Path("/nowhere")
        with contextlib.suppress(OSError):  # nothing can be written anywhere: then nothing is remembered
            home = Path(tempfile.gettempdir()) / f"draftgate-{user}"
            home.mkdir(mode=0o700, exist_ok=True)
        os.environ.update(HOME=str(home), USER=user, LOGNAME=user)


def end_like_ctrl_c() -> None:
    """From now on SIGTERM ends this process as Ctrl-C does: what was measured is kept and shown.

    It sends itself that very signal, since asyncio knows what to do with it. An exception that any other
    handler raises inside a task comes back as a traceback. A script starts its background jobs with Ctrl-C
    ignored, and then SIGTERM would be ignored too.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


class Outlet:
    """A stream for a run that must not end because nobody can read its lines: `| head`, a full disk."""

    def __init__(self, stream: TextIO) -> None:
        """Write to `stream` for as long as that is possible."""
        self._stream, self._said = stream, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> None:
        """Write, or give up on the stream."""
        self._try(lambda: self._stream.write(text))

    def flush(self) -> None:
        """Flush, or give up on the stream."""
        self._try(self._stream.flush)

    def _try(self, what: Callable[[], object]) -> None:
        try:
            what()
        except OSError as error:
            _give_up(self._stream)
            if not (self._said or isinstance(error, BrokenPipeError)):
                self._said = True
                with contextlib.suppress(OSError):
                    complain(f"cannot write to standard output: {error.strerror}; the run goes on")


def _give_up(stream: TextIO) -> None:
    """Send what comes to nowhere: Python would complain again when it closes the stream."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def width_of(stream: Any, *, wide: bool = False) -> int | None:
    """Columns of a terminal; None where a line may be of any length, as in a file."""
    # COLUMNS alone limits nothing: pytest-xdist and others set it where there is no terminal.
    return shutil.get_terminal_size().columns if stream.isatty() and not wide else None


def coloured(text: str, stream: Any) -> str:
    """The text with colours, if the stream shows them: NO_COLOR forbids, FORCE_COLOR forces."""
    environment = os.environ.get
    shows = not environment("NO_COLOR") and (environment("FORCE_COLOR") or redraws(stream))
    return painted(text) if shows else text


def painted(text: str) -> str:
    """Every mark that stands alone in its colour."""
    return _MARK.sub(lambda mark: f"\x1b[{_COLOURS[mark[0]]}m{mark[0]}\x1b[0m", text)


def redraws(stream: Any) -> bool:
    """It is a terminal where a line may stand over the last one. FORCE_COLOR makes none of a log."""
    return bool(stream.isatty()) and os.environ.get("TERM", "dumb") != "dumb"


class Rarely:
    """Says yes when a minute has passed since it was made, or since it last said yes."""

    def __init__(self) -> None:
        """For a line of progress in a log."""
        self._last = time.monotonic()

    def __call__(self) -> bool:
        """Whether it is time again."""
        now = time.monotonic()
        if now - self._last < _RARELY_S:
            return False
        self._last = now
        return True
