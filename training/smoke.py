"""Asks a served target in each modality that its config.json has. The server must refuse the others."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
import struct
import time
import wave
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from harness.config.cells import server_spec
from harness.config.stack import NO_DRAFTER, find_stack, load_stack
from harness.config.variants import Target
from harness.engine.http import NoAnswer
from harness.engine.models import resolve
from harness.engine.server import Server
from harness.errors import BadInput
from harness.results.files import read_json
from harness.stats.text_quality import degenerate, in_language
from harness.text.console import Say
from training.benchmark import STACKS
from training.errors import TrainingFailed
from training.servers import open_slot

LOGS = Path("results/smoke")
MAX_TOKENS = 40
SEEN = 200
"""Characters of an answer that are kept."""
Came = Literal["as expected", "refused", "failed"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """A question of the smoke test, and what came of it."""

    modality: str
    expected: str
    """The property that the answer must have."""
    came: Came
    seconds: float
    why: str
    """What was wrong, or why there is no such modality."""
    answer: str

    @property
    def line(self) -> str:
        """The same in a line."""
        why = f": {self.why}" if self.why else ""
        return f"{self.modality}: {self.came} in {self.seconds:.1f} s ({self.expected}){why}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """A question, and the property that its answer must have."""

    modality: str
    content: str | list[dict[str, Any]]
    expected: str
    about: re.Pattern[str]
    language: str | None = None
    needs: str | None = None
    """The part of config.json without which a target does not have the modality."""

    def wrong(self, answer: str) -> str:
        """What an answer lacks; empty where it lacks nothing."""
        if not answer.strip():
            return "the answer is empty"
        if degenerate(answer):
            return "the answer goes round in circles"
        if self.language and in_language(answer, self.language) is False:
            return "the answer is in another language"
        return "" if self.about.search(answer) else "the answer is about something else"


def _png(red: int, green: int, blue: int, side: int = 224) -> str:
    """A picture of one colour, as a data URL."""
    rows = (b"\0" + bytes((red, green, blue)) * side) * side

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + parts).decode()


def _silence(rate: int = 16_000) -> str:
    """A second of silence as a WAV file, base64."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams((1, 2, rate, rate, "NONE", ""))
        file.writeframes(bytes(2 * rate))
    return base64.b64encode(out.getvalue()).decode()


def questions() -> tuple[Question, ...]:
    """In their order."""
    return (
        Question(
            modality="English",
            content="Describe the sea in three short sentences.",
            expected="English, about the sea, not stuck",
            language="en",
            about=re.compile(r"sea|ocean|water|wave|blue", re.IGNORECASE),
        ),
        Question(
            modality="Chinese",
            # A small English model repeats Chinese, and does not speak it.
            content="Repeat this Chinese sentence: 今天天气很好，我们一起去公园散步。",
            expected="Chinese, with the sentence that it was asked to repeat",
            language="zh",
            about=re.compile("公园散步|公園散步"),
        ),
        Question(
            modality="image",
            content=[
                {"type": "text", "text": "Which colour fills this picture? Answer in one short sentence."},
                {"type": "image_url", "image_url": {"url": _png(220, 20, 20)}},
            ],
            expected="names the picture's one colour",
            about=re.compile(r"\bred\b|红|紅", re.IGNORECASE),
            needs="vision_config",
        ),
        Question(
            modality="audio",
            content=[
                {"type": "text", "text": "Is there speech in this recording? Answer in one short sentence."},
                {"type": "input_audio", "input_audio": {"data": _silence(), "format": "wav"}},
            ],
            expected="an answer, not stuck",
            about=re.compile(r"\S"),
            needs="audio_config",
        ),
    )


def ask(server: Server, question: Question, config: Mapping[str, Any], thinking_key: str) -> Asked:
    """Put a question to a server, once, at T=0.

    Args:
        server: of the target.
        question: to be put.
        config: the target's config.json.
        thinking_key: what its chat template calls the switch for thinking; it is off.

    Raises:
        NoAnswer: the server is gone.
    """
    missing = missing_part(config, question.needs) if question.needs else ""
    body = {
        "model": server.model,
        "messages": [{"role": "user", "content": question.content}],
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
        "chat_template_kwargs": {thinking_key: False},
    }
    began, answer, refusal = time.monotonic(), "", ""
    try:
        reply = server.http.json("/v1/chat/completions", body, timeout_s=server.spec.request_timeout_s)
        answer = str(reply["choices"][0]["message"]["content"] or "")
    except NoAnswer as error:
        if error.status is None:
            raise
        refusal = str(error)
    came: Came
    if not missing:
        why = refusal or question.wrong(answer)
        came = "failed" if why else "as expected"
    elif refusal:
        came, why = "refused", missing
    else:
        came, why = "failed", f"{missing}, and the server answered all the same"
    return Asked(
        modality=question.modality,
        expected="a refusal" if missing else question.expected,
        came=came,
        seconds=round(time.monotonic() - began, 2),
        why=why,
        answer=answer[:SEEN],
    )


def missing_part(config: Mapping[str, Any], key: str) -> str:
    """Why a target lacks what `key` describes: `audio_config is null`. Empty where it has it."""
    parts = [config, *(value for value in config.values() if isinstance(value, dict))]
    if any(isinstance(part.get(key), dict) for part in parts):
        return ""
    return f"{key} is null" if any(key in part for part in parts) else f"config.json has no {key}"


def run(reference: str, stack: str, *, say: Say) -> list[Asked]:
    """Serve a target without a drafter, as a stack serves its own, and put each question to it.

    Args:
        reference: a folder, or `embedded:NAME`.
        stack: a name or a path.
        say: gets a line a question, and one before anything slow.

    Raises:
        BadInput: the folder holds no model, or there is no such stack.
        ServerFailed: the server does not start, or is gone.
    """
    setup = load_stack(find_stack(stack, STACKS))
    folder = Path(
        resolve(str(Path(reference).absolute()) if Path(reference).is_dir() else reference, say=say)
    )
    if not folder.is_absolute():
        raise BadInput(f"{reference} is no folder: name one that holds a model", code="model-missing")
    config = read_json(folder / "config.json")
    target = Target(
        model=str(folder),
        dtype=setup.target.dtype,
        trust_remote_code=setup.target.trust_remote_code,
        thinking_key=setup.target.thinking_key,
    )
    spec = server_spec(setup.model_copy(update={"target": target}), NO_DRAFTER, 0)
    with open_slot(LOGS, say) as slot:
        server = slot.get(spec)
        found = []
        for question in questions():
            found.append(ask(server, question, config, target.thinking_key))
            say(found[-1].line)
    return found


def check(asked: Iterable[Asked]) -> None:
    """Check that each answer was as expected.

    Raises:
        TrainingFailed: one was not.
    """
    if failed := [one for one in asked if one.came == "failed"]:
        raise TrainingFailed(
            f"the smoke test failed: {'; '.join(one.line for one in failed)}; ask the unchanged target too",
            code="smoke-failed",
        )
