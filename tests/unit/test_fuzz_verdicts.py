"""A verdict made of zero, of huge numbers or of none at all is a refusal: never a pass, a crash or NaN."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from harness.judge import speedup
from harness.judge.collect import collect
from harness.judge.compare import compare
from harness.judge.confirmation import confirmed
from harness.judge.pairing import Pairs
from harness.judge.speedup import SpeedRecord
from harness.judge.verdict import judge, judge_pairs
from harness.report.compare_table import document
from harness.report.export import as_data
from harness.report.run_table import report as run_report, verdict_report
from harness.results.records import CellRecord, PromptRecord
from harness.results.timing import speed_of
from harness.stats import paired, planning, same_text
from harness.suites import endpoints, known_answers, load, lossless, parity
from harness.suites.known_answers import DraftToken
from harness.suites.load import Bound, Level
from harness.suites.lossless import Divergence
from harness.text.render import as_json, as_text, lay_out
from tests.factories import audits, predictions, runs
from tests.factories.records import prompt_record
from tests.factories.runs import write_cell
from tests.factories.simulated import cell, dead_from, drafter

COUNTS = (0, 1, 8, 2**53, 2**63, 10**30)
NUMBERS = (*COUNTS, -1, 0.5, 1e300, 5e-324, math.nan, math.inf, -math.inf)
counts, numbers = st.sampled_from(COUNTS), st.sampled_from(NUMBERS)
few = settings(max_examples=40, suppress_health_check=list(HealthCheck))
PASSES = {"identical", "ok", "improved", "kept", "better"}


def sound(text: str) -> None:
    """A reader can use every figure in it."""
    assert not re.search(r"\b(nan|inf|infinity)\b", text, re.IGNORECASE), text
    assert not re.search(r"\d{40}", text), text


def usable(*values: float) -> bool:
    """What an engine may have counted or measured."""
    return all(0 <= value <= 2**53 for value in values)


@few
@given(st.lists(st.tuples(numbers, numbers, numbers, numbers), max_size=12))
@example([(1e300, 1e300, 1e300, 1e300)] * 8)
@example([(2**53, 1, 2**53, 1), *[(1, 1, 2, 1)] * 8])
def test_a_paired_change(rows: list[tuple[float, ...]]) -> None:
    sides = tuple(zip(*rows, strict=True)) or ((), (), (), ())
    for function in (paired.paired_log_ratio, paired.paired_difference):
        try:
            change = function(*sides)
        except ValueError:
            continue
        assert usable(*itertools.chain(*rows))
        values = (
            change.r0,
            change.r1,
            change.estimate,
            change.se,
            change.df,
            change.p_loss(),
            change.p_gain(),
        )
        assert all(map(math.isfinite, values))
        assert change.se >= 0
        assert change.df > 0
        ends = (*change.ci(), *change.repeated_ci(16), change.lower_bound())
        assert not any(map(math.isnan, ends))


@few
@given(numbers, numbers, st.sampled_from((0, 1, 8, 10_000, 2**63)), numbers)
def test_a_plan(estimate: float, se: float, m: int, df: float) -> None:
    try:
        loss = planning.minimum_detectable_loss(se, df)
        prompts = planning.prompts_to_settle(estimate, se, m, df)
    except ValueError:
        return
    assert 0 <= loss <= 1
    assert prompts is None or prompts >= paired.MIN_PROMPTS


@few
@given(numbers, numbers, numbers)
def test_the_p_of_many(one: float, two: float, three: float) -> None:
    try:
        ps = (*paired.holm([one, two, three]), paired.cell_p(one, positions=two, prompts=three))
    except ValueError:
        assert not all(0 <= p <= 1 for p in (one, two, three))
    else:
        assert all(0 <= p <= 1 for p in ps)


LARGER = (0, 1, 8, 10_000, 2**53, 2**63)


@pytest.mark.parametrize(("fewer", "steps"), list(itertools.combinations_with_replacement(LARGER, 2)))
def test_the_p_of_a_prompt(fewer: int, steps: int) -> None:
    p = same_text.p_of(fewer, steps)
    assert 0 <= p <= 1
    assert (p > 0.05) or fewer > same_text.CHANCE * steps


@few
@given(numbers, numbers)
def test_the_loss_that_may_hide(rate: float, share: float) -> None:
    try:
        loss = same_text.unseen_loss(rate, share)
    except ValueError:
        return
    assert 0 <= loss <= 1


def with_counts(record: CellRecord, **changes: Any) -> CellRecord:
    """The same cell, but every prompt counts this: as no reader of a file would let it through."""
    prompts = tuple(
        r.model_copy(update={"accepted": None, "drafted": None, **changes}) for r in record.prompts
    )
    return record.model_copy(update={"prompts": prompts})


SMALL = cell(drafter(1, prompts=24))


@few
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "histogram": st.lists(counts, min_size=1, max_size=6).map(tuple),
            "undrafted": counts,
            "output_tokens": counts,
        },
    ),
    st.booleans(),
    st.sampled_from((None, 16, 80, 17, 0, -1)),
)
def test_a_cell(changes: dict[str, Any], both: bool, look: int | None) -> None:  # noqa: FBT001
    new = with_counts(SMALL, **changes).model_copy(update={"stopped_at": look})
    verdict = judge(with_counts(SMALL, **changes) if both else SMALL, new)
    if verdict.kind != "invalid":  # a refusal names the value
        sound(verdict.text)
    sums = (changes.get(name, 0) for name in ("undrafted", "output_tokens"))
    used = (*changes.get("histogram", ()), *sums)
    if verdict.kind in PASSES:
        assert usable(*used)
    if usable(*used):
        verdict_report([(new, verdict)])
        sound(run_report([new]))


RED = judge(SMALL, cell(dead_from(drafter(1, prompts=24), 0), text="other"))


@few
@given(st.lists(counts, min_size=1, max_size=6).map(tuple), counts, counts)
def test_a_second_look(histogram: tuple[int, ...], undrafted: int, tokens: int) -> None:
    assert RED.kind == "regressed"
    reserve = with_counts(SMALL, histogram=histogram, undrafted=undrafted, output_tokens=tokens)
    verdict = confirmed(RED, SMALL, reserve)
    assert verdict.kind in ("regressed", "inconclusive")
    if verdict.kind == "inconclusive":
        assert usable(*histogram, undrafted, tokens)
        assert 0.05 < (verdict.confirmation or 0) <= 1


PARTED = tuple(
    cell(drafter(1, prompts=24), parts=np.full(24, 60), text=text, identity=SMALL.identity) for text in "tu"
)


@few
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "accepted": st.lists(counts, max_size=6).map(tuple) | st.just((1,) * 200),
            "histogram": st.lists(counts, min_size=1, max_size=6).map(tuple),
            "undrafted": counts,
            "output_tokens": counts,
            "token_ids": st.sampled_from(((), (0,) * 3, (0,) * 96, (7,) * 200)),
        },
    ),
    st.sampled_from((None, 16, 80)),
)
def test_answers_whose_texts_part(changes: dict[str, Any], look: int | None) -> None:
    old, new = PARTED
    prompts = tuple(r.model_copy(update=changes) for r in new.prompts)
    verdict = judge(old, new.model_copy(update={"prompts": prompts, "stopped_at": look}))
    if verdict.kind != "invalid":
        sound(verdict.text)
    if verdict.kind in PASSES and verdict.share is None:
        sums = (changes.get(name, 0) for name in ("undrafted", "output_tokens"))
        assert usable(*changes.get("histogram", ()), *sums)


@pytest.mark.parametrize("look", [-1, 0, 17, 81, 2**63])
def test_a_look_that_nobody_planned(look: int) -> None:
    worse = cell(dead_from(drafter(1, prompts=24), 1))
    for new in (SMALL, worse):
        assert judge(SMALL, new.model_copy(update={"stopped_at": look})).kind == "invalid"


def test_ten_thousand_prompts() -> None:
    row = drafter(3, prompts=1)
    whole, dead = (cell(table).prompts for table in (row, dead_from(row, 1)))
    assert judge_pairs(Pairs(prompts=((whole, whole),) * 10_000, notes=())).kind == "identical"
    lost = judge_pairs(Pairs(prompts=((whole, dead), (whole, whole)) * 5_000, notes=()))
    assert lost.kind == "regressed"
    sound(lost.text)


def test_one_answer_of_nearly_all_steps(tmp_path: Path) -> None:
    """Seven short answers and one of thousands of steps are worth one prompt: no t test can say a thing."""

    def side(*histogram: int) -> CellRecord:
        steps = {
            "histogram": histogram,
            "output_tokens": 1 + sum((j + 1) * n for j, n in enumerate(histogram)),
        }
        whole = with_counts(SMALL, undrafted=0, finish="stop", steps=None)
        long, *short = (r.model_copy(update=steps) for r in whole.prompts[:8])
        brief = ({"histogram": (1, 0, 0, 0, i % 2), "output_tokens": 2 + 5 * (i % 2)} for i in range(7))
        return whole.model_copy(
            update={"prompts": (long, *(r.model_copy(update=b) for r, b in zip(short, brief, strict=True)))}
        )

    old, new = side(2000, 100, 100, 100, 100), side(2100, 100, 100, 100, 90)
    assert judge(old, old).kind == "identical"
    verdict = judge(old, new)
    assert verdict.kind == "inconclusive"
    assert verdict.interval is None
    sound(verdict.text)
    sides = [collect(write_cell(tmp_path / name, record)) for name, record in (("a", old), ("b", new))]
    sound(as_json(as_data(compare(sides), exit_code=0)).replace("Infinity", "inf"))
    sound(as_text(document(compare(sides))))


@few
@given(st.lists(numbers, max_size=8), st.integers(0, 8))
def test_speed_ups(ratios: list[float], good: int) -> None:
    heads = {name: getattr(SMALL, name) for name in ("cell", "identity", "subject", "environment")}
    known = {"stack": "s", "profile": "p", "provenance": {}, **heads}
    old = SpeedRecord.model_construct(**known, ratios=(1.2, 1.25, 1.22, 1.21, 1.24, 1.23))
    new = SpeedRecord.model_construct(**known, ratios=(*ratios, *[1.2] * good))
    for pair in ((old, new), (new, old), (new, new)):
        verdict = speedup.judge(*pair)
        if verdict.kind != "invalid":  # a refusal names the value
            sound(verdict.text)
        if not all(1e-6 <= ratio <= 1e6 for ratio in ratios):
            assert verdict.kind not in PASSES


@few
@given(st.lists(numbers, max_size=10), counts, counts)
@example([math.nan], 1, 8)
@example([-math.inf], 0, 8)
def test_answers_that_part(gaps: list[float], noise: int, prompts: int) -> None:
    parted = [Divergence(prompt=f"p{i}", at=i, gap=gap) for i, gap in enumerate(gaps)]
    outcome, _ = lossless.judge_greedy(parted, noise, prompts)
    if outcome == "ok":
        assert prompts > 0
        assert len(parted) <= prompts
        assert noise <= prompts
        assert all(0 <= abs(gap) <= known_answers.TIE or gap < 0 for gap in gaps)
        assert all(map(math.isfinite, gaps))


@few
@given(
    st.dictionaries(st.integers(0, 3), numbers, max_size=4),
    st.sampled_from((0, 1, 9)),
    st.sampled_from((0, 1, 9)),
)
def test_the_odds_where_answers_part(logprobs: dict[int, float], plain: int, drafted: int) -> None:
    gap = lossless.gap_at(logprobs, plain, drafted)
    outcome, _ = lossless.judge_greedy([Divergence(prompt="p", at=1, gap=gap)], 0, 8)
    if outcome == "ok":
        assert logprobs
        assert all(map(math.isfinite, logprobs.values()))


SAMPLES = st.dictionaries(
    st.sampled_from(("a", "b")),
    st.lists(st.lists(st.integers(0, 2), max_size=2).map(tuple), max_size=6),
    max_size=2,
)


@few
@given(SAMPLES, SAMPLES, counts)
def test_sampled_answers(
    monkeypatch: pytest.MonkeyPatch,
    plain: dict[str, list[tuple[int, ...]]],
    drafted: dict[str, list[tuple[int, ...]]],
    checked: int,
) -> None:
    monkeypatch.setattr(lossless, "PERMUTATIONS", 99)
    outcome, text = lossless.judge_sampled(plain, drafted, checked=checked, rng=np.random.default_rng(0))
    sound(text)
    if outcome == "ok":
        assert {prompt: len(answers) for prompt, answers in plain.items()} == {
            prompt: len(answers) for prompt, answers in drafted.items()
        }
        assert sum(map(len, plain.values())) >= 6


@few
@given(
    st.lists(st.tuples(st.sampled_from((-1, 0, 1, 9)), st.booleans(), numbers, numbers), max_size=6),
    st.sampled_from((0, 1, 3)),
)
@example([(0, True, math.nan, 1.0)], 1)
@example([(0, False, 0.5, math.nan)] + [(0, True, 0.5, 1.0)] * 20, 1)
@example([(9, True, 0.5, 1.0)], 3)
def test_draft_tokens(tokens: list[tuple[int, bool, float, float]], k: int) -> None:
    drafts = [DraftToken(position=p, accepted=a, chance=c, gap=g) for p, a, c, g in tokens]
    greedy, said = known_answers.judge_greedy(drafts, k)
    sound(said)
    sampled, said = known_answers.judge_sampled(drafts, k)
    sound(said)
    if "ok" in (greedy, sampled):
        assert drafts
        assert all(0 <= draft.position < k for draft in drafts)
    if greedy == "ok":
        assert not any(math.isnan(draft.gap) for draft in drafts if not draft.accepted)
    if sampled == "ok":
        assert all(0 <= draft.chance <= 1 for draft in drafts)


@few
@given(st.dictionaries(st.integers(0, 3), numbers, max_size=4), st.sampled_from((0.0, 0.7, 1.0)))
def test_the_chance_of_a_draft_token(logprobs: dict[int, float], temperature: float) -> None:
    try:
        draft = known_answers.draft_token_of(0, logprobs, temperature, accepted=False)
    except ValueError:
        return
    for judged in (known_answers.judge_greedy, known_answers.judge_sampled):
        if judged([draft], 1)[0] == "ok":
            assert all(math.isfinite(value) and value <= 1e-6 for value in logprobs.values())


@few
@given(counts, counts, counts, st.sampled_from((0, 1, 3)))
def test_random_guesses(accepted: int, drafts: int, draft_tokens: int, k: int) -> None:
    outcome, _ = known_answers.judge_guessing(accepted, drafts, draft_tokens, k)
    if outcome == "ok":
        assert 0 < accepted <= drafts <= draft_tokens <= k * drafts


REACH = predictions.reaches(1, prompts=10)


@few
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "histogram": st.lists(counts, min_size=1, max_size=6).map(tuple),
            "undrafted": counts,
            "output_tokens": counts,
            "accepted": st.lists(counts, max_size=3).map(tuple),
        },
    ),
    st.sampled_from((0, 1, 7, 10)),
    st.sampled_from((1, 400, 2**53)),
)
@example({"histogram": (0,), "undrafted": 0}, 10, 400)
def test_what_was_promised(changes: dict[str, Any], prompts: int, max_tokens: int) -> None:
    record = with_counts(predictions.served(REACH), **changes)
    found = parity.compare(predictions.predicted(REACH)[:prompts], record, max_tokens=max_tokens)
    if found.kind != "invalid":
        sound(found.text)
        sound(lay_out([parity.table(found, None)]))
    if found.kind in PASSES:
        assert prompts >= 8
        assert usable(
            *changes.get("histogram", ()), changes.get("undrafted", 0), changes.get("output_tokens", 0)
        )


SECONDS = st.sampled_from((0.0, 1.0, 2.0, 2.0**53, 5e-324))
TIMES = {
    "began_s": SECONDS | st.sampled_from((1e300, -1e300, -1.0)),
    "ttft_s": SECONDS,
    "total_s": SECONDS,
    "output_tokens": st.sampled_from((0, 1, 2, 20, 2**53)),
}


def timed(changes: dict[str, Any]) -> PromptRecord:
    return prompt_record().model_copy(update=changes)


@few
@given(st.lists(st.fixed_dictionaries({}, optional=TIMES), max_size=4))
@example([{"began_s": 1e300}])
@example([{"total_s": 5e-324, "ttft_s": 0.0}])
@example([{"ttft_s": 8.0, "total_s": 1.0}])
def test_a_speed(each: list[dict[str, Any]]) -> None:
    records = [timed(changes) for changes in each]
    speed = speed_of(records)
    if speed is not None:
        figures = (speed.aggregate, speed.mean_prompt, speed.ttft_s, speed.tpot_s)
        assert all(math.isfinite(figure) and figure >= 0 for figure in figures)
        assert speed.aggregate > 0


@few
@given(st.lists(st.fixed_dictionaries({}, optional=TIMES), max_size=4), numbers, numbers, counts)
@example([], 1.0, 1.0, 0)
def test_a_load(each: list[dict[str, Any]], ttft_s: float, tpot_s: float, asked: int) -> None:
    bound = Bound(ttft_s=ttft_s, tpot_s=tpot_s)
    first = runs.level(1, runs.cell())
    prompts = tuple(timed({**changes, "prompt": str(i)}) for i, changes in enumerate(each))
    other = Level(
        in_flight=4, asked=asked, record=runs.cell(prompts=()).model_copy(update={"prompts": prompts})
    )
    good = [bound.kept(record) for record in prompts]
    for record, kept in zip(prompts, good, strict=True):
        if kept:
            assert 0 <= record.ttft_s <= record.total_s < math.inf  # type: ignore[operator]
    for levels in ([first, other], [other]):
        fine = not load.faults(levels)
        sound(lay_out(load.report(load.against_first(levels), bound)).partition("\n")[2])
        assert not fine or prompts


def emptied(record: CellRecord) -> CellRecord:
    return record.model_copy(update={"prompts": ()})


def test_endpoints_without_an_answer() -> None:
    sound_one = audits.good()
    nothing = endpoints.Audit(
        records={v: emptied(r) for v, r in sound_one.records.items()},
        rendered=dict.fromkeys(sound_one.rendered, ()),
    )
    assert nothing.faults()
    half = endpoints.Audit(
        records={**sound_one.records, endpoints.TEMPLATED: emptied(sound_one.records[endpoints.TEMPLATED])},
        rendered=sound_one.rendered,
    )
    assert half.faults()


@few
@given(st.lists(counts, min_size=1, max_size=6).map(tuple), counts, counts)
def test_endpoints(histogram: tuple[int, ...], undrafted: int, tokens: int) -> None:
    one = audits.good()
    record = with_counts(
        one.records[endpoints.TEMPLATED], histogram=histogram, undrafted=undrafted, output_tokens=tokens
    )
    found = endpoints.Audit(records={**one.records, endpoints.TEMPLATED: record}, rendered=one.rendered)
    if not found.faults():
        assert usable(*histogram, undrafted, tokens)
        assert tokens > 1
    sound(" ".join(found.sentences()))
