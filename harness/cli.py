"""The command `draftgate`. Thin: what it does is in the modules below; it parses, prints and exits."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import gc
import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

from harness.errors import BadInput, DraftgateError, shown
from harness.judge.baselines import move_anchor
from harness.judge.collect import Side, by_variant, collect, of_drafter
from harness.judge.compare import Comparison, compare
from harness.report import dashboards, export
from harness.report.compare_table import document
from harness.report.labels import Axis
from harness.report.run_document import run_document, side_report
from harness.results.files import output, write_atomically
from harness.text import render
from harness.text.arguments import Parser
from harness.text.console import coloured, complain, settle_in, show, width_of
from harness.text.latex import as_latex
from harness.text.validation import did_you_mean

INVALID, INTERRUPTED = 2, 130
_OF_PYTEST = {
    "bench": "pytest on the suites: their names first (all if none), then its options",
    "plan": "what bench would measure, and its division among machines",
    "run": "bench on the nodes of a Ray cluster: run --ray [ADDRESS]",
}
"""Commands whose words are pytest's."""
_HERE = {
    "compare": "set runs, baselines or cells side by side",
    "anchor": "make baselines the anchors of their cells",
}
"""Commands of this module."""
_OTHERWISE_CALLED = {"list": "listing", "import": "importing"}
"""Modules of commands that another name would hide."""
_FORMATS = {
    ".md": "markdown", ".markdown": "markdown", ".csv": "csv", ".json": "json", ".prom": "openmetrics",
    ".parquet": "parquet", ".tex": "latex", ".png": "png", ".svg": "svg", ".pdf": "pdf",
}  # fmt: skip
"""Of a file, by the end of its name."""
_PAGES = {"table": render.as_text, "markdown": render.as_markdown, "latex": as_latex}
_JSON = "json"
_PICTURES = ("png", "svg", "pdf")


def _picture(form: str, found: Comparison) -> bytes:
    made: bytes = importlib.import_module("harness.commands.pictures").drawn(found, form)
    return made


_DATA: dict[str, Callable[[Comparison], str | bytes]] = {
    "csv": lambda found: render.as_csv(*export.csv_rows(found)),
    "long-csv": lambda found: render.as_csv(*export.long_rows(found)),
    "parquet": lambda found: export.parquet(*export.long_rows(found)),
    "github-benchmark": lambda found: render.as_json(dashboards.benchmark_data(found)),
    "pytest-benchmark": lambda found: render.as_json(dashboards.pytest_benchmark(found)),
    "openmetrics": dashboards.openmetrics,
    **{form: functools.partial(_picture, form) for form in _PICTURES},
}
"""What `compare` writes: tables for people, and for programs or as a picture what has every cell apart."""
_FILES = ("parquet", *_PICTURES)
"""What makes no sense on a terminal."""
_MODULES = {
    "init": "write a stack and the suites into the current folder",
    "watch": "watch whether a server works or hangs, and restart it",
    "doctor": "check whether this machine can measure a stack correctly",
    "card": "print a run's figures for a model card",
    "claims": "compare the figures of a Markdown file with their records",
    "history": "show each cell over time, and where its figures changed",
    "curve": "print which k is best at which load, from a run's records",
    "recipe": "print the vllm serve command that runs support, for each use",
    "report": "write runs into one HTML file that needs no network",
    "tune": "search for the best values of a drafter's or the engine's parameters",
    "list": "list stacks, profiles, drafters, variants, prompts or suites",
    "merge": "make one run of the runs that measured the shards of a plan",
    "import": "read what AIPerf, GuideLLM or vllm bench serve measured",
}
"""Commands of `harness.commands`. Each is imported only when it is asked for: some take half a second."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; its exit code.

    Whatever a user gave that cannot be used ends in one sentence on standard error and exit code 2.
    """
    settle_in()
    # No record refers to itself: looking for some that do takes a seventh of the time.
    gc.set_threshold(100_000)
    argv = sys.argv[1:] if argv is None else argv
    try:
        _somewhere()
        if argv and argv[0] in _OF_PYTEST:
            done: int = importlib.import_module(f"harness.commands.{argv[0]}").run(argv[1:])
            return done
        parser, commands = _parsers(argv)
        if argv and argv[0] in commands:
            # By itself a subparser takes no option between positionals, as in `compare BASE --across x NEW`.
            options = commands[argv[0]].parse_intermixed_args(argv[1:])
        else:
            options = parser.parse_args(argv)
        code: int = options.run(options)
    except SystemExit as stop:  # argparse has said why
        return int(stop.code or 0)
    except (DraftgateError, OSError) as error:
        complain(shown(error))
        return INVALID
    except KeyboardInterrupt:
        complain("interrupted: give the same command again")
        return INTERRUPTED
    return code


