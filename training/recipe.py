"""Reads a recipe, a TOML file that says what a drafter is made from and how."""

from __future__ import annotations

import json
import tomllib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, model_validator

from harness.config.engine_arguments import check_arguments
from harness.config.toml import Document, Reference, Table, too_deep
from harness.config.variants import Engine, Target
from harness.errors import BadInput
from harness.results.records import MOST_K
from training.errors import BadRecipe

RECIPES = Path(__file__).parent / "recipes"
MOST_SEED = 2**32 - 1
"""numpy takes no larger one."""
MOST_SHARE = 1e9
"""Of prompts or answers, relative to the others."""
_T = TypeVar("_T")


def _once(values: tuple[_T, ...] | None) -> tuple[_T, ...] | None:
    for value in values or ():
        if (values or ()).count(value) > 1:
            raise ValueError(f"{value!r} stands there twice")
    return values


def _named_once(values: dict[str, Any]) -> dict[str, Any]:
    spelled = Counter(name.replace("-", "_") for name in values)
    twice = next((name for name, count in spelled.items() if count > 1), None)
    if twice:
        raise ValueError(f"{twice} and {twice.replace('_', '-')} are one argument, which stands there twice")
    return values


def _sources_once(sources: tuple[Source, ...]) -> tuple[Source, ...]:
    alike = [source.model_copy(update={"weight": 1.0}) for source in sources]
    if any(alike.count(source) > 1 for source in alike):
        raise ValueError("one source stands there twice: give it one weight")
    return sources


Once = AfterValidator(_once)
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")]
_Arguments = Annotated[dict[str, Any], AfterValidator(_named_once)]


class Source(Table):
    """One source of prompts, and its share of the mix."""

    kind: Literal["self", "template", "jsonl", "hub"]
    """`self`: the target writes them itself, into an empty user turn; `template`: a TOML file of
    templates and words; `jsonl`: a file with `text` or `messages`; `hub`: a data set by name."""
    language: Name = "en"
    workload: Name = "instruct"
    weight: float = Field(gt=0, le=MOST_SHARE)
    """Its share of the prompts, relative to the other sources' weights."""
    path: Reference | None = None
    """For `template` and `jsonl`: relative to the recipe, or a name in training/prompts."""
    dataset: str | None = None
    """For `hub`: a data set's id."""
    split: str = "train"
    field: str = "prompt"
    """For `hub`: the column that holds the prompt."""
    temperature: float = Field(default=1.0, gt=0)
    """For `self`: how prompts are sampled. At 0 the target would write one prompt again and again."""

    @model_validator(mode="after")
    def _named(self) -> Source:
        if self.kind in {"template", "jsonl"} and not self.path:
            raise ValueError(f"a source of kind {self.kind!r} needs a path")
        if self.kind == "hub" and not self.dataset:
            raise ValueError("a source of kind 'hub' needs a dataset")
        return self


class Prompts(Table):
    """How many prompts, from where."""

    count: int = Field(gt=0)
    sources: Annotated[tuple[Source, ...], AfterValidator(_sources_once)] = Field(min_length=1)
    seed: int = Field(default=0, ge=0, le=MOST_SEED)
    max_characters: int = Field(default=2000, gt=0)
    overlap_words: int = Field(default=8, gt=1)
    """A prompt that shares a run of so many words with a benchmark prompt is dropped."""


class Responses(Table):
    """The target's own answers, which the drafter learns to foresee."""

    max_tokens: int = Field(default=512, gt=0)
    temperatures: dict[str, float] = Field(default={"0.0": 1.0})
    """Temperature -> share of the answers sampled so."""
    concurrency: int = Field(default=256, gt=0)
    """Requests that each server has in flight."""
    servers: int = Field(default=1, gt=0)
    """Servers of the target on the one device, each with a share of the prompts. vLLM schedules in one Python
    thread, which a small target's GPU waits for. Give each its memory: `gpu_memory_utilization` and
    `kv_cache_memory_bytes` in engine.args."""
    seed: int = 0
    drop_cut_off: bool = False
    """Drop answers that ended at max_tokens. They are counted in any case."""
    drop_degenerate: bool = True
    """Drop answers that loop, by the harness's own rule."""
    keep_language: bool = False
    """Drop answers to Chinese prompts that are not Chinese."""
    min_tokens: int = Field(default=8, gt=0)


