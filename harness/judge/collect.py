"""Finds cells in folders and files, reading their heads alone, and pairs the cells of two sides."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from harness.errors import BadInput, BadRecord
from harness.judge.baselines import ANCHOR, RESERVE, device_name
from harness.judge.pairing import drafting
from harness.judge.speedup import SpeedRecord
from harness.results.conditions import Environment, Identity, Subject
from harness.results.description import Description
from harness.results.grouping import grouped
from harness.results.names import BASE, SERVERS
from harness.results.records import RUN_FILE, SCHEMA, CellName, CellRecord, RunRecord, load
from harness.text.numbers import listed
from harness.text.validation import did_you_mean, near_path

AXES = ("endpoint", "language", "workload", "thinking", "variant")
"""What two cells may be compared across."""
_STARTS = ("speed/", "throughput/", "curve/once/", "curve/pairs/", "curve/scheduled/")
"""Suites of single server starts. A claim about speed is made of these; they are no cells to compare."""
_R = TypeVar("_R")
_SPEED_UPS = "speed-ups over pairs of starts are not compared here"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """A cell file, and the fields of its head."""

    path: Path
    cell: CellName
    suite: str
    profile: str
    stack: str
    device: str
    plain: bool = True
    """False where the cell of `none` beside it cannot be read, so that it has no speed-up."""

    @property
    def order(self) -> tuple[Hashable, ...]:
        """By name, k as a number; `none` before what drafts, the stack as it stands before its variants."""
        c = self.cell
        where = (c.reference, self.stack, self.device, self.profile, self.suite)
        place = (c.endpoint, c.language, c.workload, c.thinking or "", c.variant != BASE, c.variant)
        return (*where, *place, bool(c.k), c.drafter, c.k)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
    """The cells of one argument of the command line."""

    name: str
    path: Path
    entries: tuple[Entry, ...]
    subject: tuple[str, ...] = ()
    """Fields that the stack of the run declares its subject: it gates across them."""
    notes: tuple[str, ...] = ()

    @property
    def single(self) -> bool:
        """One file was named, not a folder."""
        return self.path.is_file()


class Head(BaseModel):
    """The fields of a cell record before its prompts."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_: int = Field(alias="schema")
    stack: str
    profile: str
    suite: str
    cell: CellName
    identity: Identity
    subject: Subject
    environment: Environment
    provenance: dict[str, Any]


def collect(path: Path, *, damaged: list[BadRecord] | None = None) -> Side:
    """The cells at `path`: a run, a folder of baselines, any folder of cell files, or one cell file.

    Args:
        path: where they are.
        damaged: takes what is wrong with the damaged files of a folder, which are then left out.

    Raises:
        BadInput: nothing is there, or no cell is.
        BadRecord: a file is damaged, with the reason, and `damaged` does not take it.
    """
    if path.is_file():
        if path.name == RUN_FILE:
            raise BadInput(
                f"{path} describes a run and holds no cell: name its folder, {path.parent}", code="no-cells"
            )
        only = _cell_or_other(path)
        if isinstance(only, str):
            raise BadInput(f"{path} holds no cell: files of {only}", code="no-cells")
        return Side(name=str(path), path=path, entries=(only,))
    if not path.is_dir():
        raise BadInput(f"{path}: no such file or folder{near_path(path)}", code="no-cells")
    files = [file for file in sorted(path.rglob("*.json")) if _may_be_cell(file, path)]
    found = [one for file in files if (one := _unless_damaged(_cell_or_other, file, damaged))]
    entries = [entry for entry in found if isinstance(entry, Entry)]
    others = Counter(what for what in found if isinstance(what, str))
    notes = [f"{times} files of {what}" for what, times in others.items()]
    # Beside its cell a reserve is no row of its own: it confirms what the cell lost.
    entries = [entry for entry in entries if not entry.suite.endswith(f"/{RESERVE}")] or entries
    if not entries:
        raise BadInput(f"{path} holds no cell" + f" ({'; '.join(notes)})" * bool(notes), code="no-cells")
    name = str(path)
    subject: tuple[str, ...] = ()
    described = (path / RUN_FILE).is_file()
    if described and (run := _unless_damaged(lambda file: load(file, RunRecord), path / RUN_FILE, damaged)):
        name, subject = path.resolve().name, run.subject
        notes += [] if run.finished else ["the run is not finished: some of its cells are missing"]
    return Side(
        name=name,
        path=path,
        entries=tuple(sorted(entries, key=lambda e: e.order)),
        subject=subject,
        notes=tuple(notes),
    )


