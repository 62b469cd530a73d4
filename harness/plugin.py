"""The pytest hooks: options, parametrisation, ordering, outcome, and the tables at the end."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Collection, Generator
from pathlib import Path
from typing import Any

import pytest

from harness import selection
from harness.config.cells import ServerSpec, cells_of
from harness.config.shipped import DATA, SUITES
from harness.engine.spelling import check
from harness.errors import BadInput, BadOption, DraftgateError, GateWarning, shown
from harness.options import add_options, options_of, refuse_repeated, refuse_unwritable, stack_of
from harness.provenance.hardware import VISIBLE, in_use
from harness.run import Run
from harness.selection import cases_of, cell_of, measures, no_cell_matches, suite_of
from harness.suites import throughput
from harness.suites.ending import ending, measured_all
from harness.suites.selfcheck import MARKER, checked, seconds_ahead
from harness.text import render
from harness.text.console import Outlet, end_like_ctrl_c, painted, settle_in, width_of
from harness.text.numbers import duration
from harness.text.redaction import MOSTLY_RANDOM, without_keys

pytest_plugins = ["harness.sharding", "harness.workers"]

RUN = pytest.StashKey[Run]()
_BENCHES = pytest.StashKey[bool]()
_ASKED = pytest.StashKey[Collection[tuple[str, str]]]()
_SENTENCE = pytest.StashKey[str]()
_TAKEN = pytest.StashKey[tuple[list[pytest.Item], list[pytest.Item]]]()
"""The cases that their suites ask about, and the others, before -k and -m."""
LINES = pytest.StashKey[list[str]]()
LOST_WORKER = pytest.StashKey[bool]()
LEFT_OUT = pytest.StashKey[str]()
WORKERS = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of `pytest bench_suites`."""
    add_options(parser.getgroup("draftgate", "speculative decoding (draftgate)").addoption)


@pytest.hookimpl(trylast=True)  # when the terminal's reporter is there
def pytest_configure(config: pytest.Config) -> None:
    """Make a marker of every axis value, so that `-m "chat and zh"` is exact."""
    settle_in()
    writer = config.get_terminal_writer() if config.pluginmanager.has_plugin("terminalreporter") else None
    if writer is not None:
        writer._file = Outlet(writer._file)  # noqa: SLF001 - pytest has no other door
    config.addinivalue_line("markers", "cells: a benchmark over endpoint x language x workload x drafter x k")
    config.addinivalue_line("markers", f"{MARKER}: known answers for the whole chain")
    if config.option.help:  # pytest has not read the rest of the command line then
        return
    try:
        refuse_repeated(words := config.invocation_params.args)
        refuse_unwritable(config.option)
        stack = stack_of(config.getoption, DATA / "stacks")
        worker: dict[str, Any] = getattr(config, "workerinput", {})
        options = options_of(config.getoption, stack, root=config.rootpath, words=words)
        run = Run(options, DATA, run=worker.get("draftgate_run"))
    except (BadInput, OSError) as error:
        raise pytest.UsageError(shown(error)) from None
    config.stash[RUN] = run
    run.timed = worker.get("draftgate_timed", True)
    if worker.get("draftgate_share"):
        os.environ[VISIBLE] = worker["draftgate_share"]
        os.sched_setaffinity(0, worker["draftgate_cores"] or os.sched_getaffinity(0))
    sys.argv = worker.get("mainargv", sys.argv)  # a record keeps the command that the user gave
    for value in selection.markers(run.options):
        config.addinivalue_line("markers", f"{value}: cells of {value}")


def pytest_pycollect_makemodule(module_path: Path, parent: Any) -> pytest.Module | None:
    """Our suites have the ids of a checkout wherever they lie: no report holds a path of a venv."""
    if module_path.resolve().parent != SUITES:
        return None
    return pytest.Module.from_parent(parent, path=module_path, nodeid=f"{SUITES.name}/{module_path.name}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A case for every cell."""
    if "cell" not in metafunc.fixturenames or not metafunc.definition.get_closest_marker("cells"):
        return
    options = metafunc.config.stash[RUN].options
    of_stack = cells_of(
        options.stack, options.profile_name, options.profile, workloads=options.workloads, own=options.own
    )
    cells, drafting = list(of_stack), suite_of(metafunc.definition).drafting
    # Without any pytest would make a case of nothing; these are dropped in the selection.
    asked = [c for c in cells if c.name.k or not drafting]
    metafunc.parametrize(
        "cell",
        [pytest.param(c, id=str(c), marks=selection.marks_of(c, options.stack)) for c in asked or cells],
        scope="session",
    )


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None]:
    """Before -k and -m: drop what a suite does not ask about. After them: select, and make the plan."""
    try:
        _take(config, items)
        yield from _by_expressions(config)
        _select(config, items)
        if not hasattr(config, "workerinput"):
            _plan(config, items)
    except (DraftgateError, pytest.UsageError) as error:
        items.clear()  # pytest would list them before it says what is wrong
        raise pytest.UsageError(error.shown if isinstance(error, DraftgateError) else str(error)) from None


