"""Which cells a command line selects, in which order, and whether -k took more than was meant."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest
from _pytest.mark.expression import Expression
from xdist.scheduler import LoadScopeScheduling

from harness.config.cells import Cell, ServerSpec
from harness.config.stack import Stack
from harness.run import Options
from harness.suites.runner import Suite
from harness.suites.selfcheck import MARKER
from harness.text.numbers import listed
from harness.text.validation import did_you_mean

_NO_SUITE = Suite(name="")
_WORD = re.compile(r"[\w.+-]+")
"""Of an expression that -k or -m takes."""
_NO_DRAFTER = "stack {stack} has no drafter but none, and this suite asks about drafters: add [drafters.NAME]"


def words_of(cell: Cell, stack: Stack) -> set[str]:
    """Its value on each axis that the stack has; in names nothing says `base`."""
    return {*cell.name.words, *([cell.name.variant] if "variants" in stack.axes else [])}


def marks_of(cell: Cell, stack: Stack) -> list[pytest.MarkDecorator]:
    """A marker for each axis value, so that -m is exact."""
    return [getattr(pytest.mark, word) for word in sorted(words_of(cell, stack))]


def markers(options: Options) -> list[str]:
    """Every word that marks a case of a run: the values of all axes."""
    stack = options.stack
    values = [word for words in stack.axes.values() for word in words]
    values += [language for own in options.own.values() for language in own.languages]
    values += [f"k{k}" for drafter in stack.drafters.values() for k in drafter.k if k]
    return list(dict.fromkeys(values))


def cell_of(item: pytest.Item) -> Cell | None:
    """The cell that a test case measures."""
    callspec = getattr(item, "callspec", None)
    cell = callspec.params.get("cell") if callspec else None
    return cell if isinstance(cell, Cell) else None


def cases_of(items: Iterable[pytest.Item]) -> list[tuple[str, Suite, Cell]]:
    """The id of each case that measures a cell, its suite and its cell."""
    return [(item.nodeid, suite_of(item), cell) for item in items if (cell := cell_of(item))]


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


def group_of(suite: Suite, cell: Cell) -> str:
    """What stays on one device: a server's cells, or those that a suite compares with each other."""
    return suite.name if suite.beside_none or suite.own_prompts else cell.spec.key


