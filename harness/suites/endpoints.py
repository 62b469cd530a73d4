"""The endpoints suite: is a prompt the same over `chat` and `raw`, and what does a missing template cost?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.config.cells import Cell
from harness.config.engine_arguments import underscored
from harness.config.prompts import Prompt, hash_of
from harness.config.stack import Stack
from harness.measure.chat_template import Shell, Template, shell_of, template_of
from harness.measure.probe import Tokens
from harness.measure.validity import MARK, countable, mostly_degenerate, total
from harness.provenance.record import folder_of
from harness.report.run_table import POSITION
from harness.results.files import as_line, write_atomically
from harness.results.grouping import grouped
from harness.results.records import CellRecord, PromptRecord
from harness.run import Run
from harness.stats.paired import PairedRatio
from harness.stats.text_quality import degenerate
from harness.suites.beside_none import committed, decode_steps, paired
from harness.suites.long_prompts import texts_alone
from harness.suites.runner import Bench, Kind, Outcome, Suite
from harness.text.numbers import DASH, number, percent, share, signed_interval
from harness.text.render import Block, Piece

CHAT, RAW, TEMPLATED = VARIANTS = ("chat", "raw", "raw + template")


def _over_chat(cell: Cell, _: Stack, __: str) -> bool:
    """One audit for each cell over chat: it sends its prompts over raw as well."""
    return cell.name.endpoint == CHAT


def _plan(run: Run, cells: Sequence[Cell]) -> list[str]:
    """Nothing to say; a chat is refused before anything starts."""
    for cell in cells:
        texts_alone(run, cell, why="raw takes texts alone")
    return []


SUITE = Suite(name="endpoints", by_path=True, drafting=True, takes=_over_chat, plan=_plan)
_RENDERS = {"chat_template", "chat_template_content_format", "default_chat_template_kwargs"}
"""Arguments of the engine with which it renders otherwise than the model's own template says."""
_FOLDERS = {CHAT: SUITE.name, RAW: SUITE.name, TEMPLATED: f"{SUITE.name}/templated"}


def endpoints(bench: Bench, cell: Cell) -> Outcome:
    """Measure a cell over every variant on one server, and look at what each prompt became.

    Raises:
        BadInput, ServerFailed: see `Bench.measured`; or the server has no usable tokenizer.
    """
    audit = _audited(bench, cell)
    write_atomically(bench.run.folder / SUITE.name / f"{cell}.tokens.jsonl", token_lines(audit))
    faults = audit.faults()
    kind: Kind = "failed" if faults else "fine"
    if not all(record.valid for record in audit.records.values()):
        kind = "invalid"
    table: tuple[Piece, ...] = (rows(audit), *audit.sentences(), *faults)
    return Outcome(suite=SUITE.name, cell=str(cell), kind=kind, sentence="; ".join(faults), table=table)


