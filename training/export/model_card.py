"""Writes the model card of an exported drafter from its records. An em dash is what was not measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from harness.report import card
from harness.text.numbers import DASH, duration, number, share
from harness.text.render import markdown, visible
from training.recipe import served_as

Get = Callable[[str], Any]
"""Finds the record at a path like `recipe.train.lr`; None where there is none."""


def text(records: Mapping[str, Any]) -> str:
    """README.md from training.json."""

    def get(path: str) -> Any:
        return find(records, path)

    sections = (_head, _use, _data, _training, _acceptance, _limits, _files)
    return "\n\n".join(section(get) for section in sections) + "\n"


def find(records: Any, path: str) -> Any:
    """The value at `a.b.c`; None where there is none."""
    for name in path.split("."):
        records = records.get(name) if isinstance(records, Mapping) else None
    return records


def _head(get: Get) -> str:
    words = [
        f"{_count(get('recipe.train.num_layers'))} layer(s)",
        f"a draft vocabulary of {_count(get('recipe.dataset.draft_vocab_size'))} tokens",
        f"trained to guess {_count(get('recipe.train.ttt_steps'))} tokens ahead",
    ]
    kind = _say(get("recipe.train.algorithm"))
    return (
        f"# {_say(get('drafter'))}\n\n"
        f"A drafter for speculative decoding: it proposes tokens for {_say(get('target'))}, which keeps "
        f"those that it would have written itself. {_say(get('about'))}.\n\n"
        f"Method {kind}: {', '.join(words)}. Made by draftgate's recipe `{_say(get('recipe.name'))}` "
        "(recipe.toml); all figures here are from training.json. Without the target it says nothing."
    )


def _use(get: Get) -> str:
    k = get("recipe.train.ttt_steps")
    method, target = (visible(str(get(name) or DASH)) for name in ("recipe.train.algorithm", "target"))
    settings = f'{{"method": "{served_as(method)}", "model": "FOLDER"'
    return (
        "## Use\n\n"
        f"    vllm serve {target} --speculative-config "
        f"'{settings}, \"num_speculative_tokens\": {_say(k)}}}'\n\n"
        "FOLDER is this one. Where it has no embeddings, the engine shares the target's with it."
    )


def _data(get: Get) -> str:
    sources = get("data.sources") or []
    rows = [
        [_say(s.get("source")), _language(s.get("language"))]
        + [_count(s.get(what)) for what in ("prompts", "answers", "tokens")]
        for s in sources
    ]
    most = _count(get("recipe.responses.max_tokens"))
    how = f"{_temperatures(get('data.temperatures'))}, at most {most} tokens"
    parts = [
        "## Data",
        f"Prompts, and the target's own answers to them: {how}.",
        tabled(["source", "language", "prompts", "answers kept", "tokens of answers"], rows),
        _shares(sources),
    ]
    dropped = get("data.dropped")
    if dropped is not None:
        rules = ", ".join(f"{markdown(rule.replace('_', ' '))} {n:,}" for rule, n in dropped.items() if n)
        parts.append(f"Answers dropped, by rule: {rules or 'none'}.")
    parts.append(
        f"Rows: {_count(get('data.train_rows'))} trained on, {_count(get('data.validation_rows'))} held out; "
        f"of the answers' tokens there, the draft vocabulary holds {share(get('data.coverage'))} %."
    )
    return "\n\n".join(parts)


def _shares(sources: Sequence[Mapping[str, Any]]) -> str:
    """How much of each language there is, and how little."""
    total = sum(s.get("tokens") or 0 for s in sources)
    if not total:
        return f"Share of the languages: {DASH}."
    said = []
    for language in sorted({str(s.get("language")) for s in sources} | {"zh"}):
        own = [s for s in sources if s.get("language") == language]
        answers, tokens = (sum(s.get(what) or 0 for s in own) for what in ("answers", "tokens"))
        amount = (
            f"{answers:,} answers, {tokens:,} tokens, {share(tokens / total)} % of all" if own else "none"
        )
        said.append(f"{_language(language)}: {amount}")
    return f"{'; '.join(said)}."


def _training(get: Get) -> str:
    rows = [
        ["steps", _count(get("training.steps"))],
        ["epochs", f"{_count(get('training.epochs'))} of {_count(get('recipe.train.epochs'))}"],
        ["time", _time(get("training.times.total_s"))],
        ["of it in steps", _time(get("training.step_seconds"))],
        ["waiting for data (fetch_frac)", f"{share(get('training.fetch_frac'))} %"],
        [
            "hidden states",
            f"{_count(get('training.extraction.tokens_per_s'))} tokens/s ({_say(get('training.mode'))})",
        ],
        ["samples without them", _count(get("training.empty_samples"))],
        ["trained on", _say(get("device"))],
        ["versions", markdown(", ".join(f"{n} {v}" for n, v in (get("versions") or {}).items())) or DASH],
    ]
    epochs = get("training.validations") or []
    table = [
        [_epoch(e.get("epoch")), number(e.get("loss"), 3), *(share(v) for v in e.get("full_acc") or ())]
        for e in epochs
    ]
    deepest = max((len(e.get("full_acc") or ()) for e in epochs), default=0)
    header = ["epoch", "validation loss", *(f"full acc {i} %" for i in range(deepest))]
    best = get("training.validation.epoch")
    return "\n\n".join(
        [
            "## Training",
            tabled(["", ""], rows),
            "Validation after each epoch, as the trainer counts it (over its draft vocabulary, all answers):",
            tabled(header, table),
            f"Exported: epoch {_epoch(best)}, the one with the lowest validation loss.",
        ]
    )


def _acceptance(get: Get) -> str:
    """The trainer's figure, what follows from it for serving, and what serving gave."""
    rows: list[Mapping[str, Any]] = []
    for code, found in sorted((get("validation") or {}).items()):
        if code != "all":
            one = {"endpoint": "chat", "language": code, "prompts_of": card.HELD_OUT, "temperature": 0}
            one |= {"prompts": found.get("prompts"), "k": found.get("k")}
            rows.append({**one, "what": "validation, full acc", "acceptance": found.get("trainer")})
            walk = {"acceptance": found.get("walk"), "tokens_per_step": found.get("tokens_per_step")}
            rows.append({**one, "what": "predicted for serving", **walk})
    rows += [{**one, "what": "served"} for one in get("served") or ()]
    figures = card.block(
        rows or [{"what": "validation, served"}], positions=get("recipe.train.ttt_steps") or 0
    )
    return (
        f"## Acceptance: validation and served\n\n{figures}\n\n"
        "Full acc is the trainer's count over all places of an answer, within the draft vocabulary; predicted"
        " for serving is the same guesses against the target's own tokens, at the places serving comes to."
    )


