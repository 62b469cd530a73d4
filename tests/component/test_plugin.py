from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.plugin import DATA
from harness.text.numbers import duration
from tests.component import forked, in_process

SUITE = DATA.parent / "bench_suites" / "test_acceptance.py"
SPEED = DATA.parent / "bench_suites" / "test_speed.py"
STACK = """\
schema = 1
name = "tiny"
[target]
model = "org/tiny"
[drafters.none]
[drafters.ngram]
method = "ngram"
k = [2, 4]
[drafters.self]
method = "draft_model"
model = "target"
k = [3]
selected = false
"""
"""16 cells: four places for each of none, ngram-k2, ngram-k4, and self-k3, which is measured only by name."""
PLACES = ["chat-en", "chat-zh", "raw-en", "raw-zh"]
ALL = [f"{place}-instruct-{drafter}" for drafter in ("none", "ngram-k2", "ngram-k4") for place in PLACES]

Collect = Callable[..., pytest.RunResult]


pytestmark = pytest.mark.usefixtures("own_signals")


@pytest.fixture
def collect(pytester: pytest.Pytester) -> Collect:
    """`pytest bench_suites --collect-only` with the tiny stack; no server is started."""
    folder = pytester.mkdir("bench_suites")
    shutil.copy(SUITE, folder)
    pytester.path.joinpath("tiny.toml").write_text(STACK, encoding="utf-8")

    def run(*words: str, stack: str | None = "./tiny.toml", path: str = "bench_suites") -> pytest.RunResult:
        given = ["--stack", stack] if stack else []
        return in_process.run(pytester, "--strict-markers", "--collect-only", "-q", *given, path, *words)

    return run


def ids(result: pytest.RunResult) -> list[str]:
    """The cells collected, in the order they would run."""
    found = [re.search(r"::test_\w+\[(.+)\]$", line) for line in result.outlines]
    return [match[1] for match in found if match]


def refused(result: pytest.RunResult, says: str) -> None:
    """A usage error: exit code 4, one clear sentence, no traceback."""
    text = "\n".join([*result.outlines, *result.errlines])
    assert result.ret == pytest.ExitCode.USAGE_ERROR, text
    assert re.search(says, text), text
    assert "Traceback" not in text
    assert "INTERNALERROR" not in text


# What is selected


def test_every_cell_is_a_case_named_by_its_values(collect: Collect) -> None:
    assert ids(collect()) == ALL


def test_the_embedded_stack_is_the_default(collect: Collect) -> None:
    assert ids(collect(stack=None)) == ALL + [f"{place}-instruct-eagle3r1-k4" for place in PLACES]


def test_further_workloads_are_measured_on_demand(collect: Collect) -> None:
    found = ids(collect("--workload", "code", "--workload", "summary", "-m", "chat and en"))

    assert found == [
        f"chat-en-{workload}-{drafter}"
        for drafter in ("none", "ngram-k2", "ngram-k4")
        for workload in ("code", "summary")
    ]


def test_the_workload_is_the_profiles_where_none_is_named(collect: Collect) -> None:
    of_profile = ids(collect("--profile", "long", "-m", "chat and en and none"))
    named = ids(collect("--profile", "long", "--workload", "code", "-m", "chat and en and none"))

    assert (of_profile, named) == (["chat-en-longform-none"], ["chat-en-code-none"])


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("chat and zh", ["chat-zh-instruct-none", "chat-zh-instruct-ngram-k2", "chat-zh-instruct-ngram-k4"]),
        ("raw and en and k4", ["raw-en-instruct-ngram-k4"]),
        ("none and not chat", ["raw-en-instruct-none", "raw-zh-instruct-none"]),
        ("k2 and instruct and zh", ["chat-zh-instruct-ngram-k2", "raw-zh-instruct-ngram-k2"]),
        ("en and code", []),
    ],
)
def test_markers_select_exactly(collect: Collect, expression: str, expected: list[str]) -> None:
    assert ids(collect("-m", expression)) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), ["k4"]),
        (("-m", "eagle3r1"), ["k1", "k2", "k3", "k4"]),
        (("-k", "k2"), ["k2"]),
        (("-m", "k4"), ["k4"]),
        (("-m", "not k4"), []),
    ],
)
def test_some_k_of_a_drafter_may_be_measured_only_by_name(
    collect: Collect, words: tuple[str, ...], expected: list[str]
) -> None:
    found = [cell for cell in ids(collect(*words, stack=None)) if cell.startswith("raw-zh-instruct-eagle3")]

    assert found == [f"raw-zh-instruct-eagle3r1-{k}" for k in expected]


def test_words_of_ids_select_as_people_expect(collect: Collect) -> None:
    result = collect("-k", "chat and zh")

    assert ids(result) == [
        "chat-zh-instruct-none", "chat-zh-instruct-ngram-k2", "chat-zh-instruct-ngram-k4",
    ]  # fmt: skip
    result.stdout.no_fnmatch_line("*matches any part*")


