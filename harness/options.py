"""The options of `pytest bench_suites`, and what the environment adds to them, checked."""

from __future__ import annotations

import argparse
import itertools
import os
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.config.difference import Against
from harness.config.engine_arguments import parses_calls
from harness.config.prompt_files import ANY, OwnPrompts, Source, name_of, read
from harness.config.rows import BadRow
from harness.config.shipped import DATA
from harness.config.stack import ENDPOINTS, PROFILES, RESERVED, Stack, default_stack, find_stack, load_stack
from harness.config.toml import MOST
from harness.engine.http import is_url, key_of_environment, shown
from harness.engine.watchdog import STALL_SECONDS
from harness.errors import BadInput, BadOption
from harness.results.files import can_write
from harness.results.records import MOST_K, RUN_FILE
from harness.results.shards import named
from harness.run import Options
from harness.stats.paired import LOOKS
from harness.suites.load import LEVELS, Bound
from harness.text.arguments import whole
from harness.text.validation import did_you_mean

DEFAULT_PROFILE = "quick"
_AS_GIVEN = ("confirm", "gate", "keep_texts", "max_tokens", "pairs", "prompts", "questions", "repeats",
             "results", "resume", "seed", "self_check", "sequential", "stall_seconds",
             "tasks")  # fmt: skip
"""Fields of `Options` that are what the command line says."""


def add_options(add: Callable[..., None]) -> None:
    """Tell the command line's parser what there is to say."""
    add("--stack", metavar="NAME|PATH", default=default_stack(), help="stack to measure (%(default)s)")
    profiles = f"{', '.join(PROFILES)} ({DEFAULT_PROFILE})"
    add("--profile", metavar="NAME", default=DEFAULT_PROFILE, help=profiles)
    add("--workload", metavar="W", action="append", help="workload, repeatable (the profile's)")
    files = "your own prompts: a file or hf:DATASET[:SPLIT], repeatable (docs/prompts.md)"
    add("--prompts-file", metavar="FILE", action="append", help=files)
    questions = "your own questions, of the quality suite and of the refusals suite (docs/suites.md)"
    add("--questions", metavar="FILE", help=questions)
    texts = "the records of the refusals suite hold the answers to your own questions, not their hashes alone"
    add("--keep-texts", action="store_true", help=texts)
    add("--tasks", metavar="NAME,NAME", help="tasks of lm-eval, of the quality suite (docs/suites.md)")
    add("--prompts", metavar="N", type=whole, help="measure the first N prompts of each file")
    add("--max-tokens", metavar="N", type=whole, help="tokens per answer at most")
    add("--concurrency", metavar="N", type=whole, help="requests in flight")
    add("--repeats", metavar="N", type=whole, default=1, help="passes over the prompts (1)")
    add("--seed", metavar="N", type=whole, default=0, help="base of the prompts' seeds (0)")
    add("--results", metavar="DIR", type=Path, default=Path("results"), help="where runs go (results)")
    add("--wide", action="store_true", help="tables with all columns, also where the terminal is narrower")
    add("--resume", action="store_true", help="go on with the newest unfinished run of this command")
    add("--server-url", metavar="URL", help="measure a server that runs already, and start none")
    add("--gate", choices=("off", "warn", "on", "strict"), default="on", help="what fails a case (on)")
    add("--baselines", metavar="DIR", type=Path, help="where baselines lie (baselines)")
    add("--update-baselines", action="store_true", help="make what this run measures the baseline")
    add("--update-baselines-new-only", action="store_true", help="the same for cells that have none yet")
    again = "measure a regressed cell again on prompts that it has not seen (as the profile says)"
    add("--confirm", action=argparse.BooleanOptionalAction, default=None, help=again)
    add("--against", metavar="STACK", help="the old stack, of the throughput suite: a name or a path")
    add("--blocks", metavar="N", type=whole, default=6, help="blocks of four starts, old and new (6)")
    across = "a key in which the two stacks may differ, repeatable"
    add("--across", metavar="KEY", action="append", default=[], help=across)
    add("--pairs", metavar="N", type=whole, default=6, help="pairs of server starts for a speed-up (6)")
    sequential = "stop a cell at the first look (16 to 80 prompts) that decides"
    add("--sequential", action="store_true", help=sequential)
    stalled = f"restart a server that has work and does nothing for so long ({STALL_SECONDS})"
    add("--stall-seconds", metavar="N", type=whole, default=STALL_SECONDS, help=stalled)
    add("--compare", metavar="RUN", type=Path, help="judge against a run's folder, not the baselines")
    broken = "what a broken instrument does to a run (on: nothing is measured)"
    add("--self-check", "--calibration", dest="self_check", choices=("off", "warn", "on"), default="on",
        help=broken)  # fmt: skip
    add("--plan", type=Path, help=argparse.SUPPRESS)  # these two are for draftgate plan
    add("--shards", type=whole, default=1, help=argparse.SUPPRESS)
    shard = "measure what a plan of draftgate plan says of one machine, like plan.json:0"
    add("--shard", metavar="FILE:NUMBER", help=shard)
    levels, bound = ",".join(map(str, LEVELS)), Bound()
    in_flight = f"requests in flight, of the load and curve suites ({levels})"
    add("--levels", metavar="N,N", default=levels, help=in_flight)
    ks = "draft tokens a step, of the curve suite (the drafter's, and 1,2,4,8 below)"
    add("--ks", metavar="N,N", help=ks)
    for flag, seconds, what in (
        ("--ttft-ms", bound.ttft_s, "time to first token"),
        ("--tpot-ms", bound.tpot_s, "time per output token after it"),
    ):
        add(flag, metavar="N", type=whole, default=round(seconds * 1000),
            help=f"{what} of a request that counts as good ({seconds * 1000:g})")  # fmt: skip


