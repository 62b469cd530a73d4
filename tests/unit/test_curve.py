"""Which k at which load: what a curve's records say, and how the suite measures them."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.cli import main
from harness.config.cells import Cell
from harness.config.stack import Profile
from harness.engine.spelling import SCHEDULE
from harness.errors import BadInput, ServerFailed
from harness.judge.curve import accepted_at, curve, sentences
from harness.judge.in_turn import SCHEDULED, advice, candidates, measured
from harness.results import timing
from harness.results.records import CellRecord, Finding
from harness.suites import curve as suite, curve_report
from harness.suites.load import Bound
from harness.suites.runner import Bench, Outcome
from harness.text.render import lay_out
from tests.factories.benches import bench, cell_of, stack
from tests.factories.pages import report
from tests.factories.records import prompt_record
from tests.factories.runs import HARD, cell, write_cell, write_run
from tests.factories.terminal import fits_80_columns

NAME = "chat-en-instruct-ngram-k4"
STEPS = np.random.default_rng(1).choice(5, size=(8, 40), p=(0.35, 0.3, 0.15, 0.1, 0.1))
"""Tokens that each of 40 steps accepts, of 8 answers."""
TIMES = {
    1: {0: 1.0, 1: 1.05, 2: 1.1, 4: 1.2},
    4: {0: 1.0, 1: 1.35, 2: 1.7, 4: 2.4},
    16: {0: 1.0, 1: 1.8, 2: 3, 4: 4},
}
"""Seconds a step, by requests in flight and k: drafting pays at 1, hardly at 4, and not at 16."""


def record(k: int, in_flight: int, *, step: float | None = None, **changes: Any) -> CellRecord:
    """Answers at this k: each is cut where its steps end, and takes as long as its steps."""
    step = TIMES[in_flight][k] if step is None else step
    prompts, began = [], 0.0
    for at, steps in enumerate(np.minimum(STEPS, k)):
        seconds = step * (len(steps) + 1)
        prompts.append(
            prompt_record(
                f"instruct-{at:03d}",
                accepted=None,
                drafted=None,
                began_s=began,
                ttft_s=step,
                total_s=seconds,
                histogram=tuple(int((steps == j).sum()) for j in range(k + 1)) if k else (0,),
                undrafted=0 if k else 40,
                draft_tokens=40 * k,
                output_tokens=int(1 + (steps + 1).sum()),
                finish="length",
            )
        )
        began += seconds
    name = {"drafter": "ngram" if k else "none", "k": k}
    values = {"suite": f"curve/{in_flight:02d}", "prompts": tuple(prompts), "counters": {}}
    return cell(**(name | values | changes))


GRID = {(k, n): record(k, n) for n, times in TIMES.items() for k in times}


# What the records say


@pytest.mark.parametrize("k", [0, 1, 2, 3, 4])
def test_a_step_accepts_with_fewer_drafts_what_it_did_up_to_them(k: int) -> None:
    rate, spread = accepted_at(GRID[4, 1].prompts, k)

    assert rate == pytest.approx(1 + np.minimum(STEPS, k).mean())
    assert (spread > 0) == (k > 0)


@pytest.mark.parametrize("over", [0, 1, 3])
@pytest.mark.parametrize("known", [True, False])
def test_what_an_answer_drafted_after_its_end_does_not_count(over: int, *, known: bool) -> None:
    steps = (4, 0, 2, 4)
    answer = prompt_record(
        "instruct-001", finish="stop", accepted=steps if known else None, drafted=None, undrafted=0,
        histogram=(1, 0, 1, 0, 2), draft_tokens=16, output_tokens=1 + 4 + 10 - over,
    )  # fmt: skip
    tally = answer.tally

    assert accepted_at([answer] * 2, 4)[0] == pytest.approx(tally.committed / tally.decode_steps)
    assert accepted_at([answer] * 2, 1)[0] == 1 + (3 - (known is False and over > 0)) / 4


def test_utility_is_tokens_gained_over_time_added() -> None:
    found = curve(GRID)
    points = {(p.k, p.in_flight): p for p in found.points}

    assert len(points) == 12
    for (k, level), point in points.items():
        assert point.added == pytest.approx(TIMES[level][k])
        # Each answer has one more step, that of its first token.
        tokens = 8 + (STEPS + 1).sum()
        steps = 8 + (tokens - 8) / (1 + np.minimum(STEPS, k).mean())
        assert point.gained == pytest.approx(tokens / steps)
        assert point.utility == pytest.approx(point.gained / point.added)
    assert points[4, 1].utility > 1.2
    assert points[0, 16].utility == 1
    assert points[0, 16].interval is None
    low, high = points[4, 1].interval or (0, 0)
    assert low < points[4, 1].utility < high


def test_prompts_that_are_asked_for_acceptance_alone_have_no_part_in_the_times() -> None:
    few = {(k, 1): record(k, 1) for k in (0, 2)}
    few = {where: one.model_copy(update={"prompts": one.prompts[:4]}) for where, one in few.items()}
    slow = [
        r.model_copy(update={"total_s": 1e5, "began_s": 1e5 * (1 + at)})
        for at, r in enumerate(record(4, 1).prompts)
    ]
    deepest = record(4, 1).model_copy(update={"prompts": (*record(4, 1).prompts[:4], *slow[4:])})

    points = {p.k: p for p in curve({**few, (4, 1): deepest}).points}

    assert {k: round(p.added, 6) for k, p in points.items()} == {k: TIMES[1][k] for k in (0, 2, 4)}
    assert points[4].tokens_per_step == pytest.approx(1 + STEPS.mean())


def test_the_crossover_is_where_no_k_pays_any_more() -> None:
    found = curve(GRID)

    assert [found.best(level).k for level in found.levels] == [4, 1, 0]
    assert found.crossover == 16
    assert [ends[2] for ends in found.schedule()] == [4, 1, 0]
    assert [ends[:2] for ends in found.schedule()][:2] == [[1, 3], [4, 15]]
    assert "from 16 in flight on: off" in sentences(found)
    always = curve({where: r for where, r in GRID.items() if where[1] == 1})
    assert (always.crossover, len(always.schedule())) == (None, 1)
    never = curve({(k, 1): record(k, 1, step=1.0 + k) for k in (0, 1, 4)})
    assert (never.crossover, never.schedule()[0][2]) == (1, 0)


def test_a_load_where_it_pays_again_is_no_crossover() -> None:
    grid = {**GRID, **{(k, 16): record(k, 16, step=1 + 0.05 * k) for k in TIMES[16]}}
    grid |= {(k, 4): record(k, 4, step=1.0 + k) for k in TIMES[4]}

    assert curve(grid).crossover is None


def test_an_ideal_length_at_every_step_is_never_worse_than_a_fixed_one() -> None:
    found = curve(GRID)

    for level in found.levels:
        assert found.best(level).utility <= found.ideal[level] + 1e-9 <= found.right[level] + 1e-9
    # At 1 in flight: (a + 1) tokens for a step of 1 + a / 20 seconds.
    tokens, seconds = 8 + (STEPS + 1).sum(), 8 + (1 + STEPS / 20).sum()
    assert found.ideal[1] == pytest.approx(tokens / seconds)


@pytest.mark.parametrize(
    "grid",
    [
        {},
        {(0, 1): GRID[0, 1]},
        {(4, 1): GRID[4, 1]},
        {where: r for where, r in GRID.items() if where != (4, 1)},
        {where: r for where, r in GRID.items() if where != (0, 4)},
        {**GRID, (0, 1): record(0, 1).model_copy(update={"prompts": ()})},
        {**GRID, (4, 1): record(4, 1).model_copy(update={"prompts": ()})},
    ],
)
def test_a_curve_that_is_not_whole_is_refused(grid: dict[tuple[int, int], CellRecord]) -> None:
    with pytest.raises(ValueError, match=r"needs none|missing|not timed|decode step"):
        curve(grid)


# The suite


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """What was measured: cell, suite and requests."""
    done: list[tuple[str, str, int]] = []

    def start(ours: Bench, which: Cell, *, suite: str, prompts: Any, repeats: int, **_: Any) -> CellRecord:
        if known := ours.run.finished_cell(suite, which):
            return known
        level = int(suite.rpartition("/")[2])
        assert which.profile.concurrency == level
        done.append((str(which), suite, repeats * len(prompts)))
        schedule = (which.spec.speculative or {}).get(SCHEDULE)
        found = scheduled(schedule, level) if schedule else record(which.name.k, level)
        found = found.model_copy(update={"cell": which.name})
        ours.run.measured[suite, str(which)] = found
        return found

    monkeypatch.setattr(Bench, "measured", start)
    monkeypatch.setattr(suite, "takes_schedule", lambda _: False)
    return done


def scheduled(schedule: list[list[int]], in_flight: int, *, drafts: int | None = None) -> CellRecord:
    """What an engine with a schedule answers: as fast as with the k that it chooses, or another length."""
    k = next(k for first, last, k in schedule if first <= in_flight <= last)
    drafts = k if drafts is None else drafts
    found = record(4, in_flight, step=TIMES[in_flight][drafts])
    prompts = []
    for answer, steps in zip(found.prompts, np.minimum(STEPS, drafts), strict=True):
        lengths = {"histogram": tuple(int((steps == j).sum()) for j in range(5)) if drafts else (0,) * 5}
        lengths |= {"accepted": tuple(map(int, steps)) if drafts else (), "undrafted": 0 if drafts else 40}
        lengths |= {"drafted": (drafts,) * 40 if drafts else (), "draft_tokens": 40 * drafts}
        lengths |= {"output_tokens": int(1 + (steps + 1).sum())}
        prompts.append(answer.model_copy(update=lengths))
    subject = found.subject.model_copy(update={"settings": {SCHEDULE: schedule}})
    return found.model_copy(update={"prompts": tuple(prompts), "subject": subject})


Asked = list[tuple[str, str, int]]


def put(folder: Path, *names: str, **changes: Any) -> list[Outcome]:
    ours = bench(folder, levels=(1, 4, 16), **changes)
    cells = tuple(cell_of(ours, name) for name in names)
    ours = Bench(run=ours.run, slot=ours.slot, say=ours.say, cells=cells)
    return [suite.k_by_load(ours, one) for one in cells]


def test_every_k_is_timed_at_every_load_and_acceptance_is_read_once(tmp_path: Path, asked: Asked) -> None:
    (found,) = put(tmp_path, NAME)

    assert found.kind == "fine"
    assert found.figures["best"] == {"1": 4, "4": 1, "16": 0}
    assert found.figures["crossover"] == 16
    assert "from 16 in flight on: off" in found.sentence
    requests = {(name, where): count for name, where, count in asked if where.count("/") == 1}
    assert len(requests) == 4 * 3
    assert requests[NAME, "curve/04"] == 8, "all prompts"
    assert requests[NAME, "curve/01"] == requests["chat-en-instruct-ngram-k1", "curve/01"] == suite.FEWEST
    assert requests["chat-en-instruct-none", "curve/16"] == 16


def test_the_largest_k_asks_all_prompts_where_no_load_needs_as_many(tmp_path: Path, asked: Asked) -> None:
    put(tmp_path, NAME, profile=Profile(prompts=40, max_tokens=64))

    requests = {(name, where): count for name, where, count in asked}
    assert requests[NAME, "curve/01"] == 40
    assert requests[NAME, "curve/pairs/ngram/01/01"] == suite.FEWEST
    assert requests["chat-en-instruct-none", "curve/01"] == suite.FEWEST


def test_cells_of_a_server_share_its_start(tmp_path: Path, asked: Asked) -> None:
    both = put(tmp_path, NAME, "chat-zh-instruct-ngram-k4")

    assert [found.kind for found in both] == ["fine", "fine"]
    drafting = [name.rpartition("-")[2] for name, *_ in asked]
    servers = [k for k, _ in itertools.groupby(drafting)]
    assert servers == ["none", "k1", "k2", "k4", "k2", "k1", "none"]
    assert len(asked) == 1 + 2 * (3 * 4 + (3 + 2 + 2 + 1))


DRAFTERS = {"none": {}, "ngram": {"method": "ngram", "k": [4]}, "suffix": {"method": "suffix", "k": [2]}}


def test_drafters_share_the_starts_of_none(tmp_path: Path, asked: Asked) -> None:
    both = put(tmp_path, NAME, "chat-en-instruct-suffix-k2", stack=stack(drafters=DRAFTERS))

    assert [found.kind for found in both] == ["fine", "fine"]
    servers = [s for s, _ in itertools.groupby(name.split("-instruct-")[1] for name, *_ in asked)]
    first = ["none", "ngram-k1", "ngram-k2", "ngram-k4", "suffix-k1", "suffix-k2"]
    assert servers == [*first, *reversed(first[:-1])]
    assert {one["blocks"] for found in both for one in found.figures["measured"]} == {2}


def test_a_drafter_whose_server_does_not_start_takes_no_other_curve_away(
    tmp_path: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Bench.measured

    def start(ours: Bench, which: Cell, **words: Any) -> CellRecord:
        if which.name.drafter == "ngram":
            raise ServerFailed("it ends at once")
        return whole(ours, which, **words)

    monkeypatch.setattr(Bench, "measured", start)
    ours = bench(tmp_path, levels=(1, 4), stack=stack(drafters=DRAFTERS))
    cells = tuple(cell_of(ours, name) for name in (NAME, "chat-en-instruct-suffix-k2"))
    ours = Bench(run=ours.run, slot=ours.slot, say=ours.say, cells=cells)

    with pytest.raises(ServerFailed):
        suite.k_by_load(ours, cells[0])
    done = len(asked)
    assert suite.k_by_load(ours, cells[1]).kind == "fine"
    assert len(asked) == done


def test_the_best_k_and_its_neighbours_are_measured_again_in_turn(tmp_path: Path, asked: Asked) -> None:
    """The same requests for all, k by k down and up; the first start of each counts too."""
    (found,) = put(tmp_path, NAME, pairs=6)

    again = [one for one in asked if "pairs" in one[1]]
    assert {count for _, where, count in again if where.endswith("/01")} == {suite.FEWEST}
    for load, ks in (("01", ("k2", "k4")), ("04", ("k1", "k2")), ("16", ("k1",))):
        assert [name.rpartition("-")[2] for name, where, _ in again if where.endswith(f"/{load}")] == [
            *(*reversed(ks), "none"),
            *("none", *ks),
        ]
    figures = {(m["k"], m["in_flight"]): m for m in found.figures["measured"]}
    assert figures[4, 1]["blocks"] == 3
    assert figures[4, 1]["tok_s_low"] > 0
    assert figures[1, 16]["tok_s_high"] < 0
    assert "16 in flight" in found.table_text()


def test_what_is_over_in_a_moment_is_asked_more_often(
    tmp_path: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So often that `none` takes long enough, by one wave of requests; and not asked where fewer take it."""
    (wave_s,) = (p.work.seconds for p in curve(GRID).points if (p.in_flight, p.k) == (1, 0))
    monkeypatch.setattr(timing, "LASTING_S", 2.5 * suite.FEWEST * wave_s)
    put(tmp_path, NAME)

    counts = {(where[-2:], count) for _, where, count in asked if "once" not in where}
    assert counts == {("01", 3 * suite.FEWEST), ("04", 5 * 8), ("16", 10 * 16)}
    assert [count for _, where, count in asked if "once" in where] == [1, 4, 16]


