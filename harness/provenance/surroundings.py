"""What else happens on a machine while a server is timed: other programs' work, clocks, heat, throttling."""

from __future__ import annotations

import contextlib
import os
import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from harness.provenance.hardware import gpus_now

_SENSORS = "sensors_temperatures"
"""Of psutil, on some systems."""
_EVERY_S, _GPU_EVERY_S = 1.0, 5.0
"""Between two looks; nvidia-smi takes processor time of its own."""
_SLOWED = 0x8 | 0x20 | 0x40 | 0x80
"""Bits of a GPU's throttle reasons: hardware slowdown, thermal by software and by hardware, power brake. Its
power cap is not among them: at full load most GPUs run at it, and always at the same."""
_IDLE_PERCENT, _PATIENCE_S = 10, 15.0
_KEY = "surroundings"
"""In a record's provenance."""


class Surroundings(BaseModel):
    """What was seen during one pass over the prompts. What this system does not tell is None."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    others: float | None = None
    """Share of the machine's processor time that went to programs that we did not start, whatever their
    priority: even at nice 19 they take caches, memory bandwidth and the other half of a core."""
    load: float | None = None
    """Load average over one minute when the pass began."""
    cpu_mhz: float | None = None
    """Of the fastest processor: median of the looks."""
    sm_mhz: float | None = None
    """The same of a GPU."""
    celsius: float | None = None
    """The hottest that a processor or GPU was."""
    slowed: int = 0
    """How often a processor slowed down for heat; and looks at which a GPU was slowed for heat or power."""

    @classmethod
    def of(cls, provenance: Mapping[str, Any]) -> Surroundings | None:
        """Those that a record holds; None where nobody looked."""
        with contextlib.suppress(ValidationError):
            return cls.model_validate(provenance.get(_KEY))
        return None

    def recorded(self) -> dict[str, Any]:
        """For a record's provenance."""
        return {_KEY: self.model_dump(exclude_none=True)}


class Watch(contextlib.AbstractContextManager["Watch"]):
    """Looks on from another thread until its context is left; `seen` is there afterwards."""

    def __init__(self, gpus: Sequence[str] = ()) -> None:
        """`gpus` as nvidia-smi names them; none for a CPU engine."""
        self._gpus = tuple(gpus)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._mhz: list[float] = []
        self._sm_mhz: list[float] = []
        self._celsius: list[float] = []
        self._slowed = 0
        self.seen = Surroundings()

    def __enter__(self) -> Self:
        """Begin."""
        self._began, self._before, self._heat = time.monotonic(), _others_s(), _heat_events()
        self._load = os.getloadavg()[0]
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop looking, and sum up."""
        self._end.set()
        self._thread.join()
        offered = (time.monotonic() - self._began) * (psutil.cpu_count() or 1)
        self.seen = Surroundings(
            others=round(max(0.0, _others_s() - self._before) / offered, 4),
            load=round(self._load, 2),
            cpu_mhz=statistics.median(self._mhz) if self._mhz else None,
            sm_mhz=statistics.median(self._sm_mhz) if self._sm_mhz else None,
            celsius=max(self._celsius, default=None),
            slowed=self._slowed + max(0, _heat_events() - self._heat),
        )

    def _look(self) -> None:
        next_gpu = 0.0
        while True:
            with contextlib.suppress(OSError, RuntimeError, ValueError):
                self._mhz += [max(one.current for one in psutil.cpu_freq(percpu=True))]
                groups = psutil.sensors_temperatures().values() if hasattr(psutil, _SENSORS) else ()
                self._celsius += [one.current for group in groups for one in group]
            if self._gpus and time.monotonic() >= next_gpu:
                next_gpu = time.monotonic() + _GPU_EVERY_S
                for gpu in gpus_now(self._gpus):
                    self._sm_mhz.append(gpu.sm_mhz)
                    self._celsius.append(gpu.celsius)
                    self._slowed += bool(gpu.reasons & _SLOWED)
            if self._end.wait(_EVERY_S):
                return


def busy(gpus: Sequence[str]) -> float | None:
    """The percent of its time that a GPU works while no server of ours runs; None where it comes to rest.

    Its figure lags behind the end of a server, so it may take some seconds to come to rest.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        working = max((gpu.working for gpu in gpus_now(gpus)), default=0.0) if gpus else 0.0
        if working <= _IDLE_PERCENT:
            return None
        if time.monotonic() > deadline:
            return working
        time.sleep(0.5)


def _others_s() -> float:
    """Processor seconds so far of all programs that are not ours."""
    times = psutil.cpu_times()
    names = ("user", "nice", "system", "irq", "softirq", "steal")
    ours, me = 0.0, psutil.Process()
    for process in (me, *me.children(recursive=True)):
        with contextlib.suppress(psutil.Error), process.oneshot():
            own = process.cpu_times()
            ours += own.system + own.user
    return sum(getattr(times, name, 0.0) for name in names) - ours


def _heat_events() -> int:
    """How often processors have slowed down for heat since the machine started."""
    total = 0
    for file in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/*_throttle_count"):
        with contextlib.suppress(OSError, ValueError):
            total += int(file.read_text(encoding="ascii"))
    return total
