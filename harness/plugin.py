"""The pytest hooks: options, parametrisation, ordering, outcome, and the table at the end."""

from __future__ import annotations

import os
import shlex
import signal
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from harness.config import stack as stacks
from harness.config.cells import Cell, ServerSpec, cells as cells_of
from harness.config.stack import NONE, Stack
from harness.engine.http import is_url
from harness.engine.watchdog import STALL_SECONDS
from harness.errors import BadInput, DraftgateError, GateWarning
from harness.plan import plan, speed_plan
from harness.provenance import record as provenance
from harness.report import run_table as tables
from harness.results.records import RUN_FILE, CellRecord
from harness.run import Options, Run
from harness.selection import (
    cell_of,
    loose_words,
    marks_of,
    no_cell_matches,
    only_by_name,
    owns_servers,
    server_rank,
)
from harness.stats.paired import LOOKS
from harness.text import render as formats

DATA = Path(__file__).resolve().parent.parent / "fixtures"
DEFAULT_STACK = "smollm2-cpu"
DEFAULT_PROFILE = "quick"

RUN = pytest.StashKey[Run]()
CELL = pytest.StashKey[Cell]()
_BENCHES = pytest.StashKey[bool]()
_LOST_WORKER = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of `pytest bench_suites`."""
    group = parser.getgroup("draftgate", "speculative decoding (draftgate)")
    add = group.addoption
    add("--stack", metavar="NAME|PATH", default=DEFAULT_STACK, help=f"stack to measure ({DEFAULT_STACK})")
    add("--profile", metavar="NAME", default=DEFAULT_PROFILE, help=f"quick, gate, field ({DEFAULT_PROFILE})")
    add("--workload", metavar="W", action="append", help="workload, repeatable (instruct)")
    add("--prompts", metavar="N", type=int, help="measure the first N prompts of each file")
    add("--max-tokens", metavar="N", type=int, help="tokens per answer at most")
    add("--concurrency", metavar="N", type=int, help="requests in flight")
    add("--repeats", metavar="N", type=int, default=1, help="passes over the prompts (1)")
    add("--seed", metavar="N", type=int, default=0, help="base of the prompts' seeds (0)")
    add("--results", metavar="DIR", type=Path, default=Path("results"), help="where runs go (results)")
    add("--resume", action="store_true", help="go on with the newest unfinished run of this command")
    add("--server-url", metavar="URL", help="measure a server that runs already, and start none")
    add("--gate", choices=("off", "warn", "on", "strict"), default="on", help="what fails a case (on)")
    add("--baselines", metavar="DIR", type=Path, help="where baselines lie (baselines)")
    add("--update-baselines", action="store_true", help="make what this run measures the baseline")
    add("--update-baselines-new-only", action="store_true", help="the same for cells that have none yet")
    add("--pairs", metavar="N", type=int, default=6, help="pairs of server starts for a speed-up (6)")
    add(
        "--sequential",
        action="store_true",
        help="stop a cell at the first look (16 to 80 prompts) that decides",
    )
    stalled = f"restart a server that has work and does nothing for so long ({STALL_SECONDS})"
    add("--stall-seconds", metavar="N", type=int, default=STALL_SECONDS, help=stalled)
    add("--compare", metavar="RUN", type=Path, help="judge against a run's folder, not the baselines")


def pytest_configure(config: pytest.Config) -> None:
    """Make a marker of every axis value, so that `-m "chat and zh"` is exact."""
    config.addinivalue_line("markers", "cells: a benchmark over endpoint x language x workload x drafter x k")
    try:
        stack = stacks.load(stacks.find(config.getoption("--stack"), DATA / "stacks"))
        worker: dict[str, Any] = getattr(config, "workerinput", {})
        session = Run(_options(config, stack), DATA, run=worker.get("draftgate_run"))
    except BadInput as error:
        raise pytest.UsageError(str(error)) from None
    config.stash[RUN] = session
    session.timed = worker.get("draftgate_alone", True)
    if worker and session.timed and worker["workercount"] > 1:
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", str(worker["workerid"]).removeprefix("gw"))
    # Our table says more; pytest-benchmark's JSON, compare and save work as ever.
    config.option.benchmark_quiet = not config.getoption("benchmark_verbose", default=False)
    values = [*stack.endpoints, *stack.languages, *stack.workloads, *stack.drafters]
    values += [f"k{k}" for drafter in stack.drafters.values() for k in drafter.k if k]
    for value in dict.fromkeys(values):
        config.addinivalue_line("markers", f"{value}: cells of {value}")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist the name of the run, and whether it has a device of its own."""
    run = node.config.stash[RUN]
    node.workerinput["draftgate_run"] = run.run
    workers = node.config.getoption("numprocesses") or 1
    try:
        if not node.config.getoption("collectonly"):
            run.claim()
    except BadInput as error:
        raise pytest.UsageError(str(error)) from None
    node.workerinput["draftgate_alone"] = workers == 1 or workers <= len(provenance.environment()["gpus"])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """A worker that was killed leaves cells unmeasured: such a run can be resumed."""
    if error:
        node.config.stash[_LOST_WORKER] = True