def _somewhere() -> None:
    """Refuse to work in a folder that somebody has removed: pytest, and every path of a user, starts there.

    Raises:
        BadInput: it is gone.
    """
    try:
        Path.cwd()
    except OSError:
        raise BadInput("the current folder is gone: go to another one", code="cannot-read") from None


def _version() -> str:
    try:
        return importlib.metadata.version("draftgate")
    except importlib.metadata.PackageNotFoundError:  # a copy of the files that nobody installed
        return f"of {Path(__file__).parent}, which is not installed"


def _parsers(argv: Sequence[str]) -> tuple[Parser, dict[str, Parser]]:
    """That of all commands, and one of each; where one is named, of that alone: all take longer than it."""
    parser = Parser(prog="draftgate", description="Judge speculative decoding by paired statistics.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    helped = _OF_PYTEST | _HERE | _MODULES
    named = {name: helped[name] for name in argv[:1] if name in helped}
    if not named:
        parser.add_argument("--version", action="version", version=f"draftgate {_version()}")
    parsers = {name: commands.add_parser(name, help=text) for name, text in (named or helped).items()}
    for name in named:
        if name in _HERE:
            {"compare": _add_compare, "anchor": _add_anchor}[name](parsers[name])
        else:
            module = importlib.import_module(f"harness.commands.{_OTHERWISE_CALLED.get(name, name)}")
            module.add_arguments(parsers[name])
            parsers[name].set_defaults(run=module.run)
    return parser, parsers


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Set runs, baselines or cells side by side. "
        "Exit code: 0 nothing regressed, 1 regressed, 2 refused or invalid, 3 a cell has no partner, or is "
        "inconclusive under --strict."
    )
    add = parser.add_argument
    what = "BASE NEW [NEW...]: runs, folders of baselines or cells, or cell files; each NEW against BASE. "
    what += "One alone: its tables, as at the end of its run"
    add("paths", metavar="PATH", nargs="+", type=Path, help=what)
    across = (
        "a field of the identity that may differ, like endpoint, quantization or variant (of one PATH too); "
        "then there is no verdict, unless the stack of the new run declares it its subject"
    )
    add("--across", metavar="FIELD", action="append", default=[], help=across)
    add("--pivot", choices=get_args(Axis), help="make an axis columns of the table; one PATH is enough")
    add("--old", metavar="DRAFTER", help="of one PATH the cells of this drafter, like ngram or ngram-k4 ...")
    add("--new", metavar="DRAFTER", help="... compared with those of this one, on the same prompts")
    forms = f"(table; else what the name of --output ends with: {', '.join(_FORMATS)})"
    add("--format", choices=(*_PAGES, _JSON, *_DATA), help=forms)
    add("--output", metavar="FILE", type=output, help="write there, not to standard output")
    add("--wide", action="store_true", help=render.WIDE)
    add("-q", "--quiet", action="store_true", help="print only the sentence that counts the cells")
    add("--partial", action="store_true", help="cells that only one side has are no reason to exit with 3")
    add("--strict", action="store_true", help="exit with 3 where a cell is inconclusive")
    parser.set_defaults(run=_compare)


