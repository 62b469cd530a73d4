"""Does our client slow the server down? Ours against vLLM's own `bench serve` client, on one server.

    python -m tests.perf.overhead [--stack smollm2-cpu] [--drafter none] [--prompts 16] [--max-tokens 64]
                                  [--concurrency 1 4 16] [--rounds 3] [--same-body]

Both send the same prompts at T=0 over `chat`, in passes ordered A B B A in every round, after one pass each
that is not counted. A is `harness.measure.measurement.Measurement` as the suites use it: its workers, its
client, its journal on disk. B is `vllm.benchmarks.serve` in a process of its own that has imported vLLM
before the first pass. Every pass has a salt of its own (A: every prompt), so that neither finds anything in
the prefix cache.

How to read the table:
    ours, bench     output tokens / seconds, over all passes. Seconds are for ours from the first request's
                    start to the last token's arrival (`harness.results.timing`, the rate that tables show);
                    for the bench its own `duration`: from before its first request to the end of its last
                    response.
                    Neither includes making the client, loading prompts or reading /metrics.
    ratio           ours / bench: geometric mean over pairs of neighbouring passes; above 1 ours is faster.
                    The aim is 0.99 or better at every concurrency.
    min..max        of those pairs: a ratio nearer to 1 than this is wide says nothing.
    whole           output tokens / seconds of the whole `one_pass`: making the client and the last write too.
    tokens          by the server's counters, ours / bench; unequal ones make the ratio meaningless.
    cached          prompt tokens found in the prefix cache, likewise.
    same text       prompts whose answers agree between the first pass of each.
    CPU ms/tok      processor time of the client's process per output token, ours / bench: what the client
                    takes from an engine on the same cores. For ours of the whole pass.

`--same-body` gives the bench our request's remaining fields (token ids in every chunk, a seed): what then
still differs is the client alone, and what goes away was the server's work.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import os
import secrets
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from tabulate import tabulate

from harness.config.cells import Cell, ServerSpec, server_spec
from harness.config.prompts import Prompt, load_prompts
from harness.config.stack import Profile
from harness.engine.metrics import settled
from harness.engine.server import Server, running
from harness.errors import BadInput, ServerFailed
from harness.measure.measurement import Measurement
from harness.results.records import CellName
from harness.results.timing import speed_of
from tests import perf

AIM = 0.99
LANGUAGE, WORKLOAD = "en", "instruct"

# One process for all passes: its import of vLLM is paid once, and it is as warm as our client is. Standard
# output is ours alone, whatever vLLM prints goes to the log.
_BENCH = """
import json, os, sys, time
reply = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
from vllm.benchmarks import serve
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
serve.add_cli_args(parser)
original, spent = serve.benchmark, []
async def timed(**given):
    began = time.process_time()
    result = await original(**given)
    spent.append(time.process_time() - began)
    return result
serve.benchmark = timed
print("ready", file=reply, flush=True)
for line in sys.stdin:
    serve.main(parser.parse_args(json.loads(line)))
    print(spent.pop(), file=reply, flush=True)
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pass:
    """One client's pass over the prompts."""

    tokens: int
    seconds: float
    """What the client's rate divides by."""
    whole_s: float
    cpu_s: float
    moved: dict[str, int]
    """/metrics: generated, prompted, cached, finished."""
    texts: tuple[str, ...]

    @property
    def rate(self) -> float:
        """Output tokens per second."""
        return self.tokens / self.seconds


def ours(server: Server, cell: Cell, prompts: Sequence[Prompt], folder: Path) -> Pass:
    """A pass of our own client, through the code that the suites run.

    Raises:
        DraftgateError: a request failed, or somebody else uses the server.
    """
    measurement = Measurement(
        server=server,
        cell=cell,
        suite="overhead",
        prompts=prompts,
        warmups=(),
        repeats=1,
        seed=0,
        timed=True,
        folder=folder,
        progress=lambda _cell, _done, _total: None,
    )
    measurement.prepare()
    began, cpu = time.perf_counter(), time.process_time()
    measurement.one_pass(0)
    whole_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    record = measurement.finish()
    hard = [finding.text for finding in record.findings if finding.hard]
    speed = speed_of(record.prompts)
    if hard or speed is None:
        raise ServerFailed(
            f"our pass at concurrency {cell.profile.concurrency} is invalid: {'; '.join(hard)}"
        )
    tokens = sum(r.output_tokens for r in record.prompts)
    return Pass(
        tokens=tokens,
        seconds=tokens / speed.aggregate,
        whole_s=whole_s,
        cpu_s=cpu_s,
        moved=record.counters,
        texts=tuple(r.text for r in record.prompts),
    )