def _limits(get: Get) -> str:
    served = [one for one in get("served") or () if one.get("valid", True)]
    trained = sorted({str(s.get("language")) for s in get("data.sources") or () if s.get("tokens")})
    known = " and ".join(map(_language, trained)) or DASH
    lines = [
        f"Trained on answers in {known} alone: other languages are new to it, like prompts unlike its own.",
        "It was trained on chat answers: on the raw endpoint the text is another one.",
        f"Its validation cannot tell how it does elsewhere. Served so far: {_measured(served)}.",
        "An acceptance is no speed-up: that depends on the target, the device and how many requests run.",
    ]
    if get("recipe.target.trust_remote_code") or get("recipe.train.args.trust_remote_code"):
        lines.append("Its recipe let the target run code that came with it (trust_remote_code).")
    misses = get("validation.all.vocab_share")
    if misses is not None:
        lines.append(
            f"{share(misses)} % of its first wrong guesses on held-out answers were for tokens outside its "
            "draft vocabulary, which it can never propose."
        )
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _measured(served: Sequence[Mapping[str, Any]]) -> str:
    conditions = {
        f"{_say(s.get('endpoint'))}, {_language(s.get('language'))}, T={s.get('temperature'):g}"
        for s in served
    }
    return "; ".join(sorted(conditions)) or f"{DASH} (not measured)"


def _files(get: Get) -> str:
    return f"## Files\n\n{files_table(dict(sorted((get('files') or {}).items())))}"


def files_table(files: Mapping[str, Mapping[str, Any]]) -> str:
    """Files by name, with their size and hash."""
    rows = [
        [markdown(name), f"{f['bytes'] / 1e6:.2f}", f"`{markdown(f['sha256'])}`"] for name, f in files.items()
    ]
    return tabled(["file", "MB", "SHA-256"], rows)


def tabled(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; without rows, of em dashes."""
    if not rows:
        rows = [[DASH] * len(header)]
    shown: str = tabulate(rows, headers=header, tablefmt="github", disable_numparse=True)
    return shown


def _say(value: Any) -> str:
    return DASH if value is None or value == "" else markdown(str(value))


def _count(value: Any) -> str:
    return DASH if value is None else f"{value:,d}"


def _epoch(index: int | None) -> str:
    """The trainer counts from 0."""
    return DASH if index is None else str(index + 1)


def _time(seconds: float | None) -> str:
    return DASH if seconds is None else duration(seconds)


def _language(code: Any) -> str:
    return markdown(card.language(code))


def _temperatures(counts: Mapping[str, int] | None) -> str:
    if not counts:
        return f"sampled at T={DASH}"
    return "sampled at " + ", ".join(f"T={float(t):g} ({n:,})" for t, n in sorted(counts.items()))
