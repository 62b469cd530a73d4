"""Writes a document of tables as LaTeX, by booktabs. Whatever a record held comes out as text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.text.numbers import DASH
from harness.text.render import Block, Document, below, visible

_HEAD = """\
% \\usepackage{amssymb,booktabs,graphicx} here; for Chinese XeLaTeX or LuaLaTeX, and \\usepackage{ctex}
"""
_RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹"
_TEXT = str.maketrans(
    {c: f"\\{c}" for c in "%_&#${}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "`": r"\textasciigrave{}"}
    | {c: f"{{{c}}}" for c in "[]*"}  # behind \\ the first and third would be its arguments
    | {"→": r"$\rightarrow$", "·": r"$\cdot$", "×": r"$\times$", "—": r"\textemdash{}", "…": r"\ldots{}"}
    | {"✓": r"$\checkmark$", "▲": r"$\blacktriangle$", "▼": r"$\blacktriangledown$", "✗": r"$\times$"}
    | {"↻": r"$\circlearrowright$"}
)
_MINUS = re.compile(r"(?<![\w.-])-(?=\d)|(?<=\.\.)-(?=\d)")


def as_latex(document: Document) -> str:
    """For a paper: a `table` for each block, and what limits their reading below the first.

    A column without any value is left out, and a table wider than the page shrinks. Chinese stays as it is.
    """
    caption = ". ".join([document.title, *document.above])
    notes = [document.sentence, *(line for part in below(document) for line in part)]
    first, *others = document.blocks or (Block(header=("",), rows=(), align="l"),)
    tables = [_table(first, caption, notes), *(_table(block, block.title, ()) for block in others)]
    return _HEAD + "\n".join(tables)


def _table(block: Block, caption: str, notes: Sequence[str]) -> str:
    known = [at for at in range(len(block.header)) if any(row[at] not in ("", DASH) for row in block.rows)]
    rows = [" & ".join(latex(row[at]) for at in known) + r" \\" for row in (block.header, *block.rows)]
    align = "".join(block.aligned[at] for at in known)
    lines = [
        r"\begin{table}", r"\centering", rf"\caption{{{latex(caption)}}}", r"\footnotesize",
        r"\setlength{\tabcolsep}{3pt}", r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{align}}}", r"\toprule", rows[0], r"\midrule", *rows[1:], r"\bottomrule",
        r"\end{tabular}}",
    ]  # fmt: skip
    below_it = [rf"{latex(note)}\par" for note in notes if note]
    lines += [r"\begin{flushleft}", *below_it, r"\end{flushleft}"] if below_it else []
    return "\n".join([*lines, r"\end{table}", ""])


def latex(text: str) -> str:
    """Text that means nothing to TeX."""
    text = _MINUS.sub("−", visible(text)).translate(_TEXT).replace("−", "$-$")
    text = re.sub("-(?=-)", "-{}", text)  # else a dash
    return re.sub(f"[{_RAISED}]+", _raised, text)


def _raised(found: re.Match[str]) -> str:
    digits = "".join(str(_RAISED.index(c)) for c in found[0])
    return rf"\textsuperscript{{{digits}}}"