def _take(config: pytest.Config, items: list[pytest.Item]) -> None:
    stack, words = config.stash[RUN].options.stack, " ".join([_named(config), *config.invocation_params.args])
    dropped, said = selection.untaken(items, stack, words)
    if said and len(dropped) == len(items):
        raise pytest.UsageError(said[0])
    for text in [] if hasattr(config, "workerinput") else said:
        config.issue_config_time_warning(GateWarning(text), stacklevel=2)
    _drop(config, items, dropped)
    config.stash[_TAKEN] = list(items), dropped


def _by_expressions(config: pytest.Config) -> Generator[None]:
    """Pytest's own selection, and a better word where -m has one that is no marker."""
    try:
        yield
    except pytest.UsageError:
        if not _of_benches(config):
            raise
        named = _named(config).strip()
        raise pytest.UsageError(no_cell_matches(named, config.stash[RUN].options.stack)) from None


def _of_benches(config: pytest.Config) -> bool:
    return any("bench_suites" in argument for argument in config.invocation_params.args)


def _named(config: pytest.Config) -> str:
    return f"{config.getoption('keyword')} {config.getoption('markexpr')}"


def _drop(config: pytest.Config, items: list[pytest.Item], left_out: list[pytest.Item]) -> None:
    if dropped := set(left_out):
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in dropped]


