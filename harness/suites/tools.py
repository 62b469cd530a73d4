"""The tools suite: does a drafter cost valid tool calls, or answers that keep to their JSON schema?"""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from collections.abc import Mapping, Sequence

from harness.config.cells import Cell, with_profile
from harness.config.engine_arguments import parses_calls
from harness.config.prompt_files import Source, read
from harness.config.prompts import Prompt
from harness.config.stack import Stack
from harness.errors import BadInput
from harness.measure.structured import CALL, SCHEMA, Flaw, check_schemas, flaw_of, kind_of
from harness.measure.validity import total
from harness.report import run_table
from harness.report.run_table import Column, Values
from harness.results.records import CellRecord
from harness.run import Run
from harness.stats.shares import ALPHA, mcnemar, wilson
from harness.suites.beside_none import first_flaw, measured_after_none, sparing, with_none
from harness.suites.runner import Bench, Kind, Outcome, Suite
from harness.text.numbers import duration, number, share_interval
from harness.text.render import Piece

WORKLOAD = "tools"
ANY_PARSER = {"enable_auto_tool_choice": True, "tool_call_parser": "hermes"}
"""A forced call is JSON that the engine itself reads, whichever parser is named."""
TOKENS = 256
"""Of an answer at least, unless --max-tokens says another number: a call that is cut off is not valid."""


def _over_chat(cell: Cell, stack: Stack, words: str) -> bool:
    """Tools and schemas go over chat alone."""
    return cell.name.endpoint == "chat" and sparing(cell, stack, words)


def _plan(run: Run, cells: Sequence[Cell]) -> list[str]:
    measured = [_asking(run, cell) for cell in with_none(run, cells)]
    for cell in measured:
        run.warmups(cell)
    for cell in {(cell.name.workload, cell.name.language): cell for cell in measured}.values():
        for prompt in asked(run, cell):
            check_schemas(prompt)
    counts = {cell: len(asked(run, cell)) for cell in measured}
    seconds = run.pace.cells_s(counts)
    text = f"tools: {len(measured)} cells with those of `none`, {sum(counts.values())} requests; "
    forced = measured[0].name.workload not in run.options.own and not _parses(run, measured[0])
    why = "; the stack names no tool_call_parser, so every call is required" * forced
    return [f"{text}less than {duration(seconds)}{why}"]


SUITE = Suite(name="tools", by_path=True, drafting=True, beside_none=True, takes=_over_chat, plan=_plan)


def valid_answers(bench: Bench, cell: Cell) -> Outcome:
    """Ask for calls and for JSON with `none` and with a drafter, and count the valid answers of both.

    Raises:
        BadInput, ServerFailed: see `Bench.measured`.
    """
    plain, drafted = measured_after_none(bench, SUITE.name, cell, lambda one: _measured(bench, one))
    by_id = {prompt.id: prompt for prompt in asked(bench.run, _asking(bench.run, cell))}
    found = Pairs.of(by_id, plain, drafted)
    kind, sentence = found.judged()
    return Outcome(
        suite=SUITE.name,
        cell=str(cell),
        kind=kind,
        sentence=sentence,
        table=found.report(sentence),
        figures={"cell": str(cell), "answers": found.rows()},
    )


def _measured(bench: Bench, cell: Cell) -> CellRecord:
    one = _asking(bench.run, cell)
    return bench.measured(one, suite=SUITE.name, prompts=asked(bench.run, one), timed=bench.run.timed)


def _asking(run: Run, cell: Cell) -> Cell:
    """The cell with the prompts of this suite, where the user brings none, and room for a whole answer.

    Where the stack names no parser of calls, the server gets one: without any, vLLM streams a forced call as
    content.
    """
    name, options = cell.name, run.options
    if name.workload not in options.own:
        name = name.model_copy(update={"workload": WORKLOAD})
    tokens = options.max_tokens or max(TOKENS, cell.profile.max_tokens)
    more = {} if _parses(run, cell) else ANY_PARSER
    spec = dataclasses.replace(cell.spec, args={**cell.spec.args, **more})
    return with_profile(dataclasses.replace(cell, name=name, spec=spec), max_tokens=tokens)


def asked(run: Run, cell: Cell) -> tuple[Prompt, ...]:
    """The prompts of a cell that ask for a call or for JSON: the user's own, or those of draftgate.

    Of the latter a call is required where the stack names no parser of calls.

    Raises:
        BadInput: there are none in the language.
    """
    language, own = cell.name.language, cell.name.workload in run.options.own
    if own:
        prompts = run.prompts(cell)
    else:
        path = run.data / "prompts" / WORKLOAD / f"{language}.jsonl"
        most = run.options.prompts or sys.maxsize
        prompts = read(Source(file=str(path), language=language)).prompts(language, at_most=most, after=0)
    prompts = tuple(prompt for prompt in prompts if kind_of(prompt))
    if not prompts:
        what = f"no prompt of {cell.name.workload} in {language} has tools or a response_format"
        raise BadInput(f"{what}: name a file that has some (--prompts-file)", code="no-prompts")
    if own or _parses(run, cell):
        return prompts
    forced = {p.id: {**p.request, "tool_choice": "required"} for p in prompts if p.may_call}
    return tuple(dataclasses.replace(p, request=forced.get(p.id, p.request)) for p in prompts)


