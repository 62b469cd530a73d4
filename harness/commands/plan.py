"""The command `draftgate plan`: what a command line would measure, divided among machines."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness.commands.bench import command_line
from harness.errors import BadOption
from harness.results.files import output, write_atomically
from harness.results.shards import Plan, of_file
from harness.text.arguments import Parser
from harness.text.console import show, width_of
from harness.text.numbers import duration
from harness.text.render import WIDE, Block, lay_out


def run(words: Sequence[str]) -> int:
    """Collect as `draftgate bench WORDS` would, measure nothing, and print the plan; the exit code.

    Raises:
        BadInput: the plan cannot be written.
    """
    parser = Parser(
        prog="draftgate plan",
        description="Say what draftgate bench WORDS would measure, and divide it among machines. All other "
        "words are those of draftgate bench.",
        allow_abbrev=False,
    )
    parser.add_argument("--shards", metavar="N", default="1", help="how many machines; 0: one a server (1)")
    parser.add_argument("--format", choices=("table", "json"), help="table, or the plan that --shard reads")
    parser.add_argument("--output", metavar="FILE", type=output, help="write there, not to standard output")
    parser.add_argument("--wide", action="store_true", help=WIDE)
    own, rest = parser.parse_known_args(words)
    plan = planned(rest, shards=own.shards)
    if isinstance(plan, int):
        return plan
    plan = _with_commands(plan, rest, own.output or Path("plan.json"))
    as_json = own.format == "json" or (own.format is None and own.output is not None)
    width = None if own.output else width_of(sys.stdout, wide=own.wide)
    text = plan.text() if as_json else lay_out([_table(plan)], width) + "\n"
    if own.output:
        write_atomically(own.output, text)
    else:
        show(text)
    return 0


def planned(words: Sequence[str], *, shards: str, folder: Path | None = None) -> Plan | int:
    """The plan of `draftgate bench WORDS`; pytest's exit code where it refuses them, and has said why.

    Args:
        words: of the command line.
        shards: how many; 0 makes one for each server.
        folder: where the paths among the words start; the current one by default.

    Raises:
        BadInput: nothing is selected.
    """
    with tempfile.TemporaryDirectory() as made:
        file = Path(made) / "plan.json"
        collected = subprocess.run(
            [*command_line(words), "--collect-only", "--quiet", "--plan", file, "--shards", shards],
            stdout=subprocess.PIPE, text=True, check=False, cwd=folder,
        )  # fmt: skip
        if collected.returncode:
            sys.stderr.write(collected.stdout)
            return collected.returncode
        if not file.is_file():
            raise BadOption("no cell is selected, so there is nothing to plan: look at -k and -m")
        return of_file(file)


def _with_commands(plan: Plan, words: Sequence[str], file: Path) -> Plan:
    shards = [
        shard.model_copy(
            update={"command": ("draftgate", "bench", *words, "--shard", f"{file}:{shard.number}")}
        )
        for shard in plan.shards
    ]
    return plan.model_copy(update={"shards": tuple(shards)}).sealed()


def _table(plan: Plan) -> Block:
    rows = tuple(
        (
            str(shard.number), ", ".join(shard.servers), str(len(shard.cases)), str(shard.devices),
            "—" if shard.seconds is None else duration(shard.seconds),
        )
        for shard in plan.shards
    )  # fmt: skip
    header = ("shard", "servers", "cells", "devices", "about")
    return Block(header=header, rows=rows, align="llrrr", ranks=(0, 3, 0, 2, 1))
