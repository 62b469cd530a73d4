"""How cases are divided among machines, and what is no plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from harness.commands import plan as plan_command
from harness.errors import BadInput
from harness.results.shards import Case, Plan, Shard, Unit, divided, named
from tests.factories.terminal import fits_80_columns


def unit(name: str, seconds: tuple[float, ...] | None, start_s: float = 10, cases: int = 1) -> Unit:
    count = cases if seconds is None else len(seconds)
    return Unit(
        cases=tuple(Case(case=f"{name}[{i}]", server=name) for i in range(count)),
        servers=(name,),
        start_s=start_s,
        seconds=seconds,
    )


def cases_of(shares: list[list[Unit]]) -> list[str]:
    return sorted(case.case for share in shares for one in share for case in one.cases)


units = st.lists(
    st.one_of(st.none(), st.lists(st.floats(0.1, 100), min_size=1, max_size=6).map(tuple)),
    min_size=1,
    max_size=8,
).map(lambda times: [unit(f"s{i}", seconds, cases=3) for i, seconds in enumerate(times)])


@given(units, st.integers(1, 12))
def test_every_case_is_on_one_machine(given_units: list[Unit], count: int) -> None:
    shares = divided(given_units, count)

    assert cases_of(shares) == cases_of([given_units])
    assert len(shares) <= count
    assert all(shares)


@given(units, st.integers(1, 12))
def test_no_machine_works_longer_than_the_bound(given_units: list[Unit], count: int) -> None:
    """Graham's bound for a list of jobs, of those that were made: total / m + (1 - 1/m) of the longest."""
    known = [one for one in given_units if one.seconds is not None]
    if not known:
        return
    shares = divided(known, count)
    jobs = [one.total_s for share in shares for one in share]
    m = len(shares)

    assert max(sum(one.total_s for one in share) for share in shares) <= (
        sum(jobs) / m + (1 - 1 / m) * max(jobs) + 1e-6
    )


def test_the_longest_server_is_cut_where_machines_would_be_idle() -> None:
    shares = divided([unit("a", (60.0, 60.0, 60.0, 60.0)), unit("b", (10.0,))], 3)

    times = sorted(sum(one.total_s for one in share) for share in shares)
    assert times == [20, 130, 130]


def test_what_is_of_unknown_length_is_spread_and_never_cut() -> None:
    shares = divided([unit("a", None, cases=4), unit("b", None, cases=4), unit("c", (5.0,))], 4)

    assert sorted(len(share) for share in shares) == [1, 1, 1]
    assert sorted(len(one.cases) for share in shares for one in share) == [1, 4, 4]


def a_plan() -> Plan:
    shard = Shard(number=0, command=("draftgate",), devices=1, seconds=1.5, servers=("none",), cases=())
    return Plan(stack="tiny", profile="quick", draftgate="1", options={}, shards=(shard,)).sealed()


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(a_plan().text())

    assert named(f"{file}:0") == (a_plan(), a_plan().shards[0])


@pytest.mark.parametrize(
    ("text", "number", "code"),
    [
        (a_plan().text().replace("1.5", "0.5"), ":0", "not-a-plan"),
        (a_plan().text().replace("tiny", "huge"), ":0", "not-a-plan"),
        (json.dumps({"schema": 1}), ":0", "not-a-plan"),
        ("[]", ":0", "not-a-plan"),
        ("", ":0", "not-a-plan"),
        ("half {", ":0", "not-a-plan"),
        (a_plan().text(), ":1", "option-value"),
        (a_plan().text(), ":-1", "option-value"),
        (a_plan().text(), "", "option-value"),
    ],
)
def test_what_is_no_plan_is_refused(tmp_path: Path, text: str, number: str, code: str) -> None:
    file = tmp_path / "plan.json"
    file.write_text(text)

    with pytest.raises(BadInput) as refused:
        named(f"{file}{number}")

    assert refused.value.code == code


def test_a_narrow_terminal_gets_lines_of_its_width(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = [
        Shard(
            number=i, devices=2, seconds=5000.0, cases=(),
            servers=tuple(f"a-drafter-of-a-long-name-k{k}" for k in (1, 2, 4, 8)),
        )
        for i in range(12)
    ]  # fmt: skip
    made = a_plan().model_copy(update={"shards": tuple(shards)}).sealed()
    monkeypatch.setattr(plan_command, "planned", lambda *_, **__: made)

    fits_80_columns(("plan", "--shards", "12"), monkeypatch, capsys)
