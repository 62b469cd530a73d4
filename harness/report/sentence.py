"""The sentence of a run or a comparison: how many cells came out how, and which of them came out badly."""

from __future__ import annotations

from collections.abc import Sequence

from harness.judge.compare import CellComparison, Row
from harness.text.numbers import numbered

MARKS = {"identical": "=", "ok": "✓", "improved": "▲", "regressed": "▼", "inconclusive": "?", "invalid": "✗"}

KINDS = {
    "measured": ("measured", ""),
    "unchecked": ("skipped", ""),
    "identical": ("unchanged", MARKS["identical"]),
    "ok": ("no worse", MARKS["ok"]),
    "fine": ("fine", MARKS["ok"]),
    "noteworthy": ("fine with a warning", MARKS["ok"]),
    "improved": ("better", MARKS["improved"]),
    "alone": ("on one side only", MARKS["inconclusive"]),
    "inconclusive": ("can't tell", MARKS["inconclusive"]),
    "unsure": ("unsure", MARKS["inconclusive"]),
    "regressed": ("worse", MARKS["regressed"]),
    "failed": ("failed", MARKS["invalid"]),
    "refused": ("not comparable", MARKS["invalid"]),
    "invalid": ("invalid", MARKS["invalid"]),
    "missing": ("not measured", MARKS["invalid"]),
}
"""Words and mark of what may become of a cell, from best to worst. The keys are the kinds of verdicts and
outcomes, and `measured` (not judged), `alone` (no partner), `refused` (may not be compared), `missing`."""
_BAD = (MARKS["regressed"], MARKS["invalid"])
_NAMED = 3
"""Cells that a sentence names of each kind that is bad."""


def became(row: Row, a: CellComparison, *, judged: bool) -> str:
    """What became of a cell that was compared with another: a key of `KINDS`."""
    if a.verdict.kind == "invalid":
        return "invalid" if row.figures.invalid or a.figures.invalid else "refused"
    return a.verdict.kind if judged else "measured"


def sentence(found: Sequence[tuple[str, str]], *, of: str = "cell") -> str:
    """`▼ 16 cells: 15 unchanged, 1 worse: chat-en-instruct-ngram-k4`; empty where there is no cell.

    Args:
        found: each cell's name, and what became of it: a key of `KINDS`.
        of: what is counted.
    """
    text, worst, apart = numbered(len(found), of), "", ": "
    for kind, (words, mark) in KINDS.items():
        if names := [name for name, became in found if became == kind]:
            worst, bad = mark or worst, mark in _BAD
            text += f"{apart}{len(names)} {words}{_named(names) if bad else ''}"
            apart = "; " if bad else ", "
    return f"{worst} {text}".lstrip() if found else ""


def _named(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return f": {', '.join(names[:_NAMED])}" + (f" and {more} more" if more > 0 else "")