def _select(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Drop what is measured only by name, put cells of one server together, warn of a loose -k."""
    named, arguments = _named(config), config.invocation_params.args
    stack, url = config.stash[RUN].options.stack, config.getoption("--server-url")
    _drop(
        config,
        items,
        [i for i in items if selection.only_by_name(i, stack, arguments=arguments, named=named)],
    )
    if not items and named.strip() and _of_benches(config):
        why = selection.not_asked_about(config.option, *config.stash[_TAKEN]) or no_cell_matches(
            named.strip(), stack
        )
        raise pytest.UsageError(why)
    order: dict[ServerSpec, int] = {}
    for item in items:
        if cell := cell_of(item):
            order.setdefault(cell.spec, len(order))
    # By value of the server, not by parameter index as pytest does; other tests keep their place first.
    items.sort(key=lambda item: selection.server_rank(item, order))
    config.stash[_BENCHES] = bool(order) or any(item.get_closest_marker(MARKER) for item in items)
    if hasattr(config, "workerinput"):
        return
    if url and (why := selection.not_on_one_server(items, list(order))):
        raise pytest.UsageError(why)
    for text in selection.loose_words(config.getoption("keyword") or "", items, stack):
        config.issue_config_time_warning(GateWarning(text), stacklevel=2)


def _plan(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Make the plan, and find out all that can be known before a server starts.

    Raises:
        DraftgateError: what is not there, or cannot be.
    """
    pairs = [(suite, cell) for _, suite, cell in cases_of(items)]
    run = config.stash[RUN]
    if not run.options.server_url:
        for spec in dict.fromkeys(cell.spec for _, cell in pairs):
            check(spec)
    ahead_s = seconds_ahead(run, checked(cell for _, cell in pairs))
    shared = [cell for suite, cell in pairs if not suite.apart]
    lines = run.plan(shared, self_check_s=ahead_s, workers=(workers := config.stash.get(WORKERS, 1)))
    if run.options.against and pairs and throughput.SUITE not in [suite for suite, _ in pairs]:
        raise BadOption("--against is for bench_suites/test_throughput.py: name it too")
    for suite in dict.fromkeys(suite for suite, _ in pairs):
        lines += suite.plan(run, [cell for of, cell in pairs if of == suite])
    lines += [] if run.options.server_url else in_use(run.options.stack.engine, workers)
    if left_out := config.stash.get(LEFT_OUT, ""):
        lines.append(f"one server is given, so one process measures it: {left_out} does nothing")
    if pairs:
        if ahead_s:
            lines.insert(0, f"the self-check comes first, about {duration(ahead_s)}")
        config.stash[LINES] = [*lines, f"records go to {run.folder}"]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Print the plan, if there is one, before the first server starts. Under xdist the controller does."""
    config = session.config
    if LINES not in config.stash:
        return
    for line in config.stash[LINES]:
        _write(config, f"draftgate: {line}")
    if not measures(config.option) or stopped_by_errors(session):
        return
    try:
        config.stash[RUN].claim()
        config.stash[RUN].write(finished=False)
    except BadInput as error:
        raise pytest.UsageError(error.shown) from None
    config.stash[_ASKED] = [(suite.name, str(cell)) for _, suite, cell in cases_of(session.items)]
    end_like_ctrl_c()


def stopped_by_errors(session: pytest.Session) -> bool:
    """Pytest runs nothing, since a file of tests could not be read."""
    return bool(session.testsfailed) and not session.config.getoption("continue_on_collection_errors")


def _write(config: pytest.Config, text: str) -> None:
    writer, text = config.get_terminal_writer(), render.visible_lines(text)
    writer.line(painted(text) if writer.hasmarkup else text)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Our own errors end in their sentence: a traceback would tell the user nothing more.

    A sentence may quote a server or a model: nothing in it acts on a terminal.
    """
    outcome = call.excinfo.value if call.excinfo else None
    ours = cell_of(item) or item.get_closest_marker(MARKER)
    if ours and isinstance(outcome, pytest.fail.Exception | pytest.skip.Exception):
        outcome.msg = render.visible_lines(str(outcome))
    report = yield
    if ours and isinstance(outcome, DraftgateError):
        report.longrepr = render.visible_lines(outcome.shown)
    _without_keys(report)
    return report


def _without_keys(report: pytest.TestReport) -> None:
    """No traceback, captured text or property of a case holds a key, whatever went wrong in it."""

    def hidden(text: str) -> str:
        return without_keys(text, least=MOSTLY_RANDOM)

    if report.longrepr and hidden(told := str(report.longrepr)) != told:
        report.longrepr = hidden(told)
    report.sections = [(hidden(title), hidden(text)) for title, text in report.sections]
    report.user_properties = [
        (name, hidden(value) if isinstance(value, str) else value) for name, value in report.user_properties
    ]


@pytest.hookimpl(tryfirst=True)
def pytest_warning_recorded(warning_message: warnings.WarningMessage) -> None:
    """The same of our warnings."""
    if isinstance(warning_message.message, GateWarning):
        warning_message.message.args = (render.visible_lines(str(warning_message.message)),)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, Any, Any]:
    """Before pytest-benchmark reads its options: our table says more than its own. At the end: Ctrl-C."""
    option = config.option
    option.benchmark_quiet = not config.getoption("benchmark_verbose", default=False)
    if not any(getattr(option, f"benchmark_{what}", None) for what in ("save", "autosave", "compare")):
        option.benchmark_storage = "file://."  # it makes its folder at once, also where it keeps nothing
    try:
        return (yield)
    except KeyboardInterrupt:
        what = "\ndraftgate: interrupted while it ended"
        if _has_run(config):
            what += f"; records: {config.stash[RUN].folder}; --resume goes on with what is not there"
        _write(config, what)
        return pytest.ExitCode.INTERRUPTED


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A run that ended by itself, however its cases came out, is not one to resume."""
    config = session.config
    if not _is_ours(config):
        return
    ended = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    if ended and measures(config.option) and config.stash[RUN].folder.exists():
        try:
            lost = config.stash.get(LOST_WORKER, False)
            complete = measured_all(config.stash[RUN], config.stash.get(_ASKED, ()))
            config.stash[RUN].write(finished=complete and not lost)
            if lost and not complete:  # xdist calls it a success where no worker lived to fail
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
        except BadInput as error:
            _write(config, f"draftgate: {error.shown}")
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The tables of all cells, whichever process measured them; and where the records are."""
    if not _is_ours(config):
        return
    run = config.stash[RUN]
    writer, whole = config.get_terminal_writer(), not _named(config).strip()
    width = width_of(writer._file, wide=config.getoption("wide"))  # noqa: SLF001 - as above
    end = ending(run, config.stash.get(_ASKED, ()), whole=whole, width=width)
    config.stash[_SENTENCE] = end.sentence
    for title, text in end.sections if config.get_verbosity() >= 0 else ():
        terminalreporter.section(title)
        _write(config, text)
    if end.fault:
        terminalreporter.write_line(render.visible_lines(f"draftgate: {end.fault}"), red=True)
    if end.sections:
        terminalreporter.write_line(render.visible(f"records: {run.folder}"))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """The sentence of the run, once more, as the last line."""
    if said := config.stash.get(_SENTENCE, ""):
        _write(config, said)


def _is_ours(config: pytest.Config) -> bool:
    """The process that ends a run of our suites."""
    return not hasattr(config, "workerinput") and config.stash.get(_BENCHES, _has_run(config))


def _has_run(config: pytest.Config) -> bool:
    """Under pytest-xdist the controller collects nothing itself."""
    return RUN in config.stash and config.stash[RUN].folder.exists()
