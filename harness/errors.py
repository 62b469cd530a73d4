"""What draftgate raises for its user. Each message says what was wrong, where, and what to do.

DraftgateError
├── BadInput          a stack, an option, a prompt file, a record: fix it and run again
│   └── BadRecord     a file of ours that does not parse, was cut off, or has another schema
└── ServerFailed      the engine did not start, died, or is not the one that was asked for
    └── PortTaken     it could not have its port
"""

from __future__ import annotations


class DraftgateError(Exception):
    """Anything that ends in one clear sentence instead of a traceback."""


class BadInput(DraftgateError):  # noqa: N818 - reads as what it is
    """Something the user gave cannot be used."""


class BadRecord(BadInput):
    """A results or baseline file cannot be trusted."""


class ServerFailed(DraftgateError):  # noqa: N818
    """The engine is not there, or not what was asked for."""


class PortTaken(ServerFailed):
    """Somebody else listens on the port."""


class GateWarning(UserWarning):
    """Something that the reader of a green run should know."""
