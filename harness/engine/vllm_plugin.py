"""Patches known faults of the engine, from inside: vLLM loads this module into each of its processes.

In a server that draftgate started, each process ends with the one that started it, and only the API server
keeps the key.

It patches nothing unless `DRAFTGATE_MEND` is set: "1" or "on" patches where a probe shows the fault, "probe"
only probes. It logs what it found, and appends a line of JSON to the file that `DRAFTGATE_MEND_REPORT` names,
so that no result hides a patch. It imports the standard library only (vLLM and torch when it is called), and
nothing of the project.
"""

import ctypes
import json
import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import reduce, wraps
from importlib import import_module
from itertools import accumulate
from pathlib import Path
from random import SystemRandom
from typing import Any

MODE, REPORT, SERVER = "DRAFTGATE_MEND", "DRAFTGATE_MEND_REPORT", "DRAFTGATE_SERVER"
_PR_SET_PDEATHSIG = 1
_EXPAND = "expand_batch_to_tokens"
_ROUNDS = 8


@dataclass(frozen=True)
class Fault:
    """A fault of the engine: how it shows, and what undoes it."""

    name: str
    what: str
    shows: Callable[[], bool]
    patch: Callable[[], None]


@contextmanager
def _kernel_bound(sampler: Any) -> Iterator[None]:
    """Bind the sampler's CPU kernel meanwhile: the engine does so itself, but only after its plug-ins ran."""
    if import_module("vllm.triton_utils").HAS_TRITON:
        yield
        return
    kernels = vars(import_module("vllm.utils.cpu_triton_utils"))
    owner = vars(sampler).get("_expand")
    if owner is None:  # up to vLLM 0.30 the kernel is a plain name of the sampler
        holder, name, kernel = sampler, "expand_kernel", kernels["expand_kernel"]
    else:
        override = import_module("vllm.triton_utils.dispatcher").KernelOverride
        holder, name, kernel = owner, "kernel", override(owner.kernel, kernels["_expand_kernel_impl"])
    before = getattr(holder, name)
    setattr(holder, name, kernel)
    try:
        yield
    finally:
        setattr(holder, name, before)
        vars(holder).pop("_kernel_arg_names", None)  # derived from the kernel, cached by its owner


def _expands(expand: Callable[..., Any], dtype: str) -> bool:
    """Whether `expand` repeats values of this type as counted, and replaces 0 by 1.

    The fault returns memory as it was found. So the values are new each time, what is expected is never a
    tensor (its memory might come back as the result), and memory about to be handed out is filled with -1.
    """
    torch, random = import_module("torch"), SystemRandom()
    counts = [random.randrange(5) for _ in range(6)] + [2, 0, 3]
    values = [
        random.uniform(0.2, 1.8) if dtype.startswith("float") else random.randrange(2, 2**30) for _ in counts
    ]
    values[-1] = 0
    x = torch.tensor(values, dtype=getattr(torch, dtype))
    expected = [v or 1 for v, n in zip(x.tolist(), counts, strict=True) for _ in range(n)]
    ends = torch.tensor(list(accumulate(counts)), dtype=torch.int32)
    freed = [torch.full((len(expected),), -1, dtype=x.dtype) for _ in range(16)]
    del freed
    got = expand(x, ends, len(expected), replace_from=0, replace_to=1)
    return bool(got.dtype == x.dtype and got.tolist() == expected)


def _temperature_dropped() -> bool:
    sampler = import_module("vllm.v1.sample.rejection_sampler")
    # temperature and top_p are float32, top_k is int32; int64 is right even where the fault is
    cases = [dtype for _ in range(_ROUNDS) for dtype in ("float32", "float64", "int32", "int64")]
    with _kernel_bound(sampler):
        return not all(_expands(getattr(sampler, _EXPAND), dtype) for dtype in cases)


def _expand_batch_to_tokens(
    x: Any, cu_num_tokens: Any, num_tokens: int, replace_from: int = 0, replace_to: int = 0
) -> Any:
    """Repeat x[i] for each token of request i, as vLLM's function of this name is meant to."""
    counts = cu_num_tokens.diff(prepend=cu_num_tokens.new_zeros(1))
    replaced = x.masked_fill(x == replace_from, replace_to)
    return replaced.repeat_interleave(counts, output_size=num_tokens)


def _patch_temperature() -> None:
    faulty = getattr(import_module("vllm.v1.sample.rejection_sampler"), _EXPAND)
    for module in list(sys.modules.values()):
        if getattr(module, "__dict__", {}).get(_EXPAND) is faulty:
            setattr(module, _EXPAND, _expand_batch_to_tokens)


FAULTS = (
    Fault(
        name="cpu-temperature",
        what=f"{_EXPAND} (temperature dropped on CPU, vLLM up to 0.32)",
        shows=_temperature_dropped,
        patch=_patch_temperature,
    ),
)


_patched: set[Fault] = set()
"""Faults that were patched here, or in the process that this one is a fork of."""


def register() -> None:
    """Tie this process to its parent, patch its engine code, and report on both; see the module's text.

    Raises:
        RuntimeError: A fault still shows after its patch.
    """
    parent = multiprocessing.parent_process()
    if os.environ.get(SERVER) and parent and parent.pid:
        _end_with(parent.pid)
        # vLLM 0.24 hashes the key into the name of its compiled code, and writes it beside that.
        os.environ.pop("VLLM_API_KEY", None)
        _report_execution()
    _patch_faults()


