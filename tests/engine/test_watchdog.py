"""A real engine under the watchdog: prefills and queues are work, a frozen engine core is not."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import re
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from harness.config.cells import Cell, server_spec
from harness.config.prompts import load_prompts
from harness.config.stack import Profile, Stack
from harness.engine.server import Server, running
from harness.engine.slot import Slot
from harness.engine.watchdog import Evidence, guarded
from harness.measure.measurement import Measurement
from harness.plugin import DATA
from harness.results.records import CellName, load
from tests.perf import alarms

pytestmark = pytest.mark.nightly  # two starts: two to three minutes

PROMPTS = 6


@pytest.fixture(scope="module")
def slot(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slot]:
    """Two requests at a time, and prompts are read 64 tokens a step."""
    folder = tmp_path_factory.mktemp("servers")
    spec = server_spec(stack, stack.drafters["ngram"], 4)
    few = {"max_num_seqs": 2, "max_num_batched_tokens": 64}
    spec = dataclasses.replace(spec, args={**spec.args, **few})
    with Slot(lambda spec: running(spec, folder=folder, say=print), print) as one:
        one.get(spec)
        yield one


def ask(server: Server, prompt: list[int]) -> int:
    """One token after a long prompt; the prompt's tokens."""
    body = {"model": server.model, "prompt": prompt, "max_tokens": 1}
    request = urllib.request.Request(
        f"{server.url}/v1/completions",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        tokens: int = json.loads(answer.read())["usage"]["prompt_tokens"]
    return tokens


def test_long_prefills_and_a_queue_are_no_stall(slot: Slot, tmp_path: Path) -> None:
    server = slot.ready()
    rng = random.Random(0)  # noqa: S311 - token ids, not secrets
    prompts = [[rng.randrange(1000, 40_000) for _ in range(1900)] for _ in range(PROMPTS)]
    with guarded(server, stall_seconds=5, folder=tmp_path) as guard, ThreadPoolExecutor(PROMPTS) as pool:
        tokens = list(pool.map(lambda prompt: ask(server, prompt), prompts))

    assert tokens == [1900] * PROMPTS
    assert guard.stalled is None
    readings = list(guard._readings)
    assert max(r["waiting"] for r in readings) > 0
    counted = [(r["prompted"], r["generated"]) for r in readings]
    use = [r["kv_usage"] for r in readings]
    pairs = range(1, len(readings))
    # A prompt that is being read shows in KV-cache use, and nowhere else.
    assert any(counted[i] == counted[i - 1] and use[i] != use[i - 1] for i in pairs)


def test_a_mixed_load_raises_no_alarm(stack: Stack, tmp_path: Path) -> None:
    """What `python -m tests.perf.alarms` does for an hour; DRAFTGATE_ALARM_MINUTES, else five minutes."""
    minutes = float(os.environ.get("DRAFTGATE_ALARM_MINUTES", "5"))
    spec = alarms.tight(server_spec(stack, stack.drafters["ngram"], 4))
    with running(spec, folder=tmp_path, say=print) as server:
        seen, load = alarms.watched(
            server, seconds=minutes * 60, stall_seconds=20, folder=tmp_path, seed=0, say=print
        )
    print(alarms.figures(seen, load, minutes=minutes, stall_seconds=20, seed=0))
    assert {name: one.alarms for name, one in seen.items()} == {name: [] for name in seen}
    assert not load.errors
    assert load.sent.total() > 10


def until(done: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 120
    while not done():
        assert time.monotonic() < deadline, f"waited too long for {what}"
        time.sleep(0.02)


def test_a_frozen_engine_core_is_restarted_and_no_prompt_is_lost_or_counted_twice(
    slot: Slot, tmp_path: Path
) -> None:
    server = slot.ready()
    assert server.log is not None
    core = psutil.Process(int(re.findall(r"EngineCore pid=(\d+)", server.log.read_text())[-1]))
    frozen: list[float] = []
    journal = tmp_path / "chat-en-instruct-ngram-k4.jsonl"

    def freeze() -> None:
        until(lambda: journal.exists() and journal.read_text().count("\n") > 2, "two prompts")
        until(lambda: server.counters().running, "a request that runs")
        os.kill(core.pid, signal.SIGSTOP)
        frozen.append(time.time())

    renewed: list[float] = []

    def renew(why: str) -> Server:
        renewed.append(time.time())
        return slot.renew(why)

    name = CellName(endpoint="chat", language="en", workload="instruct", drafter="ngram", k=4)
    profile = Profile(prompts=PROMPTS, max_tokens=96, concurrency=2)
    measurement = Measurement(
        server=server,
        cell=Cell(name=name, spec=server.spec, profile_name="test", profile=profile),
        suite="acceptance",
        prompts=load_prompts(DATA / "prompts", "instruct", "en", at_most=PROMPTS),
        warmups=load_prompts(DATA / "prompts", "warmup", "en", at_most=1),
        repeats=1,
        seed=0,
        timed=True,
        folder=tmp_path,
        progress=lambda *_: None,
        renew=renew,
        stall_seconds=8,
    )
    measurement.prepare()
    freezer = threading.Thread(target=freeze)
    freezer.start()
    measurement.one_pass(0)
    freezer.join()
    record = measurement.finish()

    lines = [json.loads(line)["prompt"] for line in journal.read_text().splitlines()[1:]]
    assert len(lines) == len(set(lines)) == len(record.prompts) == PROMPTS
    assert not any(r.failed for r in record.prompts)
    assert record.valid, record.findings
    assert [f.code for f in record.findings if f.code == "server-restarted"] == ["server-restarted"]
    assert {r.server for r in record.prompts} == {server.start_id, slot.ready().start_id}
    assert {r.segment for r in record.prompts} == {0, 1}
    assert not core.is_running()
    (file,) = server.log.parent.glob("*.stall.json")
    evidence = load(file, Evidence)
    assert psutil.STATUS_STOPPED in {p["status"] for p in evidence.processes}
    print(f"{evidence.reason}; noticed and ended {renewed[0] - frozen[0]:.1f} s after the SIGSTOP")
