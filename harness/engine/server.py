"""A vLLM server's life: start, ready, stop; or attach to one that runs already."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from harness.config.cells import ServerSpec
from harness.engine import metrics, orphans as leftovers, supervisor
from harness.engine.http import NO_KEY, Http, NoAnswer
from harness.engine.models import resolve
from harness.errors import BadInput, PortTaken, ServerFailed
from harness.text.console import Say


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """What an installed vLLM is, without importing it (that takes eight seconds)."""

    version: str
    package: str
    per_request: bool
    """It can report acceptance in each response."""
    methods: frozenset[str]
    """Words of its speculative configuration, the methods it knows among them."""
    folder: str = ""
    """Where the package lies."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Server:
    """A server that answers."""

    url: str
    key: str = dataclasses.field(repr=False)
    spec: ServerSpec
    model: str
    """The served model's name."""
    start_id: str
    """Another start has another one."""
    version: str
    attached: bool
    per_request: bool
    """Acceptance comes with each response."""
    log: Path | None
    patches: tuple[dict[str, Any], ...] = ()
    """What the engine plug-in found and patched, a record for each process of the engine."""
    target_path: str | None = None
    speculative: str | None = None
    """vLLM's speculative config as it was given, model references resolved."""
    pid: int | None = None
    started_s: float | None = None
    """Seconds from start to ready."""
    process: subprocess.Popen[bytes] | None = dataclasses.field(default=None, repr=False, compare=False)
    """The supervisor of the engine; None where the server is not ours."""

    @property
    def http(self) -> Http:
        """What asks it for pages and JSON."""
        return Http(self.url, self.key)

    def counters(self) -> metrics.SpecCounters:
        """Read /metrics."""
        return metrics.fetch(self.http)

    def ended(self) -> str | None:
        """How its process ended; None while it runs, or where it is not ours."""
        code = self.process.poll() if self.process else None
        return None if code is None else f"its process ended (exit code {code})"

    def stop(self) -> None:
        """End the engine and all that it started, a frozen one too; a server that is not ours is left."""
        if self.process:
            _stop(self.process)
            leftovers.end(self.process.pid, self.start_id)