def _unless_damaged(read: Callable[[Path], _R], file: Path, damaged: list[BadRecord] | None) -> _R | None:
    try:
        return read(file)
    except BadRecord as error:
        if damaged is None:
            raise
        damaged.append(error)
        return None


def of_drafter(side: Side, drafter: str) -> Side:
    """The cells of one drafter: of `ngram` with every k, or of `ngram-k4`.

    Raises:
        BadInput: the side has no cell of it; the message lists its drafters.
    """
    named = tuple(e for e in side.entries if e.cell.drafter == drafter)
    own = named or tuple(e for e in side.entries if drafting(e.cell) == drafter)
    if not own:
        known = dict.fromkeys(name for e in side.entries for name in (e.cell.drafter, drafting(e.cell)))
        raise BadInput(
            f"{side.path} has no cell of a drafter {drafter}{did_you_mean(drafter, known)}; there are: "
            f"{', '.join(dict.fromkeys(drafting(e.cell) for e in side.entries))}",
            code="no-cells",
        )
    return dataclasses.replace(side, name=drafter, entries=own)


def by_variant(side: Side) -> list[Side]:
    """A side for each variant, the stack as it stands first; the first has the references too.

    Raises:
        BadInput: the side has cells of one variant alone.
    """
    found: dict[str, list[Entry]] = {}
    for entry in sorted(side.entries, key=lambda e: (e.cell.reference, e.cell.variant != BASE)):
        of = next(iter(found), BASE) if entry.cell.reference else entry.cell.variant
        found.setdefault(of, []).append(entry)
    if len(found) < 2:  # noqa: PLR2004
        what = f"{side.path} has cells of one variant ({', '.join(found)}); --across variant compares several"
        raise BadInput(f"{what}: add [variants.NAME] to the stack and run it", code="no-cells")
    return [
        dataclasses.replace(side, name=name, entries=tuple(entries), notes=() if number else side.notes)
        for number, (name, entries) in enumerate(found.items())
    ]