def test_what_is_measured_again_are_the_best_and_their_neighbours() -> None:
    assert candidates(curve(GRID)) == {0: {1, 4, 16}, 1: {4, 16}, 2: {1, 4}, 4: {1}}
    off = curve({(k, 1): record(k, 1, step=1.0 + 0.7 * k) for k in (0, 1, 2, 4)})
    assert candidates(off) == {0: {1}, 1: {1}}
    steep = curve({(k, 1): record(k, 1, step=1.0 + 0.01 * k) for k in (0, 1, 2, 3, 4)})
    assert candidates(steep) == {0: {1}, 3: {1}, 4: {1}}


def test_what_one_start_of_each_settles_is_not_measured_again() -> None:
    slow = {(k, 16): record(k, 16, step=1.0 + k) for k in TIMES[16]}
    assert candidates(curve({**GRID, **slow})) == {0: {1, 4}, 1: {4}, 2: {1, 4}, 4: {1}}
    lone = {(k, 1): record(k, 1, step={0: 1.0, 1: 1.0, 2: 2.0, 4: 4.0}[k]) for k in (0, 1, 2, 4)}
    assert candidates(curve(lone)) == {0: {1}, 1: {1}}


SCHEDULE_OF_GRID = [[1, 3, 4], [4, 15, 1], [16, 1_000_000, 0]]


