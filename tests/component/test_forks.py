"""A server that is forked off a process which has imported the engine: a fake one, on real forks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.config.cells import ServerSpec
from harness.config.variants import Target
from harness.engine import fork_server, forks
from harness.engine.server import Server, running
from harness.errors import ServerFailed
from tests.component.vllm_like import AS_A_PROCESS
from tests.factories.records import server_spec

TORCH = """\
class cuda:
    is_initialized = staticmethod(lambda: {touched})
def set_num_threads(number):
    pass
"""
API_SERVER = """\
import json, os, sys, time
if __name__ != "__main__":
    with open({imports!r}, "a") as file:
        file.write(f"{{os.getpid()}}\\n")
else:
    print("server", os.getpid(), "child of", os.getppid(), "in", os.getsid(0), flush=True)
    print("said", json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]), flush=True)
    if "--fail" in sys.argv:
        raise OSError("this is a fake")
    exec(open({engine!r}).read())
"""
WORKER = """\
with open({workers!r}, "a") as file:
    file.write("{name} ")
"""
PLATFORM = """\
class current_platform:
    is_cpu, is_cuda = (staticmethod(lambda name=name: name == {name!r}) for name in ("cpu", "cuda"))
"""


class Fake:
    """An interpreter whose vLLM is a fake, which notes the process that imports it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.imports = folder, folder / "imports"
        self.imports.touch()
        (folder / "engine.py").write_text(AS_A_PROCESS)
        module = folder / "vllm" / "entrypoints" / "openai"
        module.mkdir(parents=True)
        for package in (module, *module.parents[:2]):
            (package / "__init__.py").write_text("")
        (module / "api_server.py").write_text(
            API_SERVER.format(imports=str(self.imports), engine=str(folder / "engine.py"))
        )
        self.torch(touched=False)
        self.platform("cpu")
        worker = folder / "vllm" / "v1" / "worker"
        worker.mkdir(parents=True)
        for package in (worker, worker.parent):
            (package / "__init__.py").write_text("")
        for name in ("cpu_worker", "gpu_worker"):
            (worker / f"{name}.py").write_text(WORKER.format(workers=str(folder / "workers"), name=name))
        self.python = folder / "python"
        said = json.dumps([str(folder / "vllm"), "0.99.0+cpu", "vllm-fake"])
        self.python.write_text(
            f"#!/bin/sh\n[ \"$1\" = -c ] && {{ echo '{said}'; exit; }}\n"
            f'export PYTHONPATH={folder}\nexec {sys.executable} "$@"\n'
        )
        self.python.chmod(0o755)
        model = folder / "tiny"
        model.mkdir()
        (model / "config.json").write_text("{}")
        (model / "model.safetensors").write_text("")

    def torch(self, *, touched: bool) -> None:
        (self.folder / "torch.py").write_text(TORCH.format(touched=touched))

    def platform(self, name: str) -> None:
        (self.folder / "vllm" / "platforms.py").write_text(PLATFORM.format(name=name))

    def spec(self, **changes: Any) -> ServerSpec:
        values: dict[str, Any] = {
            "engine_python": str(self.python), "drafter": "none", "k": 0, "speculative": None,
            "target": Target(model=str(self.folder / "tiny")),
            "env": {"FAKE_FREEZE": str(self.folder / "freeze")}, "start_timeout_s": 30.0,
        }  # fmt: skip
        return server_spec(**(values | changes))

    def importers(self) -> list[int]:
        return [int(line) for line in self.imports.read_text().splitlines()]


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Fake]:
    folder = tmp_path / "fake"
    folder.mkdir()
    yield Fake(folder)
    forks.end_all()


