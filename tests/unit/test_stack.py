from __future__ import annotations

import dataclasses
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from harness.config.cells import Cell, ServerSpec, cells_of, server_spec
from harness.config.prompts import load_prompts
from harness.config.stack import PROFILES, Drafter, Profile, Stack, find_stack, load_stack
from harness.config.toml import position
from harness.errors import BadInput
from harness.plugin import DATA

HEAD = 'schema = 1\nname = "tiny"\n\n[target]\nmodel = "org/tiny"\n\n'
"""Six lines: what a test appends begins at line 7."""
NONE = "[drafters.none]\n"
NGRAM = '[drafters.ngram]\nmethod = "ngram"\nk = [2, 4]\n'

Loader = Callable[[str], Stack]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tiny.toml"


@pytest.fixture
def loaded(path: Path) -> Loader:
    def write_and_load(text: str) -> Stack:
        path.write_text(text, encoding="utf-8")
        return load_stack(path)

    return write_and_load


def names(stack: Stack, profile: Profile = PROFILES["quick"]) -> list[str]:
    return [str(cell) for cell in cells_of(stack, "quick", profile, workloads=("instruct",))]


# What a stack says


def test_a_small_stack_has_the_documented_defaults(loaded: Loader) -> None:
    stack = loaded(HEAD + NONE)

    assert stack.endpoints == ("chat", "raw")
    assert stack.languages == ("en", "zh")
    assert stack.workloads == ("instruct", "code", "summary", "imageprompt", "longform")
    assert (stack.target.dtype, stack.target.quantization, stack.engine.port) == ("auto", None, None)
    assert stack.drafters["none"].k == (0,)
    assert stack.drafters["none"].selected


@pytest.mark.parametrize(
    ("name", "prompts", "max_tokens", "temperature"),
    [("quick", 8, 64, 0.0), ("gate", 120, 96, 0.0), ("field", 120, 200, 0.7), ("long", 12, 2000, 0.0)],
)
def test_the_profiles_are_the_documented_ones(
    loaded: Loader, name: str, prompts: int, max_tokens: int, temperature: float
) -> None:
    profile = loaded(HEAD + NONE).profiles[name]

    assert (profile.prompts, profile.max_tokens) == (prompts, max_tokens)
    assert profile.sampling.temperature == temperature
    assert (profile.concurrency, profile.cache) == (1, "cold")


def test_a_profile_changes_single_values_of_the_built_in_one(loaded: Loader) -> None:
    stack = loaded(
        HEAD + NONE + "[profiles.field]\nconcurrency = 8\n[profiles.field.sampling]\ntop_p = 0.9\n"
    )

    field = stack.profiles["field"]
    assert (field.prompts, field.max_tokens, field.concurrency) == (120, 200, 8)
    assert (field.sampling.temperature, field.sampling.top_p) == (0.7, 0.9)
    assert stack.profiles["gate"] == PROFILES["gate"]


def test_a_profile_of_a_new_name_stands_for_itself(loaded: Loader) -> None:
    stack = loaded(HEAD + NONE + "[profiles.soak]\nprompts = 3\nmax_tokens = 5\n")

    assert stack.profiles["soak"] == Profile(prompts=3, max_tokens=5)
    assert set(stack.profiles) == {"quick", "gate", "field", "long", "soak"}


def test_further_keys_of_a_drafter_are_vllms(loaded: Loader) -> None:
    stack = loaded(HEAD + NONE + NGRAM + "prompt_lookup_max = 4\n")

    assert stack.drafters["ngram"].settings == {"prompt_lookup_max": 4}


def test_the_shipped_stacks_load() -> None:
    for shipped in (DATA / "stacks").glob("*.toml"):
        assert load_stack(shipped).name == shipped.stem


def test_a_long_answer_and_its_prompt_fit_every_shipped_stack() -> None:
    """A token is a byte at least; 100 are more than any chat template adds."""
    prompts = [load_prompts(DATA / "prompts", "longform", lang, at_most=99) for lang in ("en", "zh")]
    longest = max(len(p.text.encode()) for p in itertools.chain(*prompts)) + 100
    for shipped in (DATA / "stacks").glob("*.toml"):
        stack = load_stack(shipped)
        assert stack.profiles["long"].max_tokens + longest <= stack.engine.args["max_model_len"], stack.name


