from __future__ import annotations

import pytest

from harness.config.variants import Engine
from harness.errors import BadInput
from harness.provenance import hardware
from harness.provenance.hardware import environment, shares_of, visible_devices

CARDS = [
    {"index": str(i), "uuid": f"GPU-{i}000-aa", "name": name, "driver_version": "580.65"}
    for i, name in enumerate(("NVIDIA H200", "NVIDIA H200", "NVIDIA L4", "NVIDIA H200"))
]
SLICES = ["GPU 0: NVIDIA H200 (UUID: GPU-0000-aa)", "  MIG 1g.18gb     Device  0: (UUID: MIG-11-bb)"]


@pytest.fixture(autouse=True)
def cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with four GPUs, the first of which has a MIG slice; its engine is not for CPUs."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(hardware, "_cards", lambda: tuple(CARDS))
    monkeypatch.setattr(hardware, "_nvidia_smi", lambda *_: SLICES)
    monkeypatch.setattr(hardware, "on_cpu", lambda _: False)


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["0", "1", "2", "3"]),
        ("2,3", ["2", "3"]),
        (" 3 , 0", ["3", "0"]),
        ("GPU-3000,GPU-1000-aa", ["GPU-3000", "GPU-1000-aa"]),
        ("MIG-11-bb", ["MIG-11-bb"]),
        ("", []),
        ("-1", []),
        ("0,1,-1,3", ["0", "1"]),
        ("0,9,1", ["0"]),
        ("GPU-", []),
        ("0,GPU-", ["0"]),
        ("1,GPU-1000", []),
        ("GPU-000-aa", []),
        ("01,+2", ["1", "2"]),
        ("1gpu,2", ["1", "2"]),
        ("1,0,1", []),
        ("1,01", []),
        ("GPU-3000,GPU-3000", []),
        ("MIG-11-bb,MIG-11-bb", []),
        ("0,,1", ["0"]),
        ("all", []),
    ],
)
def test_the_devices_that_are_visible_are_those_of_cuda(visible: str | None, names: list[str]) -> None:
    env = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}

    assert [name for name, _ in visible_devices(env)] == names


def test_a_device_is_described_by_what_two_of_a_kind_share() -> None:
    found = dict(visible_devices({"CUDA_VISIBLE_DEVICES": "MIG-11-bb,GPU-2000-aa,MIG-gone"}))

    assert [gpu.as_given() for gpu in found.values()] == [
        {"name": "NVIDIA H200 MIG 1g.18gb", "driver_version": "580.65"},
        {"name": "NVIDIA L4", "driver_version": "580.65"},
        {"name": "unverified"},
    ]


@pytest.mark.parametrize(
    ("args", "env", "names"),
    [
        ({}, {}, ["NVIDIA H200"]),
        ({}, {"CUDA_VISIBLE_DEVICES": "2"}, ["NVIDIA L4"]),
        ({"tensor_parallel_size": 2}, {}, ["NVIDIA H200"] * 2),
        ({"tensor-parallel-size": "2", "data_parallel_size": 2}, {}, [c["name"] for c in CARDS]),
        ({"data_parallel_size": 4, "data_parallel_size_local": 1}, {}, ["NVIDIA H200"]),
        ({"tensor_parallel_size": "many"}, {}, ["NVIDIA H200"]),
    ],
)
def test_the_environment_has_the_devices_that_the_engine_takes(
    args: dict[str, object], env: dict[str, str], names: list[str]
) -> None:
    assert [gpu.name for gpu in environment(Engine(args=args, env=env)).gpus] == names


def test_an_engine_for_cpus_has_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "on_cpu", lambda _: True)

    assert environment(Engine()).gpus == []
    assert shares_of(Engine(), 8) is None


@pytest.mark.parametrize(
    ("visible", "args", "shares"),
    [
        (None, {}, ["0", "1"]),
        ("2,3", {}, ["2", "3"]),
        ("MIG-11-bb,GPU-2000", {}, ["MIG-11-bb", "GPU-2000"]),
        ("3,0,2,1", {"tensor_parallel_size": 2}, ["3,0", "2,1"]),
        (None, {"pipeline_parallel_size": 2}, ["0,1", "2,3"]),
    ],
)
def test_each_worker_has_a_share_of_the_visible_devices(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, args: dict[str, object], shares: list[str]
) -> None:
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    assert shares_of(Engine(args=args), 2) == shares


@pytest.mark.parametrize(
    ("visible", "workers", "engine"),
    [
        ("2", 2, {}),
        (None, 5, {}),
        ("0,1,-1,3", 3, {}),
        (None, 3, {"args": {"tensor_parallel_size": 2}}),
        (None, 2, {"env": {"CUDA_VISIBLE_DEVICES": "2,3"}}),
    ],
)
def test_more_workers_than_devices_are_refused(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, workers: int, engine: dict[str, dict[str, object]]
) -> None:
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    with pytest.raises(BadInput) as refused:
        shares_of(Engine.model_validate(engine), workers)

    assert refused.value.code == "too-few-devices"


def test_one_worker_or_no_known_device_has_no_share(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shares_of(Engine(), 1) is None
    monkeypatch.setattr(hardware, "_cards", tuple)
    assert shares_of(Engine(), 2) is None


def test_the_processors_are_split_among_workers_where_each_has_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8, 17)))

    assert hardware.cores_of(2) == [(8, 9, 10, 11), (12, 13, 14, 15)]
    assert hardware.cores_of(8) is None
