"""Old against new, for speed: the verdict, its cause, and the suite that measures it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.config.cells import Cell, FixedLength
from harness.config.difference import Against
from harness.errors import BadInput
from harness.judge import throughput as judging
from harness.judge.throughput import cause, disturbed, judge, split
from harness.judge.verdict import Verdict
from harness.provenance.surroundings import Surroundings
from harness.results import timing
from harness.results.records import CellRecord, Finding
from harness.results.timing import Work, work_of
from harness.stats.blocks import NEW, OLD
from harness.suites import runner, throughput
from harness.suites.runner import Bench, Outcome
from tests.factories.benches import bench, cell_of, stack
from tests.factories.runs import cell

NAME = "chat-en-instruct-ngram-k4"
SCATTER = (1.0, 1.01, 0.995, 1.004, 0.99, 1.007, 1.002, 0.998)
"""Of the starts, in turn."""


def side(
    *, blocks: int = 6, step: float = 0.05, tokens: int = 640, steps: int = 400, turn: int = 0, **parts: float
) -> list[list[Work]]:
    """Starts whose steps take so long, with some scatter: that of another side in another `turn`."""
    scatter = itertools.islice(itertools.cycle(SCATTER), turn, None)
    return [
        [Work(tokens=tokens, steps=steps, seconds=steps * step * next(scatter), **parts) for _ in "ab"]
        for _ in range(blocks)
    ]


# The verdict and its cause


def test_tok_s_is_tokens_per_step_over_seconds_per_step_in_every_interval() -> None:
    found = split(side(), side(step=0.06, steps=350))

    assert found.speed.estimate == pytest.approx(found.tokens.estimate - found.seconds.estimate)
    assert found.tokens.change == pytest.approx(400 / 350 - 1)
    assert found.seconds.change == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("new", "kind", "seconds", "tokens"),
    [
        (side(), "ok", 0, 0),
        (side(step=0.051), "ok", 1, 0),  # 2 %: inside the margin
        (side(step=0.055), "regressed", 1, 0),
        (side(steps=444), "regressed", 0, -1),
        (side(step=0.055, steps=364), "ok", 1, 1),  # one makes up for the other
        (side(step=0.045), "improved", -1, 0),
        (side(steps=360), "improved", 0, 1),
    ],
)
def test_a_verdict_names_the_cause(new: list[list[Work]], kind: str, seconds: int, tokens: int) -> None:
    found = split(side(), new)
    moved = [
        math.copysign(1, change.estimate) if judging.seen_in(change) else 0
        for change in (found.seconds, found.tokens)
    ]

    assert judge(found).kind == kind
    assert moved == [seconds, tokens]
    assert ("acceptance is the same" in cause(found)) == (not tokens)
    assert ("steps take as long" in cause(found)) == (not seconds)


def test_where_the_engine_times_a_request_its_part_is_named() -> None:
    old, new = ({"queue_s": 0.5, "prefill_s": 2.0, "decode_s": d} for d in (17.5, 19.5))
    found = split(side(**old), side(step=0.055, **new))

    assert list(found.parts) == ["queue", "prefill", "decode"]
    assert [judging.seen_in(change) for change in found.parts.values()] == [False, False, True]
    assert "decode +11.4 %" in cause(found)
    tiny = split(side(**old | {"queue_s": 1e-4}), side(step=0.055, **new | {"queue_s": 5e-4}))
    assert judging.seen_in(tiny.parts["queue"])
    assert "queue" not in cause(tiny), "it is five times as long, and nobody waits for it"
    assert not split(side(), side(**new)).parts, "a part that one side does not tell is not compared"


def test_starts_that_scatter_decide_nothing_and_the_verdict_says_what_they_could_have_seen() -> None:
    wild = [[Work(tokens=640, steps=400, seconds=s) for s in pair] for pair in ((20, 26), (23, 19), (30, 21))]

    verdict = judge(split(side(blocks=3), wild))

    assert verdict.kind == "inconclusive"
    assert "blocks would settle it" in verdict.text
    assert "steps take as long" not in verdict.text, "they may take a third longer"
    assert "acceptance is the same" in verdict.text


def test_two_blocks_never_find_what_six_find() -> None:
    two, six = (split(side(blocks=n), side(blocks=n, step=0.055, turn=3)) for n in (2, 6))

    assert (judge(two).kind, judge(six).kind) == ("inconclusive", "regressed")


# What was measured


def test_the_work_of_a_cell_counts_a_step_for_each_first_token() -> None:
    none = work_of(cell(drafter="none", k=0, counters={"queue_us": 1500, "decode_us": 2_000_000}))

    assert none is not None
    assert none.tokens == none.steps, "without drafts a step makes a token"
    assert none.rate == pytest.approx(none.tokens / 48)  # 24 answers of 2 s, one after the other
    assert (none.queue_s, none.prefill_s, none.decode_s) == (0.0015, None, 2.0)
    untimed = [r.model_copy(update={"began_s": None}) for r in cell().prompts]
    assert work_of(cell(prompts=tuple(untimed))) is None


QUIET = Surroundings(others=0.01, cpu_mhz=3000, sm_mhz=1900)


@pytest.mark.parametrize(
    ("around", "gpu", "good"),
    [
        ([QUIET] * 4, False, True),
        ([Surroundings()] * 4, False, True),  # a system that tells nothing
        ([QUIET, QUIET, None, QUIET], False, False),
        ([QUIET, QUIET.model_copy(update={"others": 0.2}), QUIET, QUIET], False, False),
        ([QUIET, QUIET.model_copy(update={"others": 0.2}), QUIET, QUIET], True, True),
        ([QUIET, QUIET, QUIET.model_copy(update={"slowed": 1}), QUIET], True, False),
        ([QUIET, QUIET, QUIET, QUIET.model_copy(update={"cpu_mhz": 2500})], False, False),
        ([QUIET, QUIET, QUIET.model_copy(update={"sm_mhz": 1300}), QUIET], True, False),
    ],
)
def test_a_busy_or_throttled_block_is_disturbed(
    around: list[Surroundings | None], *, gpu: bool, good: bool
) -> None:
    starts = list(zip((OLD, NEW, NEW, OLD), around, strict=True))

    assert (disturbed(starts, gpu=gpu) == "") == good


def test_another_clock_on_the_other_side_is_what_is_compared() -> None:
    slow = QUIET.model_copy(update={"sm_mhz": 1300})

    assert not disturbed([(OLD, QUIET), (NEW, slow), (NEW, slow), (OLD, QUIET)], gpu=True)


# The suite


Starts = list[tuple[str, str]]


def start(which: Cell, suite: str, **changes: Any) -> CellRecord:
    """A start's record: the new stack's steps take 10 % longer, and nobody disturbs."""
    seconds = 2.2 if "new" in suite else 2.0
    seconds *= SCATTER[sum(map(ord, suite)) % 8]
    record = cell(
        drafter=which.name.drafter, k=which.name.k, seconds=seconds,
        identity={"ignore_eos": True, "max_tokens": 50}, suite=suite, stack=which.spec.stack,
        provenance={"surroundings": {"others": 0.0}}, **changes,
    )  # fmt: skip
    same_length = [
        r.model_copy(update={"output_tokens": 50, "finish": "length", "server": suite})
        for r in record.prompts
    ]
    return record.model_copy(update={"prompts": tuple(same_length)})


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> Starts:
    """Every start that was measured: cell and suite."""
    done: Starts = []

    def measured(ours: Bench, which: Cell, *, suite: str, **_: Any) -> CellRecord:
        assert isinstance(which.profile, FixedLength)
        done.append((str(which), suite))
        record = start(which, suite)
        ours.run.measured[suite, str(which)] = record
        return record

    monkeypatch.setattr(Bench, "measured", measured)
    return done


def against(**changes: Any) -> Against:
    return Against(stack=stack(name="old", **changes), blocks=4)


def ask(folder: Path, *names: str, **changes: Any) -> list[Outcome]:
    ours = bench(folder, against=against(**changes))
    cells = tuple(cell_of(ours, name) for name in names)
    ours = Bench(run=ours.run, slot=ours.slot, say=ours.say, cells=cells)
    return [throughput.old_against_new(ours, one) for one in cells]


def test_a_slower_stack_is_found_with_its_cause(tmp_path: Path, starts: Starts) -> None:
    (found,) = ask(tmp_path, NAME)

    assert found.kind == "failed"
    assert found.verdict
    assert found.verdict.kind == "regressed"
    assert "steps take" in found.sentence
    assert "acceptance is the same" in found.sentence
    assert found.figures["blocks"] == 4
    assert found.figures["tok_s_low"] < found.figures["tok_s_change"] < found.figures["tok_s_high"] < 0
    sides = [suite.removeprefix("throughput/") for _, suite in starts]
    assert sides[:2] == ["warm-up/0-old", "warm-up/1-new"]
    assert sides[2:10] == [
        *("00/0-old", "00/1-new", "00/2-new", "00/3-old"),
        *("01/0-new", "01/1-old", "01/2-old", "01/3-new"),
    ]
    assert len(sides) == 2 + 4 * 4


def test_prompts_that_are_answered_at_once_are_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As often at each start, by the faster one of the warm-up starts."""
    asked: dict[str, int] = {}

    def measured(_: Bench, which: Cell, *, suite: str, repeats: int, **__: Any) -> CellRecord:
        asked[suite] = repeats
        return start(which, suite)

    monkeypatch.setattr(Bench, "measured", measured)
    fastest = min(
        work.seconds
        for suite in ("throughput/warm-up/0-old", "throughput/warm-up/1-new")
        if (work := work_of(start(cell_of(bench(tmp_path), NAME), suite)))
    )
    monkeypatch.setattr(timing, "LASTING_S", 2.5 * fastest)
    ask(tmp_path, NAME)

    assert [repeats for suite, repeats in asked.items() if "warm-up" in suite] == [1, 1]
    assert {repeats for suite, repeats in asked.items() if "warm-up" not in suite} == {3}