class Bench:
    """vLLM's own client, in a process that stays. Use as a context manager."""

    def __init__(self, server: Server, *, folder: Path, same_body: bool) -> None:
        """Starts it; `__enter__` waits until it has imported vLLM."""
        self._server, self._folder, self._same_body = server, folder, same_body
        self._log = folder / "bench.log"
        environment = {
            **os.environ,
            "OPENAI_API_KEY": server.key,
            "VLLM_NO_USAGE_STATS": "1",
            **({"HF_HUB_OFFLINE": "1"} if (server.target_path or "").startswith("/") else {}),
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [server.spec.engine_python or sys.executable, "-c", _BENCH],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=environment,
                text=True,
            )

    def __enter__(self) -> Self:
        """Wait for the imports."""
        try:
            self._answer(limit_s=300)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _answer(self, *, limit_s: float) -> str:
        stdout = self._process.stdout
        ready = stdout is not None and select.select([stdout], [], [], limit_s)[0]
        line = stdout.readline() if stdout is not None and ready else ""
        if not line:
            what = f"did not answer in {limit_s:.0f} s" if not ready else "died"
            lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise ServerFailed(
                f"vLLM's bench client {what}: {lines[-1] if lines else 'it wrote nothing'} ({self._log})"
            )
        return line.strip()

    def one_pass(self, cell: Cell, prompts: Sequence[Prompt], name: str) -> Pass:
        """A pass of vLLM's client.

        Raises:
            ServerFailed: it failed, or a request of it.
        """
        dataset = self._folder / f"{name}-prompts.json"
        # ShareGPT's form, whose answers are only looked at for a length that we give: unlike `custom` it
        # needs no pandas, and it never applies a chat template on top of the server's.
        talks = [{"conversations": [{"value": prompt.text}, {"value": "-"}]} for prompt in prompts]
        dataset.write_text(json.dumps(talks, ensure_ascii=False), encoding="utf-8")
        outcome = self._folder / f"{name}.json"
        before = asyncio.run(settled(self._server.counters))
        command = json.dumps(self._arguments(cell.profile, dataset, outcome, len(prompts)))
        assert self._process.stdin is not None
        began = time.perf_counter()
        try:
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # _answer says what it died of
        cpu_s = float(self._answer(limit_s=60 + cell.spec.request_timeout_s * len(prompts)))
        whole_s = time.perf_counter() - began
        moved = asyncio.run(settled(self._server.counters)) - before
        result = json.loads(outcome.read_text(encoding="utf-8"))
        if result["failed"] or result["completed"] != len(prompts):
            errors = [error.strip().splitlines()[-1] for error in result["errors"] if error.strip()]
            raise ServerFailed(
                f"vLLM's bench client completed {result['completed']} of {len(prompts)} prompts (it leaves "
                f"out those under 4 and over 1,024 tokens): {errors[0] if errors else 'it tells no error'}"
            )
        return Pass(
            tokens=result["total_output_tokens"],
            seconds=result["duration"],
            whole_s=whole_s,
            cpu_s=cpu_s,
            moved={key: getattr(moved, key) for key in ("generated", "prompted", "cached", "finished")},
            texts=tuple(result["generated_texts"]),
        )

    def _arguments(self, profile: Profile, dataset: Path, outcome: Path, prompts: int) -> list[str]:
        target = self._server.spec.target
        # All sampling parameters, as we send them: else the model's generation config would apply.
        body: dict[str, Any] = {**profile.sampling.model_dump(), "cache_salt": secrets.token_hex(8)}
        if self._same_body:
            body |= {"return_token_ids": True, "seed": 0, "n": 1}
        words = [
            "--backend",
            "openai-chat",
            "--endpoint",
            "/v1/chat/completions",
            "--base-url",
            self._server.url,
        ]
        words += [
            "--model",
            self._server.target_path or target.model,
            "--served-model-name",
            self._server.model,
        ]
        words += ["--dataset-name", "sharegpt", "--dataset-path", str(dataset), "--num-prompts", str(prompts)]
        words += ["--sharegpt-output-len", str(profile.max_tokens), "--disable-shuffle", "--no-oversample"]
        words += ["--max-concurrency", str(profile.concurrency), "--temperature", "0"]
        words += ["--extra-body", json.dumps(body), "--disable-tqdm", "--save-result", "--save-detailed"]
        words += ["--result-dir", str(outcome.parent), "--result-filename", outcome.name]
        if target.tokenizer:
            words += ["--tokenizer", target.tokenizer]
        if target.trust_remote_code:
            words.append("--trust-remote-code")
        return words


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Both clients at one concurrency, pass by pass; `a[i]` and `b[i]` stood next to each other."""

    concurrency: int
    a: tuple[Pass, ...]
    b: tuple[Pass, ...]

    @property
    def ratios(self) -> list[float]:
        """Ours / bench, by pair."""
        return [mine.rate / theirs.rate for mine, theirs in zip(self.a, self.b, strict=True)]

    @property
    def ratio(self) -> float:
        """Their geometric mean."""
        return math.exp(statistics.fmean(math.log(ratio) for ratio in self.ratios))

    @property
    def same_text(self) -> int:
        """Prompts that both answered alike."""
        return sum(mine == theirs for mine, theirs in zip(self.a[0].texts, self.b[0].texts, strict=True))

    def objections(self) -> list[str]:
        """Why the ratio may not say what it seems to."""
        where, found = f"at concurrency {self.concurrency}", []
        for key, what in (
            ("generated", "tokens generated"),
            ("prompted", "prompt tokens"),
            ("cached", "cached tokens"),
        ):
            mine, theirs = _moved(self.a, key), _moved(self.b, key)
            if mine != theirs:
                found.append(f"NOT EQUAL {where}: {what}, ours {mine}, bench {theirs}")
        for name, passes in (("ours", self.a), ("bench", self.b)):
            if (counted := _moved(passes, "generated")) != (told := sum(p.tokens for p in passes)):
                found.append(f"NOT EQUAL {where}: {name} tells {told} tokens, the server counted {counted}")
        if self.same_text < len(self.a[0].texts):
            found.append(f"{where} {len(self.a[0].texts) - self.same_text} answers differ in text")
        return found

    def row(self) -> list[str]:
        """Of the table."""
        return [
            str(self.concurrency),
            f"{_rate(self.a):.1f}",
            f"{_rate(self.b):.1f}",
            f"{self.ratio:.3f}",
            f"{min(self.ratios):.3f}..{max(self.ratios):.3f}",
            "yes" if self.ratio >= AIM else "no",
            f"{sum(p.tokens for p in self.a) / sum(p.whole_s for p in self.a):.1f}",
            f"{_moved(self.a, 'generated')} / {_moved(self.b, 'generated')}",
            f"{_moved(self.a, 'cached')} / {_moved(self.b, 'cached')}",
            f"{self.same_text} of {len(self.a[0].texts)}",
            f"{_cpu_ms(self.a):.2f} / {_cpu_ms(self.b):.2f}",
        ]

    def figures(self) -> dict[str, Any]:
        """For the JSON document."""
        return {
            "concurrency": self.concurrency,
            "ours_tok_s": round(_rate(self.a), 3),
            "bench_tok_s": round(_rate(self.b), 3),
            "ratio": round(self.ratio, 4),
            "ratios": [round(ratio, 4) for ratio in self.ratios],
            "ours_whole_tok_s": round(sum(p.tokens for p in self.a) / sum(p.whole_s for p in self.a), 3),
            "tokens": [_moved(self.a, "generated"), _moved(self.b, "generated")],
            "cached": [_moved(self.a, "cached"), _moved(self.b, "cached")],
            "same_text": self.same_text,
            "cpu_ms_per_token": [round(_cpu_ms(self.a), 4), round(_cpu_ms(self.b), 4)],
            "objections": self.objections(),
        }


HEADER = ["concurrency", "ours tok/s", "bench tok/s", "ratio", "min..max", f">= {AIM}", "whole tok/s"]
HEADER += ["tokens", "cached", "same text", "CPU ms/tok"]


def _rate(passes: Sequence[Pass]) -> float:
    return sum(p.tokens for p in passes) / sum(p.seconds for p in passes)


def _moved(passes: Sequence[Pass], key: str) -> int:
    return sum(p.moved[key] for p in passes)


def _cpu_ms(passes: Sequence[Pass]) -> float:
    return 1000 * sum(p.cpu_s for p in passes) / sum(p.tokens for p in passes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What is sent, to which server."""

    stack: str
    spec: ServerSpec
    drafter: str
    k: int
    max_tokens: int
    rounds: int
    prompts: tuple[Prompt, ...]
    warmups: tuple[Prompt, ...]

    def cell(self, concurrency: int) -> Cell:
        """The cell that our side measures."""
        return Cell(
            name=CellName(
                endpoint="chat", language=LANGUAGE, workload=WORKLOAD, drafter=self.drafter, k=self.k
            ),
            spec=self.spec,
            profile_name="overhead",
            profile=Profile(
                prompts=len(self.prompts), max_tokens=self.max_tokens, concurrency=concurrency, warmups=0
            ),
        )


