"""The command `draftgate claims`: compares figures in Markdown with the records that they refer to.

`harness/report/references.py` has the syntax.
"""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path

from harness.commands.recipe import starts_of
from harness.errors import BadInput
from harness.judge.collect import Entry, Side, collect, names_of
from harness.judge.compare import PositionChange, compare
from harness.judge.over_none import of_cell, plain_of
from harness.measure.validity import MOSTLY, countable
from harness.report.figures import Figure
from harness.report.references import FORM, BadClaim, Claim, read
from harness.report.run_table import answer_values, figure_values, pair_values
from harness.results.files import read_text
from harness.results.records import RUN_FILE, CellRecord, load
from harness.text.console import complain, show
from harness.text.render import visible

Values = tuple[float | None, ...]
"""Of a field: one, the two ends of an interval, or before, after and the change between them."""

_COUNTED = {
    "loops": ("loops", MOSTLY),
    "other_language": ("other-language",),
    "left_out": ("left-out",),
}
"""Findings that say how many answers they are about, and their codes."""
_PAIRED, _STARTS = (
    tuple(f"{over}_speed_up{end}" for end in ("", "_low", "_high")) for over in ("paired", "starts")
)
_SHARE = re.compile(r"pos_\d+(_low|_high)|(pos|conditional)_\d+|token_acceptance|change|ci")
_POSITION = re.compile(r"pos_\d+(_low|_high)|(pos|conditional)_\d+")
_UNITS = {"x": "speed_up", "×": "speed_up", "ms": "_ms", "tok/s": "tok_s"}
"""A unit, and how the name of a field in it ends."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the command's parser its options."""
    parser.description = (
        "Compare every figure of a Markdown file that has a reference, like "
        f"tau 1.34{FORM}, with the record, at the precision that is printed. "
        "Exit code: 0 all hold, 1 one does not, 2 invalid input or nothing to check."
    )
    add = parser.add_argument
    add("file", metavar="FILE", type=Path, help="a Markdown file")
    what = "runs, folders of baselines or cells, or cell files, that the references name"
    add("runs", metavar="RUN", nargs="+", type=Path, help=what)
    add("--allow-none", action="store_true", help="accept a file without any reference")


def run(options: argparse.Namespace) -> int:
    """Check one file; the exit code."""
    found = read(read_text(options.file), name=str(options.file))
    records = _Records([_side(path) for path in options.runs])
    unreadable = list(found.unreadable)
    wrong: list[str] = []
    checked = 0
    for claim in found.claims:
        try:
            results = _checked(claim, records)
        except BadInput as error:
            unreadable.append((claim.line, error.shown))
        else:
            checked += len(results)
            wrong += [f"{options.file}:{claim.line}: {text}" for text in results if text]
    for line, text in sorted(unreadable):
        complain(f"{options.file}:{line}: {text}")
    code_note = f" ({found.in_code} in code left alone)" if found.in_code else ""
    if not checked and not unreadable and not options.allow_none:
        raise BadClaim(
            f"{options.file} holds no figure with a reference{code_note}, so nothing was checked: write "
            "references (docs/claims.md), or say --allow-none"
        )
    held = "" if unreadable and not checked else ", all hold"
    verdict = f"{len(wrong)} of {checked} not as recorded" if wrong else f"{checked} checked{held}"
    unread = f"; references that cannot be checked: {len(unreadable)}" if unreadable else ""
    lines = [*wrong, f"{options.file}: {verdict}{unread}{code_note}"]
    show("".join(visible(line) + "\n" for line in lines))
    return 2 if unreadable else 1 if wrong else 0


def _side(path: Path) -> Side:
    """The cells at a path; a run of starts alone has none."""
    if (path / RUN_FILE).is_file() and any(path.glob("speed/*.json")):
        with contextlib.suppress(BadInput):
            return collect(path)
        return Side(name=path.resolve().name, path=path, entries=())
    return collect(path)


