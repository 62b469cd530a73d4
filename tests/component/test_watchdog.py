from __future__ import annotations

import contextlib
import dataclasses
import gc
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given, strategies as st

from harness.cli import main
from harness.config.cells import Cell
from harness.config.prompts import Prompt
from harness.config.stack import Profile
from harness.engine import watchdog
from harness.engine.http import Http
from harness.engine.metrics import Load
from harness.engine.server import Server, running
from harness.engine.slot import Slot
from harness.engine.watchdog import Evidence, Guard, Pulse, Stall, Watch, guarded, stalls_in
from harness.errors import BadRecord, ServerFailed
from harness.measure.measurement import Measurement
from harness.plugin import DATA
from harness.results.records import CellRecord, RunRecord, load
from tests.component.fake_engine import Fake, bench
from tests.component.vllm_like import Reply, VllmLike, vllm_like
from tests.factories.records import cell_name, server_spec

# The rule

STALL = 100.0


def fed(*pulses: Pulse, in_flight: int | None = None) -> Stall | None:
    """What a watch says of readings, the first stall among them."""
    watch = Watch(STALL)
    return next((stall for pulse in pulses if (stall := watch.see(pulse, in_flight=in_flight))), None)


def every(step: float, until: float, **values: Any) -> list[Pulse]:
    """Readings of a server that shows the same all the time."""
    return [Pulse(time=i * step, **values) for i in range(int(until / step) + 1)]


def test_requests_of_ours_and_nothing_that_moves_is_a_stall() -> None:
    stall = fed(*every(10, 100, generated=7, kv_usage=0.125), in_flight=2)

    assert stall == Stall(
        kind="still",
        reason="2 requests in flight, but for 100 s no token was read or made, "
        "and KV-cache use stood at 12.5%",
    )


def test_an_engine_frozen_before_it_scheduled_shows_nothing_running_and_is_a_stall() -> None:
    assert fed(*every(10, 100, running=0, waiting=0), in_flight=1) is not None


@pytest.mark.parametrize("work", [{"running": 3}, {"waiting": 4}, {"running": 1, "waiting": 2}])
def test_at_a_server_of_others_its_own_gauges_say_whether_there_is_work(work: dict[str, int]) -> None:
    stall = fed(*every(10, 100, **work))

    assert stall is not None
    assert stall.reason.startswith(
        f"{work.get('running', 0)} requests running and {work.get('waiting', 0)} waiting, but for 100 s"
    )


def test_less_time_is_no_stall() -> None:
    assert fed(*every(10, 99, running=1)) is None


@pytest.mark.parametrize("in_flight", [0, None])
def test_a_server_without_work_may_stand_still(in_flight: int | None) -> None:
    assert fed(*every(10, 5000, generated=7), in_flight=in_flight) is None


def test_requests_of_others_are_not_what_we_wait_for() -> None:
    assert fed(*every(10, 5000, running=3), in_flight=0) is None


@pytest.mark.parametrize("moving", ["generated", "prompted", "kv_usage", "started"])
def test_anything_that_moves_is_progress(moving: str) -> None:
    pulses = [Pulse(time=90.0 * i, running=1, **{moving: i}) for i in range(50)]  # type: ignore[arg-type]

    assert fed(*pulses) is None
    assert fed(*pulses, in_flight=1) is None


def test_a_long_prefill_is_no_stall() -> None:
    """It shows in KV-cache use alone, until its first token counts all of it at once."""
    pulses = [Pulse(time=60.0 * i, running=1, kv_usage=0.01 * i) for i in range(60)]

    assert fed(*pulses, Pulse(time=3600, running=1, kv_usage=0.6, prompted=100_000, generated=1)) is None


def test_a_long_queue_is_no_stall() -> None:
    pulses = [Pulse(time=60.0 * i, running=8, waiting=500, generated=100 * i) for i in range(100)]

    assert fed(*pulses) is None
    assert fed(*pulses, in_flight=508) is None


def test_kv_use_that_falls_is_progress_too() -> None:
    assert fed(*[Pulse(time=60.0 * i, running=1, kv_usage=0.9 - 0.01 * i) for i in range(60)]) is None


def test_a_server_that_hangs_after_it_worked_is_a_stall() -> None:
    worked = [Pulse(time=float(i), running=1, generated=i) for i in range(50)]
    hung = [Pulse(time=50.0 + i, running=1, generated=49) for i in range(101)]
    watch = Watch(STALL)
    stalls = [(p.time, watch.see(p)) for p in worked + hung]

    assert [at for at, stall in stalls if stall] == [149.0, 150.0]


def test_time_without_work_does_not_count_for_work_that_comes_later() -> None:
    watch = Watch(STALL)
    for pulse in every(10, 5000):
        assert watch.see(pulse, in_flight=0) is None
    later = [watch.see(Pulse(time=5000.0 + 10 * i), in_flight=1) for i in range(1, 12)]

    assert later[:-1] == [None] * 10
    assert later[-1] is not None


