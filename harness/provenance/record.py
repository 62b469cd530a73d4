"""What ran where: versions, hashes, hardware, and the engine's configuration as it reports it itself."""

from __future__ import annotations

import ast
import contextlib
import datetime as dt
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shlex
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.config.cells import Cell, FixedLength
from harness.config.prompts import hash_of
from harness.engine.facts import EngineFacts, engine_facts, served_name
from harness.engine.models import cache_folder, sha256_of
from harness.engine.offers import lossy_verification
from harness.engine.server import Server
from harness.errors import BadInput, ServerFailed
from harness.provenance.hardware import clocks, devices_taken, output_of, packages_of
from harness.provenance.integrity import changed_files, code_loaders, commit_of, mounted_files
from harness.results.conditions import UNVERIFIED, Identity, Patch, Subject
from harness.results.files import write_atomically
from harness.results.names import BASE
from harness.stats.acceptance import METRIC_VERSION
from harness.text.redaction import without_secrets

_MOST = 2**53
"""The largest integer up to which a float is exact."""


def identity(cell: Cell, server: Server) -> Identity:
    """What two records must share to be compared."""
    target = cell.spec.target
    folder = folder_of(server.target_path, target.revision)
    lossy = lossy_verification(server.execution, server.speculative)
    given: dict[str, Any] = {"verification": lossy} if lossy else {}
    given |= {"thinking": cell.name.thinking} if cell.name.thinking else {}
    given |= {"variant": cell.name.variant} if cell.name.variant != BASE else {}
    given |= {"ignore_eos": True} if isinstance(cell.profile, FixedLength) else {}
    return Identity(
        endpoint=cell.name.endpoint,
        language=cell.name.language,
        workload=cell.name.workload,
        target=target.model.removeprefix("embedded:")
        if not target.model.startswith("/")
        else served_name(cell.spec),
        revision=revision_of(server.target_path, target.revision),
        weights=weights_hash(folder),
        tokenizer=_file_hash(target.tokenizer or folder, "tokenizer.json"),
        chat_template=_file_hash(target.tokenizer or folder, "chat_template.jinja"),
        dtype=target.dtype,
        quantization=target.quantization,
        sampling=cell.profile.sampling.model_dump(),
        max_tokens=cell.profile.max_tokens,
        concurrency=cell.profile.concurrency,
        cache=cell.profile.cache,
        metric_version=METRIC_VERSION,
        **given,
    )


def subject(cell: Cell, server: Server) -> Subject:
    """What a comparison is about."""
    config = dict(server.speculative or {})
    model = config.pop("model", None)
    revision = config.get("revision")
    said = server.attached and bool(config)
    folder = None if said else folder_of(model, revision)
    commit = revision or UNVERIFIED if said else revision_of(model, revision)
    args, env = cell.spec.args, cell.spec.env
    facts = _facts(server)
    given: dict[str, Any] = {"unverified": ["method", "settings"]} if said else {}
    given |= {"variant": without_secrets(cell.spec.changes)} if cell.spec.changes else {}
    return Subject(
        drafter=cell.name.drafter,
        k=cell.name.k,
        method=config.pop("method", None),
        settings=without_secrets(
            {key: value for key, value in sorted(config.items()) if key != "num_speculative_tokens"}
        ),
        weights=weights_hash(folder) if model else None,
        drafter_revision=commit if model else None,
        engine=server.version,
        engine_commit=commit_of(facts.folder) if facts else UNVERIFIED,
        engine_files=_changed(facts),
        engine_env=without_secrets(env) if facts else UNVERIFIED,
        loads_code=code_loaders({**os.environ, **env}, facts.folder) if facts else [],
        mounted=mounted_files(args, env, config) if facts else UNVERIFIED,
        engine_args=without_secrets(args),
        resolved_config=resolved_config(server.log),
        execution=server.execution or UNVERIFIED,
        sampling_defaults=sampling_defaults(server.log),
        trust_remote_code=cell.spec.target.trust_remote_code,
        patches=patches_of(server),
        **given,
    )


def patches_of(server: Server) -> list[Patch]:
    """What the engine plug-in patched, once for all processes of the engine."""
    kept = ({key: m.get(key) for key in ("fault", "probe", "mended")} for m in server.patches)
    found = []
    for text in sorted({json.dumps(m, sort_keys=True) for m in kept}):
        with contextlib.suppress(ValidationError):  # a damaged report says nothing
            found.append(Patch.model_validate_json(text))
    return found


def provenance(server: Server | None = None) -> dict[str, Any]:
    """Command, commit, time, host, packages: to look up later, never to compare."""
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name  # python -m pytest
    command = shlex.join([name, *sys.argv[1:]])
    known: dict[str, Any] = {
        "command": without_secrets(command),
        **our_commit(),
        "time": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "packages": packages_of(None),
        "clocks": clocks(),
    }
    if server is not None:
        spec = server.spec
        if not server.attached:
            known["devices"] = [name for name, _ in devices_taken(spec, python=spec.engine_python)]
            known["cores"] = len(os.sched_getaffinity(0))
        known["server"] = {
            "start": server.start_id,
            "attached": server.attached,
            "started_s": server.started_s,
            "log": server.log.name if server.log else None,
            "interpreter": UNVERIFIED if server.attached else _interpreter(server.spec.engine_python),
            "packages": UNVERIFIED if server.attached else packages_of(server.spec.engine_python),
        }
    return known


def _interpreter(python: str | None) -> list[str]:
    """The engine's, as it was written, and what that leads to where links are followed."""
    written = shutil.which(python or sys.executable) or str(python)
    return [str(without_secrets(path)) for path in (written, os.path.realpath(written))]


