from __future__ import annotations

import json
import sys
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
        (
            {"conversation_id": "x", "conversation": [{**m, "country": "NL"} for m in TWO]},
            "conversation",
            ["x"],
        ),
        ({"prompt": ["a", "b"], "category": "writing"}, "prompt", ["0001", "0001#2"]),
        ({"messages": TWO[:1]}, "chat", ["0001"]),
        ({"messages": TWO}, "log", ["0001"]),
        ({"text": "a", "kind": "story"}, "text", ["0001"]),
        ({"id": 7, "text": "a", "category": 3}, "text", ["7"]),
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


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("data/mt-bench.jsonl", "mt_bench"),
        ("hf:openai/gsm8k/main:test", "gsm8k_main"),
        ("hf:gsm8k", "gsm8k"),
        ("hf:./data/mine:test", "mine"),
        ("!.jsonl", "prompts"),
    ],
)
def test_a_file_names_its_workload(file: str, name: str) -> None:
    assert name_of(file) == name


ROWS = [
    {
        "id": "a",
        "language": None,
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": [{"x": {"b": 1}}],
    },
    {"id": "b", "language": "de", "messages": TWO[:1] + TWO, "tools": [{"x": {"c": 2}}]},
]


def test_parquet_is_read_like_json_lines(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "mine.parquet"
    parquet.write_table(pytest.importorskip("pyarrow").Table.from_pylist(ROWS), path)

    own = read(Source(file=str(path), layout="log"))

    assert own.chats == read(Source(file=str(put(tmp_path, *ROWS)), layout="log")).chats


@pytest.mark.parametrize("raw", [b"PAR1", b"not parquet" * 9, b""])
def test_damaged_parquet_is_refused(tmp_path: Path, raw: bytes) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "mine.parquet"
    path.write_bytes(raw)

    with pytest.raises(BadInput) as caught:
        read(Source(file=str(path)))

    assert caught.value.code == "damaged-file"


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set with two splits, as the hub has them, and no network."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "ds"
    folder.mkdir()
    for split in ("train", "test"):
        put(folder, {"question": f"{split}?", "answer": "2"}, name=f"{split}.jsonl")
    return folder


def test_a_split_of_a_data_set_is_read(dataset: Path) -> None:
    own = read(Source(file=f"hf:{dataset}:test"))

    assert (own.layout, [turns[0].text for turns in own.chats]) == ("gsm8k", ["test?"])


@pytest.mark.parametrize("name", ["hf:{}", "hf:{}:tets", "hf:{}/nothere:test", "hf:org/nothere:test", "hf:"])
def test_a_data_set_that_cannot_be_read_is_refused(dataset: Path, name: str) -> None:
    with pytest.raises(BadInput) as caught:
        read(Source(file=name.format(dataset)))

    assert caught.value.code == "prompt-file"


@pytest.mark.parametrize("file", ["mine.parquet", "hf:org/mine"])
def test_a_missing_library_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    for name in ("datasets", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    tmp_path.joinpath("mine.parquet").write_bytes(b"PAR1")

    with pytest.raises(BadInput) as caught:
        read(Source(file=file if file.startswith("hf:") else str(tmp_path / file)))

    assert caught.value.code == "extra-missing"


@pytest.mark.parametrize(
    ("row", "category"), [({"kind": "story"}, "story"), ({"category": 3}, "3"), ({}, None)]
)
def test_a_category_may_be_called_kind_or_be_a_number(
    tmp_path: Path, row: dict[str, Any], category: str | None
) -> None:
    [[prompt]] = read(Source(file=str(put(tmp_path, {"text": "a", **row})))).chats

    assert prompt.category == category


def test_what_a_log_keeps_beside_a_message_is_not_sent(tmp_path: Path) -> None:
    said = {"role": "user", "content": "Hi", "name": "Ann", "country": "NL", "timestamp": "2026-11-29"}

    [[prompt]] = read(Source(file=str(put(tmp_path, {"conversation": [said]})))).chats

    assert prompt.messages == ({"role": "user", "content": "Hi", "name": "Ann"},)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.json", '["Hi", "Ho"]', "entry 1: no row of a table, but text"),
        ("a.json", '[null, {"text": "a"}]', "entry 1: no row of a table, but null"),
        ("a.json", '{\n "data": [{"text": "a"}]\n}\n', "one object, and no rows"),
        ("a.jsonl", "null\n", "line 1: not an object, but null"),
        ("a.jsonl", '"Hi"\n', "line 1: not an object, but text"),
        ("a.csv", "id;text\n1;Hi\n", "seems to separate columns"),
        ("a.csv", "id|text\n1|Hi\n", "seems to separate columns"),
        ("a.csv", "text,,\nHi,,\n", "two columns have no name"),
        ("a.csv", " text ,id\nHi,1\n", "there are: ' text ', id"),
        ("a.csv", "\u200btext\nHi\n", "there are: '\\u200btext'"),
        ("a.tsv", "text,id\nHi,1\n", "seems to separate columns"),
        (
            "a.jsonl",
            '{\n "text": "a"\n}\n',
            "(not the whole of an object)",
        ),
        ("a.jsonl", f'{{"text": "a", "id": {"1" * 5000}}}', "a number in it has thousands of digits"),
        ("a.jsonl", '{"text": "a", "id": 1.5}', "field id: 1.5 is no text; write a text"),
        ("a.jsonl", '{"text": true}', "field text: true is no text; write a text"),
        ("a.csv", "text,x,x\nHi,1,2\n", "the column 'x' stands there twice"),
        ("a.csv", 'text\n\n\n"a\nb"\n""\n', "a.csv, line 6: field text"),
        ("a.csv", "messages\n\"[{'role': 'user', 'content': 'a'}]\"\n", "is not the JSON of a list"),
        ("a.jsonl", '{"text": "a", "tools": "none"}\n', "field tools: it is the text 'none'"),
        ("a.jsonl", '{"text": "a", "tools": {"type": "function"}}\n', "field tools: it is a table"),
        ("a.jsonl", '{"text": "a", "response_format": "json"}\n', "field response_format"),
        ("a.jsonl", '{"conversation": [{"role": "prompter", "content": "a"}]}\n', "the roles are prompter"),
    ],
)
def test_what_stands_there_instead_is_said(tmp_path: Path, name: str, text: str, says: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")

    with pytest.raises(BadInput) as caught:
        read(Source(file=str(path)))

    assert says in str(caught.value)


def test_roles_may_begin_with_a_capital(tmp_path: Path) -> None:
    log = [
        {"from": "Human", "value": "Hi"},
        {"from": "GPT", "value": "Yes"},
        {"role": "USER", "content": "W"},
    ]

    own = read(Source(file=str(put(tmp_path, {"conversations": log}))))

    assert [prompt.messages[-1]["role"] for prompt in own.chats[0]] == ["user", "user"]


def test_a_field_of_the_request_that_is_written_as_nothing_is_left_out(tmp_path: Path) -> None:
    row = {"text": "Hi", "tools": "[]", "tool_choice": "null", "response_format": ""}

    [[prompt]] = read(Source(file=str(put(tmp_path, row)))).chats

    assert not prompt.request


def test_one_text_in_two_languages_is_two_prompts(tmp_path: Path) -> None:
    rows = [{"text": "OK?", "language": language} for language in ("en", "de", "en")]

    own = read(Source(file=str(put(tmp_path, *rows))))

    assert (own.languages, len(own.chats), own.twice) == (("en", "de"), 2, 1)


def test_parquet_with_one_column_twice_is_refused(tmp_path: Path) -> None:
    parquet, arrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    path = tmp_path / "mine.parquet"
    columns = [arrow.array(["a"]), arrow.array(["b"])]
    parquet.write_table(arrow.Table.from_arrays(columns, names=["text", "text"]), path)

    with pytest.raises(BadInput, match="the column 'text' stands there twice"):
        read(Source(file=str(path)))
