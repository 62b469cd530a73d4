"""Reads multiple-choice questions from a table: a question, its options and which one is right.

Two layouts are read as they are published: options in columns A, B, C, ... and the answer as a letter
(TMMLU+, CMMLU, and the files that come with draftgate), and a list `choices` with the answer as the number of
an option from 0, or as its letter (MMLU). Upper and lower case of the columns' names do not matter.
"""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Mapping
from typing import Any

from harness.config.layouts import parsed
from harness.config.prompts import Prompt
from harness.config.rows import refuse, rows_of
from harness.errors import BadInput
from harness.text.validation import kind_of

LETTERS = string.ascii_uppercase
_ASKED = ("question", "text")
"""Columns that hold the question; the first one that is there counts."""
_LEAST = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """A question with one right option."""

    id: str
    language: str | None
    """As its row says it; None where the row says none."""
    text: str
    options: tuple[str, ...]
    right: int
    """Index of the right option."""
    subject: str | None = None

    def prompt(self, language: str) -> Prompt:
        """What a target is asked: the question, its options by letter, and how to answer."""
        options = [f"{letter}. {option}" for letter, option in zip(LETTERS, self.options, strict=False)]
        text = "\n".join([self.text, *options, _wording(language)[0]])
        return Prompt(id=self.id, language=language, text=text, category=self.subject)

    def context(self, language: str) -> str:
        """The text before an option whose likelihood is asked for: the question alone."""
        return _wording(language)[1].format(self.text)

    def continuations(self, language: str) -> tuple[str, ...]:
        """Each option as it follows the context."""
        return tuple(_wording(language)[2] + option for option in self.options)


def _wording(language: str) -> tuple[str, str, str]:
    """The instruction, the context of an option, and what parts the two."""
    if language.startswith("zh"):
        return "請寫出正確選項的字母和內容。\n答案：", "問題：{}\n答案：", ""
    return "Write the letter of the right option, and its text.\nAnswer:", "Question: {}\nAnswer:", " "


def read_questions(file: str) -> tuple[Question, ...]:
    """All questions of a file, or of a data set of the hub (`hf:NAME:SPLIT`).

    Raises:
        BadInput: it cannot be read or holds none; a row is no question, or stands there twice.
    """
    found: dict[Any, Question] = {}
    ids: dict[str, str] = {}
    places: dict[Any, str] = {}
    wrong: list[BadInput] = []
    for number, (where, row) in enumerate(rows_of(file), start=1):
        try:
            question = _Row.of(where, row).question(number)
            key = question.text, frozenset(question.options)
            if key in found:
                raise _bad(where, "question", f"it stands in {places[key]} too", "delete one of the two")
            if (other := ids.setdefault(question.id, where)) != where:
                raise _bad(where, "id", f"{question.id!r} stands in {other} too", "give each row its own")
        except BadInput as error:
            wrong.append(error)
            continue
        found[key], places[key] = question, where
    refuse(wrong)
    if not found:
        raise BadInput(f"{file}: it holds no question: add rows, or name another file", code="question-row")
    return tuple(found.values())


def _bad(where: str, field: str, what: str, todo: str) -> BadInput:
    return BadInput(f"{where}: field {field}: {what}; {todo}", code="question-row")


@dataclasses.dataclass(frozen=True)
class _Row:
    """A row by the lower-case names of its columns, and where it stands."""

    where: str
    data: Mapping[str, Any]
    names: Mapping[str, str]
    """Of the columns, as the file has them."""

    @classmethod
    def of(cls, where: str, row: Any) -> _Row:
        if not isinstance(row, dict):
            raise _bad(where, "question", f"the row is no table, but {kind_of(row)}", "make it one")
        return cls(where, {str(k).lower(): v for k, v in row.items()}, {str(k).lower(): str(k) for k in row})

    def question(self, number: int) -> Question:
        asked = next((name for name in _ASKED if name in self.data), _ASKED[0])
        text, options = self.text(asked), self.options()
        for at, option in enumerate(options):
            if option in options[:at]:
                same = LETTERS[options.index(option)]
                what = f"it is the same as option {same} ({option[:60]!r})"
                raise self.bad("choices" if "choices" in self.data else LETTERS[at], what, "correct one")
        return Question(
            id=self.optional("id") or f"{number:04}",
            language=self.optional("language"),
            text=text,
            options=options,
            right=self.right(len(options)),
            subject=self.optional("subject") or self.optional("kind"),
        )

    def options(self) -> tuple[str, ...]:
        if "choices" not in self.data:
            letters = [letter for letter in LETTERS if letter.lower() in self.data]
            letters = letters if len(letters) >= _LEAST else list(LETTERS[:4])
            # A gap is an option that is missing: the letters go on behind it.
            letters = list(LETTERS[: LETTERS.index(letters[-1]) + 1])
            return tuple(self.text(letter.lower()) for letter in letters)
        found = parsed(self.data["choices"])
        if not isinstance(found, list) or not _LEAST <= len(found) <= len(LETTERS):
            raise self.bad("choices", "it is no list of two or more options", "correct it")
        return tuple(self.told("choices", one) for one in found)

    def right(self, count: int) -> int:
        """The index of the right option."""
        answer = self.data.get("answer")
        if isinstance(answer, str):
            answer = answer.strip()
            if answer.upper() in tuple(LETTERS[:count]):
                return LETTERS.index(answer.upper())
            answer = int(answer) if answer.isdecimal() else answer
        if type(answer) is int and "choices" in self.data and 0 <= answer < count:
            return answer
        if answer is None or answer == "":
            raise self.bad("answer", "it is missing or empty", "name the right option")
        known = f"the options are {LETTERS[0]} to {LETTERS[count - 1]}"
        known += f", or 0 to {count - 1}" if "choices" in self.data else ""
        raise self.bad("answer", f"{answer!r:.60} is no option: {known}", "correct it")

    def text(self, name: str) -> str:
        return self.told(name, self.data.get(name))

    def told(self, name: str, value: Any) -> str:
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or not value.strip():
            empty = value is None or isinstance(value, str)
            what = "it is missing or empty" if empty else f"{value!r:.60} is no text"
            raise self.bad(name, what, "fill it in, or delete the row")
        return value.strip()

    def optional(self, name: str) -> str | None:
        value = self.data.get(name)
        return None if value is None or value == "" else self.told(name, value)

    def bad(self, name: str, what: str, todo: str) -> BadInput:
        name = name.lower()
        shown = self.names.get(name, name.upper() if len(name) == 1 else name)
        return _bad(self.where, shown, what, todo)
