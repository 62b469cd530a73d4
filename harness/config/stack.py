"""Reads a stack's TOML file and checks it: its target, engine, drafters and profiles."""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, PrivateAttr, field_validator, model_validator

from harness.config.engine_arguments import check_arguments, check_json
from harness.config.prompt_files import Source
from harness.config.toml import MOST, Document, Reference, Table, changed
from harness.config.variants import Engine, Target, Variant, check_variant
from harness.errors import BadInput
from harness.results.conditions import IdentityField
from harness.results.names import BASE, Thinking, thinking_word
from harness.results.records import MOST_K
from harness.text.validation import did_you_mean, near_path

ENDPOINTS = ("chat", "raw")
DEFAULT_STACK = "smollm2-cpu"
HERE = Path("stack.toml")
"""The stack of the current folder, which `draftgate init` writes."""
WORKLOADS = ("instruct", "code", "summary", "imageprompt", "longform")
NONE = "none"

_LONGEST = 180
"""Characters of a cell's name, but for its endpoint, thinking and k: a file has 255 for all."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
LETTERS = "letters, digits, ., _, + and -"
RESERVED = frozenset(
    {"and", "or", "not", "cells", "xdist_group"}
    | {"skip", "skipif", "xfail", "parametrize", "usefixtures", "filterwarnings"}
)
"""Names that mean something else to pytest: each value of an axis becomes a marker."""


class Sampling(Table):
    """Every sampling parameter of vLLM that changes text. Each request sends all of them."""

    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    min_p: float = Field(default=0.0, ge=0, le=1)
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = Field(default=1.0, gt=0)


class Profile(Table):
    """How much to measure, and how to sample."""

    prompts: int = Field(gt=0, le=MOST)
    max_tokens: int = Field(gt=0, le=MOST)
    concurrency: int = Field(default=1, gt=0, le=MOST)
    cache: Literal["cold", "warm", "off"] = "cold"
    """Prefix cache: `cold` salts every prompt, so that none is found in it; `warm` lets it fill; `off` starts
    the engine without one."""
    warmups: int = Field(default=2, ge=0, le=MOST)
    workload: str = "instruct"
    """Whose prompts are asked where the command line names none."""
    sampling: Sampling = Sampling()
    confirm: bool = False
    """Measure a regressed cell again, on as many further prompts of its file."""


PROFILES: dict[str, Profile] = {
    "quick": Profile(prompts=8, max_tokens=64),
    "gate": Profile(prompts=120, max_tokens=96, confirm=True),
    "field": Profile(prompts=120, max_tokens=200, sampling=Sampling(temperature=0.7)),
    "long": Profile(prompts=12, max_tokens=2000, workload="longform"),
}


class Drafter(Table):
    """A named way to propose tokens. Keys not listed here go to vLLM's speculative config as they are."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str
    """That of its table."""
    method: str | None = None
    model: Reference | None = None
    """A folder, a hub id, `embedded:NAME`, or `target`: the target drafts for itself."""
    k: tuple[int, ...] = (0,)
    selected: bool | tuple[int, ...] = True
    """False: measured only when -k or -m names it. Some of its `k`: this holds for the other `k`."""

    @property
    def settings(self) -> dict[str, Any]:
        """vLLM's own fields."""
        return dict(self.model_extra or {})


NO_DRAFTER = Drafter(name=NONE)
"""Drafts nothing: what speed-ups are measured from."""