def test_a_word_that_selects_more_than_it_says_is_warned_of(collect: Collect) -> None:
    result = collect("-k", "en")

    assert len(ids(result)) == 12  # "bench_suites" has it
    result.stdout.fnmatch_lines(
        ['*-k en matches *: it also selected 6 cells * not en ("bench_suites" has it); -m "en" is exact*']
    )


@pytest.mark.parametrize("words", [("-k", "self"), ("-m", "self"), ("-m", "self and k3"), ("-k", "self-k3")])
def test_what_is_measured_only_by_name_is_measured_by_name(collect: Collect, words: tuple[str, ...]) -> None:
    assert ids(collect(*words)) == [f"{place}-instruct-self-k3" for place in PLACES]


def test_what_is_measured_only_by_name_may_be_named_by_its_id(collect: Collect) -> None:
    case = "raw-en-instruct-self-k3"

    assert ids(collect(path=f"bench_suites/test_acceptance.py::test_acceptance[{case}]")) == [case]


def test_a_word_that_contains_the_name_does_not_name_it(collect: Collect) -> None:
    assert ids(collect("-k", "instruct or selfish")) == ALL


@pytest.mark.parametrize(
    ("words", "drafters"),
    [
        (("-m", "my-self"), ["my-self-k5"]),
        (("-k", "my-self"), ["my-self-k5"]),
        (("-m", "my-self or k2"), ["ngram-k2", "my-self-k5"]),
        (("-m", "my-self or en"), ["none", "ngram-k2", "ngram-k4", "my-self-k5"]),
        (("-k", "instruct-self-k3"), ["self-k3"]),
    ],
)
def test_a_drafter_with_a_hyphen_is_named_whole(
    collect: Collect, pytester: pytest.Pytester, words: tuple[str, ...], drafters: list[str]
) -> None:
    table = '[drafters.my-self]\nmethod = "suffix"\nk = [5]\n'
    pytester.path.joinpath("tiny.toml").write_text('languages = ["en"]\n' + STACK + table)

    found = dict.fromkeys(name.split("-", 3)[3] for name in ids(collect(*words)))

    assert list(found) == drafters


def test_the_speed_suite_runs_by_its_path_only(collect: Collect, pytester: pytest.Pytester) -> None:
    shutil.copy(SPEED, pytester.path / "bench_suites")

    assert ids(collect("-m", "raw and en")) == [
        "raw-en-instruct-none", "raw-en-instruct-ngram-k2", "raw-en-instruct-ngram-k4",
    ]  # fmt: skip
    assert ids(collect("-m", "raw and en", path="bench_suites/test_speed.py")) == [
        "raw-en-instruct-ngram-k2", "raw-en-instruct-ngram-k4",
    ]  # fmt: skip


# In which order


def test_cells_of_one_server_stand_together_over_suites(collect: Collect, pytester: pytest.Pytester) -> None:
    text = SUITE.read_text(encoding="utf-8").replace("test_acceptance", "test_again")
    pytester.path.joinpath("bench_suites", "test_again.py").write_text(text, encoding="utf-8")

    found = ids(collect("-m", "chat"))

    assert found == [
        f"chat-{language}-instruct-{drafter}"
        for drafter in ("none", "ngram-k2", "ngram-k4")
        for language in ("en", "en", "zh", "zh")
    ]


def test_a_selection_by_ids_in_any_order_starts_each_server_once(collect: Collect) -> None:
    file = "bench_suites/test_acceptance.py::test_acceptance"
    words = [f"{file}[{case}]" for case in ("chat-en-instruct-none", "raw-en-instruct-ngram-k4")]

    found = ids(collect(*words, path=f"{file}[raw-zh-instruct-ngram-k4]"))

    assert found == ["raw-zh-instruct-ngram-k4", "raw-en-instruct-ngram-k4", "chat-en-instruct-none"]


