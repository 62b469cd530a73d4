"""Variants and references of a stack, in whole runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.config.stack import Stack
from harness.plugin import DATA
from harness.results.records import CellRecord, load
from harness.suites import selfcheck
from harness.suites.runner import kept
from harness.suites.self_drafting import Check, SelfCheck
from tests.component import in_process
from tests.component.vllm_like import VllmLike, vllm_like

STACK = """\
schema = 1
name = "tiny"
languages = ["en"]
endpoints = ["chat"]
[target]
model = "org/tiny"
[engine.args]
max_model_len = 2048
[variants.short]
max_model_len = 512
[references.other]
model = "org/tiny"
[drafters.none]
"""
CELL = "chat-en-instruct-none"

Bench = Callable[..., pytest.RunResult]
pytestmark = pytest.mark.usefixtures("own_signals")


@pytest.fixture
def server() -> Iterator[VllmLike]:
    with vllm_like() as server:
        yield server


@pytest.fixture
def bench(pytester: pytest.Pytester) -> Bench:
    pytester.path.joinpath("tiny.toml").write_text(STACK, encoding="utf-8")
    shutil.copy(DATA.parent / "bench_suites" / "test_acceptance.py", pytester.mkdir("bench_suites"))

    def run(*words: str) -> pytest.RunResult:
        return in_process.run(
            pytester, "--stack", "./tiny.toml", "--prompts", "8", "--baselines", "baselines", *words
        )

    return run


def run_of(pytester: pytest.Pytester) -> Path:
    [folder] = pytester.path.glob("results/*")
    return folder


@pytest.mark.parametrize(
    ("words", "cells"),
    [
        (("-m", "base"), [CELL]),
        (("-m", "short"), ["chat-en-instruct-short-none"]),
        (("-k", "short-none"), ["chat-en-instruct-short-none"]),
        (("-m", "other"), ["chat-en-instruct-other-none"]),
        ((), [CELL, "chat-en-instruct-short-none", "chat-en-instruct-other-none"]),
    ],
)
def test_a_variant_is_selected_as_any_value_of_an_axis(
    bench: Bench, words: tuple[str, ...], cells: list[str]
) -> None:
    done = bench("--collect-only", "-q", *words)

    assert done.ret == 0
    assert [line.partition("[")[2].rstrip("]") for line in done.outlines if "::" in line] == cells


def test_a_cell_of_a_variant_says_which_and_what_that_changes(
    bench: Bench, server: VllmLike, pytester: pytest.Pytester
) -> None:
    done = bench("--server-url", server.url, "--gate", "off", "-m", "short")

    assert done.ret == 0, done.outlines
    record = load(run_of(pytester) / "acceptance/chat-en-instruct-short-none.json", CellRecord)
    assert (record.cell.variant, record.identity.variant) == ("short", "short")
    assert record.subject.variant == {"max_model_len": 512}
    assert record.subject.engine_args == {"max_model_len": 512}


@pytest.mark.parametrize("update", [(), ("--update-baselines",)])
def test_a_reference_is_neither_judged_nor_stored(
    bench: Bench, server: VllmLike, pytester: pytest.Pytester, update: tuple[str, ...]
) -> None:
    done = bench("--server-url", server.url, "--gate", "strict", "-m", "other", *update)

    assert done.ret == 0, done.outlines
    outcome = kept(run_of(pytester))["acceptance", "chat-en-instruct-other-none"]
    assert (outcome.kind, outcome.verdict) == ("fine", None)
    assert not list(pytester.path.glob("baselines/**/*.json"))
    assert any("chat-en-instruct-other-none (reference)" in line for line in done.outlines)


def test_a_variant_needs_a_baseline_of_its_own(bench: Bench, server: VllmLike) -> None:
    bench("--server-url", server.url, "--update-baselines", "-m", "base")

    assert bench("--server-url", server.url, "-m", "base").ret == 0
    assert bench("--server-url", server.url, "-m", "short").ret == 1


def test_a_reference_that_is_no_measurement_fails_no_case(
    bench: Bench, server: VllmLike, pytester: pytest.Pytester
) -> None:
    server.answer = lambda _: [{"error": {"message": "no"}}]

    done = bench("--server-url", server.url, "-m", "other")

    assert done.ret == 0, done.outlines
    assert kept(run_of(pytester))["acceptance", "chat-en-instruct-other-none"].kind == "invalid"


def test_the_target_of_each_variant_is_checked_and_a_reference_is_not(
    bench: Bench, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[Any] = []

    def ensure(_: object, stack: Stack, *__: object, **___: object) -> SelfCheck:
        lengths.append(stack.engine.args["max_model_len"])
        outcome = "ok" if lengths[-1] == 2048 else "broken"
        return SelfCheck(engine="vLLM 1", patches=(), checks=(Check(name="a", outcome=outcome, text="seen"),))

    monkeypatch.setattr(selfcheck, "ensure", ensure)

    done = bench()

    assert done.ret != 0
    assert lengths == [2048, 512]
    known = json.loads((run_of(pytester) / "run.json").read_text(encoding="utf-8"))
    assert [line.partition(":")[0] for line in known["provenance"]["self_check"]] == ["a", "short"]
    assert not list(run_of(pytester).glob("acceptance/*.json"))
