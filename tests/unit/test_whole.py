"""A cell file is checked as a whole: what a merge leaves of two is neither read nor compared."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from harness.cli import main
from harness.errors import BadRecord
from harness.plugin import DATA
from harness.report.run_table import footnotes
from harness.results.records import CellRecord, Finding, load
from harness.results.whole import said_of
from tests.factories.records import cell_record, prompt_record

SHIPPED = DATA.parent / "baselines"
GATE = SHIPPED / "smollm2-cpu/cpu/gate/acceptance/chat-en-instruct-ngram-k4.json"
"""It has a reserve."""
LINES = GATE.read_text(encoding="utf-8").splitlines()


def changed(line: str) -> str:
    """The same line of another measurement."""
    return re.sub(r"(\d)(\D*)$", lambda digit: str((int(digit[1]) + 1) % 10) + digit[2], line)


def test_every_shipped_baseline_agrees_with_itself() -> None:
    paths = sorted(SHIPPED.rglob("*.json"))
    assert paths
    for path in paths:
        assert load(path, CellRecord).prompts


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    begin=st.integers(1, len(LINES) - 2),
    count=st.integers(1, 4),
    same=st.booleans(),
    markers=st.booleans(),
)
def test_both_sides_of_a_conflict_are_refused_with_the_line(
    *, tmp_path: Path, begin: int, count: int, same: bool, markers: bool
) -> None:
    ours = LINES[begin : begin + count]
    theirs = ours if same else [changed(line) for line in ours]
    both = [*ours, *theirs]
    if markers:
        both = ["<<<<<<< HEAD", *ours, "=======", *theirs, ">>>>>>> theirs"]
    path = tmp_path / "c.json"
    path.write_text("\n".join([*LINES[:begin], *both, *LINES[begin + count :]]) + "\n", encoding="utf-8")
    with pytest.raises(BadRecord, match=re.escape(f"{path}, line ")):
        load(path, CellRecord)


def test_the_line_is_that_of_the_second_one(tmp_path: Path) -> None:
    at = next(i for i, line in enumerate(LINES) if line.startswith('{"prompt":"instruct-003"'))
    path = tmp_path / "c.json"
    path.write_text("\n".join([*LINES[: at + 1], *LINES[at:]]), encoding="utf-8")
    with pytest.raises(BadRecord, match=rf"c\.json, line {at + 2}: .*instruct-003"):
        load(path, CellRecord)


def data() -> Any:
    return json.loads(GATE.read_text(encoding="utf-8"))


def of_the_reserve(cell: Any) -> None:
    cell["reserve"].append(cell["reserve"][5])


def in_both(cell: Any) -> None:
    cell["reserve"].append(cell["prompts"][0])


def a_finding_twice(cell: Any) -> None:
    cell["findings"].append(cell["findings"][0])


def a_finding_of_another_number_of_prompts(cell: Any) -> None:
    text = f"3 of {len(cell['prompts']) + 1} answers end in a loop"
    cell["findings"].append({"code": "loops", "hard": False, "text": text})


def a_prompts_finding_lost(cell: Any) -> None:
    cell["prompts"][0]["findings"] = [{"code": "request-failed", "hard": True, "text": "p: HTTP 500"}]


def an_answer_of_another_run(cell: Any) -> None:
    of = cell["prompts"][0]
    of["histogram"] = [of["histogram"][0] + 1, *of["histogram"][1:]]
    of["accepted"] = of["drafted"] = of["steps"] = None


def counters_of_another_run(cell: Any) -> None:
    cell["counters"]["generated"] += 1


def a_text_of_another_answer(cell: Any) -> None:
    cell["prompts"][0]["text"] += "!"


@pytest.mark.parametrize(
    "change",
    [of_the_reserve, in_both, a_finding_twice, a_finding_of_another_number_of_prompts, a_prompts_finding_lost,
     an_answer_of_another_run, counters_of_another_run, a_text_of_another_answer],
)  # fmt: skip
def test_a_file_that_contradicts_itself_is_refused(
    tmp_path: Path, change: Callable[[Any], None], capsys: pytest.CaptureFixture[str]
) -> None:
    cell = data()
    change(cell)
    path = tmp_path / "c.json"
    path.write_text(json.dumps(cell, ensure_ascii=False), encoding="utf-8")
    with pytest.raises(BadRecord, match=r"c\.json, line 1: "):
        load(path, CellRecord)
    assert main(["compare", str(GATE), str(path)]) == 2
    assert "[damaged-file]" in capsys.readouterr().err


def test_repeats_and_a_failure_in_each_of_them_are_read(tmp_path: Path) -> None:
    cell = data()
    failed = {"code": "request-failed", "hard": True, "text": "instruct-001: HTTP 500"}
    cell["prompts"][0]["findings"] = [failed]
    cell["prompts"].append(cell["prompts"][0] | {"repeat": 1})
    cell["findings"] += [failed, failed]
    path = tmp_path / "c.json"
    path.write_text(json.dumps(cell), encoding="utf-8")
    assert not load(path, CellRecord).valid


def test_what_many_answers_have_in_common_is_said_once_with_their_number() -> None:
    def finding(prompt: str, what: str, code: str = "request-failed") -> Finding:
        return Finding.fatal(code, f"{prompt}: {what}")

    prompts = [prompt_record(prompt=f"p{i}") for i in range(4)]
    findings = [
        *(finding(p.prompt, f"HTTP 500 of request 5f2ab{i}90cd: no room") for i, p in enumerate(prompts[:3])),
        finding("p3", "HTTP 503 of request 5f2ab790cd: no room"),
        finding("p3", "HTTP 503: no server"),
        finding("nowhere", "HTTP 500 of request 1: no room"),
        finding("p0", "HTTP 500 of request 5f2ab090cd: no room", "not-reconciled"),
        Finding.note("loops", "3 of 4 answers end in a loop"),
    ]

    assert said_of(findings, prompts) == [
        (True, "3 of 4 answers, like p0: HTTP 500 of request 5f2ab090cd: no room"),
        (True, "p3: HTTP 503 of request 5f2ab790cd: no room"),
        (True, "p3: HTTP 503: no server"),
        (True, "nowhere: HTTP 500 of request 1: no room"),
        (True, "p0: HTTP 500 of request 5f2ab090cd: no room"),
        (False, "3 of 4 answers end in a loop"),
    ]


def test_a_cell_whose_requests_all_failed_alike_has_one_line() -> None:
    prompts = [
        prompt_record(
            prompt=f"p{i}",
            finish="error",
            findings=[{"code": "request-failed", "hard": True, "text": f"p{i}: HTTP 500"}],
        )
        for i in range(8)
    ]
    cell = cell_record(*prompts, findings=[f for p in prompts for f in p.findings])

    assert cell.why_invalid == "8 of 8 answers, like p0: HTTP 500"
    (line,) = footnotes([cell])
    assert line.startswith("INVALID: ")
