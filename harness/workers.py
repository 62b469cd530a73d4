"""The hooks of pytest-xdist: which worker starts which servers, and on which devices."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from harness.engine.facts import devices_of
from harness.errors import BadInput
from harness.plugin import LEFT_OUT, LINES, LOST_WORKER, RUN, WORKERS, stopped_by_errors
from harness.provenance.hardware import cores_of, shares_of
from harness.results.names import BASE
from harness.results.shards import Unit, divided
from harness.selection import by_server, cases_of, cell_of, group_of, owns_servers
from harness.sharding import units_of
from harness.text.numbers import duration, listed

_TIMED = pytest.StashKey[bool]()
_SHARES = pytest.StashKey[list[str]]()
"""Devices that no worker has, a text for each worker; empty where it sees all of them."""

_CORES = pytest.StashKey[list[tuple[int, ...]]]()
"""Processors of each worker; empty where all share them."""
_SECONDS = pytest.StashKey[Mapping[str, float]]()
"""How long each group of cases takes."""
_SPECS = pytest.StashKey[list[str]]()
"""What each worker is, as execnet writes it."""
_REFUSED = re.compile(r"^(?:\w+\.)*UsageError: (.*)", re.MULTILINE | re.DOTALL)
"""At the end of a worker's traceback."""
_LIKE_THIS = re.compile(r"popen(//id=\w+)?")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """No workers where one server is given: it is measured by one process at a time."""
    option = config.option
    if not config.pluginmanager.has_plugin("xdist"):  # -p no:xdist
        return
    words = [f"-n {option.numprocesses}"] if option.numprocesses else [f"--tx {spec}" for spec in option.tx]
    if option.server_url and words and not hasattr(config, "workerinput"):
        config.stash[LEFT_OUT] = words[0]
        option.numprocesses = 0


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config, specs: Sequence[object]) -> None:
    """Before the first worker of pytest-xdist starts, collect as without workers, and share the devices out.

    So what cannot be done is refused here, and the plan is printed.
    """
    config.stash[_SHARES], config.stash[_TIMED] = [""] * len(specs), len(specs) == 1
    shared: list[tuple[int, ...]] = [()] * len(specs)
    config.stash[_CORES], config.stash[_SECONDS] = shared, {}
    config.stash[WORKERS] = len(specs)
    config.stash[_SPECS] = [str(spec).removeprefix("execmodel=main_thread_only//") for spec in specs]
    _session(config).perform_collect()


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Stop where pytest without workers would: it shows what is wrong with a file, and measures nothing."""
    if _SPECS in session.config.stash and stopped_by_errors(session):
        raise session.Interrupted(f"{session.testsfailed} errors during collection")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Give each worker its share of the devices, where cases start servers, before anything is written."""
    config = session.config
    stack, workers = config.stash[RUN].options.stack, len(config.stash.get(_SHARES, ()))
    engines = [stack.varied(name).engine for name in (BASE, *stack.setups)]
    engine = max(engines, key=lambda one: devices_of(one.args))
    if not (workers and any(cell_of(item) or owns_servers(item) for item in session.items)):
        return
    if config.getoption("dist") == "each":
        raise pytest.UsageError("--dist each: every worker would measure every cell; leave it out")
    if unlike := [spec for spec in config.stash[_SPECS] if not _LIKE_THIS.fullmatch(spec)]:
        raise pytest.UsageError(
            f"--tx {unlike[0]}: a worker measures on this machine, in this folder and interpreter: use -n"
        )
    cases = cases_of(session.items)
    try:
        shares = shares_of(engine, workers, python=engine.python)
        units = units_of(config.stash[RUN], cases)
    except BadInput as error:
        raise pytest.UsageError(error.shown) from None
    takes = {case.case: unit.total_s for unit in units for case in unit.cases}
    config.stash[_SECONDS] = {group_of(suite, cell): takes[case] for case, suite, cell in cases}
    if workers == 1:
        return
    if engine.port:
        raise pytest.UsageError(
            f"{workers} workers, but engine.port gives all servers the port {engine.port}: leave it out"
        )
    if shares:
        config.stash[_SHARES], config.stash[_TIMED] = shares, True
        config.stash[_CORES] = cores = cores_of(workers) or config.stash[_CORES]
        config.stash.get(LINES, [])[-1:-1] = [*_who_does_what(units, shares, cores)]


def _who_does_what(
    units: Sequence[Unit], shares: Sequence[str], cores: Sequence[Sequence[int]]
) -> Iterator[str]:
    """Which worker measures what, on which devices and cores, and how long that takes."""
    divisions = divided(units, min(len(shares), len(units)))  # of no more than there are, so none is cut
    for number, (share, own) in enumerate(zip(shares, cores, strict=True)):
        mine = divisions[number] if number < len(divisions) else []
        servers = listed([name for unit in mine for name in unit.servers]) or "nothing"
        known = all(unit.seconds is not None for unit in mine)
        about = f", about {duration(sum(unit.total_s for unit in mine))}" * known
        on = f"cores {own[0]} to {own[-1]}" if own else "all cores, which it shares"
        yield f"worker {number} on device {share}, {on}: {servers}{about}"
    yield "the longest server comes first; a worker that is free takes the next one, whatever stands here"


def _session(config: pytest.Config) -> pytest.Session:
    session = config.pluginmanager.get_plugin("session")
    assert isinstance(session, pytest.Session)  # noqa: S101 - pytest registers it before it starts workers
    return session


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker the name of the run, its devices, and whether they are its own."""
    node.workerinput["draftgate_run"] = node.config.stash[RUN].run
    node.workerinput["draftgate_timed"] = node.config.stash[_TIMED]
    node.workerinput["draftgate_share"] = node.config.stash[_SHARES].pop(0)
    node.workerinput["draftgate_cores"] = list(node.config.stash[_CORES].pop(0))


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """A worker that was killed leaves cells unmeasured: such a run can be resumed.

    One that refused what the controller took (a file has changed meanwhile) would be replaced by another one
    that refuses it too.
    """
    if refused := _REFUSED.search(str(error)):
        raise pytest.UsageError(refused[1].strip())
    node.config.stash[_SHARES].append(node.workerinput["draftgate_share"])  # for the one that replaces it
    node.config.stash[_CORES].append(node.workerinput["draftgate_cores"])
    if error:
        node.config.stash[LOST_WORKER] = True


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object | None:
    """Cells of one server go to one worker, whatever `--dist` says."""
    servers = {case: group_of(suite, cell) for case, suite, cell in cases_of(_session(config).items)}
    return by_server(servers, config.stash[_SECONDS], config, log) if servers else None
