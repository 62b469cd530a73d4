"""A plan on disk: what each of several machines measures, so that any scheduler can run it."""

from __future__ import annotations

import hashlib
import heapq
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from harness.errors import BadInput, BadRecord
from harness.results.files import json_object, read_bytes
from harness.results.records import Record
from harness.text.validation import first_fault

_NAMED = re.compile(r"(?P<path>.+):(?P<number>[0-9]{1,6})")


class Case(Record):
    """A test case, and the server that it needs."""

    case: str
    """Its id, as pytest writes it."""
    server: str
    """A hash of all that decides what the server is."""


class Shard(Record):
    """What one machine measures."""

    number: int
    """From 0, as Slurm and Kubernetes count."""
    command: tuple[str, ...] = ()
    devices: int
    """Accelerators that its servers need; 0 on a CPU engine."""
    seconds: float | None
    """With the self-check; None where a suite in it cannot tell beforehand."""
    servers: tuple[str, ...]
    cases: tuple[Case, ...]


class Plan(Record):
    """All shards of one command line."""

    schema_: Literal[1] = Field(alias="schema", default=1)
    stack: str
    profile: str
    draftgate: str
    """The version that made the plan, with its commit where that is known."""
    options: dict[str, Any]
    """As `run.json` has them."""
    shards: tuple[Shard, ...]
    digest: str = ""
    """Of all that stands above: a plan is not edited by hand."""

    def sealed(self) -> Plan:
        """The same with its digest."""
        return self.model_copy(update={"digest": self.computed()})

    def text(self) -> str:
        """What its file holds."""
        return self.model_dump_json(by_alias=True, indent=1) + "\n"

    def computed(self) -> str:
        """What `digest` must be."""
        fields = self.model_dump(mode="json", by_alias=True, exclude={"digest"})
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def of_file(path: Path) -> Plan:
    """Read a plan.

    Raises:
        BadInput: it is no plan, or was edited.
    """
    again = "make it again with draftgate plan"
    try:
        plan = Plan.model_validate(data := json_object(read_bytes(path), str(path)))
    except ValidationError as error:
        field, fault = first_fault(error, Plan, data)
        raise BadInput(f"{path}, {'.'.join(field)}: {fault}; {again}", code="not-a-plan") from None
    except BadRecord as error:
        raise BadInput(f"{error.shown}; a plan is made by draftgate plan", code="not-a-plan") from None
    if plan.digest != plan.computed():
        raise BadInput(f"{path} was changed after it was made: {again}", code="not-a-plan")
    return plan


def named(text: str) -> tuple[Plan, Shard]:
    """The plan and the shard that `FILE:NUMBER` names.

    Raises:
        BadInput: there is no such shard; see also `of_file`.
    """
    if not (match := _NAMED.fullmatch(text)):
        raise BadInput(
            f"--shard {text}: write the plan's file and a number, like plan.json:0", code="option-value"
        )
    plan = of_file(Path(match["path"]))
    if int(match["number"]) >= len(plan.shards):
        raise BadInput(
            f"--shard {text}: the plan has {len(plan.shards)} shards, 0 to {len(plan.shards) - 1}",
            code="option-value",
        )
    return plan, plan.shards[int(match["number"])]


class Unit(Record):
    """Cases that stay together, since they share a server or are compared with one another."""

    cases: tuple[Case, ...]
    servers: tuple[str, ...]
    """As a reader calls them."""
    start_s: float = 0
    seconds: tuple[float, ...] | None = None
    """Of each case, without the start; None where a suite cannot tell, and then the unit is not cut."""

    @property
    def total_s(self) -> float:
        """Start and cases; infinite where nobody knows, so that such a unit comes first."""
        return math.inf if self.seconds is None else self.start_s + sum(self.seconds)

    def halves(self) -> tuple[Unit, Unit]:
        """The first cases and the others, nearly equal in time; each needs a start of its own."""
        seconds = self.seconds or ()
        at = min(range(1, len(self.cases)), key=lambda i: (abs(sum(seconds[:i]) - sum(seconds[i:])), i))
        first, rest = slice(None, at), slice(at, None)
        return (
            self.model_copy(update={"cases": self.cases[first], "seconds": seconds[first]}),
            self.model_copy(update={"cases": self.cases[rest], "seconds": seconds[rest]}),
        )


def divided(units: Sequence[Unit], count: int) -> list[list[Unit]]:
    """The units on `count` machines, so that the last one ends early; fewer lists where there is less to do.

    Longest first, each to the machine that is free first (Graham 1969: at most 4/3 of the best). The longest
    unit is cut in two while there are fewer units than machines.
    """
    pieces = list(units)
    while len(pieces) < count:
        longest = max((unit for unit in pieces if unit.seconds), key=lambda unit: unit.total_s, default=None)
        if longest is None or len(longest.cases) == 1:
            break
        at = pieces.index(longest)
        pieces[at : at + 1] = longest.halves()
    shares: list[list[Unit]] = [[] for _ in range(min(count, len(pieces)))]
    free = [(0, 0.0, number) for number in range(len(shares))]  # those of unknown length are counted apart
    for unit in sorted(pieces, key=lambda unit: -unit.total_s):
        unknown, busy_s, number = heapq.heappop(free)
        shares[number].append(unit)
        known = unit.seconds is not None
        heapq.heappush(free, (unknown + (not known), busy_s + (unit.total_s if known else 0), number))
    return shares
