from __future__ import annotations

import copy
from typing import Any

import pytest

from harness.text.numbers import DASH
from tests.factories.model_cards import RECORDS, SERVED
from training.export import model_card


def without(path: str) -> dict[str, Any]:
    records = copy.deepcopy(RECORDS)
    *names, last = path.split(".")
    inner = records
    for name in names:
        inner = inner[name]
    del inner[last]
    return records


def row(text: str, *words: str) -> str:
    """The one line that holds all these words."""
    lines = [line for line in text.splitlines() if all(word in line for word in words)]
    assert len(lines) == 1, lines
    return lines[0]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_card_says_what_it_is_and_of_what() -> None:
    text = model_card.text(RECORDS)

    assert text.startswith("# eagle3r2\n")
    assert "it proposes tokens for org/tiny" in text
    assert "draft vocabulary of 8,192 tokens" in text
    assert '"num_speculative_tokens": 4' in text
    assert "`tiny-en-zh`" in text


def test_the_card_says_how_little_chinese_there_is() -> None:
    text = model_card.text(RECORDS)

    assert cells(row(text, "template:zh")) == ["template:zh", "Chinese", "8,000", "410", "61,000"]
    assert "Chinese: 410 answers, 61,000 tokens, 2.0 % of all" in text
    assert "degenerate 1,200, other language 7,100." in text
    assert "T=0 (12,000), T=0.7 (5,410)" in text


def test_the_card_of_an_english_drafter_says_that_there_is_no_chinese() -> None:
    records = copy.deepcopy(RECORDS)
    records["data"]["sources"].pop()

    text = model_card.text(records)

    assert "Chinese: none." in text
    assert "Trained on answers in English alone" in text


def test_the_card_says_how_it_was_trained() -> None:
    text = model_card.text(RECORDS)

    assert cells(row(text, "| steps")) == ["steps", "1,630"]
    assert cells(row(text, "fetch_frac")) == ["waiting for data (fetch_frac)", "3.4 %"]
    assert cells(row(text, "| hidden states")) == ["hidden states", "98,000 tokens/s (ahead)"]
    assert cells(row(text, "1.234")) == ["4", "1.234", "57.1", "33.4"]  # counted from 1
    assert "Exported: epoch 4" in text
    assert "A GPU" in row(text, "| trained on")
    assert "speculators 0.9.0" in text


def test_validation_stands_beside_what_was_served() -> None:
    text = model_card.text(RECORDS)

    trainer, predicted, served = (
        row(text, f"| {what}") for what in ("validation, full", "predicted", "served ")
    )
    assert cells(trainer)[7:12] == [DASH, "58.0", "34.0", "21.0", "13.0"]
    assert cells(predicted)[:9] == [
        "predicted for serving", "chat", "English", "held out in training", "60", "0", "4", "2.11", "53.0",
    ]  # fmt: skip
    assert cells(served)[1:10] == [
        "chat", "English", "benchmark, instruct", "120", "0", "4", "1.64 (1.58..1.70)",
        "39.1 (36.0..42.0)", "16.1 (14.0..18.0)",
    ]  # fmt: skip
    assert cells(served)[11:14] == ["1.1", "0.32.0", "A CPU"]
    assert cells(served)[14].startswith("¹ <!-- draftgate: run=20261129-run/acceptance cell=chat-en")
    assert "¹ 3 of 120 answers end in a loop" in text
    assert "Served so far: chat, English, T=0." in text
    assert "6.1 % of its first wrong guesses" in text


def test_what_was_not_measured_is_an_em_dash() -> None:
    text = model_card.text(without("served") | {"validation": None})

    assert cells(row(text, "validation, served |"))[1:] == [DASH] * 14
    assert f"Served so far: {DASH} (not measured)" in text
    assert "first wrong guesses" not in text


def test_a_cell_that_is_no_measurement_says_so() -> None:
    text = model_card.text(RECORDS | {"served": [SERVED | {"valid": False, "tokens_per_step": None}]})

    line = cells(row(text, "served (not valid)"))
    assert line[7] == DASH
    assert "Served so far: —" in text


@pytest.mark.parametrize(
    ("path", "words", "shown"),
    [
        ("training.fetch_frac", ("fetch_frac",), f"{DASH} %"),
        ("training.times", ("| time",), DASH),
        ("training.extraction", ("| hidden states",), f"{DASH} tokens/s (ahead)"),
        ("device", ("| trained on",), DASH),
        ("versions", ("| versions",), DASH),
    ],
)
def test_a_figure_that_is_missing_is_an_em_dash(path: str, words: tuple[str, ...], shown: str) -> None:
    assert cells(row(model_card.text(without(path)), *words))[1] == shown


def test_nothing_known_is_a_card_of_dashes() -> None:
    text = model_card.text({})

    assert text.startswith(f"# {DASH}\n")
    assert "None" not in text
    assert "nan" not in text


def test_files_stand_with_their_hashes() -> None:
    assert cells(row(model_card.text(RECORDS), "model.safetensors")) == [
        "model.safetensors",
        "20.12",
        f"`{'ab' * 32}`",
    ]


def test_figures_that_were_kept_before_they_had_traps_and_references_are_shown() -> None:
    old = {name: value for name, value in SERVED.items() if name not in ("traps", "reference")}

    text = model_card.text(RECORDS | {"served": [old]})

    assert cells(row(text, "| served"))[14] == DASH
    assert "draftgate:" not in text
