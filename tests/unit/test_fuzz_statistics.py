"""Statistics of zero, of huge numbers or of none at all: a refusal or a figure; never NaN or a crash."""

from __future__ import annotations

import ast
import itertools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, example, given, settings, strategies as st

from harness.judge import recipe, speedup, throughput
from harness.judge.over_none import Evidence, of_cell, of_speed
from harness.judge.refusals import RefusalChange
from harness.judge.speedup import Session, SpeedRecord
from harness.judge.throughput import Split
from harness.results.records import CellRecord
from harness.results.timing import Work
from harness.stats import blocks, depth, paired, same_text, shares
from harness.suites import load, prefix
from harness.suites.load import Level
from harness.suites.prefix import Side
from tests.factories import runs
from tests.perf import ROOT

COUNTS = (0, 1, 8, 2**53, 2**63, 10**30)
NUMBERS = (*COUNTS, -1, 0.5, 1e300, 5e-324, math.nan, math.inf, -math.inf)
counts, numbers = st.sampled_from(COUNTS), st.sampled_from(NUMBERS)
few = settings(max_examples=60, suppress_health_check=list(HealthCheck))
PASSES = {"identical", "ok", "improved"}


# Which functions are fuzzed

FILES = ("test_fuzz_statistics.py", "test_fuzz_verdicts.py")
TEXTS = {"acceptance", "refusals", "text_quality"}
"""Modules of `harness.stats` that read texts, or count steps: their own tests fuzz them."""
DECIDES = re.compile(r"\b(Verdict|Kind|Result|Parity|Choice|Evidence|PairedRatio|Split|SpeedUp|OneStart)\b")
THROUGH = {
    "paired.require_two": "a check that others make",
    "paired.require_df": "a check that others make",
    "paired.jackknife": "through all that have an error",
    "paired.effective_df": "through all that have an error",
    "blocks.order": "which side has which start",
    "evidence.evidence": "what `verdict.judge_pairs` judges",
    "evidence.position_at": "through `confirmation.confirmed`",
    "confirmation.unconfirmed": "a verdict with one more sentence",
    "verdict.worst": "one of the verdicts that it is given",
    "over_none.of_starts": "of what `throughput.split` made",
    "over_none.of_schedule": "of what `throughput.split` made",
    "recipe.uses": "which evidence belongs together",
    "refusals.judge": "through `RefusalChange.verdict`",
    "refusals.with_refusals": "through `RefusalChange.verdict`",
    "acceptance.verdict": "reads files, and asks `verdict.judge`",
    "acceptance.verdicts": "reads files, and asks `verdict.judge`",
    "runner.no_baseline": "always the same",
    "beside_none.paired": "of what `paired.paired_log_ratio` made",
    "context.change": "of what `paired.paired_log_ratio` made",
}
"""Those that need no case of their own, and why."""


def deciding() -> Iterator[str]:
    """Public functions that compute a statistic or decide: `module.function`."""
    for room in ("stats", "judge", "suites"):
        for file in sorted((ROOT / "harness" / room).glob("*.py")):
            if room == "stats" and file.stem in TEXTS:
                continue
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                    gives = ast.unparse(node.returns) if node.returns else ""
                    if room == "stats" or DECIDES.search(gives):
                        yield f"{file.stem}.{node.name}"


def fuzzed() -> Iterator[str]:
    """What the tests of these files use of the harness: `module.function`."""
    for name in FILES:
        tree = ast.parse((Path(__file__).parent / name).read_text(encoding="utf-8"))
        nodes = [node for test in tree.body if isinstance(test, ast.FunctionDef) for node in ast.walk(test)]
        called = {node.id for node in nodes if isinstance(node, ast.Name)}
        for node in nodes:
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                yield f"{node.value.id}.{node.attr}"
        for statement in tree.body:
            if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("harness."):
                module = (statement.module or "").rpartition(".")[2]
                yield from (f"{module}.{a.name}" for a in statement.names if (a.asname or a.name) in called)


def test_every_function_that_decides_has_a_case() -> None:
    known = set(deciding())
    assert known - set(fuzzed()) - THROUGH.keys() == set()
    assert THROUGH.keys() <= known


# Shares