def test_the_schedule_is_measured_beside_none_where_the_engine_takes_one(
    tmp_path: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "takes_schedule", lambda _: True)
    (found,) = put(tmp_path, NAME)

    starts = [(where.split("/")[-2:], name) for name, where, _ in asked if "scheduled" in where]
    loads = ("16", "04", "01")
    assert [where for where, _ in starts] == [[pair, load] for pair in ("00", "01") for load in loads]
    assert {name for _, name in starts} == {NAME}
    own = {m["in_flight"]: m for m in found.figures["measured"] if m["k"] == "schedule"}
    assert {load: m["drafts"] for load, m in own.items()} == {
        1: {"wanted": 4, "longer": 0.0, "longest": 4},
        4: {"wanted": 1, "longer": 0.0, "longest": 1},
        16: {"wanted": 0, "longer": 0.0, "longest": 0},
    }
    assert own[1]["tok_s_low"] > 0
    assert found.sentence.count("drafts follow it") == 3


def test_a_curve_with_one_k_for_all_loads_needs_no_schedule(
    tmp_path: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "takes_schedule", lambda _: True)
    ours = bench(tmp_path, levels=(1,))
    suite.k_by_load(ours, cell_of(ours, NAME))

    assert not [where for _, where, _ in asked if "scheduled" in where]