class Stack(Table):
    """One target, one way to run it, and the drafters to compare."""

    schema_: Literal[1] = Field(alias="schema")
    name: str
    about: str = ""
    target: Target
    engine: Engine = Engine()
    drafters: dict[str, Drafter]
    profiles: dict[str, Profile] = PROFILES
    endpoints: tuple[str, ...] = ENDPOINTS
    languages: tuple[str, ...] = ("en", "zh")
    workloads: tuple[str, ...] = WORKLOADS
    """Whose prompts are shipped, and then the names of `prompts`."""
    thinking: tuple[Thinking, ...] = ()
    """Over chat: whether the target may think before it answers. Empty: its template is told nothing."""
    variants: dict[str, Variant] = Field(default_factory=dict)
    references: dict[str, Variant] = Field(default_factory=dict)
    """Other targets, measured without a drafter to stand beside."""
    prompts: dict[str, Source] = Field(default_factory=dict)
    """The user's own, by their workload."""
    subject: tuple[IdentityField, ...] = ()
    """Fields of a record's identity that may differ from its baseline, like `quantization`."""
    start_seconds: float = Field(default=60, ge=0, le=MOST)
    tokens_per_second: float = Field(default=50, gt=0, le=MOST)
    """Of the plan: guesses, for where the stack was not measured yet."""
    _source: Path | None = PrivateAttr(None)

    @model_validator(mode="before")
    @classmethod
    def _with_own_workloads(cls, tables: Any) -> Any:
        own, shipped = tables.get("prompts"), tables.get("workloads", WORKLOADS)
        if not isinstance(own, dict) or not isinstance(shipped, list | tuple):
            return tables
        return {**tables, "workloads": [*shipped, *own]}

    @field_validator("profiles", mode="before")
    @classmethod
    def _over_built_in(cls, tables: Any) -> Any:
        """A stack's profile table changes single values of the built-in one of that name."""
        return changed({name: profile.model_dump() for name, profile in PROFILES.items()}, tables)

    @field_validator("drafters", mode="before")
    @classmethod
    def _named(cls, tables: Any) -> Any:
        if not isinstance(tables, dict):
            return tables
        for name, table in tables.items():
            if isinstance(table, dict) and "name" in table:
                raise ValueError(f"drafter {name!r} sets name; its name is that of its table")
        return {name: t | {"name": name} if isinstance(t, dict) else t for name, t in tables.items()}

    @property
    def source(self) -> Path | None:
        """The file that it was read from."""
        return self._source

    @property
    def setups(self) -> dict[str, Variant]:
        """Its variants, then its references."""
        return self.variants | self.references

    @property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """By axis the words of -k and -m, but for k and the languages of the user's own prompts."""
        found = {"endpoints": self.endpoints, "languages": self.languages, "workloads": self.workloads}
        found |= {"thinking": tuple(map(thinking_word, self.thinking)), "drafters": tuple(self.drafters)}
        variants = (BASE, *self.variants) if self.setups else ()
        found |= {"variants": variants, "references": tuple(self.references)}
        return {axis: words for axis, words in found.items() if words}

    def varied(self, name: str) -> Stack:
        """The stack as one of its variants or references has it."""
        if name == BASE:
            return self
        target, engine = self.setups[name].applied(self.target, self.engine)
        return self.model_copy(update={"target": target, "engine": engine})

    def workload_of(self, profile: str) -> str:
        """Whose prompts a profile asks; the stack's first, where a built-in profile's is none of its own."""
        asked = self.profiles[profile].workload
        return asked if asked in self.workloads else self.workloads[0]


def default_stack() -> str:
    """The stack where none is named: that of the current folder, else the one that comes with draftgate."""
    return f"./{HERE}" if HERE.is_file() else DEFAULT_STACK


def find_stack(name: str, folder: Path, *, option: str = "--stack", what: str = "stack") -> Path:
    """The file of a stack, or of `what`, that `option` gives by name or by path.

    Raises:
        BadInput: there is none; the message lists those there are.
    """
    by_path = name.endswith(".toml") or "/" in name
    path = Path(name) if by_path else folder / f"{name}.toml"
    if by_path and not path.is_file():
        raise BadInput(f"{option} {name}: no such file{near_path(path)}", code="unknown-name")
    if not path.is_file():
        known = sorted(p.stem for p in folder.glob("*.toml"))
        raise BadInput(
            f"{option} {name}: unknown {what}{did_you_mean(name, known)}; there are: "
            f"{', '.join(known) or 'none'} (or give a path to a TOML file)",
            code="unknown-name",
        )
    return path


def load_stack(path: Path) -> Stack:
    """Read and validate a stack.

    Raises:
        BadInput: with file, line and key of the first thing that is wrong.
    """
    document = Document(path)
    stack = document.model(Stack)
    _check(stack, document)
    stack._source = path  # noqa: SLF001 - it is no key of the file
    return stack


_Loc = tuple[str, ...]


def _check(stack: Stack, document: Document) -> None:
    _check_names(stack, document)
    _check_axes(stack, document)
    _check_endpoints(stack, document)
    _check_profiles(stack, document)
    check_arguments(("engine", "args"), stack.engine.args, document)
    for name, drafter in stack.drafters.items():
        check_json(("drafters", name), drafter.settings, document)
    for table in ("variants", "references"):
        for name, variant in getattr(stack, table).items():
            check_variant((table, name), variant, document)
    if "\\u0000" in json.dumps(stack.model_dump(mode="json"), default=str):
        raise document.wrong((), "a text in it holds a NUL, which no command line can", code="stack-value")
    for drafter in stack.drafters.values():
        _check_drafter(drafter, document)


def _named(stack: Stack) -> list[tuple[_Loc, str]]:
    """Key and name of each drafter, variant, reference, workload and language."""
    tables = ("drafters", "prompts", "variants", "references")
    named: list[tuple[_Loc, str]] = [((of, name), name) for of in tables for name in getattr(stack, of)]
    axes = {"workloads": stack.workloads, "languages": stack.languages}
    return named + [((axis,), name) for axis, of in axes.items() for name in of if name not in stack.prompts]