def test_other_tests_keep_their_place_first(collect: Collect, pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("bench_suites", "test_z.py").write_text("def test_z(): pass\n", encoding="utf-8")

    cases = [line for line in collect("-m", "not zh").outlines if "::" in line]

    assert len(cases) == 7
    assert cases[0] == "bench_suites/test_z.py::test_z"


# The plan


def test_the_plan_is_printed_before_anything_starts(collect: Collect) -> None:
    result = collect("--prompts", "3", "--max-tokens", "10", "--results", "elsewhere", "-m", "not raw")

    # 3 starts of 60 s, and 6 cells of 3 prompts and 2 warm-ups with 10 tokens at 50 a second; before them the
    # self-check, with two starts and 4 answers of 64 tokens.
    result.stdout.fnmatch_lines(
        [
            "draftgate: the self-check comes first, about 2 min",
            "draftgate: 6 cells on 3 servers (none, ngram-k2, ngram-k4), 3 prompts x 10 tokens, *5 min with*",
            "draftgate: records go to elsewhere/*-tiny-*",
        ]
    )
    assert result.ret == pytest.ExitCode.OK


def test_the_plan_says_what_the_profile_and_the_options_ask_for(collect: Collect) -> None:
    result = collect(
        "--profile", "field", "--repeats", "3", "--concurrency", "4", "-m", "none and chat and en"
    )

    result.stdout.fnmatch_lines(
        ["draftgate: 1 cell on 1 server (none), 120 prompts x 200 tokens x 3, T=0.7, concurrency 4; *"]
    )


def test_collecting_writes_nothing(collect: Collect, pytester: pytest.Pytester) -> None:
    collect("--results", "elsewhere")

    assert not pytester.path.joinpath("elsewhere").exists()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (119.4, "119 s"), (120, "2 min"), (300, "5 min"), (7199, "120 min"), (9000, "2.5 h")],
)
def test_a_duration_is_told_in_its_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# What is refused


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("--profile", "quik"),
            "--profile quik: unknown profile .did you mean 'quick'.*; there are: quick, gate, field, long",
        ),
        (("--workload", "poem"), "--workload poem: unknown workload; there are: instruct, code, summary"),
        (("--prompts", "0"), "--prompts 0: must be 1 or more"),
        (("--max-tokens", "-1"), "--max-tokens -1: must be 1 or more"),
        (("--concurrency", "0"), "--concurrency 0: must be 1 or more"),
        (("--repeats", "0"), "--repeats 0: must be 1 or more"),
        (("--pairs", "1"), "--pairs 1: must be 2 or more"),
        (("--ttft-ms", "0"), "--ttft-ms 0: must be 1 or more"),
        (("--tpot-ms", "9" * 400), "must be 1 or more, and at most 1000000000"),
        (("--prompts", "few"), "argument --prompts: few: must be a whole number"),
        (("--gate", "maybe"), "argument --gate: invalid choice: 'maybe'"),
        (
            ("--resume", "--results", "none"),
            "--resume: none holds no unfinished run of stack tiny, profile quick",
        ),
        (("--compare", "nowhere"), "--compare nowhere: no run lies there"),
        (("--server-url", "file:///etc"), "--server-url file:///etc: not the URL of a server, like http://"),
        (
            ("--server-url", "localhost:8000"),
            "--server-url localhost:8000: not the URL of a server, like http://",
        ),
        (
            ("--server-url", "http://localhost:1"),
            r"--server-url names one server, but the cells selected need 3 \(none, ngram-k2, ngram-k4\)",
        ),
    ],
)
def test_an_option_that_cannot_be_is_a_usage_error(
    collect: Collect, words: tuple[str, ...], says: str
) -> None:
    refused(collect(*words), says)


@pytest.mark.parametrize(
    ("stack", "says"),
    [
        ("nosuch", "--stack nosuch: unknown stack; there are: .*smollm2-cpu"),
        ("./nosuch.toml", "--stack ./nosuch.toml: no such file"),
    ],
)
def test_an_unknown_stack_is_a_usage_error(collect: Collect, stack: str, says: str) -> None:
    refused(collect(stack=stack), says)


def test_a_bad_stack_is_a_usage_error_with_its_line(collect: Collect, pytester: pytest.Pytester) -> None:
    bad = STACK.replace("k = [2, 4]", "k = [2, 0]")
    pytester.path.joinpath("tiny.toml").write_text(bad, encoding="utf-8")

    refused(collect(), "tiny.toml, line 8, key drafters.ngram.k: k is 0, it must be from 1")


def test_missing_prompts_are_a_usage_error(collect: Collect, pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("tiny.toml").write_text('languages = ["fr"]\n' + STACK, encoding="utf-8")

    refused(collect(), "no prompts for workload 'instruct' in language 'fr'; instruct has: en, zh")


def test_one_server_may_be_named_by_its_url(collect: Collect) -> None:
    result = collect("--server-url", "http://localhost:1", "-m", "k4")

    assert result.ret == pytest.ExitCode.OK
    assert len(ids(result)) == 4


def test_the_shipped_suites_are_what_is_tested_here() -> None:
    assert {path.name for path in Path(SUITE).parent.glob("test_*.py")} >= {SUITE.name, SPEED.name}


def test_a_value_that_the_stack_lacks_is_answered_with_those_it_has(tmp_path: Path) -> None:
    """For -m pytest says it itself: its markers are strict."""
    code, output = forked.run(
        "pytest", "bench_suites", "--collect-only", "-k", "klingon", output=tmp_path / "output"
    )

    assert code == 4
    assert "no cell matches 'klingon': stack smollm2-cpu has endpoints chat, raw; languages en, zh" in output
    assert "Traceback" not in output