def compare(plan: Plan, concurrency: int, *, server: Server, bench: Bench, folder: Path) -> Comparison:
    """All rounds at one concurrency.

    Raises:
        DraftgateError: a pass failed.
    """
    cell = plan.cell(concurrency)
    ours(server, cell, plan.warmups, folder / f"ours-{concurrency}-warmup")
    bench.one_pass(cell, plan.warmups, f"bench-{concurrency}-warmup")
    a: list[Pass] = []
    b: list[Pass] = []
    for number in range(plan.rounds):
        for side in "ABBA":
            if side == "A":
                a.append(ours(server, cell, plan.prompts, folder / f"ours-{concurrency}-{len(a)}"))
            else:
                b.append(bench.one_pass(cell, plan.prompts, f"bench-{concurrency}-{len(b)}"))
        perf.say(
            f"concurrency {concurrency}, round {number + 1} of {plan.rounds}: ours "
            f"{_rate(a[-2:]):.1f} tok/s, vLLM's bench {_rate(b[-2:]):.1f}"
        )
    return Comparison(concurrency=concurrency, a=tuple(a), b=tuple(b))


def planned(stack_name: str, label: str, *, prompts: int, max_tokens: int, rounds: int) -> Plan:
    """The plan that the command line asks for.

    Raises:
        BadInput: no such stack or drafter, or too few prompts.
    """
    stack = perf.load(stack_name)
    drafter, k = perf.drafter_of(stack, label)
    measured = load_prompts(perf.DATA / "prompts", WORKLOAD, LANGUAGE, at_most=prompts)
    if len(measured) < prompts:
        raise BadInput(f"--prompts {prompts}: {WORKLOAD}/{LANGUAGE} has {len(measured)}")
    return Plan(
        stack=stack.name,
        spec=server_spec(stack, drafter, k),
        drafter=drafter.name,
        k=k,
        max_tokens=max_tokens,
        rounds=rounds,
        prompts=measured,
        warmups=load_prompts(perf.DATA / "prompts", "warmup", LANGUAGE, at_most=prompts),
    )


