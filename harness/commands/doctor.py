"""The command `draftgate doctor`: checks whether this machine can measure a stack correctly."""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from harness.commands import ceiling
from harness.config.cells import specs_of
from harness.config.engine_arguments import underscored
from harness.config.prompts import load_prompts
from harness.config.shipped import DATA, EMBEDDED
from harness.config.stack import Stack, default_stack, find_stack, load_stack
from harness.engine.facts import EngineFacts, engine_facts, known_faults
from harness.engine.http import Http, NoAnswer
from harness.engine.models import cache_folder, resolve
from harness.engine.server import free_port, running
from harness.engine.slot import Slot
from harness.engine.spelling import check_names
from harness.errors import BadInput, DraftgateError, ServerFailed
from harness.provenance.hardware import environment
from harness.provenance.record import folder_of, weights_hash
from harness.results.names import BASE
from harness.suites.known_answers import Result
from harness.suites.selfcheck import SHORT, ensure
from harness.text.arguments import Switch
from harness.text.console import show, width_of
from harness.text.redaction import without_home
from harness.text.render import folded

_HUB, _MAIN, _PATIENCE_S = "https://huggingface.co", "main", 10.0
_YES = frozenset({"1", "ON", "YES", "TRUE"})
"""As the hub's own client reads its switches."""
_LEAST_GB = 2.0
"""Free disk for a converted model, records and logs."""

Mark = Literal["ok", "bad", "—"]
_MARKS: dict[Result, Mark] = {"ok": "ok", "broken": "bad", "not checked": "—"}


class Line(NamedTuple):
    """What one check found."""

    mark: Mark
    name: str
    text: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the command's parser its options."""
    parser.description = (
        "Check whether this machine can measure a stack, and check the engine itself: the target drafts for "
        "itself, which has a known result. Exit code: 0 all is well, 1 it is not, 2 bad input."
    )
    add = parser.add_argument
    add("--stack", metavar="NAME|PATH", default=default_stack(), help="(%(default)s)")
    add("--results", metavar="DIR", type=Path, default=Path("results"), help="where runs go (results)")
    when = "do the self-check now, or not at all (by default: only where no result is remembered)"
    add("--self-check", "--calibrate", action=Switch, help=when)
    what = "then say what memory bandwidth allows, which is no measurement"
    add("--ceiling", action="store_true", help=what)


def run(options: argparse.Namespace) -> int:
    """Print a line for each check; the exit code.

    Raises:
        BadInput: there is no such stack, or it is not one.
    """
    stack = load_stack(find_stack(options.stack, DATA / "stacks"))
    well, width = True, width_of(sys.stdout)
    for line in checks(stack, results=options.results, self_check=options.self_check):
        well &= line.mark != "bad"
        head = f"{line.mark:4}{line.name:14}"
        show("\n".join(folded(f"{head}{line.text}", width, indent=" " * len(head))) + "\n")
    for text in ceiling.block(stack) if options.ceiling else ():
        show("\n".join(folded(text, width)) + "\n")
    return 0 if well else 1


def checks(stack: Stack, *, results: Path, self_check: bool | None) -> Iterator[Line]:
    """Check one thing after the other, the quick ones first. Without an engine the rest goes on.

    Args:
        stack: what is to be measured.
        results: where runs would go.
        self_check: whether to do the self-check; None: only where no result of it is remembered.
    """
    here = environment()
    gpus = ", ".join(str(gpu.name) for gpu in here.gpus) or "no GPU"
    yield Line("ok", "machine", f"{here.cpu}, {here.threads} threads, {gpus}")
    more = "".join(f"; {a} {', '.join(stack.axes[a])}" for a in ("variants", "references") if a in stack.axes)
    yield Line("ok", "stack", f"{stack.name}: {', '.join(stack.drafters)}{more}")
    yield from (_disk(name, folder) for name, folder in (("results", results), ("cache", cache_folder())))
    yield _checked("port", lambda: _port(stack.engine.port))
    python = stack.engine.python or sys.executable
    facts: EngineFacts | None = None
    try:
        facts = engine_facts(python)
    except ServerFailed as error:
        yield Line("bad", "engine", error.shown)
    else:
        how = "in each response" if facts.per_request else "by counters alone, at concurrency 1"
        yield Line("ok", "engine", f"{facts.package} {facts.version}; it reports acceptance {how}")
        yield from _names(stack, facts)
    models = [("target", stack.target.model)]
    models += [(name, str(drafter.model)) for name, drafter in stack.drafters.items() if drafter.model]
    models += [(name, variant.model) for name, variant in stack.setups.items() if variant.model]
    for name, model in models:
        if model != "target":
            yield _checked(name, functools.partial(_model, model, python))
    if stack.thinking:
        yield _checked("thinking", lambda: _thinking(stack, python))
    if facts is None:
        yield Line("—", "self-check", "not without an engine")
        return
    yield _checked("known faults", lambda: _faults(python))
    for name in (BASE, *stack.variants):
        of = "" if name == BASE else f"{name}: "
        for line in _self_check(stack.varied(name), self_check=self_check):
            yield line._replace(text=of + line.text)


