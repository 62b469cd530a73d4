from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from harness.errors import BadRecord
from harness.judge import speedup
from harness.judge.speedup import Session, SpeedRecord
from harness.results.records import load
from harness.results.timing import Work
from harness.suites import speed
from tests.factories.benches import bench, cell_of
from tests.factories.runs import cell, plain

SIX = (1.20, 1.22, 1.21, 1.19, 1.20, 1.21)
DAYS = (1.0, 1.012, 0.995, 1.004)
"""How fast the machine was in each session."""


def work(tok_s: float, *, steps: int = 400) -> Work:
    return Work(tokens=640, steps=steps, seconds=640 / tok_s)


def sessions(
    none: float = 30.0, drafter: float = 36.0, *, days: Sequence[float] = DAYS, month: int = 2
) -> tuple[Session, ...]:
    """Sessions of six pairs, at so many tok/s; those of a baseline are of January."""
    return tuple(
        Session(
            time=f"2026-{month:02d}-{at + 1:02d}",
            starts=tuple((work(none * day, steps=640), work(drafter * day * r / 1.205)) for r in SIX),
        )
        for at, day in enumerate(days)
    )


def record(ratios: tuple[float, ...] = SIX, **changes: Any) -> SpeedRecord:
    known: dict[str, Any] = {
        "stack": "tiny",
        "profile": "quick",
        "cell": {"endpoint": "chat", "language": "en", "workload": "instruct", "drafter": "ngram", "k": 4},
        "identity": {"endpoint": "chat", "max_tokens": 64},
        "subject": {"drafter": "ngram"},
        "environment": {"cpu": "A CPU", "gpus": []},
        "provenance": {},
        "ratios": ratios,
        "sessions": sessions(month=1),
    }
    return SpeedRecord.model_validate({**known, **changes})


def test_a_speed_up_is_the_geometric_mean_with_students_interval_over_pairs() -> None:
    found = speedup.speed_up((2.0, 8.0))

    assert found.value == pytest.approx(4.0)
    low, high = stats.t.interval(0.95, 1, loc=math.log(4), scale=stats.sem([math.log(2), math.log(8)]))
    assert (found.low, found.high) == pytest.approx((math.exp(low), math.exp(high)))
    assert str(speedup.speed_up(SIX)).startswith("1.20x (95 % CI 1.19..1.22 over 6 pairs")


@pytest.mark.parametrize(
    ("none", "drafter", "kind"),
    [
        (1.0, 1.0, "ok"),
        (1.0, 0.99, "ok"),
        (1.0, 0.90, "regressed"),
        (1.0, 1.10, "improved"),
        (0.90, 0.90, "regressed"),  # the speed-up stays the same
        (0.90, 0.92, "regressed"),  # and here it rises
        (1.20, 1.0, "ok"),  # and here it falls, while the drafter is as fast as it was
    ],
)
def test_a_verdict_compares_the_drafters_own_speed_over_sessions(
    none: float, drafter: float, kind: str
) -> None:
    now = sessions(30 * none, 36 * drafter, days=(*DAYS[1:], 1.001, 0.993))

    assert speedup.judge(record(), record(sessions=now)).kind == kind


@pytest.mark.parametrize(("none", "drafter"), [(0.9, 0.9), (0.9, 0.95), (1.0, 1.0), (1.0, 0.5)])
@pytest.mark.parametrize(("before", "after"), [(1, 1), (4, 3), (3, 4), (0, 4), (0, 0)])
def test_over_few_sessions_speed_then_and_now_is_a_footnote(
    none: float, drafter: float, before: int, after: int
) -> None:
    """What changed may be the day: neither fine nor a gain nor a loss is said of it."""
    old, new = record(sessions=sessions(month=1)[:before]), sessions(30 * none, 36 * drafter)[:after]

    verdict = speedup.judge(old, record(sessions=new))

    assert verdict.kind == "inconclusive"
    assert f"{before} and {after} sessions" in verdict.text


def test_one_session_is_one_observation_however_many_starts_it_has() -> None:
    """Two slow days of two: what their starts agree on is the day."""
    slow = sessions(days=(1.0, 1.0, 0.93, 0.93))

    assert speedup.judge(record(), record(sessions=slow)).kind == "inconclusive"


def test_the_sessions_of_a_run_are_all_those_of_its_conditions(tmp_path: Path) -> None:
    first, second, third, last = (record(sessions=(one,)) for one in sessions())
    other = record(sessions=sessions(days=(1, 1, 1, 1, 1.5))[-1:], subject={"drafter": "another"})
    for at, one in enumerate((third, first, last, second, other)):
        speedup.write(tmp_path / f"run{at}" / "speed" / f"{one.cell}.json", one)
    (tmp_path / "run0/speed" / f"{first.cell}.json").with_name("torn.json").write_text("{")
    (tmp_path / "run9/speed").mkdir(parents=True)
    (tmp_path / "run9/speed" / f"{first.cell}.json").write_text("{")

    assert speedup.with_sessions(tmp_path, second).sessions == (
        *(one.sessions[0] for one in (first, third, last)),
        second.sessions[0],
    )