def _parses(run: Run, cell: Cell) -> bool:
    return parses_calls(run.options.stack.varied(cell.name.variant).engine.args)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairs:
    """The answers to the same prompts, with what is wrong with each.

    A conversation is one prompt here, and as wrong as the first of its turns that is.
    """

    prompts: Mapping[str, Prompt]
    plain: CellRecord | None
    drafted: CellRecord
    flaws: Mapping[str, tuple[Flaw, Flaw]]
    """Of `none` and of the drafter, by prompt; those of `none` are empty where a server was given."""

    @classmethod
    def of(cls, prompts: Mapping[str, Prompt], plain: CellRecord | None, drafted: CellRecord) -> Pairs:
        """The pairs of two records of these prompts."""
        before = {r.prompt: r for r in plain.prompts} if plain else {}
        flaws: dict[str, tuple[Flaw, Flaw]] = {}
        for r in drafted.prompts:
            prompt, other = prompts[r.prompt], before.get(r.prompt)
            old, new = flaws.get(r.unit, ("", ""))
            flaws[r.unit] = old or (flaw_of(prompt, other) if other else ""), new or flaw_of(prompt, r)
        return cls(prompts=prompts, plain=plain, drafted=drafted, flaws=flaws)

    @property
    def lost(self) -> list[str]:
        """Prompts whose answer is valid with `none` alone."""
        return [prompt for prompt, (before, after) in self.flaws.items() if after and not before]

    @property
    def won(self) -> list[str]:
        """Prompts whose answer is valid with the drafter alone."""
        return [prompt for prompt, (before, after) in self.flaws.items() if before and not after]

    def judged(self) -> tuple[Kind, str]:
        """Whether the drafter costs valid answers, and the sentence that says so."""
        for record in filter(None, (self.plain, self.drafted)):
            if not record.valid:
                return "invalid", f"not a measurement: {record.cell}: {first_flaw(record)}"
        of = len(self.flaws)
        good = sum(not after for _, after in self.flaws.values())
        if self.plain is None:
            alone = f"{good} of {of} answers are valid; there is no `none` to compare with"
            return ("fine" if good else "unchecked"), alone
        before = sum(not before for before, _ in self.flaws.values())
        if not before:
            return "unchecked", f"none of {of} answers of `none` is valid: this target cannot be asked"
        said = f"{before} of {of} answers of `none` are valid, {good} with the drafter"
        lost, won = len(self.lost), len(self.won)
        p = mcnemar(lost, won)
        said += f": {lost} lost, {won} won, p = {p:.2g}" if lost or won else ", the same ones"
        said += f"; lost {self._reasons()}" if lost else ""
        silent = [row["kind"] for row in self.rows() if not row["none_valid"]]
        said += f"; no {silent[0]} of `none` is valid, so none can be lost" if silent else ""
        kind: Kind = "noteworthy" if silent else "fine"
        return ("failed" if p <= ALPHA else "unsure" if lost > won else kind), said

    def _reasons(self) -> str:
        """`5 no call, 2 not JSON (tools-004, ...)`."""
        counts = Counter(self.flaws[prompt][1] for prompt in self.lost)
        named = ", ".join(self.lost[:3]) + ", ..." * (len(self.lost) > 3)  # noqa: PLR2004
        return f"{', '.join(f'{n} {flaw}' for flaw, n in counts.most_common())} ({named})"

    def rows(self) -> list[Values]:
        """The figures of calls, of schemas and of all by name."""
        kinds = {prompt: kind_of(self.prompts[prompt]) for prompt in self.flaws}
        own = {of: [p for p in kinds if of in (kinds[p], "all")] for of in (CALL, SCHEMA, "all")}
        return [self._row(kind, prompts) for kind, prompts in own.items() if prompts]

    def _row(self, kind: str, own: Sequence[str]) -> Values:
        before, after = (sum(not self.flaws[prompt][side] for prompt in own) for side in (0, 1))
        tally = total(r for r in self.drafted.prompts if r.unit in own)
        lost, won = ([p for p in which if p in own] for which in (self.lost, self.won))
        return {
            "kind": kind,
            "prompts": len(own),
            "none_valid": before if self.plain else None,
            "none_ci": wilson(before, len(own)) if self.plain else None,
            "valid": after,
            "ci": wilson(after, len(own)),
            "lost": len(lost) if self.plain else None,
            "won": len(won) if self.plain else None,
            "tokens_per_step": tally.tokens_per_step,
            "tau": tally.tau,
        }

    def report(self, sentence: str) -> tuple[Piece, ...]:
        """The table of a cell: shares in percent with their intervals."""
        columns = [
            Column("", "kind", align="l"),
            Column("n", "prompts", run_table.count),
            Column("none valid", "none_valid", run_table.count, rank=1),
            Column("95 % CI", "none_ci", share_interval, rank=6),
            Column("valid", "valid", run_table.count),
            Column("95 % CI", "ci", share_interval, rank=3),
            Column("lost", "lost", run_table.count),
            Column("won", "won", run_table.count),
            Column("tok/step", "tokens_per_step", number, rank=4),
            Column("tau", "tau", number, rank=5),
        ]
        wrong = Counter(after for _, after in self.flaws.values() if after)
        said = ", ".join(f"{n} {flaw}" for flaw, n in wrong.most_common())
        below = [sentence, f"not valid with the drafter: {said}" if said else ""]
        table = run_table.block(columns, self.rows(), f"{self.drafted.cell}: valid answers; intervals in %")
        return (table, *filter(None, below))