def _disk(name: str, folder: Path) -> Line:
    there = folder.resolve()
    while not os.access(there, os.F_OK):
        there = there.parent
    if not os.access(there, os.W_OK):
        return Line("bad", name, f"{without_home(str(there))} cannot be written")
    free = shutil.disk_usage(there).free / 1e9
    text = f"{free:.1f} GB free at {without_home(str(folder))}"
    return Line("ok" if free >= _LEAST_GB else "bad", name, f"{text}; {_LEAST_GB:g} GB are the least")


def _checked(name: str, check: Callable[[], tuple[Mark, str]]) -> Line:
    """The line of a check, which may raise instead."""
    try:
        mark, text = check()
    except DraftgateError as error:
        mark, text = "bad", error.shown
    return Line(mark, name, text)


def _port(port: int | None) -> tuple[Mark, str]:
    free_port(port)
    return "ok", f"{port} is free" if port else "any free one"


def _names(stack: Stack, facts: EngineFacts) -> Iterator[Line]:
    """What the engine does not know of a stack, each once, though each of its servers would have it."""
    said = {}
    for spec in specs_of(stack):
        try:
            check_names(spec, facts)
        except BadInput as error:
            said[error.shown] = Line("bad", "stack", error.shown)
    yield from said.values()


def _model(reference: str, python: str) -> tuple[Mark, str]:
    where = resolve(reference, say=_silent, python=python)
    if not where.startswith("/"):
        return "—", f"{reference}: a hub id, which the engine fetches"
    return "ok", f"{reference}: weights {weights_hash(where)}"


def _thinking(stack: Stack, python: str) -> tuple[Mark, str]:
    """Whether the chat template knows the switch, and the server splits off what is thought."""
    target, args = stack.target, underscored(stack.engine.args)
    given = str(args.get("chat_template", ""))
    if "{" in given:  # the template itself
        texts = [given]
    else:
        folder = "" if given else resolve(target.tokenizer or target.model, say=_silent, python=python)
        names = [given] if given else ["chat_template.jinja", "tokenizer_config.json"]
        files = [path for name in names if (path := Path(folder, name)).is_file()]
        texts = [file.read_text(encoding="utf-8", errors="replace") for file in files]
    if not texts:
        return "—", f"no chat template here in which to look for {target.thinking_key}"
    if not any(target.thinking_key in text for text in texts):
        key = target.thinking_key
        return "bad", f"the chat template has no {key}: name its switch in target.thinking_key"
    if "reasoning_parser" not in args:
        return "—", "engine.args has no reasoning_parser: what is thought is not told apart from the answer"
    return "ok", f"the chat template has {target.thinking_key}"


def _faults(python: str) -> tuple[Mark, str]:
    found = known_faults(python)
    faults = [str(one.get("fault")) for one in found if one.get("probe") == "fault"]
    if faults:
        return "ok", f"{', '.join(faults)}: patched in every server that draftgate starts"
    return "ok", "none" if found else "none to look for on this device"


def _self_check(stack: Stack, *, self_check: bool | None) -> Iterator[Line]:
    if self_check is False:
        yield Line("—", "self-check", "left out")
        return
    if why := not_to_be_had(stack):
        yield Line("bad", "self-check", why)
        return
    try:
        prompts = load_prompts(DATA / "prompts", "instruct", stack.languages[0], at_most=SHORT)
        patch = os.environ.get("DRAFTGATE_MEND", "1")
        with tempfile.TemporaryDirectory() as folder:
            start = functools.partial(running, folder=Path(folder), say=_silent, patch=patch)
            with Slot(start, _silent) as slot:
                found = ensure(slot, stack, prompts, say=_silent, patch=patch, again=bool(self_check))
    except DraftgateError as error:
        yield Line("bad", "self-check", f"the target cannot draft for itself here: {error}".splitlines()[0])
        return
    for check in found.checks:
        yield Line(_MARKS[check.outcome], "self-check", f"{check.name}: {check.text}")


def not_to_be_had(stack: Stack) -> str:
    """Why an engine would look for its target in vain, for minutes; empty where it would not."""
    target = stack.target
    if target.model.startswith(("/", EMBEDDED)) or folder_of(target.model, target.revision):
        return ""
    known = {**os.environ, **stack.engine.env}
    hub, why = known.get("HF_ENDPOINT") or _HUB, "HF_HUB_OFFLINE is set"
    if known.get("HF_HUB_OFFLINE", "").upper() not in _YES:
        try:
            Http(hub.rstrip("/")).text(
                f"/{target.model}/resolve/{target.revision or _MAIN}/config.json", timeout_s=_PATIENCE_S
            )
        except NoAnswer as error:
            why = str(error)
            if error.status:  # it is there; what it lets this user have, the engine finds out
                return ""
        else:
            return ""
    return (
        f"the target {target.model} is not in the hub's cache of this machine and cannot be fetched ({why}): "
        "download it where there is a network, or name its folder in the stack"
    )


def _silent(_: str) -> None:
    """Says nothing."""