class Dataset(Table):
    """What the trainer reads."""

    seq_length: int = Field(default=2048, gt=8)
    draft_vocab_size: int | None = Field(default=8192, gt=0)
    validation: float = Field(default=0.05, gt=0, lt=0.5)
    """Share of the rows that are held out. The parity suite takes its prompts from them."""


class HiddenStates(Table):
    """How the target's hidden states reach the trainer."""

    mode: Literal["ahead", "online"] = "ahead"
    """`ahead`: extracted in the trainer's own order, many requests in flight, into `folder`, while the
    trainer follows. `online`: the trainer's workers ask for each sample when they need it (its default;
    here to be compared with)."""
    layers: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Once] | None = Field(
        default=None, min_length=1
    )
    """The target's layers that the drafter sees; by default those that the trainer chooses."""
    concurrency: int = Field(default=256, gt=0)
    folder: str | None = None
    """Where they go; by default /dev/shm if it is large enough, else the work folder."""
    gpu_memory: float = Field(default=0.3, gt=0, lt=1)
    """The server's share of the GPU's memory while server and trainer share it."""
    max_missing: float = Field(default=0.01, ge=0, lt=1)
    """If a larger share of the samples has no hidden states, the stage fails."""
    args: _Arguments = Field(default_factory=dict)
    """More of vLLM's arguments for this server."""


class Train(Table):
    """The trainer's settings, mostly by its own names."""

    algorithm: Literal["eagle3", "dflash", "peagle"] = "eagle3"
    from_pretrained: Reference | None = None
    """A drafter to start from: a hub id, or a folder, relative to the recipe."""
    num_layers: int = Field(default=1, gt=0)
    ttt_steps: int = Field(default=4, gt=0)
    epochs: int = Field(default=1, gt=0)
    lr: float = Field(default=1e-3, gt=0)
    total_seq_len: int = Field(default=8192, gt=8)
    """Tokens of one packed step."""
    seed: int = Field(default=42, ge=0, le=MOST_SEED)
    checkpoint_steps: int = Field(default=200, gt=0)
    keep_last: int = Field(default=2, gt=0)
    patience: int | None = Field(default=None, gt=0)
    """Epochs without a better validation loss after which it stops; None never stops early."""
    max_empty: float = Field(default=0.01, ge=0, lt=1)
    """If a larger share of the samples reaches a step empty, the training stops."""
    max_steps: int | None = Field(default=None, gt=0)
    num_workers: int = Field(default=6, ge=0)
    log_steps: int = Field(default=10, gt=0)
    gpus: int = Field(default=1, gt=0)
    """More than one: through torchrun."""
    compile: bool = False
    """Compile an EAGLE-3 step while the server starts: 13 ms instead of 57 on an H100 (`tests.perf.steps`).
    Ignored on a CPU."""
    args: _Arguments = Field(default_factory=dict)
    """More of the trainer's own arguments, by their names."""

    @property
    def predictable(self) -> bool:
        """The validation can predict what serving gives: of EAGLE-3 drafters alone."""
        return self.algorithm == "eagle3"


class Check(Table):
    """How the drafter is measured once it is served."""

    stack: str = "smollm2-cpu"
    k: Annotated[tuple[Annotated[int, Field(ge=1, le=MOST_K)], ...], Once] = Field(default=(4,), min_length=1)
    languages: Annotated[tuple[str, ...], Once] | None = Field(default=None, min_length=1)
    """The stack's languages that are measured; by default all."""
    profile: str = "gate"
    prompts: int | None = Field(default=None, gt=0)
    max_tokens: int | None = Field(default=None, gt=0)
    held_out: int = Field(default=60, gt=0)
    """Held-out prompts to measure, of each language."""


class Recipe(Table):
    """From a target to a served, measured drafter."""

    schema_: Literal[1] = Field(alias="schema")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    drafter: str = Field(pattern=r"^[a-z0-9][a-z0-9.]*$")
    """The exported drafter's name, as a stack calls it."""
    about: str = ""
    target: Target
    engine: Engine = Engine()
    prompts: Prompts
    responses: Responses = Responses()
    dataset: Dataset = Dataset()
    hidden_states: HiddenStates = HiddenStates()
    train: Train = Train()
    check: Check = Check()


def served_as(algorithm: str) -> str:
    """What vLLM calls a method, by the trainer's name of it."""
    return "eagle3" if algorithm == "peagle" else algorithm