def test_the_self_drafter_of_the_embedded_stack_is_measured_only_by_name() -> None:
    stack = load_stack(find_stack("smollm2-cpu", DATA / "stacks"))

    assert [name for name, drafter in stack.drafters.items() if not drafter.selected] == [
        "eagle3r2",
        "eagle3r3",
        "self",
    ]


# What is wrong with a stack


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param(HEAD + "nonsense\n", "not TOML: .*line 7", id="malformed line"),
        pytest.param(HEAD + 'a = "unclosed\n', "not TOML: .*line 7", id="unclosed string"),
        pytest.param(HEAD + NONE + "[drafters.none]\n", "not TOML: .*line 8", id="table twice"),
        pytest.param("a = " + "[" * 50_000, "nested too deeply", id="nested"),
        pytest.param("a = " + "1" * 5000, "not TOML: .*digits", id="number of 5000 digits"),
        pytest.param("", "key schema: it is missing", id="empty"),
        pytest.param('schema = 2\nname = "tiny"\n', "line 1, key schema: must be 1, not 2", id="schema"),
        pytest.param(HEAD, "key drafters: it is missing", id="no drafters"),
        pytest.param(
            HEAD + 'dtyp = "float16"\n' + NONE,
            "line 7, key target.dtyp: unknown key .did you mean 'dtype'",
            id="unknown key",
        ),
        pytest.param(
            HEAD + "[engin]\nport = 1\n" + NONE,
            "line 7, key engin: unknown key .did you mean 'engine'",
            id="unknown table",
        ),
        pytest.param(
            HEAD + "[engine]\nport = 0\n" + NONE,
            "line 8, key engine.port: must be 1 or more, not 0",
            id="port 0",
        ),
        pytest.param(
            HEAD + "[engine.env]\nA = 2\n" + NONE,
            "line 8, key engine.env.A: must be a text, not 2",
            id="number in the environment",
        ),
        pytest.param(
            HEAD + NONE + NGRAM.replace("[2, 4]", '["two"]'),
            "line 10, key drafters.ngram.k.0: must be a whole number, not 'two'",
            id="k a word",
        ),
        pytest.param(
            HEAD + "drafters = 4\n", "line 7, key target.drafters: unknown key", id="key in the wrong table"
        ),
        pytest.param(
            HEAD + NONE + "[profiles.gate]\nconcurrency = 0\n",
            "line 9, key profiles.gate.concurrency: must be more than 0, not 0",
            id="concurrency 0",
        ),
        pytest.param(
            HEAD + NONE + '[profiles.gate]\ncache = "hot"\n',
            "line 9, key profiles.gate.cache: must be 'cold', 'warm' or 'off', not 'hot'",
            id="unknown cache state",
        ),
        pytest.param(
            HEAD + NONE + "[profiles.gate.sampling]\ntemprature = 1\n",
            "line 9, key profiles.gate.sampling.temprature: unknown key .did you mean 'temperature'",
            id="unknown sampling parameter",
        ),
        pytest.param(
            HEAD + NONE + "[profiles]\ngate = 4\n",
            "line 9, key profiles.gate: must be a table, not 4",
            id="profile a number",
        ),
        pytest.param(
            HEAD + NONE + "[profiles.gate]\nsampling = 4\n",
            "line 9, key profiles.gate.sampling: must be a table, not 4",
            id="sampling a number",
        ),
        pytest.param(
            HEAD + NONE + "[profiles.soak]\nmax_tokens = 4\n",
            "line 8, key profiles.soak.prompts: it is missing",
            id="new profile without prompts",
        ),
        *(
            pytest.param(HEAD + table + NONE, f"key {table.strip('[').split(']')[0]}.*: {says}", id=table)
            for table, says in (
                ('[engine.env]\n"A=B" = "1"\n', "'A=B' is no name of a variable"),
                ('[variants.x.env]\n"" = "1"\n', "'' is no name of a variable"),
                (f"[profiles.quick]\nmax_tokens = {10**400}\n", "must be at most 1000000000"),
                (f"[profiles.gate]\nprompts = {10**10}\n", "must be at most 1000000000"),
            )
        ),
        pytest.param("start_seconds = 1e300\n" + HEAD + NONE, "must be at most 1000000000", id="long start"),
        pytest.param(
            'subject = ["quantisation"]\n' + HEAD + NONE,
            "line 1, key subject.0: no record's identity has .* 'quantisation' .did you mean 'quantization'",
            id="subject",
        ),
        pytest.param(
            f'languages = ["{"a" * 60}"]\nworkloads = ["{"b" * 60}"]\n'
            + HEAD
            + f'[drafters.{"c" * 60}]\nmethod = "ngram"\nk = [1]\n',
            "names that are too long for files",
            id="names too long together",
        ),
        pytest.param(
            "profiles = 4\n" + HEAD + NONE,
            "line 1, key profiles: must be a table, not 4",
            id="profiles a number",
        ),
    ],
)
def test_bad_text_is_refused_with_its_line_and_key(loaded: Loader, path: Path, text: str, says: str) -> None:
    with pytest.raises(BadInput, match=says) as caught:
        loaded(text)

    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (HEAD + NONE + NGRAM.replace("[2, 4]", '["2", 4]'), "drafters.ngram.k"),
        (HEAD + NONE + NGRAM.replace("[2, 4]", "[true]"), "drafters.ngram.k"),
        (HEAD + NONE + '[profiles.quick]\nprompts = "8"\n', "profiles.quick.prompts"),
        (HEAD + NONE + "[profiles.quick]\nprompts = true\n", "profiles.quick.prompts"),
        (
            HEAD + NONE + "[profiles.quick.sampling]\ntemperature = '0'\n",
            "profiles.quick.sampling.temperature",
        ),
        (HEAD + NONE + "[engine]\nport = '8000'\n", "engine.port"),
        (HEAD + NONE + "[engine]\nfork = 'no'\n", "engine.fork"),
    ],
)
def test_a_text_is_no_number_and_a_number_no_boolean(loaded: Loader, text: str, key: str) -> None:
    with pytest.raises(BadInput, match=f"key {key}: must be (a number|true or false), not"):
        loaded(text)