def _checked(claim: Claim, records: _Records) -> list[str]:
    """For each figure what is wrong with it, or nothing.

    Raises:
        BadInput: the reference does not say what to compare with.
    """
    values = [(field, value) for field in claim.fields for value in records.values(claim.keys, field)]
    figures = claim.figures
    if claim.in_table:
        # A cell may leave out what stands behind: an interval that is a point, the change of nothing.
        if not figures:
            figures = (Figure(text="nothing", value=None, digits=0, unit=""),)
        if len(figures) > len(values):
            raise BadClaim(
                f"the column of {_name(claim.fields[0])} is said to hold {len(values)} figures, "
                f"but {len(figures)} stand there: leave out those that it does not have"
            )
    elif len(figures) == 1 and figures[0].value is None:
        values = values[:1]  # one dash for an interval that there is not
    elif len(figures) < len(values):
        raise BadClaim(
            f"{_name(claim.fields[0])} is {len(values)} figures, but {len(figures)} stand there: write all"
        )
    else:
        figures = figures[-len(values) :]
    percent = figures[-1].unit == "%"  # of `-15.2..-8.1 %` the sign is both figures'
    where = f"{claim.keys['cell']} in {claim.keys['run']}"
    return [
        _wrong(figure, _name(field), where, value, percent=field.endswith("%") or percent)
        for figure, (field, value) in zip(figures, values, strict=False)
    ]


def _name(field: str) -> str:
    return field.removesuffix("%")


def _wrong(figure: Figure, field: str, where: str, value: float | None, *, percent: bool) -> str:
    """What stands there and what the record says; nothing where they agree."""
    unit, share = figure.unit, bool(_SHARE.fullmatch(field))
    if (unit == "%" and not share) or (unit in _UNITS and not field.endswith(_UNITS[unit])):
        return f"{field} of {where} is not in {unit}, but {figure.text} {unit} stands there"
    percent = share and (percent or unit == "%")
    exact = None if value is None else Decimal(value) * (100 if percent else 1)
    sign = " %" if percent else ""
    there = f"{field} of {where}: {figure.text}{sign if figure.value is not None else ''} stands there, "
    if exact is None and figure.value is None:
        return ""
    if exact is None:
        return there + "it was not measured"
    if figure.value is None:
        return f"{there}the record says {float(exact):.6g}{sign}"
    half = Decimal(1).scaleb(-figure.digits) / 2
    # Half a unit of the last digit, and what binary fractions are off by: of 0.125 both 0.12 and 0.13 hold.
    if abs(figure.value - exact) <= half + abs(exact) * Decimal("1e-12"):
        return ""
    return f"{there}the record says {exact:.{figure.digits}f}{sign} ({float(exact):.6g})"