def _options(config: pytest.Config, stack: Stack) -> Options:
    option = config.getoption
    name = option("--profile")
    if name not in stack.profiles:
        raise BadInput(f"--profile {name}: unknown profile; there are: {', '.join(stack.profiles)}")
    profile = stack.profiles[name]
    for flag, field in (
        ("--prompts", "prompts"),
        ("--max-tokens", "max_tokens"),
        ("--concurrency", "concurrency"),
    ):
        value = option(flag)
        if value is not None:
            if value < 1:
                raise BadInput(f"{flag} {value}: must be 1 or more")
            profile = profile.model_copy(update={field: value})
    for flag, least in (("--repeats", 1), ("--pairs", 2), ("--stall-seconds", 1)):
        if option(flag) < least:
            raise BadInput(f"{flag} {option(flag)}: must be {least} or more")
    if option("--sequential") and (profile.prompts < LOOKS[0] or option("--repeats") > 1):
        raise BadInput(
            f"--sequential looks at {', '.join(map(str, LOOKS))} prompts, once: use --profile gate, "
            "without --repeats"
        )
    workloads = tuple(option("--workload") or ["instruct"])
    for workload in workloads:
        if workload not in stack.workloads:
            raise BadInput(
                f"--workload {workload}: unknown workload; there are: {', '.join(stack.workloads)}"
            )
    return Options(
        stack=stack,
        profile_name=name,
        profile=profile,
        workloads=workloads,
        repeats=option("--repeats"),
        seed=option("--seed"),
        results=option("--results"),
        resume=option("--resume"),
        server_url=_server_url(option("--server-url")),
        baselines=option("--baselines") or config.rootpath / "baselines",
        gate=option("--gate"),
        update="all" if option("--update-baselines") else "new" * option("--update-baselines-new-only"),
        pairs=option("--pairs"),
        sequential=option("--sequential"),
        compare=_existing_run(option("--compare")),
        stall_seconds=option("--stall-seconds"),
        command="pytest " + shlex.join(config.invocation_params.args),
    )


def _server_url(url: str | None) -> str | None:
    if url is not None and not is_url(url):
        raise BadInput(f"--server-url {url}: not the URL of a server, like http://127.0.0.1:8000")
    return url


def _existing_run(path: Path | None) -> Path | None:
    if path is not None and not (path / RUN_FILE).is_file():
        raise BadInput(f"--compare {path}: no run lies there (a folder with {RUN_FILE})")
    return path


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A case for every cell; `server` comes with it, so that pytest starts one per server."""
    marker = metafunc.definition.get_closest_marker("cells")
    if "cell" not in metafunc.fixturenames or marker is None:
        return
    own_servers, drafting = marker.kwargs.get("own_servers", False), marker.kwargs.get("drafting", False)
    options = metafunc.config.stash[RUN].options
    cells = cells_of(options.stack, options.profile_name, options.profile, workloads=options.workloads)
    metafunc.parametrize(
        ("server", "cell"),
        [
            pytest.param(None if own_servers else cell.spec, cell, id=str(cell), marks=marks_of(cell))
            for cell in cells
            if cell.name.k or not drafting
        ],
        indirect=["server"],
        scope="session",
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Drop what is measured only by name, put cells of one server together, warn of a loose -k."""
    named = f"{config.getoption('keyword')} {config.getoption('markexpr')}"
    arguments, stack = config.invocation_params.args, config.stash[RUN].options.stack
    dropped = [i for i in items if only_by_name(i, stack, arguments=arguments, named=named)]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]
    if not items and named.strip() and any("bench_suites" in argument for argument in arguments):
        raise pytest.UsageError(no_cell_matches(named.strip(), stack))
    order: dict[ServerSpec, int] = {}
    for item in items:
        cell = cell_of(item)
        if cell:
            order.setdefault(cell.spec, len(order))
    # By value of the server, not by parameter index as pytest does; other tests keep their place first.
    items.sort(key=lambda item: server_rank(item, order))
    config.stash[_BENCHES] = bool(order)
    if not hasattr(config, "workerinput"):
        for text in loose_words(config.getoption("keyword") or "", items, stack):
            config.issue_config_time_warning(GateWarning(text), stacklevel=2)
        if config.getoption("--server-url") and len(order) > 1:
            raise pytest.UsageError(
                f"--server-url names one server, but the cells selected need {len(order)} "
                f"({', '.join(spec.label for spec in order)}): name one, like -k {list(order)[-1].label}"
            )


