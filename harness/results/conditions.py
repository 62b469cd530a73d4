"""The conditions of a measurement: what must be the same, what is compared, and on which machine it ran.

Files of every version are read. A field that a file lacks is None or empty here and is not written again;
one that this version does not know is kept, and compared like any other.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_serializer

from harness.text.validation import did_you_mean

UNVERIFIED = "unverified"
"""What stands for something that could not be found out."""


class Conditions(BaseModel):
    """Fields that two records are compared by."""

    model_config = ConfigDict(
        frozen=True, extra="allow", strict=True, allow_inf_nan=False, populate_by_name=True
    )

    @model_serializer
    def as_given(self) -> dict[str, Any]:
        """The fields that were given, under their names on disk."""
        fields, given = type(self).model_fields, self.model_fields_set
        known = {
            field.serialization_alias or name: getattr(self, name)
            for name, field in fields.items()
            if name in given
        }
        return known | (self.model_extra or {})

    def differences(self, other: Self) -> dict[str, tuple[Any, Any]]:
        """The fields that differ, sorted, each with both values; None stands for a field that is missing."""
        if self == other and self.model_fields_set == other.model_fields_set:
            return {}
        mine, theirs = self.model_dump(), other.model_dump()
        return {
            name: (mine.get(name), theirs.get(name))
            for name in sorted({*mine, *theirs})
            if mine.get(name) != theirs.get(name)
        }


class Identity(Conditions):
    """What must be the same for two records to be compared."""

    imported: str | None = None
    """The other tool that measured it."""
    endpoint: str | None = None
    language: str | None = None
    workload: str | None = None
    target: str | None = None
    """The model's name: where it lies differs from machine to machine."""
    revision: str | None = None
    weights: str | None = None
    """A hash, as are the next two."""
    tokenizer: str | None = None
    chat_template: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    sampling: dict[str, int | float | None] = {}
    max_tokens: int | None = None
    concurrency: int | None = None
    cache: str | None = None
    metric_version: int | None = None
    thinking: str | None = None
    """`on` or `off`, where the stack has that axis."""
    variant: str | None = None
    """Of the stack, or the name of a reference; not given for the stack as it stands."""
    verification: str | None = None
    """How the engine verifies drafts, where that is not exact: the text is then not the target's alone."""
    ignore_eos: bool | None = None
    """True where answers went on after their end, to a fixed length; else not given."""


def _of_identity(name: str) -> str:
    if name not in Identity.model_fields:
        near, there = did_you_mean(name, Identity.model_fields), ", ".join(sorted(Identity.model_fields))
        raise ValueError(f"no record's identity has a field {name!r}{near}; there are: {there}")
    return name


IdentityField = Annotated[str, AfterValidator(_of_identity)]


class Patch(Conditions):
    """What the engine plug-in did about one fault of the engine."""

    fault: str | None = None
    probe: str | None = None
    """What its probe said of this engine: `fault` where it has the fault."""
    patched: bool | None = Field(default=None, validation_alias="mended", serialization_alias="mended")


class Subject(Conditions):
    """What a comparison is about: drafter, settings, engine. `unverified` where it could not be found out."""

    drafter: str | None = None
    k: int | None = None
    method: str | None = None
    settings: dict[str, Any] = {}
    """Of the drafter, as the engine is told them."""
    weights: str | None = None
    """A hash of the drafter's."""
    drafter_revision: str | None = None
    engine: str | None = None
    """Its version."""
    engine_commit: str | None = None
    engine_files: list[list[str]] | str | None = None
    """Name and hash of files that are not as the engine's package brought them."""
    engine_env: dict[str, Any] | str | None = None
    loads_code: list[str] = []
    """Variables of the environment that put other code before the engine's."""
    mounted: dict[str, Any] | str | None = None
    engine_args: dict[str, Any] = {}
    resolved_config: str | None = None
    execution: dict[str, Any] | str | None = None
    """How the engine runs its model: runner, scheduling, attention and the like, as it resolved them."""
    sampling_defaults: dict[str, Any] | str | None = None
    """What the server takes from the model where a request does not say."""
    variant: dict[str, Any] = {}
    """What the variant of the stack changes, by key."""
    unverified: list[str] = []
    """Fields that are as the stack says them: the server was not ours, and does not tell."""
    trust_remote_code: bool = False
    patches: list[Patch] = Field(default=[], validation_alias="mends", serialization_alias="mends")


class Gpu(Conditions):
    """A GPU, as nvidia-smi describes it."""

    name: str | None = None


class Environment(Conditions):
    """The machine: a difference is a footnote for acceptance, and no speed is compared across it."""

    cpu: str | None = None
    isa: list[str] = []
    """Instruction sets that decide which kernels a math library takes."""
    threads: int | None = None
    isa_limit: str | None = None
    gpus: list[Gpu] = []
