"""Thousands of requests as one cell, on one server: no record is lost, and our own memory stays as it is.

    python -m tests.perf.soak [--requests 2000] [--drafter ngram-k4]

Answers are of a few tokens, so that it is the requests that are many: minutes on two cores. Prints this
process's resident memory and open files every 200 requests. What a record takes is told apart, since a
measurement keeps all of its own until they are written. Exit code 1 where a record is lost, a request failed,
or memory grew by more than the records and `MOST_GROWTH` after the first 400 requests.
"""

from __future__ import annotations

import gc
import json
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import psutil

from harness.config.cells import Cell, server_spec
from harness.config.prompts import load_prompts
from harness.config.stack import Profile
from harness.engine.server import running
from harness.measure.measurement import Measurement
from harness.results.records import CellName, CellRecord, PromptRecord, load as load_record
from tests import perf
from tests.perf import DATA

EVERY, WARM = 200, 400
"""Requests between two readings; requests after which memory is held against what it was."""
MOST_GROWTH = 4 * 2**20
"""Bytes, beside the records: what an allocator and a garbage collector leave lying about."""
PROMPTS, CONCURRENCY, TOKENS = 100, 16, 4


def job(stack_name: str, label: str, requests: int, results: Path) -> dict[str, Any]:
    """Send them all; what was read on the way, and what came back.

    Raises:
        BadInput: no such stack or drafter, or the disk is full.
        ServerFailed: the server did not start, or stalled.
    """
    stack = perf.load(stack_name)
    drafter, k = perf.drafter_of(stack, label)
    folder = perf.new_folder(results, "soak")
    profile = Profile(prompts=PROMPTS, max_tokens=TOKENS, concurrency=CONCURRENCY)
    spec = server_spec(stack, drafter, k, prefix_cache=profile.cache != "off")
    name = CellName(endpoint="chat", language="en", workload="instruct", drafter=drafter.name, k=k)
    prompts = load_prompts(DATA / "prompts", "instruct", "en", at_most=min(PROMPTS, requests))
    ourselves, readings = psutil.Process(), list[dict[str, Any]]()
    began = 0.0

    def read(_: Cell, done: int, of: int) -> None:
        perf.say(f"\rsoak: request {done} of {of}")
        if done % EVERY == 0:
            gc.collect()
            readings.append(
                {
                    "requests": done,
                    "seconds": round(time.monotonic() - began),
                    "rss_bytes": ourselves.memory_info().rss,
                    "open_files": ourselves.num_fds(),
                }
            )
            perf.say(line(readings[-1]))

    with running(spec, folder=folder / "servers", say=perf.say) as server:
        measurement = Measurement(
            server=server,
            cell=Cell(name=name, spec=spec, profile_name="soak", profile=profile),
            suite="soak",
            prompts=prompts,
            warmups=(),
            repeats=-(-requests // len(prompts)),
            seed=0,
            timed=True,
            folder=folder,
            progress=read,
        )
        measurement.prepare()
        began = time.monotonic()
        measurement.all_passes()
        record = measurement.finish()
    path = folder / f"{name}.json"
    written = load_record(path, CellRecord)
    lines = path.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()[1:]
    return {
        "requests": len(prompts) * -(-requests // len(prompts)),
        "records": len({(r.prompt, r.repeat) for r in written.prompts}),
        "lines": len({(r["prompt"], r["repeat"]) for r in map(json.loads, lines)}),
        "failed": sum(r.failed for r in record.prompts),
        "findings": [f.text for f in record.findings if f.hard],
        "record_bytes": bytes_of(record.prompts),
        "readings": readings,
    }


def line(reading: dict[str, Any]) -> str:
    """One reading, for a table."""
    mib = reading["rss_bytes"] / 2**20
    requests, seconds, files = (reading[name] for name in ("requests", "seconds", "open_files"))
    return f"{requests:6d} requests {seconds:5d} s {mib:8.1f} MiB {files:4d} files"


def bytes_of(records: tuple[PromptRecord, ...]) -> int:
    """What one record takes in memory, on average: copies of some, made where allocations are counted."""
    texts = [record.model_dump_json() for record in records[:EVERY]]
    tracemalloc.start()
    try:
        copies = [PromptRecord.model_validate_json(text) for text in texts]
        return tracemalloc.get_traced_memory()[0] // max(1, len(copies))
    finally:
        tracemalloc.stop()


def grown(figures: dict[str, Any]) -> int:
    """Bytes that resident memory grew by after the warm-up, less those of the records of that time."""
    after = [r for r in figures["readings"] if r["requests"] >= WARM]
    if not after:
        return 0
    records = (after[-1]["requests"] - after[0]["requests"]) * figures["record_bytes"]
    return int(after[-1]["rss_bytes"] - after[0]["rss_bytes"] - records)


def faults(figures: dict[str, Any]) -> list[str]:
    """What went wrong, a sentence each."""
    asked, found = figures["requests"], list(figures["findings"])
    kept = ((what, figures[what]) for what in ("records", "lines"))
    found += [f"{there} {what} of {asked} requests are on disk" for what, there in kept if there != asked]
    if figures["failed"]:
        found.append(f"{figures['failed']} of {asked} requests had no answer")
    if grown(figures) > MOST_GROWTH:
        found.append(f"memory grew by {grown(figures) / 2**20:.1f} MiB beside its records")
    return found


def main() -> int:
    """Exit code 1 where something was lost, or memory grew."""
    parser = perf.options("soak", __doc__)
    parser.add_argument("--requests", type=perf.positive, default=2000, help="in all (%(default)s)")
    parser.set_defaults(drafter="ngram-k4")
    given = parser.parse_args()
    wrong: list[str] = []

    def carried() -> dict[str, Any]:
        figures = job(given.stack, given.drafter, given.requests, given.results)
        wrong.extend(faults(figures))
        print("\n".join(map(line, figures["readings"])))
        print(f"{figures['records']} records of {figures['requests']} requests")
        beside = f"{grown(figures) / 2**20:+.1f} MiB beside the records"
        print(f"a record takes {figures['record_bytes']} bytes; after {WARM} requests {beside}")
        for text in wrong:
            perf.say(f"soak: {text}")
        return figures

    return perf.carry_out(carried) or int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
