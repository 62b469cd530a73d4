from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from types import SimpleNamespace

import psutil
import pytest

from harness.provenance import hardware, surroundings
from harness.provenance.hardware import GpuNow, gpus_now
from harness.provenance.surroundings import Watch, busy

GPU = GpuNow(sm_mhz=1980.0, celsius=61.0, working=99.0, reasons=0)


def test_what_nvidia_smi_says_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["1980, 61, 99, 0x0000000000000004", "[N/A], 61, 0, 0x0", "nonsense"]
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(hardware, "_nvidia_smi", lambda *words: asked.append(words) or lines)

    assert gpus_now(["0", "GPU-1"]) == [
        GpuNow(sm_mhz=1980.0, celsius=61.0, working=99.0, reasons=4),
    ]
    assert asked[0][:2] == ("-i", "0,GPU-1")
    monkeypatch.setattr(hardware, "_nvidia_smi", lambda *_: None)
    assert gpus_now(["0"]) == []


@pytest.mark.parametrize(
    ("reasons", "slowed"), [(0, 0), (1, 0), (4, 0), (8, 1), (0x20, 1), (0x40 | 4, 1), (0x80, 1)]
)
def test_a_gpu_that_is_slowed_for_heat_or_power_is_seen(
    monkeypatch: pytest.MonkeyPatch, reasons: int, slowed: int
) -> None:
    """Its power cap, 4, is how most GPUs run at full load."""
    gpu = GpuNow(sm_mhz=1200.0, celsius=88.0, working=99.0, reasons=reasons)
    monkeypatch.setattr(surroundings, "gpus_now", lambda _: [gpu])
    monkeypatch.setattr(surroundings, "_heat_events", lambda: 0)

    with Watch(["0"]) as watch:
        pass

    assert (watch.seen.sm_mhz, watch.seen.slowed) == (1200.0, slowed)
    assert watch.seen.celsius is not None
    assert watch.seen.celsius >= 88.0


def test_a_processor_that_slows_down_for_heat_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter((5, 7))
    monkeypatch.setattr(surroundings, "_heat_events", lambda: next(counts))

    with Watch() as watch:
        pass

    assert watch.seen.slowed == 2


@dataclasses.dataclass
class Program:
    """A process that has used so many seconds, and what it started."""

    user: float
    system: float
    started: tuple[Program, ...] = ()

    def children(self, *, recursive: bool) -> tuple[Program, ...]:
        assert recursive
        return self.started

    def cpu_times(self) -> Program:
        return self

    def oneshot(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def test_the_work_of_other_programs_is_what_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system counts the user time of niced programs apart, ours too. They slow an engine down as well."""
    engine = Program(user=40.0, system=5.0)
    niced = Program(user=7.0, system=1.0)
    monkeypatch.setattr(psutil, "Process", lambda: Program(3.0, 1.0, started=(engine, niced)))
    monkeypatch.setattr(
        psutil, "cpu_times", lambda: SimpleNamespace(user=50.0, nice=99.0, system=10.0, idle=500.0, steal=2.0)
    )

    assert surroundings._others_s() == pytest.approx((50 + 99 + 10 + 2) - (3 + 1) - (40 + 5) - (7 + 1))


@pytest.mark.parametrize(
    ("working", "found"), [([0.0], None), ([90.0, 40.0, 3.0], None), ([90.0] * 50, 90.0), ([], None)]
)
def test_a_gpu_that_others_use_is_busy(
    monkeypatch: pytest.MonkeyPatch, working: list[float], found: float | None
) -> None:
    """Its figure lags behind, so one that comes to rest is not."""
    readings: Iterator[float] = iter(working)
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr(surroundings.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(surroundings.time, "sleep", lambda _: None)
    monkeypatch.setattr(
        surroundings,
        "gpus_now",
        lambda _: (
            [GpuNow(sm_mhz=0, celsius=0, working=value, reasons=0) for value in [next(readings, 90.0)]]
            if working
            else []
        ),
    )

    assert busy(["0"]) == found
    assert busy([]) is None
