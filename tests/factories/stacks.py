"""Small stack files."""

from __future__ import annotations

from pathlib import Path

from harness.config.stack import Stack, load_stack

HEAD = 'schema = 1\nname = "tiny"\n[target]\nmodel = "org/tiny"\n'
NGRAM = '[drafters.ngram]\nmethod = "ngram"\nk = [2]\n'


def stack(tmp_path: Path, text: str) -> Stack:
    path = tmp_path / "tiny.toml"
    path.write_text(text, encoding="utf-8")
    return load_stack(path)
