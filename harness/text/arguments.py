"""A command line's parser that takes no option twice: the last would win, and nobody would see it."""

from __future__ import annotations

import argparse
from typing import Any


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
