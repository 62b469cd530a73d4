"""Checks whether a measurement is what it claims to be. Its findings are values for tables and gates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from harness.config.engine_arguments import drafts_from_answers
from harness.results.conditions import Patch, Subject
from harness.results.records import CellName, CellRecord, Finding, PromptRecord
from harness.results.timing import Speed, speed_of
from harness.results.whole import counted
from harness.stats.acceptance import Tally, added, overshoot_of
from harness.stats.text_quality import degenerate, in_language
from harness.text.numbers import numbered

ENOUGH_STEPS = 50
"""With fewer verify steps, 0 accepted tokens may be bad luck."""
MOSTLY = "mostly-loops"
"""The code of `loops` where it is more than half of the answers."""
MARK = "↻"
"""Marks such a cell in every table."""


def total(records: Iterable[PromptRecord]) -> Tally:
    """The tally of all answers that had a decode step."""
    return added(r.tally for r in records if countable(r))


def countable(record: PromptRecord) -> bool:
    """The answer reached a decode step. Other answers are left out, and a finding counts them."""
    return record.output_tokens > 1 and not record.failed


def remembers(subject: Subject) -> bool:
    """The drafter drafts from earlier answers."""
    return drafts_from_answers(subject.method, subject.settings)


def mostly_degenerate(findings: Iterable[Finding]) -> bool:
    """Most answers of the cell are loops. It measures how well loops are guessed: no claim about speed."""
    return any(finding.code == MOSTLY for finding in findings)


def speed_up(
    record: CellRecord, none: CellRecord | None, *, speeds: Sequence[Speed | None] = ()
) -> float | None:
    """Aggregate tok/s over that of `none` in the same place of the same run.

    Args:
        record: the drafter's.
        none: the one beside it.
        speeds: of both, if the caller has them already.

    Returns:
        None if one of them is not a measurement or was not timed, if most of its answers are degenerate, or
        if they are not `beside` each other.
    """
    if none is None or not all(r.valid and not mostly_degenerate(r.findings) for r in (record, none)):
        return None
    if not beside(record, none):
        return None
    mine, plain = speeds or (speed_of(record.prompts), speed_of(none.prompts))
    return mine.aggregate / plain.aggregate if mine and plain else None


def beside(record: CellRecord, none: CellRecord) -> bool:
    """One run measured both on one machine and the same devices, as far as their provenance says.

    A run may be merged from shards that other machines measured, or one machine for several nodes at once;
    its workers have devices of their own.
    """
    return all(record.provenance.get(at) == none.provenance.get(at) for at in ("host", "run", "devices"))


def findings(
    cell: CellName,
    records: Sequence[PromptRecord],
    *,
    moved: dict[str, int] | None,
    cache: str,
    patches: Sequence[Patch],
    restarts: Sequence[str] = (),
    max_tokens: int | None = None,
    remembers: bool = False,
    engine_chooses: bool = False,
) -> tuple[Finding, ...]:
    """What a reader must know of a cell.

    Args:
        cell: its name.
        records: its prompts, a request each, failed ones included.
        moved: by how much /metrics moved while these requests ran; None if it was not read around all of
            them (a resumed cell).
        cache: the profile's.
        patches: what the engine plug-in did.
        restarts: why the server was restarted while the cell was measured, each time.
        max_tokens: the profile's.
        remembers: the drafter drafts from earlier answers, to any request.
        engine_chooses: how many tokens a step drafts, so that it may be none.
    """
    result = [f for r in records for f in r.findings if f.hard]
    result += _unreconciled(records)
    unfinished = [r for r in records if r.finish == "length"]
    too_early = [r for r in unfinished if r.output_tokens < (max_tokens or 0)]
    cut_off = [r for r in unfinished if r.output_tokens >= (max_tokens or 0)]
    result += _cut_by_the_engine(too_early, len(records), max_tokens)
    if remembers and cache != "warm":
        result += _seen_before(records, cache)
    if moved is not None:
        result += _against_counters(records, moved, cache)
    tally = total(records)
    if cell.k and not any(r.failed for r in records):
        if not tally.verify_steps:
            kind = Finding.note if engine_chooses else Finding.fatal
            result.append(kind("no-drafts", "the drafter proposed nothing in any step"))
        elif not tally.accepted and tally.verify_steps >= ENOUGH_STEPS:
            result.append(
                Finding.fatal(
                    "dead-drafter",
                    f"none of {tally.verify_steps} drafts had its first token accepted",
                    drafts=tally.verify_steps,
                )
            )
    result += _soft_findings(cell, records, cut_off=cut_off)
    for fault in (str(patch.fault) for patch in patches if patch.patched):
        result.append(Finding.note("engine-mended", f"the engine runs with a patch: {fault}", fault=fault))
    if restarts:
        times = numbered(len(restarts), "time")
        text = f"the server was restarted {times}: {'; '.join(restarts)}"
        result.append(Finding.note("server-restarted", text, count=len(restarts)))
    return tuple(result)


def _unreconciled(records: Sequence[PromptRecord]) -> Iterator[Finding]:
    """The steps must make the tokens, but for the overshoot of the last step."""
    for r in filter(countable, records):
        k = len(r.histogram) - 1
        over = overshoot_of(r.histogram, undrafted=r.undrafted, output_tokens=r.output_tokens)
        if not 0 <= over <= k:
            yield Finding.fatal(
                "not-reconciled",
                f"{r.prompt}: its steps do not make its tokens: it has {r.output_tokens} output tokens, "
                f"but its steps make 1 + {r.output_tokens + over - 1} (0 to {k} more are possible)",
                prompt=r.prompt,
                output_tokens=r.output_tokens,
                overshoot=over,
            )


def _cut_by_the_engine(cut: Sequence[PromptRecord], of: int, max_tokens: int | None) -> Iterator[Finding]:
    """Answers that max_model_len cut before max_tokens: they are not what was asked for."""
    if cut:
        first = cut[0]
        yield Finding.fatal(
            "cut-by-max-model-len",
            f"{len(cut)} of {of} answers were cut before max_tokens ({max_tokens}), as {first.prompt} "
            f"at {first.prompt_tokens} + {first.output_tokens} tokens: raise max_model_len",
            count=len(cut),
            of=of,
        )


def _seen_before(records: Sequence[PromptRecord], cache: str) -> Iterator[Finding]:
    """Prompts asked twice of a server whose drafter remembers: a salt keeps no earlier answer from it."""
    asked = Counter((r.server, r.prompt) for r in records if not r.failed)
    if again := [prompt for (_, prompt), times in asked.items() if times > 1]:
        yield Finding.fatal(
            "warm-suffix-cache",
            f"one server was asked {len(again)} prompts more than once, and the drafter drafts from earlier "
            f"answers, but the cache should be {cache}: set suffix_decoding_max_cached_requests to 0, "
            'measure one repeat, or set cache = "warm"',
            count=len(again),
        )


def _against_counters(
    records: Sequence[PromptRecord], moved: dict[str, int], cache: str
) -> Iterator[Finding]:
    if moved["finished"] != len(records):
        yield Finding.fatal(
            "foreign-traffic",
            f"the server finished {moved['finished']} requests while {len(records)} of ours ran",
            finished=moved["finished"],
            ours=len(records),
        )
    ours = counted(records)
    if not any(r.failed for r in records):
        wrong = [f"{name} {moved[name]} and {n}" for name, n in ours.items() if moved[name] != n]
        if wrong:
            text = f"/metrics and the responses count differently: {'; '.join(wrong)}"
            more = {name: moved[name] - n for name, n in ours.items()}
            yield Finding.fatal("counters-disagree", text, **more)
    if cache in ("cold", "off") and moved["cached"]:
        yield Finding.fatal(
            "warm-cache",
            f"{moved['cached']} prompt tokens came from the prefix cache, which should be {cache}",
            cached=moved["cached"],
        )


def _soft_findings(
    cell: CellName, records: Sequence[PromptRecord], *, cut_off: Sequence[PromptRecord]
) -> list[Finding]:
    answered = [r for r in records if not r.failed]
    result = []

    def note(code: str, which: Sequence[PromptRecord], what: str) -> None:
        if which:
            text = f"{len(which)} of {len(records)} {what}"
            result.append(Finding.note(code, text, count=len(which), of=len(records)))

    if cell.workload != "code":  # an answer in code has its own language
        other = [r for r in answered if in_language(r.text, cell.language) is False]
        note("other-language", other, f"answers are not in the prompt's language ({cell.language})")
    result += _loops(cell, records)
    not_content = [r for r in answered if r.parts]
    note("parts", not_content, f"answers are not content alone ({_parts(not_content)})")
    thought = [r for r in answered if any(part == "reasoning" for part, _ in r.parts or ())]
    if cell.thinking == "off":
        note("thinking", thought, "answers have reasoning, though thinking is off")
    if cell.thinking == "on" and not thought:
        note("thinking", answered, "answers have no reasoning, though thinking is on")
    note("no-text", [r for r in answered if r.output_tokens > 1 and not r.text], "answers have no text")
    unseen = [r for r in answered if r.total_s is not None and r.ttft_s is None]
    what = "answers do not show when their first token came (does a proxy hold them back?)"
    note("first-token-unseen", unseen, f"{what}: TTFT and TPOT are without them")
    unread = [(r, f.values["fields"]) for r in answered for f in r.findings if f.code == "unread-field"]
    fields = ", ".join(sorted({str(names) for _, names in unread}))
    what = f"answers came with fields that draftgate does not know, so they are not in its text: {fields}"
    note("unread-field", [r for r, _ in unread], what)
    note("cut-off", cut_off, "answers were cut off at max_tokens")
    note(
        "left-out", [r for r in answered if not countable(r)], "answers ended before their first decode step"
    )
    return result


def _loops(cell: CellName, records: Sequence[PromptRecord]) -> Iterator[Finding]:
    """How many answers got stuck, and the figures of the others alone."""
    stuck = [not r.failed and degenerate(r.text) for r in records]
    if not any(stuck):
        return
    mostly = sum(stuck) * 2 > len(records)
    text = f"{sum(stuck)} of {len(records)} answers end in a loop"
    if cell.k:
        rest = [r for r, is_stuck in zip(records, stuck, strict=True) if not is_stuck]
        text += f"; {_without(rest, records)}"
    if mostly:
        text += f" ({MARK} mostly degenerate: no claim about speed)"
    yield Finding.note(MOSTLY if mostly else "loops", text, count=sum(stuck), of=len(records))


def _parts(records: Sequence[PromptRecord]) -> str:
    """`reasoning 83 %, content 17 %`: of the characters."""
    lengths: Counter[str] = Counter()
    for part, length in (one for r in records for one in r.parts or ()):
        lengths[part] += length
    return ", ".join(f"{part} {n / lengths.total():.0%}" for part, n in lengths.items())


def _percents(tally: Tally) -> str:
    """`57.0 / 28.1 / 14.0 / 7.2`: acceptance at every position."""
    return " / ".join(f"{(rate or 0) * 100:.1f}" for rate in tally.acceptance)


def _without(rest: Sequence[PromptRecord], records: Sequence[PromptRecord]) -> str:
    left, everything = total(rest), total(records)
    if left.tokens_per_step is None or everything.tokens_per_step is None:
        return "without them nothing is left to measure"
    parts = [f"tok/step {left.tokens_per_step:.2f} (with: {everything.tokens_per_step:.2f})"]
    if left.verify_steps:
        parts.append(f"positions {_percents(left)} % (with: {_percents(everything)} %)")
    return f"without them {', '.join(parts)}"