def main(words: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    parser = perf.options("overhead", __doc__)
    parser.add_argument("--prompts", type=perf.positive, default=16)
    parser.add_argument("--max-tokens", type=perf.positive, default=64)
    parser.add_argument("--concurrency", type=perf.positive, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rounds", type=perf.positive, default=3)
    parser.add_argument(
        "--same-body", action="store_true", help="the bench sends our request's other fields too"
    )
    given = parser.parse_args(words)

    def job() -> dict[str, Any]:
        if given.max_tokens < 2:
            raise BadInput("--max-tokens 1: a rate needs 2 or more")
        plan = planned(
            given.stack,
            given.drafter,
            prompts=given.prompts,
            max_tokens=given.max_tokens,
            rounds=given.rounds,
        )
        folder = perf.new_folder(given.results, "overhead")
        with running(plan.spec, folder=folder, say=perf.say) as server:
            perf.say(f"server {plan.spec.label} ready in {server.started_s} s; records in {folder}")
            with Bench(server, folder=folder, same_body=given.same_body) as bench:
                found = [
                    compare(plan, concurrency, server=server, bench=bench, folder=folder)
                    for concurrency in dict.fromkeys(given.concurrency)
                ]
            version = server.version
        print(f"{plan.stack}, {plan.spec.label}, vLLM {version}: our client against vLLM's bench client,")
        amount = f"{len(plan.prompts)} prompts x {plan.max_tokens} tokens"
        print(f"{amount}, chat, T=0, {plan.rounds} rounds of A B B A")
        if given.same_body:
            print("the bench sends the other fields of our request too (--same-body)")
        print(tabulate([c.row() for c in found], headers=HEADER, disable_numparse=True, stralign="right"))
        print("ours: first request's start to last token's arrival; bench: its own duration, to the last")
        print("response's end; whole: all of one_pass, client's construction and last journal write included")
        for objection in (o for c in found for o in c.objections()):
            print(objection)
        return {
            "stack": plan.stack,
            "drafter": plan.spec.label,
            "engine": version,
            "prompts": len(plan.prompts),
            "max_tokens": plan.max_tokens,
            "rounds": plan.rounds,
            "same_body": given.same_body,
            "concurrency": [c.figures() for c in found],
        }

    return perf.carry_out(job)


if __name__ == "__main__":
    sys.exit(main())
