"""Forks vLLM servers off a process that has imported vLLM once.

    python -P fork_server.py SOCKET ROOM

SOCKET is a file descriptor; ROOM is any text, which only makes room for longer titles.

A server imports vLLM three times, one process after the other: API server, engine core, worker. That takes
longer than all the rest of its start. Here a server is a fork of a process that has done so, and its engine
core and worker are forks of the server. Each server has a supervisor of its own, which is a fork, too.
It runs in the engine's interpreter, so it imports the standard library and the engine only.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import pickle
import runpy
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Look = Callable[[], object]
Supervise = Callable[[Callable[[], object]], int]

MOST_BYTES = 1 << 17
"""Of a request."""
_LOOK_S = 60
"""For a look at a model's class."""
_MARK, _METHOD = "DRAFTGATE_SERVER", "VLLM_WORKER_MULTIPROC_METHOD"
_PRELOADED = (
    "vllm.entrypoints.openai.api_server",
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.core",
    "vllm.v1.executor.multiproc_executor",
)
"""What the processes of a server import. What is missing here, or in a version of vLLM, costs time only."""
_WORKERS = {
    "cpu": ("vllm.v1.worker.cpu_worker",),
    "cuda": (
        "vllm.v1.worker.gpu_worker",
        "vllm.v1.worker.gpu_model_runner",
        "vllm.v1.worker.gpu.model_runner",
    ),
}
"""By vLLM's platform. Too much is worse than too little: the CPU worker replaces `torch.cuda.current_stream`
as it is imported, and then no GPU worker can load. It also searches all modules for kernels, and stumbles
over numba's, which the proposers of a GPU worker import.
"""


def main(descriptor: int) -> None:
    """Import vLLM, then fork a server for each request, until the other end of the socket is closed.

    A request is JSON: `words` (a module and its arguments), `environment` (the whole of it), `folder` (the
    current one). Three descriptors come with it: the supervisor's standard input, the log, and a pipe for
    the exit code. The answer is the supervisor's process id.
    """
    supervise: Supervise = runpy.run_path(str(Path(__file__).with_name("supervisor.py")))["supervise"]
    with contextlib.suppress(ImportError):  # vLLM's titles come from it; it must see the first one as it was
        importlib.import_module("setproctitle").getproctitle()
    _show("draftgate: has imported vLLM, to fork servers")
    _preload()
    signal.signal(signal.SIGCHLD, _reap)
    with socket.socket(fileno=descriptor) as harness:
        while _may_fork():
            message, descriptors, *_ = socket.recv_fds(harness, MOST_BYTES, 3)
            if not message:
                return
            pid = os.fork()
            if not pid:
                break
            for number in descriptors:
                os.close(number)
            harness.send(str(pid).encode())
        else:
            return
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _serve(json.loads(message), descriptors, supervise)


def _preload() -> None:
    with contextlib.suppress(ImportError):
        # A pool of OpenMP threads does not survive a fork, and one thread needs no pool.
        importlib.import_module("torch").set_num_threads(1)
    for name in _PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for name in _WORKERS.get(_platform(), ()):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def _platform() -> str:
    """`cpu`, `cuda`, or empty: where vLLM knows another one, or does not tell."""
    try:
        current = importlib.import_module("vllm.platforms").current_platform
        return next((name for name in _WORKERS if getattr(current, f"is_{name}")()), "")
    except (ImportError, AttributeError):
        return ""


def _may_fork() -> bool:
    """No process that touched a GPU; and only engines on which forks were seen to work."""
    return bool(_platform()) and not importlib.import_module("torch").cuda.is_initialized()


def _reap(*_: object) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _serve(request: dict[str, Any], descriptors: list[int], supervise: Supervise) -> None:
    """Become the supervisor, and in a fork of it the server."""
    os.setsid()
    stdin, log, ended = descriptors
    for number, source in enumerate((stdin, log, log)):
        os.dup2(source, number)
    os.close(stdin)
    os.close(log)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    module, *words = request["words"]
    command = " ".join([sys.executable, "-m", module, *words])
    _mark(os.environ[_MARK])
    _show(f"draftgate: supervisor of {command}")

    def work() -> None:
        os.close(ended)
        _show(command)
        _fork_on()
        sys.argv = [module, *words]
        sys.path.insert(0, request["folder"])  # as `python -m` does
        sys.modules.pop(module, None)
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        sys.exit(0)

    code = supervise(work)
    os.write(ended, str(code).encode())
    os._exit(0)


def _memory() -> tuple[int, int, int]:
    """Where this process's title begins and ends, and where its environment begins, as /proc shows them.

    They are memory of the first process since its exec; a fork has a copy.
    """
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return int(fields[45]), int(fields[46]), int(fields[47])


