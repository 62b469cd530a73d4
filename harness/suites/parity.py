"""The parity suite: does an engine give what a drafter's validation says that it should?

Like is compared with like: the same prompts, rendered to the same tokens, the drafts that the same starts
lead to, and both sides cut at the answer's end. What is left is numerics, or a break: a setting that the
engine ignores, a layer or a draft map that is off by one.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from harness.config.cells import Cell, with_profile
from harness.config.prompts import HELD_OUT, Prompt, load_held_out
from harness.config.stack import Sampling, Stack
from harness.errors import BadInput
from harness.judge.pairing import ENOUGH_IN_COMMON
from harness.measure.validity import countable, total
from harness.results import prediction
from harness.results.prediction import Predicted, Summary, summarise
from harness.results.records import CellRecord, PromptRecord
from harness.results.whole import flaws_of
from harness.run import Run
from harness.stats.acceptance import Tally, added, histogram_of, overshoot_of, tally_of
from harness.stats.paired import ALPHA_OK, MIN_PROMPTS, PairedRatio, paired_difference, paired_log_ratio
from harness.suites import acceptance, runner
from harness.suites.runner import Bench, Outcome, Suite
from harness.text.numbers import DASH, number, percent, share, signed, signed_interval
from harness.text.render import Block, Piece

MARGIN = 0.03
"""Share of the predicted tokens per step that serving may lack. Policy, as the gate's."""
_LOG_MARGIN = -math.log(1 - MARGIN)
_MANY_NOT_GREEDY = 0.02
_BREAKS = frozenset({"dead-drafter", "no-drafts"})
"""Findings that make no measurement of a cell, and are what this suite is there to find."""

_WORKLOAD = "instruct"  # held-out prompts are of no other; with --workload a cell would come several times