def refuse_repeated(words: Sequence[str]) -> None:
    """Refuse a command line that says an option twice: the last would win, and nobody would see it.

    Args:
        words: of the command line. What a configuration file adds to them may be said again.

    Raises:
        BadInput: an option that takes one value is there twice, or once with --no- before it.
    """
    known: dict[str, str] = {}

    def note(*flags: str, action: Any = "store", **_: Any) -> None:
        if action not in ("append", "store_true"):
            known.update({name: flags[0] for flag in flags for name in (flag, f"--no-{flag[2:]}")})

    add_options(note)
    said: set[str] = set()
    for option in filter(None, (known.get(word.split("=", 1)[0]) for word in words)):
        if option in said:
            raise BadOption(f"{option} is given twice: name one")
        said.add(option)


def stack_of(option: Callable[[str], Any], folder: Path) -> Stack:
    """The stack that the command line names, with the files of prompts that it names.

    Raises:
        BadInput: there is no such stack, or something in it is wrong.
    """
    stack = load_stack(find_stack(option("--stack"), folder))
    taken = {*_taken(stack), *map(str.lower, stack.languages), ANY}
    own: dict[str, Source] = {}
    for file in dict.fromkeys(_files(option)):
        name = name_of(file)
        while name.lower() in taken:  # no value may be of two axes
            name = f"{name}_file"
        taken.add(name.lower())
        own[name] = Source(file=file)
    changes = {"prompts": {**stack.prompts, **own}, "workloads": (*stack.workloads, *own)}
    return stack.model_copy(update=changes)


def _files(option: Callable[[str], Any]) -> list[str]:
    """Files of prompts that the command line names; the refusals suite takes its questions as such."""
    files, questions = list(option("--prompts-file") or ()), option("--questions")
    asked = " ".join(map(str, option("file_or_dir")))
    if questions and not re.search("test_(quality|refusals)", asked):
        what = f"--questions {questions}: it is for bench_suites/test_quality.py and test_refusals.py"
        raise BadOption(f"{what}: name one, or say --prompts-file")
    return [*files, questions] if questions and "test_refusals" in asked else files


def _taken(stack: Stack) -> set[str]:
    """Names that no language can have beside."""
    ks = (f"k{k}" for drafter in stack.drafters.values() for k in drafter.k)
    axes = [words for axis, words in stack.axes.items() if axis != "languages"]
    return {name.lower() for name in (*ENDPOINTS, *ks, *itertools.chain(*axes), *RESERVED)}


def _own(stack: Stack, workloads: Sequence[str], *, attached: bool) -> dict[str, OwnPrompts]:
    own = {workload: read(stack.prompts[workload]) for workload in workloads if workload in stack.prompts}
    for prompts in own.values():
        if clash := [language for language in prompts.languages if language.lower() in _taken(stack)]:
            raise BadRow(
                f"{prompts.file}: the language {clash[0]!r} has another meaning in the name of a cell, or to "
                "pytest: write another"
            )
        by_case = {language.lower(): language for language in prompts.languages}
        if other := [language for language in prompts.languages if by_case[language.lower()] != language]:
            raise BadRow(
                f"{prompts.file}: the languages {other[0]} and {by_case[other[0].lower()]} differ in nothing "
                "but capitals, and not every file system tells such cells apart: write one"
            )
        free = [prompt.id for turns in prompts.chats for prompt in turns if prompt.may_call]
        if free and not (attached or parses_calls(stack.engine.args)):
            raise BadInput(
                f"{prompts.file}: the prompt {free[0]} leaves it to the target whether it calls a tool, and "
                "the stack names no tool_call_parser: add it and enable_auto_tool_choice to [engine.args], "
                'or set tool_choice to "required"',
                code="no-tool-parser",
            )
    return own


