"""Multiple-choice questions: how they are read, which option is taken, and what a drafter may change."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from harness.cli import main
from harness.config.questions import Question, read_questions
from harness.errors import BadInput
from harness.judge.collect import collect
from harness.judge.compare import compare
from harness.measure.choices import chosen, likeliest
from harness.plugin import DATA
from harness.results.files import as_line, write_atomically
from harness.results.records import CellRecord, Finding
from harness.suites.lossless import Divergence
from harness.suites.quality_answers import Answers, Asked, Side, file_of, paired_blocks
from harness.text.render import lay_out
from tests.factories.runs import answer, cell, plain, write_cell

LETTERED = {
    "question": "Which is a city?",
    "A": "Oslo",
    "B": "milk",
    "C": "blue",
    "D": "seven",
    "answer": "A",
}
LISTED = {"question": "Which is a city?", "subject": "geography", "choices": ["milk", "Oslo"], "answer": 1}
CITY = Question(id="1", language=None, text="Which is a city?", options=("Oslo", "milk", "blue"), right=0)


def put(folder: Path, *rows: Any, name: str = "questions.jsonl") -> str:
    path = folder / name
    path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
    return str(path)


# Reading


def test_letters_and_lists_are_read_as_they_are_published(tmp_path: Path) -> None:
    first, second = read_questions(put(tmp_path, LETTERED, LISTED))

    assert (first.options, first.right) == (("Oslo", "milk", "blue", "seven"), 0)
    assert (second.options, second.right, second.subject) == (("milk", "Oslo"), 1, "geography")
    assert (first.id, second.id) == ("0001", "0002")


@pytest.mark.parametrize(
    "row",
    [
        {"Question": "Q", "A": "x", "B": "y", "Answer": "b"},  # CMMLU, MMMLU
        {"question": "Q", "choices": ["x", "y"], "answer": "B"},
        {"question": "Q", "choices": '["x", "y"]', "answer": "1"},  # of a table without lists
        {"question": "Q", "A": 2008, "B": 2.5, "answer": " B "},
    ],
)
def test_an_answer_is_a_letter_or_a_number(tmp_path: Path, row: dict[str, Any]) -> None:
    (found,) = read_questions(put(tmp_path, row))

    assert found.right == 1


def test_a_csv_of_tmmlu_is_read(tmp_path: Path) -> None:
    path = tmp_path / "dev.csv"
    path.write_text('question,A,B,C,D,answer\n"Q, then?",1,2,3,4,C\n', encoding="utf-8")

    (found,) = read_questions(str(path))
    assert (found.text, found.options, found.right) == ("Q, then?", ("1", "2", "3", "4"), 2)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"C": ""}, "C"),
        ({"B": None}, "B"),
        ({"D": ["x"]}, "D"),
        ({"B": "Oslo "}, "B"),
        ({"answer": "E"}, "answer"),
        ({"answer": 0}, "answer"),
        ({"answer": True}, "answer"),
        ({"answer": None}, "answer"),
        ({"answer": "Oslo"}, "answer"),
        ({"question": "  "}, "question"),
        ({"choices": ["Oslo"]}, "choices"),
        ({"choices": ["Oslo", "Oslo"]}, "choices"),
        ({"choices": "Oslo"}, "choices"),
        ({"choices": ["Oslo", ""]}, "choices"),
        ({"choices": ["Oslo", "milk"], "answer": 2}, "answer"),
        ({"choices": ["Oslo", "milk"], "answer": -1}, "answer"),
    ],
)
def test_a_row_that_is_no_question_is_named_with_its_field(
    tmp_path: Path, change: dict[str, Any], field: str
) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, (LISTED, LETTERED | change))), encoding="utf-8")

    with pytest.raises(BadInput) as caught:
        read_questions(str(path))

    assert caught.value.code == "question-row"
    assert str(caught.value).startswith(f"{path}, line 2: field {field}: ")


def test_an_option_that_is_missing_between_two_is_missed(tmp_path: Path) -> None:
    row = {name: value for name, value in LETTERED.items() if name != "B"}

    with pytest.raises(BadInput, match="field B: it is missing"):
        read_questions(put(tmp_path, row))


@pytest.mark.parametrize(
    "rows", [[{"question": "Q", "answer": "A"}], [{"question": "Q", "A": "x", "answer": "A"}]]
)
def test_a_question_without_options_is_refused(tmp_path: Path, rows: list[Any]) -> None:
    with pytest.raises(BadInput, match=r"field [AB]: it is missing"):
        read_questions(put(tmp_path, *rows))


@pytest.mark.parametrize(
    ("second", "field"),
    [
        (LETTERED, "question"),
        (LETTERED | {"A": "milk", "B": "Oslo", "answer": "B"}, "question"),
        (LETTERED | {"question": "Which is a town?", "id": "x"}, "id"),
    ],
)
def test_a_question_or_an_id_that_stands_there_twice_is_refused(
    tmp_path: Path, second: dict[str, Any], field: str
) -> None:
    with pytest.raises(BadInput, match=f"line 2: field {field}: .*line 1 too"):
        read_questions(put(tmp_path, {**LETTERED, "id": "x"}, {"id": "y", **second}))


def test_how_many_rows_are_wrong_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"line 1.*and 1 more rows"):
        read_questions(put(tmp_path, {"question": "Q"}, LISTED, {"question": "P"}))


@pytest.mark.parametrize("content", ["", "\n\n", "[]", '{"question": '])
def test_a_file_without_a_question_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / ("questions.json" if content == "[]" else "questions.jsonl")
    path.write_text(content, encoding="utf-8")

    with pytest.raises(BadInput, match=str(path)):
        read_questions(str(path))


@given(
    row=st.dictionaries(
        st.sampled_from(["question", "A", "B", "choices", "answer", "id"]),
        st.none() | st.text() | st.integers() | st.lists(st.text() | st.none(), max_size=3),
    )
)
def test_any_row_is_a_question_or_refused(
    row: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("any") / "q.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    try:
        (found,) = read_questions(str(path))
    except BadInput as error:
        assert str(path) in str(error)  # noqa: PT017 - success is allowed too
    else:
        assert 0 <= found.right < len(found.options) == len(set(found.options))


# What is shipped


@pytest.mark.parametrize("language", ["en", "zh"])
def test_shipped_questions_have_four_options_and_right_ones_at_every_letter(language: str) -> None:
    found = read_questions(str(DATA / "prompts" / "quality" / f"{language}.jsonl"))

    assert {len(question.options) for question in found} == {4}
    assert Counter(question.right for question in found) == dict.fromkeys(range(4), 25)


def test_shipped_questions_are_the_same_in_both_languages() -> None:
    english, chinese = (
        read_questions(str(DATA / "prompts" / "quality" / f"{language}.jsonl")) for language in ("en", "zh")
    )

    assert [(q.id, q.right, q.subject) for q in english] == [(q.id, q.right, q.subject) for q in chinese]


# Which option is taken


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("A", 0),
        (" B. milk", 1),
        ("(C) blue", 2),
        ("**A**", 0),
        ("A. A city", 0),
        ("A Oslo", 0),
        ("A: because", 0),
        ("A cup of milk", 1),  # an article is no letter
        ("The answer is B.", 1),
        ("答案是 C。", 2),
        ("Answer: A", 0),
        ("It is Oslo.", 0),
        ("Oslo, not milk", None),
        ("D. seven", None),
        ("Because", None),
        ("", None),
    ],
)
def test_an_answer_names_an_option_by_letter_or_by_text(text: str, option: int | None) -> None:
    assert chosen(CITY, text) == option


@pytest.mark.parametrize(
    ("options", "text", "option"),
    [
        ("a b c d e f g h i j", "I'm sorry, but I can't help with that.", None),
        ("a b c d e f g h i j", "I’ve no idea; the answer is B.", 1),
        ("Java C++ Rust Go", "C++", 1),
        ("D'Alembert Euler Gauss Lagrange", "D'Alembert", 0),
        ("red green blue", "Option A is wrong. The answer is B. green", 1),
        ("red green blue", "Option A isn't it, option C is.", 2),
        ("red green blue", "A 是錯的，答案是 B", 1),
        ("red green blue", "The answer is not A.", None),
        ("right wrong", "The answer is B. wrong", 1),
        ("对 错误", "B. 错误", 1),
        ("对 错误", "B 错误", 1),
        ("here not-here", "B. Not-here", 1),
        ("red green blue", "'B'", 1),
        ("red green blue", "Answer: 'B'", 1),
    ],
)
def test_a_letter_counts_where_it_names_an_option(options: str, text: str, option: int | None) -> None:
    question = dataclasses.replace(CITY, options=tuple(options.split()))

    assert chosen(question, text) == option


def test_the_likeliest_option_is_that_of_the_largest_sum_or_of_the_largest_per_character() -> None:
    question = dataclasses.replace(CITY, options=("ab", "abcdefgh", "x"))

    assert likeliest(question, (-4.0, -6.0, -5.0)) == (0,)
    assert likeliest(question, (-4.0, -6.0, -5.0), per_character=True) == (1,)
    assert likeliest(question, (-4.0, -6.0, -4.0)) == (0, 2)


# What is judged

BUSY = Finding(code="foreign-traffic", hard=True, text="the server finished 30 requests while 24 ran")


def question(number: int) -> Question:
    return dataclasses.replace(CITY, id=f"instruct-{number:03d}")


def side(right: set[int], *, k: int, name: str = "", scored: set[int] | None = None, **changes: Any) -> Side:
    """The answers to 24 questions; with `scored`, which of them the likelihoods have right."""
    prompts = tuple(answer(i, k=k, text="A. Oslo" if i in right else "B. milk") for i in range(24))
    asked = {}
    for i in range(24) if scored is not None else ():
        likeliest_first = (-1.0 if i in (scored or ()) else -3.0, -2.0, -9.0)
        one = question(i)
        asked[one.id] = Asked(
            question=one.id, text=one.text, options=one.options, right=0, log_likelihoods=likeliest_first
        )
    record: CellRecord = (cell if k else plain)(prompts=prompts, **changes)
    return Side(name=name or ("ngram-k4" if k else "none"), record=record, asked=asked)


def answers(before: set[int], after: set[int], *gaps: float, **changes: Any) -> Answers:
    questions = {question(i).id: question(i) for i in range(24)}
    parted = [Divergence(prompt=f"instruct-{i:03d}", at=3, gap=gap) for i, gap in enumerate(gaps)]
    own = side(after, k=4, **changes)
    return Answers(questions=questions, own=own, plain=side(before, k=0), parted=parted)


ALL = set(range(24))


@pytest.mark.parametrize(
    ("before", "after", "gaps", "kind"),
    [
        (ALL, ALL, (), "fine"),
        (ALL, ALL - {1}, (0.1,), "noteworthy"),
        (ALL, ALL, (0.6,), "failed"),
        (ALL, ALL, (0.1, -2.0), "failed"),
        (ALL, ALL, (float("nan"),), "unsure"),
        (ALL, ALL, (float("nan"), 2.0), "failed"),
        (ALL, ALL - set(range(9)), (0.1,) * 9, "noteworthy"),
        (ALL, ALL - set(range(10)), (0.1,) * 10, "failed"),  # ties fall to both sides
        (ALL - set(range(10)), ALL, (0.1,) * 10, "noteworthy"),
    ],
)
def test_an_answer_that_leaves_that_of_none_where_the_target_is_sure_is_a_loss(
    before: set[int], after: set[int], gaps: tuple[float, ...], kind: str
) -> None:
    assert answers(before, after, *gaps).judged()[0] == kind


def test_what_is_no_measurement_is_not_judged() -> None:
    assert answers(ALL, ALL, 2.0, findings=(BUSY,)).judged()[0] == "invalid"


@pytest.mark.parametrize(("lost", "kind"), [(11, "fine"), (12, "failed")])
def test_right_answers_that_another_run_had_are_lost_where_chance_does_not_explain_it(
    lost: int, kind: str
) -> None:
    questions = {question(i).id: question(i) for i in range(24)}
    own = side(ALL, k=0, scored=ALL - set(range(lost)))
    found = Answers(questions=questions, own=own, earlier=side(ALL, k=0, scored=ALL, name="other: none"))

    assert found.judged()[0] == kind
    rows = [row for row in found.rows() if row["who"] == "other: none"]
    assert [(row["way"], row["lost"], row["won"]) for row in rows] == [
        ("likelihood", lost, 0), ("per character", lost, 0), ("written", 0, 0),
    ]  # fmt: skip


def test_a_right_option_that_shares_the_first_place_is_not_right_and_is_counted() -> None:
    one = side(ALL, k=0, scored=ALL)
    known = one.asked["instruct-000"].model_copy(update={"log_likelihoods": (-2.0, -2.0, -9.0)})
    one = dataclasses.replace(one, asked={**one.asked, "instruct-000": known})
    found = Answers(questions={question(i).id: question(i) for i in range(24)}, own=one)

    row = found.rows()[0]
    assert (row["right"], row["tied"]) == (23, 1)


def test_the_table_has_both_sides_with_their_speed() -> None:
    found = answers(ALL, ALL - {1}, 0.1)

    who = [(row["who"], row["right"], row["tok_s"] is not None) for row in found.rows()]
    assert who == [("none", 24, True), ("ngram-k4", 23, True)]
    assert "tok/s" in lay_out(found.table(""))


def test_what_a_variant_loses_is_said_and_fails_nothing() -> None:
    questions = {question(i).id: question(i) for i in range(24)}
    own = side(ALL, k=0, scored=set(), name="int8-none")
    found = Answers(questions=questions, own=own, base=side(ALL, k=0, scored=ALL))

    kind, sentence = found.judged()
    assert (kind, "24 lost and 0 won against none" in sentence) == ("noteworthy", True)


# Two cells on disk


def put_cell(folder: Path, one: Side) -> Path:
    record = one.record.model_copy(update={"suite": "quality"})
    path = write_cell(folder / "quality", record)
    lines = [
        Asked(question=q.id, text=q.text, options=q.options, right=q.right) for q in map(question, range(24))
    ]
    write_atomically(
        file_of(path), "".join(as_line((one.asked.get(x.question) or x).model_dump()) for x in lines)
    )
    return path


def test_compare_pairs_the_answers_of_two_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = put_cell(tmp_path / "old", side(ALL, k=4, scored=ALL))
    new = put_cell(tmp_path / "new", side(ALL - {1, 2}, k=4, scored=ALL - {3}))

    result = compare([collect(old), collect(new)], across=())
    (block,) = paired_blocks(result)
    lines = [row[2:7] for row in block.rows]
    assert lines == [
        ("likelihood", "24", "100.0 → 95.8", "1", "0"),
        ("per character", "24", "100.0 → 95.8", "1", "0"),
        ("written", "24", "100.0 → 91.7", "2", "0"),
    ]
    main(["compare", str(old), str(new)])
    assert "questions answered right" in capsys.readouterr().out


def test_questions_that_were_changed_between_two_runs_are_not_paired(tmp_path: Path) -> None:
    old = put_cell(tmp_path / "old", side(ALL, k=0))
    new = put_cell(tmp_path / "new", side(ALL, k=0))
    lines = file_of(new).read_text(encoding="utf-8").splitlines()
    file_of(new).write_text("\n".join([lines[0].replace("milk", "tea"), *lines[1:]]), encoding="utf-8")

    (block,) = paired_blocks(compare([collect(old), collect(new)], across=()))
    assert [row[3] for row in block.rows] == ["23"]


def test_cells_whose_questions_are_not_there_have_no_line(tmp_path: Path) -> None:
    old, new = (put_cell(tmp_path / name, side(ALL, k=0)) for name in ("old", "new"))
    file_of(new).unlink()

    assert paired_blocks(compare([collect(old), collect(new)], across=())) == ()
