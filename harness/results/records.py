"""What results files hold: prompt, cell and run records, versioned and validated.

A cell file is JSON with one prompt a line, in stable order, so that a diff of it can be reviewed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from harness.errors import BadRecord
from harness.results.conditions import Environment, Identity, Subject
from harness.results.files import line_of, read_json
from harness.results.names import BASE, Name, Thinking, folders, thinking_word
from harness.results.whole import contradiction, flaws_of
from harness.stats.acceptance import Tallies, Tally, histogram_of, tallies_of, tally_of, with_undrafted
from harness.text.validation import first_fault

SCHEMA: Literal[1] = 1
RUN_FILE = "run.json"
TRUSTED = "the engine ran code that came with the model (trust_remote_code)"

Source = Literal["request", "counters", "none"]
ENDS = frozenset({"stop", "length", "tool_calls"})
"""The finish reasons of a whole answer. vLLM also has abort, error and repetition."""

_MOST = 2**53  # what a float still holds exactly: no figure overflows
MOST_K = 1024  # no engine drafts as many tokens a step
_COUNTED = re.compile(r"(?P<count>\d{1,9}) of (?P<of>\d{1,9}) ")

Count = Annotated[int, Field(ge=0, le=_MOST)]
Seconds = Annotated[float, Field(ge=0, le=_MOST)]


class Record(BaseModel):
    """Immutable, and nothing in it that we don't know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Finding(Record):
    """Something about a measurement that its reader must know."""

    code: str
    hard: bool
    """True: not a measurement. False: a footnote."""
    text: str
    values: dict[str, int | float | str] = {}
    """The numbers of the text by name, for a program: `count` and `of` where it says "3 of 40 answers"."""

    @classmethod
    def fatal(cls, code: str, text: str, **values: float | str) -> Self:
        """One that says: this is not a measurement."""
        return cls(code=code, hard=True, text=text, values=values)

    @classmethod
    def note(cls, code: str, text: str, **values: float | str) -> Self:
        """A footnote."""
        return cls(code=code, hard=False, text=text, values=values)

    @model_validator(mode="before")
    @classmethod
    def _of_an_older_file(cls, data: Any) -> Any:
        """Files of older versions hold the numbers in the text alone."""
        if isinstance(data, dict) and "values" not in data:
            counted = _COUNTED.match(str(data.get("text")))
            return {**data, "values": {k: int(n) for k, n in counted.groupdict().items()} if counted else {}}
        return data

    @model_serializer(mode="wrap")
    def _without_empty_values(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in write(self).items() if name != "values" or value}


