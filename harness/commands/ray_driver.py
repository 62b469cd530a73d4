"""Hands the shards of a plan to a Ray cluster, keeps what comes back, and makes one run of it."""

from __future__ import annotations

import contextlib
import importlib
import shutil
from pathlib import Path
from typing import Any

from harness.commands.merge import merge
from harness.commands.ray_task import OUTPUT, PLAN, Bundle, Node, Sent, look, measure
from harness.errors import BadInput
from harness.provenance.record import our_version
from harness.results.files import append, files_below, write_atomically
from harness.results.journal import difference
from harness.results.names import SERVERS
from harness.results.records import RUN_FILE
from harness.results.shards import Plan
from harness.text.console import Rarely, say

_TRIES = 3
"""Times that a task is lost in a row without a new record."""
_CODES = range(6)
"""Exit codes of a pytest that ended by itself."""
_END_S = 15


class Driver:
    """Hands the shards to the cluster, keeps what comes back, and merges it."""

    def __init__(self, ray: Any, plan: Plan, bundle: Bundle, output: Path) -> None:
        """Look at the cluster; nothing is measured or written yet.

        Args:
            ray: the module, connected to the cluster.
            plan: its tasks.
            bundle: what travels to each.
            output: the folder of the run to make.

        Raises:
            BadInput: no node has what a task takes, a node has another draftgate or none, or two are unlike.
        """
        self._ray, self._plan, self._output = ray, plan, output
        self._folder = output.with_name(f"{output.name}-shards")
        self._lost = dict.fromkeys(range(len(plan.shards)), 0)
        self._codes: dict[int, int] = {}
        self._needs, self._expected = self._checked(bundle)
        self._bundle = ray.put(bundle)
        self._measure = ray.remote(measure).options(num_returns="streaming", max_retries=0, **self._needs)

    def _checked(self, bundle: Bundle) -> tuple[dict[str, float], Node]:
        """What a task takes, and what each node that has that much is."""
        ray, nodes = self._ray, [node for node in self._ray.nodes() if node["Alive"]]
        shard = max(self._plan.shards, key=lambda shard: shard.devices)
        most = {kind: max(node["Resources"].get(kind, 0) for node in nodes) for kind in ("CPU", "GPU")}
        needs = {"CPU": 1 if shard.devices else max(1, most["CPU"]), "GPU": shard.devices}
        able = [n for n in nodes if all(n["Resources"].get(kind, 0) >= much for kind, much in needs.items())]
        if not able:
            raise BadInput(
                f"shard {shard.number} ({', '.join(shard.servers)}) takes {shard.devices} devices and "
                f"{needs['CPU']:g} CPUs of one node; the most that a node of this cluster has is "
                f"{most['GPU']:g} and {most['CPU']:g}: add a larger node, or take fewer devices in the stack",
                code="too-few-devices",
            )
        at = importlib.import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
        looks = [
            ray.remote(look)
            .options(num_cpus=0, scheduling_strategy=at(node["NodeID"], soft=False))
            .remote(bundle.engine)
            for node in able
        ]
        first: Node | None = None
        for node, found in zip(able, looks, strict=True):
            try:
                seen: Node = ray.get(found)
            except ray.exceptions.RayError as error:
                why = str(error).strip().splitlines()[-1][:300]
                raise BadInput(
                    f"node {node['NodeManagerHostname']}: draftgate {our_version()} does not run there: "
                    f"{why}; install there what is installed here",
                    code="other-node",
                ) from None
            first = first or seen
            refuse_unlike(first, seen)
        assert first  # noqa: S101 - a node is able
        at_once = sum(int(min(n["Resources"][k] // much for k, much in needs.items() if much)) for n in able)
        what = (
            f"{needs['GPU']} devices"
            if needs["GPU"]
            else f"a node's {needs['CPU']:g} CPUs, so that no two share"
        )
        if not needs["GPU"] and len({node["NodeManagerHostname"] for node in able}) < len(able):
            what += "; but several nodes are one machine, whose cores they share: no time means anything"
        say(f"{len(self._plan.shards)} shards, {at_once} at once, on {len(able)} nodes; each takes {what}")
        return {"num_cpus": needs["CPU"], "num_gpus": needs["GPU"]}, first

    def run(self) -> int:
        """Measure and merge; the exit code of the worst shard, or 130 after Ctrl-C."""
        write_atomically(self._folder / PLAN, self._plan.text())
        say(f"records come to {self._folder}")
        tasks = {self._begun(shard.number): shard.number for shard in self._plan.shards}
        try:
            self._follow(tasks)
        except KeyboardInterrupt:
            for task in tasks:
                self._ray.cancel(task)
            ended = [task.completed() for task in tasks]
            with contextlib.suppress(KeyboardInterrupt):
                self._ray.wait(ended, num_returns=len(ended), timeout=_END_S)
            say(f"interrupted: what was measured is in {self._folder}")
            return 130
        runs = [path.parent for path in sorted(self._folder.glob(f"*/*/{RUN_FILE}"))]
        if missing := len(self._plan.shards) - len(runs):
            say(f"{missing} shards measured nothing; what the others did is in {self._folder}")
            return max(2, *self._codes.values())
        merge(runs, self._output)
        shutil.rmtree(self._folder)
        say(f"{len(runs)} shards merged: {self._output}; draftgate compare prints its tables")
        return max(self._codes.values())

    def _begun(self, number: int) -> Any:
        before = files_below(self._folder / str(number))
        return self._measure.remote(self._bundle, number, before, self._expected)

    def _follow(self, tasks: dict[Any, int]) -> None:
        """Take what comes until every shard has an exit code. Those that wait or measure stay in `tasks`."""
        rarely = Rarely()
        while tasks:
            ready, _ = self._ray.wait(list(tasks), timeout=5)
            if not ready and rarely():
                say(f"not ended yet, or waiting for a node: shard {', '.join(map(str, tasks.values()))}")
            for task in ready:
                number = tasks[task]
                try:
                    self._take(number, self._ray.get(next(task)))
                except (StopIteration, self._ray.exceptions.RayError) as error:
                    del tasks[task]
                    if number not in self._codes and not self._given_up(number, error):
                        tasks[self._begun(number)] = number

    def _take(self, number: int, sent: Sent) -> None:
        """Keep what a task has sent, and show its lines."""
        if sent.node:
            refuse_unlike(self._expected, sent.node)
            servers = ", ".join(self._plan.shards[number].servers)
            say(f"{number} | {servers} on {sent.node.host}")
        for name, news in sent.files.items():
            path = self._folder / str(number) / name
            if news is None:
                path.unlink(missing_ok=True)
            elif news[0]:
                append(path, news[1])
            else:
                write_atomically(path, news[1])
            if news and name == OUTPUT:
                self._show(number, news[1])
            if path.suffix == ".jsonl" and path.parent.name != SERVERS:
                self._lost[number] = 0
        if sent.code is not None and sent.code in _CODES:
            self._codes[number] = sent.code

    def _show(self, number: int, output: bytes) -> None:
        """Lines of a task's pytest, each as it stands last: a progress bar writes over its line."""
        for line in output.decode(errors="replace").split("\n"):
            if text := line.rstrip("\r").rpartition("\r")[2].rstrip():
                say(f"{number} | {text}")

    def _given_up(self, number: int, error: BaseException) -> bool:
        """Say that a task was lost; whether it was lost too often."""
        self._lost[number] += 1
        why = "its pytest was killed" if isinstance(error, StopIteration) else type(error).__name__
        if isinstance(error, self._ray.exceptions.RayTaskError):
            why = str(error).strip().splitlines()[-1][:300]
        again = self._lost[number] < _TRIES
        what = "begins again with the records that are here" if again else "given up"
        say(f"{number} | lost ({why}): {what}")
        if not again:
            self._codes[number] = 2
        return not again


def refuse_unlike(first: Node, other: Node) -> None:
    """Figures of unlike machines are never set side by side.

    Raises:
        BadInput: it names both nodes, and what differs.
    """
    mine, theirs = ({"draftgate": node.draftgate, **node.environment.model_dump()} for node in (first, other))
    if mine != theirs:
        raise BadInput(
            f"the nodes {first.host} and {other.host} are unlike ({difference(mine, theirs)}), and figures "
            "of unlike machines are never compared: use a cluster of like nodes",
            code="other-node",
        )
