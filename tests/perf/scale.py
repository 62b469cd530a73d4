"""Seconds and memory of `draftgate plan`, `merge`, `compare` and `report` for N cells with 100 prompts.

The runs are synthetic: real prompt records under made-up drafter names, written, not measured. Of four new
cells one is the same, one has a prompt in ten with other steps, one has all of them so, one was lost at the
last position. Each command is a process of its own, whose processor time and peak memory are those that the
system counts for it and its children.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from harness.errors import BadInput
from harness.provenance.hardware import environment
from harness.results.files import as_line
from harness.results.records import CellRecord, PromptRecord, RunRecord, dump_cell, load
from tests.perf import ROOT, carry_out, positive, say

SOURCES = ROOT / "tests/data/recordings/bfloat16"
PLACES = (("chat", "en"), ("chat", "zh"), ("raw", "en"), ("raw", "zh"))
PROMPTS, SHARDS = 100, 8
WANTED = "wanted: 30 s and 1 GiB for 10,000 cells, and a time that grows no faster than the cells"
CHILD = """
import resource, sys
from harness.cli import main
code = main(sys.argv[1:])
own, others = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print(code, own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime,
      max(own.ru_maxrss, others.ru_maxrss), file=sys.stderr)
"""
STACK = """\
schema = 1
name = "synthetic"
endpoints = ["chat", "raw"]
languages = ["en", "zh"]
[target]
model = "embedded:smollm2-135m-instruct"
[drafters.none]
"""


def thinned(record: PromptRecord, position: int) -> PromptRecord:
    """As if nothing at `position` or deeper had been accepted: more steps for the same tokens."""
    kept, lost = record.histogram[: position + 1], record.histogram[position + 1 :]
    tokens = sum((deeper + 1) * n for deeper, n in enumerate(lost))
    steps = (*kept[:-1], kept[-1] + sum(lost), *([0] * len(lost)))
    return record.model_copy(
        update={"accepted": None, "drafted": None, "histogram": steps, "undrafted": record.undrafted + tokens}
    )


def variants(source: CellRecord) -> list[CellRecord]:
    """A cell, and four that it is compared with."""
    prompts = source.prompts[:PROMPTS]

    def every(step: int, position: int) -> CellRecord:
        changed = (r if i % step else thinned(r, position) for i, r in enumerate(prompts))
        return source.model_copy(update={"prompts": tuple(changed)})

    deepest, same = source.cell.k - 1, source.model_copy(update={"prompts": prompts})
    return [same, same, every(10, deepest), every(1, 0), every(1, deepest)] if source.cell.k else [same] * 5


def texts() -> dict[str, list[str]]:
    """The text of each cell that is written, by place and drafter. Each is made once and renamed later."""
    found = {}
    for endpoint, language in PLACES:
        for drafter in ("none", "ngram-k4"):
            source = load(SOURCES / f"{endpoint}-{language}-instruct-{drafter}.json", CellRecord)
            timed = tuple(
                r.model_copy(update={"began_s": float(i), "ttft_s": 0.1, "total_s": 1.0})
                for i, r in enumerate(source.prompts)
            )
            update = {"stack": "synthetic", "environment": environment(), "prompts": timed}
            here = source.model_copy(update=update)
            found[f"{endpoint}-{language}-{drafter}"] = [dump_cell(one) for one in variants(here)]
    return found


def write(
    folder: Path, drafters: int, made: Mapping[str, Sequence[str]], *, new: bool, shard: int = 0
) -> int:
    """A run, or one of its shards; the bytes written."""
    cells = folder / "acceptance"
    cells.mkdir(parents=True)
    outcomes, size = [], 0
    for number in range(drafters):
        if new and number % SHARDS != shard:
            continue
        for endpoint, language in PLACES:
            drafter = f"d{number:05}-k4" if number else "none"
            source = f"{endpoint}-{language}-{'ngram-k4' if number else 'none'}"
            text = made[source][1 + number % 4 if new else 0]
            text = text.replace('"drafter": "ngram", "k"', f'"drafter": "d{number:05}", "k"', 1)
            name = f"{endpoint}-{language}-instruct-{drafter}"
            size += (cells / f"{name}.json").write_bytes(text.encode())
            outcomes.append({"suite": "acceptance", "cell": name, "kind": "fine", "sentence": ""})
    (folder / "verdicts.jsonl").write_text("".join(map(as_line, outcomes)), encoding="utf-8")
    place = {"shard": {"plan": "0" * 16, "number": shard, "of": SHARDS}} if new else {"server_url": None}
    run = RunRecord(
        run=folder.name, stack="synthetic", profile="gate", options=place, provenance={},
        environment=environment(), finished=True,
    )  # fmt: skip
    (folder / "run.json").write_text(run.model_dump_json(by_alias=True), encoding="utf-8")
    return size


def commands(folder: Path, drafters: int) -> Iterator[tuple[str, list[str], Path, set[int]]]:
    """The name of each command, its words, what it makes, and the exit codes that it may end with."""
    stack = folder / "synthetic.toml"
    lines = (f'[drafters.d{n:05}]\nmethod = "ngram"\nk = [4]\n' for n in range(1, drafters))
    stack.write_text(STACK + "".join(lines), encoding="utf-8")
    results, plan, table, page = (
        folder / name for name in ("results", "plan.json", "table.txt", "page.html")
    )
    base, new = results / "base", folder / "new"
    words = ["acceptance", "--stack", stack, "--results", results, "--profile", "gate", "--gate", "off"]
    yield "plan", ["plan", *words, "--shards", SHARDS, "--output", plan], plan, {0}
    shards = [folder / f"shard{n}" for n in range(SHARDS)]
    yield "merge", ["merge", *shards, "--output", new], new / "run.json", {0}
    yield "compare", ["compare", base, new, "--output", table], table, {1}
    yield "report", ["report", new, "--baseline", base, "--output", page], page, {0}


def measured(words: Sequence[object], made: Path, codes: set[int]) -> dict[str, float]:
    """Seconds and MiB of a command, in a process of its own.

    Raises:
        BadInput: it did not come to an end as it should.
    """
    began = time.monotonic()
    child = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    seconds = time.monotonic() - began
    try:
        code, processor, kib = map(float, child.stderr.split("\n")[-2].split())
    except (IndexError, ValueError):
        raise BadInput(f"{words[0]} died: {child.stderr[-900:] or child.returncode}") from None
    if code not in codes or not made.stat().st_size:
        raise BadInput(f"{words[0]} ended with {code:g}, not {codes}: {child.stderr[-900:]}")
    return {
        "seconds": seconds,
        "processor_s": processor,
        "mib": kib / 1024,
        "made_mb": made.stat().st_size / 1e6,
    }


def job(sizes: Sequence[int], only: Sequence[str]) -> dict[str, Any]:
    """All sizes, one after the other, as a table and as figures.

    Raises:
        BadInput: see `measured`.
    """
    made, rows = texts(), []
    for cells in sizes:
        drafters = cells // len(PLACES)
        with tempfile.TemporaryDirectory(prefix="draftgate-perf-") as name:
            folder = Path(name)
            say(f"writing {cells} cells a side")
            size = write(folder / "results" / "base", drafters, made, new=False)
            for shard in range(SHARDS):
                write(folder / f"shard{shard}", drafters, made, new=True, shard=shard)
            os.sync()  # or writing them back would be measured too
            for command, words, output, codes in commands(folder, drafters):
                if command != "merge" and command not in only:
                    continue
                say(f"{command} {cells}")
                rows.append(
                    {
                        "command": command,
                        "cells": cells,
                        "files_mib": size / 2**20,
                        **measured(words, output, codes),
                    }
                )
                if command == "merge":
                    for shard in range(SHARDS):
                        shutil.rmtree(folder / f"shard{shard}")
    before: dict[Any, Any] = {}
    table = []
    for row in sorted(rows, key=lambda row: str(row["command"])):
        was = before.get(row["command"])
        growth = (
            f"{row['seconds'] / was['seconds']:.2f} x for {row['cells'] / was['cells']:.2f} x" if was else ""
        )
        before[row["command"]] = row
        table.append([
            row["command"], row["cells"], f"{row['files_mib']:.0f}", f"{row['seconds']:.1f}",
            f"{row['processor_s']:.1f}", f"{row['mib']:.0f}", f"{row['made_mb']:.1f}", growth,
        ])  # fmt: skip
    header = ["command", "cells", "files MiB", "s", "processor s", "peak MiB", "makes MB", "growth"]
    print(f"{PROMPTS} prompts a cell; synthetic runs, made of records in {SOURCES.relative_to(ROOT)}")
    print(tabulate(table, headers=header, disable_numparse=True, stralign="right"))
    cores, load_now = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(f"{cores} cores, load {load_now:.1f}; {WANTED}")
    return {"prompts": PROMPTS, "cores": cores, "load": load_now, "rows": rows}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.perf.scale", description=__doc__)
    parser.add_argument(
        "--cells", type=positive, nargs="+", default=[1000, 3000, 10_000], help="sizes (%(default)s)"
    )
    parser.add_argument("--only", nargs="+", default=["plan", "merge", "compare", "report"])
    options = parser.parse_args()
    return carry_out(lambda: job(options.cells, options.only))


if __name__ == "__main__":
    sys.exit(main())