@functools.cache
def engine_facts(python: str) -> EngineFacts:
    """Look at the vLLM that `python` would start.

    Raises:
        ServerFailed: there is no such interpreter, or no vLLM in it.
    """
    code = (
        "import importlib.util as u, importlib.metadata as m, json\n"
        "s = u.find_spec('vllm')\n"
        "d = m.packages_distributions().get('vllm') if s else None\n"
        "print(json.dumps([s.submodule_search_locations[0], m.version(d[0]), d[0]] if d else None))"
    )
    try:
        output = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, timeout=120)
        found = json.loads(output.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise ServerFailed(f"cannot ask {python} which vLLM it has: {error}") from None
    if not found:
        raise ServerFailed(
            f"{python} has no vLLM: run `make setup` (CPU), pip install 'draftgate[gpu]', "
            "set engine.python in the stack, or attach to a server with --server-url"
        )
    folder, version, package = found

    def source(relative: str) -> str:
        try:
            return (Path(folder) / relative).read_text(encoding="utf-8")
        except OSError:
            return ""

    words = re.findall(r"[\"']([a-z0-9_]+)[\"']", source("config/speculative.py"))
    return EngineFacts(
        version=version,
        package=package,
        per_request="per_request_spec_decode_metrics" in source("config/observability.py"),
        methods=frozenset(words),
        folder=folder,
    )


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def command_line(spec: ServerSpec, *, model: str, speculative: str | None, per_request: bool) -> list[str]:
    """vLLM's arguments for `spec`, without host, port and key."""
    target = spec.target
    words = ["--model", model, "--served-model-name", served_name(spec), "--dtype", target.dtype]
    for flag, value in (
        ("--revision", target.revision),
        ("--tokenizer", target.tokenizer),
        ("--quantization", target.quantization),
        ("--speculative-config", speculative),
    ):
        if value is not None:
            words += [flag, value]
    if target.trust_remote_code:
        words.append("--trust-remote-code")
    if per_request and speculative is not None:
        words += ["--per-request-spec-decode-metrics", "detailed"]
    for name, value in json.loads(spec.args).items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif value is False:
            words.append(f"--no-{flag.removeprefix('--')}")
        elif isinstance(value, list):
            words += [flag, *(str(v) for v in value)]
        else:
            words += [flag, json.dumps(value) if isinstance(value, dict) else str(value)]
    return words


def served_name(spec: ServerSpec) -> str:
    """The name that requests use for the target."""
    reference = spec.target.model.removeprefix("embedded:")
    return spec.target.served_name or Path(reference).name


def resolve_speculative(spec: ServerSpec, *, target: str, say: Say) -> str | None:
    """vLLM's speculative config with model references turned into folders.

    Raises:
        BadInput: a drafter's weights are not there.
    """
    if spec.speculative is None:
        return None
    config = json.loads(spec.speculative)
    if config.get("model") == "target":
        config["model"] = target
    elif "model" in config:
        try:
            config["model"] = resolve(config["model"], say=say, python=spec.engine_python)
        except BadInput as error:
            raise BadInput(f"drafter {spec.drafter!r}: {error}") from None
    return json.dumps(config)


@contextlib.contextmanager
def running(
    spec: ServerSpec, *, folder: Path, say: Say, patch: str = "1", locked: bool = True
) -> Iterator[Server]:
    """Start a server, and stop it at the end whatever happens.

    Args:
        spec: what to start.
        folder: its log goes there.
        say: told what takes long.
        patch: the engine plug-in's DRAFTGATE_MEND: `1` patches, `probe` only looks.
        locked: a key of its own is needed to use it; without, anybody on this machine may.

    Raises:
        ServerFailed: it died or was not ready in time; the message quotes its reason.
        BadInput: model or drafter are not there.
    """
    python = spec.engine_python or sys.executable
    facts = engine_facts(python)
    method = json.loads(spec.speculative)["method"] if spec.speculative else None
    if method and facts.methods and method not in facts.methods:
        raise ServerFailed(
            f"{facts.package} {facts.version} does not know the method {method!r} of drafter "
            f"{spec.drafter!r}: use a newer engine"
        )
    target = resolve(spec.target.model, say=say, python=spec.engine_python)
    speculative = resolve_speculative(spec, target=target, say=say)
    words = command_line(spec, model=target, speculative=speculative, per_request=facts.per_request)
    leftovers.end_left(say)
    start_id = secrets.token_hex(6)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{spec.label}-{start_id}.log"
    report = folder / f"{spec.label}-{start_id}.mends.jsonl"
    key = secrets.token_urlsafe(24) if locked else NO_KEY
    environment = {
        **os.environ,
        "VLLM_NO_USAGE_STATS": "1",
        # Not vLLM's 5 s: after a pause of the API server as long, its timers close connections before it
        # reads the requests that wait on them, and those are lost.
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(math.ceil(spec.request_timeout_s) + 60),
        **({"HF_HUB_OFFLINE": "1"} if target.startswith("/") else {}),
        **dict(spec.env),
        **({"VLLM_API_KEY": key} if locked else {}),
        "DRAFTGATE_MEND": patch,
        "DRAFTGATE_MEND_REPORT": str(report),
        leftovers.MARK: start_id,
    }
    began = time.monotonic()
    process, port = _launch(python, words, spec, environment, log)
    noted = None
    try:
        noted = leftovers.note(start_id=start_id, label=spec.label, session=process.pid)
        url = f"http://127.0.0.1:{port}"
        _wait_ready(url, process, log, spec, say=say, began=began)
        started_s = round(time.monotonic() - began, 1)
        yield Server(
            url=url,
            key=key,
            spec=spec,
            model=served_name(spec),
            start_id=start_id,
            version=facts.version,
            attached=False,
            per_request=facts.per_request and speculative is not None,
            log=log,
            patches=_patches(report),
            target_path=target,
            speculative=speculative,
            pid=process.pid,
            started_s=started_s,
            process=process,
        )
    finally:
        _stop(process)
        leftovers.end(process.pid, start_id)  # where the supervisor was killed, its engine outlived it
        leftovers.forget(noted)


def _launch(
    python: str, words: list[str], spec: ServerSpec, environment: dict[str, str], log: Path
) -> tuple[subprocess.Popen[bytes], int]:
    port = spec.port or free_port()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise PortTaken(
                f"port {port} is in use: another server listens there; "
                "end it, change engine.port in the stack, or leave it out to get a free one"
            ) from None
    engine = [python, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", supervisor.__file__, *engine, *words],
            stdin=subprocess.PIPE,  # its end, however we end, is the supervisor's sign
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,  # Ctrl-C is for pytest, which then stops the server itself
        )
    return process, port


def _wait_ready(
    url: str, process: subprocess.Popen[bytes], log: Path, spec: ServerSpec, *, say: Say, began: float
) -> None:
    while True:
        if process.poll() is not None:
            raise ServerFailed(_obituary(spec, log, f"died while loading (exit code {process.returncode})"))
        waited = time.monotonic() - began
        if waited > spec.start_timeout_s:
            raise ServerFailed(_obituary(spec, log, f"was not ready after {waited:.0f} s"))
        with contextlib.suppress(NoAnswer):
            Http(url).text("/health", timeout_s=5)
            break
        say(f"\rdraftgate: starting server {spec.label}: {waited:.0f} s")
        time.sleep(0.25)
    port = urllib.parse.urlsplit(url).port or 0
    stranger = _stranger(port, process.pid)
    if stranger:
        raise PortTaken(
            f"port {port} was taken by another program ({stranger}) while server {spec.label} was starting: "
            "end it, change engine.port in the stack, or leave it out to get a free one"
        )


def _stranger(port: int, supervisor_pid: int) -> str | None:
    """Who listens on a port of ours without being below `supervisor_pid`; None where nobody does."""
    try:
        family = {p.pid for p in psutil.Process(supervisor_pid).children(recursive=True)}
        listening = [
            (at.pid, str(at.laddr[0]))
            for at in psutil.net_connections("tcp")
            if at.status == psutil.CONN_LISTEN and at.laddr and at.laddr[1] == port
        ]
    except (psutil.Error, OSError):  # it cannot be told here
        return None
    ours = any(pid in family for pid, _ in listening)
    for pid, address in listening:
        if pid not in family and (address == "127.0.0.1" or not ours):
            return f"process {pid}" if pid else "another user's"
    return None


def _obituary(spec: ServerSpec, log: Path, what: str) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"server {spec.label} {what}: {reason(lines)}\nthe end of {log}:\n" + "\n".join(
        f"  {line[:300]}" for line in lines[-12:]
    )


_REASON = re.compile(r"(?:^|\s)((?:[A-Za-z_][\w.]*)?(?:Error|Exception|Exit|error)\b: *\S.*)")
_EMPTY_REASONS = ("Engine core initialization failed", "Engine process failed")


def reason(lines: list[str]) -> str:
    """The line of a log that says why: the last error that is not just a consequence of another."""
    candidates = []
    for i, line in enumerate(lines):
        found = _REASON.search(line)
        if found:
            text = found[1].strip()
            if "validation error" in line and i + 1 < len(lines):
                text = re.sub(r"^\(.*?\)\s*", "", lines[i + 1].strip()) or text
            candidates.append(text)
    telling = [c for c in candidates if not any(empty in c for empty in _EMPTY_REASONS)]
    if telling or candidates:
        return (telling or candidates)[-1][:400]
    return lines[-1][:400] if lines else "it wrote nothing"


def _patches(report: Path) -> tuple[dict[str, Any], ...]:
    with contextlib.suppress(OSError, ValueError, RecursionError):
        told = [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]
        return tuple(patch for patch in told if isinstance(patch, dict))
    return ()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the engine: close the pipe, which asks; then ask harder."""
    if process.stdin:
        process.stdin.close()
    process.send_signal(signal.SIGCONT)  # a supervisor that is frozen itself would end nobody
    try:
        process.wait(timeout=supervisor.GRACE_S + 10)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        process.kill()
        process.wait()


def unhealthy(server: Http) -> str | None:
    """Why the server is dead; None where it is not.

    Raises:
        TimeoutError: it does not answer, but somebody listens.
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


def attach(url: str, spec: ServerSpec, *, key: str | None) -> Server:
    """Use a server that runs already; check what it tells of itself.

    Raises:
        ServerFailed: nobody answers, it serves another model, it has no speculative-decoding
            counters though a drafter was asked for (or drafts though none was), or another k.
    """
    url = url.rstrip("/").removesuffix("/v1")
    asked = Http(url, key)
    listed = asked.json("/v1/models").get("data")
    served = [str(m.get("id")) for m in listed if isinstance(m, dict)] if isinstance(listed, list) else []
    wanted = served_name(spec)
    if wanted not in served:
        raise ServerFailed(
            f"{url} serves {', '.join(served) or 'no model'}, the stack wants {wanted!r}: "
            "set target.served_name in the stack, or point --server-url elsewhere"
        )
    counters = metrics.fetch(asked)
    if spec.speculative and not counters.present:
        raise ServerFailed(
            f"{url} has no speculative-decoding counters: it does not draft (or runs with "
            f"--disable-log-stats), but the cells are for drafter {spec.label}"
        )
    if counters.present and not spec.speculative:
        raise ServerFailed(f"{url} drafts, but the cells are for drafter {spec.label}, which does not")
    if counters.present and counters.per_position and len(counters.per_position) != spec.k:
        raise ServerFailed(
            f"{url} drafts {len(counters.per_position)} tokens a step, the cells are for k = {spec.k}"
        )
    version = asked.json("/version").get("version")
    return Server(
        url=url,
        key=key or NO_KEY,
        spec=spec,
        model=wanted,
        start_id=f"attached-{int(counters.started)}",
        version=str(version) if version else "unverified",
        attached=True,
        per_request=spec.speculative is not None,
        log=None,
    )
