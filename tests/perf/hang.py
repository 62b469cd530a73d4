"""Does the extraction of hidden states hang? As few parts as it takes, on any vLLM, for as long as asked.

    python -m tests.perf.hang [--engine-python PATH] [--connector NAME] [--hours 4 | --requests 20000]

Starts the stack's target with vLLM's `extract_hidden_states` and a connector, keeps prompts of random tokens
in flight, and deletes each file once it is whole. Where the watchdog finds a stall, the stacks of all threads
are taken: by py-spy where it is installed, else by faulthandler, for which SIGABRT asks. `report.md` can be
pasted into an issue. Exit code 1 where the extraction hung or lost hidden states.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import os
import platform
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import psutil

from harness.config import cells
from harness.config.stack import NO_DRAFTER
from harness.engine.facts import EngineFacts, command_line, engine_facts, served_name
from harness.engine.models import resolve
from harness.engine.process import processes_below, tail
from harness.engine.server import Server, running
from harness.engine.watchdog import Evidence, guarded
from harness.errors import BadInput
from harness.provenance.hardware import environment, packages_of
from harness.results.records import load
from tests import perf
from training.hidden.extract import Extractor, Progress, ServerGone, server_spec, text_config
from training.recipe import find_recipe, load_recipe

OURS = f"{perf.ROOT / 'training' / 'hidden' / 'cpu_connector.py'}:CpuHiddenStatesConnector"
THEIRS = "ExampleHiddenStatesConnector"
REQUESTS = 2000
_DUMP_S, _READINGS, _LINES = 15, 12, 60
_SHOWN = ("time", "running", "waiting", "in_flight", "generated", "prompted", "kv_usage", "unreachable")
_SERVE = "python -m vllm.entrypoints.openai.api_server --port 8000"
_SNIPPET = """\
import asyncio, random, aiohttp
async def work(session):
    while True:
        prompt = [random.randrange({vocabulary}) for _ in range(random.randint(1, {longest}))]
        body = dict(model="{model}", prompt=prompt, max_tokens=1, temperature=0)
        async with session.post("http://127.0.0.1:8000/v1/completions", json=body) as answer:
            await answer.read()
async def main():
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(600)) as session:
        await asyncio.gather(*(work(session) for _ in range({concurrency})))
asyncio.run(main())"""


def connector_of(name: str, facts: EngineFacts) -> tuple[dict[str, str], dict[str, str]]:
    """Fields of kv_transfer_config, and the environment, for a name that vLLM knows or for `FILE.py:CLASS`.

    Raises:
        BadInput: there is no such connector.
    """
    path, colon, kind = name.rpartition(":")
    file = Path(path).resolve()
    if not colon:
        file, path = Path(facts.folder, "distributed", "kv_transfer", "kv_connector", "factory.py"), ""
    wanted = f"class {kind}(" if colon else f'"{kind}"'
    if not file.is_file():
        raise BadInput(f"--connector {name}: there is no file {file}")
    if wanted not in file.read_text(encoding="utf-8", errors="replace"):
        raise BadInput(f"--connector {name}: {file} has no {wanted}")
    paths = os.pathsep.join(filter(None, [str(file.parent), os.environ.get("PYTHONPATH")]))
    return (
        ({"kv_connector": kind, "kv_connector_module_path": file.stem}, {"PYTHONPATH": paths})
        if colon
        else ({"kv_connector": name}, {})
    )


def stacks_of(server: Server) -> str:
    """The stacks of all threads of the engine's processes, the lowest first. faulthandler ends them."""
    dumped, log, spy = list[str](), server.log or Path(os.devnull), shutil.which("py-spy")
    family = processes_below(server.process.pid if server.process else None)[1:]  # not the supervisor
    for about in reversed(family):
        found, pid, before = "", about["pid"], log.stat().st_size
        if spy:
            words = [spy, "dump", "--pid", str(pid)]
            found = subprocess.run(words, capture_output=True, text=True, check=False).stdout
        if not found:
            try:
                process = psutil.Process(pid)
                process.send_signal(signal.SIGABRT)
                process.send_signal(signal.SIGCONT)  # a frozen one does nothing before
                process.wait(_DUMP_S)
            except psutil.Error:
                pass
            found = log.read_bytes()[before:].decode(errors="replace").partition("Fatal Python error: ")[2]
        dumped.append(f"{about['name']} ({pid}, {about['status']}): {found.strip() or 'no stack'}")
    return "\n\n".join(dumped)


