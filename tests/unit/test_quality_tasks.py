"""Standard tasks by lm-eval: how its results are read, and what is said where it is not there."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from harness.errors import BadInput, ServerFailed
from harness.suites import quality_tasks
from tests.factories import benches

RESULTS = {
    "results": {
        "arc_easy": {
            "alias": "arc_easy", "name": "arc_easy", "sample_len": 100,
            "acc,none": 0.41, "acc_stderr,none": 0.0494, "acc_norm,none": 0.4, "acc_norm_stderr,none": "N/A",
        },
        "gsm8k": {"exact_match,strict-match": 0.02, "exact_match_stderr,strict-match": 0.014},
    },
    "n-samples": {"arc_easy": {"original": 2376, "effective": 100}},
}  # fmt: skip


def test_each_metric_of_a_task_is_a_row_with_lm_evals_own_standard_error() -> None:
    rows = quality_tasks.results_of(RESULTS)

    assert [(row["task"], row["metric"], row["n"], row["value"], row["stderr"]) for row in rows] == [
        ("arc_easy", "acc", 100, 0.41, 0.0494),
        ("arc_easy", "acc_norm", 100, 0.4, None),
        ("gsm8k", "exact_match (strict-match)", None, 0.02, 0.014),
    ]


@pytest.mark.parametrize("data", [[], {}, {"results": []}, {"results": {"arc_easy": 3}}])
def test_results_of_another_form_are_refused(data: Any) -> None:
    with pytest.raises(ServerFailed) as caught:
        quality_tasks.results_of(data)
    assert caught.value.code == "lm-eval-failed"


def test_without_lm_eval_the_extra_is_named_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    bench = benches.bench(tmp_path, tasks="arc_easy")

    with pytest.raises(BadInput, match=r"draftgate\[quality\]") as caught:
        quality_tasks.SUITE.plan(bench.run, [benches.cell_of(bench)])
    assert caught.value.code == "extra-missing"


def test_tasks_are_asked_where_the_command_line_names_some(tmp_path: Path) -> None:
    bench = benches.bench(tmp_path)
    takes, cell, stack = quality_tasks.SUITE.takes, benches.cell_of(bench), bench.run.options.stack

    assert takes(cell, stack, "bench_suites/test_quality.py --tasks arc_easy")
    assert not takes(cell, stack, "bench_suites/test_quality.py")
