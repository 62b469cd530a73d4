"""What `draftgate tune` searches: a stack, an objective and the parameters that may change."""

from __future__ import annotations

import json
import math
import random
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from harness.config.cells import Cell, canonical, cells_of
from harness.config.engine_arguments import why_refused
from harness.config.parameter import Parameter
from harness.config.prompt_files import OwnPrompts, read
from harness.config.prompts import hash_of
from harness.config.shipped import DATA
from harness.config.stack import NONE, Drafter, Profile, Stack, find_stack, load_stack
from harness.config.toml import Document, Table
from harness.config.variants import Engine
from harness.errors import BadInput
from harness.results.names import BASE
from harness.results.records import MOST_K
from harness.stats.paired import MIN_PROMPTS
from harness.text.validation import did_you_mean, first_fault

Objective = Literal["tokens_per_step", "tok_s", "goodput"]
Values = Mapping[str, Any]
"""Of one trial, by the key in the stack: `{"drafters.ngram.k": 3}`."""
_FIXED = frozenset({"name", "selected"})
"""Fields of a drafter that change no server."""
_PLACE = re.compile(r"\{(\w+)\}")
OUTPUT, HERE = "output", "here"
"""Places in a command: the folder that it must make, and the folder of the space."""


class Bounds(Table):
    """What a trial must keep to win."""

    ttft_ms: float | None = Field(default=None, gt=0)
    """Time to the first token: the median of a trial; of goodput each request's own."""
    tpot_ms: float | None = Field(default=None, gt=0)
    """Time per output token after it, likewise: summed over a trial."""
    memory_mib: float | None = Field(default=None, gt=0)
    """Of the server when a trial ends: of its processes, or of its GPUs."""
    other_text: float | None = Field(default=None, ge=0, le=1)
    """Share of a trial's answers that have another text than the default's."""


class Space(Table):
    """A search: where it is measured, what is wanted, and what may change."""

    schema_: Literal[1] = Field(alias="schema")
    stack: str
    """The name of a stack, or a path from the folder of this file."""
    drafter: str
    objective: Objective = "tokens_per_step"
    profile: str = "quick"
    endpoint: str | None = None
    language: str | None = None
    workload: str | None = None
    """The stack's first where one is not given; the profile's workload."""
    prompts: int = Field(default=MIN_PROMPTS, ge=MIN_PROMPTS)
    """Of each trial. As many further ones are kept for the winner."""
    max_tokens: int | None = Field(default=None, gt=0)
    concurrency: tuple[int, ...] = ()
    """Requests in flight; each number has a search of its own. The profile's when not given."""
    seed: int = Field(default=0, ge=0, le=2**20)
    command: str | tuple[str, ...] = ()
    """Makes a changed target; a text is split as a shell would, and no shell runs it."""
    command_timeout_s: float = Field(default=3600, gt=0)
    bounds: Bounds = Bounds()
    space: dict[str, Parameter] = Field(min_length=1)

    @field_validator("concurrency")
    @classmethod
    def _some_in_flight(cls, levels: tuple[int, ...]) -> tuple[int, ...]:
        if any(level < 1 for level in levels) or len(set(levels)) < len(levels):
            raise ValueError("concurrency has numbers above 0, each once, like [1, 8]")
        return levels


