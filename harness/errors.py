"""What draftgate raises for its user. Each message says what was wrong, where, and what to do.

DraftgateError
├── BadInput          a stack, an option, a prompt file, a record: fix it and run again
│   ├── BadOption     an option of the command line
│   ├── BadRecord     a file of ours that does not parse, was cut off, or has another schema
│   └── NoCells       what was named holds no cell, or none that can be used so
└── ServerFailed      the engine did not start, died, or is not the one that was asked for
    └── PortTaken     it could not have its port

Each error has a code. `docs/troubleshooting.md` says for every code what it means and what to do.
"""

from __future__ import annotations

import importlib
from typing import Any


class DraftgateError(Exception):
    """Anything that ends in one clear sentence instead of a traceback."""

    code = ""
    """Names the kind of problem: `engine-missing`. A class whose errors are all of one kind has its own."""

    def __init__(self, message: str, *, code: str = "") -> None:
        """The message, and the code of its kind where that is not the class's own."""
        super().__init__(message)
        self.code = code or self.code

    @property
    def shown(self) -> str:
        """The message as a user sees it: with its code at the end of the first line."""
        first, *rest = str(self).split("\n")
        return "\n".join([f"{first} [{self.code}]", *rest])


def reason_of(error: BaseException) -> str:
    """What another library says is wrong, for a sentence of ours: its first line, at most 300 characters."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


class BadInput(DraftgateError):  # noqa: N818 - reads as what it is
    """Something the user gave cannot be used."""


class BadOption(BadInput):
    """An option says what cannot be."""

    code = "option-value"


class NoCells(BadInput):
    """What was named holds no cell, or none that can be used so."""

    code = "no-cells"


class BadRecord(BadInput):
    """A results or baseline file cannot be trusted."""

    code = "damaged-file"


def library(module: str, what: str, *, package: str, extra: str) -> Any:
    """A module that only an extra of draftgate installs.

    Args:
        module: its name.
        what: takes it: a command, an option, a file.
        package: that has it.
        extra: that installs the package.

    Raises:
        BadInput: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        text = f"{what} takes the package {package}: pip install 'draftgate[{extra}]'"
        raise BadInput(text, code="extra-missing") from None


class ServerFailed(DraftgateError):  # noqa: N818
    """The engine is not there, or not what was asked for."""


def shown(error: DraftgateError | OSError) -> str:
    """An error as a user sees it; of the system's own what it says of a path: that it is too long, say."""
    if isinstance(error, DraftgateError):
        return error.shown
    where = f"{error.filename}: " if error.filename else ""
    return BadInput(f"{where}{error.strerror or error}", code="cannot-read").shown


class PortTaken(ServerFailed):
    """Somebody else listens on the port."""

    code = "port-taken"


class GateWarning(UserWarning):
    """Something that the reader of a green run should know."""
