"""Verdicts on real runs of our own engine, recorded: what the gate says where the truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.cli import main
from harness.judge.pairing import pair
from harness.judge.verdict import Verdict, judge
from harness.measure.validity import total
from harness.results.records import CellRecord, load
from harness.stats.same_text import CHANCE, matched

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ROOT / "tests/data/recordings"
GATE = ROOT / "tests/data/recordings/bfloat16"
CELL = "chat-en-instruct-ngram-k4.json"
HEAD = "chat-en-instruct-eagle3r1-k4.json"


def baseline(name: str = CELL) -> CellRecord:
    return load(GATE / name, CellRecord)


def verdict_on(recording: str) -> Verdict:
    return judge(baseline(), load(RECORDED / recording / CELL, CellRecord))


def test_the_same_again_is_no_worse() -> None:
    verdict = verdict_on("aa")

    assert verdict.kind in ("identical", "ok")
    assert verdict.same_text >= 118


@pytest.mark.parametrize("cell", [CELL, "chat-zh-instruct-ngram-k4.json"])
def test_a_drafter_that_proposes_less_is_regressed_though_its_tau_rose(cell: str) -> None:
    old, new = baseline(cell), load(RECORDED / "shy" / cell, CellRecord)
    before, after = total(old.prompts), total(new.prompts)
    assert (after.tau or 0) > (before.tau or 0)

    verdict = judge(old, new)

    assert verdict.kind == "regressed"
    assert verdict.change is not None
    assert verdict.change < -0.05
    assert "-> 1.12 (-7.9 %" in verdict.text or cell != CELL


@pytest.mark.parametrize("cell", [CELL, "chat-zh-instruct-ngram-k4.json"])
def test_the_other_way_round_it_is_improved_though_conditional_acceptance_fell(cell: str) -> None:
    verdict = judge(load(RECORDED / "shy" / cell, CellRecord), baseline(cell))

    assert verdict.kind == "improved"
    assert not any(position.lost for position in verdict.positions)


def test_another_kind_of_cpu_cannot_be_told_from_a_small_loss_and_is_footnoted() -> None:
    verdict = verdict_on("isa")

    assert verdict.kind == "inconclusive"
    assert verdict.same_text == 27
    assert "prompts would settle it" in verdict.text
    assert any("isa_limit" in note for note in verdict.notes)


def test_other_seeds_at_a_temperature_are_no_regression() -> None:
    one, other = (load(RECORDED / f"sampled-{n}" / CELL, CellRecord) for n in (0, 1))

    verdict = judge(one, other)

    assert verdict.kind in ("ok", "inconclusive")
    assert verdict.same_text == 0
    assert any("other seeds" in note for note in verdict.notes)


def test_two_kernels_of_a_gpu_are_told_apart_from_a_loss_by_the_common_beginning() -> None:
    old, new = (load(RECORDED / f"h200-{kernel}" / HEAD, CellRecord) for kernel in ("eager", "triton"))

    verdict = judge(old, new)

    assert verdict.kind == "ok"
    assert verdict.same_text < 0.3 * verdict.prompts
    assert verdict.share is not None
    assert verdict.interval is not None
    low, high = verdict.interval
    assert -0.01 < low < 0 < high < 0.01
    assert not verdict.broken


def test_between_two_kernels_of_a_gpu_what_differs_in_an_answer_does_not_cluster() -> None:
    old, new = (load(RECORDED / f"h200-{kernel}" / HEAD, CellRecord) for kernel in ("eager", "triton"))
    pairs = [(a, b) for (a,), (b,) in pair(old, new).prompts if a.text_hash == b.text_hash]
    fewer, steps = np.array([matched(a.committed or (), b.committed or ()) for a, b in pairs]).T

    rate = fewer.sum() / steps.sum()

    assert 0 < rate < CHANCE
    # A Pearson chi-square over its degrees of freedom: 1 where each step falls by itself.
    assert ((fewer - steps * rate) ** 2 / (steps * rate * (1 - rate))).sum() / (len(pairs) - 1) < 2


def test_raw_against_chat_is_refused_with_both_named() -> None:
    verdict = judge(baseline(), baseline("raw-en-instruct-ngram-k4.json"))

    assert verdict.kind == "invalid"
    assert 'endpoint differs: "chat" in the baseline, "raw" now' in verdict.text


def test_another_k_is_not_regressed_because_its_positions_are_reached_at_other_steps() -> None:
    verdict = judge(baseline("chat-en-instruct-ngram-k2.json"), baseline())

    assert verdict.kind == "improved"
    assert not any(position.lost for position in verdict.positions)


@pytest.mark.parametrize("place", ["chat-en", "chat-zh", "raw-en", "raw-zh"])
def test_positions_that_came_back_are_no_loss_at_those_before_them(place: str) -> None:
    """k = 2 is k = 4 with two dead positions. Mended, easy text takes fewer steps: hard steps are more."""
    short, mended = (baseline(f"{place}-instruct-ngram-k{k}.json") for k in (2, 4))
    dead = [r.model_copy(update={"histogram": (*r.histogram, 0, 0)}) for r in short.prompts]

    verdict = judge(mended.model_copy(update={"prompts": tuple(dead)}), mended)

    assert verdict.kind == "improved"
    assert not any(position.lost for position in verdict.positions)
    assert judge(mended, mended.model_copy(update={"prompts": tuple(dead)})).kind == "regressed"


def test_what_a_bench_without_prompts_in_common_says() -> None:
    verdict = judge(baseline(), baseline().model_copy(update={"prompts": baseline().prompts[:60]}))

    assert verdict.kind == "invalid"
    assert "60 of 120 prompts are in common" in verdict.text


@pytest.mark.parametrize(
    ("new", "code"),
    [("aa", 0), ("shy", 1), ("isa", 0), ("no-such-run", 2)],
)
def test_exit_codes_of_compare(new: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(GATE / CELL), str(RECORDED / new / CELL)]) == code
    assert "Traceback" not in "".join(capsys.readouterr())


def test_strict_makes_inconclusive_a_failure() -> None:
    assert main(["compare", "--strict", str(GATE / CELL), str(RECORDED / "isa" / CELL)]) == 3
