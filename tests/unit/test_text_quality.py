from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from harness.errors import BadInput
from harness.stats.text_quality import WINDOW, degenerate, in_language, signs
from tests.factories.texts import CHINESE, CODE, ENGLISH
from tests.perf.degenerate import FOLDER, Answer, Rate, answers, false_alarms, misses, prompts, rows

ANSWERS = answers()
REAL = ("calibration", "held-out")


def some(language: str, *parts: str) -> list[Answer]:
    return [a for a in ANSWERS if a.language == language and a.part in parts]


@pytest.mark.parametrize(
    "text",
    [
        ENGLISH + " and went up." * 30,
        ENGLISH
        + " 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1.",
        CHINESE + "他又讀了一遍，" * 10,
        CHINESE + "啊" * 60,
        CODE + "    return merged\n" * 12,
        "!" * 64,
        "\n\n\n" + "a b " * 20 + "\n\n",
        "Here it is:" + ("\n" + ENGLISH) * 3,
        "The answer is 4. " * 2 + "The answer is 4.\nThe" * 20,
    ],
)
def test_an_answer_that_ends_in_one_piece_over_and_over_degenerate(text: str) -> None:
    assert degenerate(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   \n",
        "OK",
        "ha ha ha",
        "a" * 23,
        ENGLISH,
        CHINESE,
        CODE,
        "Here it is:" + ("\n" + ENGLISH) * 2,  # twice is no loop
        "very " * 20 + ENGLISH,  # in the beginning, not at the end
        ENGLISH * 1 + "-" * 20,  # a short rule at the end is less than 30 %
        "\n".join(f"{i}. Point number {i} is about {i * 7919} things" for i in range(1, 20)),
    ],
)
def test_an_answer_that_goes_on_does_not_loop(text: str) -> None:
    assert not degenerate(text)


def test_long_answers_are_judged_too() -> None:
    different = " ".join(f"word{i}" for i in range(600))

    assert len(different) > 4000
    assert not degenerate(different[:5000])
    assert not degenerate("ab" * 1000 + "c" + different[:2900])
    assert degenerate(different[:3000] + "and so on, " * 180)
    assert degenerate("a" * 5000)


@given(st.text(min_size=1, max_size=8).filter(lambda piece: piece == piece.strip()), st.text(max_size=30))
def test_anything_often_enough_repeated_is_a_loop(piece: str, before: str) -> None:
    assert degenerate(before + piece * 40)