def temperatures_of(shares: Mapping[str, float]) -> dict[float, float]:
    """The recipe's temperatures and their shares, which add up to 1.

    Raises:
        BadInput: a temperature or a share is not a number that makes sense.
    """
    found: dict[float, float] = defaultdict(float)
    for name, share in shares.items():
        try:
            temperature = float(name)
        except ValueError:
            temperature = -1.0
        if not 0 <= temperature < float("inf"):
            raise BadRecipe(f"{name!r} is not a temperature (a number from 0 up)")
        if not 0 <= share <= MOST_SHARE:
            raise BadRecipe(f"{share} is not a share of the answers (a number from 0 to {MOST_SHARE:g})")
        found[temperature] += share
    total = sum(found.values())
    if not total:
        raise BadRecipe("the shares add up to nothing: raise one")
    return {temperature: share / total for temperature, share in sorted(found.items()) if share}


def find_recipe(name: str, folder: Path = RECIPES) -> Path:
    """The file of a recipe given by path, or by the name of one in a folder.

    Raises:
        BadInput: there is none; the message lists those there are.
    """
    for path in (Path(name), folder / f"{name.removesuffix('.toml')}.toml"):
        if path.suffix == ".toml" and path.is_file():
            return path
    known = ", ".join(sorted(p.stem for p in folder.glob("*.toml")))
    raise BadInput(
        f"recipe {name}: no such file; there are: {known} (or give a path to a TOML file)",
        code="unknown-name",
    )


def load_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """Read and validate a recipe.

    Args:
        path: a TOML file.
        changes: single values instead of the file's, like `train.epochs=2`.

    Raises:
        BadInput: with file, line and key of the first thing that is wrong, or with the change that is.
    """
    document = changed_document(path, changes)
    recipe = document.model(Recipe)
    try:
        greedy = 0.0 in temperatures_of(recipe.responses.temperatures)
    except BadRecipe as error:
        raise document.wrong(("responses", "temperatures"), str(error), code=error.code) from None
    for place in ("engine", "hidden_states"):
        check_arguments((place, "args"), getattr(recipe, place).args, document)
    # Greedy answers alone have a prediction, which serving is compared with.
    if greedy and recipe.train.predictable and (most := max(recipe.check.k)) > recipe.train.ttt_steps:
        what = f"the training foresees {recipe.train.ttt_steps} tokens (train.ttt_steps), and k is {most}"
        raise document.wrong(("check", "k"), f"{what}: check a smaller k, or raise ttt_steps")
    check_plain(recipe, path)
    return recipe


def changed_document(path: Path, changes: Sequence[str]) -> Document:
    """Read a recipe's file, and set single values in it.

    Raises:
        BadInput: it is not TOML, or a change is not possible.
    """
    document = Document(path)
    keys = Counter(change.partition("=")[0].strip() for change in changes)
    for key in (key for key, count in keys.items() if count > 1):
        raise BadRecipe(f"--set {key}= is given twice: name one value")
    for change in changes:
        _change(document.tables, change)
        if too_deep(document.tables):
            raise BadInput(f"--set {change[:80]}: nested too deeply to be a recipe", code="damaged-file")
    return document


def check_plain(recipe: Table, path: Path) -> None:
    """Check that every value can be passed on, as JSON or as a word of a command.

    Raises:
        BadInput: one cannot.
    """
    try:
        text = json.dumps(recipe.model_dump(), allow_nan=False, ensure_ascii=False)
        text.encode()
        if "\\u0000" in text:
            raise ValueError("a text holds a NUL")  # noqa: TRY301 - one sentence for all
    except (ValueError, TypeError) as error:
        raise BadRecipe(f"{path}: a value in it cannot be used: {error}; write another") from None


def _change(data: dict[str, Any], change: str) -> None:
    """Set one value: `train.epochs=2`, `drafter=eagle3once`."""
    key, equals, text = change.partition("=")
    if not equals or not key.strip():
        raise BadRecipe(f"--set {change}: not of the form KEY=VALUE, like train.epochs=2")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text.strip()  # a bare word
    *tables, last = (part.strip() for part in key.split("."))
    at = data
    for table in tables:
        at = at.setdefault(table, {})
        if not isinstance(at, dict):
            raise BadRecipe(f"--set {change}: {table} is no table of a recipe")
    at[last] = value
