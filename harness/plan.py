"""What is about to be measured, said before the first server starts."""

from __future__ import annotations

from harness.config.cells import Cell
from harness.run import Run


def plan(run: Run, cells: list[Cell]) -> list[str]:
    """What is about to be measured, and how long that takes by the stack's own estimate.

    Raises:
        BadInput: a prompt file is missing or unreadable.
    """
    if not cells:
        return []
    servers = list(dict.fromkeys(cell.spec for cell in cells))
    counts = sorted({len(run.prompts(cell)) for cell in cells})
    profile = cells[0].profile
    lines = [
        f"draftgate: {len(cells)} cells on {len(servers)} servers ({', '.join(s.label for s in servers)}), "
        f"{'/'.join(map(str, counts))} prompts x {profile.max_tokens} tokens"
        + (f" x {run.options.repeats}" if run.options.repeats > 1 else "")
        + f", T={profile.sampling.temperature:g}, concurrency {profile.concurrency}; "
        f"about {duration(run.estimate_s(cells))}",
    ]
    for cell in cells:
        run.warmups(cell)
    return lines


def speed_plan(run: Run, cells: list[Cell]) -> list[str]:
    """The same for a suite that starts servers of its own.

    Raises:
        BadInput: a prompt file is missing or unreadable.
    """
    starts = 2 * run.options.pairs * len(cells)
    seconds = 2 * run.options.pairs * sum(run.estimate_s([cell]) for cell in cells)
    return (
        [f"draftgate: {len(cells)} speed-ups, {starts} server starts; about {duration(seconds)}"]
        if cells
        else []
    )


def duration(seconds: float) -> str:
    """`40 s`, `5 min`, `2.5 h`."""
    minute, hour = 60, 3600
    if seconds < 2 * minute:
        return f"{seconds:.0f} s"
    return f"{seconds / minute:.0f} min" if seconds < 2 * hour else f"{seconds / hour:.1f} h"
