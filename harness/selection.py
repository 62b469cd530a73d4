"""Which cells a command line selects, in which order, and whether -k took more than was meant."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import pytest

from harness.config.cells import Cell, ServerSpec
from harness.config.stack import Stack
from harness.suites.runner import Suite
from harness.suites.selfcheck import MARKER

_NO_SUITE = Suite(name="")


def marks_of(cell: Cell) -> list[pytest.MarkDecorator]:
    """A marker for each axis value, so that -m is exact; and the group that keeps a server on one worker."""
    name = cell.name
    values = [name.endpoint, name.language, name.workload, name.drafter, *([f"k{name.k}"] if name.k else [])]
    return [*(getattr(pytest.mark, value) for value in values), pytest.mark.xdist_group(cell.spec.key)]


def cell_of(item: pytest.Item) -> Cell | None:
    """The cell that a test case measures."""
    callspec = getattr(item, "callspec", None)
    cell = callspec.params.get("cell") if callspec else None
    return cell if isinstance(cell, Cell) else None


def suite_of(item: pytest.Item) -> Suite:
    """The suite that a test case belongs to; one without a name, where the case is of none."""
    marker = item.get_closest_marker("cells")
    return marker.args[0] if marker and marker.args else _NO_SUITE


def owns_servers(item: pytest.Item) -> bool:
    """Its suite starts servers of its own."""
    return suite_of(item).own_servers or item.get_closest_marker(MARKER) is not None


def server_rank(item: pytest.Item, order: Mapping[ServerSpec, int]) -> int:
    """Where its server stands in the order; what has none comes first."""
    cell = cell_of(item)
    return order[cell.spec] if cell else -1


def untaken(items: Sequence[pytest.Item], stack: Stack, words: str) -> tuple[list[pytest.Item], list[str]]:
    """The cases that their suites do not ask about; and what to say of a suite that was named for nothing.

    Args:
        items: all cases.
        stack: they are of.
        words: of the command line.

    Raises:
        BadInput: a suite cannot tell.
    """
    dropped, taken, said = [], set(), {}
    for item in items:
        cell, suite = cell_of(item), suite_of(item)
        if cell is None or suite.takes(cell, stack, words):
            taken.add(suite.name)
            continue
        dropped.append(item)
        if suite.nothing and item.path.name in words:
            said[suite.name] = suite.nothing.format(stack=stack.name)
    return dropped, [text for name, text in said.items() if name not in taken]


def only_by_name(item: pytest.Item, stack: Stack, *, arguments: Sequence[str], named: str) -> bool:
    """It is measured only when it is named, and this command line does not.

    Args:
        item: a case.
        stack: it is one of.
        arguments: of the command line.
        named: the expressions of -k and -m.
    """
    by_path = any(item.path.name in argument for argument in arguments)
    if item.get_closest_marker(MARKER):
        return not by_path and MARKER not in named
    cell = cell_of(item)
    if cell is None:
        return False
    if suite_of(item).by_path and not by_path:
        return True
    selected, words = stack.drafters[cell.name.drafter].selected, [re.escape(cell.name.drafter)]
    if isinstance(selected, tuple):
        words.append(f"k{cell.name.k}")
        selected = cell.name.k in selected
    if selected:
        return False
    by_id = any(str(cell) in argument for argument in arguments)
    return not by_id and re.search(rf"\b({'|'.join(words)})\b", named) is None


def loose_words(keyword: str, items: Iterable[pytest.Item], stack: Stack) -> list[str]:
    """What to say where -k, which matches any part of a path or name, selected more than its words mean."""
    cells = [cell for item in items if (cell := cell_of(item))]
    said = []
    values = {*stack.endpoints, *stack.languages, *stack.workloads, *stack.drafters}
    for word in re.findall(r"[\w.]+", keyword):
        if word not in values:
            continue
        loose = [c for c in cells if word not in c.name.model_dump().values()]
        if loose:
            hint = f' ("b{word}ch_suites" has it)' if word in "bench_suites" else f", like {loose[0]}"
            said.append(
                f"-k {word} matches any part of a path or name: it also selected {len(loose)} cells "
                f'that are not {word}{hint}; -m "{keyword}" is exact'
            )
    return said


def no_cell_matches(named: str, stack: Stack) -> str:
    """What to say where -k or -m left nothing: the values there are to choose from."""
    axes = {
        "endpoints": stack.endpoints,
        "languages": stack.languages,
        "workloads": stack.workloads,
        "drafters": tuple(stack.drafters),
    }
    there = "; ".join(f"{axis} {', '.join(values)}" for axis, values in axes.items())
    return f"no cell matches {named!r}: stack {stack.name} has {there} (other workloads by --workload)"