def _add_anchor(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Make baselines the anchors of their cells, which every later run is judged against too."
    )
    add = parser.add_argument
    add("baselines", metavar="BASELINE", nargs="+", type=Path, help="a cell file of baselines/")
    add("--reason", metavar="TEXT", required=True, help="why; it is kept in the anchor")
    parser.set_defaults(run=_anchor)


def _compare(options: argparse.Namespace) -> int:
    form = options.format or _FORMATS.get(options.output.suffix if options.output else "", "table")
    if options.pivot and form not in _PAGES:
        raise BadInput(
            f"--pivot makes columns of a table; {form} has every cell apart, so leave --pivot out",
            code="compare-option",
        )
    if form in _FILES and not options.output:
        what = f"--format {form} is no text for a terminal: name a file with --output"
        raise BadInput(what, code="compare-option")
    sides = _sides(options)
    unlimited = options.output or options.quiet
    width = None if unlimited else width_of(sys.stdout, wide=options.wide)
    text: str | bytes
    if len(sides) == 1 and form in _PAGES and not options.pivot:
        if form == "table":
            text, valid = side_report(sides[0], width)
        else:
            page, valid = run_document(sides[0])
            text = _PAGES[form](page)
        code = 0 if valid else INVALID
    else:
        result = compare(sides, across=tuple(dict.fromkeys(options.across)))
        code = result.exit_code(strict=options.strict, partial=options.partial)
        if form == _JSON:
            text = render.as_json(export.as_data(result, exit_code=code))
        elif form in _DATA:
            text = _DATA[form](result)
        else:
            page = document(result, pivot=options.pivot)
            page = dataclasses.replace(page, blocks=(*page.blocks, *_answers(result)))
            text = render.as_text(page, width) if form == "table" else _PAGES[form](page)
    _give(text, form, options)
    return code


def _answers(result: Comparison) -> tuple[render.Block, ...]:
    """What the quality suite asked of both sides."""
    if not any(row.figures.entry.suite == "quality" for row in result.rows):
        return ()
    from harness.suites.quality_answers import paired_blocks  # noqa: PLC0415 - it needs all that suites need

    return paired_blocks(result)


def _give(text: str | bytes, form: str, options: argparse.Namespace) -> None:
    """Write what was made of the sides to the file, or print it: a terminal shows a table in colour."""
    if form == "table" and isinstance(text, str) and options.quiet:
        text = text.partition("\n")[0] + "\n"
    if options.output:
        write_atomically(options.output, text)
    elif isinstance(text, str):
        show(coloured(text, sys.stdout) if form == "table" else text)


def _sides(options: argparse.Namespace) -> list[Side]:
    """A side for each path; of one run two, of one drafter and of another, or one for each variant."""
    if stack := next((path for path in options.paths if path.suffix == ".toml" and path.is_file()), None):
        raise BadInput(
            f"{stack} is a stack and holds no results: run draftgate bench --stack FILE for each, and "
            "compare their two folders in results/; for speed run draftgate bench throughput --stack NEW "
            "--against OLD",
            code="compare-option",
        )
    sides = [collect(path) for path in options.paths]
    if not (options.old or options.new):
        if len(sides) > 1 or not options.across:
            return sides
        if "variant" in options.across:
            return by_variant(sides[0])
        near = did_you_mean(options.across[0], ["variant"])
        what = f"--across {options.across[0]}{near} compares two PATHs; of one only its variants are compared"
        raise BadInput(what, code="compare-option")
    if not (options.old and options.new and len(sides) == 1):
        raise BadInput(
            "--old DRAFTER and --new DRAFTER go together, with one PATH that holds the cells of both",
            code="compare-option",
        )
    return [of_drafter(sides[0], name) for name in (options.old, options.new)]


def _anchor(options: argparse.Namespace) -> int:
    for path in options.baselines:
        show(render.visible(f"anchor {move_anchor(path, options.reason)}") + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
