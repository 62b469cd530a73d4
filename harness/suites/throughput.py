"""The throughput suite: old against new, for speed, in one session on one device.

The servers of two stacks start in turn, and every start answers the same prompts to the same length. All
cells of a server are measured on each of its starts, by the first case that asks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence

from harness.config.cells import Cell, FixedLength, server_spec
from harness.config.difference import Against, Differences, differences, listed, refuse_unmeant
from harness.engine.spelling import check
from harness.errors import BadInput
from harness.judge import throughput
from harness.judge.footnotes import subject_notes
from harness.judge.pairing import OF_TARGET, execution_notes
from harness.judge.verdict import Verdict
from harness.measure.measurement import Measurement
from harness.measure.validity import mostly_degenerate
from harness.provenance.hardware import devices_taken
from harness.provenance.surroundings import Surroundings, busy
from harness.results.names import BASE
from harness.results.records import CellRecord
from harness.results.timing import Work, times_of, work_of
from harness.run import Run
from harness.stats import blocks
from harness.stats.blocks import NEW, OLD
from harness.suites.runner import Bench, Kind, Outcome, Suite
from harness.text.numbers import duration
from harness.text.render import Piece

_SIDES = {OLD: "old", NEW: "new"}
_WARM_UP, _AGAIN = "warm-up", "-again"
_KINDS: dict[str, Kind] = {"regressed": "failed", "inconclusive": "unsure"}


def _plan(run: Run, cells: Sequence[Cell]) -> list[str]:
    against = _against(run)
    both = [cell for cell in cells if _partner(against, cell)]
    if not both:
        raise BadInput(
            f"--against: stack {against.stack.name} has none of the drafters selected "
            f"({', '.join(dict.fromkeys(cell.spec.label for cell in cells))}); it has "
            f"{', '.join(against.stack.drafters)}",
            code="stacks-differ",
        )
    found = _differences(run, both)
    refuse_unmeant(found, against.across)
    for spec in {_side(against, cell, OLD).spec for cell in both}:
        check(spec)
    servers, each = len({cell.spec for cell in both}), 2 + 4 * against.blocks
    starts = servers * each
    counts = {cell: run.options.repeats * len(run.prompts(cell)) for cell in both}
    seconds = run.pace.cells_s(counts) + (each - 1) * run.pace.cells_s(counts, first=False)
    n = against.blocks
    what = listed(found) or "they do not differ, so this shows how much starts scatter"
    lines = [f"throughput: {run.options.stack.name} (new) against {against.stack.name} (old): {what}"]
    size = f"{len(both)} cells on {servers} servers a side, {n} blocks of 4 starts and a warm-up start each"
    lines += [f"{size}: {starts} starts; about {duration(seconds)}"]
    sees = f"a loss of 5 % in {blocks.power(n, 0.05):.1%} of the cases, of 10 % in {blocks.power(n, 0.1):.1%}"
    sees += f", of {blocks.detectable(n):.1%} four times in five; --blocks changes that"
    return [*lines, f"if starts scatter by {blocks.SCATTER:.0%}, {n} blocks find {sees}"]


SUITE = Suite(
    name="throughput",
    by_path=True,
    own_servers=True,
    takes=lambda cell, *_: cell.name.variant == BASE,
    nothing="the throughput suite compares two stacks as they stand, without variants and references: write "
    "what the variant of stack {stack} changes into a stack of its own",
    leaves_out="it compares two stacks as they stand: write what a variant changes into a stack of its own",
    plan=_plan,
)


def _against(run: Run) -> Against:
    if run.options.against is None:
        raise BadInput(
            "the throughput suite compares two stacks: name the old one, --against STACK", code="option-value"
        )
    return run.options.against


def _differences(run: Run, cells: Sequence[Cell]) -> Differences:
    drafters = dict.fromkeys(cell.name.drafter for cell in cells)
    return differences(_against(run).stack, run.options.stack, drafters)


def _partner(against: Against, cell: Cell) -> bool:
    """Whether the old stack has the cell's drafter, with its k."""
    drafter = against.stack.drafters.get(cell.name.drafter)
    return drafter is not None and cell.name.k in drafter.k


