"""Workers of pytest-xdist: which server starts how often, on which devices, and what is refused before."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from harness.results.records import CellRecord, RunRecord, load
from tests.component.fake_engine import Fake, bench, start_bench
from tests.component.vllm_like import VllmLike, serving

CARDS = [f"{i}, GPU-{i}000-aa, NVIDIA H200, 580.65, 700.00 W, 1980 MHz" for i in range(4)]
SLICES = "GPU 0: NVIDIA H200 (UUID: GPU-0000-aa)\n  MIG 1g.18gb     Device  0: (UUID: MIG-11-bb)\n"
WORKLOADS = ("--workload", "instruct", "--workload", "code")


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """A stack with three servers, each of which measures two cells."""
    folder = tmp_path / "fake"
    folder.mkdir()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    made = Fake(folder)
    made.stack += '[drafters.ngram]\nmethod = "ngram"\nk = [2, 4]\n'
    return made


@pytest.fixture
def cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with four GPUs, as nvidia-smi lists them; the first has a MIG slice."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    listed, user = "\n".join(CARDS), "GPU-0000-aa, 4242, /opt/other, 1024 MiB"
    program.write_text(
        f"#!/bin/sh\ncase \"$*\" in\n-L*) echo '{SLICES}';;\n*query-gpu=index*) echo '{listed}';;\n"
        f"*compute-apps*) echo '{user}';;\n*) exit 1;;\nesac\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")


def starts(tmp_path: Path) -> Counter[str]:
    """How often each server was started."""
    return Counter(log.stem.rpartition("-")[0] for log in tmp_path.glob("results/*/servers/*.log"))


def devices(tmp_path: Path) -> dict[str, str]:
    """The devices that each server saw."""
    return {
        log.stem.rpartition("-")[0]: re.findall(r"devices (\S*)", log.read_text())[-1]
        for log in tmp_path.glob("results/*/servers/*.log")
    }


def records(tmp_path: Path) -> list[CellRecord]:
    return [load(path, CellRecord) for path in sorted(tmp_path.glob("results/*/acceptance/*.json"))]


def test_each_server_starts_once_whatever_the_workers(fake: Fake, tmp_path: Path) -> None:
    code, output = bench(fake, tmp_path, "-n", "2", "--dist", "loadgroup", *WORKLOADS)

    assert code == 0, output
    assert starts(tmp_path) == {"none": 1, "ngram-k2": 1, "ngram-k4": 1}
    found = records(tmp_path)
    assert len(found) == 6
    assert all(record.valid and record.prompts[0].total_s is None for record in found)
    assert len(re.findall("draftgate: 6 cells on 3 servers", output)) == 1
    (run,) = tmp_path.glob("results/*/run.json")
    assert load(run, RunRecord).finished
    for record in (*found, load(run, RunRecord)):
        assert record.provenance["command"].startswith("pytest -p no:cacheprovider bench_suites")


@pytest.mark.usefixtures("cards")
def test_each_worker_has_its_share_of_the_visible_devices(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-11-bb,3")

    code, output = bench(fake, tmp_path, "-n", "2", "-m", "none or k2")

    assert code == 0, output
    assert sorted(devices(tmp_path).values()) == ["3", "MIG-11-bb"]
    assert re.search("worker 0 on device MIG-11-bb, .*(none|ngram-k2), about ", output)
    assert re.search("worker 1 on device 3, .*(none|ngram-k2), about ", output)
    found = records(tmp_path)
    assert all(record.prompts[0].total_s is not None for record in found)
    assert sorted(gpu.name or "" for record in found for gpu in record.environment.gpus) == [
        "NVIDIA H200", "NVIDIA H200 MIG 1g.18gb",
    ]  # fmt: skip


@pytest.mark.usefixtures("cards")
@pytest.mark.parametrize(("port", "says"), [("", "[too-few-devices]"), ("port = 18123\n", "the port 18123")])
def test_workers_that_would_share_a_device_or_a_port_are_refused(
    fake: Fake, tmp_path: Path, port: str, says: str
) -> None:
    fake.stack = fake.stack.replace("[engine]\n", f"[engine]\n{port}")

    done, output = bench(fake, tmp_path, "-n", "2" if port else "5", "-m", "none or ngram")

    assert done == pytest.ExitCode.USAGE_ERROR, output
    assert says in output
    assert "Traceback" not in output
    assert not (tmp_path / "results").exists()


@pytest.mark.usefixtures("cards")
def test_without_workers_the_devices_are_those_that_the_engine_takes(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3")

    code, output = bench(fake, tmp_path, "-m", "none")

    assert code == 0, output
    assert devices(tmp_path) == {"none": "1,3"}
    (record,) = records(tmp_path)
    assert [gpu.name for gpu in record.environment.gpus] == ["NVIDIA H200"]
    assert re.search("device NVIDIA H200$", output, re.MULTILINE)


@pytest.mark.usefixtures("cards")
def test_who_uses_a_device_is_said_before_a_server_starts(fake: Fake, tmp_path: Path) -> None:
    """The program that computes there is nvidia-smi's word, which this machine fakes."""
    _, output = bench(fake, tmp_path, "-m", "none", "--collect-only")

    assert "pid 4242, /opt/other, 1024 MiB" in output


