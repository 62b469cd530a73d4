"""Starts a vLLM server and stops it."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import secrets
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from harness.config.cells import ServerSpec
from harness.engine import forks, metrics, orphans, process, vllm_plugin
from harness.engine.facts import command_line, engine_facts, reported, resolve_speculative, served_name
from harness.engine.http import NO_KEY, Http, NoAnswer
from harness.engine.models import check_reference, located, resolve
from harness.errors import PortTaken, ServerFailed
from harness.text.console import Say


@dataclasses.dataclass(frozen=True, kw_only=True)
class Server:
    """A server that answers."""

    url: str
    key: str = dataclasses.field(repr=False)
    spec: ServerSpec
    model: str
    """The served model's name."""
    start_id: str
    """Drawn anew for every start."""
    version: str
    attached: bool
    per_request: bool
    """It reports acceptance in each response."""
    log: Path | None
    patches: tuple[dict[str, Any], ...] = ()
    """What the engine plug-in found and patched: a record for each process of the engine."""
    execution: dict[str, Any] | None = None
    """How the engine runs its model, as the plug-in read it there; None where there is no plug-in."""
    target_path: str | None = None
    speculative: Mapping[str, Any] | None = None
    """vLLM's speculative config as it was given, model references resolved; as the stack says it where the
    server is not ours."""
    started_s: float | None = None
    """Seconds from start to ready."""
    counts: bool = True
    """It shows /metrics."""
    unverified: tuple[str, ...] = ()
    """Sentences about what nobody could find out of a server that is not ours."""
    process: process.Supervisor | None = dataclasses.field(default=None, repr=False, compare=False)
    """The supervisor of the engine; None where the server is not ours."""

    @property
    def http(self) -> Http:
        """Asks it for pages and JSON."""
        return Http(self.url, self.key)

    @property
    def pid(self) -> int | None:
        """The supervisor's."""
        return self.process.pid if self.process else None

    def counters(self) -> metrics.SpecCounters:
        """Read /metrics."""
        return metrics.fetch(self.http)

    def ended(self) -> str | None:
        """How its process ended; None while it runs, or where it is not ours."""
        code = self.process.poll() if self.process else None
        return None if code is None else f"its process ended (exit code {code})"

    def stop(self) -> None:
        """End the engine and all that it started, even a frozen one. A server that is not ours goes on."""
        if self.process:
            process.stop(self.process)
            orphans.end(self.process.pid, self.start_id)