def test_no_answer_for_so_long_is_a_stall_with_its_reason() -> None:
    stall = fed(Pulse(time=0), *every(10, 100, unreachable="no answer from u/metrics: timed out"))

    assert stall == Stall(kind="silent", reason="no answer from u/metrics: timed out, for 100 s")


def test_an_answer_in_between_ends_the_silence_but_not_a_standstill() -> None:
    silent, answered = Watch(STALL), []
    for i in range(60):
        unreachable = "timed out" if i % 2 else None
        answered.append(silent.see(Pulse(time=10.0 * i, unreachable=unreachable), in_flight=0))
    hanging, stalls = Watch(STALL), []
    for i in range(12):
        unreachable = "timed out" if i % 2 else None
        stalls.append(hanging.see(Pulse(time=10.0 * i, unreachable=unreachable), in_flight=1))

    assert answered == [None] * 60
    assert [i for i, stall in enumerate(stalls) if stall] == [10]


def parallel(hung: str, *, works: bool = True) -> list[Pulse]:
    """Two engines, of which one hangs with a request and the other works or has nothing to do."""

    def load(engine: str, i: int) -> Load:
        hangs = engine == hung
        return Load(engine=engine, running=int(hangs or works), generated=0 if hangs else i * works)

    return [
        Pulse(time=10.0 * i, running=1 + works, generated=i * works, engines=(load("0", i), load("1", i)))
        for i in range(12)
    ]


@pytest.mark.parametrize("in_flight", [None, 5])
@pytest.mark.parametrize("hung", ["0", "1"])
@pytest.mark.parametrize("works", [True, False])
def test_one_of_several_engines_that_hangs_is_a_stall(
    in_flight: int | None, hung: str, *, works: bool
) -> None:
    stall = fed(*parallel(hung, works=works), in_flight=in_flight)
    assert stall is not None
    assert stall.kind == "still"
    if works:
        assert f"engine {hung}" in stall.reason


def test_engines_that_work_or_have_nothing_to_do_are_no_stall() -> None:
    assert fed(*parallel("neither")) is None
    assert fed(*parallel("0"), in_flight=0) is None
    idle = [replace(p, engines=(replace(p.engines[0], running=0), p.engines[1])) for p in parallel("0")]
    assert fed(*idle) is None


def test_a_server_that_shows_nothing_and_says_that_it_is_well_is_no_stall() -> None:
    blind = every(10, 1000, unreachable="no page", well=True)
    assert fed(*blind) is None
    assert fed(*every(10, 50, running=1), *(replace(p, time=p.time + 60) for p in blind)) is None
    ill = [replace(p, time=p.time + 1010) for p in every(10, 200, unreachable="no page")]
    assert fed(*blind, *ill) is not None


def test_a_dead_process_is_a_stall_at_once() -> None:
    stall = fed(Pulse(time=0, dead="its process ended (exit code 137)"), in_flight=0)

    assert stall == Stall(kind="dead", reason="its process ended (exit code 137)")


def test_a_restarted_server_begins_anew() -> None:
    before = every(10, 90, running=1, started=1.0)
    after = [Pulse(time=100.0 + i, running=1, started=2.0) for i in range(99)]

    assert fed(*before, *after) is None


def test_a_watch_that_slept_itself_takes_no_server_for_hanging() -> None:
    assert fed(Pulse(time=0, running=1), Pulse(time=36_000, running=1)) is None
    assert fed(*(Pulse(time=t, running=1) for t in (0, 36_000, 36_100))) is not None


PULSES = st.builds(
    Pulse,
    time=st.floats(-1e6, 1e6),
    running=st.integers(0, 3),
    waiting=st.integers(0, 3),
    generated=st.integers(0, 3),
    prompted=st.integers(0, 3),
    kv_usage=st.sampled_from([0.0, 0.5]),
    unreachable=st.none() | st.just("timed out"),
)


@given(st.lists(st.tuples(PULSES, st.none() | st.integers(0, 2)), max_size=3))
def test_two_readings_are_never_enough_and_no_clock_breaks_it(
    readings: list[tuple[Pulse, int | None]],
) -> None:
    watch = Watch(STALL)

    assert [watch.see(p, in_flight=n) for p, n in readings[:2]] == [None] * len(readings[:2])
    for pulse, in_flight in readings:
        watch.see(pulse, in_flight=in_flight)
    assert watch.still_s >= 0
    assert watch.silent_s >= 0


