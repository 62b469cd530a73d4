"""The prefix suite as a user runs it, on a fake engine whose cache loses a block where it drafts."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.results.records import CellRecord, load
from harness.suites.runner import kept
from tests.component.fake_engine import Fake, bench
from tests.component.vllm_like import VllmLike, serving

WORDS = ("bench_suites/test_prefix.py", "-k", "test_prefix")


@pytest.fixture
def fake(fake: Fake) -> Fake:
    fake.stack = fake.stack.replace("[engine.env]", "[engine.args]\nmax_model_len = 1400\n[engine.env]")
    return fake


def test_a_block_that_is_lost_in_each_request_is_said(fake: Fake, tmp_path: Path) -> None:
    code, output = bench(fake, tmp_path, *WORDS)

    assert code == 0, output
    (run,) = (path.parent for path in tmp_path.glob("results/*/run.json"))
    (outcome,) = kept(run).values()
    assert (outcome.suite, outcome.kind) == ("prefix", "noteworthy")
    none, drafter = outcome.figures["none"], outcome.figures["drafter"]
    assert none["hits"] - drafter["hits"] == 2 * 16
    assert none["queries"] == drafter["queries"] > none["hits"] > 2 * 700
    for path in run.glob("prefix-*/*.json"):
        record = load(path, CellRecord)
        assert record.valid, record.findings
        assert bool(record.counters["cached"]) == (path.parent.name == "prefix-shared")


def test_what_cannot_be_asked_is_refused_before_anything_starts(fake: Fake, tmp_path: Path) -> None:
    off = fake.stack
    fake.stack += '[profiles.off]\nprompts = 3\nmax_tokens = 8\ncache = "off"\n'
    code, output = bench(fake, tmp_path, *WORDS, "--profile", "off")
    assert code == pytest.ExitCode.USAGE_ERROR, output
    assert "[no-prefix-cache]" in output
    fake.stack = off.replace("max_model_len", "enable_prefix_caching = false\nmax_model_len")
    code, output = bench(fake, tmp_path, *WORDS)
    assert code == pytest.ExitCode.USAGE_ERROR, output
    assert "[no-prefix-cache]" in output
    fake.stack = off
    with serving(VllmLike(2)) as server:
        code, output = bench(fake, tmp_path, *WORDS, "--server-url", server.url)
    assert code == pytest.ExitCode.USAGE_ERROR, output
    assert not (tmp_path / "results").exists()
