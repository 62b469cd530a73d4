"""How long a run takes on N devices, by the plan's own division of it, from what its servers took on one.

A device takes a server's cells after its start; the self-check comes before all of them, once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from harness.judge.collect import collect
from harness.results.records import RUN_FILE, CellRecord, RunRecord, load
from harness.results.shards import Case, Unit, divided
from harness.results.timing import wall_of
from tests.perf import carry_out, positive


def units_of(run: Path, copies: int) -> list[Unit]:
    """The servers of a run, as so many models would have them."""
    cells = [load(entry.path, CellRecord) for entry in collect(run).entries]
    servers: dict[str, list[CellRecord]] = {}
    for record in cells:
        servers.setdefault(f"{record.cell.drafter}-k{record.cell.k}", []).append(record)
    return [
        Unit(
            cases=tuple(Case(case=f"{copy} {record.cell}", server=f"{copy} {name}") for record in records),
            servers=(name,),
            start_s=float(records[0].provenance["server"]["started_s"] or 0),
            seconds=tuple(wall_of(record.prompts) for record in records),
        )
        for copy in range(copies)
        for name, records in servers.items()
    ]


def busy_s(units: Sequence[Unit], devices: int) -> float:
    """Until the last device is done."""
    return max(sum(unit.total_s for unit in share) for share in divided(units, devices))


def job(run: Path, devices: Sequence[int], copies: Sequence[int]) -> dict[str, Any]:
    """A table of seconds on one device and on many.

    Raises:
        BadInput: a run has no cell that can be read.
    """
    ahead = load(run / RUN_FILE, RunRecord).provenance.get("self_check_s") or 0.0
    rows: list[dict[str, float]] = []
    for count in copies:
        units = units_of(run, count)
        one = busy_s(units, 1)
        for many in devices:
            busy = busy_s(units, many)
            rows.append(
                {"models": count, "servers": len(units), "devices": many, "s": busy, "share": busy / one}
            )
    table = [[r["models"], r["servers"], r["devices"], f"{r['s']:.0f}", f"{r['share']:.3f}"] for r in rows]
    print(f"{run.name}; without the self-check ({ahead:.0f} s) and pytest's own start")
    print(
        tabulate(table, headers=["models", "servers", "devices", "s", "of one device"], disable_numparse=True)
    )
    return {"run": run.name, "self_check_s": ahead, "rows": rows}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.perf.fleet", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--devices", type=positive, nargs="+", default=[1, 2, 4, 8, 64])
    parser.add_argument(
        "--models", type=positive, nargs="+", default=[1, 6, 60], help="servers, so many times"
    )
    options = parser.parse_args()
    return carry_out(lambda: job(options.run, options.devices, options.models))


if __name__ == "__main__":
    sys.exit(main())