def job(given: Any) -> dict[str, Any]:
    """Extract until it hangs or all is done, and write the report; the figures.

    Raises:
        BadInput: no such stack, target or connector, or a number that makes no sense.
        ServerFailed: no vLLM there, or the server did not start.
    """
    for option, value in vars(given).items():
        if isinstance(value, int | float) and not 0 < value < math.inf:
            raise BadInput(f"--{option.replace('_', '-')} {value}: give a number above 0")
    stack = perf.load(given.stack)
    if given.tokens >= (longest := stack.engine.args.get("max_model_len", math.inf)):
        raise BadInput(f"--tokens {given.tokens}: stack {stack.name} has room for {longest}, and one is made")
    python = given.engine_python or stack.engine.python or sys.executable
    facts = engine_facts(python)
    name = given.connector or (OURS if facts.cpu else THEIRS)
    fields, env = connector_of(name, facts)
    target = resolve(stack.target.model, say=perf.say, python=python)
    folder = perf.new_folder(given.results, "hang")
    base = dataclasses.replace(
        cells.server_spec(stack, NO_DRAFTER, 0), engine_python=python, fork=False, request_timeout_s=1e6
    )
    recipe = load_recipe(find_recipe("smoke-cpu"))  # its layers are the default
    ram = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - files of a second
    with tempfile.TemporaryDirectory(prefix="draftgate-hang-", dir=ram) as states:
        spec = server_spec(recipe, base, target=target, folder=Path(states), cpu=False, shared=False)
        args = {**spec.args, "kv_transfer_config": {**spec.args["kv_transfer_config"], **fields}}
        spec = dataclasses.replace(spec, args=args, env={**base.env, **env, "PYTHONFAULTHANDLER": "1"})
        words = command_line(spec, model=target, speculative=spec.speculative, per_request=False)
        with running(spec, folder=folder, say=perf.say) as server:
            figures, stacks = extract(server, Path(states), target, given)
        figures["log"] = str(server.log)
    machine = environment(spec, python=python)
    snippet = _SNIPPET.format(
        vocabulary=text_config(target)["vocab_size"],
        longest=given.tokens,
        model=served_name(spec),
        concurrency=given.concurrency,
    )
    about = {
        "versions": f"{facts.package} {facts.version}, torch {packages_of(python).get('torch', 'unknown')}",
        "device": ", ".join(gpu.name for gpu in machine.gpus) or f"{machine.cpu}, {machine.threads} threads",
        "system": platform.platform(),
        "connector": name,
        "load": f"{given.concurrency} in flight, prompts of 1 to {given.tokens} random tokens",
    }
    file = folder / "report.md"
    start = [*(f"{name}={value}" for name, value in spec.env.items()), *_SERVE.split(), *words]
    file.write_text(report(about, figures, shlex.join(start), snippet, stacks), encoding="utf-8")
    return {**figures, "report": str(file)}


