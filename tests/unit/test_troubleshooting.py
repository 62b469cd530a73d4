"""`docs/troubleshooting.md` knows every message that a user can meet, and none that there is not."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import training.errors
from harness import errors
from harness.commands.import_parts import BadImport
from harness.engine import metrics
from harness.measure import validity
from harness.plugin import DATA
from harness.report.references import BadClaim
from harness.suites.selfcheck import BrokenInstrument

ROOT = DATA.parent
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
FILES = sorted(file for name in ("harness", "fixtures", "training") for file in (ROOT / name).rglob("*.py"))

SAID = {"Refused", "UsageError", "GateWarning"}
"""Calls whose first argument a user reads, and that have no code."""
OWN = {"complain": 0, "fail": 0, "skip": 0}
"""Functions that make such a text of an argument, and which. Findings have entries by their codes."""
HOLE, BREAK = "\0", "\1"
"""What is filled in, and between two texts."""
LETTERS = 6
"""Of an entry at least, beside what is filled in."""


def text_of(node: ast.AST) -> str:
    """A string as it is written, with holes for what is filled in."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(map(text_of, parts))
        case ast.FormattedValue(value=ast.IfExp() as choice):
            return text_of(choice)
        case ast.BinOp(left=left, right=right):
            return text_of(left) + text_of(right)
        case ast.IfExp(body=body, orelse=other):
            return f"{text_of(body)}{HOLE}{text_of(other)}"
        case _:
            return HOLE


def letters(text: str) -> int:
    return len(re.findall("[a-zA-Z]", text))


class Sources:
    """All our files, read once."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, ast.Call]] = []
        """Where each call is, and what is called."""
        self.literals: set[str] = set()
        for file in FILES:
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                    self.calls.append((f"{file.relative_to(ROOT)}:{node.lineno}", name, node))
                elif isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp | ast.IfExp):
                    self.literals.add(text_of(node))

    def messages(self) -> Iterator[tuple[str, str]]:
        """Where it is raised, and the text of every message that is more than another's."""
        for where, name, node in self.calls:
            place = 0 if name in SAID else OWN.get(name)
            if place is not None and len(node.args) > place:
                text = text_of(node.args[place])
                if letters(text) > LETTERS + 1:  # else it says what another one is about, with its place
                    yield where, text

    def codes(self) -> list[str]:
        """The codes of all findings."""
        found = {"loops", validity.MOSTLY}  # one of them is chosen where it is given
        for _, name, node in self.calls:
            given = node.args[:1] if name in ("fatal", "note") else []
            given += [k.value for k in node.keywords if name == "Finding" and k.arg == "code"]
            found |= {a.value for a in given if isinstance(a, ast.Constant) and isinstance(a.value, str)}
        return sorted(found)

    def errors(self) -> Iterator[tuple[str, str | None]]:
        """Where an error of ours is made, and the code that is given or that its class has."""
        own = {kind.__name__: kind.code or None for kind in kinds(errors.DraftgateError)}
        known = {metrics.NotMetrics, BrokenInstrument, BadImport, BadClaim, training.errors.Stalled}
        assert known <= kinds(errors.DraftgateError)
        for where, name, node in self.calls:
            given = next((k.value for k in node.keywords if k.arg == "code"), None)
            if name in own and (given is None or isinstance(given, ast.Constant)):
                code = given.value if isinstance(given, ast.Constant) else own[name]
                yield where, str(code) if code else None
            elif name == "wrong":  # `Document.wrong` makes a BadInput
                yield where, str(given.value) if isinstance(given, ast.Constant) else "wrong-field"


@pytest.fixture(scope="module")
def sources() -> Sources:
    return Sources()


def entries_of(page: str) -> list[str]:
    """What stands in code in the first column of its tables, one for each message."""
    found = []
    for line in page.splitlines():
        cells = re.split(r"(?<!\\)\|", line)
        if line.startswith("| `") and len(cells) > 2:
            found += re.findall(r"`([^`]+)`", cells[1])
    return found


ENTRIES = entries_of(PAGE.partition("## Findings")[0] + PAGE.partition("## Training")[2])
CODES = [entry for entry in ENTRIES if re.fullmatch("[a-z]+(-[a-z]+)*", entry)]
PHRASES = [entry for entry in ENTRIES if entry not in CODES]


def pattern(entry: str) -> re.Pattern[str]:
    """The parts of an entry stand in a text in this order; `...` is whatever was filled in."""
    parts = [re.escape(part.strip()) for part in entry.split("...") if part.strip()]
    return re.compile(f"[^{BREAK}]*?".join(parts))


PATTERNS = {entry: pattern(entry) for entry in PHRASES}


def test_a_message_has_an_entry(sources: Sources) -> None:
    without = [
        f"{where}: {text.replace(HOLE, '...')}"
        for where, text in sources.messages()
        if not any(entry.search(text) for entry in PATTERNS.values())
    ]
    assert without == []


def test_an_entry_is_of_a_message_that_there_is(sources: Sources) -> None:
    known = BREAK.join(sources.literals)
    assert [entry for entry, found in PATTERNS.items() if not found.search(known)] == []


def test_no_entry_hides_what_has_none(sources: Sources) -> None:
    """By fitting everything."""
    said = [text for _, text in sources.messages()]
    assert len(said) > 5
    for entry, found in PATTERNS.items():
        assert letters(entry.replace("...", "")) >= LETTERS, entry
        assert sum(bool(found.search(text)) for text in said) <= 12, entry


def test_a_finding_has_an_entry(sources: Sources) -> None:
    measuring = (ROOT / "docs" / "measuring.md").read_text(encoding="utf-8")
    codes = sources.codes()
    assert len(codes) > 15
    assert [code for code in codes if f"| {code} |" not in measuring or f"`{code}`" not in PAGE] == []


def kinds(kind: type[errors.DraftgateError]) -> set[type[errors.DraftgateError]]:
    return {kind}.union(*map(kinds, kind.__subclasses__()))


def test_every_error_has_a_code(sources: Sources) -> None:
    assert [where for where, code in sources.errors() if not code] == []


def test_the_page_has_every_code_once_and_no_other(sources: Sources) -> None:
    assert sorted(CODES) == sorted({code for _, code in sources.errors() if code})


def test_a_code_is_shown_at_the_end_of_the_first_line() -> None:
    error = errors.ServerFailed("it died\nthe end of its log", code="engine-died")
    assert error.shown == "it died [engine-died]\nthe end of its log"
    assert errors.BadRecord("cut off").shown == "cut off [damaged-file]"


def test_paths_in_the_page_are_there() -> None:
    for name in re.findall(r"\[[^\]]+\]\(([\w./-]+)\)", PAGE):
        assert (Path(ROOT) / "docs" / name).exists(), name
