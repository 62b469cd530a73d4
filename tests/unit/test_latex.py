"""A comparison as LaTeX: text that means nothing to TeX, and tables that it can set."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from harness.cli import main
from harness.text.latex import as_latex, latex
from harness.text.render import Block, Document
from tests.factories.runs import cell, write_run

HOSTILE = "50 %_&#~^\\$x$ {a} [b] *c <d>|`e` f--g 中文 -1.5..-0.5 → ▼¹²"
PAGE = (
    r"\documentclass{article}\usepackage{amssymb,booktabs,graphicx}"
    r"\begin{document}\input{t.tex}\end{document}"
)
ENGINES = [name for name in ("pdflatex", "tectonic") if shutil.which(name)]


def page(*cells: str, title: str = "title", rows: int = 1) -> Document:
    block = Block(header=tuple("abcdefgh"[: len(cells)]), rows=(cells,) * rows, align="l" * len(cells))
    return Document(
        title=title, above=(), blocks=(block,), footnotes=(title,), notes=(title,), sentences=(), legend=()
    )


def without_commands(text: str) -> str:
    """What TeX sets: nothing of commands, comments and their braces."""
    text = re.sub(r"(?<!\\)%.*", "", text)
    return re.sub(r"\\[a-zA-Z]+\*?|\\[%_&#${}]|\$[^$]*\$", "", text)


def balanced(text: str) -> bool:
    """Braces, mathematics and environments open and close, and only what escapes holds special characters."""
    assert len(re.findall(r"(?<!\\)\$", text)) % 2 == 0
    depth = 0
    for c in without_commands(text):
        depth += (c == "{") - (c == "}")
        assert depth >= 0
        assert c not in "#^_~"
    stack: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    return depth == 0 and not stack


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("5 % of a_b & #1", r"5 \% of a\_b \& \#1"),
        ("~ ^ \\", r"\textasciitilde{} \textasciicircum{} \textbackslash{}"),
        ("{x} $y$", r"\{x\} \$y\$"),
        ("[x] *y", "{[}x{]} {*}y"),
        ("--across", "-{}-across"),
        ("---", "-{}-{}-"),
        ("-1.5..-0.5", "$-$1.5..$-$0.5"),
        ("ngram-k4, 2026-11-29", "ngram-k4, 2026-11-29"),
        ("中文¹²", r"中文\textsuperscript{12}"),
        ("a\nb\u202e", r"a\textbackslash{}nb\textbackslash{}u202e"),
    ],
)
def test_text_is_escaped_and_chinese_is_kept(text: str, shown: str) -> None:
    assert latex(text) == shown


@given(st.text(max_size=40))
def test_no_text_leaves_its_cell(text: str) -> None:
    made = as_latex(page(text, "x", title=text))
    assert balanced(made)
    rows = [line for line in made.splitlines() if line.endswith(r" \\")]
    assert len(rows) == 2
    assert len({len(re.findall(r"(?<!\\)&", row)) for row in rows}) == 1


def test_the_paired_table_has_every_row_under_rules(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(write_run(tmp_path / n, cell(), cell("zh", worse=w))) for n, w in (("a", 0), ("b", 3))]
    assert main(["compare", *runs, "--format", "latex"]) == 1
    text = capsys.readouterr().out
    assert balanced(text)
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 3
    # the pairs, their positions, and the speed where it moved
    (row,) = (
        line
        for line in text.splitlines()
        if line.startswith("chat-zh") and r"\blacktriangledown" in line and "/" in line
    )
    assert "$-$11.8 & $-$15.2..$-$8.1" in row
    assert "speed-up a" not in text.partition(r"\midrule")[0]  # it was not measured
    assert main(["compare", runs[0], "--pivot", "language", "--output", str(tmp_path / "x.tex")]) == 0
    assert balanced((tmp_path / "x.tex").read_text(encoding="utf-8"))


@pytest.mark.skipif(not ENGINES, reason="no pdflatex and no tectonic is installed")
@pytest.mark.parametrize("engine", ENGINES)
def test_tex_sets_it(engine: str, tmp_path: Path) -> None:
    wide = page(*[HOSTILE.replace("中文", "")] * 8, title=HOSTILE.replace("中文", ""), rows=3)
    (tmp_path / "t.tex").write_text(as_latex(wide), encoding="utf-8")
    (tmp_path / "main.tex").write_text(PAGE, encoding="utf-8")
    options = ["-interaction=nonstopmode", "-halt-on-error"] * (engine == "pdflatex")
    done = subprocess.run([engine, *options, "main.tex"], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "main.pdf").stat().st_size > 1000
    log = (tmp_path / "main.log").read_text(encoding="utf-8", errors="replace") if options else ""
    assert "Overfull" not in log


def test_one_run_has_the_tables_of_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(write_run(tmp_path / "a", cell(), cell("zh")))
    assert main(["compare", run, "--format", "latex"]) == 0
    text = capsys.readouterr().out
    assert balanced(text)
    assert r"pos 3 & 1\textbar{}0" in text
    assert len([line for line in text.splitlines() if line.startswith("chat-zh")]) == text.count(r"\toprule")