@contextlib.contextmanager
def running(
    spec: ServerSpec, *, folder: Path, say: Say, patch: str = "1", locked: bool = True
) -> Iterator[Server]:
    """Start a server, and stop it at the end whatever happens.

    Args:
        spec: what to start.
        folder: its log goes there.
        say: gets a line about what takes long.
        patch: DRAFTGATE_MEND of the engine plug-in: `1` patches, `probe` only looks.
        locked: it gets a key of its own; without one, anybody on this machine may use it.

    Raises:
        ServerFailed: it died or was not ready in time; the message quotes its reason.
        BadInput: model or drafter are not there.
    """
    python = spec.engine_python or sys.executable
    facts = engine_facts(python)
    method = spec.speculative["method"] if spec.speculative else None
    if method and facts.methods and method not in facts.methods:
        raise ServerFailed(
            f"{facts.package} {facts.version} does not know the method {method!r} of drafter "
            f"{spec.drafter!r}: use a newer engine",
            code="engine-too-old",
        )
    start_id = secrets.token_hex(6)
    report = folder / f"{spec.label}-{start_id}.mends.jsonl"
    key = secrets.token_urlsafe(24) if locked else NO_KEY
    given = {**os.environ, **spec.env}
    environment = {
        **({} if facts.cpu else {"TRITON_CACHE_DIR": _kernels(given)}),
        **os.environ,
        "VLLM_NO_USAGE_STATS": "1",
        # vLLM's 5 s are too short: when the API server pauses for so long, it closes idle connections before
        # it reads the requests that wait on them, and loses those.
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(math.ceil(spec.request_timeout_s) + 60),
        **({"HF_HUB_OFFLINE": "1"} if located(spec.target.model).startswith("/") else {}),
        **spec.env,
        **({"VLLM_API_KEY": key} if locked else {}),
        **vllm_plugin.found_by(given),
        vllm_plugin.MODE: patch,
        vllm_plugin.REPORT: str(report),
        orphans.MARK: start_id,
    }
    check_reference(spec.target.model)
    if spec.fork:
        forks.begin(python=python, environment=environment)
    target = resolve(spec.target.model, say=say, python=spec.engine_python)
    speculative = resolve_speculative(spec, target=target, say=say)
    words = command_line(spec, model=target, speculative=speculative, per_request=facts.per_request)
    orphans.end_orphans(say)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{spec.label}-{start_id}.log"
    port = free_port(spec.port)
    began = time.monotonic()
    words = ["vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port), *words]
    child: process.Supervisor | None = None
    if spec.fork:
        say(f"\rdraftgate: starting server {spec.label}: importing vLLM, once for all servers of this run")
        patience_s = spec.start_timeout_s
        child = forks.start(words, python=python, log=log, environment=environment, patience_s=patience_s)
    child = child or process.start([python, "-m", *words], log=log, environment=environment)
    noted = None
    try:
        noted = orphans.note(start_id=start_id, label=spec.label, session=child.pid)
        try:
            _wait_ready(port, child, log, spec, say=say, began=began)
        except ServerFailed:
            if isinstance(child, process.Forked) and not facts.cpu:
                say(f"draftgate: server {spec.label} was a fork: engine.fork = false avoids that")
            raise
        started_s = round(time.monotonic() - began, 1)
        faults, execution = reported(report)
        yield Server(
            url=_url(port),
            key=key,
            spec=spec,
            model=served_name(spec),
            start_id=start_id,
            version=facts.version,
            attached=False,
            per_request=facts.per_request and speculative is not None,
            log=log,
            patches=faults,
            execution=execution,
            target_path=target,
            speculative=speculative,
            started_s=started_s,
            process=child,
        )
    finally:
        process.stop(child)
        orphans.end(child.pid, start_id)  # a supervisor that was killed leaves its engine
        orphans.forget(noted)


def _kernels(environment: Mapping[str, str]) -> str:
    """A folder for Triton kernels in vLLM's cache, for all servers.

    By itself vLLM gives each configuration one of its own, and compiles anew what they have in common.
    """
    user = Path(environment.get("XDG_CACHE_HOME", "~/.cache"), "vllm")
    return str(Path(environment.get("VLLM_CACHE_ROOT", user), "triton").expanduser())


def free_port(wanted: int | None) -> int:
    """The port that is wanted, or any other that nobody listened on a moment ago.

    Raises:
        PortTaken: it cannot be had.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted or 0))
        except OSError as error:
            raise PortTaken(
                f"port {wanted}: {error.strerror}: "
                "end what listens there, change engine.port in the stack, or leave it out to get a free one"
            ) from None
        port: int = probe.getsockname()[1]
        return port


def _wait_ready(
    port: int, child: process.Supervisor, log: Path, spec: ServerSpec, *, say: Say, began: float
) -> None:
    server = f"server {spec.label}"
    while True:
        if child.poll() is not None:
            raise ServerFailed(
                process.obituary(f"{server} died while loading (exit code {child.returncode})", log),
                code="engine-died",
            )
        waited = time.monotonic() - began
        if waited > spec.start_timeout_s:
            raise ServerFailed(
                process.obituary(f"{server} was not ready after {waited:.0f} s", log), code="engine-slow"
            )
        with contextlib.suppress(NoAnswer):
            Http(_url(port)).text("/health", timeout_s=5)
            break
        say(f"\rdraftgate: starting {server}: {waited:.0f} s")
        time.sleep(0.25)
    stranger = _stranger(port, child.pid)
    if stranger:
        raise PortTaken(
            f"port {port} was taken by another program ({stranger}) while {server} was starting: "
            "end it, change engine.port in the stack, or leave it out to get a free one"
        )


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def _stranger(port: int, supervisor_pid: int) -> str | None:
    """Who listens on our port and is not a process below `supervisor_pid`; None where nobody does."""
    try:
        family = {p.pid for p in psutil.Process(supervisor_pid).children(recursive=True)}
        listening = [
            (at.pid, str(at.laddr[0]))
            for at in psutil.net_connections("tcp")
            if at.status == psutil.CONN_LISTEN and at.laddr and at.laddr[1] == port
        ]
    except (psutil.Error, OSError):  # this system does not say
        return None
    ours = any(pid in family for pid, _ in listening)
    for pid, address in listening:
        if pid not in family and (address == "127.0.0.1" or not ours):
            return f"process {pid}" if pid else "another user's"
    return None


def unhealthy(server: Http) -> str | None:
    """Why the server is dead; None where it lives.

    Raises:
        TimeoutError: somebody listens there but does not answer: dead or alive, who knows.
    """
    try:
        server.text("/health", timeout_s=5)
    except NoAnswer as error:
        if isinstance(error.cause, TimeoutError):
            raise error.cause from None
        if isinstance(error.cause, ConnectionError):
            return f"nobody answers on its port ({error.cause})"
        if error.status and error.status >= 500:  # noqa: PLR2004 - vLLM says 503 when its engine is dead
            return f"its /health answers {error.status}"
    return None
