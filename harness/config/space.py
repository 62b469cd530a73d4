"""What `draftgate tune` searches: a stack, an objective and the parameters that may change."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from harness.config.cells import Cell, canonical, cells_of
from harness.config.engine_arguments import why_refused
from harness.config.prompt_files import OwnPrompts, read
from harness.config.shipped import DATA
from harness.config.stack import NONE, Drafter, Engine, Profile, Stack, find_stack, load_stack
from harness.config.toml import Document, Table
from harness.errors import BadInput
from harness.results.records import MOST_K
from harness.stats.paired import MIN_PROMPTS
from harness.text.validation import did_you_mean, first_fault

Objective = Literal["tokens_per_step", "tok_s", "goodput"]
Values = Mapping[str, Any]
"""Of one trial, by the key in the stack: `{"drafters.ngram.k": 3}`."""
_FIXED = frozenset({"name", "selected"})
"""Fields of a drafter that change no server."""
_ROUNDING = 1e-9


class Parameter(Table):
    """The values that a key of the stack may have: numbers from `low` to `high`, or `choices`."""

    low: int | float | None = None
    high: int | float | None = None
    step: int | float | None = Field(default=None, gt=0)
    """Between two values; of whole numbers 1 when not given."""
    choices: tuple[Any, ...] = ()

    @model_validator(mode="after")
    def _one_kind(self) -> Parameter:
        if self.choices:
            if (self.low, self.high, self.step) != (None, None, None):
                raise ValueError("it has choices, and so neither low nor high nor step")
            if len({json.dumps(value, default=str) for value in self.choices}) < len(self.choices):
                raise ValueError("a choice stands there twice")
        elif self.low is None or self.high is None:
            raise ValueError("it needs low and high, or choices = [...]")
        elif self.low > self.high:
            raise ValueError(f"low is {self.low:g}, which is more than high, {self.high:g}")
        return self

    @property
    def whole(self) -> bool:
        """Its values are whole numbers."""
        return not any(isinstance(value, float) for value in (self.low, self.high, self.step))

    @property
    def size(self) -> float:
        """How many values it has; infinite where any number between two ends is one."""
        if self.low is None or self.high is None:
            return len(self.choices)
        if not self.whole and self.step is None:
            return math.inf if self.low < self.high else 1
        return math.floor((self.high - self.low) / (self.step or 1) + _ROUNDING) + 1

    @property
    def top(self) -> int | float:
        """The highest value that steps from `low` reach."""
        assert self.low is not None and self.high is not None  # noqa: S101, PT018 - it has no choices
        step = self.step or (1 if self.whole else None)
        return self.high if step is None else self.low + (int(self.size) - 1) * step

    def has(self, value: Any) -> bool:
        """Whether a value is one of them."""
        if self.low is None or self.high is None:
            return any(json.dumps(choice) == json.dumps(value) for choice in self.choices)
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return False
        steps = (value - self.low) / self.step if self.step else 0.0
        return self.low <= value <= self.high and abs(steps - round(steps)) < _ROUNDING

    def drawn(self, chance: random.Random) -> Any:
        """One of them, each as likely."""
        if self.low is None or self.high is None:
            return chance.choice(self.choices)
        if math.isinf(self.size):
            return chance.uniform(self.low, self.high)
        return self.low + chance.randrange(int(self.size)) * (self.step or 1)

    @property
    def ends(self) -> tuple[Any, ...]:
        """Its choices, or its lowest and highest value."""
        return self.choices or (self.low, self.high)


class Bounds(Table):
    """What a trial must keep to win."""

    ttft_ms: float | None = Field(default=None, gt=0)
    """Time to the first token: the median of a trial; of goodput each request's own."""
    tpot_ms: float | None = Field(default=None, gt=0)
    """Time per output token after it, likewise: summed over a trial."""


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

    def __init__(self, path: Path) -> None:
        """Read a space and its stack.

        Raises:
            BadInput: with file, line and key of the first thing that is wrong.
        """
        self.path = path
        self._document = Document(path)
        tables = self._document.tables
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
        self._check_parameters()

    def wrong(self, key: str, what: str, *, code: str = "wrong-field") -> BadInput:
        """The error that says what is wrong with a parameter: file, line and key."""
        return self._document.wrong(("space", *key.split(".")), what, code=code)

    def _known(self, key: str, word: str, names: Any) -> None:
        if word not in names:
            what = f"unknown {key} {word!r}{did_you_mean(word, names)}; stack {self.stack.name} has "
            raise self._document.wrong((key,), what + (", ".join(names) or "none"), code="wrong-field")

    def _check_parameters(self) -> None:
        for key, parameter in self.space.space.items():
            table, _, field = key.partition(".")
            whose, _, field_of = field.partition(".")
            if table == "drafters" and field_of:
                names = [name for name in self.stack.drafters if name != NONE]
                if whose not in names:
                    raise self.wrong(key, f"unknown drafter {whose!r}{did_you_mean(whose, names)}")
                if whose != self.space.drafter:
                    raise self.wrong(
                        key, f"this is a search of {self.space.drafter!r}, the drafter named above"
                    )
                if field_of in _FIXED:
                    raise self.wrong(key, f"{field_of} changes no server: there is nothing to search")
                if field_of == "k" and not all(
                    isinstance(k, int) and 0 < k <= MOST_K for k in parameter.ends
                ):
                    raise self.wrong(key, f"k is a whole number from 1 to {MOST_K}")
            elif table == "engine" and whose == "args" and field_of:
                if why := why_refused(field_of):
                    raise self.wrong(key, f"{field_of} is not searched: {why}", code="stack-argument")
            else:
                forms = (f"drafters.{self.space.drafter}.{key.rpartition('.')[2]}", "drafters.NAME.FIELD")
                known = [forms[0], *(f"engine.args.{name}" for name in self.stack.engine.args)]
                what = f"unknown key{did_you_mean(key, known)}; write {forms[1]} or engine.args.NAME"
                raise self.wrong(key, what)
            for value in parameter.ends:
                self.changed({key: value})

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
        stack = canonical(self.stack.model_dump(mode="json"))
        prompts = {name: own.digest for name, own in self.own.items()}
        return {
            **asked,
            "stack_hash": hashlib.sha256(stack.encode()).hexdigest()[:16],
            "prompts_hash": prompts,
        }

    def changed(self, values: Values) -> Stack:
        """The stack with these values.

        Raises:
            BadInput: a value does not fit.
        """
        name = self.space.drafter
        fields: dict[str, Any] = {"k": [self.default_k]}
        args = dict(self.stack.engine.args)
        for key, value in values.items():
            field = key.split(".", 2)[2]
            if key.startswith("drafters."):
                fields[field] = [value] if field == "k" else value
            else:
                args[field] = value
        data = self.stack.drafters[name].model_dump() | {"selected": True} | fields
        try:
            drafter = Drafter.model_validate(data, context=self.path.parent)
        except ValidationError as error:
            (field, *_), what = first_fault(error, Drafter, data)
            raise self.wrong(f"drafters.{name}.{field}", what) from None
        engine: Engine = self.stack.engine.model_copy(update={"args": args})
        drafters = {**self.stack.drafters, name: drafter}
        return self.stack.model_copy(update={"engine": engine, "drafters": drafters})

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
        wanted = {**self.place, "drafter": self.space.drafter}
        return itertools.filterfalse(
            lambda cell: any(getattr(cell.name, axis) != value for axis, value in wanted.items()), cells
        )
