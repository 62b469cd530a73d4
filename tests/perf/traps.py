"""Springs the traps of speculative decoding on a real engine, and prints what draftgate answers.

    python -m tests.perf.traps [--stack smollm2-cpu] [--prompts 3]

Three servers, few prompts: about four minutes on two idle cores. The last lines are a Markdown table, the one
of `docs/suites.md`: trap, how it was sprung, the line that draftgate answers with. A line that was not
given is an em dash, and makes the exit code 1.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness.config.cells import Cell, ServerSpec, server_spec
from harness.config.prompts import Prompt, load_prompts
from harness.config.stack import Drafter, Profile, Sampling
from harness.engine.models import resolve
from harness.engine.server import Server, running
from harness.errors import BadInput
from harness.judge import footnotes
from harness.measure import validity
from harness.measure.chat_template import shell_of, template_of
from harness.measure.client import Client
from harness.measure.measurement import Measurement
from harness.measure.probe import Tokens
from harness.results.records import CellName, CellRecord
from harness.suites.endpoints import CHAT, RAW, TEMPLATED, Audit, rendered
from tests import perf
from tests.perf import DATA

K = 4
AUDITED = 8
"""Prompts of the endpoint audit, 64 tokens each."""
ROOM = 224
"""max_model_len of the first server: enough for every trap but the one about it."""

# A drafter of the target's shape that nobody trained: its guesses are another language.
_UNTRAINED = """
import shutil, sys
from pathlib import Path
import torch
from transformers import AutoConfig, AutoModelForCausalLM
target, folder = map(Path, sys.argv[1:])
torch.manual_seed(0)
config = AutoConfig.from_pretrained(target)
config.num_hidden_layers = 1
AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(folder)
for file in target.glob("*token*"):
    shutil.copy(file, folder)
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A trap that was sprung."""

    trap: str
    command: str
    answer: str | None

    @property
    def line(self) -> str:
        """Of the table."""
        answer = (self.answer or "—").replace("|", "\\|")
        return f"| {self.trap} | {self.command} | {answer} |"


class Bench:
    """Cells measured on one server, each in a folder of its own."""

    def __init__(self, server: Server, folder: Path, prompts: int) -> None:
        """Nothing is measured yet."""
        self.server, self.prompts = server, prompts
        self._folder, self._count = folder, 0

    def cell(self, name: CellName, profile: Profile) -> Cell:
        """On this server."""
        return Cell(name=name, spec=self.server.spec, profile_name="traps", profile=profile)

    def measure(
        self, *, prompts: tuple[Prompt, ...] | None = None, drafter: str | None = None, **changes: Any
    ) -> CellRecord:
        """A cell: `endpoint`, `language` and fields of the profile by their names."""
        spec = self.server.spec
        endpoint, language = changes.pop("endpoint", CHAT), changes.pop("language", "en")
        repeats = changes.pop("repeats", 1)
        asked = prompts or load_prompts(DATA / "prompts", "instruct", language, at_most=self.prompts)
        values = {"prompts": len(asked), "max_tokens": 32, "warmups": 0, **changes}
        name = CellName(
            endpoint=endpoint,
            language=language,
            workload="instruct",
            drafter=drafter or spec.drafter,
            k=spec.k,
        )
        self._count += 1
        measurement = Measurement(
            server=self.server, cell=self.cell(name, Profile(**values)), suite="acceptance", prompts=asked,
            warmups=(), repeats=repeats, seed=0, timed=False, folder=self._folder / str(self._count),
            progress=lambda *_: None,
        )  # fmt: skip
        measurement.prepare()
        for repeat in range(repeats):
            measurement.one_pass(repeat)
        return measurement.finish()


def line_of(record: CellRecord, code: str) -> str | None:
    """The line that the table of a run has for a finding."""
    for finding in record.findings:
        if finding.code == code:
            return f"{'INVALID' if finding.hard else 'note'}: {record.cell}: {finding.text}"
    return None


@contextlib.contextmanager
def twice() -> Iterator[None]:
    """Somebody else sends every prompt too."""
    ask = Client.ask

    async def ask_twice(self: Client, *args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0)
        await ask(self, *args, **kwargs)
        return await ask(self, *args, **kwargs)

    Client.ask = ask_twice  # type: ignore[method-assign]
    try:
        yield
    finally:
        Client.ask = ask  # type: ignore[method-assign]


def on_ngram(bench: Bench) -> Iterator[Row]:
    """What shows with a drafter that needs no weights."""
    tokens = Tokens(bench.server)
    shell = shell_of(tokens)
    plain = load_prompts(DATA / "prompts", "instruct", "en", at_most=AUDITED)
    by_hand = template_of(Path(bench.server.target_path or "/nowhere"))
    render: Callable[[str], str] = by_hand or (lambda text: tokens.text(tokens.chat(text)))
    hand = tuple(dataclasses.replace(p, text=render(p.text)) for p in plain)
    sent = {CHAT: plain, RAW: plain, TEMPLATED: hand}
    records = {
        v: bench.measure(prompts=s, endpoint=CHAT if v == CHAT else RAW, max_tokens=64)
        for v, s in sent.items()
    }
    audit = Audit(
        records=records, rendered={v: rendered(s, v, tokens=tokens, shell=shell) for v, s in sent.items()}
    )
    suite = "`pytest bench_suites/test_endpoints.py -k ngram`"
    said = audit.sentences()
    answer = "; ".join([f"raw: template {audit.templates(RAW)}", *said[-2:]])
    yield Row(trap="raw prompts lack the chat template", command=suite, answer=answer)
    shown = {**sent, CHAT: hand}
    doubled = Audit(
        records={**records, CHAT: bench.measure(prompts=hand, max_tokens=4)},
        rendered={v: rendered(s, v, tokens=tokens, shell=shell) for v, s in shown.items()},
    )
    yield Row(
        trap="the template is applied twice", command=f"{suite} with prompts that hold it already",
        answer=next(iter(doubled.faults()), None),
    )  # fmt: skip
    long = tuple(dataclasses.replace(p, text=f"{p.text} " * 3) for p in plain[: bench.prompts])
    bench.measure(prompts=long, cache="warm", max_tokens=4)
    salt = Measurement._salt
    Measurement._salt = lambda _: None  # type: ignore[method-assign]
    try:
        warm = bench.measure(prompts=long, cache="cold", max_tokens=4)
    finally:
        Measurement._salt = salt  # type: ignore[method-assign]
    yield Row(
        trap="the prefix cache had seen the prompts", command="the same prompts again, unsalted",
        answer=line_of(warm, "warm-cache"),
    )  # fmt: skip
    with twice():
        foreign = bench.measure(max_tokens=8)
    yield Row(
        trap="somebody else uses the server", command="every request sent twice",
        answer=line_of(foreign, "foreign-traffic"),
    )  # fmt: skip
    cut = bench.measure(prompts=plain[:2], max_tokens=ROOM)
    yield Row(
        trap="answers are cut by max_model_len", command=f"`max_model_len = {ROOM}`, `--max-tokens {ROOM}`",
        answer=line_of(cut, "cut-by-max-model-len"),
    )  # fmt: skip
    idle = bench.measure(max_tokens=2)
    yield Row(
        trap="the drafter proposes nothing",
        command="`-k ngram --max-tokens 2`",
        answer=line_of(idle, "no-drafts"),
    )
    short = bench.measure(max_tokens=1)
    yield Row(
        trap="answers end before a decode step", command="`--max-tokens 1`", answer=line_of(short, "left-out")
    )
    chinese = bench.measure(language="zh", endpoint=RAW, max_tokens=96)
    loops = line_of(chinese, validity.MOSTLY) or line_of(chinese, "loops")
    yield Row(trap="answers end in a loop", command='`-m "raw and zh" --max-tokens 96`', answer=loops)


def on_faulty_engine(bench: Bench) -> Iterator[Row]:
    """The engine's fault, left as it is."""
    record = bench.measure(sampling=Sampling(temperature=0.7))
    yield Row(
        trap="the engine loses the temperature", command="`DRAFTGATE_MEND=probe`, `-k self`, T=0.7",
        answer=line_of(record, "engine-faulty"),
    )  # fmt: skip


