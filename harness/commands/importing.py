"""The command `draftgate import`: another tool's files into the cells of a run, or into a description."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.commands import import_aiperf, import_described, import_guidellm
from harness.commands.import_parts import BadImport
from harness.commands.import_requests import PROFILE, Imported, cell_of
from harness.engine.models import sha256_of
from harness.errors import BadInput, BadRecord
from harness.provenance.record import provenance
from harness.results.conditions import UNVERIFIED, Environment
from harness.results.description import BENCH, SCRAPES, Description
from harness.results.files import json_object, output, read_bytes, read_json, write_atomically
from harness.results.records import RUN_FILE, CellRecord, RunRecord, dump_cell, load
from harness.text.console import show
from harness.text.render import text_table, visible
from harness.text.validation import near_path

_READERS: dict[str, Callable[[Path], list[Imported]]] = {
    import_aiperf.TOOL: import_aiperf.read,
    import_guidellm.TOOL: import_guidellm.read,
}
_KNOWN = (
    "AIPerf's profile_export.jsonl, GuideLLM's JSON, the JSON that vllm bench serve saves, "
    "or two scrapes of /metrics"
)
_PAIR = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the command's parser its options."""
    parser.description = (
        "Read what others measured. AIPerf's profile_export.jsonl and GuideLLM's JSON become cells, "
        "which `draftgate compare` pairs prompt by prompt. The JSON of `vllm bench serve`, or two scrapes "
        "of /metrics (before, after), becomes a description, which gets no verdict. Exit code: 2 refused."
    )
    add = parser.add_argument
    add("files", metavar="FILE", nargs="+", type=Path, help=f"files of one tool: {_KNOWN}")
    what = "the folder of the run to make, or to add to"
    add("--output", metavar="RUN", type=output, required=True, help=what)
    add("--drafter", metavar="NAME", help="what proposed the tokens, or none: no file says it")


def run(options: argparse.Namespace) -> int:
    """Read the files, write the run, and show what came of them.

    Raises:
        BadInput: a file is of no tool, of another one than the rest, or holds nothing to import; an option
            does not fit; something would be overwritten.
        BadRecord: a file is damaged.
    """
    kinds = {path: _kind(path) for path in options.files}
    tool = kinds[options.files[0]]
    if other := next((path for path, kind in kinds.items() if kind != tool), None):
        raise BadImport(
            f"{options.files[0]} is of {tool}, and {other} of {kinds[other]}: give files of one tool"
        )
    reader = _READERS.get(tool)
    made = _cells(options, reader) if reader else _descriptions(options, tool)
    _write(options.output, tool, made, options.files)
    for path, one in made.items():
        show(f"{path}\n{_shown(one)}\n\n")
    return 0


def _kind(path: Path) -> str:
    """Whose file it is, by what stands in it."""
    if path.is_dir():
        raise BadImport(f"{path} is a folder: name the file in it ({_KNOWN})")
    if not path.exists():
        raise BadImport(f"{path}: no such file{near_path(path)}")
    raw = read_bytes(path)
    if b"# TYPE " in raw and not raw.lstrip().startswith(b"{"):
        return SCRAPES
    if not raw.lstrip().startswith(b"{"):
        raise _foreign(path)
    try:
        data = json_object(raw.split(b"\n", 1)[0], str(path))
    except BadRecord:
        data = read_json(path)
    for keys, kind in (
        ({"metadata", "metrics"}, import_aiperf.TOOL),
        ({"benchmarks", "metadata"}, import_guidellm.TOOL),
        ({"model_id", "total_output_tokens", "duration"}, BENCH),
    ):
        if isinstance(data, dict) and keys <= data.keys():
            return kind
    if isinstance(data, dict) and {"schema", "cell"} <= data.keys():
        raise BadImport(f"{path} is draftgate's own: draftgate compare takes it as it is")
    raise _foreign(path)


def _foreign(path: Path) -> BadInput:
    near = path.parent / "profile_export.jsonl"
    hint = f"; beside it lies {near}" if near.is_file() and near != path else ""
    return BadImport(f"{path} is not a file that draftgate imports{hint}: it takes {_KNOWN}")


def _cells(
    options: argparse.Namespace, reader: Callable[[Path], list[Imported]]
) -> dict[Path, CellRecord | Description]:
    made: dict[Path, CellRecord | Description] = {}
    for path in options.files:
        for found in reader(path):
            source = {"tool": found.tool, "version": found.version, "file": path.name}
            source["sha256"] = sha256_of(path)
            cell = cell_of(found, drafter=options.drafter, provenance={**provenance(), "imported": source})
            to = options.output / cell.suite / f"{cell.cell}.json"
            if to in made or to.exists():
                raise BadInput(
                    f"{path} makes {to}, which is there already: name another --output, or another --drafter",
                    code="would-overwrite",
                )
            made[to] = cell
    return made


def _descriptions(options: argparse.Namespace, tool: str) -> dict[Path, CellRecord | Description]:
    files: Sequence[Path] = options.files
    if options.drafter:
        raise BadImport(f"--drafter: a description of {tool} has none; leave it out")
    if tool == BENCH:
        found = [import_described.of_bench(path) for path in files]
    elif len(files) == _PAIR:
        found = [import_described.of_scrapes(*files)]
    else:
        raise BadImport(f"{len(files)} scrape(s) of /metrics given: it takes two, the one before first")
    made: dict[Path, CellRecord | Description] = {}
    for path, one in zip(files, found, strict=False):
        to = options.output / "described" / f"{path.stem}.json"
        if to in made or to.exists():
            raise BadInput(f"{to} is there already: name another --output", code="would-overwrite")
        made[to] = one
    return made


def _write(folder: Path, tool: str, made: dict[Path, Any], files: Sequence[Path]) -> None:
    """Cells, and the run that they are of."""
    known = folder / RUN_FILE
    names: list[str] = []
    if known.is_file():
        before = load(known, RunRecord)
        if before.profile != PROFILE:
            raise BadInput(
                f"--output {folder} is a run that was measured: name another", code="would-overwrite"
            )
        names = list(before.options.get("files", ()))
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(
            f"--output {folder} is there already, and is no run: name another", code="would-overwrite"
        )
    for path, one in made.items():
        if isinstance(one, CellRecord):
            write_atomically(path, dump_cell(one))
        else:
            write_atomically(path, one.model_dump_json(by_alias=True, indent=1) + "\n")
    record = RunRecord(
        run=folder.resolve().name,
        stack=tool,
        profile=PROFILE,
        options={"files": [*names, *(path.name for path in files)]},
        provenance=provenance(),
        environment=Environment(cpu=UNVERIFIED),
        finished=True,
    )
    write_atomically(known, record.model_dump_json(by_alias=True, indent=1) + "\n")


def _shown(one: CellRecord | Description) -> str:
    if isinstance(one, Description):
        table = text_table(("figure", "value"), one.rows())
        return f"{table}\nnot paired, and no verdict: {one.why_not_paired}"
    said = [finding.text for finding in one.findings]
    return "\n".join([f"{len(one.prompts)} requests", *(f"note: {visible(text)}" for text in said)])
