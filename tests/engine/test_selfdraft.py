"""The target drafting for itself: acceptance is known, so this is whether the instrument works."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from harness.config.prompts import load_prompts
from harness.engine.server import Server
from harness.judge import verdict
from harness.measure import validity
from harness.plugin import DATA
from harness.results.records import CellRecord
from harness.suites.self_drafting import check_itself

Measure = Callable[..., CellRecord]
AT_ZERO: dict[str, Any] = {"temperature": 0.0, "prompts": 4, "folder": "at-zero"}
SAMPLED: dict[str, Any] = {"temperature": 0.7, "prompts": 12, "max_tokens": 32, "folder": "sampled"}
"""Enough tokens to see each position fall."""


def at_once(engine: Server, shape: dict[str, Any]) -> dict[str, Any]:
    """All answers at once, to have them sooner, where the engine can tell requests apart."""
    return shape | {"concurrency": shape["prompts"] if engine.per_request else 1}


def falling_and_alive(acceptance: tuple[float | None, ...]) -> bool:
    """What T=0.7 must look like: every position accepts less than the one before, and none is dead."""
    rates = [rate or 0.0 for rate in acceptance]
    return all(a > b for a, b in itertools.pairwise(rates)) and min(rates) > 0.15


@pytest.fixture(scope="module")
def patched() -> dict[str, CellRecord]:
    """What the patched engine gave at a temperature: the baseline that the other one is judged against."""
    return {}


@pytest.mark.parametrize("engine", [("self", 3, "1")], indirect=True, ids=["mended"])
def test_with_the_patch_self_drafting_is_as_it_must_be(
    engine: Server, record_of: Measure, patched: dict[str, CellRecord]
) -> None:
    at_zero = record_of(**at_once(engine, AT_ZERO))
    sampled = patched["sampled"] = record_of(**at_once(engine, SAMPLED))

    assert at_zero.valid, at_zero.findings
    assert min(rate or 0 for rate in validity.total(at_zero.prompts).acceptance) >= 0.97
    assert sampled.valid, sampled.findings
    assert falling_and_alive(validity.total(sampled.prompts).acceptance)
    assert any(patch["mended"] for patch in engine.patches)
    assert "engine-mended" in {f.code for f in at_zero.findings}
    assert engine.log is not None
    assert "draftgate: patched expand_batch_to_tokens" in engine.log.read_text()


@pytest.mark.nightly  # a minute on slow cores; `make test-engine` runs it on older engines, which it is about
@pytest.mark.parametrize("engine", [("self", 3, "1")], indirect=True, ids=["mended"])
def test_an_engine_that_has_counters_alone_is_checked_by_its_stream(engine: Server) -> None:
    """vLLM before 0.29, GPU engines among them, does not tell each request's acceptance."""
    older = dataclasses.replace(engine, per_request=False)

    prompts = load_prompts(DATA / "prompts", "instruct", "en", at_most=2)
    found = check_itself(older, prompts, say=print, max_tokens=32)

    assert [check.outcome for check in found.checks] == ["ok", "ok"], found


UNMENDED = pytest.mark.parametrize("engine", [("self", 3, "probe")], indirect=True, ids=["unmended"])


@UNMENDED
def test_without_the_patch_the_same_check_fails_at_a_temperature(engine: Server) -> None:
    prompts = load_prompts(DATA / "prompts", "instruct", "en", at_most=2)
    found = check_itself(engine, prompts, say=print, max_tokens=40)

    assert [check.outcome for check in found.checks] == ["ok", "broken"], found
    assert {patch["probe"] for patch in engine.patches} == {"fault"}
    assert not any(patch["mended"] for patch in engine.patches)


@pytest.mark.nightly  # a minute and a half: that the check sees the fault, the test above shows
@UNMENDED
def test_without_the_patch_records_show_the_fault_and_the_gate_sees_it(
    engine: Server, record_of: Measure, patched: dict[str, CellRecord]
) -> None:
    at_zero = record_of(**at_once(engine, AT_ZERO))
    sampled = record_of(**at_once(engine, SAMPLED))

    assert min(rate or 0 for rate in validity.total(at_zero.prompts).acceptance) >= 0.97
    assert not falling_and_alive(validity.total(sampled.prompts).acceptance)
    if patched:  # not when this test runs alone
        assert verdict.judge(patched["sampled"], sampled).kind in ("regressed", "invalid")
