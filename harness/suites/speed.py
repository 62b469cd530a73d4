"""The speed suite: how much faster than `none` a drafter is, over starts of the server."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.config.cells import Cell, without_drafts
from harness.errors import BadInput
from harness.judge import speedup
from harness.judge.pairing import execution_notes
from harness.judge.speedup import Session, SpeedRecord
from harness.judge.throughput import cause, disturbed_in, table
from harness.judge.verdict import Verdict
from harness.measure.validity import mostly_degenerate
from harness.provenance.record import provenance
from harness.provenance.surroundings import Surroundings
from harness.results.records import CellRecord
from harness.results.timing import Work, work_of
from harness.run import Run
from harness.suites import runner
from harness.suites.runner import Bench, Outcome, Suite
from harness.text.numbers import duration
from harness.text.render import Piece


def _plan(run: Run, cells: Sequence[Cell]) -> list[str]:
    pairs = run.options.pairs
    seconds = 2 * pairs * sum(run.estimate_s([cell]) for cell in cells)
    return [f"{len(cells)} speed-ups, {2 * pairs * len(cells)} server starts; about {duration(seconds)}"]


SUITE = Suite(name="speed", by_path=True, own_servers=True, drafting=True, plan=_plan)


def speed_up(bench: Bench, cell: Cell) -> Outcome:
    """Measure the speed-up of a cell over `none`, and compare it with its baseline from the same hardware.

    Servers are started in turn: none, drafter, drafter, none, and so on.

    Raises:
        BadInput, ServerFailed: see `Bench.measured`; or nothing was timed.
    """
    run = bench.run
    fine = Outcome(suite=SUITE.name, cell=str(cell))
    plain = without_drafts(cell)
    starts: list[tuple[Work, Work]] = []
    notes: list[str] = []
    seen: list[CellRecord] = []
    for pair in range(run.options.pairs):
        order = (plain, cell) if pair % 2 == 0 else (cell, plain)
        records = {c.name: _one_start(bench, c, 2 * pair + at) for at, c in enumerate(order)}
        for record in records.values():
            if not record.valid:
                flaw = f"not a measurement: a start of {record.cell}: {record.why_invalid}"
                return fine.model_copy(update={"kind": "invalid", "sentence": flaw})
            if mostly_degenerate(record.findings):
                why = f"inconclusive: most answers of {record.cell} end in a loop: no claim about speed"
                return fine.model_copy(update={"kind": "unsure", "sentence": why})
        seen += records.values()
        last = records[cell.name]
        notes = notes or execution_notes(records[plain.name], last)
        starts.append((_work(records[plain.name]), _work(last)))
        undrafted, drafted = (work.rate for work in starts[-1])
        if not speedup.LEAST <= round(drafted / undrafted, 6) <= speedup.MOST:
            flaw = f"not a measurement: {drafted:g} tok/s with drafts, {undrafted:g} without"
            return fine.model_copy(update={"kind": "invalid", "sentence": flaw})
    origin = provenance() | _around(seen)
    session = Session(time=origin["time"], starts=tuple(starts))
    found = SpeedRecord(
        stack=last.stack,
        profile=last.profile,
        cell=cell.name,
        identity=last.identity,
        subject=last.subject,
        environment=last.environment,
        provenance=origin,
        ratios=tuple(round(drafter.rate / none.rate, 6) for none, drafter in starts),
        sessions=(session,),
    )
    speedup.write(run.folder / SUITE.name / f"{cell}.json", found)
    judged = _judged(bench, fine, speedup.with_sessions(run.options.results, found))
    of_both = speedup.over_none(session)
    lines: list[Piece] = [f"{cell}: {judged.sentence}", f"over none: {cause(of_both)}"]
    lines += [table(of_both, len(last.prompts), sides=("none", cell.spec.label))]
    if why := disturbed_in((record.cell.k > 0, record) for record in seen):
        notes = [*notes, f"not measured on an idle machine: {why}"]
    lines += [f"note: {note}" for note in notes]
    return judged.model_copy(update={"table": tuple(lines)})


def _around(seen: Sequence[CellRecord]) -> dict[str, Any]:
    """What was seen around the start that was disturbed most."""
    around = [one for record in seen if (one := Surroundings.of(record.provenance))]
    return max(around, key=lambda one: (one.slowed, one.others or 0)).recorded() if around else {}


def _one_start(bench: Bench, cell: Cell, number: int) -> CellRecord:
    record = bench.measured(
        cell,
        suite=f"{SUITE.name}/{number:02d}",
        prompts=bench.run.prompts(cell),
        timed=bench.run.timed,
        fresh=True,
    )
    bench.say(f"draftgate: start {number}: {cell}: {_work(record).rate:.1f} tok/s")
    return record


def _work(record: CellRecord) -> Work:
    work = work_of(record)
    if work is None:
        raise BadInput(
            f"{record.cell}: nothing was timed: use one worker, and other prompts", code="nothing-timed"
        )
    return work


def _judged(bench: Bench, fine: Outcome, found: SpeedRecord) -> Outcome:
    gained, baselines = speedup.speed_up(found.ratios), bench.run.options.baselines
    path = speedup.path_of(baselines, found)

    def store() -> Path:
        speedup.write(path, found)
        return path

    def verdict() -> Verdict:
        old = speedup.find(baselines, found)
        return speedup.judge(old, found) if old else runner.no_baseline(bench.run, path)

    bench.say(f"draftgate: {found.cell}: speed-up {gained}")
    figures = {"cell": str(found.cell), **dataclasses.asdict(gained)}
    changes = {"sentence": f"speed-up {gained}", "figures": figures, "files": runner.fingerprint(path)}
    return bench.compared(
        fine.model_copy(update=changes),
        flaw="",
        known=lambda: speedup.find(baselines, found),
        store=store,
        verdict=verdict,
    )
