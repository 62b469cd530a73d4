"""What a prompt becomes over each endpoint, in tokens, and what a missing template does to acceptance."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from harness.config.prompts import Prompt, hash_of
from harness.errors import ServerFailed
from harness.measure import validity
from harness.measure.probe import Tokens
from harness.results.records import CellRecord, PromptRecord
from harness.stats import paired as stats
from harness.stats.acceptance import Tally, added
from harness.stats.text_quality import degenerate
from harness.text.numbers import number

CHAT, RAW, TEMPLATED = VARIANTS = ("chat", "raw", "raw + template")
Template = Literal["present", "doubled", "partial", "missing"]
_PROBES = ("Q", "7")
"""They share no letter, so that what both become has only the template in common."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shell:
    """What a chat template puts around a user's words."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    bos: int | None
    """The token that a text begins with; None where the tokenizer has none."""

    def template(self, ids: Sequence[int]) -> Template:
        """Whether it stands around these tokens, once or twice."""
        whole = tuple(ids)
        begins, ends = whole[: len(self.before)] == self.before, _ends(whole, self.after)
        if max(_count(whole, self._opening), _count(whole, self.after)) > 1:
            return "doubled"
        if begins and ends and (self.before or self.after):
            return "present"
        return "partial" if (begins and self._opening) or (ends and self.after) else "missing"

    @property
    def _opening(self) -> tuple[int, ...]:
        """Its beginning without the token that every text may begin with."""
        return self.before[1:] if self.before and self.before[0] == self.bos else self.before

    def double_bos(self, ids: Sequence[int]) -> bool:
        """The text begins twice."""
        return self.bos is not None and tuple(ids[:2]) == (self.bos, self.bos)


def _ends(ids: tuple[int, ...], with_: tuple[int, ...]) -> bool:
    return ids[len(ids) - len(with_) :] == with_


def _count(ids: tuple[int, ...], part: tuple[int, ...]) -> int:
    return sum(ids[i : i + len(part)] == part for i in range(len(ids) - len(part) + 1)) if part else 0


def shell_of(tokens: Tokens) -> Shell:
    """What the server's template puts around a message, by the tokens of two that have nothing in common.

    Raises:
        ServerFailed: no usable answer.
    """
    one, two = (tokens.chat(probe) for probe in _PROBES)
    before = _common(one, two)
    after = tuple(reversed(_common(one[::-1], two[::-1])))
    plain, with_special = tokens.raw(_PROBES[0], special=False), tokens.raw(_PROBES[0])
    added_first = with_special[0] if with_special[-len(plain) :] == plain != with_special else None
    return Shell(
        before=before, after=after, bos=added_first if added_first is not None else (before or (None,))[0]
    )


def _common(one: tuple[int, ...], two: tuple[int, ...]) -> tuple[int, ...]:
    length = 0
    while length < min(len(one), len(two)) and one[length] == two[length]:
        length += 1
    return one[:length]


def template_of(folder: Path | None) -> Callable[[str], str] | None:
    """Renders a user's message by the template in a model's folder, as a person would by hand.

    None where the folder has none, or jinja2 is not installed: then the server's own rendering, turned back
    into text, must do.
    """
    if folder is None:
        return None
    try:
        import jinja2.sandbox  # noqa: PLC0415 - comes with every engine, the core does not need it
    except ImportError:
        return None
    config: dict[str, Any] = {}
    source: Any = None
    with contextlib.suppress(OSError, ValueError):
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        source = config.get("chat_template")
    with contextlib.suppress(OSError, UnicodeDecodeError):
        source = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if not isinstance(source, str):
        return None

    def refuse(message: str) -> str:
        raise ServerFailed(f"the chat template of {folder.name} refuses a user's message: {message}")

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = refuse
    special = {
        name: value.get("content") if isinstance(value, dict) else value
        for name, value in config.items()
        if name.endswith("_token")
    }
    try:
        template = environment.from_string(source)
    except jinja2.TemplateError as error:
        raise ServerFailed(f"the chat template of {folder.name} is none: {error}") from None

    def render(text: str) -> str:
        message = {"role": "user", "content": text}
        try:
            return template.render(messages=[message], add_generation_prompt=True, **special)
        except jinja2.TemplateError as error:
            raise ServerFailed(f"the chat template of {folder.name} cannot be rendered: {error}") from None

    return render


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rendered:
    """One prompt over one variant, before it is answered."""

    prompt: str
    variant: str
    ids: tuple[int, ...]
    template: Template
    double_bos: bool


def rendered(
    prompts: Sequence[Prompt], variant: str, *, tokens: Tokens, shell: Shell
) -> tuple[Rendered, ...]:
    """What the server makes of prompts as a variant sends them.

    Raises:
        ServerFailed: no usable answer.
    """
    make = tokens.chat if variant == CHAT else tokens.raw
    found = []
    for prompt in prompts:
        ids = make(prompt.text)
        found.append(
            Rendered(
                prompt=prompt.id, variant=variant, ids=ids,
                template=shell.template(ids), double_bos=shell.double_bos(ids),
            )
        )  # fmt: skip
    return tuple(found)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Audit:
    """One cell's prompts over all variants: what they were rendered to, and what was accepted."""

    records: Mapping[str, CellRecord]
    rendered: Mapping[str, tuple[Rendered, ...]]

    def tally(self, variant: str) -> Tally:
        """Of all its answers."""
        return validity.total(self.records[variant].prompts)

    def templates(self, variant: str) -> str:
        """`present`; of several, how often each."""
        each = [r.template for r in self.rendered[variant]]
        kinds = sorted(set(each))
        return kinds[0] if len(kinds) == 1 else ", ".join(f"{each.count(kind)} {kind}" for kind in kinds)

    def same_tokens(self, variant: str) -> int:
        """Prompts that are the same tokens there as over chat."""
        pairs = zip(self.rendered[CHAT], self.rendered[variant], strict=True)
        return sum(one.ids == other.ids for one, other in pairs)

    def same_answers(self, variant: str) -> int:
        """Prompts with the same answer in the same steps as over chat."""
        pairs = self._paired(CHAT, variant)
        return sum(all(_steps(a) == _steps(b) for a, b in zip(*pair, strict=False)) for pair in pairs)

    def change(self, old: str, new: str) -> stats.PairedRatio | None:
        """Of tokens per step, prompt by prompt; None where too few of them have any."""
        sides: list[list[Tally]] = [[], []]
        for pair in self._paired(old, new):
            tallies = [added([r.tally for r in side if validity.countable(r)]) for side in pair]
            if all(t.decode_steps for t in tallies):
                for side, tally in zip(sides, tallies, strict=True):
                    side.append(tally)
        before, after = sides
        with contextlib.suppress(ValueError):
            return stats.paired_log_ratio(
                [t.committed for t in before], [t.decode_steps for t in before],
                [t.committed for t in after], [t.decode_steps for t in after],
            )  # fmt: skip
        return None

    def _paired(self, old: str, new: str) -> list[tuple[list[PromptRecord], list[PromptRecord]]]:
        sides = []
        for variant in (old, new):
            by_prompt: dict[str, list[PromptRecord]] = {}
            for record in self.records[variant].prompts:
                by_prompt.setdefault(record.prompt, []).append(record)
            sides.append(by_prompt)
        return [(sides[0][prompt], sides[1][prompt]) for prompt in sides[0] if prompt in sides[1]]

    def faults(self) -> list[str]:
        """Why this is no sound measurement; a template that `raw` lacks is none, it is what `raw` is."""
        found = []
        for variant, record in self.records.items():
            if not record.valid:
                found += [f"{variant}: {f.text}" for f in record.findings if f.hard]
            hashes = {r.prompt: hash_of(list(r.ids)) for r in self.rendered[variant]}
            other = [
                r.prompt for r in record.prompts if not r.failed and hashes.get(r.prompt) != r.prompt_hash
            ]
            if other:
                which = f"{len(other)} prompts, {other[0]} first"
                found.append(f"{variant}: {which}, were answered from other tokens than /tokenize tells")
        wrong = [r for r in self.rendered[CHAT] if r.template != "present" or r.double_bos]
        if wrong:
            what = "a double BOS" if wrong[0].double_bos else f"the template {wrong[0].template}"
            found.append(f"chat: {len(wrong)} prompts, {wrong[0].prompt} first, have {what}")
        twice = [r for v in (RAW, TEMPLATED) for r in self.rendered[v] if r.template == "doubled"]
        if twice:
            found.append(
                f"{twice[0].variant}: {len(twice)} prompts, {twice[0].prompt} first, have the template twice"
            )
        if not found and self.same_tokens(TEMPLATED) == len(self.rendered[CHAT]) and not self.within_noise():
            found.append(
                "raw + template sends the same tokens as chat, but another share of drafts is accepted"
            )
        return found

    def within_noise(self) -> bool:
        """What raw accepts with the template is what chat accepts, as far as these prompts can tell."""
        change = self.change(CHAT, TEMPLATED)
        if change is None:
            return self.same_answers(TEMPLATED) == len(self.records[CHAT].prompts)
        low, high = change.ci()
        return low <= 0.0 <= high

    def sentences(self) -> list[str]:
        """What raw's acceptance owes to the missing template."""
        sent = len(self.rendered[CHAT])
        same, alike = self.same_tokens(TEMPLATED), self.same_answers(TEMPLATED)
        lines = [f"raw + template: the tokens of chat in {same} of {sent} prompts, its answer in {alike}"]
        lines += self.records[CHAT].trusted
        lines += [
            f"{variant}: {n} of {sent} prompts have a double BOS"
            for variant in VARIANTS
            if (n := sum(r.double_bos for r in self.rendered[variant]))
        ]
        whole, missing = self.change(CHAT, RAW), self.change(TEMPLATED, RAW)
        endpoint = self.change(CHAT, TEMPLATED)
        if whole is None or missing is None or endpoint is None:
            return [*lines, "too few prompts have a decode step over every endpoint to compare them"]
        lines.append(f"raw against chat: tokens per step {_told(whole)}")
        lines.append(f"of it the missing template: {_told(missing)}; the endpoint itself: {_told(endpoint)}")
        return lines


