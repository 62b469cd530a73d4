"""What the soak calls growth and loss; the soak itself runs at night, on an engine."""

from __future__ import annotations

from typing import Any

from tests.factories.records import prompt_record
from tests.perf import soak


def figures(*rss: int, **changes: Any) -> dict[str, Any]:
    readings = [{"requests": 200 * (i + 1), "rss_bytes": bytes_} for i, bytes_ in enumerate(rss)]
    known = {
        "requests": 1000,
        "records": 1000,
        "lines": 1000,
        "failed": 0,
        "findings": [],
        "record_bytes": 4000,
    }
    return {**known, "readings": readings, **changes}


def test_the_records_are_no_leak_and_the_warm_up_does_not_count() -> None:
    found = figures(50_000_000, 80_000_000, 80_800_000, 81_600_000, 82_400_000)

    assert soak.grown(found) == 0
    assert soak.faults(found) == []


def test_a_leak_is_told() -> None:
    leaking = figures(0, 80_000_000, 83_000_000, 86_000_000, 89_000_000)

    assert soak.faults(leaking) == ["memory grew by 6.3 MiB beside its records"]


def test_a_lost_record_and_a_failed_request_are_told() -> None:
    assert soak.faults(figures(0, 0, records=999, lines=998, failed=1)) == [
        "999 records of 1000 requests are on disk",
        "998 lines of 1000 requests are on disk",
        "1 of 1000 requests had no answer",
    ]


def test_what_a_record_takes_is_measured() -> None:
    small = soak.bytes_of((prompt_record(),) * 50)
    large = soak.bytes_of((prompt_record(text="x" * 10_000),) * 50)

    assert 500 < small < 20_000
    assert 9_000 < large - small < 11_000
