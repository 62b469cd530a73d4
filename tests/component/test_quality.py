"""The quality suite as a user runs it, on fake servers."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.config.prompts import hash_of
from harness.config.questions import Question
from harness.engine.attached import attach
from harness.engine.slot import Slot
from harness.results.records import CellRecord, load
from harness.run import Run
from harness.suites import quality
from harness.suites.quality_answers import Side
from harness.suites.runner import Bench, kept
from tests.component.fake_engine import Fake, bench
from tests.component.vllm_like import VllmLike, as_json, serving, tokens_of
from tests.factories import benches
from tests.factories.runs import answer, cell, plain
from tests.factories.streams import CHAT, RAW

WORDS = ("bench_suites/test_quality.py", "-k", "test_quality")
ROWS = (
    {"question": "Which is a city?", "A": "milk", "B": "Oslo", "answer": "B"},
    {"question": "Which is a drink?", "A": "milk", "B": "Oslo", "answer": "A"},
)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    return path


def run_of(tmp_path: Path) -> Path:
    (run,) = (path.parent for path in tmp_path.glob("results/*/run.json"))
    return run


def test_none_and_the_drafter_answer_the_same_questions(fake: Fake, tmp_path: Path, questions: Path) -> None:
    code, output = bench(fake, tmp_path, *WORDS, "--questions", str(questions))

    assert code == 0, output
    run = run_of(tmp_path)
    for name in ("chat-en-quality-none", "chat-en-quality-ngram-k2"):
        record = load(run / "quality" / f"{name}.json", CellRecord)
        assert [r.prompt for r in record.prompts] == ["0001", "0002"]
        assert record.identity.max_tokens == quality.TOKENS
    found = {cell: outcome for (_, cell), outcome in kept(run).items()}
    assert {outcome.kind for outcome in found.values()} == {"fine"}
    ways = [(row["who"], row["way"]) for row in found["chat-en-instruct-none"].figures["answers"]]
    assert ways == [("none", "likelihood"), ("none", "per character"), ("none", "written")]
    rows = found["chat-en-instruct-ngram-k2"].figures["answers"]
    assert [(row["who"], row["way"]) for row in rows] == [*ways, ("ngram-k2", "written")]
    assert [row.get("lost") for row in rows] == [None, None, 0, None]
    # The fake's tokens are bytes.
    (line, _) = (run / "quality" / "questions" / "chat-en-quality-none.jsonl").read_text().splitlines()
    expected = [sum(-0.1 - byte / 100 for byte in f" {option}".encode()) for option in ("milk", "Oslo")]
    assert json.loads(line)["log_likelihoods"] == pytest.approx(expected)


def test_answers_of_another_run_are_paired(fake: Fake, tmp_path: Path, questions: Path) -> None:
    bench(fake, tmp_path, *WORDS, "--questions", str(questions), "-m", "none")
    earlier = run_of(tmp_path).rename(tmp_path / "earlier")

    words = (*WORDS, "--questions", str(questions), "-m", "none", "--compare", str(earlier), "--gate", "on")
    code, output = bench(fake, tmp_path, *words)

    assert code == 0, output
    (outcome,) = kept(run_of(tmp_path)).values()
    rows = [row for row in outcome.figures["answers"] if row["who"] == "earlier: none"]
    assert [(row["way"], row["lost"], row["won"]) for row in rows] == [
        ("likelihood", 0, 0), ("per character", 0, 0), ("written", 0, 0),
    ]  # fmt: skip


def test_a_variant_is_paired_with_the_stack_as_it_stands(
    fake: Fake, tmp_path: Path, questions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.stack += "[variants.short]\nmax_model_len = 64\n"
    code, output = bench(fake, tmp_path, *WORDS, "--questions", str(questions), "-m", "none")

    assert code == 0, output
    found = {cell: outcome.figures["answers"] for (_, cell), outcome in kept(run_of(tmp_path)).items()}
    rows = found["chat-en-instruct-short-none"]
    assert [(row["who"], row.get("lost")) for row in rows] == [("none", 0)] * 3 + [("short-none", None)] * 3
    assert len(found["chat-en-instruct-none"]) == 3
    main(["compare", str(run_of(tmp_path)), "--across", "variant"])
    assert "questions answered right" in capsys.readouterr().out


def test_a_run_without_the_cell_is_refused_before_anything_starts(
    fake: Fake, tmp_path: Path, questions: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "run.json").write_text("{}")

    code, output = bench(fake, tmp_path, *WORDS, "--questions", str(questions), "--compare", str(other))

    assert code == pytest.ExitCode.USAGE_ERROR, output
    assert "[no-cells]" in output
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ([ROWS[0], {**ROWS[1], "B": ""}], "question-row"),
        ([{**ROWS[0], "language": "zh"}], "no-prompts"),
        ([], "damaged-file"),
    ],
)
def test_questions_that_cannot_be_asked_are_refused_before_anything_starts(
    fake: Fake, tmp_path: Path, questions: Path, rows: list[Any], code: str
) -> None:
    questions.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    done, output = bench(fake, tmp_path, *WORDS, "--questions", str(questions))

    assert done == pytest.ExitCode.USAGE_ERROR, output
    assert f"[{code}]" in output
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("reply", [{"choices": [{"text": "Hi"}]}, {"choices": [{"prompt_logprobs": [None]}]}])
def test_a_server_without_log_probabilities_is_refused_and_nothing_is_written(
    fake: Fake, tmp_path: Path, questions: Path, reply: dict[str, Any]
) -> None:
    vllm = VllmLike(2)
    vllm.replies[RAW] = as_json(reply)
    with serving(vllm) as server:
        code, output = bench(
            fake, tmp_path, *WORDS, "--questions", str(questions), "-m", "ngram", "--server-url", server.url
        )

    assert code == 1, output
    assert "[engine-cannot-tell]" in output
    assert not list(run_of(tmp_path).glob("quality/**/*.json*"))
    assert not [body for path, _, body in vllm.requests if path == CHAT]


# Where answers part

ASKED = Question(id="instruct-000", language=None, text="Which?", options=("milk", "Oslo"), right=1)


@pytest.mark.parametrize(
    ("ours", "prompt", "gap"),
    [
        ((7, 8, 9), "same", None),
        ((7, 60, 9), "same", 0.0),  # as likely as the least likely of those that the server tells
        ((7, 0, 9), "same", -0.08),
        ((7, 8), "same", 0.0),
        ((7, 0, 9), "another", math.nan),
        (None, "same", math.nan),
    ],
)
def test_where_answers_part_the_target_says_how_sure_it_is(
    tmp_path: Path, ours: tuple[int, ...] | None, prompt: str, gap: float | None
) -> None:
    text = ASKED.prompt("en").text
    rendered = hash_of(tokens_of({"messages": [{"content": text}]}) if prompt == "same" else [1])
    own = tmp_path / "questions.jsonl"
    row = {"id": ASKED.id, "question": ASKED.text, "A": "milk", "B": "Oslo", "answer": "B"}
    own.write_text(json.dumps(row), encoding="utf-8")
    one = benches.cell_of(benches.bench(tmp_path))

    def side(k: int, ids: tuple[int, ...] | None) -> Side:
        same = {"prompt_hash": rendered, "token_ids": ids, "text_hash": str(ids)}
        same |= {"output_tokens": len(ids or ()), "undrafted": 0, "histogram": (0,) * (k + 1)}
        return Side(name="", record=(cell if k else plain)(prompts=(answer(0, k=k, **same),)))

    with serving(VllmLike(4)) as vllm:
        slot = Slot(lambda spec: contextlib.nullcontext(attach(vllm.url, spec, key=None)), lambda _: None)
        run = Run(benches.options(tmp_path, questions=str(own)), benches.DATA, run="run")
        found = quality._parted(
            Bench(run=run, slot=slot, say=lambda _: None), one, side(0, (7, 8, 9)), side(4, ours)
        )

    if gap is None:
        assert found == []
    else:
        assert [one.gap for one in found] == pytest.approx([gap], nan_ok=True)