@pytest.mark.parametrize(
    ("k", "says"),
    [
        ("[0]", "drafter 'ngram' has no k"),
        ("[]", "drafter 'ngram' has no k"),
        ("[4, -1]", "k is -1, it must be from 1 to"),
        ("[4, 0]", "k is 0, it must be from 1 to"),
        ("[2, 4, 2]", r"k holds a value twice: \[2, 4, 2\]"),
        ("[2, 4]\nselected = []", "selected is empty"),
        ("[2, 4]\nselected = [4, 8]", r"selected names a k that is not among them: \[4, 8\]"),
    ],
)
def test_a_k_that_cannot_be_is_refused(loaded: Loader, k: str, says: str) -> None:
    with pytest.raises(BadInput, match=f"line 10, key drafters.ngram.k: {says}"):
        loaded(HEAD + NONE + NGRAM.replace("[2, 4]", k))


@pytest.mark.parametrize(
    ("drafters", "says"),
    [
        (
            "[drafters.ngram]\nk = [2]\n",
            "line 8, .*drafter 'ngram' has no method; only 'none' drafts nothing",
        ),
        ("[drafters.none]\nk = [2]\n", "line 8, .*drafter 'none' has no method"),
        ("[drafters.none]\nprompt_lookup_max = 2\n", "line 7, .*drafter 'none' has no method"),
        (
            '[drafters.none]\nmethod = "ngram"\nk = [2]\n',
            "line 9, .*'none' drafts nothing: it takes no method",
        ),
        ('[drafters.ngram]\nmethod = "ngram"\n', "line 7, .*drafter 'ngram' has no k"),
        (NGRAM + "num_speculative_tokens = 4\n", "line 9, .*sets num_speculative_tokens; that is k here"),
    ],
)
def test_a_drafter_that_cannot_be_is_refused(loaded: Loader, drafters: str, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        loaded(HEAD + drafters)


@pytest.mark.parametrize(
    "name", ["dflashen", "frozen", "ZHead", "rawhead", "decoder", "ngramsuffix", "mark4"]
)
def test_a_name_may_contain_another_value(loaded: Loader, name: str) -> None:
    text = HEAD + NONE + NGRAM + f'[drafters.{name}]\nmethod = "suffix"\nk = [4]\n'
    axes = 'workloads = ["mtbench", "screenplay", "code"]\nlanguages = ["en", "de"]\n'

    stack = loaded(axes + text)

    assert (name in stack.drafters, stack.workloads[0]) == (True, "mtbench")


@pytest.mark.parametrize("name", ["zh", "ZH", "chat", "code", "k4"])
def test_a_drafter_called_as_another_axis_value_is_refused(loaded: Loader, name: str) -> None:
    text = HEAD + NONE + NGRAM + f'[drafters.{name}]\nmethod = "suffix"\nk = [4]\n'

    with pytest.raises(BadInput, match="is the name of another axis' value too") as caught:
        loaded(text)

    assert caught.value.code == "stack-name"


@pytest.mark.parametrize("axis", ["workloads", "languages", "endpoints"])
def test_an_axis_without_a_value_is_refused(loaded: Loader, axis: str) -> None:
    with pytest.raises(BadInput, match=f"line 1, key {axis}: it is empty"):
        loaded(f"{axis} = []\n" + HEAD + NONE)


def test_a_stack_without_a_drafter_is_refused(loaded: Loader) -> None:
    with pytest.raises(BadInput, match="key drafters: it has no drafter"):
        loaded("drafters = {}\n" + HEAD)


def test_a_built_in_profile_asks_the_stacks_first_workload_where_it_has_not_its_own(loaded: Loader) -> None:
    stack = loaded('workloads = ["gsm", "longform"]\n' + HEAD + NONE)

    assert [stack.workload_of(name) for name in ("quick", "long")] == ["gsm", "longform"]


def test_a_profile_that_names_a_workload_of_no_stack_is_refused(loaded: Loader) -> None:
    text = HEAD + NONE + '[profiles.gate]\nworkload = "instrct"\n'

    with pytest.raises(BadInput, match=r"line 9, key profiles.gate.workload: .*did you mean 'instruct'"):
        loaded(text)


def test_either_of_two_kinds_is_said_in_plain_words(loaded: Loader) -> None:
    with pytest.raises(BadInput, match=r"key drafters.ngram.selected: must be true or false, .*or .*a list"):
        loaded(HEAD + NONE + NGRAM + "selected = 1.5\n")


def test_one_k_may_begin_like_another(loaded: Loader) -> None:
    stack = loaded(HEAD + NONE + NGRAM.replace("[2, 4]", "[1, 16]"))

    assert stack.drafters["ngram"].k == (1, 16)


@pytest.mark.parametrize("name", ["skip", "xfail", "parametrize", "cells", "not", "and"])
def test_a_drafter_called_like_a_word_of_pytest_is_refused(loaded: Loader, name: str) -> None:
    with pytest.raises(BadInput, match=f"key drafters.{name}: '{name}' has a meaning to pytest"):
        loaded(HEAD + NONE + f'[drafters.{name}]\nmethod = "suffix"\nk = [4]\n')


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEAD + NONE + '[drafters."a b"]\nmethod = "x"\nk = [1]\n', "line 8, .*'a b' is not a name"),
        (HEAD + NONE + '[drafters."-a"]\nmethod = "x"\nk = [1]\n', "line 8, .*'-a' is not a name"),
        (
            'workloads = ["gsm", "gsm-my"]\nlanguages = ["en"]\n'
            + HEAD
            + NONE
            + '[drafters."my-head"]\nmethod = "x"\nk = [1]\n[drafters.head]\nmethod = "x"\nk = [2]\n',
            "en-gsm-my-head would name two cells",
        ),
        (HEAD.replace("tiny", "../tiny") + NONE, "line 2, key name: '../tiny' is not a name"),
        ('languages = ["zh TW"]\n' + HEAD + NONE, "line 1, key languages: 'zh TW' is not a name"),
        ('workloads = ["a/b"]\n' + HEAD + NONE, "line 1, key workloads: 'a/b' is not a name"),
        (HEAD + NONE + '[profiles."a/b"]\nprompts = 1\nmax_tokens = 1\n', "line 8, .*'a/b' is not a name"),
        ('languages = ["en", "en"]\n' + HEAD + NONE, "line 1, key languages: 'en' stands there twice"),
    ],
)
def test_what_is_not_a_name_is_refused(loaded: Loader, text: str, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        loaded(text)


def test_a_stack_may_have_dashes_in_its_name(loaded: Loader) -> None:
    assert loaded(HEAD.replace('name = "tiny"', 'name = "gemma4-26b-gb10"') + NONE).name == "gemma4-26b-gb10"


def test_an_unknown_endpoint_is_refused(loaded: Loader) -> None:
    with pytest.raises(
        BadInput, match="line 1, key endpoints: unknown endpoint 'rest'; there are: chat, raw"
    ):
        loaded('endpoints = ["chat", "rest"]\n' + HEAD + NONE)


@pytest.mark.parametrize("value", ["2026-11-21", "12:00:00", "nan", "inf"])
def test_a_value_that_vllm_cannot_be_told_is_refused(loaded: Loader, value: str) -> None:
    with pytest.raises(BadInput, match=r"line 8, key engine.args.seed: .*cannot be given to vLLM"):
        loaded(HEAD + f"[engine.args]\nseed = {value}\n" + NONE)
    with pytest.raises(BadInput, match=r"line 11, key drafters.ngram.when: .*cannot be given to vLLM"):
        loaded(HEAD + NONE + NGRAM + f"when = {value}\n")


@pytest.mark.parametrize(
    "name", ["port", "api_key", "speculative_config", "served-model-name", "spec-tokens"]
)
def test_an_engine_argument_that_has_its_own_place_is_refused(loaded: Loader, name: str) -> None:
    with pytest.raises(BadInput, match=f"line 8, key engine.args.{name}: "):
        loaded(HEAD + f'[engine.args]\n{name} = "1"\n' + NONE)


def test_a_part_of_an_engine_argument_that_has_its_own_place_is_refused(loaded: Loader) -> None:
    with pytest.raises(BadInput, match=r"key engine\.args\.speculative-config\.method: ") as caught:
        loaded(HEAD + '[engine.args]\n"speculative-config.method" = "1"\n' + NONE)
    assert caught.value.code == "stack-argument"


def test_one_argument_in_two_spellings_is_refused(loaded: Loader) -> None:
    with pytest.raises(BadInput, match=r"line 9, key engine\.args\.max-model-len: ") as caught:
        loaded(HEAD + "[engine.args]\nmax_model_len = 1\nmax-model-len = 2\n" + NONE)
    assert caught.value.code == "stack-argument"


def test_a_merge_left_in_a_text_of_several_lines_is_refused(loaded: Loader) -> None:
    merge = 'about = """\n<<<<<<< ours\na\n=======\nb\n>>>>>>> theirs\n"""\n'
    with pytest.raises(BadInput, match="line 2: ") as caught:
        loaded(merge + HEAD + NONE)
    assert caught.value.code == "damaged-file"


def test_a_file_that_is_no_text_is_refused(path: Path) -> None:
    path.write_bytes(b'name = "\xff"')

    with pytest.raises(BadInput, match=r"not UTF-8 text \(byte 8\)"):
        load_stack(path)


def test_a_folder_is_no_stack(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="Is a directory"):
        load_stack(tmp_path)


toml_like = st.lists(
    st.sampled_from(
        [
            HEAD,
            NONE,
            NGRAM,
            "[profiles.gate]\n",
            "k = []\n",
            "k = 3\n",
            "method = 4\n",
            "model = 'target'\n",
            "[[drafters]]\n",
            "profiles = 1\n",
            "[engine.args]\n",
            "x = 1979-05-27\n",
            "[target]\n",
            "name = ''\n",
            "endpoints = []\n",
            "[profiles.quick.sampling]\n",
            "temperature = nan\n",
        ]
    )
    | st.text(max_size=12),
    max_size=6,
).map("".join)


@example("\x00")
@example("a." * 5000 + "a = 1")
@example("\ufeff" + HEAD + NONE)
@given(st.text() | toml_like | toml_like.map(lambda text: HEAD + text))
def test_any_text_is_a_stack_or_refused(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.toml"
        path.write_text(text, encoding="utf-8", newline="")
        try:
            stack = load_stack(path)
        except BadInput as error:
            assert str(error).startswith(str(path))  # noqa: PT017 - success is allowed too
        else:
            assert all(
                cell.spec.key for cell in cells_of(stack, "quick", PROFILES["quick"], workloads=("code",))
            )


@given(st.text(), st.lists(st.text(max_size=5)))
def test_any_place_is_told_or_only_its_key(text: str, loc: list[str]) -> None:
    told = position(text, tuple(loc))

    assert told.endswith(f"key {'.'.join(loc)}" if loc else "the file")


def test_a_place_is_the_nearest_line_that_belongs_to_the_key() -> None:
    text = '# k = 1\n[drafters.a]\nmethod = "b"\nk = [1]\n[ "drafters" . "c" ]\nd.e = 4\n'

    assert position(text, ("drafters", "a", "k")) == "line 4, key drafters.a.k"
    assert position(text, ("drafters", "a", "x")) == "line 2, key drafters.a.x"
    assert position(text, ("drafters", "c", "d", "e")) == "line 6, key drafters.c.d.e"
    assert position(text, ("k",)) == "key k"


# Finding one


def test_a_stack_is_found_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.toml").touch()

    assert find_stack("a", tmp_path) == tmp_path / "a.toml"


def test_an_unknown_name_lists_those_there_are(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}.toml").touch()

    with pytest.raises(BadInput, match="--stack c: unknown stack; there are: a, b "):
        find_stack("c", tmp_path)


def test_an_unknown_name_among_none_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there are: none"):
        find_stack("c", tmp_path)


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.toml").touch()

    assert find_stack(str(tmp_path / "a.toml"), tmp_path / "elsewhere") == tmp_path / "a.toml"


@pytest.mark.parametrize("name", ["missing.toml", "some/where"])
def test_a_path_that_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match=f"--stack {name}: no such file"):
        find_stack(name, tmp_path)


# Paths in it


def test_relative_paths_start_at_the_stack_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.chdir("/")
    (tmp_path / "stacks").mkdir()
    path = tmp_path / "stacks" / "tiny.toml"
    path.write_text(
        'schema = 1\nname = "tiny"\n[target]\nmodel = "../models/tiny"\ntokenizer = "~/tok"\n'
        '[engine]\npython = "./venv/bin/python"\n'
        '[drafters.head]\nmethod = "eagle3"\nmodel = "/abs/head"\nk = [2]\n'
        '[drafters.mtp]\nmethod = "mtp"\nmodel = "org/assistant"\nk = [2]\n'
        '[drafters.twin]\nmethod = "draft_model"\nmodel = "target"\nk = [2]\n',
        encoding="utf-8",
    )

    stack = load_stack(path)

    assert stack.target.model == str(tmp_path / "models/tiny")
    assert stack.target.tokenizer == "/home/someone/tok"
    assert stack.engine.python == str(tmp_path / "stacks/venv/bin/python")
    assert {name: d.model for name, d in stack.drafters.items()} == {
        "head": "/abs/head",
        "mtp": "org/assistant",
        "twin": "target",
    }


# Servers


def spec_of(stack: Stack, drafter: str, k: int, **options: Any) -> ServerSpec:
    return server_spec(stack, stack.drafters[drafter], k, **options)


def test_equal_stacks_need_equal_servers(loaded: Loader) -> None:
    text = HEAD + "[engine.args]\na = 1\nb = 2\n" + NONE + NGRAM
    other = HEAD + "[engine.args]\nb = 2\na = 1\n" + NONE + NGRAM

    first, second = spec_of(loaded(text), "ngram", 4), spec_of(loaded(other), "ngram", 4)

    assert first == second
    assert hash(first) == hash(second)
    assert first.key == second.key
    assert list(first.args) == list(second.args) == ["a", "b"]  # and so in records
    assert len(first.key) == 12


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("org/tiny", "org/small"),
        ("prompt_lookup_max = 4", "prompt_lookup_max = 3"),
        ('method = "ngram"', 'method = "suffix"'),
        ("max_model_len = 64", "max_model_len = 65"),
        ('A = "1"', 'A = "2"'),
        ('name = "tiny"', 'name = "other"'),
    ],
)
def test_what_decides_a_server_makes_another_key(loaded: Loader, before: str, after: str) -> None:
    text = (
        HEAD
        + '[engine.args]\nmax_model_len = 64\n[engine.env]\nA = "1"\n'
        + NGRAM
        + "prompt_lookup_max = 4\n"
    )

    first, second = (
        spec_of(loaded(text), "ngram", 4),
        spec_of(loaded(text.replace(before, after)), "ngram", 4),
    )

    assert first != second
    assert first.key != second.key


