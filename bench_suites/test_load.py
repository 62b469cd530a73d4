"""What becomes of acceptance, speed and errors when more requests are in flight?

Run by its path, since every cell is measured at every level:

    pytest bench_suites/test_load.py -m "chat and en"

Levels are 1, 4, 16 and 64 requests in flight on one server (`--levels`), at each at least twice as many
requests, in one stream. Goodput is the number of requests a second that were answered without an error and
within a latency bound, as in DistServe (Zhong et al. 2024); the bound is TTFT <= 2 s and TPOT <= 200 ms, as
MLPerf Inference asks of Llama 2 70B in its Server scenario (`--ttft-ms`, `--tpot-ms`).
"""

from __future__ import annotations

import pytest

from harness.config.cells import Cell
from harness.suites import load
from harness.suites.runner import Judge


@pytest.mark.cells(load.SUITE)
def test_load(cell: Cell, judge: Judge) -> None:
    """No request fails or is lost; where acceptance moves with the load, that is said."""
    judge(load.under_load, cell)
