from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from harness.errors import BadRecord
from harness.judge import speedup
from harness.judge.speedup import SpeedRecord
from harness.suites import speed
from tests.factories.benches import bench, cell_of
from tests.factories.runs import cell, plain

SIX = (1.20, 1.22, 1.21, 1.19, 1.20, 1.21)


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
    }
    return SpeedRecord.model_validate({**known, **changes})


def test_a_speed_up_is_the_geometric_mean_with_students_interval_over_pairs() -> None:
    found = speedup.speed_up((2.0, 8.0))

    assert found.value == pytest.approx(4.0)
    low, high = stats.t.interval(0.95, 1, loc=math.log(4), scale=stats.sem([math.log(2), math.log(8)]))
    assert (found.low, found.high) == pytest.approx((math.exp(low), math.exp(high)))
    assert str(speedup.speed_up(SIX)).startswith("1.20x (95 % CI 1.19..1.22 over 6 pairs")


@pytest.mark.parametrize(
    ("factor", "kind"), [(1.0, "ok"), (0.99, "ok"), (0.90, "regressed"), (1.10, "improved")]
)
def test_a_verdict_compares_two_sets_of_pairs(factor: float, kind: str) -> None:
    assert speedup.judge(record(), record(tuple(r * factor for r in SIX))).kind == kind


def test_starts_that_differ_too_much_decide_nothing() -> None:
    wild = (0.9, 1.5, 1.1, 1.3, 0.8, 1.6)

    verdict = speedup.judge(record(wild), record(wild))

    assert verdict.kind == "inconclusive"
    assert "--pairs" in verdict.text


def test_a_significant_loss_inside_the_margin_is_ok() -> None:
    exact = tuple(1.2 + i * 1e-6 for i in range(6))

    assert speedup.judge(record(exact), record(tuple(r * 0.98 for r in exact))).kind == "ok"


def test_starts_that_are_all_alike_are_judged_by_the_margin() -> None:
    assert speedup.judge(record((1.2,) * 6), record((1.2,) * 6)).kind == "ok"
    assert speedup.judge(record((1.2,) * 6), record((1.1,) * 6)).kind == "regressed"


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
    monkeypatch.setattr(speed, "_rate", lambda record: rates[record.cell.k == 0])
    assert speed.speed_up(bench(tmp_path), cell_of(bench(tmp_path))).kind == "invalid"
