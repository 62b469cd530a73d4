"""Holds the one server that runs. It ends one before it starts the next, so two never share a device."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable

from harness.config.cells import ServerSpec
from harness.engine.server import Server
from harness.errors import DraftgateError
from harness.text.console import Say

Start = Callable[[ServerSpec], contextlib.AbstractContextManager[Server]]
"""Starts a server, or attaches to one; leaving the context ends what it started."""


class Slot(contextlib.AbstractContextManager["Slot"]):
    """Room for one server. It is kept for as long as the same specification is asked for."""

    def __init__(self, start: Start, say: Say) -> None:
        """An empty slot.

        Args:
            start: gives a server of a specification, every time anew.
            say: called when a server is ready, and with the reason where one is started anew.
        """
        self._start, self._say = start, say
        self._running = contextlib.ExitStack()
        self._server: Server | None = None
        self._refused: tuple[ServerSpec, DraftgateError] | None = None
        self.starts = 0
        """Servers started so far."""
        self._asked: set[str] = set()

    @property
    def last_start_s(self) -> float | None:
        """Seconds of the last start; None after the first one, which takes longer: it reads all from disk."""
        return self._server.started_s if self._server and self.starts > 1 else None

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, spec: ServerSpec, *, anew: bool = False, cold: Iterable[str] = ()) -> Server:
        """The server of `spec`: the one that runs, or a new one. A server of another `spec` is ended first.

        A first start that failed is not tried again until another server was asked for.

        Args:
            spec: what it must be.
            anew: end the one that runs in any case.
            cold: texts of prompts that a drafter which remembers must not have answered yet: where it was
                given one of them before, its server is ended too.

        Raises:
            ServerFailed, BadInput: it could not be started.
        """
        texts = set(cold)
        if anew or (spec.remembers and self._asked & texts):
            self.close()
        if self._server is not None and self._server.spec == spec:
            self._asked |= texts
            return self.ready()
        if self._refused is not None and self._refused[0] == spec:
            raise self._refused[1]
        self.close()
        self._asked = texts
        try:
            return self._enter(spec)
        except DraftgateError as error:
            self._refused = spec, error
            raise

    def ready(self) -> Server:
        """The server that was asked for last; a new one where its process has ended since.

        Raises:
            ServerFailed: it could not be started anew.
            LookupError: the slot is empty.
        """
        server = self._occupant()
        ended = server.ended()
        return self.renew(ended) if ended else server

    def renew(self, why: str) -> Server:
        """End the server, and start another one like it.

        Raises:
            ServerFailed: it could not be started anew. The slot still holds the server that has ended.
            LookupError: the slot is empty.
        """
        spec = self._occupant().spec
        self._say(f"server {spec.label}: {why}; starting it anew")
        self._running.close()
        return self._enter(spec)

    def close(self) -> None:
        """End the server, if there is one."""
        self._server = self._refused = None
        self._asked = set()
        self._running.close()

    def _occupant(self) -> Server:
        if self._server is None:
            raise LookupError("the slot is empty: get a server first")
        return self._server

    def _enter(self, spec: ServerSpec) -> Server:
        self._server = self._running.enter_context(self._start(spec))
        self.starts += 1
        if self._server.started_s is not None:
            self._say(f"server {spec.label} ready in {self._server.started_s} s")
        return self._server
