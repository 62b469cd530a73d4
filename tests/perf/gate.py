"""Seconds and memory that `draftgate compare` takes for N cells a side, each with 100 prompts.

The cells are real prompt records under made-up drafter names; of four new ones one is the same, one has a
prompt in ten with other steps, one has all of them so, one was lost at the last position. Every N is compared
by a fresh process, whose processor time and peak memory are those the system counts for it and its children.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from harness.errors import BadInput
from harness.judge.verdict import judge
from harness.results.records import CellRecord, PromptRecord, dump_cell, load
from tests.perf import ROOT, carry_out, positive, say

GATE = ROOT / "tests/data/recordings/bfloat16"
CELLS = ("chat-en-instruct-ngram-k4", "chat-zh-instruct-ngram-k4", "raw-zh-instruct-ngram-k2")
PROMPTS = 100
WANTED = "wanted: 10,000 cells in 20 s and 1 GiB on 2 cores that nobody else uses"
CHILD = """
import resource, sys, time
began = time.monotonic()
from harness.cli import main
code = main(sys.argv[1:])
own, others = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print(code, time.monotonic() - began, own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime,
      own.ru_maxrss, others.ru_maxrss, file=sys.stderr)
"""


def thinned(record: PromptRecord, position: int) -> PromptRecord:
    """As if nothing at `position` or deeper had been accepted: more steps for the same tokens."""
    kept, lost = record.histogram[: position + 1], record.histogram[position + 1 :]
    tokens = sum((deeper + 1) * n for deeper, n in enumerate(lost))
    steps = (*kept[:-1], kept[-1] + sum(lost), *([0] * len(lost)))
    return record.model_copy(
        update={"accepted": None, "drafted": None, "histogram": steps, "undrafted": record.undrafted + tokens}
    )


def variants(source: CellRecord) -> tuple[CellRecord, list[CellRecord]]:
    """A cell, and four that it is compared with.

    Raises:
        BadInput: it has too few prompts.
    """
    if len(source.prompts) < PROMPTS:
        raise BadInput(f"{source.cell} has {len(source.prompts)} prompts, {PROMPTS} are needed")
    prompts = source.prompts[:PROMPTS]

    def cell(changed: Sequence[PromptRecord]) -> CellRecord:
        return source.model_copy(update={"prompts": tuple(changed)})

    def every(step: int, position: int) -> CellRecord:
        return cell([r if i % step else thinned(r, position) for i, r in enumerate(prompts)])

    deepest = source.cell.k - 1
    return cell(prompts), [cell(prompts), every(10, deepest), every(1, 0), every(1, deepest)]


def write(folder: Path, sources: Sequence[CellRecord], cells: int) -> int:
    """Both sides; the bytes written. Each text is made once and renamed, since making it is not measured."""
    size = 0
    made = [variants(source) for source in sources]
    for side in ("base", "new"):
        place = folder / side
        place.mkdir()
        texts = [[dump_cell(r) for r in (news if side == "new" else [base])] for base, news in made]
        for number in range(cells):
            turn, which = divmod(number, len(sources))
            source, text = sources[which], texts[which][turn % len(texts[which])]
            cell = source.cell.model_copy(update={"drafter": f"d{number:05}"})
            was, now = (f'"drafter": "{drafter}", "k"' for drafter in (source.cell.drafter, cell.drafter))
            size += (place / f"{cell}.json").write_bytes(text.replace(was, now, 1).encode())
    return size


def measured(folder: Path) -> dict[str, float]:
    """Seconds and MiB of comparing the two sides in a process of its own.

    Raises:
        BadInput: it did not come to an end as it should.
    """
    table = folder / "table.txt"
    command = ["compare", str(folder / "base"), str(folder / "new"), "--output", str(table)]
    began = time.monotonic()
    child = subprocess.run(
        [sys.executable, "-c", CHILD, *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    wall = time.monotonic() - began
    try:
        code, _, processor, own, others = map(float, child.stderr.split("\n")[-2].split())
    except (IndexError, ValueError):
        raise BadInput(f"the comparison died: {child.stderr[-300:] or child.returncode}") from None
    if code != 1 or not table.stat().st_size:
        raise BadInput(f"the comparison ended with {code:g}, not 1 (regressed): {child.stderr[-300:]}")
    return {"seconds": wall, "processor_s": processor, "mib": own / 1024, "largest_child_mib": others / 1024}


def job(sizes: Sequence[int], sources: Sequence[CellRecord]) -> dict[str, Any]:
    """All sizes, one after the other, as a table and as figures.

    Raises:
        BadInput: see `measured`.
    """
    kinds = Counter(judge(base, new).kind for base, news in map(variants, sources) for new in news)
    rows: list[dict[str, float]] = []
    for cells in sizes:
        with tempfile.TemporaryDirectory(prefix="draftgate-perf-") as name:
            say(f"writing {cells} cells a side")
            size = write(Path(name), sources, cells)
            os.sync()  # or writing them back would be measured too
            say("comparing them")
            rows.append({"cells": cells, "file_mib": size / 2**20, **measured(Path(name))})
    header = [
        "cells a side",
        "files MiB",
        "s",
        "processor s",
        "ms a cell",
        "peak MiB",
        "largest child MiB",
        "growth",
    ]
    table = [
        [
            int(row["cells"]),
            f"{row['file_mib']:.0f}",
            f"{row['seconds']:.1f}",
            f"{row['processor_s']:.1f}",
            f"{1000 * row['seconds'] / row['cells']:.2f}",
            f"{row['mib']:.0f}",
            f"{row['largest_child_mib']:.0f}",
            f"{row['seconds'] / before['seconds']:.2f} x for {row['cells'] / before['cells']:.2f} x"
            if before
            else "",
        ]
        for row, before in zip(rows, [None, *rows], strict=False)
    ]
    shares = ", ".join(f"{n / kinds.total():.0%} {kind}" for kind, n in kinds.items())
    print(f"{PROMPTS} prompts a cell, of {', '.join(str(s.cell) for s in sources)}: {shares}")
    print(tabulate(table, headers=header, disable_numparse=True, stralign="right"))
    cores, load_now = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(f"{cores} cores, load {load_now:.1f}; {WANTED}")
    return {"prompts": PROMPTS, "kinds": kinds, "cores": cores, "rows": rows}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.perf.gate", description=__doc__)
    parser.add_argument(
        "--cells", type=positive, nargs="+", default=[1000, 3000, 10_000], help="sizes (%(default)s)"
    )
    parser.add_argument(
        "--sources",
        type=Path,
        nargs="+",
        default=[GATE / f"{cell}.json" for cell in CELLS],
        help="cell files, 100 prompts or more",
    )
    options = parser.parse_args()
    return carry_out(lambda: job(options.cells, [load(path, CellRecord) for path in options.sources]))


if __name__ == "__main__":
    sys.exit(main())