@few
@given(numbers, numbers)
@example(math.nan, 8)
@example(1e300, 1e300)
def test_the_interval_of_a_share(good: float, of: float) -> None:
    try:
        low, high = shares.wilson(good, of)  # type: ignore[arg-type]
    except ValueError:
        return
    assert 0 <= low <= high <= 1


@few
@given(st.lists(st.tuples(numbers, numbers), max_size=12))
@example([(1, 2**53)] + [(1, 1)] * 9)
@example([(math.nan, 8)] * 9)
def test_the_intervals_of_shares_between_prompts(prompts: list[tuple[float, float]]) -> None:
    good, of = np.array(prompts, dtype=np.float64).reshape(-1, 2).T
    try:
        (ends,) = shares.intervals(good[None], of)
    except ValueError:
        return
    assert ends is None or (len(prompts) >= paired.MIN_PROMPTS and 0 <= ends[0] <= ends[1] <= 1)


@few
@given(numbers, numbers)
@example(math.nan, 1)
@example(1, math.nan)
@example(math.inf, math.inf)
@example(1e300, 1e300)
def test_pairs_that_are_lost_and_won(lost: float, won: float) -> None:
    try:
        p = shares.mcnemar(lost, won)  # type: ignore[arg-type]
    except ValueError:
        return
    assert 0 <= p <= 1
    assert p > 0.05 or lost > won


@few
@given(st.tuples(numbers, numbers, numbers, numbers))
@example((1, 2, math.nan, 3))
@example((1e300, 1e300, 1e300, 1e300))
@example((10**30, 0, 10**30, 1))
def test_the_interval_of_a_change_of_shares(four: tuple[float, ...]) -> None:
    try:
        low, high = shares.change_interval(*four)  # type: ignore[arg-type]
    except ValueError:
        return
    assert -1 <= low <= high <= 1


SORTS = st.sampled_from(("answered", "refused", "empty", "loop", ""))


@few
@given(st.dictionaries(st.text(max_size=2), st.tuples(SORTS, SORTS), max_size=12))
@example({})
@example({"a": ("empty", "empty")})
def test_refusals(sorts: dict[str, tuple[str, str]]) -> None:
    verdict = RefusalChange(sorts=sorts).verdict("baseline")
    if verdict.kind in PASSES:
        assert any(set(both) <= {"answered", "refused"} for both in sorts.values())


# Starts


starts = st.lists(st.lists(numbers, max_size=3), max_size=6)


@few
@given(starts, starts)
@example([[1.0]] * 4, [[math.nan]] * 4)
@example([[1.0], [1.0]], [[5e-324], [1e300]])
@example([[1.0]] * 2, [[0.5]] * 2)
@example([[1.0]] * 3, [[1e-100], [2e-100], [1e-101]])
def test_speeds_of_starts(old: list[list[float]], new: list[list[float]]) -> None:
    for function in (blocks.over_blocks, blocks.over_sessions):
        try:
            change = function(old, new)
        except ValueError:
            continue
        assert all(0 < value < math.inf for side in (old, new) for block in side for value in block)
        values = (change.r0, change.r1, change.estimate, change.se, change.df, change.p_loss())
        assert all(map(math.isfinite, values))
        assert blocks.scatter_of(change) >= 0
        more = blocks.settled_by(change) if function is blocks.over_blocks else None
        assert more is None or more > change.m
        if throughput.decided(change) in PASSES:
            assert change.estimate > -blocks.LOG_MARGIN


@few
@given(st.sampled_from((0, 1, 2, 8, 2**53)), numbers, numbers)
@example(4, 0.05, math.nan)
@example(4, math.nan, 0.01)
@example(4, 0.05, 0)
@example(2**53, 0.05, 0.01)
def test_what_blocks_could_see(of: int, loss: float, scatter: float) -> None:
    for ask in (
        lambda: blocks.power(of, loss, scatter=scatter),
        lambda: blocks.detectable(of, scatter=scatter),
    ):
        try:
            share = ask()
        except ValueError:
            continue
        assert 0 <= share <= 1
        assert of >= 2
        assert 0 < scatter < math.inf


WORK = st.fixed_dictionaries(
    {"tokens": numbers, "steps": numbers, "seconds": numbers}, optional={"queue_s": numbers}
)


