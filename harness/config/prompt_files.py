"""Reads the prompts that a user brings: from a file, or from a data set of the hub, in any layout of a table.

Each row is one prompt: a text, a chat, or turns that are asked one after the other. A row that is none ends
the reading, with file, line and field.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo

from harness.config.layouts import BESIDE, LAYOUTS, OPTIONAL, REQUEST, Columns, named, parsed, role_of
from harness.config.prompts import Prompt, hash_of
from harness.config.rows import HUB, BadRow, is_folder, refuse, rows_of
from harness.errors import BadInput
from harness.text.validation import kind_of

ANY = "any"
"""The language of prompts of which nobody says one."""
_PLACEHOLDER = "FULL BENCHMARK DATA SHOULD BE FETCHED"
"""What SPEED-Bench ships in place of texts that it may not give away."""
_OF_A_MESSAGE = ("name", "tool_calls", "tool_call_id", "reasoning", "reasoning_content")
"""What else of a message is sent. Logs keep more with it: times, countries, ratings."""
_LANGUAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._]{0,31}")


def _beside_the_stack(file: str, info: ValidationInfo) -> str:
    name = file.removeprefix(HUB)
    hub = file[: len(file) - len(name)]
    if info.context is None or (hub and not is_folder(name)):
        return file
    try:
        return hub + str((info.context.resolve() / Path(name).expanduser()).resolve())
    except (ValueError, OSError, RuntimeError) as error:  # a NUL, or ~nobody
        raise ValueError(f"this path cannot be used: {error}") from None


class Source(BaseModel):
    """Where prompts come from: a table `[prompts.NAME]` of a stack, or `--prompts-file`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: Annotated[str, AfterValidator(_beside_the_stack)]
    """A path from the stack's folder, or `hf:DATASET[/CONFIG][:SPLIT]`."""
    layout: Literal[tuple(LAYOUTS)] | None = None  # type: ignore[valid-type]
    """Found out from the columns of the first row where it is not given."""
    columns: Columns = Columns()
    """Change single columns of the layout."""
    language: str | None = None
    """Of the rows that say none."""
    category: str | None = None
    system: str | None = None
    """Goes before each prompt that has no system message."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnPrompts:
    """The prompts of a source."""

    file: str
    layout: str
    chats: tuple[tuple[Prompt, ...], ...]
    """The turns of each row, in order."""
    twice: int = 0
    """Rows that ask what an earlier row of their language asks. They are left out."""
    first_twice: str = ""
    """Where the first of them stands."""

    @property
    def languages(self) -> tuple[str, ...]:
        """In the order of the file."""
        return tuple(dict.fromkeys(turns[0].language for turns in self.chats))

    def of(self, language: str) -> list[tuple[Prompt, ...]]:
        """The rows in a language."""
        return [turns for turns in self.chats if turns[0].language == language]

    def prompts(self, language: str, *, at_most: int, after: int = 0) -> tuple[Prompt, ...]:
        """Those of the first `at_most` rows in a language behind the first `after`, turn after turn."""
        return tuple(itertools.chain(*self.of(language)[after:][:at_most]))

    def are_texts(self, language: str) -> bool:
        """Whether they can be sent over an endpoint that knows no messages."""
        return not any(prompt.messages for turns in self.of(language) for prompt in turns)

    @property
    def digest(self) -> str:
        """A short hash of all that is asked."""
        return hash_of(json.dumps([[p.id, p.language, p.text] for p in itertools.chain(*self.chats)]))


def plan_of(
    own: Mapping[str, OwnPrompts], workloads: Collection[str], endpoints: Collection[str]
) -> list[str]:
    """What a plan of these workloads says of own prompts, a line each."""
    return [_plan(name, own[name], raw="raw" in endpoints) for name in own if name in workloads]


def _plan(workload: str, own: OwnPrompts, *, raw: bool) -> str:
    turns = sum(map(len, own.chats))
    text = f"{workload}: {len(own.chats)} prompts of {own.file}, layout {own.layout}"
    if turns > len(own.chats):
        text += f", {turns} turns: each is a record, and follows the model's own answers"
    if own.twice:
        text += f"; {own.twice} rows ask what an earlier one asks, and are left out"
    chats = [language for language in own.languages if not own.are_texts(language)]
    if raw and chats:
        text += "; they are chats, so none goes over raw"
        text += f" in {', '.join(chats)}" if len(chats) < len(own.languages) else ""
    return text


def name_of(file: str) -> str:
    """The workload of a file that is named on the command line: `mt_bench` of `data/mt-bench.jsonl`."""
    stem = Path(file).stem
    if file.startswith(HUB):
        dataset = file.removeprefix(HUB).split(":")[0]
        owner, _, rest = dataset.partition("/")
        stem = Path(dataset).name if is_folder(dataset) else rest or owner
    return re.sub(r"[^A-Za-z0-9._]+", "_", stem).strip("._")[:40] or "prompts"


def read(source: Source) -> OwnPrompts:
    """All prompts of a source.

    Raises:
        BadInput: it cannot be read, a row is not a prompt, two rows have one id, or a row is a placeholder.
    """
    chats: dict[tuple[str, str], tuple[Prompt, ...]] = {}
    ids: dict[str, str] = {}
    wrong: list[BadInput] = []
    rows = rows_of(source.file)
    twice: list[str] = []
    layout, columns = "", Columns()
    for number, (where, row) in enumerate(rows, start=1):
        if not isinstance(row, dict):
            todo = 'write {"text": ...} for each'
            raise BadRow(f"{where}: no row of a table, but {kind_of(row)}: {todo}")
        if number == 1:
            layout, columns = _columns(source, row, where)
        try:
            turns = _Row(where, row, columns.named).prompts(source, number)
            for prompt in turns:
                if (other := ids.setdefault(prompt.id, where)) != where:
                    raise _bad(where, "id", f"{prompt.id!r} stands in {other} too", "give each row its own")
        except BadInput as error:
            wrong.append(error)
            continue
        asked = turns[-1].language, turns[-1].text
        twice += [where] if asked in chats else []
        chats.setdefault(asked, turns)
    refuse(wrong)
    if not chats:
        raise BadRow(f"{source.file}: it holds no prompt: add rows, or name another file")
    return OwnPrompts(
        file=source.file,
        layout=layout,
        chats=tuple(chats.values()),
        twice=len(twice),
        first_twice="".join(twice[:1]),
    )


def _bad(where: str, field: str, what: str, todo: str) -> BadInput:
    return BadRow(f"{where}: field {field}: {what}; {todo}")


def _columns(source: Source, row: dict[str, Any], where: str) -> tuple[str, Columns]:
    """The layout of a source by its first row, and its columns."""
    there = row.keys()
    asks = {"text", "messages", "turns"}
    own = source.columns.named
    fits = [
        name
        for name, layout in LAYOUTS.items()
        if all(layout[role] in there for role in asks & layout.keys())
        and BESIDE.get(name, frozenset()) <= set(there)
        and (name != "chat" or not _ends_with_answer(row["messages"]))
    ]
    layout = source.layout or ("own columns" if asks & own.keys() else next(iter(fits), ""))
    if not layout:
        raise BadRow(
            f"{where}: no column holds a prompt; there are: {named(there) or 'none'}: name it "
            'in a stack, as in [prompts.mine] with columns.text = "body"'
        )
    known = {
        role: column if column in there else OPTIONAL.get(role, column)
        for role, column in LAYOUTS.get(layout, OPTIONAL).items()
    }
    if asks & own.keys():
        known = {role: column for role, column in known.items() if role not in asks}
    for role, column in own.items():
        if column not in there:
            raise _bad(where, column, f"no such column; there are: {named(there)}",
                       f"correct columns.{role}")  # fmt: skip
    return layout, Columns(**known | own)


def _ends_with_answer(messages: Any) -> bool:
    messages = parsed(messages)
    last = messages[-1] if isinstance(messages, list) and messages else None
    return isinstance(last, dict) and role_of(last) == "assistant"


@dataclasses.dataclass(frozen=True)
class _Row:
    """A row, where it stands, and which of its columns holds what."""

    where: str
    data: Any
    columns: Mapping[str, str]

    def prompts(self, source: Source, number: int) -> tuple[Prompt, ...]:
        name = self.optional("id") or f"{number:04}"
        language = (self.optional("language") or source.language or ANY).replace("-", "_")
        if not _LANGUAGE.fullmatch(language):
            raise self.bad("language", f"{language[:60]!r} is no short name", "write one, like en")
        common: dict[str, Any] = {
            "language": language,
            "category": self.optional("category") or source.category,
        }
        fields = {role: parsed(self.value(role)) for role in REQUEST}
        request = {role: self.asked_for(role, of) for role, of in fields.items() if of not in (None, "", [])}
        begun, turns = self.chat()
        system = self.optional("system") or source.system
        if system and not any(message["role"] == "system" for message in begun):
            begun = [{"role": "system", "content": system}, *begun]
        if not begun and not request and len(turns) == 1 and isinstance(self.value("text"), str):
            return (Prompt(id=name, text=turns[0]["content"], **common),)
        made: list[Prompt] = []
        for turn, message in enumerate(turns, start=1):
            asked = {"messages": [*begun, *turns[:turn]], **request}
            try:
                text = json.dumps(asked, ensure_ascii=False, sort_keys=True)
            except TypeError as error:  # a date, say, or the bytes of a picture
                raise self.bad("messages", f"it cannot go into a request: {error}", "leave it out") from None
            made.append(
                Prompt(
                    id=name if turn == 1 else f"{name}#{turn}",
                    text=text,
                    messages=(message,) if turn > 1 else tuple(asked["messages"]),
                    request=request,
                    after=made[-1].id if made else None,
                    row=name,
                    **common,
                )
            )
        return tuple(made)

    def asked_for(self, role: str, found: Any) -> Any:
        """A field of the request, of a form that a server takes."""
        if not isinstance(found, REQUEST[role]):
            shown = f"the text {found[:40]!r}" if isinstance(found, str) else f"a {kind_of(found)}"
            raise self.bad(role, f"it is {shown}, which is no {role}", "correct it")
        return found

    def chat(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The messages that stand before the first question, and the questions."""
        if "text" in self.columns and not isinstance(self.value("text"), list):
            return [], [{"role": "user", "content": self.text("text", self.value("text"))}]
        role = next(name for name in ("messages", "turns", "text") if name in self.columns)
        found = parsed(self.value(role))
        if isinstance(found, str) and found.strip():
            raise self.bad(role, f"the text {found[:40]!r} is not the JSON of a list", "write JSON")
        if not isinstance(found, list) or not found:
            raise self.bad(role, "it is no list, or an empty one", "fill it, or delete the row")
        messages = [self.message(role, one) for one in found]
        if role == "messages":
            if messages[-1]["role"] == "assistant":
                todo = 'delete it, or ask the user\'s messages in turn with layout = "log"'
                raise self.bad(role, "the last message is an answer", todo)
            return messages[:-1], messages[-1:]
        asked = [at for at, message in enumerate(messages) if message["role"] == "user"]
        if not asked:
            who = ", ".join(dict.fromkeys(str(message["role"]) for message in messages))
            todo = "call the one who asks user, or delete the row"
            raise self.bad(role, f"no message is the user's: the roles are {who}", todo)
        return messages[: asked[0]], [messages[at] for at in asked]

    def message(self, role: str, one: Any) -> dict[str, Any]:
        if isinstance(one, str):
            return {"role": "user", "content": self.text(role, one)}
        if not isinstance(one, dict) or not isinstance(who := role_of(one), str):
            raise self.bad(role, f"it holds {str(one)[:60]!r}, which is no message", "give role and content")
        more = {name: value for name in _OF_A_MESSAGE if (value := one.get(name)) is not None}
        content = one.get("content", one.get("value"))
        if isinstance(content, list) and content:
            return {"role": who, "content": content, **more}
        if who == "user" or content or not (who == "assistant" and more.get("tool_calls")):
            content = self.text(role, content)
        return {"role": who, "content": content, **more}

    def value(self, role: str) -> Any:
        return self.data.get(self.columns[role]) if role in self.columns else None

    def optional(self, role: str) -> str | None:
        value = self.value(role)
        if value is None or value == "":
            return None
        if role in ("id", "category") and isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return self.text(role, value)

    def text(self, role: str, value: Any) -> str:
        if not isinstance(value, str) or not value.strip():
            if value and not isinstance(value, str):
                shown = json.dumps(value, default=str, ensure_ascii=False)[:60]
                raise self.bad(role, f"{shown} is no text", "write a text, or leave it out")
            raise self.bad(role, "it is missing or empty", "fill it in, or delete the row")
        if _PLACEHOLDER in value:
            raise BadInput(
                f"{self.where}: field {self.columns[role]}: SPEED-Bench ships a placeholder here, not a "
                "prompt; fetch the data with its own tool (prepare_data.py of specdec_bench), and name the "
                "file that it writes",
                code="prompt-placeholder",
            )
        try:
            value.encode()
        except UnicodeEncodeError:
            raise self.bad(role, "no Unicode text (half of a surrogate pair)", "correct it") from None
        return value

    def bad(self, role: str, what: str, todo: str) -> BadInput:
        return _bad(self.where, self.columns.get(role, role), what, todo)