def test_true_and_1_are_other_arguments(loaded: Loader) -> None:
    """To Python they are equal; `--max-model-len` and `--max-model-len 1` are not."""
    texts = [HEAD + f"[engine.args]\nmax_model_len = {value}\n" + NONE for value in ("true", "1", "1.0")]

    specs = [spec_of(loaded(text), "none", 0) for text in texts]

    assert len(set(specs)) == len({spec.key for spec in specs}) == 3


def test_a_drafter_need_not_be_one_of_the_stack(loaded: Loader) -> None:
    spec = server_spec(loaded(HEAD + NONE), Drafter(name="mine", method="suffix", k=(2,)), 2)

    assert spec.label == "mine-k2"
    assert spec.speculative == {"method": "suffix", "num_speculative_tokens": 2}


def test_a_drafter_knows_its_name_from_its_table(loaded: Loader) -> None:
    assert [(name, d.name) for name, d in loaded(HEAD + NONE + NGRAM).drafters.items()] == [
        ("none", "none"),
        ("ngram", "ngram"),
    ]
    with pytest.raises(BadInput, match="drafter 'ngram' sets name"):
        loaded(HEAD + NGRAM + 'name = "other"\n')


def test_k_and_drafter_and_prefix_cache_make_other_servers(loaded: Loader) -> None:
    stack = loaded(HEAD + NONE + NGRAM)
    specs = [
        spec_of(stack, "none", 0),
        spec_of(stack, "ngram", 2),
        spec_of(stack, "ngram", 4),
        spec_of(stack, "ngram", 4, prefix_cache=False),
    ]

    assert len({spec.key for spec in specs}) == 4
    assert [spec.label for spec in specs] == ["none", "ngram-k2", "ngram-k4", "ngram-k4"]


