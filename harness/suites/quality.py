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

from harness.config.cells import Cell
from harness.config.prompts import hash_of
from harness.config.questions import Question, read_questions
from harness.config.stack import Sampling
from harness.errors import BadInput
from harness.measure import probe
from harness.measure.choices import log_likelihoods
from harness.results.files import as_line, json_lines, write_atomically
from harness.results.records import CellRecord, load, validated
from harness.run import Run
from harness.suites.beside_none import measured_after_none, sparing, with_none
from harness.suites.lossless import Divergence, first_difference, gap_at
from harness.suites.quality_answers import SUITE as NAME, Answers, Likelihoods, Side
from harness.suites.runner import Bench, Outcome, Suite
from harness.text.numbers import duration

WORKLOAD = NAME
TOKENS = 24
"""Of an answer, unless --max-tokens says another number: its letter, and its text."""


def _plan(run: Run, cells: Sequence[Cell]) -> list[str]:
    measured = [_asking(run, cell) for cell in with_none(run, cells)]
    seconds = run.pace.starts_s([] if run.options.server_url else measured)
    for cell in [_asking(run, cell) for cell in cells]:
        _earlier(run, cell, {question.id: question for question in asked(run, cell)})
    for cell in measured:
        run.warmups(cell)
        seconds += run.pace.answers_s(cell, len(asked(run, cell)))
    requests = sum(len(asked(run, cell)) for cell in measured)
    text = f"quality: {len(measured)} cells with those of `none`, {requests} answers"
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
    valid = plain is not None and plain.record.valid and own.record.valid
    parted = _parted(bench, one, plain, own) if plain and valid else []
    return Answers(questions=questions, own=own, plain=plain, earlier=earlier, parted=parted).outcome(cell)


def _asking(run: Run, cell: Cell) -> Cell:
    """The cell with the questions as its prompts, at T=0."""
    name = cell.name.model_copy(update={"workload": WORKLOAD})
    tokens = run.options.max_tokens or TOKENS
    profile = cell.profile.model_copy(update={"max_tokens": tokens, "sampling": Sampling()})
    return dataclasses.replace(cell, name=name, profile=profile)


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
        raise BadInput(f"{file}: it has no question in {language}", code="no-prompts")
    return tuple(found[: run.options.prompts or sys.maxsize])


def _measured(bench: Bench, cell: Cell) -> Side:
    """Likelihoods come first: where a server gives none, nothing is written."""
    one = _asking(bench.run, cell)
    questions, language = asked(bench.run, one), one.name.language
    likelihoods = {}
    if not one.name.k or bench.run.options.server_url:
        likelihoods = _likelihoods(bench, one, questions)
    prompts = [question.prompt(language) for question in questions]
    record = bench.measured(one, suite=SUITE.name, prompts=prompts, timed=bench.run.timed)
    return Side(name=_drafting(one), record=record, likelihoods=likelihoods)


def _drafting(cell: Cell) -> str:
    return cell.name.drafter + (f"-k{cell.name.k}" if cell.name.k else "")


def _likelihoods(bench: Bench, cell: Cell, questions: Sequence[Question]) -> dict[str, Likelihoods]:
    path, language = _file(bench.run.folder, cell), cell.name.language
    known = _read(path, {question.id: question for question in questions}, language)
    if len(known) == len(questions):
        return known
    server = bench.slot.get(cell.spec)
    bench.say(f"draftgate: {SUITE.name}/{cell}: the likelihood of the options of {len(questions)} questions")
    with ThreadPoolExecutor(max_workers=cell.profile.concurrency) as pool:
        sums = list(pool.map(lambda question: log_likelihoods(server, question, language), questions))
    found = [
        Likelihoods(question=q.id, asked=q.prompt(language).text, options=of)
        for q, of in zip(questions, sums, strict=True)
    ]
    write_atomically(path, "".join(as_line(one.model_dump()) for one in found))
    return {one.question: one for one in found}


def _file(folder: Path, cell: Cell) -> Path:
    return folder / SUITE.name / "likelihoods" / f"{cell}.jsonl"


def _read(path: Path, questions: Mapping[str, Question], language: str) -> dict[str, Likelihoods]:
    """The likelihoods that a run has; none where it has no file of them.

    Raises:
        BadRecord: the file is damaged.
    """
    if not path.is_file():
        return {}
    found = [validated(line.data, Likelihoods, where=line.where) for line in json_lines(path)]
    same = {name: question.prompt(language).text for name, question in questions.items()}
    return {one.question: one for one in found if same.get(one.question) == one.asked}


def _earlier(run: Run, cell: Cell, questions: Mapping[str, Question]) -> Side | None:
    """The same cell of the run that --compare names.

    Raises:
        BadInput: that run has no such cell, or it was asked no question of these.
        BadRecord: its file is damaged.
    """
    if run.options.compare is None:
        return None
    folder, language = run.options.compare, cell.name.language
    path = folder / SUITE.name / f"{cell}.json"
    if not path.is_file():
        raise BadInput(f"--compare: {path} is not there: run the quality suite there too", code="no-cells")
    record = load(path, CellRecord)
    if record.identity.max_tokens != cell.profile.max_tokens:
        what = f"--compare: {path} has answers of {record.identity.max_tokens} tokens at most, and these have"
        raise BadInput(f"{what} {cell.profile.max_tokens}: use --max-tokens", code="no-cells")
    texts = {name: hash_of(question.prompt(language).text) for name, question in questions.items()}
    own = tuple(r for r in record.prompts if r.prompt_text_hash == texts.get(r.prompt, ""))
    if not own:
        raise BadInput(f"--compare: {path} has answers to none of these questions", code="no-cells")
    return Side(
        name=f"{folder.resolve().name}: {_drafting(cell)}",
        record=record.model_copy(update={"prompts": own}),
        likelihoods=_read(_file(folder, cell), questions, language),
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
            continue
        logprobs = probe.prompt_logprobs(server, [*ids, *other.token_ids[: at + 1]])
        here = other.token_ids[at] if at < len(other.token_ids) else None
        there = r.token_ids[at] if at < len(r.token_ids) else None
        found.append(Divergence(prompt=r.prompt, at=at, gap=gap_at(logprobs[-1], here, there)))
    return found