class PromptRecord(Record):
    """One prompt answered once: the value that crosses every border. Times in seconds."""

    prompt: str
    repeat: Count
    seed: int
    language: str
    category: str | None = None  # as the user's file of prompts says it
    conversation: str | None = None  # of a later turn: the prompt of the first one
    source: Source
    """Where acceptance was read: from the response, from the server's counters, or nowhere."""
    accepted: tuple[Count, ...] | None
    """Per verify step; None where neither the engine nor the pieces of the stream tell it."""
    drafted: tuple[Count, ...] | None
    histogram: tuple[Count, ...] = Field(min_length=1, max_length=MOST_K + 1)
    """Verify steps that accepted exactly j tokens, k + 1 values."""
    draft_tokens: Count | None
    undrafted: Count
    steps: tuple[Count, ...] | None = None
    """Tokens that each decode step committed, cut at the answer's end: kept where `accepted` does not say it,
    as some had no drafts. None where the stream came in other pieces."""
    token_ids: tuple[Count, ...] | None = None
    """Of the answer; None where the server did not return all. Two answers are compared until they part."""
    prompt_tokens: Count
    prompt_hash: str
    """Of the token ids that the server rendered; where it does not return them, of the text that was sent."""
    prompt_text_hash: str | None = None
    """Of the text that was sent. None in files of older versions, which do not say which `prompt_hash` is."""
    output_tokens: Count
    finish: str
    """vLLM's finish_reason, one of `ENDS`; `error` where the request failed."""
    text_hash: str
    """Empty where an imported file does not hold the text."""
    text: str
    """All that the target wrote: reasoning, content, refusal, names and arguments of tool calls."""
    parts: tuple[tuple[str, Count], ...] | None = None
    """Of the text, in order: name and characters of each part. None where all of it is content."""
    part_tokens: tuple[Count, ...] | None = None
    """Tokens of each part; a piece that holds two counts in the first. None where this is not known."""
    server: str
    """Start id of the server: the same value means the same process."""
    segment: Count = 0
    """Counts up when an interrupted cell is resumed: `began_s` is within a segment."""
    began_s: float | None = None
    ttft_s: Seconds | None = None
    total_s: Seconds | None = None
    findings: tuple[Finding, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (accepted := self.accepted) is not None:
            if self.drafted is not None and len(accepted) != len(self.drafted):
                raise ValueError(f"{len(accepted)} accepted counts, but {len(self.drafted)} drafted ones")
            if histogram_of(accepted, len(self.histogram) - 1) != self.histogram:
                raise ValueError(f"its steps do not make the histogram {list(self.histogram)}")
        if self.token_ids is not None and len(self.token_ids) != self.output_tokens:
            raise ValueError(f"{len(self.token_ids)} token ids, but {self.output_tokens} output tokens")
        if self.parts is not None and sum(length for _, length in self.parts) != len(self.text):
            raise ValueError(f"its parts do not make its text of {len(self.text)} characters")
        counts = self.part_tokens
        if counts and (len(counts), sum(counts)) != (len(self.parts or ()), self.output_tokens):
            raise ValueError(f"its parts have not {self.output_tokens} tokens")
        if self.steps is not None:
            wanted = sum(self.histogram) + self.undrafted, self.output_tokens - 1
            found = len(self.steps), sum(self.steps)
            if found != wanted:
                raise ValueError(f"steps and their tokens are {found}, but must be {wanted}")
        return self

    @property
    def unit(self) -> str:
        """What intervals count: a prompt, or the conversation of which this is a turn."""
        return self.conversation or self.prompt

    @property
    def accepted_by_step(self) -> tuple[int, ...] | None:
        """Tokens that each decode step accepted, UNDRAFTED where it had no draft; None where not known."""
        if self.accepted is None or not self.undrafted:
            return self.accepted
        return with_undrafted(self.steps, self.accepted) if self.steps else None

    @property
    def committed(self) -> tuple[int, ...] | None:
        """Tokens that each decode step committed, in order; None where that is not known."""
        if self.steps is None and self.accepted is not None and not self.undrafted:
            return tuple(tokens + 1 for tokens in self.accepted)
        return self.steps

    @property
    def rendered_hash(self) -> str | None:
        """Of the token ids that the prompt was rendered to; None where that is not known."""
        return None if self.prompt_text_hash in (None, self.prompt_hash) else self.prompt_hash

    @property
    def failed(self) -> bool:
        """The request gave no answer."""
        return self.finish not in ENDS

    @property
    def tally(self) -> Tally:
        """The sums that every figure is derived from."""
        return tally_of(
            self.histogram,
            undrafted=self.undrafted,
            output_tokens=self.output_tokens,
            stopped=self.finish != "length",
            drafted=self.draft_tokens,
        )


def tallies(records: Sequence[PromptRecord]) -> Tallies:
    """`PromptRecord.tally` of many, in order."""
    return tallies_of(
        [r.histogram for r in records],
        undrafted=[r.undrafted for r in records],
        output_tokens=[r.output_tokens for r in records],
        stopped=[r.finish != "length" for r in records],
        drafted=[r.draft_tokens for r in records],
    )


UNTIMED = {"began_s": None, "ttft_s": None, "total_s": None}
"""The times of a prompt record, not measured."""


class CellName(Record):
    """Endpoint x language x workload x drafter x k; and thinking and variant, where the stack has these."""

    endpoint: Name
    language: Name
    workload: Name
    drafter: Name
    k: int = Field(ge=0, le=MOST_K)
    thinking: Thinking | None = None
    """Whether the chat template is told to let the target think; None where it is told nothing."""
    variant: Name = BASE
    reference: bool = False
    """`variant` names another target then, which only stands beside: it is never paired and never judged."""

    @property
    def place(self) -> tuple[str, ...]:
        """Endpoint, language, workload, thinking and variant: what two drafters are compared on."""
        thinking = thinking_word(self.thinking) if self.thinking else ""
        variant = "" if self.variant == BASE else self.variant
        return (self.endpoint, self.language, self.workload, *filter(None, (thinking, variant)))

    @property
    def words(self) -> tuple[str, ...]:
        """Its value on each axis; a drafter that drafts nothing has no k."""
        return (*self.place, self.drafter, *((f"k{self.k}",) if self.k else ()))

    def __str__(self) -> str:
        """`chat-zh-instruct-ngram-k4`, `chat-zh-instruct-think_on-ngram-k4`."""
        return "-".join(self.words)

    @model_serializer(mode="wrap")
    def _as_before_these_axes(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        left_out = {"thinking": None, "variant": BASE, "reference": False}
        return {name: value for name, value in write(self).items() if value != left_out.get(name, ...)}


class CellRecord(Record):
    """A measured cell: what it is, what was compared under which conditions, and its prompts."""

    schema_: Literal[1] = Field(alias="schema", default=SCHEMA)
    stack: Name
    profile: Name
    suite: Annotated[str, AfterValidator(folders)]
    cell: CellName
    identity: Identity
    subject: Subject
    environment: Environment
    provenance: dict[str, Any]
    """Command, commit, time, host. Never compared."""
    stopped_at: int | None = None
    """The look, in prompts, that decided a sequential measurement; None where all were measured."""
    warmups: int
    counters: dict[str, int]
    """What /metrics moved by while the measured prompts ran."""
    findings: tuple[Finding, ...] = ()
    prompts: tuple[PromptRecord, ...]
    reserve: tuple[PromptRecord, ...] = ()
    """Of a baseline: what it answered to the prompts that a second look at a loss asks."""

    @property
    def valid(self) -> bool:
        """No finding says that this is not a measurement, and no answer was broken off (in old files)."""
        return not any(f.hard for f in self.findings) and {r.finish for r in self.prompts} <= ENDS

    @property
    def why_invalid(self) -> str:
        """Why it is not a measurement; empty where it is one."""
        broken = {f"answers ended with finish_reason {r.finish}" for r in self.prompts if r.failed}
        return "; ".join(flaws_of(self.findings, self.prompts) or sorted(broken))

    @property
    def trusted(self) -> tuple[str, ...]:
        """What every table says of a cell whose model brought code of its own."""
        return (TRUSTED,) if self.subject.trust_remote_code else ()


class RunRecord(Record):
    """One invocation."""

    schema_: Literal[1] = Field(alias="schema", default=SCHEMA)
    run: str
    stack: str
    profile: str
    options: dict[str, Any]
    subject: tuple[str, ...] = ()
    """Fields of the identity that its stack declares the subject: it is gated across them."""
    provenance: dict[str, Any]
    environment: Environment
    finished: bool = False


R = TypeVar("R", bound=Record)


def dump_cell(record: CellRecord) -> str:
    """The text of a cell file: a line for each field, and one for each prompt."""
    data = record.model_dump(by_alias=True)  # in mode "json" half of a surrogate pair raises
    last = {name: data.pop(name) for name in ("prompts", "reserve") if data[name] or name == "prompts"}
    data.pop("reserve", None)
    lines = [f'"{key}": {json.dumps(value, ensure_ascii=False)}' for key, value in data.items()]
    for name, records in last.items():
        body = ",\n".join(json.dumps(one, ensure_ascii=False, separators=(",", ":")) for one in records)
        lines.append("\n".join([f'"{name}": [', *([body] if body else []), "]"]))
    text = "\n".join(["{", ",\n".join(lines), "}", ""])
    # Half of a surrogate pair, which a record read from ASCII may hold, is JSON only as an escape.
    return text.encode("utf-8", "backslashreplace").decode()


def load(path: Path, kind: type[R]) -> R:
    """Read one record.

    Raises:
        BadRecord: no such file, not JSON or a key twice (with the line), cut off, another schema, a field
            that does not fit (with its name), or a cell that contradicts itself.
    """
    data = read_json(path)
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA or schema is True:
        raise BadRecord(f"{path}: schema is {schema!r}, this version of draftgate reads {SCHEMA}")
    record = validated(data, kind, where=str(path))
    if isinstance(record, CellRecord) and (wrong := contradiction(record)):
        raise BadRecord(f"{path}, line {line_of(path, *wrong.near)}: {wrong.text}")
    return record


def validated(data: Any, kind: type[R], *, where: str) -> R:
    """Make a record of `data`.

    Raises:
        BadRecord: a field does not fit, with its name and `where` the data stand.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        field, fault = first_fault(error, kind, data)
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise BadRecord(f"{where}: field {'.'.join(field) or 'record'}: {fault}{more}") from None
