from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from harness.stats.language import in_language
from tests.unit.texts import CHINESE, CODE, ENGLISH


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