def _steps(record: PromptRecord) -> tuple[object, ...]:
    return record.text_hash, record.histogram, record.undrafted, record.output_tokens


def _told(change: stats.PairedRatio) -> str:
    if change.identical:
        return f"the same in all {change.m} prompts"
    low, high = (100 * math.expm1(bound) for bound in change.ci())
    return f"{100 * math.expm1(change.estimate):+.1f} % (95 % CI {low:+.1f}..{high:+.1f}, {change.m} prompts)"


def rows(audit: Audit) -> tuple[list[str], list[list[str]]]:
    """Header and rows, one a variant; acceptance in percent."""
    k = audit.records[CHAT].cell.k
    header = ["sent over", "n", "template", "double BOS", "prompt tokens", "tok/step", "tau"]
    header += [*(f"pos {i}" for i in range(k)), "loops"]
    table = []
    for variant in VARIANTS:
        record, tally, sent = audit.records[variant], audit.tally(variant), audit.rendered[variant]
        loops = sum(degenerate(r.text) for r in record.prompts if not r.failed)
        rates = [number(rate, 1, scale=100) for rate in tally.acceptance[:k]]
        table.append(
            [
                f"{variant} {validity.MARK}" if validity.mostly_degenerate(record.findings) else variant,
                str(sum(validity.countable(r) for r in record.prompts)),
                audit.templates(variant),
                f"{n} of {len(sent)}" if (n := sum(r.double_bos for r in sent)) else "no",
                number(sum(len(r.ids) for r in sent) / len(sent) if sent else None, 1),
                number(tally.tokens_per_step),
                number(tally.tau),
                *rates,
                *(number(None) for _ in range(k - len(rates))),
                str(loops),
            ]
        )
    return header, table


def token_lines(audit: Audit) -> str:
    """A JSON line for every prompt over every variant, with its token ids."""
    each = [r for variant in VARIANTS for r in audit.rendered[variant]]
    return "".join(json.dumps(dataclasses.asdict(r), ensure_ascii=False) + "\n" for r in each)
