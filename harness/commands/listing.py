"""The command `draftgate list`: what comes with draftgate, or with a stack, by name."""

from __future__ import annotations

import argparse
import ast
import json
import sys
from collections.abc import Callable, Iterator

from harness.config.prompt_files import read
from harness.config.shipped import DATA, SUITES
from harness.config.stack import default_stack, find_stack, load_stack
from harness.config.toml import Document
from harness.results.files import json_lines
from harness.results.names import BASE, REFERENCE
from harness.text.console import show, width_of
from harness.text.redaction import without_home, without_secrets
from harness.text.render import WIDE, Block, lay_out

_Rows = Iterator[tuple[str, ...]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the command's parser its options."""
    parser.description = (
        "List what can be named: stacks, or a stack's profiles, drafters, variants and prompts; suites."
    )
    parser.add_argument("what", choices=_LISTS, help=", ".join(_LISTS))
    parser.add_argument("--stack", metavar="NAME|PATH", default=default_stack(), help="whose (%(default)s)")
    parser.add_argument("--wide", action="store_true", help=WIDE)


def run(options: argparse.Namespace) -> int:
    """Print a line for each; the exit code.

    Raises:
        BadInput: there is no such stack, or a file cannot be used.
    """
    header, ranks, rows = _LISTS[options.what]
    table = Block(
        header=header, rows=tuple(rows(options.stack)), align="l" * len(header), ranks=ranks,
        prose=header[-1] in _PROSE,
    )  # fmt: skip
    show(lay_out([table], width_of(sys.stdout, wide=options.wide)) + "\n")
    return 0


def _stacks(_: str) -> _Rows:
    for path in sorted((DATA / "stacks").glob("*.toml")):
        stack = load_stack(path)
        yield path.stem, stack.target.model, ", ".join(stack.drafters), stack.about


def _profiles(stack: str) -> _Rows:
    loaded = load_stack(find_stack(stack, DATA / "stacks"))
    for name, p in loaded.profiles.items():
        yield (
            name, f"{p.prompts} x {p.max_tokens}", f"{p.sampling.temperature:g}", str(p.concurrency), p.cache,
            loaded.workload_of(name),
        )  # fmt: skip


def _drafters(stack: str) -> _Rows:
    path = find_stack(stack, DATA / "stacks")
    written = Document(path).tables["drafters"]
    for drafter in load_stack(path).drafters.values():
        selected = drafter.selected
        when = "always" if selected is True else "by name"
        if isinstance(selected, tuple):
            when = f"k {', '.join(map(str, selected))}; else by name"
        ks = ", ".join(str(k) for k in drafter.k if k)
        model = without_home(written[drafter.name].get("model", ""))
        yield drafter.name, drafter.method or "drafts nothing", ks, model, when


def _variants(stack: str) -> _Rows:
    loaded = load_stack(find_stack(stack, DATA / "stacks"))
    yield BASE, "the stack as it stands"
    for name, variant in loaded.setups.items():
        changes = without_secrets(variant.changes).items()
        said = "; ".join(f"{key} {json.dumps(value, default=str)}" for key, value in changes)
        yield f"{name} {REFERENCE}" if name in loaded.references else name, without_home(said)


def _prompts(stack: str) -> _Rows:
    for path in sorted((DATA / "prompts").glob("*/*.jsonl")):
        yield path.parent.name, path.stem, str(sum(1 for _ in json_lines(path)))
    for workload, source in load_stack(find_stack(stack, DATA / "stacks")).prompts.items():
        own = read(source)
        yield from ((workload, language, str(len(own.of(language)))) for language in own.languages)


def _suites(_: str) -> _Rows:
    for path in sorted((SUITES).glob("test_*.py")):
        about = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        yield path.name, about.partition("\n")[0]


_LISTS: dict[str, tuple[tuple[str, ...], tuple[int, ...], Callable[[str], _Rows]]] = {
    "stacks": (("stack", "target", "drafters", "about"), (0, 2, 1, 0), _stacks),
    "profiles": (("profile", "prompts x tokens", "T", "concurrency", "cache", "workload"), (), _profiles),
    "drafters": (("drafter", "method", "k", "model", "measured"), (0, 0, 0, 2, 1), _drafters),
    "variants": (("variant", "changes"), (), _variants),
    "prompts": (("workload", "language", "prompts"), (), _prompts),
    "suites": (("suite", "question"), (), _suites),
}  # fmt: skip
"""Of each: the columns, which of them a narrow terminal leaves out first, and the rows."""
_PROSE = ("about", "question", "changes")