def _flat(tables: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """`[space."drafters.ngram.k"]` by its key; without the quotes it is tables in tables."""
    for name, table in tables.items():
        if isinstance(table, dict) and table and all(isinstance(inner, dict) for inner in table.values()):
            yield from _flat(table, f"{above}{name}.")
        else:
            yield f"{above}{name}", table


class Search:
    """A space with its stack, checked: makes the cell of any values in it."""

    def __init__(self, path: Path, folder: Path = Path()) -> None:
        """Read a space and its stack; `folder` is the search's own, where targets are made.

        Raises:
            BadInput: with file, line and key of the first thing that is wrong.
        """
        self.path, self.folder = path, folder.absolute()
        self._document = Document(path)
        tables = self._document.tables
        if isinstance(bounds := tables.get("bounds"), dict):
            for name in bounds.keys() - Bounds.model_fields.keys():
                known = ", ".join(Bounds.model_fields)
                what = f"unknown bound{did_you_mean(name, Bounds.model_fields)}; what is measured: {known}"
                raise self._document.wrong(("bounds", name), what)
        if isinstance(tables.get("space"), dict):
            tables["space"] = dict(_flat(tables["space"]))
        self.space = space = self._document.model(Space)
        by_path = space.stack.endswith(".toml") or "/" in space.stack
        name = str(path.parent / space.stack) if by_path else space.stack
        self.stack: Stack = load_stack(find_stack(name, DATA / "stacks", option=f"{path}: stack"))
        self._known("drafter", space.drafter, [name for name in self.stack.drafters if name != NONE])
        self._known("profile", space.profile, self.stack.profiles)
        workload = space.workload or self.stack.workload_of(space.profile)
        self._known("workload", workload, self.stack.workloads)
        source = self.stack.prompts.get(workload)
        self.own: dict[str, OwnPrompts] = {workload: read(source)} if source else {}
        languages = self.own[workload].languages if source else self.stack.languages
        self.place = {
            "workload": workload,
            "language": space.language or languages[0],
            "endpoint": space.endpoint or self.stack.endpoints[0],
        }
        self._known("language", self.place["language"], languages)
        self._known("endpoint", self.place["endpoint"], self.stack.endpoints)
        self._words = self._command()
        self._check_parameters()

    def wrong(self, key: str, what: str, *, code: str = "wrong-field") -> BadInput:
        """The error that says what is wrong with a parameter, or with the command: file, line and key."""
        return self._document.wrong(("space", *key.split(".")) if key else ("command",), what, code=code)

    def _known(self, key: str, word: str, names: Any) -> None:
        if word not in names:
            what = f"unknown {key} {word!r}{did_you_mean(word, names)}; stack {self.stack.name} has "
            raise self._document.wrong((key,), what + (", ".join(names) or "none"), code="wrong-field")

    def _command(self) -> tuple[str, ...]:
        """The words of the command, with their places."""
        given = self.space.command
        try:
            words = tuple(shlex.split(given)) if isinstance(given, str) else given
        except ValueError as error:
            raise self.wrong("", f"not a command: {error}") from None
        places = {name for word in words for name in _PLACE.findall(word)}
        asked = {key.partition(".")[2] for key in self.space.space if key.startswith("command.")}
        if clash := asked & {OUTPUT, HERE}:
            raise self.wrong(f"command.{min(clash)}", "draftgate fills this place in itself")
        if unused := sorted(asked - places):
            raise self.wrong(f"command.{unused[0]}", f"the command has no place {{{unused[0]}}}")
        if unknown := sorted(places - asked - {OUTPUT, HERE}):
            raise self.wrong("", f'{{{unknown[0]}}} is no parameter: add [space."command.{unknown[0]}"]')
        if words and not (asked and OUTPUT in places):
            raise self.wrong("", "the command needs {output}, the folder to make, and a parameter")
        return words

    def _check_parameters(self) -> None:
        for key, parameter in self.space.space.items():
            table, _, field = key.partition(".")
            whose, _, field_of = field.partition(".")
            if table == "drafters" and field_of:
                self._check_drafter(key, whose, field_of, parameter)
            elif table == "engine" and whose == "args" and field_of:
                if why := why_refused(field_of):
                    raise self.wrong(key, f"{field_of} is not searched: {why}", code="stack-argument")
            elif table != "command":
                near = f"drafters.{self.space.drafter}.{key.rpartition('.')[2]}"
                known = [near, *(f"engine.args.{name}" for name in self.stack.engine.args)]
                forms = "drafters.NAME.FIELD, engine.args.NAME, or command.NAME of the command above"
                raise self.wrong(key, f"unknown key{did_you_mean(key, known)}; write {forms}")
            for value in parameter.ends:
                self.changed({key: value})

    def _check_drafter(self, key: str, whose: str, field: str, parameter: Parameter) -> None:
        names = [name for name in self.stack.drafters if name != NONE]
        if whose not in names:
            raise self.wrong(key, f"unknown drafter {whose!r}{did_you_mean(whose, names)}")
        if whose != self.space.drafter:
            raise self.wrong(key, f"this is a search of {self.space.drafter!r}, the drafter named above")
        if field in _FIXED:
            raise self.wrong(key, f"{field} changes no server: there is nothing to search")
        if field == "k" and not all(isinstance(k, int) and 0 < k <= MOST_K for k in parameter.ends):
            raise self.wrong(key, f"k is a whole number from 1 to {MOST_K}")

    @property
    def size(self) -> float:
        """How many combinations of values there are; may be infinite."""
        return math.prod(parameter.size for parameter in self.space.space.values())

    @property
    def levels(self) -> tuple[int, ...]:
        """Requests in flight of each search."""
        return self.space.concurrency or (self.stack.profiles[self.space.profile].concurrency,)

    @property
    def default(self) -> dict[str, Any]:
        """What the stack has now, of the keys in the space; a key that it does not set is missing."""
        drafter = self.stack.drafters[self.space.drafter]
        mine = {"method": drafter.method, "model": drafter.model, **drafter.settings, "k": self.default_k}
        found = {f"drafters.{drafter.name}.{key}": value for key, value in mine.items()}
        found |= {f"engine.args.{key}": value for key, value in self.stack.engine.args.items()}
        return {key: found[key] for key in self.space.space if found.get(key) is not None}

    def is_inside(self, values: Values) -> bool:
        """Whether the space has these values, all of them."""
        space = self.space.space
        return values.keys() == space.keys() and all(space[key].has(value) for key, value in values.items())

    def drawn(self, chance: random.Random) -> dict[str, Any]:
        """Values, each as likely."""
        return {key: parameter.drawn(chance) for key, parameter in self.space.space.items()}

    def recorded(self) -> dict[str, Any]:
        """What must be the same for a search to go on. Of the stack a hash: it may hold a secret."""
        asked = self.space.model_dump(mode="json", by_alias=True)
        stack = hash_of(canonical(self.stack.model_dump(mode="json")))
        prompts = {name: own.digest for name, own in self.own.items()}
        return {**asked, "stack_hash": stack, "prompts_hash": prompts}

    def changed(self, values: Values) -> Stack:
        """The stack with these values.

        Raises:
            BadInput: a value does not fit.
        """
        name, target = self.space.drafter, self.stack.target
        if made := self.made(values):
            target = target.model_copy(update={"model": str(made), "revision": None})
        fields: dict[str, Any] = {"k": [self.default_k]}
        args = dict(self.stack.engine.args)
        for key, value in values.items():
            field = key.split(".", 2)[-1]
            if key.startswith("drafters."):
                fields[field] = [value] if field == "k" else value
            elif key.startswith("engine."):
                args[field] = value
        data = self.stack.drafters[name].model_dump() | {"selected": True} | fields
        try:
            drafter = Drafter.model_validate(data, context=self.path.parent)
        except ValidationError as error:
            (field, *_), what = first_fault(error, Drafter, data)
            raise self.wrong(f"drafters.{name}.{field}", what) from None
        engine: Engine = self.stack.engine.model_copy(update={"args": args})
        drafters = {**self.stack.drafters, name: drafter}
        return self.stack.model_copy(update={"engine": engine, "drafters": drafters, "target": target})

    def made(self, values: Values) -> Path | None:
        """The folder of the target that the command makes of these values; None of the stack's own."""
        own = {key: value for key, value in values.items() if key.startswith("command.")}
        if not own:
            return None
        name = hash_of(canonical([self._words, own]))[:8]
        return self.folder / "targets" / name / f"target-{name}"

    def command(self, values: Values) -> list[str]:
        """The command that makes it, with these values in its places."""
        texts = {OUTPUT: str(self.made(values)), HERE: str(self.path.absolute().parent)}
        for key, value in values.items():
            texts[key.partition(".")[2]] = value if isinstance(value, str) else json.dumps(value)
        return [_PLACE.sub(lambda place: texts[place[1]], word) for word in self._words]

    @property
    def default_k(self) -> int:
        """The largest k that the stack measures by default."""
        drafter = self.stack.drafters[self.space.drafter]
        return max(drafter.selected if isinstance(drafter.selected, tuple) else drafter.k)

    def profile(self, in_flight: int) -> Profile:
        """How a trial is measured. `confirm` keeps prompts for the winner."""
        space = self.space
        changes = {"prompts": space.prompts, "concurrency": in_flight, "confirm": True}
        changes |= {"max_tokens": space.max_tokens} if space.max_tokens else {}
        return self.stack.profiles[space.profile].model_copy(update=changes)

    def cell(self, values: Values, in_flight: int) -> Cell:
        """The cell that a trial measures."""
        return next(self._cells(self.changed(values), in_flight))

    def _cells(self, stack: Stack, in_flight: int) -> Iterator[Cell]:
        cells = cells_of(
            stack,
            self.space.profile,
            self.profile(in_flight),
            workloads=(self.place["workload"],),
            own=self.own,
        )
        wanted = {**self.place, "variant": BASE, "drafter": self.space.drafter}
        return (c for c in cells if all(getattr(c.name, axis) == of for axis, of in wanted.items()))
