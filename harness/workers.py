"""The hooks of pytest-xdist: which worker starts which servers, and on which devices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from harness.errors import BadInput
from harness.plugin import LOST_WORKER, RUN
from harness.provenance.hardware import shares_of
from harness.selection import by_server, cell_of, owns_servers, suite_of

_TIMED = pytest.StashKey[bool]()
_SHARES = pytest.StashKey[list[str]]()
"""Devices that no worker has, a text for each worker; empty where it sees all of them."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config, specs: Sequence[object]) -> None:
    """Before the first worker of pytest-xdist starts, collect as without workers, and share the devices out.

    So what cannot be done is refused here, and the plan is printed.
    """
    config.stash[_SHARES], config.stash[_TIMED] = [""] * len(specs), len(specs) == 1
    _session(config).perform_collect()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Give each worker its share of the devices, where cases start servers, before anything is written."""
    config = session.config
    engine, workers = config.stash[RUN].options.stack.engine, len(config.stash.get(_SHARES, ()))
    if workers < 2 or not any(cell_of(item) or owns_servers(item) for item in session.items):  # noqa: PLR2004
        return
    try:
        shares = shares_of(engine, workers, python=engine.python)
    except BadInput as error:
        raise pytest.UsageError(error.shown) from None
    if engine.port:
        raise pytest.UsageError(
            f"{workers} workers, but engine.port gives all servers the port {engine.port}: leave it out"
        )
    if shares:
        config.stash[_SHARES], config.stash[_TIMED] = shares, True


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


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """A worker that was killed leaves cells unmeasured: such a run can be resumed."""
    node.config.stash[_SHARES].append(node.workerinput["draftgate_share"])  # for the one that replaces it
    if error:
        node.config.stash[LOST_WORKER] = True


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object | None:
    """Cells of one server go to one worker, whatever `--dist` says; but `each` gives all to each."""
    items = _session(config).items
    servers = {
        item.nodeid: suite_of(item).name if suite_of(item).beside_none else cell.spec.key
        for item in items
        if (cell := cell_of(item))
    }
    return None if config.getoption("dist") == "each" or not servers else by_server(servers, config, log)