@pytest.mark.parametrize(("drafts", "follow"), [(0, True), (1, False), (4, False)])
def test_an_engine_that_ignores_its_schedule_is_seen(drafts: int, *, follow: bool) -> None:
    starts = {(pair, 0, 16): record(0, 16, step=1 + pair / 100) for pair in (0, 1)}
    starts |= {(pair, SCHEDULED, 16): scheduled(SCHEDULE_OF_GRID, 16, drafts=drafts) for pair in (0, 1)}
    own, fixed = measured({**starts, **{(pair, 1, 16): record(1, 16) for pair in (0, 1)}})

    assert own.drafts
    assert own.drafts.follow == follow
    assert ("does not follow" in advice([own, fixed])[-1]) != follow


def test_an_answer_without_a_draft_has_no_lengths_to_tell() -> None:
    """An engine that tells of every draft says nothing of steps that had none."""
    rests = scheduled(SCHEDULE_OF_GRID, 16)
    none = rests.prompts[0].model_copy(update={"drafted": None, "accepted": None})
    rests = rests.model_copy(update={"prompts": (none, *rests.prompts[1:])})
    starts = {(pair, 0, 16): record(0, 16) for pair in (0, 1)}
    (own,) = measured({**starts, (0, SCHEDULED, 16): rests, (1, SCHEDULED, 16): rests})

    assert own.drafts
    assert own.drafts.follow


