"""The command `draftgate`. Thin: what it does is in the modules below; it parses, prints and exits."""

from __future__ import annotations

import argparse
import gc
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from harness.errors import BadInput, DraftgateError
from harness.judge.baselines import move_anchor
from harness.judge.collect import collect
from harness.judge.compare import compare
from harness.report import export
from harness.report.compare_table import document
from harness.report.labels import Axis
from harness.results.files import write_atomically
from harness.text import render
from harness.text.console import complain, settle_in, show

INVALID = 2
_MODULES = {
    "watch": "watch whether a server works or hangs, and restart it",
    "doctor": "check whether this machine can measure a stack correctly",
    "claims": "compare the figures of a Markdown file with their records",
}
"""Commands of `harness.commands`. Each is imported only when it is asked for: some take half a second."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; its exit code.

    Whatever a user gave that cannot be used ends in one sentence on standard error and exit code 2.
    """
    settle_in()
    argv = sys.argv[1:] if argv is None else argv
    parser, commands = _parsers(argv)
    try:
        if argv and argv[0] in commands:
            # By itself a subparser takes no option between positionals, as in `compare BASE --across x NEW`.
            options = commands[argv[0]].parse_intermixed_args(argv[1:])
        else:
            options = parser.parse_args(argv)
        code: int = options.run(options)
    except SystemExit as stop:  # argparse has said why
        return int(stop.code or 0)
    except DraftgateError as error:
        complain(error.shown)
        return INVALID
    return code


def _parsers(argv: Sequence[str]) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    parser = argparse.ArgumentParser(
        prog="draftgate", description="Judge speculative decoding by paired statistics."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    comparing = commands.add_parser(
        "compare",
        help="set runs, baselines or cells side by side",
        description="Set runs, baselines or cells side by side. "
        "Exit code: 0 nothing regressed, 1 regressed, 2 refused or invalid, 3 inconclusive under --strict.",
    )
    add = comparing.add_argument
    what = "BASE NEW [NEW...]: runs, folders of baselines or cells, or cell files; each NEW against BASE"
    add("paths", metavar="PATH", nargs="+", type=Path, help=what)
    across = (
        "a field of the identity that may differ, like endpoint or quantization; "
        "then there is no verdict, unless the stack of the new run declares it its subject"
    )
    add("--across", metavar="FIELD", action="append", default=[], help=across)
    add("--pivot", choices=get_args(Axis), help="make an axis columns of the table; one PATH is enough")
    add("--format", choices=("table", "markdown", "csv", "json"), default="table", help="(table)")
    add("--output", metavar="FILE", type=Path, help="write there, not to standard output")
    add("--strict", action="store_true", help="exit with 3 where a cell is inconclusive")
    comparing.set_defaults(run=_compare)
    moving = commands.add_parser(
        "anchor",
        help="make baselines the anchors of their cells",
        description="Make baselines the anchors of their cells, which every later run is judged against too.",
    )
    moving.add_argument(
        "baselines", metavar="BASELINE", nargs="+", type=Path, help="a cell file of baselines/"
    )
    moving.add_argument("--reason", metavar="TEXT", required=True, help="why; it is kept in the anchor")
    moving.set_defaults(run=_anchor)
    parsers = {"compare": comparing, "anchor": moving}
    for name, text in _MODULES.items():
        parsers[name] = commands.add_parser(name, help=text)
        if name in argv:
            importlib.import_module(f"harness.commands.{name}").add_arguments(parsers[name])
    return parser, parsers


def _compare(options: argparse.Namespace) -> int:
    lines = options.format in ("csv", "json")
    if options.pivot and lines:
        raise BadInput(
            f"--pivot makes columns of a table; {options.format} has every cell apart, so leave --pivot out",
            code="compare-option",
        )
    if len(options.paths) == 1 and not (options.pivot or lines):
        raise BadInput(
            f"{options.paths[0]} alone: name what to compare it with, or --pivot an axis",
            code="compare-option",
        )
    gc.set_threshold(
        100_000
    )  # no record refers to itself: looking for some that do takes a seventh of the time
    result = compare([collect(path) for path in options.paths], across=tuple(dict.fromkeys(options.across)))
    code = result.exit_code(strict=options.strict)
    if options.format == "json":
        text = render.as_json(export.as_data(result, exit_code=code))
    elif options.format == "csv":
        text = render.as_csv(*export.csv_rows(result))
    else:
        page = document(result, pivot=options.pivot)
        text = render.as_text(page) if options.format == "table" else render.as_markdown(page)
    if options.output:
        write_atomically(options.output, text)
    else:
        show(text)
    return code


def _anchor(options: argparse.Namespace) -> int:
    for path in options.baselines:
        show(render.visible(f"anchor {move_anchor(path, options.reason)}") + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