def _audited(bench: Bench, cell: Cell) -> Audit:
    server = bench.slot.get(cell.spec)
    tokens = Tokens(server, cell.template)
    shell = shell_of(tokens)
    target = cell.spec.target
    folder = folder_of(target.tokenizer or server.target_path, target.revision)
    # The server may have been given another template than the model's.
    given = _RENDERS & underscored(cell.spec.args).keys()
    by_hand = template_of(Path(folder) if folder and not given else None, cell.template)

    def with_template(prompt: Prompt) -> Prompt:
        text = by_hand(prompt.text) if by_hand else tokens.text(tokens.chat(prompt.text))
        return dataclasses.replace(prompt, text=text)

    plain = bench.run.prompts(cell)
    sent = {CHAT: plain, RAW: plain, TEMPLATED: tuple(with_template(prompt) for prompt in plain)}
    ways = {v: rendered(prompts, v, tokens=tokens, shell=shell) for v, prompts in sent.items()}
    records = {}
    for variant, prompts in sent.items():
        name = cell.name.model_copy(update={"endpoint": CHAT if variant == CHAT else RAW})
        one = dataclasses.replace(cell, name=name)
        records[variant] = bench.measured(one, suite=_FOLDERS[variant], prompts=prompts)
    later = rendered(plain, CHAT, tokens=tokens, shell=shell)
    return Audit(records=records, rendered=ways, steady=ways[CHAT] == later)


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
    return tuple(
        Rendered(
            prompt=prompt.id, variant=variant, ids=(ids := make(prompt.text)),
            template=shell.template(ids), double_bos=shell.double_bos(ids),
        )
        for prompt in prompts
    )  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Audit:
    """One cell's prompts over all variants: what they were rendered to, and what was accepted."""

    records: Mapping[str, CellRecord]
    rendered: Mapping[str, tuple[Rendered, ...]]
    steady: bool = True
    """Over chat the server renders the prompts to the same tokens as before it answered them."""

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
        before, after = (grouped(self.records[way].prompts, lambda r: r.prompt) for way in (CHAT, variant))
        pairs = (zip(own, after[prompt], strict=False) for prompt, own in before.items() if prompt in after)
        return sum(all(_steps(a) == _steps(b) for a, b in pair) for pair in pairs)

    def change(self, old: str, new: str) -> PairedRatio | None:
        """The change of tokens per step, prompt by prompt; None where too few prompts have a decode step."""
        return paired(self.records[old], self.records[new], committed, decode_steps)

    def faults(self) -> list[str]:
        """What is wrong with this measurement. That `raw` lacks the template is not wrong: it should."""
        found = []
        for variant, record in self.records.items():
            if not record.prompts:
                found.append(f"{variant}: no prompt was answered")
            if not record.valid:
                found += [f"{variant}: {f.text}" for f in record.findings if f.hard]
            hashes = {r.prompt: hash_of(list(r.ids)) for r in self.rendered[variant]}
            other = [
                r.prompt
                for r in self._with_tokens(record)
                if not r.failed and hashes.get(r.prompt) != r.prompt_hash
            ]
            if other and (self.steady or variant != CHAT):
                which = f"{len(other)} prompts, {other[0]} first"
                found.append(f"{variant}: {which}, were answered from other tokens than /tokenize gives")
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

    @staticmethod
    def _with_tokens(record: CellRecord) -> list[PromptRecord]:
        """The answers that say to which tokens their prompt was rendered; those of an older file may."""
        return [r for r in record.prompts if r.rendered_hash or not r.prompt_text_hash]

    def within_noise(self) -> bool:
        """What raw accepts with the template is what chat accepts, as far as these prompts can show."""
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
        if not self.steady:
            lines.append("chat: the template writes the time: the same message is other tokens a while later")
        for variant, record in self.records.items():
            answered = sum(not r.failed for r in record.prompts)
            if hidden := answered - sum(not r.failed for r in self._with_tokens(record)):
                lines.append(f"{variant}: the server hides the tokens of {hidden} prompts: not checked")
        lines += [
            f"{variant}: {n} of {sent} prompts have a double BOS"
            for variant in VARIANTS
            if (n := sum(r.double_bos for r in self.rendered[variant]))
        ]
        whole, missing = self.change(CHAT, RAW), self.change(TEMPLATED, RAW)
        endpoint = self.change(CHAT, TEMPLATED)
        if whole is None or missing is None or endpoint is None:
            return [*lines, "too few prompts have a decode step over every endpoint to compare them"]
        lines.append(f"raw against chat: tokens per step {_shown(whole)}")
        lines.append(
            f"of it the missing template: {_shown(missing)}; the endpoint itself: {_shown(endpoint)}"
        )
        return lines


def _steps(record: PromptRecord) -> tuple[object, ...]:
    return record.text_hash, record.histogram, record.undrafted, record.output_tokens


def _shown(change: PairedRatio) -> str:
    if change.identical:
        return f"the same in all {change.m} prompts"
    return f"{percent(change.change)} (95 % CI {signed_interval(change.change_ci())}, {change.m} prompts)"


def rows(audit: Audit) -> Block:
    """A row for each variant; acceptance in percent."""
    cell = audit.records[CHAT].cell
    k = cell.k
    header = ["sent over", "n", "template", "double BOS", "prompt tokens", "tok/step", "tau"]
    header += [*(f"pos {i}" for i in range(k)), "loops"]
    table = []
    for variant in VARIANTS:
        record, sent = audit.records[variant], audit.rendered[variant]
        tally = total(record.prompts)
        loops = sum(degenerate(r.text) for r in record.prompts if not r.failed)
        rates = [share(rate) for rate in tally.acceptance[:k]]
        doubled = sum(r.double_bos for r in sent)
        length = sum(len(r.ids) for r in sent) / len(sent) if sent else None
        shown = [number(length, 1), number(tally.tokens_per_step), number(tally.tau)]
        shown += [*rates, *[DASH] * (k - len(rates)), str(loops)]
        name = f"{variant} {MARK}" if mostly_degenerate(record.findings) else variant
        answered = str(sum(countable(r) for r in record.prompts))
        bos = f"{doubled} of {len(sent)}" if doubled else "no"
        table.append([name, answered, audit.templates(variant), bos, *shown])
    ranks = (0, 2, 5, 1, 6, 0, 4, *range(POSITION, POSITION + k), 3)
    return Block(title=str(cell), header=tuple(header), rows=tuple(map(tuple, table)), ranks=ranks)


def token_lines(audit: Audit) -> str:
    """A JSON line for every prompt over every variant, with its token ids."""
    each = [r for variant in VARIANTS for r in audit.rendered[variant]]
    return "".join(as_line(dataclasses.asdict(r)) for r in each)
