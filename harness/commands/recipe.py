"""The command `draftgate recipe`: what to run for each use, with its evidence, from the records of runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.commands.import_requests import PROFILE
from harness.engine.spelling import serve_command
from harness.errors import BadInput, BadRecord, NoCells
from harness.judge.collect import collect
from harness.judge.in_turn import SCHEDULED
from harness.judge.over_none import Evidence, of_cell, of_schedule, of_speed, of_starts, plain_of
from harness.judge.recipe import Choice, choose, uses
from harness.judge.speedup import SpeedRecord
from harness.report.references import NOTHING, comment
from harness.results.files import output as output_path, write_atomically
from harness.results.grouping import grouped
from harness.results.records import RUN_FILE, CellRecord, RunRecord, load
from harness.suites import curve_report as curve
from harness.text import render
from harness.text.console import show, width_of
from harness.text.numbers import DASH, interval, number
from harness.text.render import Block, Document, lay_out, visible
from harness.text.validation import near_path

SUITES = ("acceptance", "load", "curve")
"""Suites whose cells are answers to the prompts themselves."""
_FIELDS = ("tokens_per_step", "tokens_per_step_low/tokens_per_step_high")
_GAIN = "{0}_speed_up {0}_speed_up_low/{0}_speed_up_high"
_HEADER = ("place", "in flight", "drafter", "tok/step", "95 % CI", "× none", "95 % CI", "interval over")
_RANKS = (0, 0, 0, 3, 4, 0, 0, 2)
_MEASURED_BY = {
    "one": "draftgate bench --concurrency 1 measures it",
    "long": "draftgate bench --profile long measures it",
    "many": "draftgate bench load, or draftgate bench curve, measures it",
}
"""By the first word of a use."""
_TITLES = {"drafter": "run", "none": "run it without a drafter", "nothing": "nothing is recommended"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the command's parser its options."""
    parser.description = (
        "Print for each use the vllm serve command that the records of runs support, and the evidence beside "
        "it; or why they support none. Exit code: 0, or 2 where a run cannot be used."
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="folders of finished runs")
    what = "write Markdown there, which draftgate claims checks"
    parser.add_argument("--output", metavar="FILE.md", type=output_path, help=what)
    parser.add_argument("--wide", action="store_true", help=render.WIDE)


def run(options: argparse.Namespace) -> int:
    """Print it, or write it; the exit code.

    Raises:
        BadInput: see `evidence`; or the file cannot be written.
        BadRecord: a file is damaged.
    """
    output: Path | None = options.output
    if output and output.suffix not in (".md", ".markdown"):
        raise BadInput(f"--output {output}: name a file that ends with .md", code="cannot-write")
    folders = {path.resolve(): path for path in reversed(options.runs)}  # as they were written
    found = [e for folder in reversed(folders.values()) for e in evidence(folder)]
    blocks = grouped(found, lambda one: one.block)
    width = None if output else width_of(sys.stdout, wide=options.wide)
    text = "\n".join(part for own in blocks.values() for part in _block(own, width, markdown=bool(output)))
    if output:
        write_atomically(output, text)
    else:
        show(text)
    return 0


def evidence(folder: Path) -> list[Evidence]:
    """All that a run says of the speed of drafters.

    Raises:
        BadInput: it is no run, is not finished, was imported, or has no cell of a drafter.
        BadRecord: a file is damaged.
    """
    if not (folder / RUN_FILE).is_file():
        why = f"it has no {RUN_FILE}" if folder.is_dir() else "it is no folder"
        why = why if folder.exists() else f"there is no such folder{near_path(folder)}"
        raise NoCells(f"{folder} is no run: {why}; name a folder of results/")
    described, name = load(folder / RUN_FILE, RunRecord), folder.resolve().name
    if described.profile == PROFILE:
        raise _imported(folder)
    if not described.finished:
        raise NoCells(f"{folder} is not finished: give its command again, with --resume")
    found = [*starts_of(folder), *_cells(folder, name)]
    if not found:
        raise NoCells(
            f"{folder} holds no drafter's cells of the suites {', '.join(SUITES)} or speed: run one of these"
        )
    return found


def _imported(folder: Path) -> BadInput:
    return NoCells(
        f"{folder} was imported: it does not say how its server was started, nor on which machine; "
        "measure with draftgate bench"
    )


def _cells(folder: Path, name: str) -> Iterator[Evidence]:
    """Of every drafter's cell."""
    try:
        entries = collect(folder).entries
    except BadRecord:
        raise
    except BadInput:  # starts in turn alone are no cells to `collect`
        return
    for entry in entries:
        record = load(entry.path, CellRecord)
        if record.identity.imported:
            raise _imported(folder)
        if entry.cell.k and entry.suite.partition("/")[0] in SUITES:
            yield of_cell(name, record, plain_of(entry))