class _Records:
    """What the runs hold, by name."""

    def __init__(self, sides: Sequence[Side]) -> None:
        self._sides = sides
        self._met: dict[tuple[Entry, Entry | None, tuple[str, ...]], dict[str, Values]] = {}
        self._entries = {entry.path.resolve(): entry for side in sides for entry in side.entries}

    def values(self, keys: Mapping[str, str], field: str) -> Values:
        """What a field of a cell is.

        Raises:
            BadInput: there is no such run, cell or field.
        """
        name = _name(field)
        for key in ("run", "cell"):
            if key not in keys:
                raise BadClaim(f"the reference to {name} names no {key}: add {key}=")
        if name in _STARTS:
            return (self._over_starts(keys["run"], keys["cell"])[_STARTS.index(name)],)
        entry = self._entry(keys["run"], keys["cell"])
        base = self._entry(keys["base"], keys.get("base_cell", keys["cell"])) if "base" in keys else None
        asked = (entry, base, tuple(part for part in keys.get("across", "").split(",") if part))
        if asked not in self._met:
            self._met[asked] = _pair_figures(base, entry, asked[2]) if base else _figures(entry)
        known = self._met[asked]
        if name not in known and not _POSITION.fullmatch(name):
            comparison = "" if base else " (with base=RUN also what a comparison says)"
            raise BadClaim(f"there is no field {name}; there are: {', '.join(known)}{comparison}")
        return known.get(name, (None,))  # a position beyond its k was not measured

    def _over_starts(self, run: str, cell: str) -> tuple[float | None, ...]:
        parts = tuple(part for part in Path(run).parts if part not in ("/", ".."))
        found = [
            one
            for side in self._sides if (side.path / RUN_FILE).is_file()
            for one in starts_of(side.path.resolve())
            if str(one.cell) == cell and parts and _within(parts, side.path.resolve() / one.suite)
        ]  # fmt: skip
        if len(found) != 1:
            raise BadClaim(f"{run} holds {len(found)} cells {cell} over starts: name a run that holds one")
        one = found[0]
        return (one.gain, *one.ends) if one.sound else (None, None, None)

    def _entry(self, run: str, cell: str) -> Entry:
        parts = tuple(part for part in Path(run).parts if part not in ("/", ".."))
        of_run = [e for path, e in self._entries.items() if _within(parts, path) or _within(parts, e.path)]
        if not parts or not of_run:
            names = ", ".join(side.name for side in self._sides)
            raise BadClaim(f"no run given is named {run}; there are: {names}")
        found = [e for e in of_run if str(e.cell) == cell]
        if not found:
            raise BadClaim(f"{run} holds no cell {cell}; there are: {names_of(of_run)}")
        if len(found) > 1:
            paths = " and ".join(str(e.path) for e in found[:2])
            raise BadClaim(f"{run} has {len(found)} cells named {cell} ({paths}): write more of the path")
        return found[0]


def _within(parts: tuple[str, ...], path: Path) -> bool:
    """The parts follow one another in the path."""
    whole = path.absolute().parts
    return any(whole[i : i + len(parts)] == parts for i in range(len(whole) - len(parts) + 1))


def _alone(entry: Entry) -> Side:
    return Side(name=str(entry.path), path=entry.path, entries=(entry,))


def _figures(entry: Entry) -> dict[str, Values]:
    """Every figure that the tables of a run show of a cell."""
    figures, record = compare([_alone(entry)]).rows[0].figures, load(entry.path, CellRecord)
    known = {
        "asked": len({r.prompt for r in record.prompts}),
        **answer_values(record.prompts if record.valid else ()),
        **figure_values(figures),
        "answers": sum(countable(r) for r in record.prompts),
    }
    paired = of_cell(entry.path.name, record, plain_of(entry) if record.cell.k else None)
    gain = (paired.gain, *paired.ends) if paired.sound else (None, None, None)
    known["tokens_per_step_low"], known["tokens_per_step_high"] = paired.interval or (None, None)
    known |= dict(zip(_PAIRED, gain, strict=True))
    for i, ends in enumerate(figures.acceptance_ci):
        known[f"pos_{i}_low"], known[f"pos_{i}_high"] = ends or (None, None)
    for name, codes in _COUNTED.items():
        known[name] = sum(int(f.values.get("count", 0)) for f in record.findings if f.code in codes)
    return {name: (value,) for name, value in known.items()}


def _pair_figures(base: Entry, new: Entry, across: tuple[str, ...]) -> dict[str, Values]:
    """Every figure that a comparison shows of two cells; None for those that may not stand side by side."""
    row = compare([_alone(base), _alone(new)], across=across).rows[0]
    a = row.others[0]
    assert a is not None  # noqa: S101 - two single files belong together
    known = pair_values(row, a)
    values: dict[str, Values] = {name: (value,) for name, value in known.items()}
    values["ci"] = known["ci"] or (None, None)
    return values | {f"conditional_{p.index}": (p.old, p.new, _change(p)) for p in a.positions}


def _change(p: PositionChange) -> float | None:
    return None if p.old is None or p.new is None else p.new - p.old