def refuse_unwritable(given: argparse.Namespace) -> None:
    """Refuse a report of pytest's that cannot be written: pytest finds out when all has been measured.

    Raises:
        BadInput: with the reason of the operating system.
    """
    for report in ("xmlpath", "benchmark_json"):
        if path := getattr(given, report, None):
            can_write(Path(path))


def options_of(option: Callable[[str], Any], stack: Stack, *, root: Path, words: Sequence[str]) -> Options:
    """The options of a run.

    Args:
        option: gives what the command line says of an option.
        stack: to measure.
        root: where `baselines` lies.
        words: of the command line.

    Raises:
        BadInput: an option says what cannot be.
    """
    name = option("--profile")
    if name not in stack.profiles:
        raise BadOption(
            f"--profile {name}: unknown profile{did_you_mean(name, stack.profiles)}; there are: "
            f"{', '.join(stack.profiles)}"
        )
    profile = stack.profiles[name]
    numbers = ("prompts", "max_tokens", "concurrency")
    changes = {f: v for f in (*numbers, "confirm") if (v := option(f)) is not None}
    counted = [field for field in numbers if field in changes]
    least = dict.fromkeys((*counted, "repeats", "stall_seconds", "ttft_ms", "tpot_ms"), 1)
    least |= {"pairs": 2, "blocks": 2, "shards": 0}
    for field, lowest in least.items():
        if not lowest <= option(field) <= MOST:
            value = f"--{field.replace('_', '-')} {option(field)}"[:80]
            raise BadOption(f"{value}: must be {lowest} or more, and at most {MOST}")
    profile = profile.model_copy(update=changes)
    if option("--sequential") and (profile.prompts < LOOKS[0] or option("--repeats") > 1):
        raise BadOption(
            f"--sequential looks at {', '.join(map(str, LOOKS))} prompts, once: use --profile gate, "
            "without --repeats"
        )
    files = _files(option)
    named = [
        *(option("--workload") or ()),
        *(w for w, source in stack.prompts.items() if source.file in files),
    ]
    workloads = tuple(dict.fromkeys(named)) or (stack.workload_of(name),)
    for workload in workloads:
        if workload not in stack.workloads:
            raise BadOption(
                f"--workload {workload}: unknown workload{did_you_mean(workload, stack.workloads)}; "
                f"there are: {', '.join(stack.workloads)}"
            )
    return Options(
        stack=stack,
        profile_name=name,
        profile=profile,
        workloads=workloads,
        own=_own(stack, workloads, attached=bool(option("--server-url"))),
        server_url=server_url(option("--server-url")),
        baselines=option("--baselines") or root / "baselines",
        update="all" if option("--update-baselines") else "new" * option("--update-baselines-new-only"),
        compare=_existing_run(option("--compare")),
        command="pytest " + shlex.join(words),
        patch=os.environ.get("DRAFTGATE_MEND", "1"),
        api_key=key_of_environment() if option("--server-url") else None,
        levels=_rising("--levels", option("--levels")),
        ks=_rising("--ks", option("--ks"), most=MOST_K) if option("--ks") else (),
        ttft_s=option("--ttft-ms") / 1000,
        tpot_s=option("--tpot-ms") / 1000,
        against=_against(option),
        shard=_shard(option("--shard")),
        **{field: option(field) for field in _AS_GIVEN},
    )


def _against(option: Callable[[str], Any]) -> Against | None:
    if not option("--against"):
        return None
    old = load_stack(find_stack(option("--against"), DATA / "stacks", option="--against"))
    return Against(stack=old, blocks=option("--blocks"), across=tuple(dict.fromkeys(option("--across"))))


def _shard(text: str | None) -> dict[str, Any]:
    if not text:
        return {}
    plan, shard = named(text)
    return {"plan": plan.digest, "number": shard.number, "of": len(plan.shards)}


def _rising(flag: str, text: str, *, most: int = MOST) -> tuple[int, ...]:
    numbers = tuple(map(int, text.split(","))) if re.fullmatch("[0-9]{1,4}(,[0-9]{1,4})*", text) else ()
    if not numbers or numbers != tuple(sorted(set(numbers))) or not numbers[0] or numbers[-1] > most:
        what = "requests" if flag == "--levels" else "draft tokens"
        what += f", at most {most}" if most < MOST else ""
        raise BadOption(f"{flag} {text[:80]}: rising numbers of {what}, like 1,4,16")
    return numbers


def server_url(url: str | None) -> str | None:
    """What --server-url says.

    Raises:
        BadInput: no server can be there, or a key stands in it.
    """
    if url is not None and not is_url(url):
        raise BadInput(
            f"--server-url {shown(url)}: not the URL of a server, like http://127.0.0.1:8000",
            code="not-a-url",
        )
    return url


def _existing_run(path: Path | None) -> Path | None:
    if path is not None and not (path / RUN_FILE).is_file():
        raise BadInput(
            f"--compare {path}: no run lies there: name a folder with {RUN_FILE}", code="not-a-run"
        )
    return path