def pytest_collection_finish(session: pytest.Session) -> None:
    """Print the plan before the first server starts."""
    config = session.config
    cells = [cell for item in session.items if (cell := cell_of(item)) and not owns_servers(item)]
    own = [(item, cell) for item in session.items if (cell := cell_of(item)) and owns_servers(item)]
    if not (cells or own):
        return
    pairs = [cell for item, cell in own if "speed_pairs" in getattr(item, "fixturenames", ())]
    run = config.stash[RUN]
    try:
        for line in [*plan(run, cells), *speed_plan(run, pairs), f"draftgate: records go to {run.folder}"]:
            if not hasattr(config, "workerinput"):
                _write(config, line)
        if not config.getoption("collectonly"):
            if not hasattr(config, "workerinput"):
                run.claim()
            run.write(finished=False)
            # Ended like Ctrl-C: what was measured is kept and shown.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
    except BadInput as error:
        raise pytest.UsageError(str(error)) from None


def _write(config: pytest.Config, text: str) -> None:
    config.get_terminal_writer().line(formats.visible_lines(text))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Our own errors end in their sentence: a traceback would tell the user nothing more.

    A sentence may quote a server or a model: nothing in it acts on a terminal.
    """
    outcome = call.excinfo.value if call.excinfo else None
    ours = cell_of(item) or item.get_closest_marker("calibration")
    if ours and isinstance(outcome, pytest.fail.Exception | pytest.skip.Exception):
        outcome.msg = formats.visible_lines(str(outcome))
    report = yield
    if ours and call.excinfo is not None and call.excinfo.errisinstance(DraftgateError):
        report.longrepr = formats.visible_lines(str(call.excinfo.value))
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_warning_recorded(warning_message: warnings.WarningMessage) -> None:
    """The same of our warnings."""
    if isinstance(warning_message.message, GateWarning):
        warning_message.message.args = (formats.visible_lines(str(warning_message.message)),)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, Any, Any]:
    """Ctrl-C where pytest no longer expects it, at its end: a sentence, and the exit code of Ctrl-C."""
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
    if hasattr(config, "workerinput") or not config.stash.get(_BENCHES, _has_run(config)):
        return
    ended = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    if ended and not config.getoption("collectonly") and config.stash[RUN].folder.exists():
        try:
            complete = not config.stash.get(_LOST_WORKER, False) and _complete(config, session)
            config.stash[RUN].write(finished=complete)
        except BadInput as error:
            _write(config, f"draftgate: {error}")
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _complete(config: pytest.Config, session: pytest.Session) -> bool:
    """Every cell that was asked for has its file; the controller of workers cannot know, and believes so."""
    wanted = [cell for item in getattr(session, "items", ()) if (cell := cell_of(item))]
    have = {p.stem for p in config.stash[RUN].folder.glob("*/*.json")}
    return all(str(cell) in have for cell in wanted)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The table, and where the records are."""
    if hasattr(config, "workerinput") or not config.stash.get(_BENCHES, _has_run(config)):
        return
    run = config.stash[RUN]
    try:
        cells = run.cells()
    except DraftgateError as error:
        terminalreporter.write_line(formats.visible_lines(f"draftgate: {error}"), red=True)
        return
    if not cells:
        return
    cells = _sorted(cells, run)
    terminalreporter.section("draftgate")
    terminalreporter.write_line(tables.report(cells))
    if run.options.gate != "off" and not run.options.update:
        try:
            verdicts = [(cell, run.verdict(cell)) for cell in cells]
        except DraftgateError as error:
            terminalreporter.write_line(formats.visible_lines(f"draftgate: {error}"), red=True)
        else:
            terminalreporter.write_line("\n" + tables.verdict_report(verdicts))
            if not (config.getoption("keyword") or config.getoption("markexpr")):
                for path in run.orphans(cells[0]):
                    gone = f"orphan: {path}: the stack has no such cell any more"
                    terminalreporter.write_line(formats.visible(gone))
    terminalreporter.write_line(formats.visible(f"records: {run.folder}"))


def _has_run(config: pytest.Config) -> bool:
    """Under pytest-xdist the controller collects nothing itself."""
    return RUN in config.stash and config.stash[RUN].folder.exists()


def _sorted(cells: list[CellRecord], run: Run) -> list[CellRecord]:
    """As the stack has them: `none` first, then by drafter and k."""
    names = [
        str(c) for c in cells_of(run.options.stack, "", run.options.profile, workloads=run.options.workloads)
    ]
    place = {name: i for i, name in enumerate(names)}
    return sorted(cells, key=lambda c: (c.cell.drafter != NONE, place.get(str(c.cell), len(place)), c.suite))