def test_a_loop_is_found_behind_a_long_text_but_not_before_one() -> None:
    different = " ".join(f"word{i}" for i in range(2 * WINDOW // 6))

    assert degenerate(different + " and so on," * (WINDOW // 20))
    assert not degenerate("and so on, " * (WINDOW // 20) + different)


@pytest.mark.parametrize("least", ["葉" * 8, "la " * 9])
def test_a_han_letter_says_as_much_as_three_others(least: str) -> None:
    assert signs("Sir, " + least).loop
    assert not signs("Sir, " + least[: len(least) - len(least) // 4]).loop


def test_a_letter_of_which_a_byte_was_cut_off_hides_no_loop() -> None:
    assert degenerate("是一位年的同事，" * 4 + "\ufffd")


def test_the_numbers_of_a_list_hide_no_loop() -> None:
    items = [f"{i}. Chicken with rice" for i in range(1, 9)]

    assert degenerate("\n".join(items))
    assert degenerate("\n".join([*items, "9."]))
    assert not degenerate("\n".join(f"{i}. {word}" for i, word in enumerate(ENGLISH.split()[:20])))


def test_a_loop_in_which_a_word_changes_shows_by_its_ngrams_and_their_cost() -> None:
    words = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
    changing = signs(" ".join(f"The {word} step is to be patient with yourself." for word in words))

    assert not changing.loop
    assert changing.repeated > 0.5
    assert changing.cost < 0.15
    assert changing.stuck


@given(st.text())
def test_any_text_has_signs(text: str) -> None:
    found = signs(text)

    assert 0 <= found.repeated <= 1
    assert found.stuck is degenerate(text)


# Rates on labelled texts: a claim is refuted where the interval of what was seen lies above it.


@pytest.mark.parametrize("language", ["en", "zh"])
def test_at_most_one_real_answer_in_six_that_is_stuck_is_missed(language: str) -> None:
    seen = misses(some(language, *REAL))

    assert seen.of >= 30
    assert seen.errors <= seen.of / 6
    assert misses(some(language, "held-out")).interval[0] <= 1 / 6


@pytest.mark.parametrize("language", ["en", "zh", "code"])
def test_what_is_fine_is_not_called_degenerate(language: str) -> None:
    written = [a for a in prompts() if a.language == language]
    seen = false_alarms([*some(language, *REAL, "made"), *written])

    assert seen.of >= 70
    assert seen.interval[0] <= 0.01
    assert seen.errors <= 0.02 * seen.of


def test_of_the_hard_cases_made_up_few_are_taken_wrongly() -> None:
    made = [a for a in ANSWERS if a.part == "made"]

    assert false_alarms(made).errors <= 1
    assert misses(made).errors <= 2


def test_rates_and_their_intervals() -> None:
    loop, fine = "la " * 30, ENGLISH
    texts = [("stuck", loop), ("stuck", fine), ("fine", fine), ("fine", loop), ("unclear", loop)]
    made = [Answer(language="en", part="made", label=label, text=text) for label, text in texts]

    assert rows(made) == [
        {
            "texts": "made", "language": "en", "false alarms": "1 of 2: 50.0% (1.3..98.7)",
            "misses": "1 of 2: 50.0% (1.3..98.7)", "unclear, called degenerate": "1 of 1",
        }
    ]  # fmt: skip
    assert Rate(errors=0, of=10).interval == pytest.approx((0, 0.3085), abs=1e-4)
    assert Rate(errors=10, of=10).interval == pytest.approx((0.6915, 1), abs=1e-4)
    assert str(Rate(errors=0, of=0)) == "none to err on"


def test_a_label_that_is_none_is_refused(tmp_path: Path) -> None:
    line = json.dumps({"label": "good", "text": "x", "language": "en"})
    (tmp_path / "answers.jsonl").write_text(line + "\n", encoding="utf-8")

    with pytest.raises(BadInput, match="line 1: the label is 'good'"):
        answers(tmp_path)


def test_every_labelled_answer_is_there_once() -> None:
    lines = (FOLDER / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]

    assert len(texts) == len(set(texts)) == 199


# The language


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        (ENGLISH, "en", True),
        (ENGLISH, "zh", False),
        (CHINESE, "zh", True),
        (CHINESE, "en", False),
        ("請用 Python 的 asyncio 模組寫一個網路爬蟲，並且加上重試的機制。", "zh", True),
        ("請用 Python 的 asyncio 與 aiohttp 寫爬蟲", "zh", True),
        ("The word 海 means sea, and 山 means mountain, in Chinese and in Japanese.", "en", True),
        ("Café résumé naïve Übergröße", "en", True),
        (CODE, "en", True),
        ("", "en", None),
        ("OK", "en", None),
        ("好", "zh", None),
        ("1234 5678 90 !!! ---- \n\n\t 42.0", "en", None),
        ("🙂🙂🙂🙂🙂🙂🙂🙂", "zh", None),
        (ENGLISH, "ja", None),
        ("Да, конечно, это маяк", "en", None),
        ("灯台守はドアの下に絵はがきを見つけた。宛先は海だった。", "zh", False),
        ("등대지기는 문 아래에서 엽서를 발견했다", "zh", False),
        ("등대지기는 문 아래에서 엽서를 발견했다", "en", False),
    ],
)
def test_the_language_of_an_answer(text: str, language: str, expected: bool | None) -> None:  # noqa: FBT001
    assert in_language(text, language) is expected


@given(st.text(), st.sampled_from(["en", "zh", "ja"]))
def test_no_answer_is_in_two_languages(text: str, language: str) -> None:
    assert in_language(text, language) in (True, False, None)
    assert not (in_language(text, "en") and in_language(text, "zh"))
