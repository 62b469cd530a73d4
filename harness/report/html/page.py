"""What the page shows, as one document for JSON. Every figure comes from `judge/` and `results/`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.judge import curve, in_turn
from harness.judge.collect import Entry
from harness.judge.compare import CellComparison, Comparison, Figures, compare
from harness.judge.footnotes import holm_notes
from harness.judge.pairing import drafting
from harness.judge.throughput import figures as split_figures
from harness.report.html.answers import Asked, Texts, prompts_of
from harness.report.html.given import Given
from harness.report.html.provenance import commands, few, provenance
from harness.report.html.sides import Compared, Shown, compared, shown_path, told_apart
from harness.report.labels import Labels
from harness.report.run_table import figure_values, verdict_values, worth_a_line
from harness.report.sentence import KINDS, became, sentence
from harness.results.names import BASE, thinking_word
from harness.results.stretches import name_of
from harness.text.render import by_text

_ORDER = (
    "regressed", "refused", "invalid", "inconclusive", "improved", "ok", "identical", "measured", "alone",
)  # fmt: skip
"""What may become of a cell, that which needs a look first."""
WORDS = {kind: KINDS[kind] for kind in _ORDER}
_CELLS, _PAIRS, _OUTCOMES = 200, 6000, 200
"""Cells, pairs of answers and outcomes that a page of two megabytes has room for."""


def document(
    shown: Sequence[Shown],
    baseline: Given | None,
    *,
    across: Sequence[str] = (),
    history: Mapping[str, Any] | str | None = None,
    own: Mapping[str, str] | None = None,
    command: str,
) -> tuple[dict[str, Any], list[str]]:
    """The page, and the texts that its prompts name by number: those that matter most come first.

    Args:
        shown: the runs. Without a baseline each is compared with the first.
        baseline: what each is compared with.
        across: fields of the identity that may differ.
        history: of the runs, as `history_table.as_page` has it; why there is none; None for a single run.
        own: texts of prompts that do not come with draftgate, by their hashes.
        command: what makes the page.

    Raises:
        BadInput: `across` names no field of the cells.
        BadRecord: a file was damaged since it was read.
    """
    shown, baseline = told_apart(shown, baseline)
    texts, asked = Texts(), Asked(own or {})
    first = next((one.given for one in shown if one.given.side), None)
    found = [
        compared(baseline or (None if one.given is first else first), one.given, across) for one in shown
    ]
    met = {row.figures.entry.path for one in found for row, _ in one.pairs}
    rests = [_rest(one, met) for one in found]
    sides = zip(found, rests, strict=True)
    every = [cell for at, (one, rest) in enumerate(sides) for cell in _cells(one, rest, at, apart=bool(met))]
    cells = _worst(every, _CELLS)
    cells.sort(key=lambda cell: cell["verdict"] is None)  # what is compared comes first
    room = _PAIRS
    for cell in sorted(cells, key=lambda cell: cell["rank"]):
        if (of := cell.pop("of")) and (room := room - cell["verdict"]["pairs"]) >= 0:
            cell["prompts"] = of(texts, asked)
    for number, cell in enumerate(cells):
        cell["number"] = number
    order = texts.in_order()
    places = {text: i for i, text in enumerate(order)}
    words: dict[str, int] = {}
    for prompts in (cell["prompts"] for cell in cells if cell["prompts"]):
        for field in ("asked", "text0", "text1"):
            prompts[field] = [places.get(text) for text in prompts[field]]
        for field in ("prompt", "finish0", "finish1"):
            prompts[field] = [words.setdefault(text, len(words)) for text in prompts[field]]
    page = {
        "schema": 1,
        "sentence": _sentence(every, shown),
        "left_out": list(_left_out(every, cells)),
        "baseline": shown_path(baseline.path) if baseline else None,
        "baseline_faults": list(baseline.faults) if baseline else [],
        "runs": [
            _run(*of, cells=sum(cell["run"] == at for cell in every))
            for at, of in enumerate(zip(shown, found, rests, strict=True))
        ],
        "cells": cells,
        "looks": list(_looks(cells, shown)),
        "history": {"sentence": history} if isinstance(history, str) else history,
        "curves": [_curve(*c, run=at) for at, one in enumerate(shown) for c in one.curves],
        "beside": (beside := list(_beside(cells))),
        "endpoints": list(dict.fromkeys(name for row in beside for name in row["rates"])),
        "findings": list(_findings(cells)),
        "provenance": list(provenance(found)),
        "commands": commands(shown, baseline, command),
        "words": list(words),
        "texts": len(order),
    }
    return page, order


def _worst(cells: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """Those that need a look first, in the order in which they stand."""
    kept = sorted(range(len(cells)), key=lambda at: cells[at]["rank"])[:most]
    return [cells[at] for at in sorted(kept)]


def _left_out(every: Sequence[Mapping[str, Any]], cells: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if len(every) > len(cells):
        yield (
            f"{len(cells)} of {len(every)} cells are shown: those that need a look first. Tables, charts and "
            "findings are of these; draftgate compare prints all"
        )
    paired = [cell for cell in cells if cell["verdict"] and cell["verdict"]["pairs"]]
    if lack := sum(not cell["prompts"] for cell in paired):
        yield f"the prompts of {len(paired) - lack} of {len(paired)} cells are shown, likewise"


def _rest(one: Compared, met: Collection[Path]) -> Comparison | None:
    """The cells of a run that stand alone."""
    alone = one.alone(met)
    return compare([dataclasses.replace(one.run.side, entries=alone)]) if alone and one.run.side else None


def _cells(one: Compared, rest: Comparison | None, run: int, *, apart: bool) -> list[dict[str, Any]]:
    """The cells of a run in order, each beside its partner where it has one.

    Args:
        one: the run.
        rest: its cells that have none.
        run: its number.
        apart: other cells of the page have one.
    """
    found: list[tuple[Entry, dict[str, Any]]] = []
    if of := one.comparison:
        labels = Labels(of)
        for row, a in one.pairs:
            kind = became(row, a, judged=of.judged)
            shown = functools.partial(prompts_of, row.figures.entry, a, of.across)
            cell = {
                **_cell(a.figures, run, name=labels.row(row)),
                "became": kind,
                "rank": _rank(kind, a.figures),
                "base": _figures(row.figures),
                "verdict": _verdict(a, judged=of.judged),
                "notes": [*row.notes, *a.told],
                "of": None if a.verdict.primary is None else shown,
            }
            found.append((a.figures.entry, cell))
    if rest:
        names = Labels(rest)
        for row in rest.rows:
            cell = _cell(row.figures, run, name=names.row(row))
            if apart and cell["became"] == "measured" and not row.figures.entry.cell.reference:
                cell |= {"became": "alone", "rank": _rank("alone", row.figures)}
            found.append((row.figures.entry, cell))
    return [cell for _, cell in sorted(found, key=lambda pair: pair[0].order)]


def _cell(figures: Figures, run: int, *, name: str) -> dict[str, Any]:
    entry, cell = figures.entry, figures.entry.cell
    axes = {
        "endpoint": cell.endpoint, "language": cell.language, "workload": cell.workload,
        "thinking": thinking_word(cell.thinking) if cell.thinking else "", "drafter": drafting(cell),
        "variant": "" if cell.variant == BASE else cell.variant,
        "suite": entry.suite, "profile": entry.profile, "k": cell.k, "family": cell.drafter,
    }  # fmt: skip
    empty: dict[str, Any] = {"base": None, "verdict": None, "notes": [], "prompts": None, "of": None}
    kind = "invalid" if figures.invalid else "measured"
    figured = {"figures": _figures(figures), "became": kind, "rank": _rank(kind, figures)}
    return {"run": run, "name": name, **axes, **figured, **empty}


def _figures(figures: Figures) -> dict[str, Any]:
    """Of one side; what it did not measure is None."""
    along = [(name_of(s.start), s) for s in figures.stretches] + [(p.part, p) for p in figures.parts]
    return {
        **{name: value for name, value in figure_values(figures).items() if "from_" not in name},
        "invalid": figures.invalid,
        "interval": figures.tokens_per_step_ci,
        "acceptance": figures.acceptance,
        "acceptance_intervals": figures.acceptance_ci,
        "along": [
            {"where": where, "prompts": s.prompts, "rate": s.tokens_per_step, "interval": s.interval}
            for where, s in along
        ],
        "degenerate": figures.degenerate,
        "findings": list(figures.findings),
    }


def _rank(kind: str, figures: Figures) -> float:
    """What needs a look comes first; a cell that drafts nothing says less."""
    return _ORDER.index(kind) + (0 if figures.entry.cell.k else 0.5)


def _verdict(a: CellComparison, *, judged: bool) -> dict[str, Any]:
    v = a.verdict
    return {
        "worth": (judged or v.kind == "invalid") and worth_a_line(v),
        "text": v.text,
        "lower": v.lower,
        "p": v.p,
        "same_environment": a.same_environment,
        "positions": [dataclasses.asdict(p) for p in a.positions],
        **verdict_values(v),
    }


def _run(one: Shown, compared: Compared, rest: Comparison | None, *, cells: int) -> dict[str, Any]:
    given, comparison = one.given, compared.comparison
    base = compared.base
    notes = [*comparison.notes] if comparison else [*(given.side.notes if given.side else ())]
    verdicts = [(str(a.figures.entry.cell), a.verdict) for _, a in compared.pairs]
    outcomes = sorted(one.outcomes, key=lambda o: -list(KINDS).index(o["kind"]))
    outcomes = list(one.outcomes) if len(outcomes) <= _OUTCOMES else outcomes
    notes += holm_notes(verdicts) if comparison and comparison.judged else []
    mean = comparison.geomean(0) if comparison else None
    columns = [*(comparison.columns[1:] if comparison else ()), *(rest.columns if rest else ())]
    conditions = next((column.conditions for column in columns if column.conditions), None)
    if conditions is None and given.ran:  # no cell of it may be compared, or is shown as a cell
        conditions = compare([given.ran]).columns[0].conditions
    return {
        "name": given.name,
        "path": shown_path(given.path),
        "cells": cells,
        "finished": given.finished,
        "begun": [dataclasses.asdict(one) for one in given.begun],
        "faults": one.faults,
        "base": base.name if base and comparison else None,
        "why_not_compared": compared.why_not,
        "geomean": {"change": mean[0], "cells": mean[1]} if mean else None,
        "conditions": {k: few(v) for k, v in (conditions or {}).items()},
        "notes": notes,
        "outcomes": [dict(outcome) for outcome in outcomes[:_OUTCOMES]],
        "outcomes_left_out": max(0, len(outcomes) - _OUTCOMES),
        "times": list(dict.fromkeys(t[:16].replace("T", " ") for t in (given.times[:1] + given.times[-1:]))),
    }


def _labels(cells: Sequence[Mapping[str, Any]], shown: Sequence[Shown]) -> list[str]:
    """The name of each cell, with that of its run where several are compared."""
    several = len({one["run"] for one in cells if one["verdict"]}) > 1
    return [str(cell["name"]) + f" ({shown[cell['run']].given.name})" * several for cell in cells]


def _sentence(cells: Sequence[Mapping[str, Any]], shown: Sequence[Shown]) -> str:
    names = _labels(cells, shown)
    found = [(name, str(cell["became"])) for name, cell in zip(names, cells, strict=True)]
    said = [(f"{o['suite']} {o['cell']}", o["kind"]) for one in shown for o in one.outcomes]
    curves = [(c.name, "measured") for one in shown for c, *_ in one.curves]
    told = sentence(found) or sentence(said, of="question") or sentence(curves, of="curve")
    return told or "no cell is whole yet"


def _looks(cells: Sequence[Mapping[str, Any]], shown: Sequence[Shown]) -> Iterator[dict[str, Any]]:
    """What somebody should look at, the worst first; what is said of several cells once."""
    named = zip(_labels(cells, shown), cells, strict=True)
    worth = sorted(
        ((name, c) for name, c in named if c["verdict"] and c["verdict"]["worth"]),
        key=lambda one: one[1]["rank"],
    )
    said = ((name, cell["verdict"]["text"]) for name, cell in worth)
    kinds = {c["verdict"]["text"]: c["became"] for _, c in reversed(worth)}
    for text, names in by_text(said).items():
        yield {"became": kinds[text], "cells": names, "text": text}


def _curve(
    found: curve.Curve, grid: curve.Grid, again: Sequence[in_turn.Measured], *, run: int
) -> dict[str, Any]:
    return {
        "run": run,
        "name": found.name,
        "points": [
            {
                "k": p.k, "in_flight": p.in_flight, "tokens_per_step": p.tokens_per_step,
                "tok_s": p.work.rate, "speed_up": p.utility, "interval": p.interval,
                "best": p == found.best(p.in_flight),
            }
            for p in found.points
        ],
        "measured": [
            {"k": m.k, "in_flight": m.in_flight, **split_figures(m.split)}
            for m in again if m.k != in_turn.SCHEDULED
        ],
        "sentences": [*curve.busy(grid), *curve.sentences(found), *in_turn.advice(again)],
    }  # fmt: skip


def _beside(cells: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The cells of a run that differ in their endpoint alone, where there are several."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for cell in cells:
        if cell["k"] and not cell["figures"]["invalid"]:
            axes = ("language", "workload", "thinking", "variant")
            place = " ".join(filter(None, (cell[axis] for axis in axes)))
            key = (cell["run"], cell["suite"], cell["profile"], place, cell["drafter"])
            rate = {"rate": cell["figures"]["tokens_per_step"], "interval": cell["figures"]["interval"]}
            found.setdefault(key, {})[cell["endpoint"]] = rate
    for (run, *_, place, drafter), rates in found.items():
        if len(rates) > 1:
            yield {"run": run, "place": place, "drafter": drafter, "rates": rates}


def _findings(cells: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """What makes a cell invalid, then findings and notes; each text once, with the cells that it is about."""
    kinds = {
        "invalid": [(c, [c["figures"]["invalid"]]) for c in cells if c["figures"]["invalid"]],
        "finding": [(c, c["figures"]["findings"]) for c in cells],
        "finding of what it is compared with": [
            (c, [text for text in c["base"]["findings"] if text not in c["figures"]["findings"]])
            for c in cells
            if c["base"]
        ],
        "note on a comparison": [(c, c["notes"]) for c in cells],
    }
    for kind, said in kinds.items():
        for text, names in by_text((c["name"], text) for c, texts in said for text in texts).items():
            yield {"kind": kind, "text": text, "cells": list(dict.fromkeys(names)), "of": len(cells)}
