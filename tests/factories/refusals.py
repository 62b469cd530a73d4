"""Errors as a test names them: by class, code, and names and figures in the message, not by its words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from harness.errors import DraftgateError


@contextlib.contextmanager
def refused(kind: type[DraftgateError], code: str, *names: str) -> Iterator[None]:
    """The block raises an error of this class and code, and its message has all of the names."""
    with pytest.raises(kind) as caught:
        yield
    assert caught.value.code == code
    assert not [name for name in names if name not in str(caught.value)], str(caught.value)
