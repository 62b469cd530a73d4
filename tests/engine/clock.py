"""A pytest plug-in: the wall clock jumps, as when somebody sets it; clocks that only count do not."""

from __future__ import annotations

import itertools
import time

_real = time.time
_steps = itertools.cycle((0.0, -3600.0, 0.0, 172_800.0))


def _stepped() -> float:
    return _real() + next(_steps)


time.time = _stepped