def work(values: dict[str, Any]) -> Work:
    return Work.model_construct(**values)


def split_of(old: list[list[Work]], new: list[list[Work]]) -> Split | None:
    try:
        return throughput.split(old, new)
    except (ValueError, ZeroDivisionError, OverflowError):
        return None


@few
@given(st.lists(WORK, min_size=1, max_size=3), st.sampled_from((1, 2, 6)))
@example([{"tokens": 1, "steps": 1, "seconds": math.nan}], 6)
@example([{"tokens": -1, "steps": -1, "seconds": -1}], 2)
def test_the_speed_of_two_stacks(each: list[dict[str, Any]], of: int) -> None:
    sound = work({"tokens": 640, "steps": 400, "seconds": 20.0})
    sides = [[[sound, sound]] * of, [[work(values) for values in each]] * of]
    for old, new in itertools.product(sides, sides):
        found = split_of(old, new)
        if found and throughput.judge(found).kind in PASSES:
            used = [getattr(one, name) for side in (old, new) for block in side for one in block
                    for name in ("tokens", "steps", "seconds")]  # fmt: skip
            assert all(0 < value < math.inf for value in used)


@few
@given(numbers, numbers, numbers, numbers)
@example(1.0, math.nan, 1.0, 1.0)
def test_one_start_of_each(before: float, after: float, old: float, new: float) -> None:
    if before > 0 and old > 0:  # what the caller has looked at
        found = throughput.of_one_start((before, after), (old, new))
        assert found is None or not abs(found.speed) < throughput.MARGIN


@few
@given(st.lists(numbers, max_size=8))
@example([math.nan] * 6)
@example([1.2] * 6)
def test_the_speed_up_of_starts(ratios: list[float]) -> None:
    try:
        change, mean = speedup.over_pairs(ratios), speedup.speed_up(ratios)
    except ValueError:
        change = None
    else:
        assert math.isfinite(change.estimate)
        assert mean.low <= mean.value <= mean.high
    heads = {name: getattr(runs.cell(), name) for name in ("cell", "identity", "subject", "environment")}
    record = SpeedRecord.model_construct(
        stack="s", profile="p", provenance={}, **heads, ratios=tuple(ratios), sessions=()
    )
    found = of_speed("run", record)
    assert found.sound is (change is not None)
    if recipe.choose("use", [found]).kind == "drafter":
        assert all(speedup.LEAST <= ratio <= speedup.MOST for ratio in ratios)


@few
@given(WORK, st.sampled_from((1, 2)))
def test_what_a_speed_up_is_made_of(values: dict[str, Any], pairs: int) -> None:
    sound = work({"tokens": 640, "steps": 400, "seconds": 20.0})
    session = Session.model_construct(time="t", starts=((sound, work(values)),) * pairs)
    try:
        found = speedup.over_none(session)
    except (ValueError, ZeroDivisionError, OverflowError):
        return
    assert math.isfinite(found.speed.estimate)
    assert pairs > 1


SECONDS = st.sampled_from((None, 0.0, 1.0, 2.0**53, 5e-324, 1e300, -1.0, math.nan, math.inf))
NONE = runs.plain()


@few
@given(st.fixed_dictionaries({"total_s": SECONDS}, optional={"output_tokens": counts}))
@example({"total_s": math.nan})
@example({"total_s": 5e-324})
def test_a_drafter_beside_none(changes: dict[str, Any]) -> None:
    record = runs.cell()
    odd = tuple(r.model_copy(update=changes) for r in record.prompts)
    found = of_cell("run", record.model_copy(update={"prompts": odd}), NONE)
    assert isinstance(found, Evidence)
    if recipe.choose("use", [found]).kind == "drafter":
        assert 0 < (changes["total_s"] or 0) < math.inf


# Paired estimates


@few
@given(numbers, numbers)
@example(math.nan, 0)
@example(1e300, 8)
@example(10**30, 10**30)
def test_the_bound_on_a_share(m: float, seen: float) -> None:
    try:
        bound = paired.share_bound(m, seen=seen)  # type: ignore[arg-type]
    except ValueError:
        return
    assert 0 <= bound <= 1


