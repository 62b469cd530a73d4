"""What to run: the drafter that evidence supports for a use, or why it supports none."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from harness.judge.over_none import Evidence
from harness.results.grouping import grouped
from harness.stats.blocks import MARGIN
from harness.text.render import by_text

LONG = 500
"""Answers that may have more tokens are long."""
ONE_START = "from one start each: a description, no claim"
_SAID = frozenset({"loops", "engine-mended", "engine-faulty", "engine-patched", "dynamic-k"})
"""Findings that a reader of a recommendation must know."""
Kind = Literal["drafter", "none", "nothing", "not measured"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """What the evidence supports for one use."""

    use: str
    kind: Kind
    """A drafter, no drafter, nothing that can be said, or nothing measured."""
    why: str
    evidence: tuple[Evidence, ...] = ()
    chosen: Evidence | None = None
    """One of the evidence of the drafter that is chosen."""
    claimed: bool = False
    """Every place of it was measured over starts."""
    notes: tuple[str, ...] = ()


def uses(found: Sequence[Evidence]) -> Iterator[tuple[str, list[Evidence]]]:
    """The uses, and the evidence that bears on each: of the chat endpoint, where it was measured."""
    chat = [e for e in found if e.cell.endpoint == "chat"] or list(found)
    scheduled, chat = [e for e in chat if e.schedule], [e for e in chat if not e.schedule]
    yield "one user chatting", [e for e in chat if e.in_flight == 1]
    yield "long answers", [e for e in chat if (e.record.identity.max_tokens or 0) > LONG]
    levels = sorted({e.in_flight for e in chat} - {1})
    if not levels:
        yield "many at once", []
    for level in levels:
        yield f"many at once: {level} in flight", [e for e in chat if e.in_flight == level]
    if scheduled:
        at = [e.in_flight for e in scheduled]
        yield f"a load that changes, {min(at)} to {max(at)} in flight", scheduled
    for language in sorted({e.cell.language for e in chat}):
        own = [e for e in chat if e.cell.language == language]
        fewest = min(e.in_flight for e in own)
        yield f"language {language}, {fewest} in flight", [e for e in own if e.in_flight == fewest]


def choose(use: str, evidence: Collection[Evidence]) -> Choice:
    """What the evidence supports.

    A drafter must pay in every place of the use; of several the one whose worst place gains most. That none
    pays is said only where every candidate is sound, and loses in every place; and of schedules never, since
    a fixed k may pay.
    """
    rows = tuple(evidence)
    if not rows:
        return Choice(use=use, kind="not measured", why="not measured")
    places = {row.place for row in rows}
    strongest = {
        name: _strongest(row for row in rows if row.name == name)
        for name in dict.fromkeys(e.name for e in rows)
    }
    whole = {
        name: own for name, own in strongest.items()
        if own and {row.place for row in own} == places and all(row.sound for row in own)
    }  # fmt: skip
    paying = {name: own for name, own in whole.items() if all(row.pays for row in own)}
    flaws = _by_name((row.name, row.flaw) for row in rows if row.flaw)
    if paying:
        claimed = {name: all(row.starts for row in own) for name, own in paying.items()}
        best = max(paying, key=lambda name: (claimed[name], min(row.gain for row in paying[name])))
        own = paying[best]
        return Choice(
            use=use, kind="drafter", why=_praise(best, paying, claimed=claimed[best]),
            evidence=rows, chosen=own[0], claimed=claimed[best], notes=(*flaws, *_notes(own)),
        )  # fmt: skip
    fixed = not any(row.schedule for row in rows)
    if fixed and len(whole) == len(strongest) and all(row.loses for own in whole.values() for row in own):
        claimed_all = all(row.starts for own in whole.values() for row in own)
        said = f"every drafter that was measured is slower than none: {', '.join(whole)}"
        said += "" if claimed_all else f"; {ONE_START}"
        return Choice(
            use=use, kind="none", why=said, evidence=rows, chosen=rows[0], claimed=claimed_all,
            notes=_notes(rows),
        )  # fmt: skip
    return Choice(
        use=use, kind="nothing", why="; ".join(_open(strongest, places)) or "no evidence is sound",
        evidence=rows, notes=flaws,
    )  # fmt: skip


def _strongest(rows: Iterable[Evidence]) -> list[Evidence]:
    """In each place the evidence over starts, where there is some; else all."""
    return [
        row
        for own in grouped(rows, lambda row: row.place).values()
        for row in ([r for r in own if r.starts and r.sound] or [r for r in own if r.sound] or own)
    ]


def _praise(best: str, paying: Mapping[str, Sequence[Evidence]], *, claimed: bool) -> str:
    resting = {row.in_flight for row in paying[best] if row.rests}
    count = len({row.place for row in paying[best] if not row.rests})
    said = f"{best} is faster than none" + f" in each of {count} places" * (count > 1)
    if resting:
        said += f", and no slower where it drafts nothing ({', '.join(map(str, sorted(resting)))} in flight)"
    worst = min(row.gain for row in paying[best])
    near = [n for n, own in paying.items() if n != best and min(row.ends[1] for row in own) >= worst]
    said += f"; not told apart from it: {', '.join(near)}" * bool(near)
    if len(paying) > 1:
        said += f"; the best of {len(paying)} that pay, so its figures are somewhat too high"
    return said if claimed else f"{said}; {ONE_START}"


def _open(strongest: Mapping[str, Sequence[Evidence]], places: Collection[Any]) -> tuple[str, ...]:
    """Why nothing is recommended, each reason with the drafters that it holds for."""
    return _by_name(
        (name, _reason(own, places)) for name, own in strongest.items() if any(row.sound for row in own)
    )


def _reason(own: Sequence[Evidence], places: Collection[Any]) -> str:
    if missing := len(places) - len({row.place for row in own if row.sound}):
        return f"no evidence in {missing} of {len(places)} places"
    if any(row.pays for row in own) and any(row.loses for row in own):
        return "faster than none in some places, slower in others"
    if all(row.loses for row in own):
        return "slower than none"
    if all(row.starts for row in own):
        return "not settled whether it pays"
    return f"not settled whether it pays by more than the {MARGIN:.0%} that starts may differ by"


def _notes(rows: Sequence[Evidence]) -> tuple[str, ...]:
    """What limits the reading of evidence."""
    said = [
        (row.name, f.text)
        for row in rows
        for f in getattr(row.record, "findings", ())
        if f.code in _SAID and not f.hard
    ]
    said += [(row.name, text) for row in rows for text in row.paths]
    return _by_name(said)


def _by_name(said: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Each text once, after the drafters that it is said of."""
    return tuple(f"{', '.join(dict.fromkeys(who))}: {text}" for text, who in by_text(said).items())
