from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.config.prompt_files import Source, name_of, read
from harness.errors import BadInput

TWO = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
LOG = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes"}, {"from": "human", "value": "Why"}]


def put(folder: Path, *rows: Any, name: str = "mine.jsonl") -> Path:
    path = folder / name
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("row", "layout", "ids"),
    [
        ({"question_id": 81, "category": "writing", "turns": ["a", "b"]}, "mt-bench", ["81", "81#2"]),
        ({"question_id": "q", "category": "rag", "turns": ["a"], "multiturn": False}, "mt-bench", ["q"]),
        ({"task_id": "HumanEval/0", "prompt": "def f():\n", "test": ""}, "humaneval", ["HumanEval/0"]),
        ({"question": "1+1?", "answer": "#### 2"}, "gsm8k", ["0001"]),
        ({"id": "x", "conversations": LOG}, "sharegpt", ["x", "x#2"]),
        ({"messages": TWO[:1]}, "chat", ["0001"]),
        ({"messages": TWO}, "log", ["0001"]),
        ({"text": "a", "kind": "story"}, "text", ["0001"]),
    ],
)
def test_a_published_layout_is_known_by_its_columns(
    tmp_path: Path, row: Any, layout: str, ids: list[str]
) -> None:
    own = read(Source(file=str(put(tmp_path, row))))

    assert (own.layout, [prompt.id for prompt in own.chats[0]]) == (layout, ids)


def test_a_system_prompt_and_tools_go_into_the_request(tmp_path: Path) -> None:
    path = put(tmp_path, {"text": "Hi", "tools": [{"type": "function"}]})

    prompt = read(Source(file=str(path), system="Be terse.")).chats[0][0]

    assert [message["role"] for message in prompt.messages] == ["system", "user"]
    assert prompt.request == {"tools": [{"type": "function"}]}


def test_csv_with_columns_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text('body,lang\n"a\nb",de\nc,\n', encoding="utf-8")

    own = read(Source.model_validate(
        {"file": str(path), "language": "fr", "columns": {"text": "body", "language": "lang"}}
    ))  # fmt: skip

    assert [(p.text, p.language) for (p,) in own.chats] == [("a\nb", "de"), ("c", "fr")]


@pytest.mark.parametrize(
    ("rows", "code", "says"),
    [
        ([{"text": "a"}, {"text": " "}, {}], "prompt-row", "line 2: field text"),
        ([{"id": 1, "text": "a"}, {"id": 1, "text": "b"}], "prompt-row", "line 2: field id"),
        ([{"body": "a"}], "prompt-row", "there are: body"),
        ([{"question_id": 1, "turns": []}], "prompt-row", "field turns"),
        (
            [{"question_id": 1, "turns": ["FULL BENCHMARK DATA SHOULD BE FETCHED"]}],
            "prompt-placeholder",
            "turns",
        ),
        ([{"messages": TWO[:1]}, {"messages": TWO}], "prompt-row", "line 2: field messages"),
        ([{"messages": [{"role": "user"}]}], "prompt-row", "field messages"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, rows: list[Any], code: str, says: str) -> None:
    with pytest.raises(BadInput) as caught:
        read(Source(file=str(put(tmp_path, *rows))))

    assert caught.value.code == code
    assert says in str(caught.value)


def test_a_prompt_that_stands_twice_is_asked_once_and_counted(tmp_path: Path) -> None:
    own = read(Source(file=str(put(tmp_path, {"text": "a"}, {"text": "a"}, {"text": "b"}))))

    assert (len(own.chats), own.twice) == (2, 1)


@pytest.mark.parametrize("name", ["mine.txt", "nothere.jsonl"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput) as caught:
        read(Source(file=str(tmp_path / name)))

    assert caught.value.code == "prompt-file"


def test_a_file_names_its_workload() -> None:
    assert name_of("data/mt-bench.jsonl") == "mt_bench"