@given(
    steps=st.lists(st.floats(0.1, 49), min_size=1, max_size=60),
    moved=st.lists(st.booleans(), min_size=60, max_size=60),
)
def test_a_stall_is_said_when_it_has_lasted_and_not_before(steps: list[float], moved: list[bool]) -> None:
    """Against the definition: time since the last reading at which something had moved."""
    watch = Watch(STALL)
    now, generated, since = 0.0, 0, 0.0
    watch.see(Pulse(time=now), in_flight=1)
    for step, move in zip(steps, moved, strict=False):
        now += step
        if move:
            generated, since = generated + 1, now
        stall = watch.see(Pulse(time=now, generated=generated), in_flight=1)
        if abs(now - since - STALL) > 1e-6:
            assert (stall is not None) == (now - since > STALL)


# A thread around it

PAGE = """\
# TYPE process_start_time_seconds gauge
process_start_time_seconds {started}
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0"}} {running}
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{{engine="0"}} {kv}
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{{engine="0"}} 11
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{{engine="0"}} {generated}
"""


def page(*, started: float = 1.0, running: int = 0, kv: float = 0.25, generated: int = 5) -> Reply:
    return Reply(PAGE.format(started=started, running=running, kv=kv, generated=generated).encode())


@pytest.fixture
def vllm() -> Iterator[VllmLike]:
    with vllm_like(metrics=page(running=2), health=Reply()) as fake:
        yield fake


def attached(url: str) -> Server:
    return Server(
        url=url, key="none", spec=server_spec(), model="tiny", start_id="attached-1", version="0.32.0",
        attached=True, per_request=True, log=None,
    )  # fmt: skip


def until(done: Callable[[], object], what: str = "that") -> None:
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline, f"waited too long for {what}"
        time.sleep(0.02)


def test_a_server_that_hangs_is_told_once_with_evidence(vllm: VllmLike, tmp_path: Path) -> None:
    told: list[Stall] = []
    with guarded(
        attached(vllm.url), stall_seconds=0.3, on_stall=told.append, folder=tmp_path, note="a stage"
    ) as guard:
        until(lambda: guard.stalled)

    assert guard.stalled is not None
    assert told == [guard.stalled]
    assert guard.stalled.kind == "still"
    assert guard.stalled.evidence == tmp_path / "ngram-k4-attached-1.stall.json"
    kept = load(guard.stalled.evidence, Evidence)
    assert (kept.reason, kept.note, kept.url) == (guard.stalled.reason, "a stage", vllm.url)
    assert kept.reason.startswith("2 requests running and 0 waiting")
    assert 'vllm:generation_tokens_total{engine="0"} 5' in kept.metrics
    assert len(kept.readings) >= 3
    assert [r["time"] for r in kept.readings] == sorted(r["time"] for r in kept.readings)
    assert {r["generated"] for r in kept.readings} == {5}


def test_the_requests_in_flight_are_those_of_the_caller(vllm: VllmLike, tmp_path: Path) -> None:
    mine = [0]
    with guarded(
        attached(vllm.url), stall_seconds=0.2, in_flight=lambda: mine[0], folder=tmp_path
    ) as guard:  # fmt: skip
        until(lambda: len(vllm.requests) > 12)
        assert guard.stalled is None  # it says that two run, but they are not ours
        mine[0] = 1
        until(lambda: guard.stalled)

    assert guard.stalled is not None
    assert guard.stalled.reason.startswith("1 request in flight")


class Working(dict[str, Reply]):
    """Replies of a server that has made one token more whenever it is asked; or `instead` of that."""

    asked = 0
    instead: Reply | None = None

    def get(self, *_: object) -> Reply:
        self.asked += 1
        return self.instead or page(running=1, generated=self.asked)


def test_a_server_that_works_is_left_alone(vllm: VllmLike, tmp_path: Path) -> None:
    vllm.replies = Working()
    with guarded(attached(vllm.url), stall_seconds=0.2, folder=tmp_path) as guard:
        until(lambda: len(vllm.requests) > 40)

    assert guard.stalled is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (Reply(b"oops", status=500), "/metrics answers 500"),
        (Reply(b"<html>"), "/metrics is not readable as Prometheus text"),
        (Reply(cut=True), "no usable answer from"),
    ],
)
@pytest.mark.parametrize("health", [Reply(status=503), Reply(status=404)])
def test_metrics_that_stay_unreadable_are_a_stall(
    vllm: VllmLike, tmp_path: Path, reply: Reply, says: str, health: Reply
) -> None:
    vllm.replies |= {"/metrics": reply, "/health": health}
    with guarded(attached(vllm.url), stall_seconds=0.2, in_flight=lambda: 0, folder=tmp_path) as guard:
        until(lambda: guard.stalled)

    assert guard.stalled is not None
    assert guard.stalled.kind == "silent"
    assert says in guard.stalled.reason


