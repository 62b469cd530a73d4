"""The command `draftgate history`: each cell over time, and where its figures changed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.report.history import history
from harness.report.history_table import as_data, document
from harness.results.files import output, write_atomically
from harness.text import render
from harness.text.console import show, width_of

_FORMATS = {".md": "markdown", ".markdown": "markdown", ".json": "json"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the command's parser its options."""
    parser.description = (
        "Show each cell over time, with engine version and commit, and where its figures changed. "
        "Exit code: 0 shown, whether anything changed or not; 2 there is nothing to show."
    )
    add = parser.add_argument
    what = "runs, or folders that hold some, like results/"
    add("folders", metavar="RUN", nargs="+", type=Path, help=what)
    forms = f"(table; else what the name of --output ends with: {', '.join(_FORMATS)})"
    add("--format", choices=("table", "markdown", "json"), help=forms)
    add("--output", metavar="FILE", type=output, help="write there, not to standard output")
    add("--wide", action="store_true", help=render.WIDE)


def run(options: argparse.Namespace) -> int:
    """Print it; the exit code.

    Raises:
        BadInput: there is nothing to show, or the file cannot be written.
    """
    found = history(options.folders)
    form = options.format or _FORMATS.get(options.output.suffix if options.output else "", "table")
    if form == "json":
        text = render.as_json(as_data(found))
    elif form == "markdown":
        text = render.as_markdown(document(found))
    else:
        width = None if options.output else width_of(sys.stdout, wide=options.wide)
        text = render.as_text(document(found), width)
    if options.output:
        write_atomically(options.output, text)
    else:
        show(text)
    return 0