def by_server(
    servers: Mapping[str, str], seconds: Mapping[str, float], config: pytest.Config, log: Any
) -> LoadScopeScheduling:
    """A scheduler of pytest-xdist that gives all cells of a server to one worker, the longest first.

    pytest-xdist's own groups are written into the ids of the cases, which pytest 9.2 does not let it change.

    Args:
        servers: the server, or the suite, of each case that has one, by the case's id.
        seconds: how long each takes; what nobody knows is infinite.
        config: pytest's.
        log: of pytest-xdist.
    """

    class ByServer(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return servers.get(nodeid, nodeid)

        def _assign_work_unit(self, node: Any) -> None:
            longest = max(self.workqueue, key=lambda scope: seconds.get(scope, 0.0))
            self.workqueue.move_to_end(longest, last=False)
            super()._assign_work_unit(node)

    return ByServer(config, log)


def untaken(items: Sequence[pytest.Item], stack: Stack, words: str) -> tuple[list[pytest.Item], list[str]]:
    """The cases that their suites do not ask about; and what to say of a suite that was named for nothing.

    Args:
        items: all cases.
        stack: they are of.
        words: of the command line.

    Raises:
        BadInput: a suite cannot tell.
    """
    dropped, taken = [], set()
    said: dict[str, str] = {}
    for item in items:
        cell, suite = cell_of(item), suite_of(item)
        asks = cell is None or bool(cell.name.k) or not suite.drafting
        if cell is None or (asks and suite.takes(cell, stack, words)):
            taken.add(suite.name)
            continue
        dropped.append(item)
        if item.path.stem in words:
            nothing = suite.nothing or ("" if asks else _NO_DRAFTER)
            said.setdefault(suite.name, nothing.format(stack=stack.name))
    return dropped, [text for name, text in said.items() if text and name not in taken]


def only_by_name(item: pytest.Item, stack: Stack, *, arguments: Sequence[str], named: str) -> bool:
    """It is measured only when it is named, and this command line does not.

    Args:
        item: a case.
        stack: it is one of.
        arguments: of the command line.
        named: the expressions of -k and -m.
    """
    by_path = any(item.path.stem in argument for argument in arguments)
    if item.get_closest_marker(MARKER):
        return not by_path and MARKER not in named
    cell = cell_of(item)
    if cell is None:
        return False
    if suite_of(item).by_path and not by_path:
        return True
    selected, words = stack.drafters[cell.name.drafter].selected, [cell.name.drafter]
    if isinstance(selected, tuple):
        words.append(f"k{cell.name.k}")
        selected = cell.name.k in selected
    if selected:
        return False
    by_id = any(str(cell) in argument for argument in arguments)
    return not by_id and not any(_named(word, _WORD.findall(named), stack) for word in words)


def _named(value: str, words: Iterable[str], stack: Stack) -> bool:
    """Whether one of the words is an axis' value, or a part of a cell's name that holds it."""
    inside = re.compile(rf"(^|-){re.escape(value)}(-|$)")
    return any(inside.search(word) for word in words if word == value or word not in stack.drafters)


def cannot_attach(items: Iterable[pytest.Item]) -> str:
    """What to say of cases that no server that runs already can serve."""
    items = list(items)
    files = ", ".join(dict.fromkeys(item.path.name for item in items))
    if why := next((suite.one_server for suite in map(suite_of, items) if suite.one_server), ""):
        return f"--server-url: {files}: {why}; leave --server-url out"
    return (
        f"--server-url: the cases of {files} start servers of their own, with another k or other arguments, "
        "or one after the other, and no server that runs already can stand for these: leave --server-url out"
    )


def not_on_one_server(items: Sequence[pytest.Item], servers: Sequence[ServerSpec]) -> str:
    """Why no single server that runs already can serve these cases; empty where one can."""
    if own := [item for item in items if owns_servers(item)]:
        return cannot_attach(own)
    if len(servers) > 1:
        return (
            f"--server-url names one server, but the cells selected need {len(servers)} "
            f"({', '.join(spec.label for spec in servers)}): name one, like -k {servers[-1].label}"
        )
    return ""


def loose_words(keyword: str, items: Iterable[pytest.Item], stack: Stack) -> list[str]:
    """What to say where -k, which matches any part of a path or name, selected more than its words mean."""
    ks = {f"k{k}" for drafter in stack.drafters.values() for k in drafter.k if k}
    values = {*itertools.chain(*stack.axes.values()), *ks}
    words = [word for word in dict.fromkeys(_WORD.findall(keyword)) if word in values]
    if not words:
        return []
    meant, loose = Expression.compile(keyword), []
    for item in items:
        own = {mark.name for mark in item.iter_markers()}

        path = item.nodeid.lower()

        def matches(word: str, /, own: Any = own, path: Any = path, **_: Any) -> bool:
            return word in own if word in values else word.lower() in path

        if cell_of(item) and not meant.evaluate(matches):
            loose.append(cell_of(item))
    if not loose:
        return []
    by_folder = (f' ("b{word}ch_suites" has it)' for word in words if word in "bench_suites")
    hint = next(by_folder, f", like {loose[0]}")
    what = f"it also selected {len(loose)} cells that are not {keyword}{hint}"
    return [f'-k {keyword} matches any part of a path or name: {what}; -m "{keyword}" is exact']


def measures(option: Any) -> bool:
    """Whether pytest runs any case: it may be asked to list cases or fixtures, or to plan set-ups."""
    only = ("collectonly", "showfixtures", "show_fixtures_per_test", "setupplan")
    return not any(getattr(option, name, False) for name in only)


def not_asked_about(option: Any, taken: Sequence[pytest.Item], others: Sequence[pytest.Item]) -> str:
    """What to say where -k and -m select cells of the stack, but none that the suites named ask about.

    Args:
        option: pytest's, of the command line.
        taken: the cases that their suites ask about.
        others: those that they don't.

    Returns:
        Empty where -k and -m select none of these either.
    """
    for item in others:
        if any(item.path.stem in str(word) for word in option.file_or_dir) and _selected(item, option):
            suite = suite_of(item)
            asks = [str(cell_of(one)) for one in taken if suite_of(one).name == suite.name]
            asked = " ".join(filter(None, (option.keyword, option.markexpr)))
            what = f"{asked!r} selects cells like {cell_of(item)}, which the {suite.name} suite leaves out"
            return f"{what}: {suite.leaves_out or f'it asks about {listed(asks)}'}"
    return ""


def _selected(item: pytest.Item, option: Any) -> bool:
    """By -k and -m, as pytest would."""
    words, path = {mark.name for mark in item.iter_markers()}, item.nodeid.lower()
    by_mark, by_path = (lambda word, /, **_: word in words), (lambda word, /, **_: word.lower() in path)
    pairs = (option.markexpr, by_mark), (option.keyword, by_path)
    return all(Expression.compile(text).evaluate(matches) for text, matches in pairs if text)


def no_cell_matches(named: str, stack: Stack) -> str:
    """What to say where -k or -m left nothing: the values there are to choose from."""
    axes = stack.axes
    there = "; ".join(f"{axis} {', '.join(values)}" for axis, values in axes.items())
    known = [value for values in axes.values() for value in values]
    words = [word for word in _WORD.findall(named) if word not in {*known, "and", "or", "not"}]
    near = next((meant for word in words if (meant := did_you_mean(word, known))), "")
    return f"no cell matches {named!r}{near}: stack {stack.name} has {there} (other workloads by --workload)"
