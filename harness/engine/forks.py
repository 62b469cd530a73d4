"""Starts servers as forks of a process that has imported vLLM once (`fork_server`): the harness's end."""

from __future__ import annotations

import atexit
import json
import os
import socket
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.engine import fork_server, orphans, process, vllm_plugin

_OF_ONE_START = {orphans.MARK, vllm_plugin.MODE, vllm_plugin.REPORT, "VLLM_API_KEY", "PYTEST_CURRENT_TEST"}
"""Variables that differ from start to start, and that a server reads late. Where any other differs, another
fork server is needed: vLLM and its libraries read many while they are imported, and OpenMP, Python and the
loader (`OMP_NUM_THREADS`, `PYTHONPATH`, `LD_PRELOAD`) when a process begins."""
_ROOM = "-" * 2000
_PATIENCE_S = 10.0
"""For a fork server that has imported vLLM."""


class ForkServer:
    """One fork server, under a supervisor of its own. It ends with this process, however that ends."""

    def __init__(self, python: str, environment: Mapping[str, str]) -> None:
        """Start it; it imports vLLM in some seconds."""
        self.ready = False
        """It has forked a server."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            descriptor = theirs.fileno()
            self._process = process.start(
                [python, "-P", fork_server.__file__, str(descriptor), _ROOM],
                log=Path(os.devnull),
                environment=environment,
                descriptors=(descriptor,),
            )

    def fork(
        self, words: Sequence[str], *, log: Path, environment: Mapping[str, str], patience_s: float
    ) -> process.Forked:
        """Fork a server.

        Raises:
            OSError: it does not answer in time.
            ValueError: it has ended.
        """
        request = {"words": list(words), "environment": dict(environment), "folder": str(Path.cwd())}
        (stdin, pipe), (ended, code) = os.pipe(), os.pipe()
        try:
            self._socket.settimeout(_PATIENCE_S if self.ready else patience_s)
            with log.open("ab") as output:
                handed = [stdin, output.fileno(), code]
                socket.send_fds(self._socket, [json.dumps(request).encode()], handed)
            pid = int(self._socket.recv(fork_server.MOST_BYTES))
            self.ready = True
        except BaseException:
            os.close(pipe)  # a supervisor that comes too late finds it closed, and ends
            os.close(ended)
            raise
        finally:
            os.close(stdin)
            os.close(code)
        return process.Forked(pid, pipe=pipe, ended=ended)

    def stop(self) -> None:
        """End it, and all servers that it forked."""
        self._socket.close()
        process.stop(self._process)


_servers: dict[tuple[str, ...], ForkServer] = {}
_never: set[tuple[str, ...]] = set()
"""What a first fork failed for, on a device or after an import that allows none: the next would fail, too."""
_lock = threading.RLock()


def begin(*, python: str, environment: Mapping[str, str]) -> None:
    """Let a fork server import vLLM, while the caller makes ready what a server of it needs.

    Args:
        python: the engine's interpreter.
        environment: the whole of a server's; `orphans.MARK` is in it.
    """
    key = _key(python, environment)
    with _lock:
        if key not in _servers and key not in _never:
            # As long as a start id, so that one can be written over it.
            mark = {orphans.MARK: "0" * len(environment[orphans.MARK])}
            _servers[key] = ForkServer(python, _shared(environment) | mark)


def start(
    words: Sequence[str], *, python: str, log: Path, environment: Mapping[str, str], patience_s: float
) -> process.Forked | None:
    """Start a server as a fork; None where that cannot be done. The first one waits for the import of vLLM.

    Args:
        words: a module of the engine, and its arguments.
        python: the engine's interpreter.
        log: what the server writes is added there.
        environment: the whole of it; `orphans.MARK` is in it.
        patience_s: for the import of vLLM.
    """
    key = _key(python, environment)
    with _lock:
        if key in _never:
            return None
        begin(python=python, environment=environment)
        try:
            return _servers[key].fork(words, log=log, environment=environment, patience_s=patience_s)
        except (OSError, ValueError):
            failed = _servers.pop(key)
            failed.stop()
            if not failed.ready:
                _never.add(key)
            return None
        except BaseException:  # its answer would be taken for that to the next request
            _servers.pop(key).stop()
            raise


def _shared(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in _OF_ONE_START}


def _key(python: str, environment: Mapping[str, str]) -> tuple[str, ...]:
    shared = sorted(_shared(environment).items())
    return python, str(Path.cwd()), *(f"{name}={value}" for name, value in shared)


@atexit.register
def end_all() -> None:
    """End every fork server."""
    while _servers:
        _servers.popitem()[1].stop()
