"""The command `draftgate report`: runs as one page of HTML."""

from __future__ import annotations

import argparse
import itertools
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.config.prompt_files import Source, read as read_prompts
from harness.config.prompts import Prompt, hash_of
from harness.config.shipped import DATA
from harness.config.stack import find_stack, load_stack
from harness.errors import BadInput, BadRecord, NoCells
from harness.judge.collect import Entry
from harness.report.history import history
from harness.report.history_table import as_page
from harness.report.html.given import Given, read
from harness.report.html.page import document
from harness.report.html.sides import Shown
from harness.report.html.write import page
from harness.report.plots import in_a_curve
from harness.results.files import output, write_atomically
from harness.results.records import RUN_FILE
from harness.suites.context import SUITE as CONTEXT
from harness.suites.curve_report import NAME as CURVE, of_run
from harness.suites.long_prompts import kept_in
from harness.suites.prefix import SUITE as PREFIX
from harness.suites.quality_answers import SUITE as QUALITY, file_of, read_asked
from harness.suites.runner import kept
from harness.text.console import complain, show
from harness.text.redaction import without_secrets
from harness.text.render import visible

_INCOMPLETE = 2
_NAMED = 3
"""Faults in one sentence."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the command's parser its options."""
    parser.description = (
        "Write runs into one HTML file that needs no network: verdicts, charts, answers side by side. "
        "Exit code: 0 everything is shown, 2 something could not be read or was refused."
    )
    add = parser.add_argument
    what = "runs, folders of cells, or cells; without --baseline each is compared with the first"
    add("runs", metavar="RUN", nargs="+", type=Path, help=what)
    add("--baseline", metavar="DIR", type=Path, help="compare each with this: baselines, or another run")
    across = "a field of the identity that may differ; then there is no verdict, unless the stack declares it"
    add("--across", metavar="FIELD", action="append", default=[], help=across)
    files = "your own prompts, whose texts the page shows: a file or hf:DATASET[:SPLIT], repeatable"
    add("--prompts-file", metavar="FILE", action="append", default=[], help=files)
    add("--stack", metavar="STACK", help="the stack whose [prompts] tables name them")
    add("--output", metavar="FILE", type=output, required=True, help="the page, like report.html")


def run(options: argparse.Namespace) -> int:
    """Write the page; the exit code.

    Raises:
        BadInput: nothing that was named can be shown, or the page cannot be written.
    """
    if options.across and not options.baseline and len(set(options.runs)) == 1:
        raise BadInput(
            f"--across {options.across[0]} compares, and one RUN stands alone: name another, or --baseline",
            code="compare-option",
        )
    try:
        return _written(options, whole=False)
    except BadRecord:  # read every file whole first, so that what is damaged is named and left out
        return _written(options, whole=True)


def _written(options: argparse.Namespace, *, whole: bool) -> int:
    shown = [_shown(path, whole=whole) for path in dict.fromkeys(options.runs)]
    baseline = read(options.baseline, whole=whole) if options.baseline else None
    if baseline and not baseline.side:
        raise NoCells(f"--baseline: {_few([*baseline.faults, baseline.empty])}")
    faults = [fault for one in shown for fault in one.faults]
    if not any(one.something for one in shown):
        raise NoCells(f"no run to show: {_few(faults)}")
    faults += baseline.faults if baseline else ()
    own = dict(itertools.chain(_own_texts(options).items(), *(one.asked.items() for one in shown)))
    command = shlex.join(["draftgate", *sys.argv[1:]])
    data, texts = document(
        shown,
        baseline,
        across=options.across,
        history=_history(options.runs),
        own=own,
        command=str(without_secrets(command)),
    )
    text = page(data, texts)
    write_atomically(options.output, text)
    made = f"{options.output}: {len(text.encode()) / 1e6:.1f} MB"
    show("".join(f"{visible(line)}\n" for line in (data["sentence"], made, *data["left_out"])))
    for fault in faults:
        complain(fault)
    return _INCOMPLETE if faults else 0


def _own_texts(options: argparse.Namespace) -> dict[str, str]:
    """Of the user's own prompts, by hash: the records hold that alone.

    Raises:
        BadInput: a file cannot be read, or a row is no prompt.
    """
    sources = [Source(file=file) for file in options.prompts_file]
    if options.stack:
        sources += load_stack(find_stack(options.stack, DATA / "stacks")).prompts.values()
    rows = itertools.chain.from_iterable(read_prompts(source).chats for source in sources)
    return {hash_of(prompt.text): prompt.text for prompt in itertools.chain.from_iterable(rows)}


def _kept_prompts(given: Given, broken: list[str]) -> dict[str, str]:
    """Of the prompts that a run keeps beside its answers, by hash; `broken` takes what is damaged."""
    found: dict[str, str] = {}
    entries = given.side.entries if given.side else ()
    sources = [_questions(entry) for entry in entries if entry.suite == QUALITY]
    sources += [kept_in(given.path, suite.name) for suite in (CONTEXT, PREFIX)]
    for prompts in sources:
        try:
            found |= {hash_of(prompt.text): prompt.text for prompt in prompts}
        except BadRecord as error:
            broken.append(str(error))
    return found


def _questions(entry: Entry) -> Iterator[Prompt]:
    for one in read_asked(file_of(entry.path)).values():
        yield one.as_question.prompt(entry.cell.language)


def _history(paths: Sequence[Path]) -> dict[str, Any] | str | None:
    """Of the runs among what is shown; why it cannot be made; None where no cell was measured twice."""
    runs = [path for path in paths if (path / RUN_FILE).is_file()]
    try:
        return as_page(history(runs)) if len(runs) > 1 else None
    except BadInput as error:  # what is damaged has its place in the page already
        return str(error) if error.code == "extra-missing" else None


def _few(faults: Sequence[str]) -> str:
    more = f"; and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
    return "; ".join(filter(None, faults[:_NAMED])) + more


def _shown(path: Path, *, whole: bool) -> Shown:
    """A run with its curves; the cells of curves that are not whole stand among the others."""
    curves, wrong = of_run(path) if (path / CURVE).is_dir() else ([], [])
    drawn = [curve for curve, *_ in curves]
    given = read(path, without=lambda entry: in_a_curve(entry, drawn), whole=whole)
    # What is missing of a run that is not finished is no fault of it; else a damaged file says why it is.
    damaged = [one for one in wrong if isinstance(one, BadRecord)]
    broken = [*map(str, damaged or (wrong if given.finished else ()))]
    asked = _kept_prompts(given, broken)
    outcomes = [
        {"suite": o.suite, "cell": o.cell, "kind": o.kind, "sentence": o.sentence, "table": o.table_text()}
        for o in kept(path).values()
    ]
    return Shown(given=given, curves=curves, outcomes=outcomes, broken=broken, asked=asked)