def _end_with(parent: int) -> None:
    """Let the kernel kill this process when its parent is gone: an engine core holds the device's memory."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it has gone already
        os.kill(os.getpid(), signal.SIGKILL)


_EXECUTION = {
    "async_scheduling": "scheduler_config.async_scheduling",
    "max_num_batched_tokens": "scheduler_config.max_num_batched_tokens",
    "max_num_seqs": "scheduler_config.max_num_seqs",
    "chunked_prefill": "scheduler_config.enable_chunked_prefill",
    "max_model_len": "model_config.max_model_len",
    "enforce_eager": "model_config.enforce_eager",
    "kv_cache_dtype": "cache_config.cache_dtype",
    "prefix_caching": "cache_config.enable_prefix_caching",
    "compilation": "compilation_config.mode",
    "cudagraph_mode": "compilation_config.cudagraph_mode",
    "dtype": "model_config.dtype",
    "quantization": "model_config.quantization",
    "kv_block_size": "cache_config.block_size",
    "tensor_parallel_size": "parallel_config.tensor_parallel_size",
    "rejection_sample_method": "speculative_config.rejection_sample_method",
    "draft_sample_method": "speculative_config.draft_sample_method",
    "draft_max_model_len": "speculative_config.draft_model_config.max_model_len",
}
"""Where vLLM's configuration has what decides how it runs, as the engine resolved it."""


def execution_of(worker: Any) -> dict[str, Any]:
    """How a ready worker of vLLM runs its model. What this version of vLLM does not have is left out."""
    runner = type(worker.model_runner).__module__  # V2 has a package for each kind of device
    found: dict[str, Any] = {
        "model_runner": "V2" if re.search(r"worker\.\w+\.model_runner$", runner) else "V1"
    }
    for name, path in _EXECUTION.items():
        with suppress(AttributeError):
            value = reduce(getattr, path.split("."), worker.vllm_config)
            value = getattr(value, "name", value)  # of an enumeration's value
            plain = value is None or isinstance(value, bool | int | float | str)
            found[name] = value if plain else str(value).removeprefix("torch.")
    with suppress(AttributeError):
        layers = worker.vllm_config.compilation_config.static_forward_context.values()
        backends = {layer.attn_backend.get_name() for layer in layers if hasattr(layer, "attn_backend")}
        found["attention"] = ", ".join(sorted(backends))
    return found


def _report_execution() -> None:
    """Have each worker report how it runs, once it is ready: before the server answers."""
    try:
        wrapper = import_module("vllm.v1.worker.worker_base").WorkerWrapperBase
        made_ready = wrapper.initialize_from_config
    except (ImportError, AttributeError):  # another version of vLLM
        return
    if hasattr(made_ready, "__wrapped__"):  # this process is a fork
        return

    @wraps(made_ready)
    def reporting(self: Any, *args: Any, **options: Any) -> Any:
        made = made_ready(self, *args, **options)
        try:
            _write({"execution": execution_of(self.worker)})
        except Exception:  # noqa: BLE001 - whatever it is, the engine runs all the same
            import_module("vllm.logger").init_logger("vllm.draftgate").info(
                "draftgate: cannot say how it runs"
            )
        return made

    wrapper.initialize_from_config = reporting


def _patch_faults() -> None:
    mode = os.environ.get(MODE, "")
    if mode not in {"1", "on", "probe"} or not import_module("vllm.platforms").current_platform.is_cpu():
        return
    logger = import_module("vllm.logger").init_logger("vllm.draftgate")
    for fault in FAULTS:
        found = fault in _patched or fault.shows()
        patching = found and mode != "probe"
        if patching:
            fault.patch()
            _patched.add(fault)
        still = patching and fault.shows()
        line = {
            "fault": fault.name,
            "probe": "fault" if found else "healthy",
            "mended": patching and not still,
            "vllm": import_module("vllm").__version__,
            "pid": os.getpid(),
        }
        _write(line)
        if still:
            raise RuntimeError(f"draftgate: could not patch {fault.what}: probe failed before and after")
        if patching:
            logger.warning("draftgate: patched %s: probe failed before, passes after", fault.what)
        elif found:
            logger.warning("draftgate: probe failed, nothing patched (%s=%s): %s", MODE, mode, fault.what)
        else:
            logger.info("draftgate: probe passed, nothing patched")


def found_by(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables by which a vLLM with this environment finds the plug-in, whatever its interpreter has."""
    folder = str(Path(__file__).with_name("into_vllm"))
    paths = [path for path in (environment.get("PYTHONPATH"), folder) if path]
    named = environment.get("VLLM_PLUGINS")  # else vLLM loads all that there are
    return {"PYTHONPATH": os.pathsep.join(paths)} | ({"VLLM_PLUGINS": f"{named},draftgate"} if named else {})


def _write(line: dict[str, Any]) -> None:
    """Append one line; a single write, since all processes of an engine share the file."""
    path = os.environ.get(REPORT)
    if path:
        with open(path, "ab", buffering=0) as file:  # noqa: PTH123
            file.write((json.dumps(line) + "\n").encode())
