"""The command `draftgate tune`: a search over a stack's parameters, and what its winner is worth."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.config.shipped import DATA
from harness.config.space import Search
from harness.config.stack import find_stack
from harness.errors import BadOption
from harness.suites.tune import tune
from harness.text.arguments import whole
from harness.text.console import Rarely, end_like_ctrl_c, say, show
from harness.text.render import visible

_TRIALS, _MOST = 20, 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the command's parser its options."""
    shipped = ", ".join(sorted(path.stem for path in (DATA / "spaces").glob("*.toml")))
    parser.description = (
        "Search a space of parameters, then measure the winner and the default again on prompts that no "
        "trial asked. Exit code: 0 there is a winner, 1 there is none, 2 bad input."
    )
    add = parser.add_argument
    add("space", metavar="SPACE", help=f"a TOML file, or one that comes with draftgate: {shipped}")
    add("--trials", metavar="N", type=whole, default=_TRIALS, help="in all, with earlier ones (%(default)s)")
    add("--results", metavar="DIR", type=Path, default=Path("results"), help="where searches go (results)")


def run(options: argparse.Namespace) -> int:
    """Search; the exit code.

    Raises:
        BadInput, ServerFailed: see `harness.suites.tune.tune`.
    """
    if not 1 <= options.trials <= _MOST:
        raise BadOption(f"--trials {options.trials}: must be 1 or more, and at most {_MOST}")
    path = find_stack(options.space, DATA / "spaces", option="SPACE", what="space")
    folder = options.results / f"tune-{path.stem}"
    search = Search(path, folder)
    rarely = Rarely()

    def tell(text: str) -> None:
        if not text.startswith("\r") or rarely():
            say(text.removeprefix("\r").removeprefix("draftgate: "))

    end_like_ctrl_c()
    won = True
    try:
        for found in tune(search, folder, trials=options.trials, say=tell):
            won &= found.winner is not None
            show(f"{found.in_flight} in flight, {found.trials} trials: {visible(found.sentence)}\n")
    except KeyboardInterrupt:
        say(f"interrupted: the same command goes on from {folder}")
        return 130
    return 0 if won else 1