def on_dead_drafter(bench: Bench) -> Iterator[Row]:
    """Weights that were never trained, under two names."""
    first, second = (bench.measure(drafter=name, max_tokens=40) for name in ("round1", "round2"))
    yield Row(
        trap="the drafter is dead",
        command="weights that nobody trained",
        answer=line_of(first, "dead-drafter"),
    )
    yield Row(
        trap="one drafter under two names", command="`draftgate compare round1 round2`",
        answer=next(iter(footnotes.weights_notes(first, second)), None),
    )  # fmt: skip


def job(stack_name: str, prompts: int, results: Path, *, only: str | None) -> dict[str, Any]:
    """Spring all of them.

    Raises:
        DraftgateError: a server did not start, or the untrained drafter could not be made.
    """
    folder = perf.new_folder(results, "traps")
    stack = perf.load(stack_name)
    target = resolve(stack.target.model, say=perf.say)
    untrained = folder / "untrained"
    done = subprocess.run(
        [sys.executable, "-c", _UNTRAINED, target, str(untrained)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BadInput(f"no untrained drafter could be made: {done.stderr.strip().splitlines()[-1]}")
    args = {**stack.engine.args, "max_model_len": ROOM}
    stack = stack.model_copy(update={"engine": stack.engine.model_copy(update={"args": args})})
    round1 = Drafter(name="round1", method="draft_model", model=str(untrained), k=(2,))
    plan: list[tuple[ServerSpec, str, Callable[[Bench], Iterator[Row]]]] = [
        (server_spec(stack, stack.drafters["ngram"], K), "1", on_ngram),
        (server_spec(stack, round1, 2), "1", on_dead_drafter),
        (server_spec(stack, stack.drafters["self"], 3), "probe", on_faulty_engine),
    ]
    rows: list[Row] = []
    plan = [part for part in plan if only in (None, part[0].drafter)]
    for spec, patch, spring in plan:
        with running(spec, folder=folder / "servers", say=perf.say, patch=patch) as server:
            for row in spring(Bench(server, folder / spec.label, prompts)):
                perf.say(row.line)
                rows.append(row)
    print(
        "\n".join(["| trap | sprung by | draftgate answers |", "|---|---|---|", *(row.line for row in rows)])
    )
    return {"traps": [dataclasses.asdict(row) for row in rows]}


def main() -> int:
    """Exit code 1 where a trap was not seen."""
    parser = perf.options("traps", __doc__)
    parser.add_argument("--prompts", type=perf.positive, default=3, help="a cell (%(default)s)")
    parser.add_argument("--only", metavar="DRAFTER", help="the traps of one server: ngram, round1, self")
    given = parser.parse_args()
    figures: dict[str, Any] = {}

    def carried() -> dict[str, Any]:
        figures.update(job(given.stack, given.prompts, given.results, only=given.only))
        return json.loads(json.dumps(figures))  # type: ignore[no-any-return]

    code = perf.carry_out(carried)
    missed = [row for row in figures.get("traps", ()) if row["answer"] is None]
    return code or int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
