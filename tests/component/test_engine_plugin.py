import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from harness.engine import vllm_plugin
from harness.engine.vllm_plugin import Fault, register

ROOT = Path(__file__).parents[2]

# Runs with a real vLLM, in a process of its own: torch has no place in that of pytest. One does it all, since
# importing vLLM takes some eight seconds.
IN_ENGINE = """
import json, os, sys, types
from itertools import accumulate
from pathlib import Path

assert not {"vllm", "torch"} & set(sys.modules)
from harness.engine import vllm_plugin
assert not {"vllm", "torch"} & set(sys.modules)

import torch
from vllm.platforms import current_platform
from vllm.v1.sample import rejection_sampler as sampler

out = {"cpu": current_platform.is_cpu()}
original = sampler.expand_batch_to_tokens
owner, name = (sampler._expand, "kernel") if hasattr(sampler, "_expand") else (sampler, "expand_kernel")
kernel = getattr(owner, name)

def register(mode):
    os.environ["DRAFTGATE_MEND"] = mode
    vllm_plugin.register()

def healthy(x, cu_num_tokens, num_tokens, replace_from=0, replace_to=0):
    return vllm_plugin._expand_batch_to_tokens(x, cu_num_tokens, num_tokens, replace_from, replace_to)

def repeats(dtype, values, counts, **replace):
    ends = torch.tensor(list(accumulate(counts)), dtype=torch.int32)
    got = sampler.expand_batch_to_tokens(torch.tensor(values, dtype=dtype), ends, sum(counts), **replace)
    assert got.dtype == dtype, got.dtype
    return got.tolist()

if out["cpu"]:
    register("probe")
    out["left"] = sampler.expand_batch_to_tokens is original
    # the verdict must not hang on luck with the memory that the faulty function returns
    out["verdicts"] = [vllm_plugin._temperature_dropped() for _ in range(20)]

    sampler.expand_batch_to_tokens = healthy
    register("1")
    out["healthy_left"] = sampler.expand_batch_to_tokens is healthy

    sampler.expand_batch_to_tokens = original
    importer = sys.modules["importer"] = types.ModuleType("importer")
    importer.expand_batch_to_tokens = original
    namesake = sys.modules["namesake"] = types.ModuleType("namesake")
    namesake.expand_batch_to_tokens = len
    register("1")
    out["mended"] = sampler.expand_batch_to_tokens is not original
    out["importer"] = importer.expand_batch_to_tokens is sampler.expand_batch_to_tokens
    out["namesake_left"] = namesake.expand_batch_to_tokens is len
    out["kernel_restored"] = getattr(owner, name) is kernel

    if hasattr(current_platform, "register_triton_kernel_overrides"):
        current_platform.register_triton_kernel_overrides()  # what the engine does next
    out["floats"] = [repeats(t, [0.5, 0.75, 1.5], [2, 3, 1]) for t in (torch.float32, torch.float64)]
    out["ints"] = [repeats(t, [7, 8, 9], [2, 3, 1]) for t in (torch.int32, torch.int64)]
    out["zero_counts"] = repeats(torch.float32, [0.5, 0.25, 0.75, 1.0], [0, 3, 0, 1])
    out["no_tokens"] = repeats(torch.float32, [0.5, 0.25], [0, 0])
    out["replaced"] = repeats(torch.float32, [0.0, 0.5, 0.0], [1, 2, 1], replace_from=0, replace_to=1)
    out["replaced_int"] = repeats(torch.int32, [4, 5], [1, 2], replace_from=4, replace_to=-1)
    out["defaults"] = repeats(torch.float32, [0.0, 0.5], [1, 1])
Path(sys.argv[1]).write_text(json.dumps(out))
"""


def _fake_engine(monkeypatch: pytest.MonkeyPatch, *faults: Fault, cpu: bool = True) -> list[str]:
    log: list[str] = []

    def write(text: str, *args: object) -> None:
        log.append(text % args)

    modules: dict[str, Any] = {
        "vllm": SimpleNamespace(__version__="9.9"),
        "vllm.platforms": SimpleNamespace(current_platform=SimpleNamespace(is_cpu=lambda: cpu)),
        "vllm.logger": SimpleNamespace(init_logger=lambda _: SimpleNamespace(info=write, warning=write)),
    }
    monkeypatch.setattr(vllm_plugin, "import_module", modules.__getitem__)
    monkeypatch.setattr(vllm_plugin, "FAULTS", faults)
    return log


def _refuse() -> None:
    raise AssertionError("must not be called")