@few
@given(st.sampled_from((*paired.LOOKS, 17, -1)), numbers, numbers)
@example(16, 1e300, 0.5)
@example(16, 5e-324, 0.5)
def test_what_a_look_takes(look: int, df: float, p: float) -> None:
    try:
        regressed, ok = paired.sequential_thresholds(look, df)
    except ValueError:
        pass
    else:
        assert look in paired.LOOKS
        assert regressed > 3
        assert ok > 1.7
    try:
        quantile = paired.student(p, df)
    except ValueError:
        return
    assert not math.isnan(quantile)


@few
@given(numbers)
def test_the_alpha_of_ok(m: float) -> None:
    assert paired.alpha_ok(m) == (paired.ALPHA_OK if m >= 80 else paired.ALPHA_OK_FEW)  # type: ignore[arg-type]
    assert math.isnan(m) or 0 <= paired.tail(float(m)) <= 1


# Steps


steps = st.lists(st.sampled_from((-1, 0, 1, 9, 2**53, 10**30)), max_size=8)


@few
@given(steps, steps, counts)
def test_two_answers_step_by_step(old: list[int], new: list[int], tokens: int) -> None:
    fewer, both = same_text.matched(old, new)
    assert 0 <= fewer <= both <= min(len(old), len(new))
    assert 0 <= same_text.common_tokens(old, new) <= min(len(old), len(new))
    assert 0 <= same_text.steps_within(old, tokens) <= len(old)


@few
@given(st.lists(numbers, min_size=3, max_size=6), st.lists(numbers, min_size=3, max_size=6), numbers)
@example([1e300, 30, 20], [40, 30, 20], 1)
@example([80, 40, 20], [80, 40, 20], math.nan)
@example([80, 40, 20], [80, 40, 20], math.inf)
@example([80, 40, 20], [80, 40, 20], -1)
def test_what_depth_loses(before: list[float], after: list[float], odd: float) -> None:
    sides = [
        np.repeat(np.array(side[:3], dtype=float)[:, np.newaxis], 24, axis=1) for side in (before, after)
    ]
    sides[1][1, 0] = odd
    found = depth.mechanism(*sides)
    for one in (found.first, found.together, *found.depths) if found else ():
        assert all(map(math.isfinite, (one.estimate, one.se, one.df, *one.ci)))


# Suites


def side(shared: dict[str, Any], drafts: bool) -> Side:  # noqa: FBT001
    make = runs.cell if drafts else runs.plain
    return Side(cold=make(), shared=make().model_copy(update={"counters": shared}))


COUNTERS = st.fixed_dictionaries({}, optional=dict.fromkeys(("cached", "queried", "finished"), numbers))


@few
@given(COUNTERS, COUNTERS)
@example({"cached": math.nan, "finished": 12}, {"cached": 8, "finished": 12})
@example({"cached": 8, "finished": 12}, {"cached": math.nan, "finished": 12})
def test_hits_in_the_prefix_cache(plain: dict[str, Any], drafted: dict[str, Any]) -> None:
    sides = side(plain, drafts=False), side(drafted, drafts=True)
    asked = len(sides[0].shared.prompts)
    for one in (plain, drafted):
        if one.get("finished"):
            one["finished"] = asked
    if prefix.judged(*sides)[0] in ("fine", "noteworthy"):
        assert all(0 <= one.get("cached", 0) < math.inf for one in (plain, drafted))
        assert plain["cached"] > 0


@few
@given(st.lists(counts, min_size=1, max_size=6).map(tuple), counts, counts)
def test_a_level_of_load(histogram: tuple[int, ...], undrafted: int, tokens: int) -> None:
    first = runs.level(1, runs.cell())
    odd: CellRecord = runs.cell()
    same = {"accepted": None, "drafted": None, "histogram": histogram, "undrafted": undrafted}
    prompts = tuple(r.model_copy(update={**same, "output_tokens": tokens}) for r in odd.prompts)
    other = Level(in_flight=4, asked=len(prompts), record=odd.model_copy(update={"prompts": prompts}))
    if load.compared(first, other).kind in PASSES:
        assert all(0 <= value <= 2**53 for value in (*histogram, undrafted, tokens))