def _may_be_cell(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    other = file.name == RUN_FILE or file.name.endswith(ANCHOR) or file.parent.name == SERVERS
    return not hidden and not other and file.is_file()


def _cell_or_other(file: Path) -> Entry | str:
    """A cell; or what else the file holds that is no cell to compare."""
    try:
        entry = _entry(file)
    except BadRecord:
        for kind in (SpeedRecord, Description):
            try:
                record = load(file, kind)
            except BadRecord:
                continue
            if isinstance(record, Description):
                return f"descriptions by {record.described} are not paired: {record.why_not_paired}"
            return _SPEED_UPS
        raise
    return _SPEED_UPS if entry.suite.startswith(_STARTS) else entry


def _entry(path: Path) -> Entry:
    head = head_of(path)
    same = {name: getattr(head, name) for name in ("cell", "suite", "profile", "stack")}
    return Entry(path=path, device=device_name(head.environment), **same)


def head_of(path: Path) -> Head | CellRecord:
    """The head of a file as we write it, with its prompts last. Any other file is read whole.

    Raises:
        BadRecord: the file is damaged, as far as it was read.
    """
    try:
        with path.open(encoding="utf-8") as file:
            lines = list(itertools.takewhile(lambda line: not line.startswith('"prompts"'), file))
        head = Head.model_validate_json("".join(lines).rstrip().rstrip(",") + "}")
    except (ValueError, OSError, RecursionError):
        return load(path, CellRecord)
    return head if head.schema_ == SCHEMA else load(path, CellRecord)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Matches:
    """Which cells of two sides belong together, and which have no partner."""

    pairs: tuple[tuple[Entry, Entry], ...]
    base_only: tuple[Entry, ...]
    new_only: tuple[Entry, ...]


_Key = Callable[[Entry], Hashable]


def match(base: Side, new: Side, *, across: Collection[str] = ()) -> Matches:  # noqa: C901 - the order is the point
    """Pair the cells of two sides.

    Two single files belong together, whatever cells they are. Else cells pair by name; suite, profile,
    stack and device tell apart those of one name. Then they pair by name without the axes that `across`
    names. Last, if each side has one drafter for an endpoint, language and workload, these two pair as
    different drafters: those of one k, or where each side has one k alone.

    Raises:
        BadInput: several cells could be the partner of one, or no cell has a partner.
    """
    if base.single and new.single:
        return Matches(pairs=((base.entries[0], new.entries[0]),), base_only=(), new_only=())
    all_base, all_new = ([e for e in side.entries if not e.cell.reference] for side in (base, new))
    left, right = ({e.path: e for e in entries} for entries in (all_base, all_new))
    pairs: list[tuple[Entry, Entry]] = []

    def join(old: Iterable[Entry], other: Iterable[Entry], key: _Key) -> None:
        ours, theirs = _sole(old, key), _sole(other, key)
        for value, a in ours.items():
            b = theirs.get(value)
            if b is not None and a.path in left and b.path in right:
                pairs.append((left.pop(a.path), right.pop(b.path)))

    for key in _levels(lambda e: e.cell):
        join(list(left.values()), list(right.values()), key)
    _refuse_ambiguous(base, new, left.values(), right.values())
    axes = sorted(set(across) & set(AXES))
    if axes:
        for key in _levels(lambda e: str(_without(e.cell, axes))):
            join(list(left.values()), list(right.values()), key)
    for key in _levels(lambda e: (_without(e.cell, axes).place, e.cell.k)) if _one_each(base, new) else ():
        join(list(left.values()), list(right.values()), key)
    for key in _levels(lambda e: _without(e.cell, axes).place):
        join(_drafting(all_base, key), _drafting(all_new, key), key)
    if not pairs:
        raise BadInput(_nothing_in_common(base, new), code="no-cells")
    return Matches(
        pairs=tuple(sorted(pairs, key=lambda pair: pair[0].order)),
        base_only=tuple(left.values()),
        new_only=tuple(right.values()),
    )


def _one_each(*sides: Side) -> bool:
    """Each side has one drafter, perhaps with several k."""
    return all(len({e.cell.drafter for e in side.entries if e.cell.k}) == 1 for side in sides)


def _levels(what: Callable[[Entry], Hashable]) -> list[_Key]:
    """Keys from the strictest to the loosest."""

    def level(of: int) -> _Key:
        return lambda e: (what(e), *(e.suite, e.profile, e.stack, e.device)[:of])

    return [level(of) for of in range(4, -1, -1)]


def _sole(entries: Iterable[Entry], key: _Key) -> dict[Hashable, Entry]:
    """By key, the entries whose key no other has."""
    return {value: group[0] for value, group in grouped(entries, key).items() if len(group) == 1}


def _drafting(entries: Iterable[Entry], key: _Key) -> list[Entry]:
    """Those that draft; `none` only where nothing else has its key."""
    entries = list(entries)
    drafting = {key(e) for e in entries if e.cell.k}
    return [e for e in entries if e.cell.k or key(e) not in drafting]


def _without(cell: CellName, axes: Collection[str]) -> CellName:
    return cell.model_copy(update=dict.fromkeys(axes, "*")) if axes else cell


def _refuse_ambiguous(base: Side, new: Side, left: Iterable[Entry], right: Iterable[Entry]) -> None:
    """Raise where cells of one name are unpaired on both sides: each has several possible partners."""
    ours = {e.cell: e for e in left}
    for entry in right:
        if entry.cell in ours:
            side = base if sum(e.cell == entry.cell for e in base.entries) > 1 else new
            paths = [str(e.path) for e in side.entries if e.cell == entry.cell]
            raise BadInput(
                f"{side.name} holds {len(paths)} cells named {entry.cell} ({listed(paths)}): "
                "name a narrower folder",
                code="no-cells",
            )


def _nothing_in_common(base: Side, new: Side) -> str:
    hints = []
    for axis in AXES:
        ours, theirs = (sorted({str(getattr(e.cell, axis)) for e in side.entries}) for side in (base, new))
        if not set(ours) & set(theirs):
            hints.append(
                f"{axis} is {listed(ours)} in one and {listed(theirs)} in the other "
                f"(--across {axis} compares across it)"
            )
    text = (
        f"{base.name} and {new.name} have no cell in common: "
        f"the first holds {names_of(base.entries)}, the second {names_of(new.entries)}"
    )
    return "; ".join([text, *hints])


def names_of(entries: Iterable[Entry]) -> str:
    """The names of a few cells, with their suites where these differ, and how many more there are."""
    found = list(entries)
    several = len({e.suite for e in found}) > 1
    return listed([f"{e.suite}/{e.cell}" if several else str(e.cell) for e in found])