@pytest.mark.usefixtures("cards")
def test_workers_have_as_many_devices_as_the_largest_server_takes(fake: Fake, tmp_path: Path) -> None:
    fake.stack += "[variants.big]\ntensor_parallel_size = 2\n"
    code, output = bench(fake, tmp_path, "-n", "2", "-m", "none")

    assert code == 0, output
    assert set(devices(tmp_path).values()) == {"0,1", "2,3"}
    code, output = bench(fake, tmp_path, "-n", "3", "-m", "none")
    assert code == pytest.ExitCode.USAGE_ERROR
    assert "[too-few-devices]" in output


def test_one_attached_server_takes_one_process(fake: Fake, tmp_path: Path) -> None:
    with serving(VllmLike()) as server:
        code, output = bench(
            fake, tmp_path, "-n", "auto", "-m", "none", *WORKLOADS, "--server-url", server.url
        )

    assert code == 0, output
    assert "one server is given, so one process measures it: -n auto does nothing" in output
    found = records(tmp_path)
    assert len(found) == 2
    assert all(record.valid and record.prompts[0].total_s is not None for record in found)


OF_A_WORKER = """
import os, pathlib, sys
import pytest

@pytest.hookimpl(optionalhook=True)
def pytest_xdist_newgateway(gateway):
    if "STACK_GOES" in os.environ:
        pathlib.Path(sys.argv[sys.argv.index("--stack") + 1]).unlink(missing_ok=True)

def pytest_sessionstart(session):
    if "WORKER_DIES" in os.environ and hasattr(session.config, "workerinput"):
        os._exit(1)
"""


@pytest.mark.parametrize(("name", "expected"), [("STACK_GOES", 4), ("WORKER_DIES", 1)])
def test_what_befalls_a_worker_alone_is_a_sentence_and_no_success(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, expected: int
) -> None:
    (tmp_path / "befalls.py").write_text(OF_A_WORKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv(name, "1")
    # Not a fork: xdist hands its workers the path of modules that it found when it was imported.
    process = start_bench(fake, tmp_path, "-n", "2", "--max-worker-restart", "0", "-p", "befalls")
    output, _ = process.communicate(timeout=120)

    assert process.returncode == expected, output
    assert "Traceback" not in output
    assert "INTERNALERROR" not in output
    (run,) = tmp_path.glob("results/*/run.json")
    assert not load(run, RunRecord).finished
    assert not records(tmp_path)


def test_a_file_that_cannot_be_read_stops_workers_as_it_stops_a_run_without_them(
    fake: Fake, tmp_path: Path
) -> None:
    broken = tmp_path / "test_broken.py"
    broken.write_text("import no_such_module\n")
    for words in ((), ("-n", "2")):
        code, output = bench(fake, tmp_path, str(broken), *words)

        assert code == pytest.ExitCode.INTERRUPTED, output
        assert "no_such_module" in output
        assert not (tmp_path / "results").exists()


def test_one_attached_server_takes_one_process_however_workers_are_asked_for(
    fake: Fake, tmp_path: Path
) -> None:
    with serving(VllmLike()) as server:
        code, output = bench(
            fake, tmp_path, "-d", "--tx", "2*popen", "-m", "none", "--server-url", server.url
        )

    assert code == 0, output
    assert "--tx 2*popen does nothing" in output
    (record,) = records(tmp_path)
    assert record.prompts[0].total_s is not None


@pytest.mark.parametrize(
    "words",
    [
        ("-n", "2", "--dist", "each"),
        ("-d", "--tx", "popen//chdir=/tmp"),
        ("-d", "--tx", "popen", "--tx", "popen//python=/no/such"),
        ("-m", "klingon"),
        ("-n", "2", "-m", "klingon"),
        ("-n", "2", "-k", "klingon"),
        ("--server-url", "http://127.0.0.1:1"),
        ("bench_suites/test_load.py", "-m", "k2"),  # its acceptance is on /metrics alone
        ("--concurrency", "2"),
    ],
)
def test_a_selection_that_cannot_be_is_said_before_anything_starts_and_leaves_nothing(
    fake: Fake, tmp_path: Path, words: tuple[str, ...]
) -> None:
    fake.observability.unlink()
    code, output = bench(fake, tmp_path, *words)

    assert code == pytest.ExitCode.USAGE_ERROR, output
    assert "draftgate: records go to" not in output
    assert "Traceback" not in output
    assert not (tmp_path / "results").exists()
