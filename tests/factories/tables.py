"""A table as a test compares it."""

from __future__ import annotations

from harness.text.render import Block


def texts_of(block: Block) -> tuple[list[str], list[list[str]]]:
    """Header and rows."""
    return list(block.header), [list(row) for row in block.rows]