def _check_names(stack: Stack, document: Document) -> None:
    if not NAME.fullmatch(stack.name.lstrip("_-")):
        raise document.wrong(("name",), f"{stack.name!r} is not a name ({LETTERS})", code="stack-name")
    for loc, name in (*_named(stack), *((("profiles", name), name) for name in stack.profiles)):
        if not NAME.fullmatch(name):
            raise document.wrong(loc, f"{name!r} is not a name ({LETTERS})", code="stack-name")
        if name in RESERVED and loc[0] != "profiles":
            raise document.wrong(loc, f"{name!r} has a meaning to pytest; rename it", code="stack-name")


def _check_axes(stack: Stack, document: Document) -> None:
    """Every axis has a value, no value stands twice, and none is of two axes."""
    axes = {"endpoints": stack.endpoints, "workloads": stack.workloads, "languages": stack.languages}
    if not stack.drafters:
        raise document.wrong(("drafters",), "it has no drafter, not even none", code="stack-drafter")
    for axis, names in (axes | {"thinking": stack.thinking}).items():
        if not names and axis in axes:
            raise document.wrong((axis,), "it is empty, so there is nothing to measure", code="stack-name")
        twice = [name for i, name in enumerate(names) if name in names[:i]]
        if twice:
            raise document.wrong((axis,), f"{twice[0]!r} stands there twice", code="stack-name")
    ks = [f"k{k}" for drafter in stack.drafters.values() for k in drafter.k if k > 0]
    taken = dict.fromkeys((*ENDPOINTS, *map(thinking_word, stack.thinking), *ks), "")
    taken |= {BASE: ""} if stack.setups else {}
    for loc, name in _named(stack):
        if name.lower() in taken:  # file names of a cell may be told apart by nothing else
            what = f"{name!r} is the name of another axis' value too, so that -m {name} would select both"
            raise document.wrong(loc, f"{what}; rename it", code="stack-name")
        taken[name.lower()] = name
    places = product(stack.languages, stack.workloads, ("", *stack.setups), stack.drafters)
    cells = Counter("-".join(filter(None, parts)).lower() for parts in places)
    name, times = cells.most_common(1)[0]
    if times > 1:
        raise document.wrong(("drafters",), f"{name} would name two cells; rename a part", code="stack-name")
    if len(longest := max(cells, key=len)) > _LONGEST:
        what = f"cells like {longest} have names that are too long for files: shorten a part"
        raise document.wrong(("drafters",), what, code="stack-name")


def _check_endpoints(stack: Stack, document: Document) -> None:
    for endpoint in stack.endpoints:
        if endpoint not in ENDPOINTS:
            what = f"unknown endpoint {endpoint!r}{did_you_mean(endpoint, ENDPOINTS)}"
            what += f"; there are: {', '.join(ENDPOINTS)}"
            raise document.wrong(("endpoints",), what, code="stack-endpoint")
    if stack.thinking and "chat" not in stack.endpoints:
        what = "raw has no chat template, which alone is told to think: add chat to endpoints"
        raise document.wrong(("thinking",), what, code="stack-endpoint")


def _check_profiles(stack: Stack, document: Document) -> None:
    """A workload that the file gives a profile is one of the stack's."""
    for name, profile in stack.profiles.items():
        own = document.tables.get("profiles", {}).get(name, {})
        if "workload" in own and profile.workload not in stack.workloads:
            what = f"unknown workload {profile.workload!r}{did_you_mean(profile.workload, stack.workloads)}"
            raise document.wrong(
                ("profiles", name, "workload"),
                f"{what}; workloads has {', '.join(stack.workloads)}",
                code="stack-name",
            )


def _check_drafter(drafter: Drafter, document: Document) -> None:
    name, k = drafter.name, drafter.k
    wrong = functools.partial(document.wrong, ("drafters", name, "k"), code="stack-drafter")
    if drafter.method is None:
        if name != NONE or k != (0,) or drafter.model or drafter.settings:
            raise wrong(f"drafter {name!r} has no method; only {NONE!r} drafts nothing")
        return
    if name == NONE:
        raise wrong(f"the drafter {NONE!r} drafts nothing: it takes no method")
    if not k or k == (0,):
        raise wrong(f"drafter {name!r} has no k (num_speculative_tokens), like k = [2, 4]")
    for tokens in k:
        if not 0 < tokens <= MOST_K:
            raise wrong(f"k is {tokens}, it must be from 1 to {MOST_K}")
    chosen = drafter.selected
    if isinstance(chosen, tuple) and not (chosen and set(chosen) <= set(k)):
        among = f"names a k that is not among them: {list(chosen)}"
        raise wrong(f"selected {among if chosen else 'is empty: write false, or some of its k'}")
    if len(set(k)) != len(k):
        raise wrong(f"k holds a value twice: {list(k)}", code="stack-name")
    if "num_speculative_tokens" in drafter.settings:
        raise wrong(f"drafter {name!r} sets num_speculative_tokens; that is k here")
