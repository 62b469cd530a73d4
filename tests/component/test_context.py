"""The context suite as a user runs it, on a fake engine: a token a byte, four tokens an answer."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from harness.results.records import CellRecord, load
from harness.suites.runner import kept
from tests.component.fake_engine import Fake, bench
from tests.component.vllm_like import VllmLike, serving

WORDS = ("bench_suites/test_context.py", "-k", "test_context")


@pytest.fixture
def fake(fake: Fake) -> Fake:
    fake.stack = fake.stack.replace("[engine.env]", "[engine.args]\nmax_model_len = 1400\n[engine.env]")
    fake.stack += '[drafters.deep]\nmethod = "ngram"\nk = [4]\n'
    return fake


def starts(tmp_path: Path) -> Counter[str]:
    return Counter(log.stem.rpartition("-")[0] for log in tmp_path.glob("results/*/servers/*.log"))


def test_none_is_measured_once_beside_all_drafters_on_the_same_prompts(fake: Fake, tmp_path: Path) -> None:
    code, output = bench(fake, tmp_path, *WORDS, "-n", "2")

    assert code == 0, output
    assert starts(tmp_path) == {"none": 1, "ngram-k2": 1, "deep-k4": 1}
    (run,) = (path.parent for path in tmp_path.glob("results/*/run.json"))
    assert {cell for _, cell in kept(run)} == {"chat-en-instruct-ngram-k2", "chat-en-instruct-deep-k4"}
    (made,) = run.glob("context/*.jsonl")
    lines = [json.loads(line) for line in made.read_text(encoding="utf-8").splitlines()]
    assert Counter(line["length"] for line in lines) == {256: 3, 1024: 3}
    for line in lines:
        assert line["length"] - 20 < len(line["text"].encode()) + 2 <= line["length"]
    for length in (256, 1024):
        records = [load(path, CellRecord) for path in run.glob(f"context-{length:05d}/*.json")]
        assert len(records) == 3
        assert all(record.valid and record.identity.concurrency == 1 for record in records)
        hashes = [[r.prompt_hash for r in record.prompts] for record in records]
        assert hashes[0] == hashes[1] == hashes[2]


def test_a_model_without_room_is_refused_before_anything_starts(fake: Fake, tmp_path: Path) -> None:
    code, output = bench(fake, tmp_path, *WORDS, "--max-tokens", "1200")

    assert code == pytest.ExitCode.USAGE_ERROR, output
    assert "[context-too-short]" in output
    assert not (tmp_path / "results").exists()


def test_a_server_that_was_given_is_measured_alone(fake: Fake, tmp_path: Path) -> None:
    with serving(VllmLike(2)) as server:
        code, output = bench(fake, tmp_path, *WORDS, "-m", "k2", "--server-url", server.url)

    assert code == 0, output
    assert not list(tmp_path.glob("results/*/context-*/*-none.json"))
    assert list(tmp_path.glob("results/*/context-01024/chat-en-instruct-ngram-k2.json"))


def test_a_server_that_hides_its_tokenizer_cannot_be_asked(fake: Fake, tmp_path: Path) -> None:
    vllm = VllmLike(2)
    del vllm.replies["/tokenize"]
    with serving(vllm) as server:
        code, output = bench(fake, tmp_path, *WORDS, "-m", "k2", "--server-url", server.url)

    assert code == 0, output
    assert "1 skipped" in output


def test_a_chat_is_refused_before_anything_starts(fake: Fake, tmp_path: Path) -> None:
    chats = tmp_path / "chats.jsonl"
    chats.write_text('{"messages": [{"role": "user", "content": "Hello"}]}\n', encoding="utf-8")
    code, output = bench(fake, tmp_path, *WORDS, "--prompts-file", str(chats))

    assert code == pytest.ExitCode.USAGE_ERROR, output
    assert "[not-a-text]" in output
    assert not (tmp_path / "results").exists()
