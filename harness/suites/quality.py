"""The quality suite: how many questions does a target answer right, and does a drafter change an answer?

Accuracy by the likelihood of the options says what the target knows; no drafter has a part in it. Whether a
drafter changes anything shows in the answers that it helped to write, at T=0.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness.config.cells import Cell, with_profile
from harness.config.prompts import hash_of
from harness.config.questions import Question, read_questions
from harness.config.stack import Sampling
from harness.errors import BadInput, NoCells
from harness.measure import probe
from harness.measure.choices import log_likelihoods
from harness.results.files import as_line, write_atomically
from harness.results.names import BASE
from harness.run import Run
from harness.suites.beside_none import measured_after_none, sparing, with_none
from harness.suites.lossless import Divergence, divergence, first_difference
from harness.suites.quality_answers import SUITE as NAME, Answers, Asked, Side, file_of, read_asked, read_side
from harness.suites.runner import Bench, Outcome, Suite
from harness.text.numbers import duration

WORKLOAD = NAME
TOKENS = 24
"""Of an answer, unless --max-tokens says another number: its letter, and its text."""


def _plan(run: Run, cells: Sequence[Cell]) -> list[str]:
    measured = [_asking(run, cell) for cell in with_none(run, cells)]
    for cell in [_asking(run, cell) for cell in cells]:
        _earlier(run, cell, {question.id: question for question in asked(run, cell)})
    for cell in measured:
        run.warmups(cell)
    counts = {cell: len(asked(run, cell)) for cell in measured}
    seconds = run.pace.cells_s(counts)
    text = f"quality: {len(measured)} cells with those of `none`, {sum(counts.values())} answers"
    return [f"{text}, and the likelihood of each option without a drafter; about {duration(seconds)}"]


SUITE = Suite(name=NAME, by_path=True, beside_none=True, takes=sparing, plan=_plan)


def quality(bench: Bench, cell: Cell) -> Outcome:
    """Answer the questions with `none` and with a drafter, count the right answers, and compare.

    Raises:
        BadInput, ServerFailed: see `Bench.measured`; a server gives no log probabilities of a prompt.
    """
    run = bench.run
    one = _asking(run, cell)
    questions = {question.id: question for question in asked(run, one)}
    earlier = _earlier(run, one, questions)
    plain, own = measured_after_none(bench, SUITE.name, cell, lambda c: _measured(bench, c))
    plain = plain if cell.name.k else None
    sides: dict[str, Side] = bench.shared.setdefault(f"{NAME} by cell", {})
    sides[str(one)] = own
    base = sides.get(str(one.name.model_copy(update={"variant": BASE}))) if one.name.variant != BASE else None
    base = None if one.name.reference else base
    valid = plain is not None and plain.record.valid and own.record.valid
    parted = _parted(bench, one, plain, own) if plain and valid else []
    found = Answers(questions=questions, own=own, plain=plain, base=base, earlier=earlier, parted=parted)
    return found.outcome(cell)


def _asking(run: Run, cell: Cell) -> Cell:
    """The cell with the questions as its prompts, at T=0."""
    name = cell.name.model_copy(update={"workload": WORKLOAD})
    tokens = run.options.max_tokens or TOKENS
    return with_profile(dataclasses.replace(cell, name=name), max_tokens=tokens, sampling=Sampling())


def asked(run: Run, cell: Cell) -> tuple[Question, ...]:
    """The questions of a cell: those of --questions in its language, or those of draftgate.

    Raises:
        BadInput: there are none, or a row is no question.
    """
    language, own = cell.name.language, run.options.questions
    file = own or str(run.data / "prompts" / WORKLOAD / f"{language}.jsonl")
    if not own and not Path(file).is_file():
        what = f"draftgate has no questions in {language}: name a file of your own (--questions)"
        raise BadInput(what, code="no-prompts")
    found = [q for q in read_questions(file) if q.language in (None, language)]
    if not found:
        raise BadInput(f"{file}: it has no question in {language}: add some", code="no-prompts")
    return tuple(found[: run.options.prompts or sys.maxsize])


def _measured(bench: Bench, cell: Cell) -> Side:
    """Likelihoods come first: where a server gives none, nothing is written."""
    one = _asking(bench.run, cell)
    questions, language = asked(bench.run, one), one.name.language
    path = bench.run.folder / SUITE.name / f"{one}.json"
    known = read_asked(file_of(path))
    if any(_differ(question, known) for question in questions):
        known = {one.question: one for one in _scored(bench, one, questions)}
        write_atomically(file_of(path), "".join(as_line(one.model_dump()) for one in known.values()))
    prompts = [question.prompt(language) for question in questions]
    record = bench.measured(one, suite=SUITE.name, prompts=prompts, timed=bench.run.timed)
    return Side(name=one.spec.label, record=record, asked=known)


def _differ(question: Question, known: Mapping[str, Asked]) -> bool:
    one = known.get(question.id)
    return one is None or one.as_question != dataclasses.replace(question, language=None, subject=None)


def _scored(bench: Bench, cell: Cell, questions: Sequence[Question]) -> list[Asked]:
    """The questions, with likelihoods where no drafter is on, or no other server is to be had."""
    sums: Sequence[tuple[float, ...] | None] = [None] * len(questions)
    if not cell.name.k or bench.run.options.server_url:
        server, language = bench.slot.get(cell.spec), cell.name.language
        what = f"the likelihood of the options of {len(questions)} questions"
        bench.say(f"draftgate: {SUITE.name}/{cell}: {what}")
        with ThreadPoolExecutor(max_workers=cell.profile.concurrency) as pool:
            sums = list(pool.map(lambda question: log_likelihoods(server, question, language), questions))
    return [
        Asked(question=q.id, text=q.text, options=q.options, right=q.right, log_likelihoods=of)
        for q, of in zip(questions, sums, strict=True)
    ]


def _earlier(run: Run, cell: Cell, questions: Mapping[str, Question]) -> Side | None:
    """The same cell of the run that --compare names, with its answers to the same questions.

    Raises:
        BadInput: that run has no such cell, or it was asked no question of these.
        BadRecord: its file is damaged.
    """
    if run.options.compare is None or cell.name.reference:
        return None
    folder = run.options.compare
    path = folder / SUITE.name / f"{cell}.json"
    if not path.is_file():
        raise NoCells(f"--compare: {path} is not there: run the quality suite there too")
    side, _ = read_side(f"{folder.resolve().name}: {cell.spec.label}", path)
    if side.record.identity.max_tokens != cell.profile.max_tokens:
        what = f"--compare: {path} has answers of {side.record.identity.max_tokens} tokens at most, and these"
        raise NoCells(f"{what} have {cell.profile.max_tokens}: use --max-tokens")
    same = {name for name, question in questions.items() if not _differ(question, side.asked)}
    if not same:
        what = f"--compare: {path} has answers to none of these questions: name a run that was asked the same"
        raise NoCells(what)
    prompts = tuple(r for r in side.record.prompts if r.prompt in same)
    return dataclasses.replace(
        side,
        record=side.record.model_copy(update={"prompts": prompts}),
        asked={name: one for name, one in side.asked.items() if name in same},
    )


def _parted(bench: Bench, cell: Cell, plain: Side, drafted: Side) -> list[Divergence]:
    """Where answers with the drafter leave those of `none`, with the odds of the target there.

    They are NaN where nobody can tell: the server returns no token ids.

    Raises:
        ServerFailed: the server counts no tokens, or gives no log probabilities.
    """
    before, found = {r.prompt: r for r in plain.record.prompts}, []
    asked_of = {q.id: q.prompt(cell.name.language).text for q in asked(bench.run, cell)}
    for r in drafted.record.prompts:
        other = before[r.prompt]
        if r.text_hash == other.text_hash and r.token_ids == other.token_ids:
            continue
        if r.token_ids is None or other.token_ids is None:
            found.append(Divergence(prompt=r.prompt, at=0, gap=math.nan))
            continue
        at = first_difference(other.token_ids, r.token_ids)
        if at is None:  # the same tokens, read differently
            continue
        server = bench.slot.get(cell.spec)
        tokens = probe.Tokens(server, cell.template)
        ids = (tokens.chat if cell.name.endpoint == "chat" else tokens.raw)(asked_of[r.prompt])
        if hash_of(ids) != r.prompt_hash:
            found.append(Divergence(prompt=r.prompt, at=at, gap=math.nan))
        elif one := divergence(server, r.prompt, ids, other.token_ids, r.token_ids):
            found.append(one)
    return found