def _show(title: str) -> None:
    begin, end, _ = _memory()
    size = end - begin
    # A last byte that is not NUL tells the kernel that the title ends at the first NUL.
    ctypes.memmove(begin, title.encode()[: size - 2].ljust(size - 1, b"\0") + b".", size)


def _mark(start_id: str) -> None:
    """Write a server's start id where /proc shows the environment: each of its processes then carries it.

    It goes over the fork server's, or to the beginning: setproctitle has moved the environment away.
    """
    mark = f"{_MARK}=".encode()
    at = max(0, Path("/proc/self/environ").read_bytes().find(mark))
    ctypes.memmove(_memory()[2] + at, mark + start_id.encode(), len(mark) + len(start_id))


def _fork_on() -> None:
    """Let the server fork its engine core and its workers, too, where this vLLM is known to allow it."""
    if os.environ.get(_METHOD) == "spawn":
        return
    plugins: Any
    methods: Any
    try:
        plugins = importlib.import_module("vllm.plugins")
        methods = importlib.import_module("vllm.utils.system_utils")
        worker = importlib.import_module("vllm.v1.executor.multiproc_executor").WorkerProc
        reasons, worker_main = methods._maybe_force_spawn, worker.worker_main  # noqa: SLF001
    except (ImportError, AttributeError):
        return

    def afresh() -> None:
        plugins.plugins_loaded = False  # each process loads them, as one that was spawned does
        signal.set_wakeup_fd(-1)  # the parent's event loop must not hear of the child's signals

    def choose() -> None:
        os.environ[_METHOD] = "fork" if _forks_workers() else "spawn"  # vLLM's CPU platform wants spawn
        reasons()

    def bound(*args: Any, **kwargs: Any) -> Any:
        _bind()
        return worker_main(*args, **kwargs)

    os.register_at_fork(after_in_child=afresh)
    os.environ.setdefault(_METHOD, "fork")
    with contextlib.suppress(ImportError, AttributeError):
        registry: Any = importlib.import_module("vllm.model_executor.models.registry")
        registry._run_in_subprocess = _looking_in_a_fork(registry._run_in_subprocess)  # noqa: SLF001
    methods._maybe_force_spawn = choose  # noqa: SLF001
    worker.worker_main = staticmethod(bound)


def _looking_in_a_fork(elsewhere: Callable[[Look], Any]) -> Callable[[Look], Any]:
    """What vLLM looks at a model's class with: a function that makes such a call in a fork of the server.

    vLLM looks the first time that it serves an architecture. It starts a new process for that, which imports
    vLLM once more: in the server itself, what the class imports might touch a GPU.

    Args:
        elsewhere: vLLM's own function. It is called where the fork fails.
    """

    def look(call: Look) -> Any:
        pipe, end = os.pipe()
        pid = os.fork()
        if not pid:
            signal.alarm(_LOOK_S)  # a lock that another thread held is never released here
            try:
                importlib.import_module("vllm.plugins").load_general_plugins()
                with os.fdopen(end, "wb") as file:
                    pickle.dump(call(), file)
                os._exit(0)
            finally:
                os._exit(1)
        os.close(end)
        with os.fdopen(pipe, "rb") as file:
            seen = file.read()
        _, status = os.waitpid(pid, 0)
        return elsewhere(call) if status else pickle.loads(seen)  # noqa: S301 - of our own fork

    return look


def _preloads() -> list[str]:
    return [os.path.realpath(path) for path in os.environ.get("LD_PRELOAD", "").split(":") if path]


def _forks_workers() -> bool:
    """Whether a fork gets all that vLLM's CPU worker gets by its exec: libraries, and threads bound to cores.

    Libraries must be there already, and of the OpenMP libraries we can bind the threads of GNU's alone.
    """
    if _platform() != "cpu":
        return True
    mapped = Path("/proc/self/maps").read_text(encoding="utf-8")
    names = " ".join(map(os.path.basename, _preloads()))
    there = all(path in mapped for path in _preloads())
    return there and "libgomp" in names and "libiomp" not in names and "libomp" not in names


def _bind() -> None:
    """Give this worker its threads and their cores, as GNU's OpenMP does by these variables at its exec."""
    cores = [int(core) for core in os.environ.get("GOMP_CPU_AFFINITY", "").split()]
    if not cores:
        return
    (gomp,) = [ctypes.CDLL(path) for path in _preloads() if "libgomp" in path]
    importlib.import_module("torch").set_num_threads(len(cores))

    def bind(_: object) -> None:
        os.sched_setaffinity(0, {cores[gomp.omp_get_thread_num()]})

    gomp.GOMP_parallel(ctypes.CFUNCTYPE(None, ctypes.c_void_p)(bind), None, len(cores), 0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