def starts_of(folder: Path) -> list[Evidence]:
    """Of all that a run measured over pairs of starts. Curves that are not whole say nothing.

    Raises:
        BadRecord: a file is damaged.
    """
    name = folder.resolve().name
    found = [of_speed(name, load(path, SpeedRecord)) for path in sorted(folder.glob("speed/*.json"))]
    if not (folder / curve.NAME / "pairs").is_dir():
        return found
    curves, broken = curve.of_run(folder)
    if damaged := next((one for one in broken if isinstance(one, BadRecord)), None):
        raise damaged
    for _, grid, again in curves:
        fixed = [one for one in again if one.k != SCHEDULED]
        found += [
            of_starts(name, grid[one.k, one.in_flight], one, none=grid.get((0, one.in_flight)))
            for one in fixed
        ]
        found += of_schedule(name, again)
    return found


def _block(own: Sequence[Evidence], width: int | None, *, markdown: bool) -> Iterator[str]:
    """The parts of one target, engine and device."""
    one, identity, machine = own[0], own[0].record.identity, own[0].record.environment
    device = ", ".join(str(gpu.name) for gpu in machine.gpus) or str(machine.cpu)
    parts = [f"{identity.target} {identity.dtype}", f"vLLM {one.record.subject.engine}", device]
    runs = ", ".join(dict.fromkeys(e.run for e in own))
    escaped = render.markdown if markdown else str
    said = (
        f"{'## ' * markdown}{escaped(' · '.join(parts))}",
        f"of {escaped(runs)}. For /path/to/NAME write your own folder.",
    )
    yield from (f"{lay_out([line], width)}\n" for line in said)
    for use, rows in uses(own):
        yield _written(choose(use, rows), width, markdown=markdown)


def _written(found: Choice, width: int | None, *, markdown: bool) -> str:
    """One use: what to run, why, and the evidence."""
    mark = "### " * markdown
    if found.kind == "not measured":
        how = _MEASURED_BY[found.use.split()[0]]
        return f"{mark}{found.use}: {DASH} not measured\n\n{how}\n"
    title = f"{mark}{visible(found.use)}: {_TITLES[found.kind]}"
    if found.chosen and not found.claimed:
        title += " (a description)"
    lines = [title, ""]
    if found.chosen:
        command = _command(found.chosen, drafts=found.kind == "drafter")
        lines += ["```sh", command, "```"] if markdown else [f"    {command}"]
        lines.append("")
    blocks = [
        _table([e for e in found.evidence if e.starts is starts], starts=starts) for starts in (True, False)
    ]
    shown = tuple(block for block in blocks if block.rows)
    page = Document(title=found.why, blocks=shown, notes=found.notes)
    return "\n".join([*lines, render.as_markdown(page) if markdown else render.as_text(page, width)])


def _table(own: Sequence[Evidence], *, starts: bool) -> Block:
    """What single starts show, or pairs of starts: these have no figures of acceptance."""
    gain = _GAIN.format("starts" if starts else "paired").split()
    columns = [*[NOTHING] * 3, *(() if starts else _FIELDS), *gain, NOTHING]
    kept = [at for at in range(len(_HEADER)) if not (starts and at in (3, 4))]
    return Block(
        header=tuple(_HEADER[at] for at in kept),
        rows=tuple(tuple(_row(e)[at] for at in kept) for e in own),
        align="".join("lrlrrrrl"[at] for at in kept),
        ranks=tuple(_RANKS[at] for at in kept),
        comment=comment({"columns": ",".join(columns)}),
        comments=tuple(comment({"run": f"{e.run}/{e.suite}", "cell": str(e.cell)}) for e in own),
    )


def _command(chosen: Evidence, *, drafts: bool) -> str:
    subject, server = chosen.record.subject, chosen.record.provenance.get("server")
    if isinstance(server, dict) and server.get("attached"):
        return "# draftgate did not start this server, so its arguments are not known"
    if drafts and subject.method is None:
        return "# the records do not say how this drafter drafts"
    subject = subject if drafts else subject.model_copy(update={"method": None})
    return visible(serve_command(chosen.record.identity, subject))


def _row(one: Evidence) -> tuple[str, ...]:
    over = one.speed and f"{one.speed.m} {'pairs of starts' if one.starts else 'prompts'}"
    return (
        "-".join(one.cell.place),
        str(one.in_flight),
        one.name,
        number(one.tokens_per_step),
        interval(one.interval),
        number(one.gain if one.sound else None),
        interval(one.ends if one.sound else None),
        str(over) if one.sound else DASH,
    )
