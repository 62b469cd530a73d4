"""The command `draftgate run --ray`: what `draftgate bench` measures, on the nodes of a Ray cluster."""

from __future__ import annotations

import argparse
import dataclasses
import os
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.commands.plan import planned
from harness.commands.ray_driver import Driver
from harness.commands.ray_task import CARRIED, PLAN, Bundle
from harness.config.rows import HUB
from harness.config.shipped import DATA, INSTALLED, SUITES
from harness.config.stack import Stack, default_stack, find_stack, load_stack
from harness.config.toml import Document
from harness.errors import BadInput, BadOption, library
from harness.results.files import files_below, read_bytes, write_atomically
from harness.results.journal import difference
from harness.results.names import new_name
from harness.text.arguments import Parser
from harness.text.console import end_like_ctrl_c

_ALONE = ("-n", "--against", "--benchmark-json", "--junit-xml", "--junitxml", "--numprocesses", "--plan",
          "--resume", "--server-url", "--shard", "--update-baselines",
          "--update-baselines-new-only")  # fmt: skip
"""Options that mean one machine, or a file that would stay on a node."""


def run(words: Sequence[str]) -> int:
    """Measure on a cluster what `draftgate bench WORDS` measures here; the exit code of the worst shard.

    Raises:
        BadInput: the words, the cluster or its nodes cannot be used; the shards do not belong together.
    """
    parser = Parser(
        prog="draftgate run",
        description="Measure what draftgate bench WORDS measures, each server on a node of a Ray cluster. "
        "All other words are those of draftgate bench.",
        allow_abbrev=False,
    )
    cluster = "the cluster, like 10.0.0.1:6379; without it that of RAY_ADDRESS, or of this machine"
    parser.add_argument("--ray", metavar="ADDRESS", nargs="?", const="auto", required=True, help=cluster)
    parser.add_argument("--shards", metavar="N", default="0", help="how many tasks (one a server)")
    parser.add_argument("--results", metavar="DIR", type=Path, default=Path("results"))
    for name in ("--stack", "--baselines", "--compare"):
        parser.add_argument(name)
    parser.add_argument("--prompts-file", action="append", default=[])
    own, rest = parser.parse_known_args(words)
    if own.ray != "auto" and ":" not in own.ray:  # the name of a suite
        own.ray, rest = "auto", [own.ray, *rest]
    for word in rest:
        if (word.split("=")[0] if word.startswith("--") else word[:2]) in _ALONE:  # -n 2, -n2
            what = f"draftgate run --ray does without {word}: it is for one machine; use draftgate bench"
            raise BadOption(what)
    ray = _ray()
    end_like_ctrl_c()
    with tempfile.TemporaryDirectory(prefix="draftgate-run-") as made:
        stack, bundle = _bundle(Path(made), own, rest)
        try:
            _connect(ray, own.ray)
            end_like_ctrl_c()  # Ray has a handler of its own
            results = ["--results", str(own.results.absolute())]  # earlier runs there say how long it takes
            plan = planned([*bundle.words, *results], shards=own.shards, folder=Path(made))
            if isinstance(plan, int):
                return plan
            bundle = dataclasses.replace(bundle, files={**bundle.files, PLAN: plan.text().encode()})
            return Driver(ray, plan, bundle, own.results / new_name(stack.name)).run()
        except KeyboardInterrupt:
            return 130
        finally:
            ray.shutdown()


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")  # else it waits for minutes where none answers
    return library("ray", "draftgate run --ray", package="ray", extra="ray")


def _connect(ray: Any, address: str) -> None:
    address = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    if address.startswith("ray://"):
        what = f"--ray {address}: draftgate runs on a machine of the cluster: give HOST:PORT of its head"
        raise BadInput(what, code="no-cluster")
    try:
        if ":" in address:
            host, _, port = address.rpartition(":")
            local = host in ("localhost", "127.0.0.1", "::1")  # Ray takes the machine's own address for these
            where = (ray.util.get_node_ip_address() if local else host.strip("[]"), int(port))
            socket.create_connection(where, timeout=10).close()  # Ray itself needs 40 s to say that none is
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, ValueError, OverflowError) as error:
        raise BadInput(
            f"--ray {address}: no Ray cluster is there ({error}); start one with ray start --head",
            code="no-cluster",
        ) from None
    except RuntimeError as error:  # another version of Ray, or of Python
        what = f"--ray {address}: {' '.join(str(error).split())}; use the versions of the cluster"
        raise BadInput(what, code="no-cluster") from None


def _bundle(folder: Path, own: argparse.Namespace, rest: Sequence[str]) -> tuple[Stack, Bundle]:
    """Put what the words name into a folder, as it will lie on a node, and the words that name it there.

    Raises:
        BadInput: something cannot travel, or is not there.
    """
    path = find_stack(own.stack or default_stack(), DATA / "stacks")
    stack = load_stack(path)
    files = {"stack/stack.toml": read_bytes(path)}
    for name, table in Document(path).tables.get("prompts", {}).items():
        file = Path(str(table["file"]).removeprefix(HUB))
        if file.is_absolute() or str(file).startswith("~") or not (path.parent / file).is_file():
            continue  # it is on the nodes, or on the hub; a node says where it is not
        if ".." in file.parts:
            raise BadInput(
                f"{path}, key prompts.{name}.file: {file} lies outside the stack's folder, so it cannot "
                "travel to a node: put it there, or write a path that is on every node",
                code="cannot-travel",
            )
        files[f"stack/{file}"] = read_bytes(path.parent / file)
    words = [*rest, "--stack", "stack/stack.toml"]
    for number, name in enumerate(own.prompts_file):
        at = f"prompts/{number}/{Path(name).name}"
        if Path(name).is_file():
            files[at] = read_bytes(Path(name))
        words += ["--prompts-file", at if at in files else name]
    default = (Path() if INSTALLED else SUITES.parent) / "baselines"
    for option, there in (("baselines", Path(own.baselines or default)), ("compare", own.compare)):
        if there is not None:
            files |= {f"{option}/{at}": data for at, data in files_below(Path(there)).items()}
            words += [f"--{option}", option]
    for at, data in files.items():
        write_atomically(folder / at, data)
    before, after = (one.model_dump(mode="json", exclude={"prompts"}) for one in (
        stack, load_stack(folder / "stack/stack.toml")))  # fmt: skip
    if before != after:
        key = difference(before, after).split(" was ")[0]
        raise BadInput(
            f"{path}, key {key}: a path that starts at the stack's folder means nothing on a node: write one "
            "that is on every node, and starts with /",
            code="cannot-travel",
        )
    variables = {name: os.environ[name] for name in CARRIED if name in os.environ}
    return stack, Bundle(words=tuple(words), files=files, engine=stack.engine, variables=variables)
