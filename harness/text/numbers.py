"""How a figure prints: digits, sign, percent, and an em dash for what was not measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

DASH = "—"
Ends = Sequence[float] | None
"""Of an interval; None where there is none."""
_LISTED = 8
"""Names in a sentence."""


def number(value: float | None, digits: int = 2, *, scale: float = 1) -> str:
    """`1.81`; an em dash for None."""
    return DASH if value is None else f"{value * scale:.{digits}f}"


def share(value: float | None) -> str:
    """A share in percent, without the unit: `57.0`; an em dash for None."""
    return number(value, 1, scale=100)


def signed(change: float | None) -> str:
    """A change in percent, with its sign and without the unit: `+1.2`; never minus zero; a dash for None."""
    if change is None:
        return DASH
    shown = f"{100 * change:+.1f}"
    return "0.0" if shown in ("+0.0", "-0.0") else shown


def percent(change: float) -> str:
    """`signed` with its unit: `+1.2 %`."""
    return f"{signed(change)} %"


def interval(ends: Ends, show: Callable[[float], str] = number) -> str:
    """The two ends of an interval: `2.01..2.21`; an em dash for None."""
    return f"{show(ends[0])}..{show(ends[1])}" if ends else DASH


def signed_interval(ends: Ends) -> str:
    """The same of changes, as `signed`: `-1.0..+2.3`."""
    return interval(ends, signed)


def share_interval(ends: Ends) -> str:
    """The same of shares in percent, as `share`: `54.0..59.9`."""
    return interval(ends, share)


def ranged(value: float | None, ends: Ends, show: Callable[[float | None], str] = number) -> str:
    """A figure and its interval, where it has one: `2.11 (2.01..2.21)`."""
    return show(value) + (f" ({interval(ends, show)})" if ends and value is not None else "")


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - _LISTED
    return ", ".join([*names[:_LISTED], *([f"and {more} more"] if more > 0 else [])])


def duration(seconds: float) -> str:
    """`40 s`, `5 min`, `2.5 h`."""
    minute, hour = 60, 3600
    if seconds < 2 * minute:
        return f"{seconds:.0f} s"
    return f"{seconds / minute:.0f} min" if seconds < 2 * hour else f"{seconds / hour:.1f} h"


def numbered(n: int, what: str) -> str:
    """`1 cell`, `2 cells`."""
    return f"{n:,} {what}{'s' * (n != 1)}"
