"""The refusals suite as a user runs it, on fake servers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.measure.refusals import sorts_of
from harness.results.records import CellRecord, load
from harness.suites.runner import kept
from tests.component.fake_engine import Fake, bench

WORDS = ("bench_suites/test_refusals.py", "-k", "test_refusals")
NAME = "chat-any-own_log-none.json"
ROWS = [{"text": "Why is the sky above Ghent blue?"}, {"text": "Where did Mirela put the yeast?"}]


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    folder = tmp_path / "fake"
    folder.mkdir()
    return Fake(folder)


def own(tmp_path: Path, *rows: dict[str, Any]) -> tuple[str, str]:
    path = tmp_path / "own_log.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return "--questions", str(path)


def runs(tmp_path: Path) -> list[Path]:
    return sorted(path.parent for path in tmp_path.glob("results/*/run.json"))


def test_shipped_questions_are_asked_and_compared_with_an_earlier_run(fake: Fake, tmp_path: Path) -> None:
    code, output = bench(fake, tmp_path, *WORDS)
    assert code == 0, output
    (first,) = runs(tmp_path)
    record = load(first / "refusals" / "chat-en-refusals-none.json", CellRecord)
    assert set(sorts_of(record).values()) == {"answered"}
    assert all(r.text for r in record.prompts)

    code, output = bench(fake, tmp_path, *WORDS, "--prompts", "3", "--gate", "on", "--compare", str(first))

    (outcome,) = kept(next(run for run in runs(tmp_path) if run != first)).values()
    assert outcome.verdict
    assert (outcome.verdict.kind, code) == ("identical", 0), output


def test_the_text_of_own_questions_stays_nowhere_unless_it_is_wanted(fake: Fake, tmp_path: Path) -> None:
    asked, folder = own(tmp_path, *ROWS), tmp_path / "baselines"
    code, output = bench(fake, tmp_path, *WORDS, *asked, "--keep-texts")
    assert code == 0, output
    (first,) = runs(tmp_path)
    answers = {r.text for r in load(first / "refusals" / NAME, CellRecord).prompts}
    assert all(answers)

    code, output = bench(fake, tmp_path, *WORDS, *asked, "--update-baselines", "--baselines", str(folder))

    assert code == 0, output
    (run,) = (one for one in runs(tmp_path) if one != first)
    (baseline,) = folder.rglob(NAME)
    for path in (baseline, run / "refusals" / NAME):
        record = load(path, CellRecord)
        assert sorts_of(record) == {"0001": "answered", "0002": "answered"}
        assert not any(r.text or r.token_ids for r in record.prompts)
    written = [p for root in (folder, run) for p in root.rglob("*.json*") if p.parent.name != "servers"]
    texts = "".join(path.read_text(encoding="utf-8") for path in written)
    found = [one for one in ("Ghent", "Mirela", *map(json.dumps, answers)) if one in texts + output]
    assert found == []
    assert not (run / "refusals" / NAME).with_suffix(".jsonl").exists()


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ('{"text": "Why?"}\n{"text": "Where?"}\n{"text": "Why?"}\n', "question-row"),
        ("\n", "damaged-file"),
        ('{"id": 1}\n', "prompt-row"),
        (None, "prompt-file"),
    ],
)
def test_questions_that_cannot_be_asked_are_refused_before_anything_starts(
    fake: Fake, tmp_path: Path, content: str | None, code: str
) -> None:
    words = own(tmp_path)
    Path(words[1]).unlink() if content is None else Path(words[1]).write_text(content)
    done, output = bench(fake, tmp_path, *WORDS, *words)

    assert done == pytest.ExitCode.USAGE_ERROR, output
    assert f"[{code}]" in output
    assert not (tmp_path / "results").exists()


def test_questions_for_a_suite_that_asks_none_are_refused(fake: Fake, tmp_path: Path) -> None:
    done, output = bench(fake, tmp_path, *own(tmp_path, *ROWS))

    assert done == pytest.ExitCode.USAGE_ERROR, output
    assert "[option-value]" in output


def test_a_variant_is_paired_with_the_stack_as_it_stands(fake: Fake, tmp_path: Path) -> None:
    fake.stack += "[variants.again]\n"
    code, output = bench(fake, tmp_path, *WORDS, "--prompts", "3", "--gate", "on")

    assert code == 0, output
    (run,) = runs(tmp_path)
    base, again = kept(run).values()
    assert (base.verdict, again.verdict and again.verdict.kind) == (None, "identical")