def gone(pids: list[int]) -> bool:
    def runs(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return until(lambda: not any(map(runs, pids)))


def until(done: Callable[[], object]) -> bool:
    deadline = time.monotonic() + 20
    while not done() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(done())


def said(server: Server) -> tuple[list[int], list[str], str, dict[str, str]]:
    """Its process, parent and session; its arguments, folder and environment."""
    assert server.log
    first, second = server.log.read_text().splitlines()[:2]
    words, folder, environment = json.loads(second.removeprefix("said "))
    return [int(word) for word in first.split() if word.isdigit()], words, folder, environment


def test_servers_are_forks_of_one_process_that_imported_the_engine_once(fake: Fake, tmp_path: Path) -> None:
    seen = []
    for patch in ("1", "probe"):
        with running(fake.spec(), folder=tmp_path / "logs", say=print, patch=patch) as server:
            (pid, parent, session), words, folder, environment = said(server)
            process = psutil.Process(pid)
            assert server.pid == parent == session
            assert server.ended() is None
            assert words[:2] == ["--host", "127.0.0.1"]
            assert folder == str(Path.cwd())
            assert environment["DRAFTGATE_MEND"] == patch
            assert environment["VLLM_API_KEY"] == server.key
            # What `orphans` and a reader of `ps` look at.
            assert process.environ()["DRAFTGATE_SERVER"] == server.start_id
            assert psutil.Process(parent).environ()["DRAFTGATE_SERVER"] == server.start_id
            assert " ".join(process.cmdline()).startswith(f"{sys.executable} -m vllm.entrypoints")
            family = psutil.Process(parent).parents()
            seen.append((pid, parent, family[0].pid))
        assert gone([pid, parent])

    assert fake.importers() == [seen[0][2]] == [seen[1][2]]
    assert until(lambda: not psutil.Process(seen[0][2]).children())  # no zombies


def test_the_engine_is_imported_while_the_model_is_made_ready(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(reference: str, **_: Any) -> str:
        assert until(fake.importers)
        return reference

    monkeypatch.setattr("harness.engine.server.resolve", slowly)
    with running(fake.spec(), folder=tmp_path, say=print) as server:
        assert psutil.Process(server.pid).ppid() == fake.importers()[0]
    assert len(fake.importers()) == 1


def test_a_server_looks_at_a_model_in_a_fork_of_itself_else_as_vllm_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded: list[int] = []
    plugins = types.SimpleNamespace(load_general_plugins=lambda: loaded.append(os.getpid()))
    monkeypatch.setitem(sys.modules, "vllm.plugins", plugins)
    look = fork_server._looking_in_a_fork(lambda call: ("elsewhere", call))

    pid, plugged = look(lambda: (os.getpid(), loaded))
    assert plugged == [pid] != [os.getpid()]
    for fails in (lambda: 1 / 0, threading.Lock, lambda: os.kill(os.getpid(), signal.SIGKILL)):
        assert look(fails) == ("elsewhere", fails)


def test_a_forked_server_that_dies_is_quoted_with_its_exit_code(fake: Fake, tmp_path: Path) -> None:
    with (
        pytest.raises(ServerFailed) as caught,
        running(fake.spec(args={"fail": True}), folder=tmp_path, say=print),
    ):
        pytest.fail("a server that cannot start has started")

    first = str(caught.value).splitlines()[0]
    assert caught.value.code == "engine-died"
    assert first == "server none died while loading (exit code 1): OSError: this is a fake"
    assert fake.importers()


def test_a_killed_server_and_a_killed_supervisor_are_seen(fake: Fake, tmp_path: Path) -> None:
    with running(fake.spec(), folder=tmp_path, say=print) as server:
        os.kill(said(server)[0][0], signal.SIGKILL)
        assert until(server.ended)
        assert server.ended() == "its process ended (exit code 137)"
    with running(fake.spec(), folder=tmp_path, say=print) as server:
        (pid, parent, _), *_ = said(server)
        os.kill(parent, signal.SIGKILL)
        assert until(server.ended)
        assert server.ended() == "its process ended (exit code -9)"
        assert gone([pid])


def test_a_frozen_supervisor_and_its_frozen_server_are_ended(fake: Fake, tmp_path: Path) -> None:
    with running(fake.spec(), folder=tmp_path, say=print) as server:
        (pid, parent, _), *_ = said(server)
        for number in (parent, pid):
            os.kill(number, signal.SIGSTOP)
        server.stop()
        assert gone([pid, parent])
        server.stop()  # once more does no harm


@pytest.mark.parametrize("frozen", [False, True])
def test_nothing_is_left_of_a_killed_owner(fake: Fake, tmp_path: Path, *, frozen: bool) -> None:
    script = (
        "import sys, time, pathlib\n"
        "from harness.engine.server import running\n"
        "from tests.component.test_forks import Fake, server_spec\n"
        "fake = object.__new__(Fake)\n"
        f"fake.folder = pathlib.Path({str(fake.folder)!r})\n"
        "fake.python = fake.folder / 'python'\n"
        f"with running(fake.spec(), folder=pathlib.Path({str(tmp_path / 'logs')!r}), say=lambda _: None):\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(1000)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    try:
        assert owner.stdout
        assert owner.stdout.readline() == b"ready\n"
        family = [process.pid for process in psutil.Process(owner.pid).children(recursive=True)]
        assert len(family) == 4  # two supervisors, the fork server and its fork
        if frozen:
            os.kill(fake.importers()[0], signal.SIGSTOP)
    finally:
        owner.kill()
        owner.communicate()

    assert gone(family)


def test_another_environment_needs_another_import(fake: Fake, tmp_path: Path) -> None:
    for value in ("1", "2", "1"):
        spec = fake.spec(env={**fake.spec().env, "OMP_NUM_THREADS": value})
        with running(spec, folder=tmp_path, say=print) as server:
            assert said(server)[3]["OMP_NUM_THREADS"] == value

    assert len(fake.importers()) == 2


def test_a_server_is_started_anew_where_the_stack_says_so(fake: Fake, tmp_path: Path) -> None:
    with running(fake.spec(fork=False), folder=tmp_path, say=print) as server:
        assert isinstance(server.process, subprocess.Popen)

    assert fake.importers() == []


def test_a_process_that_has_touched_a_gpu_is_not_forked(fake: Fake, tmp_path: Path) -> None:
    fake.torch(touched=True)

    with running(fake.spec(), folder=tmp_path, say=print) as server:
        assert isinstance(server.process, subprocess.Popen)


@pytest.mark.parametrize(("platform", "worker"), [("cpu", "cpu_worker"), ("cuda", "gpu_worker")])
def test_only_the_worker_of_the_engine_s_device_is_imported(
    fake: Fake, tmp_path: Path, platform: str, worker: str
) -> None:
    """vLLM's CPU worker, once imported, replaces what a GPU worker asks of torch."""
    fake.platform(platform)

    with running(fake.spec(fork=True), folder=tmp_path, say=print) as server:
        assert not isinstance(server.process, subprocess.Popen)
    assert (fake.folder / "workers").read_text().split() == [worker]


def test_an_engine_of_another_device_is_not_forked_and_not_imported_for_that_again(
    fake: Fake, tmp_path: Path
) -> None:
    fake.platform("xpu")

    for _ in range(2):
        with running(fake.spec(fork=True), folder=tmp_path, say=print) as server:
            assert isinstance(server.process, subprocess.Popen)
    assert len(fake.importers()) == 1


@pytest.mark.parametrize("devices", [1, 2])
def test_a_server_on_one_gpu_or_several_is_a_fork(fake: Fake, tmp_path: Path, devices: int) -> None:
    fake.python.write_text(fake.python.read_text().replace("0.99.0+cpu", "0.99.0"))

    with running(fake.spec(args={"tensor_parallel_size": devices}), folder=tmp_path, say=print) as server:
        assert not isinstance(server.process, subprocess.Popen)


def test_a_fork_server_that_hangs_is_replaced_by_a_start_anew(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(fake.spec(), folder=tmp_path, say=print):
        pass
    (hanging,) = fake.importers()
    os.kill(hanging, signal.SIGSTOP)
    monkeypatch.setattr(forks, "_PATIENCE_S", 1.0)

    with running(fake.spec(), folder=tmp_path, say=print) as server:
        assert isinstance(server.process, subprocess.Popen)
    assert gone([hanging])