def test_a_schedule_whose_drafts_nobody_tells_is_said_to_be_that() -> None:
    mute = scheduled(SCHEDULE_OF_GRID, 4)
    mute = mute.model_copy(
        update={"prompts": tuple(r.model_copy(update={"drafted": None}) for r in mute.prompts)}
    )
    starts = {(pair, k, 4): record(k, 4) for pair in (0, 1) for k in (0, 1)}
    found = measured({**starts, (0, SCHEDULED, 4): mute, (1, SCHEDULED, 4): mute})

    assert next(one for one in found if one.k == SCHEDULED).drafts is None
    assert advice(found)


def test_the_times_of_a_busy_machine_are_said_to_be_that(
    tmp_path: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what was measured is kept."""
    whole = Bench.measured

    def busy(ours: Bench, which: Cell, **words: Any) -> CellRecord:
        found = whole(ours, which, **words)
        around = {"surroundings": {"others": 0.38 if which.name.k == 2 else 0.0}}
        return found.model_copy(update={"provenance": around})

    monkeypatch.setattr(Bench, "measured", busy)
    (found,) = put(tmp_path, NAME)

    assert found.kind == "unsure"
    assert "38%" in found.sentence
    assert found.figures["points"]


def test_what_starts_in_turn_do_not_settle_is_said() -> None:
    starts = {(p, k, 1): record(k, 1, step=s) for p in range(3) for k, s in ((0, 1.0), (2, 1.6 + 0.2 * p))}
    pays = {(p, k, 1): record(k, 1, step=s) for p in range(3) for k, s in ((0, 1.0), (2, 1.1 + 0.01 * p))}
    off = {(p, k, 1): record(k, 1, step=s) for p in range(3) for k, s in ((0, 1.0), (2, 2.5 + 0.01 * p))}

    said = [advice(measured(one))[0] for one in (starts, pays, off)]

    assert ["not settled" in one for one in said] == [True, False, False]
    assert [one.endswith("so off") for one in said] == [False, False, True]
    with pytest.raises(ValueError, match="not timed"):
        measured({where: one for where, one in pays.items() if where != (1, 2, 1)})


@pytest.mark.parametrize(
    ("changes", "ks"),
    [
        ({}, ["none", "ngram-k1", "ngram-k2", "ngram-k4"]),
        ({"ks": (1, 4)}, ["none", "ngram-k1", "ngram-k4"]),
    ],
)
def test_the_ks_are_the_drafters_or_the_users(
    tmp_path: Path, asked: Asked, changes: dict[str, Any], ks: list[str]
) -> None:
    put(tmp_path, NAME, **changes)

    assert list(dict.fromkeys(name.removeprefix("chat-en-instruct-") for name, *_ in asked)) == ks


def test_the_largest_k_of_a_drafter_stands_for_its_curve(tmp_path: Path) -> None:
    drafters = {"none": {}, "ngram": {"method": "ngram", "k": [2, 4]}}
    ours = bench(tmp_path, stack=stack(drafters=drafters))
    takes = [
        suite.SUITE.takes(cell_of(ours, f"chat-en-instruct-ngram-k{k}"), ours.run.options.stack, "")
        for k in (2, 4)
    ]

    assert takes == [False, True]


@pytest.mark.parametrize(("words", "taken"), [("", False), ("zh or en", True)])
def test_one_place_is_enough_unless_the_words_name_others(tmp_path: Path, words: str, *, taken: bool) -> None:
    ours = bench(tmp_path)
    other = cell_of(ours, "chat-zh-instruct-ngram-k4")

    assert suite.SUITE.takes(other, ours.run.options.stack, words) == taken


def test_a_record_that_is_no_measurement_makes_no_curve(
    tmp_path: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = Finding(code="foreign-traffic", hard=True, text="the server finished 30 requests")
    whole = Bench.measured

    def spoiled(ours: Bench, which: Cell, **words: Any) -> CellRecord:
        found = whole(ours, which, **words)
        return found.model_copy(update={"findings": (busy,)}) if which.name.k == 2 else found

    monkeypatch.setattr(Bench, "measured", spoiled)

    assert put(tmp_path, NAME)[0].kind == "invalid"
    assert asked


def test_workers_that_share_a_device_make_no_curve(tmp_path: Path, asked: Asked) -> None:
    ours = bench(tmp_path, levels=(1,))
    ours.run.timed = False

    with pytest.raises(BadInput) as refused:
        suite.k_by_load(ours, cell_of(ours))
    assert refused.value.code == "nothing-timed"
    assert not asked


# The command


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for one in GRID.values():
        write_cell(tmp_path / one.suite, one)
    return tmp_path


def test_a_run_shows_its_curves_again(run: Path) -> None:
    ((found, grid, again),), _ = curve_report.of_run(run)

    assert grid == GRID
    assert again == []
    assert curve_report.figures(found, []) == curve_report.figures(curve(GRID), [])
    text = lay_out(curve_report.report(found, grid, [], Bound(), may_schedule=True))
    assert "[[1, 3, 4], [4, 15, 1], [16" in text
    assert "[[1, 3, 4]" not in lay_out(curve_report.report(found, grid, [], Bound(), may_schedule=False))


def test_a_run_shows_what_starts_in_turn_said(run: Path) -> None:
    starts = {(pair, k, 1): record(k, 1, step=1 + 0.01 * pair) for pair in (0, 1) for k in (0, 4)}
    for (pair, _, _), one in starts.items():
        where = f"curve/pairs/ngram/{pair:02d}/01"
        write_cell(run / where, one.model_copy(update={"suite": where}))

    ((_, grid, again),), _ = curve_report.of_run(run)

    assert grid == GRID
    assert again == measured(starts)
    assert [(m.k, m.in_flight) for m in again] == [(4, 1)]


def test_the_first_start_of_each_is_the_first_block_where_none_is_shared(run: Path) -> None:
    starts = {(1, k, 1): record(k, 1, step=1 + 0.01 * (k == 0)) for k in (0, 4)}
    for (_, k, _), one in starts.items():
        where = f"curve/pairs/{'ngram' if k else 'none'}/01/01"
        write_cell(run / where, one.model_copy(update={"suite": where}))

    ((_, _, again),), _ = curve_report.of_run(run)

    assert again == measured({**starts, **{(0, k, 1): GRID[k, 1] for k in (0, 4)}})
    assert again[0].split.speed.m == 2


def test_a_run_shows_its_schedule_and_a_recipe_names_one_k(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for pair in (0, 1):
        for where, one in (
            ("pairs", record(0, 1)),
            ("pairs", record(4, 1)),
            ("scheduled", scheduled(SCHEDULE_OF_GRID, 1)),
        ):
            in_turn = f"curve/{where}/ngram/{pair:02d}/01"
            write_cell(run / in_turn, one.model_copy(update={"suite": in_turn}))
    write_run(run)

    ((_, _, again),), _ = curve_report.of_run(run)
    assert [m.k for m in again] == [SCHEDULED, 4]
    assert main(["curve", str(run)]) == 0
    assert "drafts follow it (k = 4)" in capsys.readouterr().out
    assert main(["recipe", str(run)]) == 0
    assert main(["compare", str(run)]) == 0


def in_turn(run: Path, *, levels: tuple[int, ...] = (1, 4, 16), drafts: int | None = None) -> Path:
    """Four pairs of starts: `none`, a k, and the schedule, followed unless `drafts` says otherwise."""

    def write(one: CellRecord, where: str) -> None:
        identity = one.identity.model_copy(update={"concurrency": int(where.rpartition("/")[2])})
        write_cell(run / where, one.model_copy(update={"suite": where, "identity": identity}))

    for one in GRID.values():
        write(one, one.suite)
    for pair, level in itertools.product(range(4), levels):
        best = {1: 4, 4: 1, 16: 1}[level]
        own = scheduled(SCHEDULE_OF_GRID, level, drafts=drafts)
        subject = own.subject.model_copy(update={"method": "ngram"})
        own = own.model_copy(update={"cell": record(4, 1).cell, "subject": subject})
        for of, one in (
            ("pairs", record(0, level, step=1 + 0.002 * pair)),
            ("pairs", record(best, level)),
            ("scheduled", own),
        ):
            write(one, f"curve/{of}/ngram/{pair:02d}/{level:02d}")
    return write_run(run)


def test_a_recipe_names_the_schedule_that_was_measured_and_its_figures_hold(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = run / "page.md"

    assert main(["recipe", str(in_turn(run)), "--output", str(page)]) == 0

    _, _, text = page.read_text(encoding="utf-8").partition("a load that changes, 1 to 16 in flight: run")
    use, _, rest = text.partition("###")
    assert f'"{SCHEDULE}": [[1, 3, 4], [4, 15, 1], [16, 1000000, 0]]' in use
    assert use.count("| ngram-scheduled |") == 3
    assert SCHEDULE not in rest
    assert main(["claims", str(page), str(run)]) == 0
    page.write_text(text.replace("| 1.0", "| 1.1"), encoding="utf-8")
    capsys.readouterr()
    assert main(["claims", str(page), str(run)]) == 1


@pytest.mark.parametrize(
    "changes", [{"drafts": 4}, {"drafts": 0}, {"levels": (1, 4)}, {"levels": (1, 16)}], ids=str
)
def test_a_schedule_that_is_not_followed_or_not_measured_in_each_range_is_not_recommended(
    run: Path, changes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recipe", str(in_turn(run, **changes)), "--wide"]) == 0

    said = capsys.readouterr().out
    _, found, text = said.partition("a load that changes, ")
    assert found
    assert "nothing is recommended" in text.splitlines()[0]
    assert SCHEDULE not in said


@pytest.mark.parametrize("lost", ["curve/01/chat-en-instruct-none.json", f"curve/01/{NAME}.json", "curve"])
def test_a_run_whose_curve_is_not_whole_is_refused(run: Path, lost: str) -> None:
    path = run / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()

    curves, (why, *_) = curve_report.of_run(run)
    assert not curves
    assert why.code == "no-cells"


def beside(run: Path, how: str) -> Path:
    """A second drafter's curve in the same place, which is not whole; the file that is to blame."""
    for k, level in GRID:
        if k:
            one = record(k, level, drafter="suffix")
            write_cell(run / one.suite, one)
    path = run / "curve" / "01" / "chat-en-instruct-suffix-k4.json"
    if how == "lost":
        path.unlink()
    elif how == "damaged":
        path.write_text("{", encoding="utf-8")
    else:
        write_cell(path.parent, record(4, 1, drafter="suffix", findings=(HARD,)))
    return path


@pytest.mark.parametrize("how", ["lost", "damaged", "invalid"])
def test_a_curve_that_is_not_whole_takes_no_other_away(
    run: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = beside(write_run(run), how)

    ((found, _, _),), broken = curve_report.of_run(run)
    assert found.deepest == GRID[4, 1]
    assert str(path) in str(broken[0]) if how == "damaged" else len(broken) == 1
    assert main(["curve", str(run)]) == 2
    shown = capsys.readouterr()
    assert "from 16 in flight on: off" in shown.out
    assert "suffix" in shown.err
    page = report(run, output=run / "page.html", code=2)
    assert [one["name"] for one in page.data["curves"]] == ["chat-en-instruct-ngram"]
    assert {one["family"] for one in page.data["cells"] if one["k"]} == {"suffix"}
    assert len(page.data["cells"]) == 9 - (how != "invalid")


@pytest.mark.parametrize("how", ["lost", "invalid"])
def test_a_picture_has_the_curves_that_are_whole_and_rows_of_the_others(run: Path, how: str) -> None:
    beside(write_run(run), how)

    assert main(["compare", str(run), "--output", str(run / "picture.svg")]) == (2 if how == "invalid" else 0)
    picture = (run / "picture.svg").read_text(encoding="utf-8")
    assert "chat-en-instruct ngram, k = 4: 1:" in picture
    assert "suffix-k2" in picture
    assert "ngram-k2" not in picture


@pytest.mark.parametrize("finished", [True, False])
def test_starts_in_turn_that_are_not_all_there_leave_the_curve(
    run: Path, *, finished: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    where = "curve/pairs/ngram/00/01"
    for k in (0, 4):
        write_cell(run / where, record(k, 1, suite=where))
    write_cell(run / "curve" / "04", record(2, 4, provenance={"surroundings": {"others": 0.38}}))
    write_run(run, finished=finished)

    ((found, _, again),), broken = curve_report.of_run(run)
    assert (found, again, len(broken)) == (curve(GRID), [], 1)
    assert main(["curve", str(run)]) == 2
    assert "from 16 in flight on: off" in capsys.readouterr().out
    page = report(run, output=run / "page.html", code=2 * finished)
    assert [(len(one["points"]), one["measured"]) for one in page.data["curves"]] == [(len(GRID), [])]
    assert page.data["sentence"] == "1 curve: 1 measured"
    assert "38%" in page.data["curves"][0]["sentences"][0]
    assert page.data["runs"][0]["conditions"]["concurrency"] == ["1"]
    assert page.data["provenance"]
    assert not [tag for tag, own in page.tags if own.get("id") == "paired"]
    assert main(["compare", str(run), "--output", str(run / "picture.svg")]) == 0
    assert "k = 4: 1:" in (run / "picture.svg").read_text(encoding="utf-8")


def test_records_of_none_alone_are_no_curve(run: Path) -> None:
    for path in run.glob("curve/*/*ngram*.json"):
        path.unlink()

    curves, (why, *_) = curve_report.of_run(run)
    assert not curves
    assert why.code == "no-cells"
    assert main(["curve", str(run)]) == 2


def test_the_command_prints_the_curve(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["curve", str(run)]) == 0
    assert "from 16 in flight on: off" in capsys.readouterr().out
    assert main(["curve", str(run / "nowhere")]) == 2


def test_a_narrow_terminal_gets_lines_of_its_width(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fits_80_columns(("curve", str(run)), monkeypatch, capsys)


def test_a_picture_of_the_run_has_every_point_of_the_curve(run: Path, tmp_path: Path) -> None:
    assert main(["compare", str(run), "--output", str(tmp_path / "x.svg")]) == 0
    text = (tmp_path / "x.svg").read_text(encoding="utf-8")
    for k in (1, 2, 4):
        points = [p for p in curve(GRID).points if p.k == k]
        shown = [
            f"{p.in_flight}: {p.utility:.2f} ({p.interval[0]:.2f}..{p.interval[1]:.2f})"
            for p in points
            if p.interval
        ]
        assert len(shown) == 3
        assert f"k = {k}: {', '.join(shown)}" in text
    for lost in run.glob("curve/01/*none.json"):
        lost.unlink()
    assert main(["compare", str(run), "--output", str(tmp_path / "x.svg")]) == 0  # rows, and no curve
    assert "utility" not in (tmp_path / "x.svg").read_text(encoding="utf-8")