def test_a_speed_up_is_split_into_tokens_and_time_per_step() -> None:
    found = speedup.over_none(sessions()[0])

    assert found.tokens.change == pytest.approx(0.6)
    assert found.speed.estimate == pytest.approx(found.tokens.estimate - found.seconds.estimate)
    assert found.unit == "pairs of starts"


def test_sessions_that_are_all_alike_are_judged_by_the_margin() -> None:
    before = record(sessions=sessions(days=(1.0,) * 4, month=1))
    alike, slower = (record(sessions=sessions(drafter=d, days=(1.0,) * 4)) for d in (36.0, 33.0))

    assert speedup.judge(before, alike).kind == "ok"
    assert speedup.judge(before, slower).kind == "regressed"


def test_a_session_of_the_baseline_is_not_one_of_the_new_ones() -> None:
    """Runs that were made the baseline lie among the results, too."""
    before, one = record(), sessions()[:1]

    verdict = speedup.judge(before, record(sessions=(*before.sessions, *one)))

    assert verdict.kind == "inconclusive"
    assert "4 and 1 sessions" in verdict.text


@pytest.mark.parametrize(
    ("what", "value", "named"),
    [
        ("environment", {"cpu": "Another", "gpus": []}, ("cpu", "A CPU", "Another")),
        ("identity", {"endpoint": "raw", "max_tokens": 64}, ("endpoint", "chat", "raw")),
    ],
)
def test_speed_elsewhere_or_of_something_else_is_refused(
    what: str, value: dict[str, Any], named: tuple[str, ...]
) -> None:
    verdict = speedup.judge(record(), record(**{what: value}))

    assert verdict.kind == "invalid"
    assert all(part in verdict.text for part in named)


def test_fewer_than_six_pairs_of_starts_are_no_claim() -> None:
    verdict = speedup.judge(record(), record(SIX[:5]))

    assert verdict.kind == "invalid"
    assert "6 and 5 pairs" in verdict.text


def test_a_stored_speed_up_reads_back_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    path = speedup.path_of(tmp_path, record())
    assert speedup.find(tmp_path, record()) is None

    speedup.write(path, record())
    assert speedup.find(tmp_path, record()) == record()
    assert path == tmp_path / "tiny/cpu/quick/speed/chat-en-instruct-ngram-k4.json"

    path.write_text(path.read_text()[:100])
    with pytest.raises(BadRecord, match="not JSON"):
        speedup.find(tmp_path, record())


@pytest.mark.parametrize("rates", [(1e-3, 1e5), (1e5, 1e-3)])
def test_starts_that_nobody_can_have_timed_are_no_measurement(
    rates: tuple[float, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quotient that rounds to 0, or that no machine reaches, cannot be stored."""
    monkeypatch.setattr(speed, "_one_start", lambda _, which, __: cell() if which.name.k else plain())
    monkeypatch.setattr(speed, "_work", lambda record: work(rates[record.cell.k == 0]))
    assert speed.speed_up(bench(tmp_path), cell_of(bench(tmp_path))).kind == "invalid"


def test_the_table_of_a_speed_up_says_what_it_is_made_of_and_how_the_engine_ran_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides = {0: plain(seconds=4.0), 4: cell()}
    for k, runner in ((0, "V2"), (4, "V1")):
        subject = sides[k].subject.model_copy(update={"execution": {"runner": runner}})
        sides[k] = sides[k].model_copy(update={"subject": subject})
    monkeypatch.setattr(speed, "_one_start", lambda _, which, __: sides[which.name.k])
    ours = bench(tmp_path, gate="off")

    found = speed.speed_up(ours, cell_of(ours))

    assert "tokens per step" in found.table_text()
    assert "ms per step" in found.table_text()
    assert "by different paths: runner V2 -> V1" in found.table_text()
    assert found.sentence in found.table_text()


def test_a_busy_machine_is_noted_and_stays_in_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides = {0: plain(seconds=4.0), 4: cell()}
    for k, others in ((0, 0.01), (4, 0.38)):
        around = {"surroundings": {"others": others}}
        sides[k] = sides[k].model_copy(update={"provenance": around})
    monkeypatch.setattr(speed, "_one_start", lambda _, which, __: sides[which.name.k])
    ours = bench(tmp_path, gate="off")

    found = speed.speed_up(ours, cell_of(ours))

    assert "38%" in found.table_text()
    (kept,) = ours.run.folder.glob("speed/*.json")
    assert load(kept, SpeedRecord).provenance["surroundings"]["others"] == 0.38
