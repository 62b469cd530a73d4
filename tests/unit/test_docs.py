"""The docs name packages, files and pages that are there, and leave out no package."""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cli import main
from harness.suites.runner import Suite

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
OURS = ("harness", "training", "fixtures", "bench_suites", "tests", "docs", "baselines")


def lines(page: Path) -> Iterator[tuple[str, str]]:
    """Where each line stands and what it says; output and examples in fences are left out."""
    fenced = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        fenced ^= line.startswith("```")
        if not fenced:
            yield f"{page.relative_to(ROOT)}:{number}", line


def anchors(page: Path) -> set[str]:
    """The headings of a page as links write them."""
    titles = [line.lstrip("# ") for _, line in lines(page) if line.startswith("#")]
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_architecture_lists_every_package_and_no_other() -> None:
    table = [line for _, line in lines(ROOT / "docs" / "architecture.md") if line.startswith("| `")]
    listed = [
        name for line in table for name in re.findall(r"`((?:harness|training)/\w+/)`", line.split("|")[1])
    ]
    there = [
        f"{top}/{init.parent.name}/"
        for top in ("harness", "training")
        for init in (ROOT / top).glob("*/__init__.py")
    ]
    assert sorted(listed) == sorted(there)


def test_architecture_lists_the_harness_in_the_order_that_lint_checks() -> None:
    rows = [line for _, line in lines(ROOT / "docs" / "architecture.md") if line.startswith("| `harness/")]
    listed = [re.findall(r"`harness/(\w+)", row)[0] for row in rows if not row.startswith("| `harness/` ")]
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    assert listed == [name for layer in reversed(layers) for name in reversed(layer.split(" : "))]


def test_paths_in_the_docs_are_there() -> None:
    missing = [
        f"{where}: {path}"
        for page in PAGES
        for where, line in lines(page)
        for path in re.findall(rf"(?<![\w./-])((?:{'|'.join(OURS)})/[\w./-]*\w/?)", line)
        if not (ROOT / path).exists()
    ]
    assert missing == []


def test_links_lead_somewhere() -> None:
    dead = []
    for page in PAGES:
        for where, line in lines(page):
            for name, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)", line):
                target = page.parent / name if name else page
                if not target.exists() or (anchor and anchor not in anchors(target)):
                    dead.append(f"{where}: {name}#{anchor}")
    assert dead == []


def test_the_suite_that_the_architecture_page_writes_is_one(
    monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    pytestconfig.addinivalue_line("markers", "cells: of draftgate's plugin, which our own tests do without")
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    question, answer = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    drafts = types.ModuleType("harness.suites.drafts")
    exec(answer, drafts.__dict__)  # noqa: S102 - our own page
    monkeypatch.setitem(sys.modules, drafts.__name__, drafts)
    monkeypatch.setattr(sys.modules["harness.suites"], "drafts", drafts, raising=False)
    asked: dict[str, object] = {}
    exec(question, asked)  # noqa: S102 - our own page
    assert isinstance(drafts.SUITE, Suite)
    asked["test_drafts"]("a cell", lambda *said: asked.update(said=said))  # type: ignore[operator]
    assert asked["said"] == (drafts.drafts_often, "a cell")


def test_the_readme_shows_what_compare_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    monkeypatch.chdir(ROOT)
    for command in re.findall(r"^    (cd .*|draftgate compare (?!results/).*)$", readme, re.MULTILINE):
        program, *arguments = shlex.split(command, comments=True)
        if program == "cd":
            monkeypatch.chdir(*arguments)
        else:
            main(arguments)
    said = capsys.readouterr().out.splitlines()
    shown = re.findall(r"^(?:[▲▼]|note:) .*$", readme, re.MULTILINE)
    assert len(shown) >= 6
    assert [line for line in shown if line not in said] == []
