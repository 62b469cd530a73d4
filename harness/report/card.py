"""The figures of a model card: acceptance by language and endpoint, what limits it, and where it is from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.judge.footnotes import temperature
from harness.judge.pairing import Counted, counted
from harness.report.references import NOTHING, comment
from harness.results.records import CellRecord, tallies
from harness.results.stretches import intervals_of
from harness.results.whole import said_of
from harness.text.numbers import DASH, ranged, share
from harness.text.render import Block, markdown, markdown_table, raised

HELD_OUT = "held out in training"
PARITY = ("parity", "contract")
"""The suite that asks the prompts which training held out, and its name in older runs."""
_LANGUAGES = {"en": "English", "zh": "Chinese"}
_HEADER = ("", "endpoint", "language", "prompts of", "prompts", "T", "k", "tokens/step")
_LEGEND = "`pos i`: share of drafts whose guesses 0 to i were all accepted. Intervals: 95 %, over prompts."


def values_of(record: CellRecord, *, run: str) -> dict[str, Any]:
    """The figures of one measured cell, with 95 % intervals over prompts; None where there is none.

    `prompts_of` says whose prompts: those that training held out, or the benchmark's of one workload.

    Args:
        record: the cell.
        run: what `draftgate claims` finds it by.
    """
    counts = counted(record) if record.valid else Counted([], tallies([]))
    of_rate, of_shares = intervals_of(counts.records, counts.sums)
    total, gpus = counts.sums.total(), [str(gpu.name) for gpu in record.environment.gpus]
    traps = [f"{'INVALID: ' * hard}{text}" for hard, text in said_of(record.findings, record.prompts)]
    return {
        "prompts_of": HELD_OUT if record.suite in PARITY else f"benchmark, {record.cell.workload}",
        "endpoint": record.cell.endpoint,
        "language": record.cell.language,
        "k": record.cell.k,
        "prompts": len({r.prompt for r in counts.records}),
        "temperature": temperature(record),
        "max_tokens": record.identity.max_tokens,
        "engine": record.subject.engine,
        "device": ", ".join(gpus) or record.environment.cpu,
        "weights": record.subject.weights,
        "valid": record.valid,
        "tokens_per_step": total.tokens_per_step,
        "tokens_per_step_ci": of_rate,
        "tau": total.tau,
        "acceptance": total.acceptance,
        "acceptance_ci": of_shares,
        "traps": [*traps, *record.trusted],
        "reference": {"run": run, "cell": str(record.cell)},
    }


def block(rows: Sequence[Mapping[str, Any]], *, positions: int = 0) -> str:
    """Markdown: a table of rows as `values_of` makes them, each with `what` it is, and its legend.

    Args:
        rows: what one lacks is an em dash.
        positions: how many the table has at least.
    """
    positions = max([positions, *(len(row.get("acceptance") or ()) for row in rows)])
    traps = {
        text: i for i, text in enumerate(dict.fromkeys(t for r in rows for t in r.get("traps") or ()), 1)
    }
    header = (*_HEADER, *(f"pos {i} %" for i in range(positions)), "vLLM", "device", "traps")
    fields = [NOTHING] * 4 + ["prompts", NOTHING, NOTHING, _field("tokens_per_step")]
    fields += [*(_field(f"pos_{i}", "%") for i in range(positions)), *[NOTHING] * 3]
    known = [r.get("reference") for r in rows]
    references = [comment({key: r[key] for key in ("run", "cell")}) if r else "" for r in known]
    table = Block(
        header=header, rows=tuple(tuple(_cells(row, positions, traps)) for row in rows),
        align="llll" + "r" * (4 + positions) + "lll", comments=tuple(references),
    )  # fmt: skip
    parts = [comment({"columns": ",".join(fields)})] if any(references) else []
    parts += ["\n".join(markdown_table(table)), _LEGEND]
    if traps:
        parts.append("<br>\n".join(f"{raised(i)} {markdown(text)}" for text, i in traps.items()))
    return "\n\n".join(parts)


def _field(name: str, percent: str = "") -> str:
    return "/".join(f"{name}{end}{percent}" for end in ("", "_low", "_high"))


def _cells(row: Mapping[str, Any], positions: int, traps: Mapping[str, int]) -> Iterator[str]:
    get = row.get
    yield f"{get('what') or DASH}{'' if get('valid', True) else ' (not valid)'}"
    yield from (get("endpoint") or DASH, language(get("language")), get("prompts_of") or DASH)
    yield DASH if get("prompts") is None else f"{get('prompts'):,d}"
    yield DASH if get("temperature") is None else f"{get('temperature'):g}"
    yield DASH if get("k") is None else str(get("k"))
    yield ranged(get("tokens_per_step"), get("tokens_per_step_ci"))
    rates, ends = list(get("acceptance") or ()), list(get("acceptance_ci") or ())
    for i in range(positions):
        rate, between = (v[i] if i < len(v) else None for v in (rates, ends))
        yield ranged(rate, between, share)
    yield from (get("engine") or DASH, get("device") or DASH)
    fired = get("traps")
    yield DASH if fired is None else " ".join(map(raised, sorted(traps[text] for text in fired))) or "none"


def language(code: Any) -> str:
    """`English` for `en`; a code that has no name here stays, and an em dash stands for none."""
    return _LANGUAGES.get(str(code), str(code) if code else DASH)