def _report(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "patch.jsonl"
    monkeypatch.setenv("DRAFTGATE_MEND_REPORT", str(path))
    return path


@pytest.mark.parametrize("value", [None, "", "0", "off", "true"])
def test_without_the_variable_nothing_happens(
    value: str | None, report: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DRAFTGATE_MEND", raising=False)
    if value is not None:
        monkeypatch.setenv("DRAFTGATE_MEND", value)
    monkeypatch.setattr(vllm_plugin, "import_module", lambda name: pytest.fail(f"imported {name}"))
    register()
    assert not report.exists()


def test_nothing_happens_on_another_platform(report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAFTGATE_MEND", "1")
    log = _fake_engine(monkeypatch, Fault("f", "what", lambda: pytest.fail("probed"), _refuse), cpu=False)
    register()
    assert log == []
    assert not report.exists()


def test_each_fault_is_probed_and_patched_alone(report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAFTGATE_MEND", "on")
    broken = [True]
    log = _fake_engine(
        monkeypatch,
        Fault("a", "it", lambda: bool(broken), broken.clear),
        Fault("b", "that", lambda: False, _refuse),
    )
    register()
    common = {"vllm": "9.9", "pid": os.getpid()}
    assert _report(report) == [
        {"fault": "a", "probe": "fault", "mended": True, **common},
        {"fault": "b", "probe": "healthy", "mended": False, **common},
    ]
    assert log == [
        "draftgate: patched it: probe failed before, passes after",
        "draftgate: probe passed, nothing patched",
    ]


def test_a_fork_of_a_patched_process_reports_the_patch(report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAFTGATE_MEND", "1")
    broken = [True]
    _fake_engine(monkeypatch, Fault("a", "it", lambda: bool(broken), broken.clear))
    register()

    register()  # what a fork does, with this process's memory

    assert [(line["probe"], line["mended"]) for line in _report(report)] == [("fault", True)] * 2


def test_a_patch_that_does_not_help_stops_the_engine(report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAFTGATE_MEND", "1")
    log = _fake_engine(monkeypatch, Fault("a", "it", lambda: True, lambda: None))
    with pytest.raises(RuntimeError, match="draftgate: could not patch it: probe failed before and after"):
        register()
    assert [(line["probe"], line["mended"]) for line in _report(report)] == [("fault", False)]
    assert log == []


def test_a_report_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAFTGATE_MEND", "1")
    monkeypatch.delenv("DRAFTGATE_MEND_REPORT", raising=False)
    log = _fake_engine(monkeypatch, Fault("a", "it", lambda: False, _refuse))
    register()
    assert log == ["draftgate: probe passed, nothing patched"]


@pytest.fixture(scope="module")
def in_engine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if find_spec("vllm") is None:
        pytest.skip("needs vLLM: the function under test is the engine's own")
    folder = tmp_path_factory.mktemp("engine")
    env = {**os.environ, "DRAFTGATE_MEND_REPORT": str(folder / "report"), "VLLM_NO_USAGE_STATS": "1"}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    env.pop("DRAFTGATE_MEND", None)
    done = subprocess.run(
        [sys.executable, "-c", IN_ENGINE, str(folder / "result")],
        env=env,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads((folder / "result").read_text())
    if not found["cpu"]:
        pytest.skip("needs vLLM's CPU platform: the fault is its")
    return {**found, "report": _report(folder / "report"), "log": done.stdout + done.stderr}


def test_probe_finds_the_fault_every_time_and_leaves_it(in_engine: dict[str, Any]) -> None:
    assert in_engine["verdicts"] == [True] * 20
    assert in_engine["left"]
    assert (
        "draftgate: probe failed, nothing patched (DRAFTGATE_MEND=probe): expand_batch_to_tokens"
        in in_engine["log"]
    )


def test_a_healthy_function_is_left_alone(in_engine: dict[str, Any]) -> None:
    assert in_engine["healthy_left"]


def test_patch_reaches_every_name_and_no_other(in_engine: dict[str, Any]) -> None:
    assert in_engine["mended"]
    assert in_engine["importer"]
    assert in_engine["namesake_left"]
    assert (
        "draftgate: patched expand_batch_to_tokens (temperature dropped on CPU, vLLM up to 0.32): "
        "probe failed before, passes after"
    ) in in_engine["log"]


def test_probe_puts_the_engines_kernel_back(in_engine: dict[str, Any]) -> None:
    assert in_engine["kernel_restored"]


def test_patched_function_repeats_every_type(in_engine: dict[str, Any]) -> None:
    assert in_engine["floats"] == [[0.5, 0.5, 0.75, 0.75, 0.75, 1.5]] * 2
    assert in_engine["ints"] == [[7, 7, 8, 8, 8, 9]] * 2
    assert in_engine["zero_counts"] == [0.25, 0.25, 0.25, 1.0]
    assert in_engine["no_tokens"] == []


def test_patched_function_replaces_as_asked(in_engine: dict[str, Any]) -> None:
    assert in_engine["replaced"] == [1.0, 0.5, 0.5, 1.0]
    assert in_engine["replaced_int"] == [-1, 5, 5]
    assert in_engine["defaults"] == [0.0, 0.5]


def test_every_call_is_reported(in_engine: dict[str, Any]) -> None:
    lines = in_engine["report"]
    assert [(line["fault"], line["probe"], line["mended"]) for line in lines] == [
        ("cpu-temperature", "fault", False),
        ("cpu-temperature", "healthy", False),
        ("cpu-temperature", "fault", True),
    ]
    assert all(line["vllm"] and line["pid"] for line in lines)


# A process of an engine that we started, without vLLM: what multiprocessing starts, as vLLM does

CHILD = """
import multiprocessing, os, sys, time
from importlib.metadata import entry_points

def work():
    (found,) = entry_points(group="vllm.general_plugins", name="draftgate")
    found.load()()
    print(os.getpid(), found.value, os.environ.get("VLLM_API_KEY"), flush=True)
    time.sleep(100)

if __name__ == "__main__":
    multiprocessing.get_context(sys.argv[1]).Process(target=work).start()
    time.sleep(100)
"""


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.parametrize("ours", [True, False])
def test_a_process_of_our_server_has_no_key_and_ends_with_its_parent(
    tmp_path: Path, method: str, *, ours: bool
) -> None:
    script = tmp_path / "server.py"
    script.write_text(CHILD)
    (tmp_path / "vllm.py").touch()  # the engine itself would be imported for ten seconds
    env = {**os.environ, "VLLM_API_KEY": "key", "PYTHONPATH": str(tmp_path), "DRAFTGATE_MEND": ""}
    env |= vllm_plugin.found_by(env) | ({"DRAFTGATE_SERVER": "f00d"} if ours else {})
    with subprocess.Popen(
        [sys.executable, str(script), method], env=env, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout
        pid, value, key = parent.stdout.readline().split()
        parent.kill()
        parent.stdout.close()
    child = psutil.Process(int(pid)) if psutil.pid_exists(int(pid)) else None
    try:
        ended = child is None or bool(psutil.wait_procs([child], timeout=10 if ours else 0.5)[0])
    finally:
        if child and child.is_running():
            child.kill()

    assert (value, key) == ("draftgate_into_vllm:register", "None" if ours else "key")
    assert ended == ours


def test_a_list_of_plug_ins_has_ours_too(tmp_path: Path) -> None:
    found = vllm_plugin.found_by({"PYTHONPATH": str(tmp_path), "VLLM_PLUGINS": "lora"})

    assert found["PYTHONPATH"].startswith(f"{tmp_path}{os.pathsep}")
    assert found["VLLM_PLUGINS"] == "lora,draftgate"
    assert "VLLM_PLUGINS" not in vllm_plugin.found_by({})


def worker(module: str, **scheduling: Any) -> SimpleNamespace:
    """A worker of vLLM that is ready, as far as it is asked."""
    layer = SimpleNamespace(attn_backend=SimpleNamespace(get_name=lambda: "FLASH_ATTN"))
    mode = SimpleNamespace(name="FULL_AND_PIECEWISE")
    bfloat16 = type("dtype", (), {"__str__": lambda _: "torch.bfloat16"})()
    return SimpleNamespace(
        model_runner=type("GPUModelRunner", (), {"__module__": module})(),
        vllm_config=SimpleNamespace(
            scheduler_config=SimpleNamespace(**scheduling),
            model_config=SimpleNamespace(max_model_len=2048, dtype=bfloat16, quantization=None),
            speculative_config=SimpleNamespace(rejection_sample_method="standard", draft_model_config=None),
            compilation_config=SimpleNamespace(
                cudagraph_mode=mode, static_forward_context={"layers.0.attn": layer, "layers.0.mlp": object()}
            ),
        ),
    )


@pytest.mark.parametrize(
    ("module", "runner"),
    [
        ("vllm.v1.worker.gpu.model_runner", "V2"),
        ("vllm.v1.worker.cpu.model_runner", "V2"),
        ("vllm.v1.worker.gpu_model_runner", "V1"),
        ("vllm.v1.worker.cpu_model_runner", "V1"),
    ],
)
def test_how_a_worker_runs_is_what_it_has(module: str, runner: str) -> None:
    """What this version of vLLM does not have is left out."""
    assert vllm_plugin.execution_of(worker(module, async_scheduling=True, max_num_seqs=64)) == {
        "model_runner": runner,
        "async_scheduling": True,
        "max_num_seqs": 64,
        "max_model_len": 2048,
        "dtype": "bfloat16",
        "quantization": None,
        "rejection_sample_method": "standard",
        "cudagraph_mode": "FULL_AND_PIECEWISE",
        "attention": "FLASH_ATTN",
    }


@pytest.mark.parametrize("broken", [False, True])
def test_a_worker_says_how_it_runs_once_it_is_ready(
    report: Path, monkeypatch: pytest.MonkeyPatch, *, broken: bool
) -> None:
    class Wrapper:
        worker: Any = None

        def initialize_from_config(self, configs: list[int]) -> int:
            self.worker = None if broken else worker("vllm.v1.worker.gpu.model_runner")
            return len(configs)

    logged: list[str] = []
    modules = {
        "vllm.v1.worker.worker_base": SimpleNamespace(WorkerWrapperBase=Wrapper),
        "vllm.logger": SimpleNamespace(init_logger=lambda _: SimpleNamespace(info=logged.append)),
    }
    monkeypatch.setattr(vllm_plugin, "import_module", modules.__getitem__)
    vllm_plugin._report_execution()
    vllm_plugin._report_execution()  # in a fork

    assert Wrapper().initialize_from_config([1, 2]) == 2
    assert report.exists() != broken
    assert bool(logged) == broken
    if not broken:
        (line,) = _report(report)
        assert line["execution"]["model_runner"] == "V2"
