"""Decides which texts of the sources become prompts, and counts the decisions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field
from tabulate import tabulate

from harness.stats.text_quality import in_language
from training.recipe import Prompts, Source
from training.sources.decontamination import BenchmarkPrompts, id_of

FATES = ("unusable", "too_long", "other_language", "duplicates", "overlap", "kept")
"""What can become of a text, in the order of the checks. unusable: it has no letter; or the target wrote it,
and it was cut off, loops, or is no text. overlap: it is a benchmark prompt, or like one."""


class Prompt(BaseModel):
    """One line of prompts.jsonl."""

    model_config = ConfigDict(frozen=True)

    id: str
    source: str
    language: str
    workload: str = "instruct"
    text: str = Field(pattern=r"\S")

    def line(self) -> dict[str, str]:
        """As it is written; speculators reads `prompt`."""
        return {**self.model_dump(), "prompt": self.text}


@dataclasses.dataclass
class Share:
    """One source: how many prompts are wanted from it, and how many it gave."""

    source: Source
    name: str
    wanted: int
    journal: Path
    """For a source of kind `self`: the file of what the target wrote."""
    made: int = 0
    fates: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(FATES, 0))

    @property
    def kept(self) -> int:
        """How many prompts it gave."""
        return self.fates["kept"]

    @property
    def missing(self) -> int:
        """How many more prompts are wanted."""
        return self.wanted - self.kept

    def counts(self) -> dict[str, int]:
        """For the stage's record; `made` is the sum of the fates."""
        return {"wanted": self.wanted, "made": self.made, **self.fates}


class Intake:
    """Keeps texts that are new, of the right kind, and not the benchmark's."""

    def __init__(self, settings: Prompts, benchmark: BenchmarkPrompts) -> None:
        self.found: dict[str, Prompt] = {}
        """By id."""
        self._settings, self._benchmark = settings, benchmark

    def take(self, share: Share, text: str | None) -> None:
        """Count one text, and keep it if it is a new prompt; None stands for a text that was of no use."""
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
    """The counts as a table, one line for each source."""
    rows = [{"source": share.name, **share.counts()} for share in shares]
    return tabulate([{k.replace("_", " "): v for k, v in row.items()} for row in rows], headers="keys")
