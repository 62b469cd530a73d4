"""What the end of a run says: its sentence, and the tables of each suite."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Iterable, Iterator

from harness.errors import DraftgateError
from harness.judge.collect import by_variant, collect
from harness.judge.compare import compare
from harness.judge.verdict import Verdict
from harness.report import run_table
from harness.report.compare_table import document
from harness.report.sentence import sentence
from harness.run import Run
from harness.suites import acceptance, selfcheck
from harness.suites.runner import Outcome, kept
from harness.text.render import as_text, lay_out


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ending:
    """What to print of a run, whichever processes measured it."""

    sentence: str
    """Empty where the run has no cell."""
    sections: tuple[tuple[str, str], ...]
    """A title and a text: of the acceptance suite, with the sentence above, then of each other suite."""
    fault: str
    """Why the verdicts of the acceptance suite cannot be shown; else empty."""


def ending(run: Run, asked: Collection[tuple[str, str]], *, whole: bool, width: int | None = None) -> Ending:
    """The end of a run, from what is in its folder.

    Args:
        run: whose.
        asked: suite and cell of all that this invocation was to measure.
        whole: no cell was left out by its name, so that a baseline without a cell is worth a line.
        width: columns of a line; None where there is no limit.
    """
    own = acceptance.SUITE.name
    outcomes = [one for one in kept(run.folder).values() if one.suite == own or one.holds]
    became = dict.fromkeys(asked, "missing")
    became |= {(one.suite, one.cell): _became(run, one.kind, one.verdict) for one in outcomes}
    texts, fault = [], ""
    try:
        cells = acceptance.in_order(run)
        texts += ["\n" + run_table.report(cells, width)] if cells else []
        judged = [] if _only_measures(run) else acceptance.verdicts(run, cells)
        found = {str(record.cell): verdict for record, verdict in judged}
        for record in cells:
            kind = "fine" if record.valid else "invalid"
            became[own, str(record.cell)] = (
                "measured"
                if record.cell.reference and record.valid
                else _became(run, kind, found.get(str(record.cell)))
            )
        texts += ["\n" + run_table.verdict_report(judged, width)] if judged else []
        texts += [
            f"orphan: {path}: the stack has no such cell any more"
            for path in (acceptance.orphans(run, cells[0]) if judged and whole else ())
        ]
    except DraftgateError as error:
        fault = error.shown
    several = len({suite for suite, _ in became}) > 1
    said = sentence(
        [(f"{suite}/{cell}" if several else cell, of) for (suite, cell), of in became.items()],
        of="case" if any(suite == selfcheck.SUITE for suite, _ in became) else "cell",
    )
    first = [("draftgate", "\n".join([lay_out([said], width), *texts]))] if said else []
    sections = (*first, *_sections(outcomes, width), *_variants(run, width))
    return Ending(sentence=said, sections=sections, fault=fault)


def _variants(run: Run, width: int | None) -> Iterator[tuple[str, str]]:
    """The variants of the stack side by side, where several were measured."""
    with contextlib.suppress(DraftgateError):  # there is one alone, or what is damaged is said above
        sides = by_variant(collect(run.folder)) if run.options.stack.variants else []
        if sides:
            yield "variants", as_text(document(compare(sides, across=("variant",))), width)


def measured_all(run: Run, asked: Collection[tuple[str, str]]) -> bool:
    """Every cell that was asked for was measured, in one suite at least."""
    there = {p.stem for p in run.folder.glob("*/*.json")} | {cell for _, cell in kept(run.folder)}
    return there.issuperset(cell for _, cell in asked)


def _only_measures(run: Run) -> bool:
    return run.options.gate == "off" or bool(run.options.update)


def _became(run: Run, kind: str, verdict: Verdict | None) -> str:
    """A key of what `sentence` takes."""
    if verdict is None:
        return "measured" if kind == "fine" and _only_measures(run) else kind
    return verdict.kind if verdict.kind != "invalid" or kind == "invalid" else "refused"


def _sections(outcomes: Iterable[Outcome], width: int | None) -> tuple[tuple[str, str], ...]:
    """Of each other suite the tables of its outcomes, or their sentences."""
    by_suite: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.suite != acceptance.SUITE.name and (outcome.table or outcome.sentence):
            text = outcome.table_text(width) or lay_out([f"{outcome.cell}: {outcome.sentence}"], width)
            by_suite.setdefault(outcome.suite, []).append(text)
    return tuple(
        (suite, ("\n\n" if any("\n" in text for text in texts) else "\n").join(texts))
        for suite, texts in by_suite.items()
    )
