"""The acceptance suite: what a drafter gets accepted, position by position, and whether it got worse."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.config.cells import Cell, cells_of
from harness.config.prompts import Prompt, first_rows
from harness.config.stack import NONE
from harness.errors import BadInput
from harness.judge import baselines
from harness.judge.confirmation import confirmed, unconfirmed
from harness.judge.verdict import Verdict, judge, worst
from harness.measure.measurement import Measurement
from harness.measure.validity import total
from harness.results.records import CellRecord, load
from harness.results.stretches import parts_of, stretches_of
from harness.results.timing import speed_of
from harness.run import Run
from harness.stats.paired import LOOKS, MIN_PROMPTS
from harness.suites import runner
from harness.suites.runner import Bench, Outcome, Suite


def _plan(run: Run, cells: Sequence[Cell]) -> list[str]:
    """What baselines get beside their prompts.

    Raises:
        BadInput: --confirm was given, and a cell has no prompts left for it.
    """
    drafting = [cell for cell in cells if cell.name.k]
    for cell in drafting if run.options.confirm else ():
        if not run.reserve(cell.name):
            raise BadInput(
                f"--confirm: {cell.name.workload}/{cell.name.language}.jsonl has fewer than {MIN_PROMPTS} "
                f"prompts after the first {cell.profile.prompts}; measure fewer with --prompts, or leave "
                "--confirm out",
                code="no-reserve",
            )
    if run.options.update and any(run.reserve(cell.name) for cell in drafting):
        return ["the baselines get a reserve too: as many further prompts, to confirm a loss on"]
    return []


SUITE = Suite(name="acceptance", plan=_plan)
Again = Callable[[], CellRecord | None]
"""Gives a cell's record of its reserve of prompts; None where there is none."""


def acceptance(bench: Bench, cell: Cell) -> Outcome:
    """Measure a cell, and compare it with its baseline and its anchor, or with the same cell of another run.

    Raises:
        BadInput, ServerFailed: see `Bench.measured`; or the record cannot be stored as a baseline.
    """
    run = bench.run
    options = run.options

    def every_pass(measurement: Measurement) -> None:
        bench.rounds(measurement.one_pass, options.repeats)

    def until_decided(measurement: Measurement) -> int:
        stops: list[int] = []
        bench.rounds(lambda _: stops.append(_first_decided(measurement, run)), 1)
        return stops[0]

    record = bench.measured(
        cell,
        suite=SUITE.name,
        prompts=in_sequence(run.prompts(cell)) if options.sequential else run.prompts(cell),
        repeats=options.repeats,
        timed=run.timed,
        passes=until_decided if options.sequential and not cell.name.reference else every_pass,
        ahead=bench.cells,
    )
    return _judged(bench, cell, record)


def _judged(bench: Bench, cell: Cell, record: CellRecord) -> Outcome:
    run = bench.run

    @functools.cache
    def again() -> CellRecord | None:
        prompts = run.reserve(cell.name)
        if not prompts:
            return None
        return bench.measured(
            cell,
            suite=f"{SUITE.name}/{baselines.RESERVE}",
            prompts=prompts,
            repeats=run.options.repeats,
            timed=run.timed,
            passes=Measurement.all_passes,
        )

    def store() -> Path:
        refused = not record.valid or record.stopped_at is not None
        return baselines.store(run.options.baselines, record, reserve=None if refused else again())

    fine = Outcome(suite=SUITE.name, cell=str(record.cell), figures=summary(record))
    if record.cell.reference:
        flaw = {"kind": "invalid", "sentence": f"not a measurement: {record.why_invalid}"}
        return fine if record.valid else fine.model_copy(update=flaw)
    outcome = bench.compared(
        fine,
        flaw=record.why_invalid,
        known=lambda: baselines.find(run.options.baselines, record),
        store=store,
        verdict=lambda: verdict(run, record, again=again),
    )
    # After it: a second look has made one of these files.
    return outcome.model_copy(update={"files": runner.fingerprint(*_judged_by(run, record))})


def in_sequence(prompts: Sequence[Prompt]) -> tuple[Prompt, ...]:
    """The prompts of a sequential measurement: as many as its last look wants, always mixed alike."""
    return first_rows(mixed(prompts), LOOKS[-1])


def mixed(prompts: Sequence[Prompt]) -> tuple[Prompt, ...]:
    """The same prompts, always mixed alike; the turns of a row stay together."""
    return tuple(sorted(prompts, key=lambda p: hashlib.sha256(p.row.encode()).digest()))


def _first_decided(measurement: Measurement, run: Run) -> int:
    """Ask up to one look after the other; the look that decided, or the last one."""
    for look in LOOKS:
        measurement.one_pass(0, first=look)
        if verdict(run, measurement.so_far(look), positions=False).kind != "inconclusive":
            return look
    return LOOKS[-1]


def _judged_by(run: Run, record: CellRecord) -> list[Path]:
    """The files that decide a verdict: the cell's own, and those that it is compared with."""
    paths = [_file(run.folder, record), *(path for path, _ in _sides(run, record))]
    return [*paths, *map(baselines.beside, paths)]


def _file(folder: Path, record: CellRecord) -> Path:
    return folder / record.suite / f"{record.cell}.json"