Kind = Literal["kept", "better", "broken", "inconclusive", "invalid"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Position:
    """Acceptance at one position: predicted as serving would meet it, served, and the gap between them."""

    predicted: float | None
    served: float | None
    gap: PairedRatio | None
    """Served less predicted, absolute; None where there is nothing to compare."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parity:
    """Whether serving gives what validation promised, and what explains the difference to the trainer."""

    kind: Kind
    text: str
    """One sentence without the cell's name."""
    primary: PairedRatio | None = None
    """Log ratio of tokens per step, served over predicted."""
    positions: tuple[Position, ...] = ()
    summary: Summary | None = None
    """Of the prompts that were compared."""
    prompts: int = 0
    same_text: int = 0
    notes: tuple[str, ...] = ()
    measured: bool = True
    """False where what was served is not a measurement."""


def compare(predicted: Sequence[Predicted], record: CellRecord, *, max_tokens: int) -> Parity:
    """Compare what was served with what was predicted, prompt by prompt.

    `broken`: the one-sided 95 % upper bound of served / predicted tokens per step is below 0.97.
    `better`: the lower bound is above 1.03, so the prediction is of something else. `kept`: the lower
    bound is above 0.97. `inconclusive`: none of these. `invalid`: nothing that could be compared.

    Args:
        predicted: the lines of the prompts that were sent.
        record: what the server answered, at T=0.
        max_tokens: where it was cut.
    """
    flaws = flaws_of((f for f in record.findings if f.code not in _BREAKS), record.prompts)
    if flaws:
        return Parity(kind="invalid", text=f"not a measurement: {'; '.join(flaws)}", measured=False)
    answers = {r.prompt: r for r in record.prompts}
    pairs, notes = _paired(predicted, answers)
    if len(pairs) < MIN_PROMPTS or len(pairs) < ENOUGH_IN_COMMON * len(predicted):
        least = max(MIN_PROMPTS, math.ceil(ENOUGH_IN_COMMON * len(predicted)))
        why = "".join(f"; {note}" for note in notes)
        text = f"{len(pairs)} of {len(predicted)} prompts can be compared, {least} are the least{why}"
        return Parity(kind="invalid", text=text)
    k = record.cell.k
    try:
        promised = [line.tally(k=k, max_tokens=max_tokens) for line, _ in pairs]
        served = [ended(answer, k=k) for _, answer in pairs]
        primary = paired_log_ratio(
            [t.committed for t in promised],
            [t.decode_steps for t in promised],
            [t.committed for t in served],
            [t.decode_steps for t in served],
        )
        summary = summarise([line for line, _ in pairs], k=k, max_tokens=max_tokens)
    except ValueError as error:
        return Parity(kind="invalid", text=f"not a measurement: {error}", measured=False)
    kind = _kind(primary)
    same = sum(line.text_hash == answer.text_hash for line, answer in pairs)
    return Parity(
        kind=kind,
        text=_sentence(kind, primary, same_text=same),
        primary=primary,
        positions=tuple(_position(promised, served, i) for i in range(k)),
        summary=summary,
        prompts=len(pairs),
        same_text=same,
        notes=(*notes, *_explanations(summary), *record.trusted),
    )


def ended(record: PromptRecord, *, k: int) -> Tally:
    """The tally of an answer, with its last step cut at the answer's end as a prediction's is.

    The engine counts what it accepted before it trims. Where it reports the histogram alone, the step that
    was trimmed is not known and stays as it is: its position counts too much, its tokens do not.

    Raises:
        ValueError: its steps are not of a drafter of k tokens a step, or do not make its tokens.
    """
    if len(record.histogram) != k + 1:
        raise ValueError(f"{record.prompt} has steps of up to {len(record.histogram) - 1} tokens, k is {k}")
    over = overshoot_of(record.histogram, undrafted=record.undrafted, output_tokens=record.output_tokens)
    histogram = record.histogram
    if record.accepted and over > 1:
        # One token past the end is the bonus token, which no draft proposed.
        histogram = histogram_of([*record.accepted[:-1], record.accepted[-1] - (over - 1)], k)
    return tally_of(
        histogram,
        undrafted=record.undrafted,
        output_tokens=record.output_tokens,
        stopped=True,
        drafted=record.draft_tokens,
    )


def _paired(
    predicted: Sequence[Predicted], answers: dict[str, PromptRecord]
) -> tuple[list[tuple[Predicted, PromptRecord]], tuple[str, ...]]:
    pairs, lacking, rendered, unknown = [], 0, 0, 0
    for line in predicted:
        answer = answers.get(line.id)
        if answer is None or not countable(answer):
            lacking += 1
        elif answer.rendered_hash is None and answer.prompt_text_hash:
            unknown += 1
            pairs.append((line, answer))
        elif answer.prompt_hash != line.prompt_hash:
            rendered += 1
        else:
            pairs.append((line, answer))
    notes = []
    if unknown:
        notes.append(
            f"the server does not return the tokens of {unknown} prompts: whether they are those of training "
            "is not checked (chat template?)"
        )
    if rendered:
        notes.append(f"{rendered} prompts are rendered to other tokens than in training (chat template?)")
    if lacking:
        notes.append(f"{lacking} prompts have no answer with a decode step")
    return pairs, tuple(notes)


def _kind(primary: PairedRatio) -> Kind:
    low = primary.lower_bound(1 - ALPHA_OK)
    high = 2 * primary.estimate - low
    if high < -_LOG_MARGIN:
        return "broken"
    if low > math.log1p(MARGIN):
        return "better"
    return "kept" if low > -_LOG_MARGIN else "inconclusive"


def _sentence(kind: Kind, primary: PairedRatio, *, same_text: int) -> str:
    change = ", 95 % CI ".join(_change(primary))
    parts = [
        f"tokens per step {primary.r0:.2f} predicted, {primary.r1:.2f} served ({change})",
        f"paired over {primary.m} prompts, {same_text} with the same answer",
    ]
    if kind == "broken":
        parts.append(f"surely more than {MARGIN:.0%} short: the engine does not run what was trained")
    if kind == "better":
        parts.append(f"surely more than {MARGIN:.0%} above: the prediction is not of this drafter or target")
    if kind == "inconclusive":
        parts.append(f"more prompts would tell whether {MARGIN:.0%} are missing")
    return "; ".join(parts)


def _change(primary: PairedRatio) -> tuple[str, str]:
    """The change in percent, and its interval."""
    return percent(primary.change), signed_interval(primary.change_ci())


def _position(promised: Sequence[Tally], served: Sequence[Tally], index: int) -> Position:
    def rate(tallies: Sequence[Tally]) -> float | None:
        return added(tallies).acceptance[index]

    try:
        gap = paired_difference(
            [t.at_least[index + 1] for t in promised],
            [t.verify_steps for t in promised],
            [t.at_least[index + 1] for t in served],
            [t.verify_steps for t in served],
        )
    except ValueError:  # no verify step on one side
        gap = None
    return Position(predicted=rate(promised), served=rate(served), gap=gap)


def _explanations(summary: Summary) -> Iterator[str]:
    if summary.vocab_share is not None:
        yield f"{summary.vocab_share:.1%} of first wrong guesses were for tokens the drafter cannot say"
    if summary.accepted_first is not None and summary.accepted_rest is not None:
        right = f"right guesses a draft: {summary.accepted_first:.2f} from the first {summary.k} tokens"
        yield f"{right} of an answer, {summary.accepted_rest:.2f} later"
    if summary.not_argmax > _MANY_NOT_GREEDY:
        other = f"{summary.not_argmax:.1%} of the answers' tokens are not what the hidden states say"
        yield f"{other}: answers that were not greedy, or hidden states of something else"


def _takes(cell: Cell, stack: Stack, _: str) -> bool:
    """Its drafter foretells how it is served: on the endpoint and workload that its answers were made on."""
    if cell.name.endpoint != "chat" or cell.name.workload != _WORKLOAD:
        return False
    folder = _folder(stack, cell)
    if not (folder / prediction.VALIDATION).is_file():
        return False
    return any(prompt.language == cell.name.language for prompt, _ in _held_out(folder))


def _folder(stack: Stack, cell: Cell) -> Path:
    return Path(stack.drafters[cell.name.drafter].model or "/nowhere")


@functools.cache  # each start of pytest asks for all cells of a drafter, and checking all lines takes time
def _held_out(folder: Path) -> tuple[tuple[Prompt, Predicted], ...]:
    """The held-out prompts that something is predicted for, in the order of their file."""
    predicted = {line.id: line for line in prediction.load(folder / prediction.VALIDATION)}
    prompts = load_held_out(folder / HELD_OUT)
    return tuple((prompt, predicted[prompt.id]) for prompt in prompts if prompt.id in predicted)


SUITE = Suite(
    name="parity",
    by_path=True,
    drafting=True,
    takes=_takes,
    nothing="no drafter of stack {stack} comes with a prediction of what serving should give: "
    f"those made by `python -m training` do ({prediction.VALIDATION}, {HELD_OUT})",
)


def parity(bench: Bench, cell: Cell) -> Outcome:
    """Serve the held-out prompts of a cell's drafter, and compare what it accepts with the prediction.

    Raises:
        BadInput, ServerFailed: see `Bench.measured`; or the prediction is of a smaller k.
    """
    run, folder = bench.run, _folder(bench.run.options.stack, cell)
    pairs = [pair for pair in _held_out(folder) if pair[0].language == cell.name.language]
    pairs = pairs[: run.options.prompts]
    predicted = [line for _, line in pairs]
    least = min(line.k for line in predicted)
    if cell.name.k > least:
        raise BadInput(
            f"{cell}: k is {cell.name.k}, but its validation foretells {least} (ttt_steps): select those",
            code="no-prediction",
        )
    longest = max(line.tokens for line in predicted)
    max_tokens = min(longest, run.options.max_tokens or longest)
    # Nothing is sampled, and answers are as long as those that the drafter was validated on.
    served = bench.measured(
        with_profile(cell, sampling=Sampling(), max_tokens=max_tokens, prompts=len(pairs)),
        suite=SUITE.name,
        prompts=[prompt for prompt, _ in pairs],
    )
    found = compare(predicted, served, max_tokens=max_tokens)
    return Outcome(
        suite=SUITE.name,
        cell=str(cell),
        kind=KINDS[found.kind] if found.measured else "invalid",
        sentence=f"{found.kind}: {found.text}",
        table=report(cell, found, run),
        files=runner.fingerprint(folder / prediction.VALIDATION, folder / HELD_OUT),
    )


KINDS: Mapping[Kind, runner.Kind] = {
    "kept": "fine",
    "better": "noteworthy",
    "inconclusive": "unsure",
    "broken": "failed",
    "invalid": "failed",
}


def report(cell: Cell, found: Parity, run: Run) -> tuple[Piece, ...]:
    """The table of a cell, with what explains it below."""
    lines: list[Piece] = [f"{cell}: served against predicted, held-out prompts (acceptance: %)"]
    if found.primary:
        known = run.finished_cell(acceptance.SUITE.name, cell)
        lines.append(table(found, total(known.prompts) if known else None))
    return (*lines, *(f"note: {note}" for note in found.notes), f"{found.kind}: {found.text}")


def table(parity: Parity, benchmark: Tally | None) -> Block:
    """Acceptance by position in percent, then tokens per step.

    `trainer` is its own full_acc; `all starts` the same with the target's own tokens; `predicted` and
    `served` as serving meets the starts; `benchmark` what the same cell was served on its own prompts.
    """
    header = ["", "trainer", "all starts", "predicted", "served", "gap", "95 % CI", "benchmark"]
    body, summary, primary = [], parity.summary, parity.primary
    rates = dict(enumerate(benchmark.acceptance)) if benchmark else {}
    for i, position in enumerate(parity.positions):
        gap, training = position.gap, (summary.trainer[i], summary.full[i]) if summary else (None, None)
        shown = [share(rate) for rate in (*training, position.predicted, position.served)]
        shown += [signed(gap.estimate) if gap else DASH, signed_interval(gap.interval() if gap else None)]
        body.append([f"position {i}", *shown, share(rates.get(i))])
    if primary:
        now = number(benchmark.tokens_per_step if benchmark else None)
        shown = [number(primary.r0), number(primary.r1), *_change(primary), now]
        body.append(["tokens/step", DASH, DASH, *shown])
    ranks = (0, 3, 4, 0, 0, 0, 1, 2)
    return Block(header=tuple(header), rows=tuple(map(tuple, body)), ranks=ranks)
