"""The trials of a search, a run each; and its winner beside the default, on prompts that no trial asked."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.config.cells import Cell, canonical
from harness.config.prompts import Prompt, load_prompts
from harness.config.shipped import DATA
from harness.config.space import Search, Space, Values
from harness.engine.process import memory_below
from harness.engine.slot import Slot
from harness.engine.spelling import check
from harness.errors import BadInput, ServerFailed
from harness.judge.throughput import disturbed_in
from harness.judge.verdict import judge
from harness.measure.measurement import Measurement
from harness.provenance.hardware import devices_taken, gpu_memory
from harness.results.records import CellRecord
from harness.run import Options, Run
from harness.stats import blocks
from harness.stats.blocks import NEW, OLD
from harness.stats.paired import LOOKS, MIN_PROMPTS, PairedRatio
from harness.suites import selfcheck, targets
from harness.suites.acceptance import mixed
from harness.suites.objective import MEMORY, UNITS, flaw_of, surely_worse, unmet, worth
from harness.suites.runner import Bench, starter
from harness.text.console import Say
from harness.text.numbers import number, percent, signed_interval

SUITE = "acceptance"
"""The folder of a trial's cell: it is one like any other."""
BLOCKS = 3
"""Of four starts, where times are compared. Starts that scatter by 1 % show a gain of 5 %."""
_UNSEEN = " that no trial asked"
_TRIES = 2
"""How often a block is measured on a busy machine."""
SIDES = {OLD: "default", NEW: "winner"}


