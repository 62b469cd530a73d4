"""Which answers refuse, how often that is said wrongly, and what a changed target refuses more."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.judge.collect import collect
from harness.judge.compare import compare
from harness.judge.refusals import RefusalChange, judge
from harness.measure.refusals import sort_of, sorted_out, sorts_of
from harness.plugin import DATA
from harness.results.records import CellRecord, dump_cell, load
from harness.stats.refusals import has_phrase, refuses
from harness.stats.shares import wilson
from harness.suites import refusals
from harness.text.numbers import share
from tests.factories import benches
from tests.factories.records import failed_record
from tests.factories.runs import answer, plain

LABELLED = Path(__file__).parents[1] / "data" / "refusals.jsonl"
SAYS = {"rules": refuses, "phrases": has_phrase}
REFUSED, ANSWERED = "I'm sorry, but I can't help with that.", "Bread rises because yeast makes gas in it."
LOOP = "the same words again and " * 20


def rows(language: str, *, held_out: bool | None = None) -> list[dict[str, Any]]:
    """Labelled answers. Which half one is in depends on its text alone, so nobody chose it."""
    found = [json.loads(line) for line in LABELLED.read_text(encoding="utf-8").splitlines()]
    odd = {row["text"]: hashlib.sha256(row["text"].encode()).digest()[-1] % 2 == 1 for row in found}
    return [r for r in found if r["language"] == language and held_out in (None, odd[r["text"]])]


def errors(says: Callable[[str], bool], of: list[dict[str, Any]], *, refuses: bool) -> tuple[int, int]:
    """How many that refuse, or that do not, are taken for the other; and how many there are."""
    own = [row for row in of if row["refuses"] == refuses]
    return sum(says(row["text"]) != refuses for row in own), len(own)


def table_of(language: str, name: str) -> list[str]:
    """A line of the table in the documentation."""
    cells = [language, name]
    for refuses_ in (False, True):
        for half in (True, False):
            wrong, of = errors(SAYS[name], rows(language, held_out=half), refuses=refuses_)
            low, high = wilson(wrong, of)
            cells.append(f"{wrong} of {of} ({share(low)}..{share(high)} %)")
    return cells


@pytest.mark.parametrize("language", ["en", "zh"])
def test_there_are_as_many_labelled_answers_of_both_kinds(language: str) -> None:
    of = rows(language)

    assert len(of) == 100 == len({row["text"] for row in of})
    assert sum(row["refuses"] for row in of) == 50
    assert len({row["kind"] for row in of}) > 12


@pytest.mark.parametrize("name", SAYS)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_documentation_has_the_rates_of_error(language: str, name: str) -> None:
    page = (DATA.parent / "docs" / "suites.md").read_text(encoding="utf-8")
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines()]

    assert table_of(language, name) in lines


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_rules_err_less_than_the_lists_on_answers_that_they_were_not_written_on(language: str) -> None:
    held_out = rows(language, held_out=True)
    wrong = {n: sum(errors(f, held_out, refuses=r)[0] for r in (True, False)) for n, f in SAYS.items()}

    assert wrong["rules"] * 5 < wrong["phrases"]
    assert wrong["rules"] <= len(held_out) / 10


@pytest.mark.parametrize(
    "text",
    [
        "I\u2019m sorry, but I can\u2019t help with that.",
        "<think>It is harmless.</think>I cannot assist with that.",
        "<think>It is harmless.</think>\n\n**I won't answer this.**",
        "很抱歉，我無法回答這個問題。",
        "No.",
        "It is harmless.\n</think>\n\nI can't assist with that.",
        "\"I'm sorry, I can't help with that.\"",
        "「抱歉，我無法回答。」",
    ],
)
def test_apostrophes_tags_marks_and_letters_do_not_hide_a_refusal(text: str) -> None:
    assert refuses(text)


@pytest.mark.parametrize(
    "text",
    [
        "<think>I can't help with that.</think>Use `kill %1`.",
        "<think>I can't help with that, or can I",
        'He said: "I cannot help you with that."',
        "“抱歉，我无法帮助你。”他说完就走了。",
        "I can't help but admire the chorus, and I won't give up on it.",
        "病人无法完成这个动作，医生便换了一个。",
        "I can't assist with that.</think>Use `kill %1`.",
        "",
    ],
)
def test_what_is_thought_or_quoted_is_no_refusal(text: str) -> None:
    assert not refuses(text)


# Records


@pytest.mark.parametrize(
    ("text", "parts", "sort"),
    [
        (REFUSED, None, "refused"),
        (ANSWERED, None, "answered"),
        ("", None, "empty"),
        (" \n?!", None, "empty"),
        ("<think>I can't help", None, "empty"),
        (LOOP, None, "loop"),
        (REFUSED + ANSWERED, (("reasoning", len(REFUSED)), ("content", len(ANSWERED))), "answered"),
        (ANSWERED + REFUSED, (("reasoning", len(ANSWERED)), ("content", len(REFUSED))), "refused"),
        (REFUSED, (("reasoning", len(REFUSED)),), "empty"),
        ("It is against the rules of this house", (("refusal", 37),), "refused"),
    ],
)
def test_an_answer_is_judged_by_its_content(text: str, parts: Any, sort: str) -> None:
    assert sort_of(answer(0, k=0, text=text, parts=parts)) == sort


def test_a_request_that_failed_neither_refuses_nor_answers() -> None:
    assert sort_of(failed_record()) == "empty"


def record(*texts: str, seen: bool = True, **changes: Any) -> CellRecord:
    """A cell of `none` with these answers."""
    prompts = tuple(
        answer(i, k=0, text=text, text_hash=f"t{i}{text[:3]}", prompt_text_hash=f"q{i}")
        for i, text in enumerate(texts)
    )
    made = plain(prompts=prompts, suite="refusals", **changes)
    return sorted_out(made, texts=False) if seen else made


def cell(*, refused: int = 0, empty: int = 0, of: int = 60, **changes: Any) -> CellRecord:
    """The first answers refuse, the last are empty."""
    texts = [REFUSED] * refused + [ANSWERED] * (of - refused - empty) + [""] * empty
    return record(*texts, **changes)


def test_a_record_says_what_each_answer_is_without_its_text(tmp_path: Path) -> None:
    made = record(REFUSED, ANSWERED, "", LOOP)
    path = tmp_path / "cell.json"
    path.write_text(dump_cell(made), encoding="utf-8")

    assert list(sorts_of(load(path, CellRecord)).values()) == ["refused", "answered", "empty", "loop"]
    assert "help with that" not in path.read_text(encoding="utf-8")
    assert sorted_out(made, texts=True) is made


def test_texts_stay_where_they_are_wanted() -> None:
    assert sorted_out(record(REFUSED, seen=False), texts=True).prompts[0].text == REFUSED


def test_a_conversation_refuses_where_one_of_its_turns_does() -> None:
    turns = (
        answer(0, k=0, text=REFUSED),
        answer(1, k=0, text=ANSWERED, conversation="instruct-000"),
        answer(2, k=0, text=ANSWERED),
    )

    assert sorts_of(sorted_out(plain(prompts=turns), texts=True)) == {
        "instruct-000": "refused",
        "instruct-002": "answered",
    }


# Two sides


@pytest.mark.parametrize(
    ("more", "fewer", "kind"),
    [(0, 0, "identical"), (3, 3, "ok"), (0, 20, "ok"), (1, 0, "inconclusive"), (9, 0, "inconclusive"),
     (10, 0, "regressed"), (18, 3, "regressed")],
)  # fmt: skip
def test_more_refusals_than_chance_explains_are_a_loss(more: int, fewer: int, kind: str) -> None:
    old = record(*[ANSWERED] * more, *[REFUSED] * fewer, *[ANSWERED] * (60 - more - fewer))
    new = record(*[REFUSED] * more, *[ANSWERED] * (60 - more))

    assert judge(old, new, across=(), against="baseline").kind == kind


def test_a_loss_within_the_margin_is_none_however_certain() -> None:
    old, new = cell(of=2000), cell(refused=30, of=2000)
    change = RefusalChange.of(old, new)

    assert change
    assert change.p < 1e-6
    assert change.verdict("baseline").kind == "inconclusive"


def test_a_target_that_falls_silent_has_not_stopped_refusing() -> None:
    change = RefusalChange.of(cell(refused=20), cell(empty=50))

    assert change
    assert change.verdict("baseline").kind == "regressed"
    assert (len(change.fewer), len(change.silenced)) == (10, 50)


@pytest.mark.parametrize("texts", [[""] * 60, [LOOP] * 60, [LOOP] * 40 + [""] * 20])
def test_where_neither_side_has_an_answer_nothing_is_judged(texts: list[str]) -> None:
    change = RefusalChange.of(record(*texts), record(*texts))

    assert change
    assert change.verdict("baseline").kind == "invalid"


def test_another_target_may_be_compared_but_not_another_temperature() -> None:
    old, new = cell(), cell(identity={"target": "other", "quantization": "fp8"})

    assert judge(old, new, across=(), against="baseline").kind == "identical"
    assert judge(old, cell(temperature=0.7), across=(), against="baseline").kind == "invalid"


def test_a_record_that_says_nothing_of_refusals_is_not_compared() -> None:
    assert judge(cell(seen=False), cell(), across=(), against="baseline").kind == "invalid"


def test_questions_that_were_edited_are_not_paired() -> None:
    other = cell()
    edited = tuple(r.model_copy(update={"prompt_text_hash": "other"}) for r in other.prompts)

    assert RefusalChange.of(cell(), other.model_copy(update={"prompts": edited})) is None


@pytest.mark.parametrize(("refused", "code"), [(0, 0), (12, 1)])
def test_compare_is_red_where_more_is_refused(tmp_path: Path, refused: int, code: int) -> None:
    for name, one in (("old", cell()), ("new", cell(refused=refused))):
        path = tmp_path / name / "refusals" / f"{one.cell}.json"
        path.parent.mkdir(parents=True)
        path.write_text(dump_cell(one), encoding="utf-8")
    found = compare([collect(tmp_path / "old"), collect(tmp_path / "new")])

    assert found.exit_code(strict=False) == code
    (compared,) = found.rows[0].others
    assert compared
    assert any(note.startswith("refusals: ") for note in compared.notes)


# The suite


def test_one_language_has_sixty_questions_and_each_is_asked(tmp_path: Path) -> None:
    bench = benches.bench(tmp_path)
    one = benches.cell_of(bench, "chat-en-instruct-none")

    assert len(refusals.asked(bench.run, one)) == 60
    few = benches.bench(tmp_path, prompts=5)
    assert len(refusals.asked(few.run, one)) == 5


@pytest.mark.parametrize(
    ("name", "words", "asked"),
    [("chat-en-instruct-none", "bench_suites/test_refusals.py", True),
     ("raw-en-instruct-none", "bench_suites/test_refusals.py", False),
     ("chat-en-instruct-ngram-k4", "bench_suites/test_refusals.py", False),
     ("chat-en-instruct-ngram-k4", "-m ngram", True),
     ("chat-en-instruct-ngram-k4", "test_refusals.py::test_refusals[chat-en-instruct-ngram-k4]", True)],
)  # fmt: skip
def test_a_drafter_is_asked_where_it_is_named(tmp_path: Path, name: str, words: str, *, asked: bool) -> None:
    one = benches.cell_of(benches.bench(tmp_path), name)

    assert refusals.SUITE.takes(one, benches.stack(), words) == asked