def resolved_config(log: Path | None) -> str:
    """The configuration that the engine logs when it starts; `unverified` without a log."""
    found = re.search(r"Initializing a V1 LLM engine .*? with config: (.*)", _text_of(log))
    if not found:
        return UNVERIFIED
    # Folders are of one machine; hashes say what was in them.
    return str(without_secrets(re.sub(r"'/[^']*/([^'/]*)'", r"'\1'", found[1]).strip()))


def sampling_defaults(log: Path | None) -> dict[str, Any] | str:
    """The sampling defaults that the server takes from the model, as its log says."""
    text = _text_of(log)
    if not text:
        return UNVERIFIED
    found = re.search(r"sampling parameters have been overridden by [^\n]*?: `(\{[^`\n]*\})`", text)
    try:
        defaults = ast.literal_eval(found[1]) if found else {}
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return UNVERIFIED
    if not isinstance(defaults, dict) or not all(isinstance(name, str) for name in defaults):
        return UNVERIFIED
    figures = [value for value in defaults.values() if value is not None]
    plain = all(isinstance(value, int | float) and abs(value) < _MOST for value in figures)
    return defaults if plain else UNVERIFIED


def _text_of(log: Path | None) -> str:
    try:
        return log.read_text(encoding="utf-8", errors="replace") if log else ""
    except OSError:
        return ""


def folder_of(model: str | None, revision: str | None) -> str | None:
    """Where a model lies on this machine: its folder, or the snapshot of a hub id in the hub's cache."""
    if model is None or model.startswith("/"):
        return model
    commit = revision_of(model, revision)
    path = _hub_folder(model) / "snapshots" / commit
    return str(path) if commit != UNVERIFIED and path.is_dir() else None


def revision_of(model: str | None, revision: str | None) -> str:
    """The commit of a hub id in the hub's cache; what the stack says where that holds none."""
    if model is None or model.startswith("/"):
        return revision or UNVERIFIED
    try:
        commit = (_hub_folder(model) / "refs" / (revision or "main")).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return revision or UNVERIFIED
    return commit if re.fullmatch(r"[0-9a-f]{40}", commit) else revision or UNVERIFIED


def _hub_folder(model: str) -> Path:
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    hub = os.environ.get("HF_HUB_CACHE") or f"{home}/hub"
    return Path(hub).expanduser() / f"models--{model.replace('/', '--')}"


def _facts(server: Server) -> EngineFacts | None:
    """The facts of the engine that we started; None where somebody else started it."""
    if server.attached:
        return None
    try:
        facts = engine_facts(server.spec.engine_python or sys.executable)
    except ServerFailed:
        return None
    return facts if facts.folder else None


def _changed(facts: EngineFacts | None) -> list[list[str]] | str:
    changed = changed_files(facts.folder) if facts else UNVERIFIED
    return changed if isinstance(changed, str) else [list(pair) for pair in changed]


def weights_hash(folder: str | None) -> str:
    """SHA-256 over names and hashes of all weight files of a folder; each file is read once, then cached."""
    files = _weights(folder)
    return hash_of("".join(f"{file.name} {_cached_hash(file)}\n" for file in files)) if files else UNVERIFIED


def is_hashed(folder: str | None) -> bool:
    """`weights_hash` of it need not read it."""
    return all(os.access(_note_of(file), os.R_OK) for file in _weights(folder))


def _weights(folder: str | None) -> list[Path]:
    if folder is None or not folder.startswith("/"):
        return []
    kinds = ("*.safetensors", "*.gguf", "*.bin", "*.pt")
    return next((files for kind in kinds if (files := sorted(Path(folder).glob(kind)))), [])


def _note_of(file: Path) -> Path:
    stat = file.stat()
    key = hashlib.sha256(f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:32]
    return cache_folder() / "hashes" / key


def _cached_hash(file: Path) -> str:
    note = _note_of(file)
    try:
        known = note.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):  # none yet, or no text
        known = ""
    if not re.fullmatch(r"[0-9a-f]{64}", known):
        known = sha256_of(file)
        with contextlib.suppress(BadInput):  # then it is made again next time
            write_atomically(note, known)
    return known


def _file_hash(folder: str | None, name: str) -> str:
    if folder is None or not (Path(folder) / name).is_file():
        return UNVERIFIED
    return sha256_of(Path(folder) / name)[:16]


def our_version() -> str:
    """Version and commit of draftgate: what must be the same on all machines that share a plan."""
    try:
        version = importlib.metadata.version("draftgate")
    except importlib.metadata.PackageNotFoundError:
        version = UNVERIFIED
    return f"{version} ({our_commit()['commit']})"


def our_commit(file: Path = Path(__file__)) -> dict[str, Any]:
    """The commit of draftgate's own code, wherever it is called from, and whether its tree was changed.

    Args:
        file: one of ours; where it is not tracked (an installed copy, in another project's tree perhaps), no
            commit is claimed.
    """
    at = str(file.resolve().parent)
    if _git("-C", at, "ls-files", "--error-unmatch", file.name) == UNVERIFIED:
        return {"commit": UNVERIFIED, "dirty": UNVERIFIED}
    status = _git("-C", at, "status", "--porcelain")
    dirty: Any = bool(status) if status != UNVERIFIED else UNVERIFIED
    return {"commit": _git("-C", at, "rev-parse", "HEAD"), "dirty": dirty}


def _git(*words: str) -> str:
    said = output_of("git", *words)
    return UNVERIFIED if said is None else said.strip()
