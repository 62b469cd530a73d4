"""How often the detector of degenerate answers errs, on answers that were labelled by hand.

`tests/data/degenerate/README.md` says which, and by which rule. Intervals: 95 %, exact (Clopper and Pearson).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy import special
from tabulate import tabulate

from harness.errors import BadInput
from harness.results.files import json_lines
from harness.stats.text_quality import degenerate
from tests.perf import DATA, ROOT, carry_out

FOLDER = ROOT / "tests/data/degenerate"
LABELS = ("fine", "stuck", "unclear")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """One labelled text."""

    language: str
    part: str
    """`calibration` or `held-out` of the real answers; `made` for this; `prompts`, the shipped ones."""
    label: str
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rate:
    """A share of errors with its interval."""

    errors: int
    of: int

    @property
    def interval(self) -> tuple[float, float]:
        """Of a binomial share; everything where there is nothing."""
        k, n = self.errors, self.of
        low = float(special.betaincinv(k, n - k + 1, 0.025)) if k else 0.0
        high = float(special.betaincinv(k + 1, n - k, 0.975)) if k < n else 1.0
        return low, high

    def __str__(self) -> str:
        """`1 of 12: 8.3 % (0.2..38.5)`."""
        if not self.of:
            return "none to err on"
        low, high = self.interval
        return f"{self.errors} of {self.of}: {self.errors / self.of:.1%} ({low * 100:.1f}..{high * 100:.1f})"


def answers(folder: Path = FOLDER) -> list[Answer]:
    """All labelled texts.

    Raises:
        BadInput: a label is none.
    """
    found = []
    for name in ("answers.jsonl", "made.jsonl"):
        for line in json_lines(folder / name):
            data = line.data
            if data.get("label") not in LABELS:
                raise BadInput(
                    f"{line.where}: the label is {data.get('label')!r}, not one of {', '.join(LABELS)}"
                )
            part, label = data.get("set", "made"), data["label"]
            found.append(Answer(language=data["language"], part=part, label=label, text=data["text"]))
    return found


def prompts() -> list[Answer]:
    """The shipped prompts, in which nothing is stuck."""
    return [
        Answer(language=path.stem, part="prompts", label="fine", text=line.data["text"])
        for path in sorted((DATA / "prompts").glob("*/*.jsonl"))
        for line in json_lines(path)
    ]


def false_alarms(of: Sequence[Answer]) -> Rate:
    """Answers labelled fine that are called degenerate."""
    fine = [a for a in of if a.label == "fine"]
    return Rate(errors=sum(degenerate(a.text) for a in fine), of=len(fine))


def misses(of: Sequence[Answer]) -> Rate:
    """Answers labelled stuck that are not."""
    stuck = [a for a in of if a.label == "stuck"]
    return Rate(errors=sum(not degenerate(a.text) for a in stuck), of=len(stuck))


def rows(of: Sequence[Answer]) -> list[dict[str, Any]]:
    """A line for each part and language."""
    found = []
    for part, language in sorted({(a.part, a.language) for a in of}):
        these = [a for a in of if (a.part, a.language) == (part, language)]
        unclear = [degenerate(a.text) for a in these if a.label == "unclear"]
        found.append(
            {
                "texts": part,
                "language": language,
                "false alarms": str(false_alarms(these)),
                "misses": str(misses(these)),
                "unclear, called degenerate": f"{sum(unclear)} of {len(unclear)}",
            }
        )
    return found


def job() -> dict[str, Any]:
    """Print the table; its rows."""
    table = rows([*answers(), *prompts()])
    print(tabulate(table, headers="keys"))
    return {"rates": table}


if __name__ == "__main__":
    sys.exit(carry_out(job))
