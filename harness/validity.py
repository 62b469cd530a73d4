"""Is this measurement what it claims to be? Findings as values, for a table or a gate to show."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from harness.acceptance import Tally, added, overshoot_of
from harness.records import CellName, Finding, PromptRecord

ENOUGH_STEPS = 50
"""Verify steps below which 0 accepted tokens may be bad luck."""
ENOUGH_LETTERS = 12
LOOP_SHARE = 0.3
"""Share of an answer, from its end, that must be one piece over and over."""
LOOP_TIMES = 3

_HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_LATIN = re.compile(r"[A-Za-z\u00c0-\u024f]")
_SCRIPTS = {"zh": _HAN, "en": _LATIN}


def total(records: Iterable[PromptRecord]) -> Tally:
    """The tally of all answers that had a decode step."""
    return added(r.tally for r in records if countable(r))


def countable(record: PromptRecord) -> bool:
    """The answer reached a decode step; others are left out and counted."""
    return not record.failed and record.output_tokens > 1


def in_language(text: str, language: str) -> bool | None:
    """More than half of the letters are of the language's script; None where that can't be told.

    Latin and Han letters are told apart; a word of four Latin letters weighs as one Han letter, since it
    says about as much.
    """
    if language not in _SCRIPTS:
        return None
    weights = {
        name: len(script.findall(text)) / (4 if name == "en" else 1) for name, script in _SCRIPTS.items()
    }
    if sum(weights.values()) < ENOUGH_LETTERS / 4:
        return None
    return weights[language] * 2 > sum(weights.values())


def loops(text: str) -> bool:
    """The end of the answer is one piece over and over.

    True where the last 30 % or more of it, 24 characters at least, are a piece of any length repeated
    three times or more. Characters, not words: it must work in every language and in code.
    """
    text = text.rstrip()
    least = max(24, int(len(text) * LOOP_SHARE))
    for period in range(1, len(text) // LOOP_TIMES + 1):
        length = 0
        while length < len(text) - period and text[-1 - length] == text[-1 - length - period]:
            length += 1
        repeated = length + period
        if length and repeated >= least and repeated >= LOOP_TIMES * period:
            return True
    return False


def findings(
    cell: CellName,
    records: Sequence[PromptRecord],
    *,
    moved: dict[str, int] | None,
    requests: int,
    cache: str,
    mends: Sequence[dict[str, object]],
    restarts: Sequence[str] = (),
) -> tuple[Finding, ...]:
    """What a reader must know of a cell.

    Args:
        cell: its name.
        records: its prompts.
        moved: what /metrics moved by while `requests` requests of ours ran; None where it was not read
            around all of them (a cell resumed).
        requests: ours, failed ones included.
        cache: the profile's.
        mends: what the engine plug-in did.
        restarts: why the server was started anew while the cell was measured, each time.
    """
    found = [f for r in records for f in r.findings]
    found += _unreconciled(records)
    if moved is not None:
        found += _against_counters(records, moved, requests, cache)
    tally = total(records)
    if cell.k and not any(r.failed for r in records):
        if not tally.verify_steps:
            found.append(_hard("no-drafts", "the drafter proposed nothing in any step"))
        elif not tally.accepted and tally.verify_steps >= ENOUGH_STEPS:
            found.append(
                _hard("dead-drafter", f"none of {tally.verify_steps} drafts had its first token accepted")
            )
    found += _soft_findings(cell, records)
    found += [
        _soft("engine-mended", f"the engine runs with a mend: {mend.get('fault')}")
        for mend in mends
        if mend.get("mended")
    ]
    if restarts:
        times = f"{len(restarts)} time{'s' * (len(restarts) > 1)}"
        found.append(_soft("server-restarted", f"the server was restarted {times}: {'; '.join(restarts)}"))
    return tuple(found)


def _hard(code: str, text: str) -> Finding:
    return Finding(code=code, hard=True, text=text)


def _soft(code: str, text: str) -> Finding:
    return Finding(code=code, hard=False, text=text)


def _unreconciled(records: Sequence[PromptRecord]) -> list[Finding]:
    """Steps and tokens must tell the same story, but for the overshoot of the last step."""
    found = []
    for r in records:
        if not countable(r):
            continue
        k = len(r.histogram) - 1
        over = overshoot_of(r.histogram, undrafted=r.undrafted, output_tokens=r.output_tokens)
        if not 0 <= over <= k:
            found.append(
                _hard(
                    "not-reconciled",
                    f"{r.prompt}: steps and tokens do not add up: {r.output_tokens} output tokens, but "
                    f"1 + {r.output_tokens + over - 1} from its steps (an overshoot of 0 to {k} is possible)",
                )
            )
    return found


def _against_counters(
    records: Sequence[PromptRecord], moved: dict[str, int], requests: int, cache: str
) -> list[Finding]:
    found = []
    if moved["finished"] != requests:
        found.append(
            _hard(
                "foreign-traffic",
                f"the server finished {moved['finished']} requests while {requests} of ours ran",
            )
        )
    whole = [r for r in records if not r.failed]
    ours = {
        "drafts": sum(sum(r.histogram) for r in whole),
        "accepted": sum(j * n for r in whole for j, n in enumerate(r.histogram)),
        "generated": sum(r.output_tokens for r in whole),
    }
    if len(whole) == len(records):
        wrong = [f"{name} {moved[name]} against {n} of ours" for name, n in ours.items() if moved[name] != n]
        if wrong:
            found.append(_hard("counters-disagree", f"/metrics and the responses differ: {'; '.join(wrong)}"))
    if cache in ("cold", "off") and moved["cached"]:
        found.append(
            _hard(
                "warm-cache",
                f"{moved['cached']} prompt tokens came from the prefix cache, which should be {cache}",
            )
        )
    return found


def _soft_findings(cell: CellName, records: Sequence[PromptRecord]) -> list[Finding]:
    answered = [r for r in records if not r.failed]
    found = []

    def tell(code: str, which: Sequence[PromptRecord], what: str) -> None:
        if which:
            found.append(_soft(code, f"{len(which)} of {len(records)} {what}"))

    if cell.workload != "code":  # an answer in code has its own language
        other = [r for r in answered if in_language(r.text, cell.language) is False]
        tell("other-language", other, f"answers are not in the prompt's language ({cell.language})")
    tell("loops", [r for r in answered if loops(r.text)], "answers end in a loop")
    tell(
        "left-out", [r for r in answered if not countable(r)], "answers ended before their first decode step"
    )
    return found
