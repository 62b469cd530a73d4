"""The context suite: what becomes of acceptance and of the time of a step when the context grows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from statistics import fmean

from harness.config.cells import Cell, with_profile
from harness.config.prompts import Prompt
from harness.judge.verdict import change_in_words
from harness.measure.contexts import Count, lengthened
from harness.measure.validity import countable, mostly_degenerate
from harness.report import run_table
from harness.report.run_table import Column, Values, marked
from harness.results.records import CellRecord
from harness.run import Run
from harness.stats.paired import MIN_PROMPTS, PairedRatio
from harness.suites.beside_none import (
    Figure,
    committed,
    decode_seconds,
    decode_steps,
    first_flaw,
    later_tokens,
    measured_after_none,
    paired,
    sparing,
)
from harness.suites.long_prompts import LENGTHS, Made, effort, long_prompts, planned
from harness.suites.runner import Bench, Kind, Outcome, Suite
from harness.text.numbers import duration, interval, number, signed, signed_interval
from harness.text.render import Piece, by_text


def _plan(run: Run, cells: Sequence[Cell]) -> list[str]:
    tokens = planned(cells[0], least=2)
    count, requests, seconds = effort(run, cells, tokens)
    text = f"context: {count} cells with those of `none`, at {_listed(tokens)} tokens; {requests} requests, "
    text += f"one at a time; about {duration(seconds)}, a guess"
    return [text, *filter(None, [left_out(tokens, tokens)])]


SUITE = Suite(name="context", by_path=True, drafting=True, beside_none=True, takes=sparing, plan=_plan)


def along_the_context(bench: Bench, cell: Cell) -> Outcome:
    """Measure `none` and a cell at each length of context, one request at a time.

    Raises:
        BadInput, ServerFailed: see `Bench.measured`.
    """
    plain, drafted = measured_after_none(bench, SUITE.name, cell, lambda one: _measured(bench, one))
    if len(drafted) < 2:  # noqa: PLR2004
        sentence = "unverified: the model has no room for two lengths of context and these prompts"
        return Outcome(suite=SUITE.name, cell=str(cell), kind="unchecked", sentence=sentence)
    found = [Length(tokens=n, record=drafted[n], plain=plain[n] if plain else None) for n in drafted]
    wrong, said = faults(found), sentences(found)
    kind: Kind = "noteworthy" if said else "fine"
    if any(change(found[0], one) is None for one in found):
        kind = "unsure"
    return Outcome(
        suite=SUITE.name,
        cell=str(cell),
        kind="invalid" if wrong else kind,
        sentence="; ".join([*wrong, *said]),
        table=report(found, left_out(planned(cell, least=2), tuple(drafted))),
        figures={"cell": str(cell), "contexts": [figures(found[0], one) for one in found]},
    )


def _measured(bench: Bench, cell: Cell) -> dict[int, CellRecord]:
    """The records of a cell by the length of its prompts, the shortest first."""
    one = with_profile(cell, concurrency=1, cache="off" if cell.profile.cache == "off" else "cold")
    return {
        n: bench.measured(one, suite=f"{SUITE.name}-{n:05d}", prompts=prompts, timed=bench.run.timed)
        for n, prompts in long_prompts(bench, SUITE.name, one, _made).items()
    }


def _made(prompts: Sequence[Prompt], texts: Sequence[str], tokens: Sequence[int], count: Count) -> Made:
    return {length: lengthened(prompts, texts, length, count) for length in tokens}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Length:
    """What came of prompts of one length."""

    tokens: int
    """At most, of each prompt."""
    record: CellRecord
    plain: CellRecord | None
    """Of `none`, on the same prompts; None where a server was given."""

    @property
    def step(self) -> PairedRatio | None:
        """The change of the time of a decode step from `none` to the drafter."""
        return self._timed(decode_seconds, decode_steps)

    @property
    def speed_up(self) -> PairedRatio | None:
        """The change of tokens a second after the first one. None where most answers are loops."""
        return self._timed(later_tokens, decode_seconds)

    def _timed(self, over: Figure, under: Figure) -> PairedRatio | None:
        sides = [self.record, self.plain]
        if any(side is None or mostly_degenerate(side.findings) for side in sides) or self.plain is None:
            return None
        return paired(self.plain, self.record, over, under)

    @property
    def same_text(self) -> int | None:
        """Prompts whose answer is that of `none`."""
        if self.plain is None:
            return None
        before = {r.prompt: r.text_hash for r in self.plain.prompts if not r.failed}
        return sum(before.get(r.prompt) == r.text_hash for r in self.record.prompts)


def change(first: Length, other: Length) -> PairedRatio | None:
    """How tokens per step changed with the length; None where fewer than 8 prompts have a decode step."""
    found = paired(first.record, other.record, committed, decode_steps)
    return found if found and found.m >= MIN_PROMPTS else None


def faults(found: Sequence[Length]) -> list[str]:
    """What is not a measurement, a sentence each."""
    sides = [
        (one.tokens, record) for one in found for record in (one.plain, one.record) if record is not None
    ]
    wrong = [(f"{tokens}", f"{r.cell}: {first_flaw(r)}") for tokens, r in sides if not r.valid]
    return [f"not a measurement at {', '.join(at)} tokens: {text}" for text, at in by_text(wrong).items()]


def sentences(found: Sequence[Length]) -> list[str]:
    """Where acceptance moved with the length, or is not compared, a sentence each."""
    first, *others = found
    said = []
    for one in others:
        moved, at = change(first, one), f"at {one.tokens} tokens of context"
        if moved is None:
            few = f"fewer than {MIN_PROMPTS} prompts have a decode step"
            said.append(f"{at} acceptance is not compared: {few}")
        elif moved.moved:
            rates = change_in_words(moved)
            said.append(f"{at} acceptance is not that of {first.tokens}, beyond its noise: {rates}")
    return said


def figures(first: Length, one: Length) -> Values:
    """The figures of a length by name; times are of one start of each server.

    `change` is that of tokens per step against the first length, `step_change` and `speed_up` are against
    `none`; each has its 95 % interval.
    """
    moved = change(first, one) if one is not first else None
    step, gained, plain = one.step, one.speed_up, one.plain
    prompted = [r.prompt_tokens for r in one.record.prompts if not r.failed]
    ends = gained.change_ci() if gained else None
    return {
        "length": one.tokens,
        "prompt_tokens": fmean(prompted) if prompted else None,
        "answers": sum(map(countable, one.record.prompts)),
        **run_table.answer_values(one.record.prompts),
        "change": moved.change if moved else None,
        "ci": moved.change_ci() if moved and not moved.identical else None,
        "moved": bool(moved and moved.moved),
        "none_step_ms": step.r0 * 1000 if step else None,
        "step_ms": step.r1 * 1000 if step else None,
        "step_change": step.change if step else None,
        "step_ci": step.change_ci() if step else None,
        "speed_up": gained.change + 1 if gained else None,
        "speed_up_ci": (ends[0] + 1, ends[1] + 1) if ends else None,
        "none_ttft_ms": run_table.answer_values(plain.prompts)["ttft_ms"] if plain else None,
        "same_text": one.same_text,
    }


def report(found: Sequence[Length], missing: str) -> tuple[Piece, ...]:
    """The table of a cell, with what limits its reading below."""
    rows = [figures(found[0], one) for one in found]
    columns = [
        Column("tokens", "prompt_tokens", run_table.count),
        Column("n", "answers", run_table.count, rank=9),
        Column("tok/step", "tokens_per_step", number),
        Column("change %", "change%", signed),
        Column("95 % CI", "ci%", signed_interval, rank=2),
        Column("", "moved", lambda moved: "≠" if moved else "", align="l"),
        *run_table.positions(found[0].record.cell.k),
        Column("none step ms", "none_step_ms", run_table.tenths, rank=7),
        Column("step ms", "step_ms", run_table.tenths, rank=4),
        Column("speed-up", "speed_up", number, rank=1),
        Column("95 % CI", "speed_up_ci", interval, rank=3),
        Column("none TTFT ms", "none_ttft_ms", run_table.count, rank=8),
        Column("TTFT ms", "ttft_ms", run_table.count, rank=5),
        Column("same text", "same_text", run_table.count, rank=6),
    ]
    head = f"{marked(found[0].record)}: one request at a time; change against the first length, "
    head += "speed-up over `none`; positions in %"
    soft = [(f"{one.tokens}", f.text) for one in found for f in one.record.findings if not f.hard]
    soft += [(f"{one.tokens}", text) for one in found for text in one.record.trusted]
    notes = [f"note: at {', '.join(at)} tokens: {text}" for text, at in by_text(soft).items()]
    below = [missing, *sentences(found), *faults(found), *notes]
    return (run_table.block(columns, rows, head), *filter(None, below))


def left_out(wanted: Sequence[int], there: Sequence[int]) -> str:
    """Which lengths were not measured, and why; empty where all were."""
    short = [n for n in wanted if n < there[0]]
    long = [n for n in {*LENGTHS, *wanted} if n > there[-1]]
    said = [f"{_listed(short)}: the prompts alone are longer"] if short else []
    said += [f"{_listed(sorted(long))}: max_model_len ends before"] if long else []
    return f"left out: {'; '.join(said)}" if said else ""


def _listed(tokens: Sequence[int]) -> str:
    return ", ".join(f"{n:,}" for n in tokens)