def test_unreadable_metrics_of_a_server_that_says_that_it_is_well_are_no_stall(
    vllm: VllmLike, tmp_path: Path
) -> None:
    vllm.replies["/metrics"] = Reply(b"oops", status=500)
    with guarded(attached(vllm.url), stall_seconds=0.2, in_flight=lambda: 1, folder=tmp_path) as guard:
        until(lambda: len(vllm.requests) > 40)
        assert guard.stalled is None
        vllm.replies["/health"] = Reply(status=503)
        until(lambda: guard.stalled)


def test_evidence_that_cannot_be_written_does_not_hide_the_stall(vllm: VllmLike, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with guarded(attached(vllm.url), stall_seconds=0.2, folder=tmp_path / "file") as guard:
        until(lambda: guard.stalled)

    assert guard.stalled is not None
    assert guard.stalled.evidence is None


@pytest.mark.parametrize(
    ("health", "dead"),
    [
        (Reply(), None),
        (Reply(status=404), None),
        (Reply(status=503), "its /health answers 503"),
        (Reply(raw=b""), "nobody answers on its port (Remote end closed connection without response)"),
    ],
)
def test_after_a_failed_request_the_server_is_asked_whether_it_lives(
    vllm: VllmLike, tmp_path: Path, health: Reply, dead: str | None
) -> None:
    vllm.replies["/health"] = health
    with guarded(attached(vllm.url), folder=tmp_path) as guard:
        found = guard.look()

    assert (found.reason if found else None) == dead
    assert guard.stalled == found


@pytest.mark.parametrize(
    ("log", "why"),
    [
        ("INFO all is well\nRuntimeError: out of blocks\nEngineDeadError: see root cause above\n", True),
        ("INFO all is well\n", False),  # as after a SIGKILL
    ],
)
def test_of_a_server_that_died_the_last_error_in_its_log_is_told(
    vllm: VllmLike, tmp_path: Path, log: str, *, why: bool
) -> None:
    vllm.replies["/health"] = Reply(status=503)
    (tmp_path / "server.log").write_text(log)
    server = dataclasses.replace(attached(vllm.url), log=tmp_path / "server.log")
    with guarded(server, folder=tmp_path) as guard:
        found = guard.look()

    assert found
    assert ("out of blocks" in found.reason) is why
    assert found.reason.startswith("its /health answers 503")


def test_evidence_that_was_cut_off_is_named(vllm: VllmLike, tmp_path: Path) -> None:
    with guarded(attached(vllm.url), stall_seconds=0.2, folder=tmp_path, note="x") as guard:
        until(lambda: guard.stalled)
    (file,) = tmp_path.iterdir()
    assert len(stalls_in(tmp_path, "x")) == 1
    assert stalls_in(tmp_path, "y") == []
    file.write_text(file.read_text()[:100])

    with pytest.raises(BadRecord, match=r"stall\.json, line"):
        stalls_in(tmp_path, "x")


# An engine of our own that hangs

BODY = '{"messages": [{"role": "user", "content": "1"}]}'
POST = f"import sys, urllib.request as u; u.urlopen(sys.argv[1], {BODY.encode()!r}).read()"
"""A client of the engine that is not ours."""


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    folder = tmp_path / "fake"
    folder.mkdir()
    return Fake(folder)


@pytest.fixture
def slot(fake: Fake, tmp_path: Path) -> Iterator[Slot]:
    """Holds a fake engine."""
    folder = tmp_path / "run" / "servers"
    with Slot(lambda spec: running(spec, folder=folder, say=quiet), quiet) as one:
        one.get(fake.spec())
        yield one


def quiet(_: str) -> None:
    pass


class Measuring:
    """A cell of `count` prompts on a fake engine; `at` says what happens once so many are done."""

    def __init__(self, slot: Slot, fake: Fake, folder: Path) -> None:
        self.slot, self.fake, self.folder = slot, fake, folder
        self.at: dict[int, Callable[[], None]] = {}
        self.renewed: list[str] = []
        self.thaw = True
        """Another server does not hang."""

    def measurement(
        self, *, server: Server | None = None, concurrency: int = 1, count: int = 6, **options: Any
    ) -> Measurement:
        profile = Profile(prompts=count, max_tokens=4, concurrency=concurrency, warmups=1)
        name = cell_name(drafter="none", k=0)
        prompts = [Prompt(id=f"p{i}", language="en", text=f"say {i}") for i in range(count)]
        return Measurement(
            server=server or self.slot.ready(),
            cell=Cell(name=name, spec=self.fake.spec(), profile_name="test", profile=profile),
            suite="acceptance",
            warmups=[Prompt(id="w", language="en", text="warm")],
            repeats=1,
            seed=0,
            timed=True,
            folder=self.folder / "acceptance",
            progress=lambda _, done, __: self.at.pop(done, lambda: None)(),
            **{"prompts": prompts, "stall_seconds": 0.5, "renew": self.renew, **options},
        )

    def run(self, **options: Any) -> CellRecord:
        measurement = self.measurement(**options)
        measurement.prepare()
        measurement.one_pass(0)
        return measurement.finish()

    def renew(self, why: str) -> Server:
        self.renewed.append(why)
        if self.thaw:
            self.fake.freeze.unlink(missing_ok=True)
        return self.slot.renew(why)

    def engine(self) -> psutil.Process:
        (engine,) = psutil.Process(self.slot.ready().pid).children()
        return engine

    def lines(self) -> list[dict[str, Any]]:
        (journal,) = (self.folder / "acceptance").glob("*.jsonl")
        return [json.loads(line) for line in journal.read_text().splitlines()[1:]]


@pytest.fixture
def measuring(slot: Slot, fake: Fake, tmp_path: Path) -> Measuring:
    return Measuring(slot, fake, tmp_path / "run")


def whole(record: CellRecord, measuring: Measuring, *, servers: int, count: int = 6) -> None:
    """Every prompt was answered, and stands in the journal, once."""
    assert [r.prompt for r in record.prompts] == [f"p{i}" for i in range(count)]
    assert sorted(line["prompt"] for line in measuring.lines()) == [f"p{i}" for i in range(count)]
    assert not any(r.failed for r in record.prompts)
    assert record.valid, record.findings
    assert len({r.server for r in record.prompts}) == servers


def test_without_a_stall_nothing_is_marked(measuring: Measuring) -> None:
    record = measuring.run()

    whole(record, measuring, servers=1)
    assert record.findings == ()
    assert record.counters["finished"] == 6
    assert not list((measuring.folder / "servers").glob("*.stall.json"))


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_hanging_engine_is_restarted_and_its_cell_finished(measuring: Measuring, concurrency: int) -> None:
    measuring.at[2] = measuring.fake.freeze.touch
    old = measuring.engine()

    record = measuring.run(concurrency=concurrency)

    whole(record, measuring, servers=2)
    assert not old.is_running()
    assert {r.segment for r in record.prompts} == {0, 1}
    (why,) = measuring.renewed
    (mark,) = record.findings
    assert (mark.code, mark.hard) == ("server-restarted", False)
    assert mark.text == f"the server was restarted 1 time: {why}"
    assert "no token was read or made" in why
    (file,) = (measuring.folder / "servers").glob("*.stall.json")
    evidence = load(file, Evidence)
    assert evidence.note == "acceptance/chat-en-instruct-none"
    assert [p["pid"] for p in evidence.processes][1:] == [old.pid]
    assert f"fake engine {old.pid}" in " ".join(evidence.log)


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_frozen_or_killed_engine_is_restarted(
    measuring: Measuring, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setattr(watchdog, "_LOG_LINES", 5)
    old = measuring.engine()
    measuring.at[2] = lambda: os.kill(old.pid, number)

    record = measuring.run(stall_seconds=1)

    whole(record, measuring, servers=2)
    assert not old.is_running()
    (why,) = measuring.renewed
    assert ("timed out" in why) if number == signal.SIGSTOP else ("ended" in why or "nobody answers" in why)
    (file,) = (measuring.folder / "servers").glob("*.stall.json")
    states = [p["status"] for p in load(file, Evidence).processes]
    assert (psutil.STATUS_STOPPED in states) == (number == signal.SIGSTOP)


def test_a_server_that_dies_while_warming_up_is_restarted(measuring: Measuring) -> None:
    measurement = measuring.measurement()
    measuring.engine().kill()

    measurement.prepare()
    measurement.one_pass(0)

    whole(measurement.finish(), measuring, servers=1)
    assert len(measuring.renewed) == 1


def test_a_third_stall_ends_the_cell_and_keeps_what_was_measured(measuring: Measuring) -> None:
    measuring.thaw = False
    measuring.at[3] = measuring.fake.freeze.touch

    with pytest.raises(ServerFailed) as caught:
        measuring.run()

    text = str(caught.value)
    assert text.startswith("chat-en-instruct-none: the server stalled: 1 request in flight, but for")
    assert "that was stall 3 of this cell; the 3 prompts measured before are kept, --resume" in text
    assert len(measuring.renewed) == 2
    assert [line["prompt"] for line in measuring.lines()] == ["p0", "p1", "p2"]
    assert len(list((measuring.folder / "servers").glob("*.stall.json"))) == 3

    measuring.fake.freeze.unlink()
    record = measuring.run()  # --resume: another server, the same journal, and the marks are not forgotten

    whole(record, measuring, servers=2)
    assert record.findings[0].text.startswith("the server was restarted 3 times: ")


def test_a_server_that_cannot_be_started_anew_ends_the_cell(measuring: Measuring) -> None:
    def freeze() -> None:
        measuring.fake.freeze.touch()
        (measuring.fake.folder / "broken").touch()

    measuring.at[1] = freeze

    with pytest.raises(ServerFailed, match=r"could not be started anew; the 1 prompts .* OSError: broken"):
        measuring.run()


def test_without_a_slot_a_stall_ends_the_cell_and_the_server(measuring: Measuring) -> None:
    measuring.at[2] = measuring.fake.freeze.touch
    old = measuring.engine()

    with pytest.raises(
        ServerFailed, match=r"no token was read .* it is not started anew here; the 2 prompts"
    ):
        measuring.run(renew=None)

    assert not old.is_running()


def test_a_stall_of_an_attached_server_ends_the_cell_and_leaves_the_server(measuring: Measuring) -> None:
    ours = measuring.slot.ready()
    server = dataclasses.replace(ours, attached=True, log=None, process=None, start_id="attached-1")
    measuring.at[2] = measuring.fake.freeze.touch

    with pytest.raises(ServerFailed, match=r"it is not started anew here; the 2 prompts measured before"):
        measuring.run(server=server)

    assert ours.ended() is None
    assert measuring.renewed == []
    assert (measuring.folder / "servers" / "none-attached-1.stall.json").exists()


def test_a_request_that_fails_by_itself_is_no_stall(measuring: Measuring) -> None:
    prompts = [
        Prompt(id=i, language="en", text=t) for i, t in (("p0", "say"), ("p1", "refuse"), ("p2", "say"))
    ]

    record = measuring.run(prompts=prompts)

    assert [r.failed for r in record.prompts] == [False, True, False]
    assert measuring.renewed == []


def test_a_slot_starts_anew_what_has_ended_since(slot: Slot) -> None:
    first = slot.ready()
    assert slot.ready() is first
    assert first.process is not None
    first.stop()

    second = slot.ready()

    assert first.ended() is not None
    assert second.ended() is None
    assert second.start_id != first.start_id


def test_another_program_uses_a_guarded_server(slot: Slot, fake: Fake) -> None:
    """As in training: the client is not ours, so the server's own gauges say that there is work."""
    server = slot.ready()
    client = subprocess.Popen(
        [sys.executable, "-c", POST, f"{server.url}/v1/chat/completions"], stderr=subprocess.DEVNULL
    )
    fake.freeze.touch()
    try:
        with guarded(server, stall_seconds=0.5, on_stall=lambda _: client.terminate()) as guard:
            client.wait(timeout=30)
        assert guard.stalled is not None
        assert guard.stalled.reason.startswith("1 requests running")
        assert server.ended() is not None
    finally:
        client.kill()
        client.wait()


# pytest bench_suites


def test_a_suite_goes_on_after_a_stall_and_says_so(fake: Fake, tmp_path: Path) -> None:
    fake.freeze.touch()
    thaw = threading.Thread(
        target=lambda: (
            until(lambda: list(tmp_path.glob("results/*/servers/*.stall.json")), "evidence"),
            fake.freeze.unlink(),
        )
    )
    thaw.start()
    code, output = bench(fake, tmp_path, "--stall-seconds", "1")
    thaw.join()

    assert code == 0, output
    assert "server none: 1 request in flight, but for" in output
    assert "starting it anew" in output
    (path,) = tmp_path.glob("results/*/acceptance/*.json")
    record = load(path, CellRecord)
    assert len(record.prompts) == 3
    assert [f.code for f in record.findings] == ["server-restarted"]


def test_a_suite_on_a_server_that_always_hangs_ends_in_a_sentence(fake: Fake, tmp_path: Path) -> None:
    fake.freeze.touch()
    code, output = bench(fake, tmp_path, "--stall-seconds", "1")

    assert code == 1, output
    assert "that was stall 3 of this cell; the 0 prompts measured before are kept" in output
    assert "Traceback" not in output


def test_a_self_check_on_a_server_that_hangs_does_not_wait_for_its_requests(
    fake: Fake, tmp_path: Path
) -> None:
    fake.freeze.touch()
    _, output = bench(fake, tmp_path, "--stall-seconds", "1", "--self-check", "on")

    told = "no self-check: the target cannot draft for itself here: server self-k3 stalled"
    assert told in output
    (path,) = tmp_path.glob("results/*/run.json")
    (line,) = load(path, RunRecord).provenance["self_check"]
    assert line.startswith(told)
    assert "Traceback" not in output


@pytest.mark.parametrize("value", ["0", "-3"])
def test_a_time_that_is_none_is_refused(fake: Fake, tmp_path: Path, value: str) -> None:
    code, output = bench(fake, tmp_path, "--stall-seconds", value)

    assert code == 4
    assert f"--stall-seconds {value}: must be 1 or more" in output


# draftgate watch


@pytest.fixture(autouse=True)
def here(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))


def watched(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["watch", *words])
    out, err = capsys.readouterr()
    return code, out, err


QUICK = ("--stall-seconds", "0.4", "--interval", "0.05")


def test_a_hanging_server_ends_the_watch_at_its_first_stall(
    vllm: VllmLike, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = watched(capsys, vllm.url + "/v1/", *QUICK)

    said = [line.split(" ", 1)[1] for line in out.splitlines()]
    assert code == 1
    assert said[0] == f"{vllm.url}: working: 2 running, 0 waiting"
    assert said[1] == f"{vllm.url}: work, but nothing moves: 2 running, 0 waiting"
    assert said[2].startswith(f"{vllm.url} stalled: 2 requests running and 0 waiting, but for 0 s")
    file = Path(said[3].removeprefix("evidence: "))
    assert load(file, Evidence).note == "draftgate watch"
    assert len(said) == 4
    assert err.startswith(f"draftgate: {vllm.url} stalled: 2 requests running")


def test_a_rank_that_hangs_while_another_works_ends_the_watch(
    vllm: VllmLike, capsys: pytest.CaptureFixture[str]
) -> None:
    count = itertools.count()

    def working(_: object) -> Reply:
        names = ("num_requests_running", "num_requests_waiting", "prompt_tokens_total")
        lines = [f'vllm:{name}{{engine="{e}"}} 1' for name in names for e in (0, 1)]
        made = [f'vllm:generation_tokens_total{{engine="{e}"}} {n}' for e, n in ((0, next(count)), (1, 7))]
        return Reply("\n".join([*lines, *made, ""]).encode())

    vllm.replies["/metrics"] = working
    code, _, err = watched(capsys, vllm.url, *QUICK)
    assert code == 1
    assert "engine 1" in err


def test_a_server_is_not_restarted_while_it_says_that_it_is_well(
    vllm: VllmLike, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    vllm.replies["/metrics"] = Reply(status=500)

    def then_ill() -> None:
        until(lambda: len(vllm.requests) > 60)
        assert not (tmp_path / "restarted").exists()
        vllm.replies["/health"] = Reply(status=503)

    thread = threading.Thread(target=then_ill)
    thread.start()
    restart = f"sh -c 'touch {tmp_path}/restarted; exit 7'"
    code, out, _ = watched(capsys, vllm.url, "--restart", restart, *QUICK)
    thread.join()
    assert code == 1
    assert (tmp_path / "restarted").exists()
    assert "/health" in out.splitlines()[0]


def test_a_change_is_a_line(vllm: VllmLike, capsys: pytest.CaptureFixture[str]) -> None:
    vllm.replies = replies = Working()
    replies.instead = page()

    def later() -> None:
        for reply in (None, page(), Reply(status=500)):
            asked = replies.asked
            until(lambda asked=asked: replies.asked > asked + 4)  # type: ignore[misc]
            replies.instead = reply

    thread = threading.Thread(target=later)
    thread.start()
    code, out, err = watched(capsys, vllm.url, "--stall-seconds", "2", "--interval", "0.05")
    thread.join()

    states = [
        line.split(": ")[1] for line in out.splitlines() if "stalled" not in line and "evidence" not in line
    ]
    assert (code, states) == (1, ["idle", "working", "idle", "no answer"])
    assert "/metrics answers 500 Internal Server Error, for 2 s" in err


# The last server is left running: it may still be looked at.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_hanging_server_is_restarted_twice_and_then_given_up(
    fake: Fake, slot: Slot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command starts each server; each of them hangs with a request that a thread sends it."""
    server = slot.ready()
    port = server.url.rpartition(":")[2]
    restart = tmp_path / "restart"
    restart.write_text(
        f"#!/bin/sh\nkill -9 {slot.ready().pid} 2>/dev/null; sleep 0.3\necho start >> {tmp_path}/starts\n"
        f"FAKE_FREEZE={fake.freeze} exec {sys.executable} {fake.script} --port {port}\n"
    )
    restart.chmod(0o755)
    fake.freeze.touch()
    over = threading.Event()

    def ask() -> None:
        words = [sys.executable, "-c", POST, f"{server.url}/v1/chat/completions"]
        while not over.is_set():
            subprocess.run(words, capture_output=True, check=False)
            time.sleep(0.05)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        code, out, err = watched(capsys, server.url, "--restart", str(restart), *QUICK)
    finally:
        over.set()
        for process in psutil.process_iter(["cmdline"]):
            if process.info["cmdline"] and {str(fake.script), port} <= set(process.info["cmdline"]):
                process.kill()
        thread.join()
        gc.collect()  # what tells of a server left running is to come here, not in the next test

    assert code == 1, err
    assert (tmp_path / "starts").read_text().count("start") == 2
    assert out.count("stalled: ") == 3
    assert out.count(" was restarted (") == 2
    assert f"{server.url} stalled 3 times, at last: 1 requests running" in err


def test_a_restart_that_fails_is_said(vllm: VllmLike, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = watched(capsys, vllm.url, "--restart", "sh -c 'exit 7'", *QUICK)

    assert code == 1
    assert err == "draftgate: sh -c 'exit 7' failed (exit code 7): try it by hand [watch-gave-up]\n"


def test_a_restart_that_cannot_be_run_is_said(
    vllm: VllmLike, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "restart"
    script.write_text("no first line that names an interpreter\n")
    script.chmod(0o755)

    code, _, err = watched(capsys, vllm.url, "--restart", str(script), *QUICK)

    assert code == 1
    assert err == f"draftgate: cannot run {script}: Exec format error; try it by hand [watch-gave-up]\n"


def test_the_server_that_hangs_is_not_taken_for_the_new_one(
    vllm: VllmLike, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.commands.watch.RESTART_PATIENCE_S", 1)

    code, _, err = watched(capsys, vllm.url, "--restart", "true", *QUICK)

    assert code == 1
    assert f"no new server answers at {vllm.url} 1 s after true" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["localhost:8000"], "'localhost:8000' is not the URL of a server"),
        (["http://"], "is not the URL of a server"),
        (["http://h:port"], "is not the URL of a server"),
        (["ftp://h/"], "is not the URL of a server"),
        (["http://127.0.0.1:1", "--restart", ""], "--restart '': there is no such command"),
        (["http://127.0.0.1:1", "--restart", "/no/such x"], "there is no such command"),
        (["http://127.0.0.1:1", "--restart", "echo 'x"], "No closing quotation"),
        (
            ["http://127.0.0.1:1", "--stall-seconds", "0"],
            "--stall-seconds: 0: must be a number of seconds, more than 0",
        ),
        (
            ["http://127.0.0.1:1", "--stall-seconds", "nan"],
            "--stall-seconds: nan: must be a number of seconds, more than 0",
        ),
        (
            ["http://127.0.0.1:1", "--interval", "x"],
            "--interval: x: must be a number of seconds, more than 0",
        ),
        (["http://127.0.0.1:1", "--interval", "60"], "--interval 60: a stall of 180 s needs four readings"),
    ],
)
def test_bad_input_is_refused(capsys: pytest.CaptureFixture[str], words: list[str], says: str) -> None:
    code, _, err = watched(capsys, *words)

    assert code == 2
    assert says in err


@pytest.mark.parametrize(
    ("reply", "says"),
    [(Reply(b"x 1\n"), "has no vllm:generation_tokens_total"), (Reply(status=404), "/metrics answers 404")],
)
def test_what_is_no_vllm_is_refused(
    vllm: VllmLike, capsys: pytest.CaptureFixture[str], reply: Reply, says: str
) -> None:
    vllm.replies["/metrics"] = reply

    code, _, err = watched(capsys, vllm.url)

    assert code == 2
    assert says in err


@pytest.mark.parametrize("stall_seconds", ["0.4", "3600"])
def test_a_port_where_nothing_ever_answered_ends_the_watch(
    stall_seconds: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("harness.commands.watch.FIRST_ANSWER_S", 0.5)
    with socket.socket() as free:  # bound and not listening: nobody else can have it, and nobody answers
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        code, out, err = watched(capsys, url, "--stall-seconds", stall_seconds, "--interval", "0.05")

    assert (code, list(tmp_path.iterdir())) == (1, [])
    assert err.endswith(" [watch-gave-up]\n")
    assert "waiting" in out.splitlines()[0]
    assert "stalled" not in out


def test_ctrl_c_ends_the_watch_with_a_sentence(vllm: VllmLike) -> None:
    vllm.replies["/metrics"] = page()
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.cli", "watch", vllm.url], cwd=DATA.parent, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
        # A shell that runs these tests in the background has Ctrl-C ignored, and would hand that down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )  # fmt: skip
    try:
        until(lambda: len(vllm.requests) > 1)  # the one that checks it, and the first reading
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()

    assert process.returncode == 0, output
    assert output.splitlines()[-1].endswith(f"no longer watching {vllm.url}")
    assert "Traceback" not in output


def test_a_guard_may_be_read_without_a_thread(vllm: VllmLike, tmp_path: Path) -> None:
    guard = Guard(Http(vllm.url), stall_seconds=0.2, evidence=tmp_path / "x.stall.json")
    with contextlib.suppress(TimeoutError):
        until(guard.read)

    assert guard.stalled is not None


def test_the_watch_sends_the_key_that_the_user_set(
    vllm: VllmLike, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRAFTGATE_API_KEY", "sk-mine")

    code, out, err = watched(capsys, vllm.url, *QUICK)

    assert code == 1
    assert {headers.get("authorization") for _, headers, _ in vllm.requests} == {"Bearer sk-mine"}
    assert "sk-mine" not in out + err
