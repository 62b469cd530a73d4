"""A target that thinks: its template honours the switch, and a parser of vLLM's splits its stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from harness.config.cells import server_spec
from harness.config.stack import Stack
from harness.engine.server import Server, running
from harness.measure import validity
from harness.results.records import CellRecord
from harness.results.stretches import parts_of

Measure = Callable[..., CellRecord]

PARSER = '''
from vllm.reasoning import ReasoningParserManager
from vllm.reasoning.deepseek_r1_reasoning_parser import DeepSeekR1ReasoningParser


@ReasoningParserManager.register_module("first_sentence")
class FirstSentence(DeepSeekR1ReasoningParser):
    """What the assistant says up to its first full stop is its reasoning."""

    start_token = "<|im_start|>"
    end_token = "."
'''
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n{% if not enable_thinking %}Sure.\n{% endif %}"
)


@pytest.fixture(scope="module")
def engine(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The embedded model, taken for one that thinks in its first sentence."""
    folder = tmp_path_factory.mktemp("thinking")
    files = {"parser.py": PARSER, "template.jinja": TEMPLATE}
    for name, text in files.items():
        folder.joinpath(name).write_text(text, encoding="utf-8")
    args = stack.engine.args | {
        "reasoning_parser": "first_sentence",
        "reasoning_parser_plugin": str(folder / "parser.py"),
        "chat_template": str(folder / "template.jinja"),
    }
    thinks = stack.model_copy(update={"engine": stack.engine.model_copy(update={"args": args})})
    spec = server_spec(thinks, stack.drafters["eagle3r1"], 4)
    with running(spec, folder=folder / "server", say=print, patch="1") as server:
        yield server


def test_the_steps_of_thinking_and_answer_are_told_apart(record_of: Measure) -> None:
    on = record_of(thinking="on", prompts=8, max_tokens=48, concurrency=8)
    off = record_of(thinking="off", prompts=2, max_tokens=16, concurrency=2)

    assert on.valid, on.findings
    assert off.valid, off.findings
    assert (on.identity.thinking, off.identity.thinking) == ("on", "off")
    assert "thinking" not in {finding.code for record in (on, off) for finding in record.findings}
    assert all(r.parts is None for r in off.prompts)
    thought = [r for r in on.prompts if r.parts and [name for name, _ in r.parts] == ["reasoning", "content"]]
    assert len(thought) >= 6
    for r in thought:
        reasoning, content = r.part_tokens or (0, 0)
        assert reasoning + content == r.output_tokens
        full_stop = (r.token_ids or ()).index(30)
        # Its step is of the reasoning, unless it begins with it: then the text is content alone.
        assert full_stop <= reasoning <= full_stop + 5
    thinking, answer = parts_of(on.prompts)
    assert thinking.prompts == sum((r.part_tokens or (0,))[0] > 1 for r in thought)
    assert answer.prompts == len(on.prompts)
    rates = [part.tokens_per_step or 0 for part in (thinking, answer)]
    assert min(rates) <= (validity.total(on.prompts).tokens_per_step or 0) <= max(rates)
