"""A page of `draftgate report`, read as a browser reads it before any script runs."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from harness.cli import main


class Page(HTMLParser):
    """Its tags with their attributes, its scripts, and the text that a reader sees."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.seen = ""
        self._within = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        self._within = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002 - as HTMLParser has it
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = attributes, text + data
        elif not self._within:
            self.seen += data

    @property
    def data(self) -> dict[str, Any]:
        """The document of the page."""
        data: dict[str, Any] = json.loads(self._script("data"))
        return data

    @property
    def prompts(self) -> list[list[dict[str, Any]]]:
        """Of each cell, its pairs as objects; their texts are numbers."""
        data, found = self.data, []
        for cell in data["cells"]:
            columns = dict(cell["prompts"] or {"prompt": []})
            columns["prompt"] = [data["words"][number] for number in columns["prompt"]]
            found.append([{f: columns[f][i] for f in columns} for i in range(len(columns["prompt"]))])
        return found

    @property
    def texts(self) -> list[str]:
        """The texts that it holds."""
        texts: list[str] = json.loads(gzip.decompress(base64.b64decode(self._script("answers"))))
        return texts

    @property
    def policy(self) -> str:
        """Its Content-Security-Policy."""
        found = [a for tag, a in self.tags if tag == "meta" and a.get("http-equiv")]
        return str(found[0]["content"])

    @property
    def run_scripts(self) -> list[str]:
        """The hashes of the scripts that a browser would run, as a policy names them."""
        texts = [text for attributes, text in self.scripts if "type" not in attributes]
        digests = [hashlib.sha256(text.encode()).digest() for text in texts]
        return [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]

    def _script(self, name: str) -> str:
        (text,) = (text for attributes, text in self.scripts if attributes.get("id") == name)
        return text


def report(*arguments: object, output: Path, code: int = 0) -> Page:
    """Write the page of a command line, and read it."""
    assert main(["report", *map(str, arguments), "--output", str(output)]) == code
    return Page(output.read_text(encoding="utf-8"))