def _side(against: Against, cell: Cell, side: int) -> Cell:
    """The cell on one side, with answers of a fixed length."""
    profile = FixedLength(**cell.profile.model_dump())
    old, cache = against.stack, cell.profile.cache != "off"
    spec = cell.spec
    if side == OLD:
        spec = server_spec(old, old.drafters[cell.name.drafter], cell.name.k, prefix_cache=cache)
    return dataclasses.replace(cell, spec=spec, profile=profile)


def old_against_new(bench: Bench, cell: Cell) -> Outcome:
    """Judge a cell of the stack against that of the old one, over blocks of starts.

    Raises:
        BadInput, ServerFailed: see `Bench.measured`; or no old stack was named, or nothing was timed.
    """
    against = _against(bench.run)
    found = Outcome(suite=SUITE.name, cell=str(cell))
    if not _partner(against, cell):
        said = f"stack {against.stack.name} has no {cell.spec.label}: there is nothing to compare with"
        return found.model_copy(update={"kind": "unchecked", "sentence": said})
    if not bench.run.timed:
        what = "several workers share this device, so no time means anything: use one worker"
        raise BadInput(what, code="nothing-timed")
    key = f"{SUITE.name}/{cell.spec.key}"
    if key not in bench.shared:
        alike = [c for c in bench.cells if c.spec == cell.spec] or [cell]
        bench.shared[key] = _measured(bench, against, alike)
    mine: list[_Block] | str = bench.shared[key][cell]
    if isinstance(mine, str):
        said = f"not a measurement: {mine}"
        return found.model_copy(update={"kind": "invalid", "sentence": said})
    return _judged(found, mine)


_Block = list[tuple[int, CellRecord]]
"""The starts of a cell, each with its side."""


def _measured(bench: Bench, against: Against, cells: Sequence[Cell]) -> dict[Cell, list[_Block] | str]:
    """The blocks of each cell of a server; or why they are no measurement."""
    found: dict[Cell, list[_Block] | str] = {cell: [] for cell in cells}
    other_target = any(key.startswith("target.") for key in _differences(bench.run, cells))

    def left() -> list[Cell]:
        return [cell for cell, blocks_of in found.items() if not isinstance(blocks_of, str)]

    may_differ = OF_TARGET if other_target else ()

    def sound(block: dict[Cell, _Block]) -> dict[Cell, _Block]:
        """What is a measurement of a block; of the rest is kept why it is none."""
        found.update(
            {cell: flaw for cell, one in block.items() if (flaw := _flaw(one, may_differ=may_differ))}
        )
        return {cell: one for cell, one in block.items() if cell in left()}

    warm = sound(_block(bench, against, dict.fromkeys(cells, 1), _WARM_UP, (OLD, NEW)))
    took = {cell: min(work.seconds for _, r in one if (work := work_of(r))) for cell, one in warm.items()}
    times = {cell: times_of(seconds) for cell, seconds in took.items()}
    for number in range(against.blocks):
        name, order = f"{number:02d}", blocks.order(number)
        block = sound(_block(bench, against, {c: times[c] for c in left()}, name, order))
        again = {cell: why for cell, one in block.items() if (why := _disturbed(one))}
        for cell, why in again.items():
            bench.say(f"draftgate: {cell}: block {number} is measured again: {why}")
        once_more = sound(_block(bench, against, {c: times[c] for c in again}, name + _AGAIN, order))
        twice = {cell: why for cell, one in once_more.items() if (why := _disturbed(one))}
        found |= {cell: f"block {number} was disturbed twice: {why}" for cell, why in twice.items()}
        for cell in left():
            found[cell] = [*found[cell], once_more.get(cell, block[cell])]
    return found


def _block(
    bench: Bench, against: Against, cells: Mapping[Cell, int], name: str, order: Sequence[int]
) -> dict[Cell, _Block]:
    """One start after the other, each with all cells, whose prompts are asked so many times."""
    block: dict[Cell, _Block] = {cell: [] for cell in cells}
    for at, side in enumerate(order if cells else ()):
        for cell, record in _start(bench, against, cells, side, f"{SUITE.name}/{name}/{at}-{_SIDES[side]}"):
            block[cell].append((side, record))
    return block


