"""Every text of every source goes through here: what becomes of it, and how many met which end."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from harness.stats.text_quality import in_language
from training.recipe import Prompts, Source
from training.sources.decontamination import BenchmarkPrompts, id_of

FATES = ("unusable", "too_long", "other_language", "duplicates", "overlap", "kept")
"""In the order of the questions. unusable: without a letter, or of the target's own ones those that were cut
off, loop, or are no text; overlap: a benchmark prompt, or like one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt:
    """One line of prompts.jsonl."""

    id: str
    source: str
    language: str
    workload: str
    text: str

    def line(self) -> dict[str, str]:
        """As it is written; speculators reads `prompt`."""
        return {**dataclasses.asdict(self), "prompt": self.text}


@dataclasses.dataclass
class Share:
    """One source at work."""

    source: Source
    name: str
    wanted: int
    journal: Path
    """What the target wrote, for a source of kind `self`."""
    made: int = 0
    fates: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(FATES, 0))

    @property
    def kept(self) -> int:
        """Prompts it gave."""
        return self.fates["kept"]

    @property
    def missing(self) -> int:
        """Prompts it is still to give."""
        return self.wanted - self.kept

    def counts(self) -> dict[str, int]:
        """For the stage's record; `made` is the sum of the fates."""
        return {"wanted": self.wanted, "made": self.made, **self.fates}


class Intake:
    """Keeps what is new, of the right kind, and not the benchmark's."""

    def __init__(self, settings: Prompts, benchmark: BenchmarkPrompts) -> None:
        self.found: dict[str, Prompt] = {}
        """By id."""
        self._settings, self._benchmark = settings, benchmark

    def take(self, share: Share, text: str | None) -> None:
        """Count one text, and keep it where it is wanted; None came where a source failed to give one."""
        text = (text or "").strip()
        name = id_of(text)
        fate = self._fate(text, name, share.source.language)
        share.made += 1
        share.fates[fate] += 1
        if fate == "kept":
            self.found[name] = Prompt(
                id=name,
                source=share.name,
                language=share.source.language,
                workload=share.source.workload,
                text=text,
            )

    def _fate(self, text: str, name: str, language: str) -> str:
        if not any(c.isalnum() for c in text):
            return "unusable"
        if len(text) > self._settings.max_characters:
            return "too_long"
        if in_language(text, language) is False:
            return "other_language"
        if name in self.found:
            return "duplicates"
        return "overlap" if self._benchmark.match(text) else "kept"


def table(shares: Sequence[Share]) -> str:
    """The counts, a line a source."""
    rows = [{"source": share.name, **share.counts()} for share in shares]
    return tabulate([{k.replace("_", " "): v for k, v in row.items()} for row in rows], headers="keys")
