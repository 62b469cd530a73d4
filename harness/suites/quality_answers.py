"""Answers to multiple-choice questions: how many are right, and which are lost against another cell."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from harness.config.cells import Cell
from harness.config.questions import Question
from harness.judge.compare import CellComparison, Comparison, Figures
from harness.measure.choices import chosen, likeliest
from harness.measure.structured import part_of
from harness.report import run_table
from harness.report.run_table import Column, Values, answer_values
from harness.results.files import json_lines
from harness.results.records import CellRecord, Record, load, validated
from harness.stats.shares import ALPHA, change_interval, mcnemar, wilson
from harness.suites.beside_none import first_flaw
from harness.suites.known_answers import TIE
from harness.suites.lossless import Divergence
from harness.suites.runner import Kind, Outcome
from harness.text.numbers import DASH, number, share, share_interval, signed_interval
from harness.text.render import Block, Piece

SUITE = "quality"
WAYS = {"acc": "likelihood", "acc_norm": "per character", "written": "written"}
"""What a question is answered by, as lm-eval calls it where it does; and in words."""
Rights = Mapping[str, bool]


class Asked(Record):
    """A question as a cell was asked it, and the log-likelihood of each option where that was measured."""

    question: str
    text: str
    options: tuple[str, ...]
    right: int
    log_likelihoods: tuple[float, ...] | None = None

    @property
    def as_question(self) -> Question:
        """Without what was measured."""
        return Question(
            id=self.question, language=None, text=self.text, options=self.options, right=self.right
        )


def file_of(cell_file: Path) -> Path:
    """Where the questions of a cell lie, in the run of its record."""
    return cell_file.parent / "questions" / f"{cell_file.stem}.jsonl"


def read_asked(path: Path) -> dict[str, Asked]:
    """The questions of a cell by id; none where there is no such file.

    Raises:
        BadRecord: the file is damaged.
    """
    lines = json_lines(path) if path.is_file() else ()
    return {one.question: one for one in (validated(x.data, Asked, where=x.where) for x in lines)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
    """What one cell answered."""

    name: str
    record: CellRecord
    asked: Mapping[str, Asked] = dataclasses.field(default_factory=dict)

    def rights(self, questions: Mapping[str, Question], way: str) -> Rights:
        """By question, whether it is answered right; empty where nobody asked this way.

        A question whose right option shares the first place is not answered right.
        """
        if way == "written":
            return {
                r.prompt: chosen(questions[r.prompt], part_of(r, "content")) == questions[r.prompt].right
                for r in self.record.prompts
                if r.prompt in questions
            }
        return {one: best == (questions[one].right,) for one, best in self.best(questions, way).items()}

    def best(self, questions: Mapping[str, Question], way: str) -> dict[str, tuple[int, ...]]:
        """By question, the likeliest options: more than one where they are the same."""
        return {
            name: likeliest(questions[name], one.log_likelihoods, per_character=way == "acc_norm")
            for name, one in self.asked.items()
            if name in questions and one.log_likelihoods
        }

    def unread(self, questions: Mapping[str, Question]) -> int:
        """Answers that name no option, or several."""
        return sum(
            chosen(questions[r.prompt], part_of(r, "content")) is None
            for r in self.record.prompts
            if r.prompt in questions
        )


def read_side(name: str, cell_file: Path) -> tuple[Side, dict[str, Question]]:
    """What a cell on disk answered, and its questions.

    Raises:
        BadRecord: a file is damaged.
    """
    asked = read_asked(file_of(cell_file))
    questions = {name: one.as_question for name, one in asked.items()}
    return Side(name=name, record=load(cell_file, CellRecord), asked=asked), questions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answers:
    """The answers of a cell, and of those that it is compared with."""

    questions: Mapping[str, Question]
    own: Side
    plain: Side | None = None
    """`none` in the same place, where the cell drafts."""
    earlier: Side | None = None
    """The same cell of another run."""
    base: Side | None = None
    """The same cell of the stack as it stands, where the cell is of a variant. It fails nothing."""
    parted: Sequence[Divergence] = ()
    """From `none`."""

    def judged(self) -> tuple[Kind, str]:
        """Whether answers are lost, and the sentence that says so."""
        for side in (*self._others(), self.own):
            if not side.record.valid:
                return "invalid", f"not a measurement: {side.name}: {first_flaw(side.record)}"
        said = [", ".join(f"{WAYS[way]} {sum(own.values())}" for way, own in self._ways(self.own))]
        said[0] = f"{said[0]} of {len(self.questions)} right (guessing: {self.chance:.0f})"
        kinds: list[Kind] = ["fine"]
        if self.plain:
            kinds += [self._lossless(said)]
        of = [(side, way, self._moved(side, way)) for side in self._others() for way in WAYS]
        tests = [test for test in of if test[-1]]
        for side, way, moved in tests:
            if moved["lost"] or moved["won"]:
                counts = f"{moved['lost']} lost and {moved['won']} won"
                said.append(f"{WAYS[way]}: {counts} against {side.name}, p = {moved['p']:.2g}")
            lost: Kind = "noteworthy" if side is self.base else "failed"
            kinds += [lost] if moved["p"] <= ALPHA / len(tests) else []
        return max(kinds, key=_KINDS.index), "; ".join(said)

    def _lossless(self, said: list[str]) -> Kind:
        """What the texts say of the drafter: no answer may leave that of `none` but at a tie."""
        sure = [one for one in self.parted if abs(one.gap) > TIE]
        unknown = [one for one in self.parted if math.isnan(one.gap)]
        texts = f"{len(self.parted)} of {len(self.questions)} answers differ from `none`"
        if sure:
            worst = max(sure, key=lambda one: abs(one.gap))
            where = f"token {worst.at} of {worst.prompt}, e^{worst.gap:.1f} to 1"
            said.append(
                f"not lossless: {texts}, {len(sure)} of them where the target is sure (as at {where})"
            )
            return "failed"
        if unknown:
            said.append(f"{texts}; of {len(unknown)} nobody can tell whether at a tie")
            return "unsure"
        said.append(
            f"{texts}, all at ties of two tokens" if self.parted else "the answers are those of `none`"
        )
        return "noteworthy" if self.parted else "fine"

    @property
    def chance(self) -> float:
        """Right answers of one who guesses, on average."""
        return sum(1 / len(question.options) for question in self.questions.values())

    def _others(self) -> list[Side]:
        return [side for side in (self.plain, self.base, self.earlier) if side]

    def _ways(self, side: Side) -> list[tuple[str, Rights]]:
        return [(way, own) for way in WAYS if (own := side.rights(self.questions, way))]

    def _moved(self, side: Side, way: str) -> Values:
        """What this side lost and won against that one, McNemar's p, and the change with its interval.

        Empty where both sides answered no question this way.
        """
        before, after = side.rights(self.questions, way), self.own.rights(self.questions, way)
        pairs = Counter((before[name], right) for name, right in after.items() if name in before)
        lost, won = pairs[True, False], pairs[False, True]
        if not pairs:
            return {}
        ends = change_interval(lost, won, pairs[True, True], pairs[False, False])
        return {"lost": lost, "won": won, "p": mcnemar(lost, won), "change_ci": ends}

    def rows(self) -> list[Values]:
        """The figures of each side and way by name."""
        return [
            self._row(side, way, own) for side in (*self._others(), self.own) for way, own in self._ways(side)
        ]

    def _row(self, side: Side, way: str, own: Rights) -> Values:
        right, of = sum(own.values()), len(own)
        row: Values = {"who": side.name, "way": WAYS[way], "questions": of, "right": right,
                       "accuracy": right / of, "ci": wilson(right, of)}  # fmt: skip
        if way == "written":
            row |= {
                name: v for name, v in answer_values(side.record.prompts).items() if name in ("tok_s", "tau")
            }
            row["unread"] = side.unread(self.questions)
        else:
            row["tied"] = sum(len(best) > 1 for best in side.best(self.questions, way).values())
        if side is not self.own:
            row |= self._moved(side, way)
        if side is self.plain:
            row |= {"differ": len(self.parted), "sure": sum(not abs(one.gap) <= TIE for one in self.parted)}
        return row

    def outcome(self, cell: Cell) -> Outcome:
        """What the suite found out about a cell."""
        kind, sentence = self.judged()
        return Outcome(
            suite=SUITE,
            cell=str(cell),
            kind=kind,
            sentence=sentence,
            table=self.table(sentence),
            figures={"cell": str(cell), "chance": self.chance, "answers": self.rows()},
        )

    def table(self, sentence: str) -> tuple[Piece, ...]:
        """A line for each side and way, in percent; below it the sentence."""
        columns = [
            Column("", "who", align="l"),
            Column("answered by", "way", align="l"),
            Column("n", "questions", run_table.count, rank=7),
            Column("right %", "accuracy", share),
            Column("95 % CI", "ci", share_interval, rank=2),
            *([Column("lost", "lost", run_table.count), Column("won", "won", run_table.count),
               Column("change", "change_ci", signed_interval, rank=3),
               Column("p", "p", _p, rank=1)] if self._others() else []),
            *([Column("other text", "differ", run_table.count, rank=3),
               Column("no tie", "sure", run_table.count, rank=4)] if self.plain else []),
            Column("tied", "tied", run_table.count, rank=8),
            Column("unread", "unread", run_table.count, rank=9),
            Column("tok/s", "tok_s", run_table.tenths, rank=5),
            Column("tau", "tau", number, rank=6),
        ]  # fmt: skip
        title = f"{self.own.record.cell}: questions answered right"
        title += f"; lost and won: by {self.own.name} against that row" if self._others() else ""
        return (run_table.block(columns, self.rows(), title), *filter(None, [sentence]))


_KINDS: tuple[Kind, ...] = ("fine", "noteworthy", "unsure", "failed")
"""From good to bad."""


def _p(value: float | None) -> str:
    return DASH if value is None else f"{value:.2g}"


def paired_blocks(comparison: Comparison) -> tuple[Block, ...]:
    """The answers of all pairs of cells of this suite in a comparison, a line for each pair and way.

    Raises:
        BadRecord: a file is damaged.
    """
    rows: list[Values] = []
    for row in comparison.rows:
        for column, other in zip(comparison.columns[1:], row.others, strict=True):
            if other and {row.figures.entry.suite, other.figures.entry.suite} == {SUITE}:
                rows += _of_pair(row.figures, other, column.name)
    columns = [
        Column("cell", "cell", align="l"),
        Column("", "who", align="l"),
        Column("answered by", "way", align="l"),
        Column("n", "questions", run_table.count),
        Column("right %", "shares", lambda ends: " → ".join(map(share, ends))),
        Column("lost", "lost", run_table.count),
        Column("won", "won", run_table.count),
        Column("change", "change_ci", signed_interval),
        Column("p", "p", _p),
        Column("tok/s", "speeds", _speeds, rank=1),
    ]
    title = "questions answered right (change in points with its 95 % interval; p of McNemar's exact test)"
    return (run_table.block(columns, rows, title),) if rows else ()


def _of_pair(old: Figures, new: CellComparison, label: str) -> Iterator[Values]:
    before, first = read_side("", old.entry.path)
    after, second = read_side(label, new.figures.entry.path)
    same = {name: question for name, question in second.items() if first.get(name) == question}
    answers = Answers(questions=same, own=after, earlier=before)
    for row in answers.rows():
        if row["who"] == "" and "lost" in row:
            right = row["right"] - row["lost"] + row["won"]
            speeds = (old.tok_s, new.figures.tok_s) if new.same_environment else None
            yield row | {
                "cell": str(old.entry.cell),
                "who": label,
                "shares": (row["accuracy"], right / row["questions"]),
                **({"speeds": speeds} if row["way"] == WAYS["written"] and speeds else {}),
            }


def _speeds(ends: tuple[float | None, float | None]) -> str:
    return " → ".join(map(run_table.tenths, ends))
