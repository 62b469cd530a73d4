"""The tables that a run prints about its own cells. What was not measured is an em dash, never a guess."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.judge.footnotes import conditions_of, holm_notes
from harness.judge.verdict import Verdict
from harness.measure import validity
from harness.results.records import CellRecord, PromptRecord
from harness.results.timing import speed_of
from harness.text.numbers import DASH, number, share, signed, signed_interval
from harness.text.render import by_text, text_table, visible


def marked(cell: CellRecord) -> str:
    """Its name, with a mark where most answers are degenerate."""
    return f"{cell.cell} {validity.MARK}" if validity.mostly_degenerate(cell.findings) else str(cell.cell)


def acceptance_rows(cells: Sequence[CellRecord]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the acceptance table.

    `pos i` is acceptance at position i, `i|j` the same given that position j was accepted, `tok acc`
    accepted of drafted tokens; all in percent.
    """
    deepest = max((c.cell.k for c in cells), default=0)
    header = ["cell", "n", "tok/step", "tau", "acc/draft", "tok acc"]
    header += [f"pos {i}" for i in range(deepest)] + [f"{i}|{i - 1}" for i in range(1, deepest)]
    rows = []
    for cell in cells:
        tally = validity.total(cell.prompts)
        rows.append(
            [
                marked(cell),
                str(sum(validity.countable(r) for r in cell.prompts)),
                number(tally.tokens_per_step),
                number(tally.tau),
                number(tally.accepted_per_draft),
                share(tally.token_acceptance),
                *_padded(tally.acceptance, deepest),
                *_padded(tally.conditional[1:], deepest - 1),
            ]
        )
    return header, rows


def _padded(rates: Iterable[float | None], length: int) -> list[str]:
    shown = [share(rate) for rate in rates]
    return shown + [DASH] * (length - len(shown))


def _none_of(cell: CellRecord, cells: Iterable[CellRecord]) -> CellRecord | None:
    """The cell that drafts nothing in the same place; None for itself."""
    return next((c for c in cells if c.cell.k == 0 and cell.cell.k and c.cell.place == cell.cell.place), None)


SPEED_HEADER = ["aggregate tok/s", "mean-prompt tok/s", "TTFT ms", "TPOT ms"]


def speed_columns(prompts: Sequence[PromptRecord]) -> list[str]:
    """What stands below `SPEED_HEADER`."""
    speed = speed_of(prompts)
    if speed is None:
        return [DASH] * len(SPEED_HEADER)
    rates = [number(speed.aggregate, 1), number(speed.mean_prompt, 1)]
    return [*rates, number(speed.ttft_s, 0, scale=1000), number(speed.tpot_s, 1, scale=1000)]


def speed_rows(cells: Sequence[CellRecord]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the speed table."""
    rows = []
    for cell in cells:
        gained = number(validity.speed_up(cell, _none_of(cell, cells)))
        rows.append([marked(cell), *speed_columns(cell.prompts), gained])
    return ["cell", *SPEED_HEADER, "speed-up"], rows


def common_lines(cells: Sequence[CellRecord]) -> list[str]:
    """What all cells of a run share, to stand above its tables."""
    known = conditions_of(cells[0])
    known.pop("drafter")
    machine = [f"{name} {known.pop(name)}" for name in ("device", "threads") if name in known]
    shared = [f"{name}={value}" if name == "T" else f"{name} {value}" for name, value in known.items()]
    return [visible(" · ".join(part)) for part in (shared, machine)]


def footnotes(cells: Sequence[CellRecord]) -> list[str]:
    """The findings, the same one of many cells on one line; what makes a cell invalid comes first."""
    said = [(str(c.cell), f"{'INVALID' if f.hard else 'note'}: {f.text}") for c in cells for f in c.findings]
    said += [(str(cell.cell), f"note: {text}") for cell in cells for text in cell.trusted]
    lines = []
    for marked_text, names in sorted(by_text(said).items()):  # "INVALID" stands before "note"
        mark, _, text = marked_text.partition(": ")
        lines.append(visible(f"{mark}: {_named(names, len(cells))}: {text}"))
    return lines


MARKS = {"identical": "=", "ok": "~", "improved": "▲", "regressed": "▼", "inconclusive": "?", "invalid": "✗"}
LEGEND = "= identical  ~ no worse  ▲ improved  ▼ regressed  ? can't tell  ✗ invalid or not comparable"


def worth_a_line(verdict: Verdict) -> bool:
    """Somebody should look at the cell."""
    return verdict.fails or verdict.kind in ("inconclusive", "improved") or verdict.lower


def verdict_rows(verdicts: Sequence[tuple[CellRecord, Verdict]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the paired table: tokens per step then and now, the change with its interval."""
    header = ["cell", "n", "baseline", "now", "change %", "95 % CI", "", "same text"]
    rows = []
    for record, verdict in verdicts:
        primary = verdict.primary
        rows.append(
            [
                marked(record),
                str(verdict.prompts) if primary else DASH,
                number(primary.r0 if primary else None),
                number(primary.r1 if primary else None),
                signed(verdict.change),
                signed_interval(verdict.interval),
                MARKS[verdict.kind],
                f"{verdict.same_text}/{verdict.prompts}" if primary else DASH,
            ]
        )
    return header, rows


def verdict_report(verdicts: Sequence[tuple[CellRecord, Verdict]]) -> str:
    """The paired table with what limits its reading below."""
    notes = by_text((str(record.cell), note) for record, verdict in verdicts for note in verdict.notes)
    lines = [f"note: {_named(names, len(verdicts))}: {note}" for note, names in notes.items()]
    lines += [f"note: {note}" for note in holm_notes([(str(record.cell), v) for record, v in verdicts])]
    lines += [f"{MARKS[v.kind]} {record.cell}: {v.text}" for record, v in verdicts if worth_a_line(v)]
    table = text_table(*verdict_rows(verdicts))
    return "\n".join(["tokens per step against the baseline", table, LEGEND, *map(visible, lines)])


def _named(names: Sequence[str], of: int) -> str:
    return f"all {of} cells" if len(names) == of > 1 else ", ".join(names)


def report(cells: Sequence[CellRecord]) -> str:
    """Everything that the end of a run prints about its cells."""
    parts = common_lines(cells)
    parts += ["", "acceptance (tok acc, positions and i|j, given the one before: %)"]
    parts += [text_table(*acceptance_rows(cells)), "", text_table(*speed_rows(cells))]
    notes = footnotes(cells)
    return "\n".join([*parts, *([""] if notes else []), *notes])