def test_all_cells_of_a_server_share_its_starts(tmp_path: Path, starts: Starts) -> None:
    both = ask(tmp_path, NAME, "raw-zh-instruct-ngram-k4")

    assert [found.kind for found in both] == ["failed", "failed"]
    assert len(starts) == 2 * (2 + 4 * 4)
    assert [suite for name, suite in starts if name == NAME] == [s for name, s in starts if name != NAME]


def test_what_a_run_has_already_is_not_measured_again(tmp_path: Path, starts: Starts) -> None:
    ours = bench(tmp_path, against=against())
    one = cell_of(ours)
    first = throughput.old_against_new(ours, one)
    count = len(starts)

    again = throughput.old_against_new(Bench(run=ours.run, slot=ours.slot, say=ours.say), one)

    assert again == first
    assert len(starts) == count


def disturbing(monkeypatch: pytest.MonkeyPatch, when: Callable[[str], bool], **changes: Any) -> Starts:
    done: Starts = []

    def measured(_: Bench, which: Cell, *, suite: str, **__: Any) -> CellRecord:
        done.append((str(which), suite))
        return start(which, suite).model_copy(update=changes if when(suite) else {})

    monkeypatch.setattr(Bench, "measured", measured)
    return done


BUSY = {"provenance": {"surroundings": {"others": 0.4}}}


