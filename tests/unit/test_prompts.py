from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, strategies as st

from harness.config.prompts import Prompt, load_prompts
from harness.errors import BadInput
from harness.plugin import DATA
from harness.stats.text_quality import in_language

SHIPPED = DATA / "prompts"
SIZES = {
    "instruct": 240, "code": 24, "summary": 24, "imageprompt": 24, "longform": 12, "warmup": 8, "tools": 32,
    "quality": 100, "refusals": 60,
}  # fmt: skip
LANGUAGES = ("en", "zh")


def shipped(workload: str, language: str) -> tuple[Prompt, ...]:
    return load_prompts(SHIPPED, workload, language, at_most=1000)


# What is shipped


def test_every_shipped_file_has_its_size(subtests: pytest.Subtests) -> None:
    for workload, language in itertools.product(SIZES, LANGUAGES):
        with subtests.test(workload, language=language):
            prompts = shipped(workload, language)
            assert len(prompts) == SIZES[workload]
            assert {prompt.language for prompt in prompts} == {language}


def test_these_are_all_the_files_there_are() -> None:
    there = {(path.parent.name, path.stem) for path in SHIPPED.rglob("*.jsonl")}

    assert there == {(workload, language) for workload in SIZES for language in LANGUAGES}


@pytest.mark.parametrize("workload", SIZES)
def test_languages_are_parallel_by_id(workload: str) -> None:
    assert [p.id for p in shipped(workload, "en")] == [p.id for p in shipped(workload, "zh")]


@pytest.mark.parametrize("workload", SIZES)
def test_languages_are_parallel_by_kind(workload: str) -> None:
    files = [(SHIPPED / workload / f"{language}.jsonl").read_text(encoding="utf-8") for language in LANGUAGES]
    english, chinese = ([json.loads(row)["kind"] for row in text.strip().split("\n")] for text in files)

    assert english == chinese


def test_prompts_are_in_their_language() -> None:
    other = [
        f"{language}: {prompt.id}"
        for workload in (
            "instruct",
            "summary",
            "imageprompt",
            "longform",
            "warmup",
            "quality",
            "refusals",
        )  # code has its own
        for language in LANGUAGES
        for prompt in shipped(workload, language)
        if in_language(prompt.text, language) is False
    ]
    assert other == []


def test_no_text_stands_anywhere_twice_and_none_warms_up_that_is_measured() -> None:
    places: dict[str, list[str]] = {}
    for workload in SIZES:
        for language in LANGUAGES:
            for prompt in shipped(workload, language):
                text = " ".join(prompt.text.split()).casefold()
                places.setdefault(text, []).append(f"{language}/{prompt.id}")

    assert [where for where in places.values() if len(where) > 1] == []


def test_ids_are_unique_across_workloads() -> None:
    ids = [prompt.id for workload in SIZES for prompt in shipped(workload, "en")]

    assert len(set(ids)) == len(ids) == sum(SIZES.values())


# Reading


def put(folder: Path, content: bytes | str) -> Path:
    path = folder / "instruct" / "en.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def line(number: int, text: str = "Why?") -> str:
    return json.dumps({"id": f"instruct-{number:03}", "kind": "question", "text": text})


def test_the_first_prompts_are_taken_in_the_order_of_the_file(tmp_path: Path) -> None:
    put(tmp_path, "\n".join(line(n, f"text {n}") for n in (2, 1, 3)) + "\n")

    assert load_prompts(tmp_path, "instruct", "en", at_most=2) == (
        Prompt(id="instruct-002", language="en", text="text 2"),
        Prompt(id="instruct-001", language="en", text="text 1"),
    )


def test_empty_lines_are_passed_over(tmp_path: Path) -> None:
    put(tmp_path, f"\n{line(1)}\r\n\n  \n{line(2)}")

    assert len(load_prompts(tmp_path, "instruct", "en", at_most=9)) == 2


def test_line_separators_inside_a_text_stay_there(tmp_path: Path) -> None:
    text = "a\u2028b\u0085c\x1cd"
    put(tmp_path, json.dumps({"id": "x", "text": text}, ensure_ascii=False))

    assert load_prompts(tmp_path, "instruct", "en", at_most=9)[0].text == text


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ('{"id": "x", "text": ', "not JSON"),
        ("nonsense", "not JSON"),
        ("1" * 5000, "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('["x", "why"]', "not an object"),
        ('{"text": "why"}', "field id is missing or empty"),
        ('{"id": "x"}', "field text is missing or empty"),
        ('{"id": 4, "text": "why"}', "field id is missing or empty"),
        ('{"id": "x", "text": " \\n"}', "field text is missing or empty"),
        ('{"id": "x", "text": "half \\ud83d"}', "no Unicode text"),
        (line(1, "again"), "the id 'instruct-001' stands in an earlier line too"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, bad: str, says: str) -> None:
    path = put(tmp_path, f"{line(1)}\n\n{bad}\n{line(3)}\n")

    with pytest.raises(BadInput) as caught:
        load_prompts(tmp_path, "instruct", "en", at_most=1)

    assert str(caught.value).startswith(f"{path}, line 3: {says}")


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", ": the file is empty"), (b"\n \n", ": the file is empty"), (b"\n\xff", ", line 2: not UTF-8")],
)
def test_a_file_without_prompts_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = put(tmp_path, content)

    with pytest.raises(BadInput, match=f"{path}{says}"):
        load_prompts(tmp_path, "instruct", "en", at_most=1)


def test_a_missing_language_lists_those_there_are(tmp_path: Path) -> None:
    put(tmp_path, line(1))

    with pytest.raises(
        BadInput, match="no prompts for workload 'instruct' in language 'ja'; instruct has: en"
    ):
        load_prompts(tmp_path, "instruct", "ja", at_most=1)


def test_a_missing_workload_is_named_with_those_there_are(tmp_path: Path) -> None:
    put(tmp_path, line(1))
    with pytest.raises(BadInput, match=r"workload 'intruct' in language 'en'; .*'instruct'.*: instruct;"):
        load_prompts(tmp_path, "intruct", "en", at_most=1)


@example(b'{"id": "\\ud800", "text": "x"}')
@example(b"\xef\xbb\xbf{}")
@given(
    st.binary()
    | st.text().map(str.encode)
    | st.dictionaries(st.sampled_from(["id", "text", "kind"]), st.none() | st.text() | st.integers()).map(
        lambda value: json.dumps(value).encode()
    )
)
def test_any_file_is_prompts_or_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = put(Path(folder), content)
        try:
            prompts = load_prompts(Path(folder), "instruct", "en", at_most=9)
        except BadInput as error:
            assert str(path) in str(error)  # noqa: PT017 - success is allowed too
        else:
            assert all(p.id.encode() and p.text.encode() for p in prompts)
