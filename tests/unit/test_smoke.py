"""The smoke test of a target: what an answer must be, and what the server must refuse."""

from __future__ import annotations

import base64
import io
import wave
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.engine.http import NoAnswer
from harness.engine.server import Server
from training import smoke
from training.errors import TrainingFailed

SEA = "The sea is wide and blue. Its waves never rest. Many fish live in it."
PARK = "今天天气很好，我们一起去公园散步。"
GOOD = {"English": SEA, "Chinese": PARK, "image": "It is red.", "audio": "No, it is silent."}
BOTH = {"vision_config": {"layers": 1}, "audio_config": {"layers": 1}}


def asked(answers: dict[str, Any], config: dict[str, Any]) -> dict[str, smoke.Asked]:
    """What comes of a server that answers so; an exception is raised."""
    left = [answers[one.modality] for one in smoke.questions()]

    def reply(path: str, body: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return {"choices": [{"message": {"content": answer}}]}

    stub = SimpleNamespace(
        model="m", http=SimpleNamespace(json=reply), spec=SimpleNamespace(request_timeout_s=1)
    )
    found = [smoke.ask(cast("Server", stub), one, config, "thinking") for one in smoke.questions()]
    return {one.modality: one for one in found}


def test_answers_as_expected() -> None:
    found = asked(GOOD, BOTH)
    assert {one.came for one in found.values()} == {"as expected"}
    smoke.check(found.values())


@pytest.mark.parametrize(
    ("modality", "answer"),
    [
        ("English", ""),
        ("English", None),
        ("English", "sea sea sea " * 20),
        ("English", PARK),
        ("English", "I like trains and long walks in the mountains with my dog."),
        ("Chinese", SEA),
        ("Chinese", "你好，很高兴认识你，有什么可以帮助你的吗？"),
        ("image", "It is blue."),
        ("image", "It was considered."),
        ("image", NoAnswer("500", status=500)),
        ("audio", " "),
    ],
)
def test_an_answer_that_is_not_as_expected_fails(modality: str, answer: Any) -> None:
    found = asked({**GOOD, modality: answer}, BOTH)
    assert [one.modality for one in found.values() if one.came == "failed"] == [modality]
    with pytest.raises(TrainingFailed, match=modality) as caught:
        smoke.check(found.values())
    assert caught.value.code == "smoke-failed"


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"audio_config": None, "vision_config": {"layers": 1}}, "audio_config is null"),
        ({"text_config": {"audio_config": None}, "vision_config": {}}, "audio_config is null"),
        ({"thinker_config": {"vision_config": {}}}, "config.json has no audio_config"),
    ],
)
def test_a_modality_that_does_not_exist_must_be_refused(config: dict[str, Any], why: str) -> None:
    found = asked({**GOOD, "audio": NoAnswer("400", status=400)}, config)
    assert (found["image"].came, found["audio"].came, found["audio"].why) == ("as expected", "refused", why)
    smoke.check(found.values())
    answered = asked(GOOD, config)["audio"]
    assert answered.came == "failed"
    assert why in answered.line


def test_a_server_that_is_gone_ends_the_test() -> None:
    with pytest.raises(NoAnswer):
        asked({**GOOD, "Chinese": NoAnswer("gone", cause=ConnectionError())}, BOTH)


def test_the_picture_and_the_recording_are_what_they_say() -> None:
    image = pytest.importorskip("PIL.Image")
    contents = {one.modality: one.content for one in smoke.questions()}
    picture: Any = contents["image"][1]
    data = base64.b64decode(picture["image_url"]["url"].partition(",")[2])
    with image.open(io.BytesIO(data)) as opened:
        assert opened.convert("RGB").getcolors() == [(224 * 224, (220, 20, 20))]
    recording: Any = contents["audio"][1]
    with wave.open(io.BytesIO(base64.b64decode(recording["input_audio"]["data"]))) as sound:
        assert sound.getnframes() == sound.getframerate() == 16_000
