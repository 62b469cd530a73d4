"""Small stack files."""

from __future__ import annotations

from pathlib import Path

from harness.config import stack as stacks

HEAD = 'schema = 1\nname = "tiny"\n[target]\nmodel = "org/tiny"\n'
NGRAM = '[drafters.ngram]\nmethod = "ngram"\nk = [2]\n'


def stack(tmp_path: Path, text: str) -> stacks.Stack:
    path = tmp_path / "tiny.toml"
    path.write_text(text, encoding="utf-8")
    return stacks.load(path)