def _sides(run: Run, record: CellRecord) -> list[tuple[Path, str]]:
    return baselines.sides(run.options.baselines, record, run=run.options.compare)


def verdict(run: Run, record: CellRecord, *, positions: bool = True, again: Again | None = None) -> Verdict:
    """Compare a cell with its baseline and its anchor, or with the same cell of another run.

    Args:
        run: whose.
        record: the cell.
        positions: as in `judge`.
        again: measures the cell on its reserve of prompts. By default what lies in the run's folder counts.

    Raises:
        BadRecord: a baseline is there but cannot be trusted.
        ServerFailed: it could not be measured again.
    """
    options, across = run.options, run.options.stack.subject
    if not record.valid:
        return Verdict(kind="invalid", text=f"not a measurement: {record.why_invalid}")
    sides = _sides(run, record)
    if not sides[0][0].exists():
        if options.compare is None:
            return runner.no_baseline(run, sides[0][0])
        return Verdict(kind="invalid", text=f"{options.compare} has no such cell to compare with")
    again = again or (lambda: baselines.reserve_of(_file(run.folder, record), record))
    found = []
    for path, name in sides:
        if path.exists():
            old = load(path, CellRecord)
            seen = judge(old, record, across=across, against=name, positions=positions)
            if seen.confirmable and options.profile.confirm:
                seen = _confirmed(run, record, seen, baselines.reserve_of(path, old), again)
            found.append(seen)
    return worst(found)


def _confirmed(run: Run, record: CellRecord, seen: Verdict, old: CellRecord | None, again: Again) -> Verdict:
    """A regressed verdict after its second look, or why there is none."""
    if old is None:
        return unconfirmed(seen, f"the {seen.against} has no reserve; --update-baselines measures one")
    if not run.reserve(record.cell):
        return unconfirmed(seen, "the prompt file has no prompts left for a second look")
    new = again()
    if new is None:
        return unconfirmed(seen, "it was not measured again")
    return confirmed(seen, old, new, across=run.options.stack.subject)


def summary(record: CellRecord) -> dict[str, Any]:
    """What goes into pytest-benchmark's `extra_info`: plain numbers, None where not measured."""
    tally = total(record.prompts)
    speed = speed_of(record.prompts)
    return {
        "cell": str(record.cell),
        "prompts": len(record.prompts),
        "tokens_per_step": tally.tokens_per_step,
        "tau": tally.tau,
        "acceptance": list(tally.acceptance),
        "conditional_acceptance": list(tally.conditional),
        "accepted_per_draft": tally.accepted_per_draft,
        "token_acceptance": tally.token_acceptance,
        "parts": [dataclasses.asdict(part) for part in parts_of(record.prompts)],
        "stretches": [dataclasses.asdict(stretch) for stretch in stretches_of(record.prompts)],
        "aggregate_tok_s": speed.aggregate if speed else None,
        "mean_prompt_tok_s": speed.mean_prompt if speed else None,
        "ttft_s": speed.ttft_s if speed else None,
        "tpot_s": speed.tpot_s if speed else None,
    }


def verdicts(run: Run, cells: Sequence[CellRecord]) -> list[tuple[CellRecord, Verdict]]:
    """Those that were made when the cells were measured. A cell without one that still holds is judged anew.

    References have none.

    Raises:
        BadRecord: a baseline cannot be trusted.
    """
    known = runner.kept(run.folder)
    found = []
    for record in (one for one in cells if not one.cell.reference):
        outcome = known.get((SUITE.name, str(record.cell)))
        holds = outcome is not None and outcome.files == runner.fingerprint(*_judged_by(run, record))
        stored = outcome.verdict if outcome and holds else None
        found.append((record, stored or verdict(run, record)))
    return found


def in_order(run: Run) -> list[CellRecord]:
    """The cells on disk as the stack has them: `none` first, then by drafter and k.

    Raises:
        BadRecord: a cell cannot be trusted.
    """
    options = run.options
    files = [p for p in (run.folder / SUITE.name).glob("*.json") if not p.name.startswith(".")]
    cells = [load(p, CellRecord) for p in sorted(files, key=lambda p: (p.stat().st_mtime_ns, p.name))]
    cells_there = cells_of(options.stack, "", options.profile, workloads=options.workloads, own=options.own)
    names = [str(c) for c in cells_there]
    rank = {name: i for i, name in enumerate(names)}
    return sorted(cells, key=lambda c: (c.cell.drafter != NONE, rank.get(str(c.cell), len(rank)), c.suite))


def orphans(run: Run, record: CellRecord) -> list[Path]:
    """Baselines beside that of `record` that no cell of the stack has any more."""
    stack = run.options.stack
    shipped = tuple(workload for workload in stack.workloads if workload not in stack.prompts)
    names = {str(c) for c in cells_of(stack, "", run.options.profile, workloads=shipped)}
    folder = baselines.path_of(run.options.baselines, record).parent
    cells = {path: path.name.removesuffix(".json").removesuffix(".anchor") for path in folder.glob("*.json")}
    # The files of the user's own prompts say which cells there are, and not all were read.
    own = {name for name in cells.values() if set(name.split("-")) & stack.prompts.keys()}
    return sorted(path for path, name in cells.items() if name not in names | own)
