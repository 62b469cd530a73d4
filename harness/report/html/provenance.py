"""Where the runs of a page come from: every field of their records, and the commands that made them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from harness.report.html.given import Facts, Given
from harness.report.html.sides import Compared, Shown

_LONG = 1000
"""Characters of a value that is shown whole."""
_MANY = 40
"""Values of a field that are shown."""
_GROUPS = {
    "identity": "must be the same",
    "subject": "what is compared",
    "environment": "machine",
    "provenance": "program",
}


def provenance(found: Sequence[Compared]) -> Iterator[dict[str, Any]]:
    """Every field with the values that each side's cells have, and whether it differs within a pair."""
    sides: list[tuple[str, list[Facts]]] = []
    differ: set[tuple[str, str]] = set()
    for one in found:
        own = one.run.facts
        if one.base and one.comparison:
            both = [
                (one.base.facts[row.figures.entry.path], own[a.figures.entry.path]) for row, a in one.pairs
            ]
            differ |= {f for old, new in both for f in old.keys() | new.keys() if old.get(f) != new.get(f)}
            if one.base.name not in dict(sides):
                sides.append((one.base.name, [old for old, _ in both]))
        if own and one.run.name not in dict(sides):
            sides.append((one.run.name, list(own.values())))
    fields = sorted(
        {field for _, facts in sides for own in facts for field in own},
        key=lambda field: (list(_GROUPS).index(field[0]), field[1]),
    )
    for group, field in fields:
        values = [
            few(dict.fromkeys(own[group, field] for own in facts if (group, field) in own))
            for _, facts in sides
        ]
        if max((len(value) for side in values for value in side), default=0) > _LONG:
            values = _parts(values)
        yield {
            "group": _GROUPS[group], "field": field, "differs": (group, field) in differ,
            "sides": [name for name, _ in sides], "values": values,
        }  # fmt: skip


def few(values: Iterable[str]) -> list[str]:
    """The first values, and how many more there are."""
    every = list(values)
    more = [f"and {len(every) - _MANY} more"] * (len(every) > _MANY)
    return [*every[:_MANY], *more]


def _parts(sides: Sequence[Sequence[str]]) -> list[list[str]]:
    """Of values of thousands of characters, the parts that some lack, as many as one may read."""
    parts = [dict.fromkeys(part for value in side for part in value.split(", ")) for side in sides]
    split = [set(value.split(", ")) for side in sides for value in side]
    common = set.intersection(*split)
    shown = []
    for own in parts:
        part = ", ".join(p for p in own if p not in common)
        more = f"{len(common)} parts that all have" if common else ""
        shown.append([part if len(part) <= _LONG else f"{part[:_LONG]}… ({len(part)} characters)", more])
    return [[text for text in side if text] for side in shown]


def commands(shown: Sequence[Shown], baseline: Given | None, command: str) -> list[dict[str, str]]:
    """What made the runs, and what makes the page."""
    given = [*([baseline] if baseline else []), *(one.given for one in shown)]
    made = [{"of": one.name, "command": line} for one in given for line in one.commands]
    return [*made, {"of": "this page", "command": command}]
