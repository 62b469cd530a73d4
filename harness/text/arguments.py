"""A command line's parser that takes no option twice: the last would win, unseen. And what options take."""

from __future__ import annotations

import argparse
import functools
import math
from typing import Any


def whole(text: str) -> int:
    """A whole number, as argparse takes a type.

    Raises:
        ArgumentTypeError: it is none.
    """
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:80]}: must be a whole number") from None


def seconds(text: str) -> float:
    """A time, likewise.

    Raises:
        ArgumentTypeError: it is no number, or not more than 0.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text[:80]}: must be a number of seconds, more than 0")
    return value


@functools.cache
def _once(kind: Any) -> Any:
    """The same action, which refuses an option after itself or after its opposite."""

    class Once(kind):  # type: ignore[misc]
        def __call__(self, parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:
            said: set[str] = vars(namespace).setdefault("_said", set())
            if option and self.dest in said:
                parser.error(f"{option} repeats an option, or contradicts one: name one")
            said.add(self.dest)
            super().__call__(parser, namespace, values, option)

    return Once


Switch = _once(argparse.BooleanOptionalAction)
"""`--x` or `--no-x`, not both."""


class Parser(argparse.ArgumentParser):
    """Refuses an option given twice, unless its action is to append, or it has no value."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As argparse's."""
        super().__init__(*args, **kwargs)
        for name in (None, "store"):
            self.register("action", name, _once(self._registry_get("action", "store")))