def test_a_servers_key_does_not_change_between_processes(loaded: Loader) -> None:
    spec = spec_of(loaded(HEAD + NONE), "none", 0)

    assert dataclasses.replace(spec).key == spec.key
    assert spec.speculative is None


def test_the_speculative_config_has_method_k_settings_and_model(loaded: Loader) -> None:
    stack = loaded(HEAD + '[drafters.mtp]\nmethod = "mtp"\nmodel = "org/m"\nk = [3]\nquantization = "fp8"\n')

    assert spec_of(stack, "mtp", 3).speculative == {
        "method": "mtp",
        "num_speculative_tokens": 3,
        "quantization": "fp8",
        "model": "org/m",
    }


def test_without_a_prefix_cache_the_engine_is_told(loaded: Loader) -> None:
    stack = loaded(HEAD + "[engine.args]\nenable_prefix_caching = true\n" + NONE)

    assert spec_of(stack, "none", 0, prefix_cache=False).args == {"enable_prefix_caching": False}
    assert spec_of(stack, "none", 0).args == {"enable_prefix_caching": True}


# Cells


def test_cells_stand_drafter_by_drafter(loaded: Loader) -> None:
    assert names(loaded(HEAD + NONE + NGRAM)) == [
        "chat-en-instruct-none",
        "chat-zh-instruct-none",
        "raw-en-instruct-none",
        "raw-zh-instruct-none",
        "chat-en-instruct-ngram-k2",
        "chat-zh-instruct-ngram-k2",
        "raw-en-instruct-ngram-k2",
        "raw-zh-instruct-ngram-k2",
        "chat-en-instruct-ngram-k4",
        "chat-zh-instruct-ngram-k4",
        "raw-en-instruct-ngram-k4",
        "raw-zh-instruct-ngram-k4",
    ]


def test_a_stack_may_have_fewer_endpoints_and_languages(loaded: Loader) -> None:
    assert names(loaded('endpoints = ["raw"]\nlanguages = ["zh"]\n' + HEAD + NONE)) == [
        "raw-zh-instruct-none"
    ]


def test_cells_of_one_drafter_and_k_share_their_server(loaded: Loader) -> None:
    stack = loaded(HEAD + NONE + NGRAM)
    made: list[Cell] = list(cells_of(stack, "quick", PROFILES["quick"], workloads=("instruct", "code")))

    assert len(made) == 24
    assert [cell.spec.label for cell in made] == ["none"] * 8 + ["ngram-k2"] * 8 + ["ngram-k4"] * 8
    assert len({cell.spec for cell in made}) == 3


def test_a_profile_without_a_cache_starts_servers_without_one(loaded: Loader) -> None:
    stack = loaded(HEAD + NONE)
    cell = next(cells_of(stack, "x", Profile(prompts=1, max_tokens=1, cache="off"), workloads=("code",)))

    assert cell.spec.args == {"enable_prefix_caching": False}
