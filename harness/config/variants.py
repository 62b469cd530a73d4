"""A stack's target and engine, and its variants: what they change of these."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field

from harness.config.engine_arguments import check_arguments, replaced
from harness.config.toml import Document, Program, Reference, Table


def _variable(name: str) -> str:
    if not name or "=" in name:
        raise ValueError(f"{name!r} is no name of a variable of the environment")
    return name


Variable = Annotated[str, AfterValidator(_variable)]


class Target(Table):
    """The model whose output is wanted."""

    model: Reference
    """A folder, a hub id, or `embedded:NAME`."""
    revision: str | None = None
    tokenizer: Reference | None = None
    dtype: str = "auto"
    quantization: str | None = None
    served_name: str | None = None
    trust_remote_code: bool = False
    thinking_key: str = "enable_thinking"
    """What its chat template calls the switch that lets it think."""


class Engine(Table):
    """How to start vLLM: its own arguments by their names, and its environment."""

    python: Program | None = None
    """The interpreter that has vLLM; draftgate's own when not given."""
    port: int | None = Field(default=None, ge=1, le=65535)
    """A free one when not given."""
    args: dict[str, Any] = Field(default_factory=dict)
    env: dict[Variable, str] = Field(default_factory=dict)
    fork: bool = True
    """Fork each server off a process that has imported vLLM once, where the engine can be forked."""
    start_timeout_s: float = Field(default=900, gt=0)
    request_timeout_s: float = Field(default=300, gt=0)
    """How long a server may send nothing of an answer; the whole of it may take longer."""


class Variant(Target, Engine):
    """What a variant changes of the target and the engine. Keys not listed there are arguments of vLLM."""

    model_config = ConfigDict(frozen=True, extra="allow")

    model: Reference = ""

    @property
    def changes(self) -> dict[str, Any]:
        """Every key that its table has, and its value."""
        return {name: getattr(self, name) for name in sorted(self.model_fields_set)}

    def applied(self, target: Target, engine: Engine) -> tuple[Target, Engine]:
        """A target and an engine with these changes. Another model has no revision of the first one."""
        given = self.changes
        of_target = {name: given[name] for name in given.keys() & Target.model_fields.keys()}
        of_engine = {name: given[name] for name in given.keys() & Engine.model_fields.keys()}
        if "model" in given:
            of_target = {"revision": None} | of_target
        args = replaced(engine.args, self.model_extra or {})
        of_engine |= {"args": args, "env": engine.env | self.env}
        return target.model_copy(update=of_target), engine.model_copy(update=of_engine)


def check_variant(loc: tuple[str, ...], variant: Variant, document: Document) -> None:
    """Check the arguments of vLLM in the table of a variant.

    Args:
        loc: its table, of `variants` or of `references`.
        variant: what stands there.
        document: in which it stands.

    Raises:
        BadInput: with file, line and key.
    """
    for name in ("target", "engine", "args"):
        if name in variant.model_fields_set:
            what = (
                f"write what changes, as dtype or max_model_len, in [{'.'.join(loc)}] itself, not in {name}"
            )
            raise document.wrong((*loc, name), what)
    if loc[0] == "references" and not variant.model:
        raise document.wrong((*loc, "model"), "it is missing: a reference is another target")
    check_arguments(loc, variant.model_extra or {}, document)