def named(values: Values) -> str:
    """`drafters.ngram.k = 3, engine.args.max_num_seqs = 8`: as lines of a stack, one after the other."""
    return ", ".join(f"{key} = {canonical(value)}" for key, value in values.items())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trials:
    """Measures what a search asks for. What is on disk is not measured again."""

    search: Search
    folder: Path
    """Of the search; a run each lies in it."""
    say: Say

    def refuse(self) -> None:
        """Say before a server starts what cannot be measured.

        Raises:
            BadInput: the engine does not know a parameter, or the files hold too few prompts.
        """
        search = self.search
        for key, parameter in search.space.space.items():
            for value in parameter.ends:
                if key.startswith("command."):
                    continue
                try:
                    check(search.cell({key: value}, search.levels[0]).spec)
                except BadInput as error:
                    raise search.wrong(key, str(error), code=error.code) from None
        targets.refuse(search)
        run = self._run("", {}, search.levels[0])
        cell = search.cell({}, search.levels[0])
        run.refuse_in_flight([cell], max(search.levels))
        there, kept = _rows(run.prompts(cell)), _rows(run.reserve(cell.name))
        if min(there, kept) < MIN_PROMPTS:
            raise BadInput(
                f"{search.path}: a trial asks {there} prompts of {cell.name.workload}/{cell.name.language}, "
                f"and {kept} are left for the winner, which needs {MIN_PROMPTS} that no trial asked: lower "
                "prompts, or name another workload",
                code="no-reserve",
            )

    def seconds(self, in_flight: int) -> float:
        """About how long a trial takes."""
        return self._run("", {}, in_flight).estimate_s([self.search.cell({}, in_flight)])

    def self_check(self) -> None:
        """The engine and target are sound.

        Raises:
            BrokenInstrument: what is known beforehand does not come out.
        """
        run = self._run("self-check", {}, self.search.levels[0])
        stack = self.search.stack
        language = stack.languages[0]
        prompts = load_prompts(DATA / "prompts", "instruct", language, at_most=selfcheck.SHORT)
        with Slot(starter(run, self.say), self.say) as slot:
            try:
                found = selfcheck.ensure(slot, stack, prompts, say=self.say)
            except ServerFailed as error:
                self.say(f"no self-check: the target cannot draft for itself: {str(error).splitlines()[0]}")
                return
        if found.broken:
            raise selfcheck.BrokenInstrument(found.sentence())

    def measured(self, values: Values, in_flight: int, *, best: CellRecord | None = None) -> CellRecord:
        """The cell of a trial. It stops at a look where it is surely worse than the best one.

        Raises:
            BadInput, ServerFailed: see `Bench.measured`, `targets.make`.
        """
        search = self.search
        if (known := self.known(values, in_flight)) is not None:
            return known
        made = targets.make(search, values, self.say)
        with self._bench("trial", values, in_flight) as bench:
            cell = search.cell(values, in_flight)
            prompts = mixed(bench.run.prompts(cell))

            def passes(measurement: Measurement) -> int | None:
                stopped_at = None
                for look in (look for look in LOOKS if look < _rows(prompts)):
                    measurement.one_pass(0, first=look)
                    if surely_worse(measurement.so_far(look), best, search.space, look=look):
                        stopped_at = look
                        break
                else:
                    measurement.all_passes()
                measurement.seen |= made | _memory(bench, cell)
                return stopped_at

            return bench.measured(cell, suite=SUITE, prompts=prompts, timed=True, passes=passes)

    def known(self, values: Values, in_flight: int) -> CellRecord | None:
        """The cell of a trial that was measured already."""
        run = self._run("trial", values, in_flight)
        return run.finished_cell(SUITE, self.search.cell(values, in_flight))

    def compared(self, winner: Values, in_flight: int) -> str:
        """What the winner is worth beside the default, on prompts that the search did not ask: a sentence.

        Raises:
            BadInput, ServerFailed: see `Bench.measured`; or a start is not a measurement, or the machine
                was busy.
        """
        space, timed = self.search.space, self.search.space.objective != "tokens_per_step"
        targets.make(self.search, winner, self.say)
        with self._bench("winner", winner, in_flight) as bench:
            found = [self._block(bench, winner, in_flight, n) for n in range(BLOCKS if timed else 1)]
        default, first = (next(record for of, record in found[0] if of == side) for side in SIDES)
        new = [record for block in found for side, record in block if side == NEW]
        broken = next(filter(None, (unmet(record, space, default) for record in new)), "")
        tail = f"; but here {broken}" if broken else ""
        if timed:
            rates = [[[worth(r, space) or 0.0 for of, r in b if of == side] for b in found] for side in SIDES]
            try:
                change = blocks.over_blocks(*rates)
            except ValueError as error:
                raise BadInput(f"the winner cannot be compared: {error}", code="nothing-timed") from None
            of = f"{BLOCKS} blocks of 4 starts, on prompts{_UNSEEN}"
            return _said(change, change.change_ci(), of, space) + tail
        across = tuple(default.identity.differences(first.identity))
        verdict = judge(default, first, across=across, against="default")
        if verdict.primary is None:
            raise BadInput(
                f"the winner cannot be compared, so keep the default: {verdict.text}", code="no-winner"
            )
        interval = (0.0, 0.0) if verdict.primary.identical else verdict.interval
        of = f"{verdict.primary.m} {verdict.unit}{_UNSEEN}"
        if verdict.share is not None:
            of += f", on the common beginning, {verdict.share:.0%} of the tokens"
        return _said(verdict.primary, interval, of, space) + tail

    def _block(
        self, bench: Bench, winner: Values, in_flight: int, number: int
    ) -> list[tuple[int, CellRecord]]:
        """Starts of the default and the winner; of times four in turn, once more on a machine that was busy.

        What an earlier call measured on a busy machine does not count as a try.
        """
        timed = self.search.space.objective != "tokens_per_step"
        order, tries = blocks.order(number) if timed else (OLD, NEW), 0
        cells = {side: self.search.cell(winner if side == NEW else {}, in_flight) for side in SIDES}
        for again in itertools.count():
            name = f"{SUITE}/{number:02d}" + f"-again-{again}" * (again > 0)
            suites = [f"{name}/{at}-{SIDES[side]}" for at, side in enumerate(order)]
            places = [(side, cells[side], suite) for side, suite in zip(order, suites, strict=True)]
            tries += any(bench.run.finished_cell(suite, cell) is None for _, cell, suite in places)
            block = [(side, self._start(bench, cell, suite)) for side, cell, suite in places]
            why = disturbed_in(block) if timed else ""
            if not why:
                return block
            self.say(f"block {number} does not count: {why}")
            if tries == _TRIES:
                what = f"the winner is not compared yet: block {number} was disturbed {tries} times: {why}"
                raise BadInput(f"{what}; the same command measures it again", code="device-busy")
        raise AssertionError  # it counts without an end

    def _start(self, bench: Bench, cell: Cell, suite: str) -> CellRecord:
        """The reserve of prompts on a start of its own."""

        def passes(measurement: Measurement) -> None:
            measurement.all_passes()
            measurement.seen |= _memory(bench, cell)

        record = bench.measured(
            cell, suite=suite, prompts=bench.run.reserve(cell.name), timed=True, fresh=True, passes=passes
        )
        if why := flaw_of(record):
            raise BadInput(f"{bench.run.folder / suite}: {why}", code="no-winner")
        return record

    @contextlib.contextmanager
    def _bench(self, kind: str, values: Values, in_flight: int) -> Iterator[Bench]:
        run = self._run(kind, values, in_flight)
        run.write(finished=False)  # nobody else does: the folder of the search is claimed
        with Slot(starter(run, self.say), self.say) as slot:
            yield Bench(run=run, slot=slot, say=self.say)
        run.write(finished=True)

    def _run(self, kind: str, values: Values, in_flight: int) -> Run:
        """The run of a trial is named by what it measures: who asks for it again finds it."""
        search = self.search
        name = hashlib.sha256(canonical([dict(values), in_flight]).encode()).hexdigest()[:8]
        return Run(
            Options(
                stack=search.changed(values),
                profile_name=search.space.profile,
                profile=search.profile(in_flight),
                workloads=(search.place["workload"],),
                own=search.own,
                repeats=1,
                seed=search.space.seed,
                results=self.folder,
                resume=False,
                server_url=None,
                baselines=self.folder,
                gate="off",
                update="",
                pairs=2,
                sequential=False,
                compare=None,
                command="draftgate tune",
            ),
            DATA,
            run=f"{kind}-{name}",
        )


def _said(change: PairedRatio, interval: tuple[float, float] | None, of: str, space: Space) -> str:
    rates = f"{number(change.r0)} -> {number(change.r1)} {UNITS[space.objective]}"
    sure = interval is not None and interval[0] > 0
    said = "" if sure else "; not shown to be better: keep the default"
    return f"{rates}, {percent(change.change)} (95 % CI {signed_interval(interval)} over {of}){said}"


def _rows(prompts: Sequence[Prompt]) -> int:
    """How many prompts, the turns of a chat together."""
    return len({prompt.row for prompt in prompts})


def _memory(bench: Bench, cell: Cell) -> dict[str, float]:
    """What the server of a cell takes now; empty where this system does not tell."""
    gpus = [name for name, _ in devices_taken(cell.spec, python=cell.spec.engine_python)]
    pid = bench.slot.get(cell.spec).pid
    taken = gpu_memory(gpus) if gpus else memory_below(pid) if pid else None
    return {MEMORY: taken} if taken else {}