def _start(
    bench: Bench, against: Against, cells: Mapping[Cell, int], side: int, suite: str
) -> Iterator[tuple[Cell, CellRecord]]:
    """The records of one start; prompts are asked so many times. What is on disk is not measured again."""
    fresh = False
    for cell, times in cells.items():
        one = _side(against, cell, side)
        if known := bench.run.finished_cell(suite, one):
            yield cell, known
            continue
        if not fresh:
            bench.slot.close()
            names = [name for name, _ in devices_taken(one.spec, python=one.spec.engine_python)]
            if percent := busy(names):
                said = f"the device is busy ({percent:.0f} % of its time) although no server of ours runs"
                raise BadInput(f"{said}: end what computes there", code="device-busy")
        fresh = True
        record = bench.measured(
            one,
            suite=suite,
            prompts=bench.run.prompts(one),
            repeats=bench.run.options.repeats * times,
            timed=True,
            passes=Measurement.all_passes,
        )
        if work := work_of(record):
            bench.say(f"draftgate: {suite}: {cell}: {work.rate:.1f} tok/s")
        yield cell, record


def _disturbed(block: _Block) -> str:
    """Why a block has to be measured again; empty where it is good."""
    if any(len({r.server for r in record.prompts}) > 1 for _, record in block):
        return "a server was started anew within a start"
    around = [(side, Surroundings.of(record.provenance)) for side, record in block]
    return throughput.disturbed(around, gpu=any(record.environment.gpus for _, record in block))


def _flaw(block: _Block, *, may_differ: Collection[str]) -> str:
    """Why a block is no measurement; empty where it is one. Some fields of the identity may differ."""
    for side, record in block:
        if not record.valid:
            return f"a start of the {_SIDES[side]} stack: {record.why_invalid}"
        short = [r for r in record.prompts if r.output_tokens != record.identity.max_tokens]
        if short:
            said = f"an answer of the {_SIDES[side]} stack has {short[0].output_tokens} tokens, and all must"
            return f"{said} have {record.identity.max_tokens}: this engine does not know ignore_eos"
        if work_of(record) is None:
            return f"a start of the {_SIDES[side]} stack: nothing was timed"
    old, new = (next(record for of, record in block if of == side) for side in (OLD, NEW))
    for field, (before, after) in old.identity.differences(new.identity).items():
        if field not in may_differ:
            return f"{field} is {before!r} with the old stack and {after!r} with the new one"
    return ""


def _judged(found: Outcome, measured: Sequence[_Block]) -> Outcome:
    """The outcome of undisturbed blocks."""
    works: dict[int, list[list[Work]]] = {
        side: [[w for of, r in block if of == side and (w := work_of(r))] for block in measured]
        for side in _SIDES
    }
    change = throughput.split(works[OLD], works[NEW])
    verdict: Verdict = throughput.judge(change)
    old, new = (next(record for of, record in measured[0] if of == side) for side in (OLD, NEW))
    lines: list[Piece] = [f"{found.cell}: {verdict.kind}: {verdict.text}"]
    lines += [throughput.table(change, len(new.prompts))]
    lines += [f"note: {note}" for note in _notes(old, new)]
    return found.model_copy(
        update={
            "kind": _KINDS.get(verdict.kind, "fine"),
            "sentence": f"{verdict.kind}: {verdict.text}",
            "table": tuple(lines),
            "figures": {"cell": found.cell, **throughput.figures(change)},
            "verdict": verdict,
        }
    )


def _notes(old: CellRecord, new: CellRecord) -> Iterator[str]:
    texts = {r.prompt: r.text_hash for r in old.prompts}
    if other := sum(texts.get(r.prompt) != r.text_hash for r in new.prompts):
        yield f"{other} of {len(new.prompts)} answers have another text than the old stack's"
    rendered = [sum(r.prompt_tokens for r in record.prompts) for record in (old, new)]
    if rendered[0] != rendered[1]:
        yield f"the prompts make {rendered[0]} tokens with the old stack and {rendered[1]} with the new one"
    if mostly_degenerate(new.findings) and new.cell.k:
        yield "most answers end in a loop, as answers of a fixed length do: acceptance is higher than in use"
    if old.environment.differences(new.environment):
        yield "the two stacks take other devices of this machine"
    yield from subject_notes(old, new)
    yield from execution_notes(old, new)
