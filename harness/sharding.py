"""Hooks for more than one machine: write a plan of shards, or measure one shard of a plan."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from harness.config.cells import Cell
from harness.engine.facts import devices_of
from harness.errors import BadInput
from harness.plugin import RUN
from harness.provenance.hardware import on_cpu
from harness.provenance.record import our_version
from harness.results.files import write_atomically
from harness.results.grouping import grouped
from harness.results.journal import difference
from harness.results.shards import Case, Plan, Shard, Unit, divided, named
from harness.run import Run
from harness.selection import cases_of, cell_of
from harness.suites.runner import Suite
from harness.suites.selfcheck import checked, seconds_ahead


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the cases of a shard, after -k and -m.

    Raises:
        BadInput: the plan is of another command line, stack or version.
    """
    if not (text := config.getoption("--shard")):
        return
    plan, shard = named(text)
    run = config.stash[RUN]
    here = {item.nodeid: item for item in items if cell_of(item)}
    _refuse_another(plan, run)
    for case in shard.cases:
        cell = cell_of(here[case.case]) if case.case in here else None
        if cell is None or cell.spec.key != case.server:
            what = "its server is another one now" if cell else "this command line does not select it"
            raise BadInput(
                f"--shard {text}: {case.case}: {what}; use the command and the stack of the plan, or make it "
                "again with draftgate plan",
                code="another-plan",
            )
    kept = [here[case.case] for case in shard.cases]
    taken = set(kept)
    config.hook.pytest_deselected(items=[item for item in items if item not in taken])
    items[:] = kept


def _refuse_another(plan: Plan, run: Run) -> None:
    now = {
        "draftgate": our_version(),
        "stack": run.options.stack.name,
        "profile": run.options.profile_name,
        "options": {name: value for name, value in run.options.recorded().items() if name != "shard"},
    }
    planned = {field: getattr(plan, field) for field in now}
    if planned != now:
        raise BadInput(
            f"--shard: the plan was made for something else ({difference(planned, now)}): use the command, "
            "the stack and the version of the plan, or make it again with draftgate plan",
            code="another-plan",
        )


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Write the plan."""
    config = session.config
    path, run = config.getoption("--plan"), config.stash[RUN]
    cases = cases_of(session.items)
    if not (path and cases) or session.testsfailed:
        return
    try:
        plan = _plan(run, cases, count=config.getoption("--shards"))
        write_atomically(path, plan.text())
    except BadInput as error:
        raise pytest.UsageError(error.shown) from None


def _plan(run: Run, cases: Sequence[tuple[str, Suite, Cell]], *, count: int) -> Plan:
    python = run.options.stack.engine.python
    args = {cell.spec.key: cell.spec.args for *_, cell in cases}
    ahead_s = seconds_ahead(run, checked(cell for *_, cell in cases))
    shards = []
    all_units = units_of(run, cases)
    for number, units in enumerate(divided(all_units, count or len(all_units))):
        total_s = sum(unit.total_s for unit in units)
        shards.append(
            Shard(
                number=number,
                devices=0
                if on_cpu(python)
                else max(devices_of(args[case.server]) for unit in units for case in unit.cases),
                seconds=None if any(unit.seconds is None for unit in units) else round(ahead_s + total_s, 1),
                servers=tuple(dict.fromkeys(server for unit in units for server in unit.servers)),
                cases=tuple(case for unit in units for case in unit.cases),
            )
        )
    plan = Plan(
        stack=run.options.stack.name,
        profile=run.options.profile_name,
        draftgate=our_version(),
        options=run.options.recorded(),
        shards=tuple(shards),
    )
    return plan.sealed()


def units_of(run: Run, cases: Sequence[tuple[str, Suite, Cell]]) -> list[Unit]:
    """Cells of one server together, and those of a suite that has servers of its own."""
    groups = grouped(cases, lambda case: case[1].name if case[1].apart else case[2].spec.key)
    units = []
    for group in groups.values():
        cells = [cell for _, _, cell in group]
        known = not group[0][1].apart
        units.append(
            Unit(
                cases=tuple(Case(case=case, server=cell.spec.key) for case, _, cell in group),
                servers=tuple(dict.fromkeys(cell.spec.label for cell in cells)),
                start_s=run.pace.starts_s(cells) if known else 0,
                seconds=tuple(run.estimate_s([c]) - run.pace.starts_s([c]) for c in cells) if known else None,
            )
        )
    return units
