"""Workers of pytest-xdist: which server starts how often, on which devices, and what is refused before."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from harness.results.records import CellRecord, RunRecord, load
from tests.component.fake_engine import Fake, bench
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
    listed = "\n".join(CARDS)
    program.write_text(
        f"#!/bin/sh\ncase $1 in\n-L) echo '{SLICES}';;\n*index*) echo '{listed}';;\n*) exit 1;;\nesac\n"
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


@pytest.mark.parametrize(
    "words",
    [
        ("-m", "klingon"),
        ("-n", "2", "-m", "klingon"),
        ("-n", "2", "-k", "klingon"),
        ("--server-url", "http://127.0.0.1:1"),
        ("bench_suites/test_load.py", "-m", "k2"),
        ("--concurrency", "2"),
    ],
)
def test_a_selection_that_cannot_be_is_said_before_anything_starts_and_leaves_nothing(
    fake: Fake, tmp_path: Path, words: tuple[str, ...]
) -> None:
    code, output = bench(fake, tmp_path, *words)

    assert code == pytest.ExitCode.USAGE_ERROR, output
    assert "draftgate: records go to" not in output
    assert "Traceback" not in output
    assert not (tmp_path / "results").exists()
