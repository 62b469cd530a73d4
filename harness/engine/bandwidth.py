"""How fast a device copies memory: its GPU, or the cores that a CPU engine would use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping

from harness.engine.facts import last_line
from harness.errors import ServerFailed

_COPY_S = 120
_ON_GPU = """
import torch
x = torch.ones(2**30, dtype=torch.uint8, device="cuda")
y = torch.empty_like(x)
best = 0.0
for _ in range(20):
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began.record()
    y.copy_(x)
    ended.record()
    torch.cuda.synchronize()
    best = max(best, 2 * x.numel() / began.elapsed_time(ended) * 1000)
print(best)
"""
# A thread for each core; numpy lets go of Python's lock while it copies. Each thread takes its own times: one
# that looks on may be woken too late.
_ON_CPU = """
import json, os, sys, threading, time
import numpy
cores = json.loads(sys.argv[1])
os.sched_setaffinity(0, cores)
size = 2**29 // len(cores)
# Of ones: the kernel has a single page for all zeros, which stays in the cache.
pairs = [(numpy.ones(size, numpy.uint8), numpy.ones(size, numpy.uint8)) for _ in cores]
def copy(core, pair, line, times):
    os.sched_setaffinity(0, {core})
    line.wait()
    began = time.perf_counter()
    numpy.copyto(*pair)
    times.append((began, time.perf_counter()))
best = 0.0
for _ in range(24):
    line, times = threading.Barrier(len(cores)), []
    threads = [threading.Thread(target=copy, args=(*each, line, times)) for each in zip(cores, pairs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    began, ended = zip(*times)
    best = max(best, 2 * size * len(cores) / (max(ended) - min(began)))
print(best)
"""


def cores_of(env: Mapping[str, str], allowed: Iterable[int] | None = None) -> list[int]:
    """The cores that a CPU engine with these variables computes on: all but those that it keeps back.

    Args:
        env: its variables.
        allowed: the cores that it may use; by default those of this process.
    """
    cores = sorted(os.sched_getaffinity(0) if allowed is None else allowed)
    bound = env.get("VLLM_CPU_OMP_THREADS_BIND", "auto")
    if bound == "nobind":
        return cores
    try:
        if bound != "auto":
            return sorted(set(_listed(bound.split("|")[0])))
        back = int(env.get("VLLM_CPU_NUM_OF_RESERVED_CPU", "1"))
    except ValueError:  # the engine will say so
        return cores
    return cores[: max(1, len(cores) - back)]


def _listed(text: str) -> Iterable[int]:
    """`5,2-4`: 5, 2, 3, 4."""
    for part in text.split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def bandwidth(python: str, *, cores: list[int] | None, env: Mapping[str, str]) -> float:
    """Bytes a second that a copy reads and writes, the best of several.

    Args:
        python: the engine's interpreter, whose torch copies on a GPU.
        cores: copy on these cores; None: on the first GPU that `env` leaves visible.
        env: the engine's variables.

    Raises:
        ServerFailed: the copy did not run.
    """
    command = [python, "-c", _ON_GPU] if cores is None else [sys.executable, "-c", _ON_CPU, json.dumps(cores)]
    try:
        done = subprocess.run(
            command, env={**os.environ, **env}, capture_output=True, text=True, check=True, timeout=_COPY_S
        )
        return float(last_line(done.stdout))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", "") or error).strip().splitlines()
        raise ServerFailed(
            f"memory bandwidth could not be measured: {said[-1] if said else 'no output'}",
            code="engine-missing",
        ) from None
