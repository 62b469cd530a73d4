"""The trials of a search, a run each; and its winner beside the default, on prompts that no trial asked."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.config.cells import canonical
from harness.config.prompts import load_prompts
from harness.config.shipped import DATA
from harness.config.space import Search, Space, Values
from harness.engine.slot import Slot
from harness.engine.spelling import check
from harness.errors import BadInput, ServerFailed
from harness.judge.verdict import judge
from harness.measure.measurement import Measurement
from harness.measure.validity import mostly_degenerate, total
from harness.results.records import CellRecord
from harness.results.timing import speed_of
from harness.run import Options, Run
from harness.stats import blocks
from harness.stats.blocks import NEW, OLD
from harness.stats.paired import MIN_PROMPTS, PairedRatio
from harness.suites import selfcheck
from harness.suites.load import Bound, goodput
from harness.suites.runner import Bench, starter
from harness.text.console import Say
from harness.text.numbers import number, percent, signed_interval

SUITE = "acceptance"
"""The folder of a trial's cell: it is one like any other."""
BLOCKS = 3
"""Of four starts, where times are compared. Starts that scatter by 1 % show a gain of 5 %."""
_UNSEEN = " that no trial asked"
UNITS = {"tokens_per_step": "tokens per step", "tok_s": "tok/s", "goodput": "good requests a second"}


def flaw_of(record: CellRecord) -> str:
    """Why a record says nothing; empty where it does."""
    if not record.valid:
        return f"not a measurement: {record.why_invalid}"
    return "most of its answers end in a loop" if mostly_degenerate(record.findings) else ""


def worth(record: CellRecord, space: Space) -> float | None:
    """The objective of a record; None where it was not measured."""
    if space.objective == "tokens_per_step":
        return total(record.prompts).tokens_per_step
    if space.objective == "goodput":
        return goodput(record.prompts, _bound(space))
    speed = speed_of(record.prompts)
    return speed.aggregate if speed else None


def _bound(space: Space) -> Bound:
    asked = {"ttft_s": space.bounds.ttft_ms, "tpot_s": space.bounds.tpot_ms}
    return Bound(**{name: ms / 1000 for name, ms in asked.items() if ms is not None})


def unmet(record: CellRecord, space: Space) -> str:
    """Which bound a record does not keep; empty where it keeps all. Of goodput they are each request's."""
    speed = speed_of(record.prompts)
    ttft, tpot = (speed.ttft_s, speed.tpot_s) if speed else (None, None)
    limits = {"TTFT": (ttft, space.bounds.ttft_ms), "TPOT": (tpot, space.bounds.tpot_ms)}
    for name, (seconds, most) in limits.items() if space.objective != "goodput" else ():
        if most is not None and (seconds is None or 1000 * seconds > most):
            return f"{name} is {number(seconds, 1, scale=1000)} ms, above {most:g} ms"
    return ""


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
                try:
                    check(search.cell({key: value}, search.levels[0]).spec)
                except BadInput as error:
                    raise search.wrong(key, str(error), code=error.code) from None
        run = self._run("", {}, search.levels[0])
        cell = search.cell({}, search.levels[0])
        run.refuse_in_flight([cell], max(search.levels))
        there, kept = len(run.prompts(cell)), len(run.reserve(cell.name))
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

    def measured(self, values: Values, in_flight: int) -> CellRecord:
        """The cell of a trial.

        Raises:
            BadInput, ServerFailed: see `Bench.measured`.
        """
        with self._bench("trial", values, in_flight) as bench:
            cell = self.search.cell(values, in_flight)
            return bench.measured(
                cell,
                suite=SUITE,
                prompts=bench.run.prompts(cell),
                timed=True,
                passes=Measurement.all_passes,
            )

    def compared(self, winner: Values, in_flight: int) -> str:
        """What the winner is worth beside the default, on prompts that the search did not ask: a sentence.

        Raises:
            BadInput, ServerFailed: see `Bench.measured`; or a start is not a measurement.
        """
        space, timed = self.search.space, self.search.space.objective != "tokens_per_step"
        sides: dict[int, Values] = {OLD: {}, NEW: winner}
        records: dict[int, list[list[CellRecord]]] = {OLD: [], NEW: []}
        with self._bench("winner", winner, in_flight) as bench:
            prompts = bench.run.reserve(self.search.cell({}, in_flight).name)
            for block in range(BLOCKS if timed else 1):
                for of in records.values():
                    of.append([])
                for at, side in enumerate(blocks.order(block) if timed else (OLD, NEW)):
                    name = f"{SUITE}/{block:02d}/{at}-{'winner' if side == NEW else 'default'}"
                    record = bench.measured(
                        self.search.cell(sides[side], in_flight),
                        suite=name,
                        prompts=prompts,
                        timed=True,
                        fresh=True,
                        passes=Measurement.all_passes,
                    )
                    if why := flaw_of(record):
                        raise BadInput(f"{bench.run.folder / name}: {why}", code="no-winner")
                    records[side][-1].append(record)
        broken = next(filter(None, (unmet(r, space) for block in records[NEW] for r in block)), "")
        tail = f"; but here {broken}" if broken else ""
        if timed:
            rates = [[[worth(r, space) or 0.0 for r in block] for block in records[side]] for side in sides]
            try:
                change = blocks.over_blocks(*rates)
            except ValueError as error:
                raise BadInput(f"the winner cannot be compared: {error}", code="nothing-timed") from None
            return (
                _said(change, change.change_ci(), f"{BLOCKS} blocks of 4 starts, on prompts{_UNSEEN}", space)
                + tail
            )
        (((old,),), ((new,),)) = records[OLD], records[NEW]
        verdict = judge(old, new, across=tuple(old.identity.differences(new.identity)), against="default")
        if verdict.primary is None:
            raise BadInput(f"the winner cannot be compared: {verdict.text}", code="no-winner")
        interval = (0.0, 0.0) if verdict.primary.identical else verdict.interval
        return _said(verdict.primary, interval, f"{verdict.primary.m} prompts{_UNSEEN}", space) + tail

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
        options: dict[str, Any] = {
            "update": "",
            "gate": "off",
            "pairs": 2,
            "sequential": False,
            "compare": None,
        }
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
                command="draftgate tune",
                **options,
            ),
            DATA,
            run=f"{kind}-{name}",
        )


def _said(change: PairedRatio, interval: tuple[float, float] | None, of: str, space: Space) -> str:
    rates = f"{number(change.r0)} -> {number(change.r1)} {UNITS[space.objective]}"
    sure = interval is not None and interval[0] > 0
    said = "" if sure else "; not shown to be better: keep the default"
    return f"{rates}, {percent(change.change)} (95 % CI {signed_interval(interval)} over {of}){said}"
