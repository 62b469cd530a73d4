"""The command `draftgate card`: the figures of a run's drafters, for their model cards."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from harness.errors import NoCells
from harness.judge.collect import collect
from harness.judge.compare import compare
from harness.report.card import PARITY, block, values_of
from harness.report.labels import Labels
from harness.report.references import run_of
from harness.results.names import BASE
from harness.results.records import RUN_FILE, CellRecord, RunRecord, load
from harness.text.console import show
from harness.text.render import markdown

_SUITES = ("acceptance", *PARITY)
"""Suites that ask what a card is about; those of loads and curves ask the same prompts otherwise."""
_INVALID = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the command's parser its options."""
    parser.description = (
        "Print Markdown for a model card: acceptance of each drafter by endpoint and language with n, T, "
        "engine, intervals and what limits them, and the references that draftgate claims checks. "
        "Exit code: 0, or 2 where a cell is no measurement or the run cannot be used."
    )
    parser.add_argument("path", metavar="RUN", type=Path, help="a finished run, or a folder of baselines")


def run(options: argparse.Namespace) -> int:
    """Print it; the exit code.

    Raises:
        BadInput: there is no run, it is not finished, or holds no cell of a drafter.
        BadRecord: a file is damaged.
    """
    path: Path = options.path
    side = collect(path)
    if (path / RUN_FILE).is_file() and not load(path / RUN_FILE, RunRecord).finished:
        raise NoCells(f"{path} is not finished: give its command again, with --resume")
    mine = [e for e in side.entries if e.cell.k and e.suite.partition("/")[0] in _SUITES]
    if not mine:
        raise NoCells(
            f"{path} holds no drafter's cell of the suites {' or '.join(_SUITES[:2])}: name a run that does"
        )
    rows = []
    for entry in mine:
        name = run_of(side.path if side.single else Path(side.name), side.path, entry)
        what = entry.cell.drafter + f" ({entry.cell.variant})" * (entry.cell.variant != BASE)
        rows.append({**values_of(load(entry.path, CellRecord), run=name), "what": what})
    above = Labels(compare([dataclasses.replace(side, entries=tuple(mine))])).above()
    conditions = "<br>\n".join(map(markdown, above))
    show(f"## Acceptance, served\n\n{conditions}\n\n{block(rows)}\n")
    return 0 if all(row["valid"] for row in rows) else _INVALID
