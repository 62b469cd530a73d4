"""A regressed cell is measured again on other prompts: whole runs on a fake server that drafts."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.config.prompts import load_prompts
from harness.plugin import DATA
from harness.results.records import CellRecord, RunRecord, load
from harness.suites.runner import Outcome, kept
from tests.component import in_process
from tests.component.vllm_like import VllmLike, serving, tokens_of
from tests.factories.streams import CHAT, chunk, spec, usage

CELL = "chat-en-instruct-ngram-k4"
COUNT = 24
STACK = """\
schema = 1
name = "tiny"
endpoints = ["chat"]
languages = ["en"]
workloads = ["instruct", "code"]
[target]
model = "org/tiny"
[drafters.ngram]
method = "ngram"
k = [4]
"""
PROMPTS = [p.text for p in load_prompts(DATA / "prompts", "instruct", "en", at_most=2 * COUNT)]
FIRST, RESERVE = frozenset(PROMPTS[:COUNT]), frozenset(PROMPTS[COUNT:])


class Drafting(VllmLike):
    """A server that drafts four tokens a step; on the prompts in `worse` its last two drafts fail."""

    def __init__(self) -> None:
        super().__init__(k=4)
        self.worse: frozenset[str] = frozenset()

    @property
    def asked(self) -> list[str]:
        return [body["messages"][-1]["content"] for path, _, body in self.requests if path == CHAT]

    def good(self, asked: dict[str, Any]) -> list[Any]:
        """Eight steps, the same for a prompt whenever it is asked."""
        text = asked["messages"][-1]["content"]
        draw = random.Random(text)  # noqa: S311 - a fake
        steps = [draw.randrange(5) for _ in range(8)]
        if text in self.worse:
            steps[-2:] = 0, 0
        told = spec(
            acceptance_histogram=[steps.count(j) for j in range(5)], num_draft_tokens=4 * len(steps),
            per_step_accepted=steps, per_step_drafted=[4] * len(steps),
        )  # fmt: skip
        pieces = [
            chunk(f" word{number}", tuple(range(tokens + 1)), finish="stop" if number == 7 else None)
            for number, tokens in enumerate(steps)
        ]
        first = chunk("So", (1,), prompt_token_ids=tokens_of(asked))
        return [first, *pieces, usage(1 + sum(steps) + len(steps), told)]


@pytest.fixture
def server() -> Iterator[Drafting]:
    with serving(Drafting()) as drafting:
        yield drafting


pytestmark = pytest.mark.usefixtures("own_signals")


Bench = Callable[..., pytest.RunResult]
Measure = Callable[..., "tuple[int, Outcome]"]


@pytest.fixture
def bench(pytester: pytest.Pytester, server: Drafting) -> Bench:
    """A run of the one cell in the `gate` profile."""
    pytester.path.joinpath("tiny.toml").write_text(STACK, encoding="utf-8")
    shutil.copy(DATA.parent / "bench_suites" / "test_acceptance.py", pytester.mkdir("bench_suites"))

    def run(*words: str) -> pytest.RunResult:
        server.requests.clear()
        return in_process.run(
            pytester, "--stack", "./tiny.toml", "--profile", "gate", "--prompts", str(COUNT),
            "--server-url", server.url, "--baselines", "baselines", *words,
        )  # fmt: skip

    return run


def newest(pytester: pytest.Pytester) -> Path:
    return max(pytester.path.glob("results/*"), key=lambda path: path.stat().st_mtime_ns)


@pytest.fixture
def measure(bench: Bench, pytester: pytest.Pytester) -> Measure:
    """The same; its exit code, and the outcome of the cell."""

    def run(*words: str) -> tuple[int, Outcome]:
        done = bench(*words)
        return int(done.ret), kept(newest(pytester))["acceptance", CELL]

    return run


@pytest.fixture
def baseline(measure: Measure, pytester: pytest.Pytester) -> CellRecord:
    """The baseline of the healthy drafter."""
    assert measure("--update-baselines")[0] == 0
    return load(next(pytester.path.glob(f"baselines/**/{CELL}.json")), CellRecord)


def asked_again(server: Drafting) -> bool:
    return not RESERVE.isdisjoint(server.asked)


def test_a_baseline_holds_the_reserve_and_so_does_its_anchor(
    baseline: CellRecord, pytester: pytest.Pytester
) -> None:
    anchor = load(next(pytester.path.glob("baselines/**/*.anchor.json")), CellRecord)

    assert len(baseline.prompts) == len(baseline.reserve) == COUNT
    assert not {r.prompt for r in baseline.prompts} & {r.prompt for r in baseline.reserve}
    assert anchor.reserve == baseline.reserve


def test_a_cell_that_is_not_red_is_measured_once(
    baseline: CellRecord, measure: Measure, server: Drafting
) -> None:
    code, outcome = measure()

    assert (code, outcome.kind) == (0, "fine")
    assert not asked_again(server)


def test_a_real_loss_is_confirmed(baseline: CellRecord, measure: Measure, server: Drafting) -> None:
    server.worse = FIRST | RESERVE
    code, outcome = measure()

    assert (code, outcome.kind) == (1, "failed")
    assert outcome.verdict
    assert outcome.verdict.kind == "regressed"
    assert outcome.verdict.confirmation is not None
    assert outcome.verdict.confirmation <= 0.05
    assert asked_again(server)
    assert outcome.holds


@pytest.mark.parametrize(("gate", "ends"), [("on", 0), ("warn", 0), ("strict", 1)])
def test_a_loss_that_other_prompts_do_not_show_is_inconclusive(
    baseline: CellRecord, measure: Measure, server: Drafting, gate: str, ends: int
) -> None:
    server.worse = FIRST
    code, outcome = measure("--gate", gate)

    assert (code, outcome.kind) == (ends, "unsure")
    assert outcome.verdict
    assert outcome.verdict.unsettled
    assert (outcome.verdict.kind, outcome.verdict.unsettled.rule) == ("inconclusive", "unconfirmed")
    assert asked_again(server)


@pytest.mark.parametrize("words", [("--no-confirm",), ("--gate", "off")])
def test_without_a_second_look_the_first_one_decides(
    baseline: CellRecord, measure: Measure, server: Drafting, words: tuple[str, ...]
) -> None:
    server.worse = FIRST
    code, outcome = measure(*words)

    assert (code, outcome.kind) == ((0, "fine") if "off" in words else (1, "failed"))
    assert not asked_again(server)


def test_a_baseline_without_a_reserve_leaves_the_cell_red(measure: Measure, server: Drafting) -> None:
    measure("--update-baselines", "--no-confirm")
    assert not asked_again(server)
    server.worse = FIRST
    code, outcome = measure()

    assert (code, outcome.kind) == (1, "failed")
    assert "not confirmed" in outcome.sentence
    assert not asked_again(server)


def test_a_confirmed_cell_is_not_measured_again_when_its_run_goes_on(
    baseline: CellRecord, measure: Measure, server: Drafting, pytester: pytest.Pytester
) -> None:
    server.worse = FIRST | RESERVE
    _, first = measure()
    folder = newest(pytester)
    (folder / ".lock").unlink()  # of this very process
    record = load(folder / "run.json", RunRecord).model_copy(update={"finished": False})
    (folder / "run.json").write_text(record.model_dump_json(by_alias=True))

    code, outcome = measure("--resume")

    assert (code, server.asked) == (1, [])
    assert outcome == first


@pytest.mark.parametrize("words", [("--sequential",), ("--repeats", "2")])
def test_it_is_confirmed_after_other_ways_to_measure(
    measure: Measure, server: Drafting, words: tuple[str, ...]
) -> None:
    measure("--update-baselines", *(() if "--sequential" in words else words))
    server.worse = FIRST
    code, outcome = measure(*words)

    assert (code, outcome.kind) == (0, "unsure")
    assert not RESERVE - set(server.asked)


def test_without_prompts_left_it_is_a_usage_error(bench: Bench, pytester: pytest.Pytester) -> None:
    done = bench("--confirm", "--workload", "code")

    assert done.ret == pytest.ExitCode.USAGE_ERROR
    assert "[no-reserve]" in "\n".join(done.errlines)
    assert not pytester.path.joinpath("results").exists()
