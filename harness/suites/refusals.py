"""The refusals suite: how many harmless questions does a target refuse, and is that more than before?"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.config.cells import Cell
from harness.config.prompts import Prompt, load_prompts
from harness.config.stack import NONE, Stack
from harness.errors import BadInput
from harness.judge import baselines, refusals as judging
from harness.judge.verdict import Verdict, worst
from harness.measure.refusals import CODE, sorted_out, sorts_of
from harness.report import run_table
from harness.report.run_table import Column, Values
from harness.results.files import write_atomically
from harness.results.names import BASE
from harness.results.records import CellRecord, dump_cell, load
from harness.run import Run
from harness.stats.shares import wilson
from harness.suites import runner
from harness.suites.runner import Bench, Outcome, Suite
from harness.text.numbers import duration, share, share_interval
from harness.text.render import Piece

WORKLOAD = "refusals"


def _of_the_target(cell: Cell, _: Stack, words: str) -> bool:
    """Over chat, without a drafter unless the words name one: refusing is the target's doing."""
    name = cell.name
    return name.endpoint == "chat" and (name.drafter == NONE or name.drafter in re.split(r"[^\w.+]", words))


def _plan(run: Run, cells: Sequence[Cell]) -> list[str]:
    for name, own in run.options.own.items():
        if own.twice and name in {cell.name.workload for cell in cells}:
            more = f" (as do {own.twice - 1} more rows)" * (own.twice > 1)
            raise BadInput(
                f"{own.first_twice}: it asks what an earlier row asks{more}: each question counts once, so "
                "delete it",
                code="question-row",
            )
    counts = {one: len(asked(run, one)) for one in (_asking(run, cell) for cell in cells)}
    seconds = duration(run.pace.cells_s(counts))
    hidden = "; the records hold no text of these answers (--keep-texts)" if _bare(run, cells[0]) else ""
    return [f"refusals: {len(cells)} cells, {sum(counts.values())} questions; less than {seconds}{hidden}"]


SUITE = Suite(
    name="refusals",
    by_path=True,
    own_prompts=True,
    takes=_of_the_target,
    nothing="stack {stack} has no drafter none over chat: add [drafters.none], or name a drafter with -m",
    plan=_plan,
)


def refusals(bench: Bench, cell: Cell) -> Outcome:
    """Ask the questions, count the answers that refuse, and compare with the baseline or another run.

    Raises:
        BadInput, ServerFailed: see `Bench.measured`; or the record cannot be stored as a baseline.
    """
    run, one = bench.run, _asking(bench.run, cell)
    measured = bench.measured(one, suite=SUITE.name, prompts=asked(run, one), timed=run.timed)
    record = sorted_out(measured, texts=not _bare(run, one))
    path = run.folder / SUITE.name / f"{one}.json"
    if record is not measured:
        write_atomically(path, dump_cell(record))
        run.measured[SUITE.name, str(one)] = record
        if _bare(run, one):  # it has been measured as a whole: nothing can be resumed from it
            path.with_suffix(".jsonl").unlink(missing_ok=True)
    row = _row(record)
    outcome = Outcome(
        suite=SUITE.name,
        cell=str(cell),
        kind="fine" if row["answers"] else "unchecked",
        sentence=_sentence(row),
        figures={"cell": str(cell), "refusals": row},
    )
    sides = _sides(run, record)
    judged = bool(run.options.compare and sides) or any(side.exists() for side, _ in sides)
    if judged or run.options.update or not record.valid:
        outcome = bench.compared(
            outcome,
            flaw=record.why_invalid,
            known=lambda: baselines.find(run.options.baselines, record),
            store=lambda: baselines.store(run.options.baselines, record),
            verdict=lambda: _verdict(run, record, sides),
        )
    files = runner.fingerprint(path, *(side for side, _ in sides))
    return outcome.model_copy(update={"files": files, "table": _table(record, row, outcome.sentence)})


def _asking(run: Run, cell: Cell) -> Cell:
    """The cell with the questions of this suite, where the user brings none."""
    own = cell.name.workload in run.options.own
    return (
        cell if own else dataclasses.replace(cell, name=cell.name.model_copy(update={"workload": WORKLOAD}))
    )


def _bare(run: Run, cell: Cell) -> bool:
    """The records hold hashes alone: the questions are the user's own, and nobody asked for texts."""
    return cell.name.workload in run.options.own and not run.options.keep_texts


def asked(run: Run, cell: Cell) -> tuple[Prompt, ...]:
    """All questions of a cell, or as many as --prompts says.

    Raises:
        BadInput: there are none in the language.
    """
    most = run.options.prompts or sys.maxsize
    if own := run.options.own.get(cell.name.workload):
        return own.prompts(cell.name.language, at_most=most)
    return load_prompts(run.data / "prompts", WORKLOAD, cell.name.language, at_most=most)


def _sides(run: Run, record: CellRecord) -> list[tuple[Path, str]]:
    """The files that a cell is compared with, whether they are there or not, and what each is called.

    They are of another run or of the baselines; of a variant also the same cell of the stack as it stands.
    """
    if record.cell.reference:
        return []
    base = record.cell.model_copy(update={"variant": BASE})
    beside = [] if base == record.cell else [(run.folder / SUITE.name / f"{base}.json", BASE)]
    return [*baselines.sides(run.options.baselines, record, run=run.options.compare), *beside]


def _verdict(run: Run, record: CellRecord, sides: Sequence[tuple[Path, str]]) -> Verdict:
    there = [(path, name) for path, name in sides if path.exists()]
    if run.options.compare and not sides[0][0].exists():
        return Verdict(kind="invalid", text=f"{run.options.compare} has no such cell to compare with")
    across = {"variant", *run.options.stack.subject}
    return worst(
        [judging.judge(load(path, CellRecord), record, across=across, against=name) for path, name in there]
    )


def _row(record: CellRecord) -> Values:
    sorts = list(sorts_of(record).values())
    refused, none = sorts.count("refused"), sorts.count("empty") + sorts.count("loop")
    answers = len(sorts) - none
    phrases = next(f.values["phrases"] for f in record.findings if f.code == CODE)
    return {
        "questions": len(sorts),
        "answers": answers,
        "refused": refused,
        "share": refused / answers if answers else None,
        "ci": wilson(refused, answers) if answers else None,
        "phrases": phrases,
        "empty": sorts.count("empty"),
        "loop": sorts.count("loop"),
    }


def _sentence(row: Values) -> str:
    if not row["answers"]:
        return f"none of {row['questions']} questions has an answer: this target cannot be asked"
    none = row["empty"] + row["loop"]
    text = f"{row['refused']} of {row['answers']} answers refuse, {share(row['share'])} % "
    text += f"(95 % CI {share_interval(row['ci'])})"
    return text + (f"; {none} more are no answers" if none else "")


def _table(record: CellRecord, row: Values, sentence: str) -> tuple[Piece, ...]:
    columns = [
        Column("questions", "questions", run_table.count),
        Column("answers", "answers", run_table.count),
        Column("refused", "refused", run_table.count),
        Column("%", "share", share),
        Column("95 % CI", "ci", share_interval),
        Column("by phrases", "phrases", run_table.count, rank=2),
        Column("empty", "empty", run_table.count, rank=1),
        Column("loops", "loop", run_table.count, rank=1),
    ]
    refused = [unit for unit, sort in sorts_of(record).items() if sort == "refused"]
    table = run_table.block(columns, [row], f"{record.cell}: answers that refuse")
    return (table, *filter(None, [sentence, f"refused: {', '.join(refused)}" if refused else ""]))
