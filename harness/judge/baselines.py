"""Where baselines lie, and how they are stored."""

from __future__ import annotations

import re
from pathlib import Path

from harness.errors import BadInput, BadRecord
from harness.results.conditions import UNVERIFIED, Environment
from harness.results.files import write_atomically
from harness.results.records import UNTIMED, CellName, CellRecord, dump_cell, load

ANCHOR = ".anchor.json"
RESERVE = "reserve"
"""The folder, in that of a run's cells, of those that were measured again."""

_NAMED_AT_MOST = 64
"""Characters of a device's folder."""


def device_name(environment: Environment) -> str:
    """The folder of a device: `cpu`, `nvidia-h200`, or `unverified` for a server elsewhere."""
    gpus = environment.gpus
    if gpus:
        name = re.sub(r"[^a-z0-9]+", "-", str(gpus[0].name).lower())[:_NAMED_AT_MOST].strip("-") or "gpu"
        return f"{name}-x{len(gpus)}" if len(gpus) > 1 else name
    return UNVERIFIED if environment.cpu == UNVERIFIED else "cpu"


def path_of(folder: Path, record: CellRecord) -> Path:
    """`<stack>/<device>/<profile>/<suite>/<cell>.json` below `folder`."""
    device = device_name(record.environment)
    return folder / record.stack / device / record.profile / record.suite / f"{record.cell}.json"


def find(folder: Path, record: CellRecord) -> CellRecord | None:
    """The baseline of the same cell; None where there is none.

    Raises:
        BadRecord: the file is there, but is damaged.
    """
    path = path_of(folder, record)
    return of_cell(path, record.cell) if path.exists() else None


def of_cell(path: Path, cell: CellName) -> CellRecord:
    """The record of a cell at its path.

    Raises:
        BadRecord: the file is damaged, or is that of another cell, which was copied or renamed.
    """
    found = load(path, CellRecord)
    if found.cell != cell:
        what = f"it holds the cell {found.cell}, not {cell}"
        raise BadRecord(f"{path}: {what}: give the file its name back, or measure the cell")
    return found


def beside(path: Path) -> Path:
    """Where the reserve of a run's cell lies."""
    return path.parent / RESERVE / path.name


def reserve_of(path: Path, record: CellRecord) -> CellRecord | None:
    """What a cell answered to its reserve of prompts: a baseline has it in its file, a run beside it.

    Raises:
        BadRecord: it is there but cannot be trusted.
    """
    if record.reserve:
        return record.model_copy(update={"prompts": record.reserve, "reserve": ()})
    return of_cell(beside(path), record.cell) if beside(path).exists() else None


def store(folder: Path, record: CellRecord, *, reserve: CellRecord | None = None) -> Path:
    """Make `record` the baseline of its cell, and its anchor too if it has none yet; both hold the reserve.

    Raises:
        BadInput: a record is not valid, or the file cannot be written.
        BadRecord: the present file is damaged. It is not overwritten.
    """
    for one in (record, reserve):
        if one:
            _check(one)
    if record.stopped_at is not None:
        raise BadInput(
            f"{record.cell} cannot be a baseline: --sequential stopped it at {record.stopped_at} prompts, "
            "and a baseline needs all of them",
            code="not-a-baseline",
        )
    path = path_of(folder, record)
    if path.exists():
        of_cell(path, record.cell)
    whole = untimed(record.model_copy(update={"reserve": reserve.prompts if reserve else ()}))
    write_atomically(path, dump_cell(whole))
    anchor = path.with_suffix(ANCHOR)
    if not anchor.exists():
        write_atomically(anchor, dump_cell(_with_reason(whole, "the first baseline of this cell")))
    return path


def move_anchor(path: Path, reason: str) -> Path:
    """Make the baseline at `path` the anchor of its cell.

    Raises:
        BadInput: no reason, `path` is an anchor itself, or the baseline is not valid.
        BadRecord: the baseline is damaged.
    """
    if not reason.strip():
        raise BadInput("the anchor is not moved without a reason: give one with --reason", code="anchor")
    if path.name.endswith(ANCHOR):
        raise BadInput(f"{path} is an anchor: name the baseline beside it", code="anchor")
    record = load(path, CellRecord)
    _check(record)
    anchor = path.with_suffix(ANCHOR)
    write_atomically(anchor, dump_cell(_with_reason(record, reason.strip())))
    return anchor


def sides(folder: Path, record: CellRecord, *, run: Path | None) -> list[tuple[Path, str]]:
    """The files that a cell is compared with, whether they are there or not, and what each is called.

    Args:
        folder: of the baselines.
        record: the cell.
        run: compare with the same cell of this run instead.
    """
    if run is not None:
        return [(run / record.suite / f"{record.cell}.json", run.name)]
    path = path_of(folder, record)
    return [(path, "baseline"), (path.with_suffix(ANCHOR), "anchor")]


def _check(record: CellRecord) -> None:
    if not record.valid:
        raise BadInput(
            f"{record.cell} cannot be a baseline, since its {record.suite} is not a valid measurement: "
            f"{record.why_invalid}",
            code="not-a-baseline",
        )


def _with_reason(record: CellRecord, reason: str) -> CellRecord:
    return record.model_copy(update={"provenance": {**record.provenance, "anchor_reason": reason}})


def untimed(record: CellRecord) -> CellRecord:
    """Without times and start ids. They mean nothing later, and would change every line of a diff."""
    nothing = {**UNTIMED, "server": "", "segment": 0}
    provenance = {k: v for k, v in record.provenance.items() if k not in ("server", "host")}
    return record.model_copy(
        update={
            "prompts": tuple(r.model_copy(update=nothing) for r in record.prompts),
            "reserve": tuple(r.model_copy(update=nothing) for r in record.reserve),
            "provenance": provenance,
        }
    )