def extract(server: Server, states: Path, target: str, given: Any) -> tuple[dict[str, Any], str]:
    """Keep the server busy; what happened, and the stacks where it stalled."""
    draw, vocabulary = random.Random(given.seed), text_config(target)["vocab_size"]  # noqa: S311
    requests = given.requests or (sys.maxsize if given.hours else REQUESTS)
    began = time.monotonic()
    ends = began + 3600 * (given.hours or math.inf)
    progress, stacks, halt = Progress(wanted=requests), list[str](), list[bool]()
    extractor = Extractor(
        rows=lambda _: [draw.randrange(vocabulary) for _ in range(draw.randint(1, given.tokens))],
        server=server,
        folder=states,
        concurrency=given.concurrency,
        progress=progress,
        stop=lambda: bool(halt) or time.monotonic() > ends,
    )
    gone = None
    with (
        ThreadPoolExecutor(1) as pool,
        guarded(
            server,
            stall_seconds=given.stall_seconds,
            in_flight=lambda: progress.in_flight,
            on_stall=lambda _: stacks.append(stacks_of(server)),
        ) as guard,
    ):
        extraction = pool.submit(extractor.run, itertools.islice(itertools.count(), requests))
        try:
            while wait([extraction], 0.5).not_done:
                for path in states.glob("hs_*.safetensors"):
                    path.unlink()
                perf.say(f"\rhang: {progress.written} requests, {time.monotonic() - began:.0f} s")
            extraction.result()
        except ServerGone as error:
            gone = str(error)
            with contextlib.suppress(TimeoutError):
                guard.look()  # it may have died a moment ago
        finally:
            halt.append(True)
    stall = guard.stalled
    return {
        "hang": stall.reason if stall else gone,
        "requests": progress.written,
        "tokens": progress.tokens,
        "missing": progress.missing,
        "seconds": round(time.monotonic() - began, 1),
        "evidence": str(stall.evidence) if stall and stall.evidence else None,
    }, "\n".join(stacks)


def headline(figures: dict[str, Any]) -> str:
    """What happened, as a sentence without a full stop."""
    after = f"{figures['requests']} requests ({figures['tokens']} tokens, {figures['seconds']:.0f} s)"
    if figures["hang"]:
        return f"extract_hidden_states hangs after {after}: {figures['hang']}"
    if figures["missing"]:
        return f"{figures['missing']} requests came back without hidden states, beside {after}"
    return f"nothing happened in {after}"


def report(about: dict[str, str], figures: dict[str, Any], start: str, snippet: str, stacks: str) -> str:
    """The text for an issue, in Markdown."""
    parts = {"To start the server": f"env {start}", "Beside it, until it stops": snippet}
    if figures["evidence"]:
        evidence = load(Path(figures["evidence"]), Evidence)
        readings = [{name: reading.get(name) for name in _SHOWN} for reading in evidence.readings]
        parts["Processes"] = "\n".join(map(json.dumps, evidence.processes))
        parts["The last readings of /metrics (seconds before the stall was noticed)"] = "\n".join(
            map(json.dumps, readings[-_READINGS:])
        )
        parts["Threads"] = stacks
        parts["The end of the log"] = "\n".join(evidence.log[-_LINES:])
    elif figures["hang"] or figures["missing"]:
        parts["The end of the log"] = "\n".join(tail(Path(figures["log"]))[-_LINES:])
    lines = [f"# {headline(figures)}", "", *(f"- {name}: {value}" for name, value in about.items())]
    for name, text in parts.items():
        lines += ["", f"## {name}", "", "```", text, "```"]
    return "\n".join(lines) + "\n"


def main(words: list[str] | None = None) -> int:
    """Exit code 1 where it hung, or hidden states were lost."""
    parser = perf.options("hang", __doc__)
    add = parser.add_argument
    add("--engine-python", metavar="PATH", help="the interpreter of the vLLM to try (the stack's)")
    add("--connector", help="a name that vLLM knows, or FILE.py:CLASS (by default what training takes)")
    add("--requests", type=int, help=f"at most so many ({REQUESTS} where no --hours are given)")
    add("--hours", type=float, help="at most so long")
    add("--concurrency", type=int, default=64, help="requests in flight (%(default)s)")
    add("--tokens", type=int, default=512, help="of the longest prompt (%(default)s)")
    add("--stall-seconds", type=float, default=60, help="a standstill so long is a hang (%(default)s)")
    add("--seed", type=int, default=1, help="of the prompts (%(default)s)")
    given = parser.parse_args(words)
    found: dict[str, Any] = {}

    def carried() -> dict[str, Any]:
        found.update(job(given))
        print(f"{headline(found)}; report: {found['report']}")
        return found

    return perf.carry_out(carried) or int(bool(found["hang"] or found["missing"]))


if __name__ == "__main__":
    sys.exit(main())