def test_a_disturbed_block_is_measured_again_and_then_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = disturbing(monkeypatch, lambda suite: suite.endswith("/01/2-old"), **BUSY)
    (found,) = ask(tmp_path, NAME)

    assert found.kind == "failed"
    assert found.figures["blocks"] == 4
    assert [suite for _, suite in done if "again" in suite] == [
        f"throughput/01-again/{at}" for at in ("0-new", "1-old", "2-old", "3-new")
    ]


def test_a_block_that_is_disturbed_twice_is_no_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = disturbing(monkeypatch, lambda suite: "/01" in suite and "2-" in suite, **BUSY)
    (found,) = ask(tmp_path, NAME)

    assert found.kind == "invalid"
    assert "block 1 was disturbed twice" in found.sentence
    assert not [suite for _, suite in done if "/02" in suite], "nothing more is measured of it"


@pytest.mark.parametrize(
    "changes",
    [
        {"findings": (Finding(code="foreign-traffic", hard=True, text="the server finished 30 requests"),)},
        {"prompts": cell().prompts},  # answers that ended by themselves
        {"identity": cell(identity={"max_tokens": 50, "chat_template": "another"}).identity},
        {"prompts": ()},
    ],
)
def test_a_start_that_is_no_measurement_makes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    done = disturbing(monkeypatch, lambda suite: "new" in suite, **changes)

    assert ask(tmp_path, NAME)[0].kind == "invalid"
    assert len(done) == 2, "the warm-up starts have shown it"


def test_a_drafter_that_the_old_stack_lacks_is_not_compared(tmp_path: Path, starts: Starts) -> None:
    (found,) = ask(tmp_path, NAME, drafters={"none": {}})

    assert found.kind == "unchecked"
    assert not starts


def test_workers_that_share_a_device_time_nothing(tmp_path: Path, starts: Starts) -> None:
    ours = bench(tmp_path, against=against())
    ours.run.timed = False

    with pytest.raises(BadInput) as refused:
        throughput.old_against_new(ours, cell_of(ours))
    assert refused.value.code == "nothing-timed"
    assert not starts


# The plan


def plan(folder: Path, **changes: Any) -> list[str]:
    ours = bench(folder, **changes)
    return throughput.SUITE.plan(ours.run, [cell_of(ours), cell_of(ours, "chat-en-instruct-none")])


def test_the_plan_says_what_differs_and_what_so_many_blocks_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throughput, "check", lambda _: None)
    text = "\n".join(plan(tmp_path, against=against(engine={"args": {"max_num_seqs": 2}})))

    assert "engine.args.max_num_seqs: (not set) -> " not in text, "the old stack's value comes first"
    assert "engine.args.max_num_seqs: 2 -> (not set)" in text
    assert "36 starts" in text
    assert "54.0%" in text or "54.0 %" in text


@pytest.mark.parametrize(
    "changes", [{}, {"against": against(drafters={"none": {}, "other": {"method": "ngram", "k": [1]}})}]
)
def test_a_plan_without_anything_to_compare_with_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    ours = bench(tmp_path, **changes)

    with pytest.raises(BadInput):
        throughput.SUITE.plan(ours.run, [cell_of(ours)])


def test_the_verdict_is_kept_with_the_outcome(tmp_path: Path, starts: Starts) -> None:
    (found,) = ask(tmp_path, NAME)
    runner.keep(tmp_path, found)

    assert runner.kept(tmp_path)["throughput", NAME] == found
    assert isinstance(found.verdict, Verdict)
    assert starts
