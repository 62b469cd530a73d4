"""A mistake on the command line or in a stack gets a sentence, before a plan, a folder or a server."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from junitparser.xunit2 import JUnitXml

from tests.component import in_process

ROOT = Path(__file__).resolve().parents[2]
HEAD = 'schema = 1\nname = "tiny"\n[target]\nmodel = "org/tiny"\n'
NONE = "[drafters.none]\n"
NGRAM = '[drafters.ngram]\nmethod = "ngram"\nk = [2]\n'
ENGINE = {
    "config/speculative.py": 'SpeculativeMethod = Literal["ngram", "eagle3"]\n'
    'RejectionSampleMethod = Literal["standard", "block"]\nclass SpeculativeConfig:\n'
    "    prompt_lookup_max: int\n    rejection_sample_method: str\n    model: str\n",
    "config/observability.py": "",
    "engine/arg_utils.py": "class EngineArgs:\n    max_model_len: int\n    enable_prefix_caching: bool\n",
    "entrypoints/openai/cli_args.py": 'class FrontendArgs:\n    port: int\nadd("--headless")\n',
    "__init__.py": "",
}
"""The sources of an engine, as far as they are read."""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """An interpreter that says where such an engine lies."""
    package = tmp_path / "engine" / "vllm"
    for name, text in ENGINE.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\necho \'["{package}", "0.30.0", "vllm"]\'\n', encoding="utf-8")
    script.chmod(0o755)
    return script


Collect = Callable[..., pytest.RunResult]


pytestmark = pytest.mark.usefixtures("own_signals")


@pytest.fixture
def collect(pytester: pytest.Pytester, python: Path) -> Collect:
    """`pytest bench_suites --collect-only` on a stack of this text."""
    shutil.copytree(ROOT / "bench_suites", pytester.path / "bench_suites")

    def run(text: str, *words: str, path: str = "", only: bool = True) -> pytest.RunResult:
        pytester.path.joinpath("tiny.toml").write_text(text.replace("PYTHON", str(python)), encoding="utf-8")
        return in_process.run(
            pytester, "--strict-markers", "-q", *(["--collect-only"] if only else []),
            "--stack", "./tiny.toml", f"bench_suites{path}", *words,
        )  # fmt: skip

    return run


def refused(done: pytest.RunResult, code: str, *says: str) -> None:
    """A usage error of one sentence: no plan, no cell, no folder."""
    text = "\n".join([*done.outlines, *done.errlines])
    assert done.ret == pytest.ExitCode.USAGE_ERROR, text
    for word in (code and f"[{code}]", *says):
        assert word in "\n".join(done.errlines), text
    assert "records go to" not in text
    assert "::test_" not in text
    assert "Traceback (most" not in text
    assert "INTERNALERROR" not in text


def cells(done: pytest.RunResult) -> list[str]:
    return [line.split("[")[1].rstrip("]") for line in done.outlines if "::test_" in line]


# What a stack brings


def test_a_workload_of_ones_own_needs_no_option(collect: Collect) -> None:
    done = collect('workloads = ["gsm"]\n' + HEAD + NONE)

    refused(done, "no-prompts", "workload 'gsm'")
    assert "--workload" not in "".join(done.errlines)


def test_names_may_contain_other_values(collect: Collect) -> None:
    text = HEAD + NONE + NGRAM.replace(".ngram", ".opendraft") + NGRAM.replace(".ngram", ".decode")

    assert cells(collect(text, "-m", "en and chat")) == [
        f"chat-en-instruct-{d}" for d in ("none", "opendraft-k2", "decode-k2")
    ]
    assert cells(collect(text, "-m", "opendraft and zh and raw")) == ["raw-zh-instruct-opendraft-k2"]


@pytest.mark.parametrize(
    ("keyword", "loose"),
    [
        ("zh", 0),
        ("chat and zh", 0),
        ("not zh", 0),
        ("ngram and not raw", 2),
        ("ngram or zh", 2),
        ("ngram and not ngram2", 0),
    ],
)
def test_a_loose_k_is_warned_of_where_it_picked_too_much(collect: Collect, keyword: str, loose: int) -> None:
    text = HEAD + NONE + NGRAM + NGRAM.replace(".ngram", ".ngram2")

    done = collect(text, "-k", keyword)

    assert cells(done)
    warned = f"it also selected {loose} cells" if loose else "matches any part"
    assert (warned in "\n".join(done.outlines)) is bool(loose)


def test_a_stack_that_drafts_nothing_has_no_case_of_a_suite_about_drafters(collect: Collect) -> None:
    done = collect(HEAD + NONE)

    assert cells(done) == [f"{e}-{la}-instruct-none" for e in ("chat", "raw") for la in ("en", "zh")]
    for suite in ("speed", "lossless", "endpoints"):
        refused(collect(HEAD + NONE, path=f"/test_{suite}.py"), "", "has no drafter but none")


# What is misspelt


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        (NGRAM.replace('"ngram"', '"ngarm"'), "unknown-to-engine", "did you mean 'ngram'"),
        (NGRAM + "prompt_lookup_mx = 3\n", "unknown-to-engine", "did you mean 'prompt_lookup_max'"),
        (NGRAM + 'rejection_sample_method = "blok"\n', "unknown-to-engine", "did you mean 'block'"),
        ("[engine.args]\nmax_modle_len = 4\n", "unknown-to-engine", "did you mean 'max_model_len'"),
        ("[engine.args]\nmax-model-lan = 4\n", "unknown-to-engine", "did you mean 'max_model_len'"),
        (NGRAM + 'model = "./bench_suite"\n', "model-missing", "did you mean 'bench_suites'"),
        (NGRAM + 'model = "/nowhere/at/all"\n', "model-missing", "there is no folder /nowhere"),
        (NGRAM + 'model = "embedded:smollm"\n', "model-missing", "no embedded model"),
        (NGRAM + 'model = "embedded:Eagle3r"\n', "model-missing", "did you mean 'eagle3r"),
        (NGRAM + 'model = "a model"\n', "model-missing", "is not a model"),
        ("[engin]\n", "wrong-field", "did you mean 'engine'"),
        (NGRAM.replace("k =", "K ="), "stack-drafter", "has no k"),
        ('[profiles.gate]\ncashe = "off"\n', "wrong-field", "did you mean 'cache'"),
    ],
)
def test_what_is_misspelt_is_said_before_the_plan(collect: Collect, text: str, code: str, says: str) -> None:
    engine = "" if text.startswith("[engine") else '[engine]\npython = "PYTHON"\n'
    if text.startswith("[engine.args]"):
        text = '[engine]\npython = "PYTHON"\n' + text
    refused(collect(HEAD + NONE + engine + text), code, says)


def test_what_the_engine_knows_passes(collect: Collect) -> None:
    text = (
        '[engine]\npython = "PYTHON"\n[engine.args]\nmax-model-len = 9\nheadless = true\n'
        "no_enable_prefix_caching = true\n"
    )

    assert len(cells(collect(HEAD + NONE + NGRAM + "prompt_lookup_max = 3\n" + text))) == 8


def test_an_engine_that_is_not_there_is_said_before_the_plan(collect: Collect) -> None:
    refused(
        collect(HEAD + '[engine]\npython = "/no/such/python"\n' + NONE), "engine-missing", "/no/such/python"
    )


def test_a_drafter_that_is_not_selected_may_be_of_another_engine(collect: Collect) -> None:
    text = (
        HEAD
        + '[engine]\npython = "PYTHON"\n'
        + NONE
        + NGRAM
        + NGRAM.replace('.ngram]\nmethod = "n', '.b]\nmethod = "m')
    )

    assert len(cells(collect(text, "-m", "not b"))) == 8
    refused(collect(text, "-m", "b"), "unknown-to-engine", "mgram")


def test_a_server_that_runs_already_is_asked_and_not_the_engine_here(collect: Collect) -> None:
    text = HEAD + NONE + NGRAM.replace('"ngram"', '"mgram"')

    assert len(cells(collect(text, "--server-url", "http://127.0.0.1:1", "-m", "ngram"))) == 4


# What the command line says


@pytest.mark.parametrize(
    "words",
    [
        ("--stack", "smollm2-gpu"),
        ("--stack=smollm2-gpu",),
        ("--profile", "gate", "--profile=quick"),
        ("--server-url", "http://127.0.0.1:1", "--server-url", "http://127.0.0.1:2"),
        ("--results", "a", "--results", "b"),
        ("--gate", "on", "--gate=off"),
        ("--prompts", "8", "--prompts", "16"),
        ("--self-check", "on", "--calibration", "off"),
        ("--confirm", "--no-confirm"),
    ],
)
def test_an_option_that_takes_one_value_is_not_given_two(collect: Collect, words: tuple[str, ...]) -> None:
    refused(collect(HEAD + NONE, *words), "option-value", f"{words[0].split('=')[0]} is given twice")


def test_several_workloads_are_no_repetition(collect: Collect) -> None:
    done = collect(HEAD + NONE, "--workload", "code", "--workload", "summary", "-m", "chat and en")

    assert cells(done) == ["chat-en-code-none", "chat-en-summary-none"]


@pytest.mark.parametrize("words", [("-m", "nothing"), ("-m", "chat and nonne"), ("-k", "nonne")])
def test_a_word_that_selects_nothing_gets_the_values_there_are(
    collect: Collect, words: tuple[str, ...], pytester: pytest.Pytester
) -> None:
    for only in (True, False):
        done = collect(HEAD + NONE, *words, only=only)
        refused(done, "", f"no cell matches {words[1]!r}", "endpoints chat, raw")
        assert ("did you mean 'none'" in "".join(done.errlines)) is ("nonne" in words[1])
    assert not (pytester.path / "results").exists()


VARIANT = "[variants.short]\nmax_model_len = 64\n"


@pytest.mark.parametrize(
    ("suite", "words", "says"),
    [
        ("throughput", ("-m", "short", "--against", "./tiny.toml"), "into a stack of its own"),
        (
            "throughput",
            ("-m", "short and zh", "--against", "./tiny.toml"),
            "like chat-zh-instruct-short-none",
        ),
        ("throughput", ("-k", "short", "--against", "./tiny.toml"), "into a stack of its own"),
        ("curve", ("-m", "k2 and not short"), "it asks about chat-en-instruct-ngram-k4"),
        ("tools", ("-m", "raw"), "like raw-en-instruct-ngram-k2, which the tools suite leaves out"),
        ("tools", ("-m", "wra"), "no cell matches 'wra'"),
    ],
)
def test_cells_that_a_suite_leaves_out_are_not_called_unknown(
    collect: Collect, suite: str, words: tuple[str, ...], says: str
) -> None:
    done = collect(HEAD + NONE + NGRAM.replace("[2]", "[2, 4]") + VARIANT, *words, path=f"/test_{suite}.py")

    refused(done, "", says)


@pytest.mark.parametrize("words", [(), ("--stack", "nowhere"), ("--prompts-file", "nowhere.jsonl")])
@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_needs_no_stack_and_no_prompts(collect: Collect, word: str, words: tuple[str, ...]) -> None:
    done = collect(HEAD + NONE, *words, word)

    text = "\n".join([*done.outlines, *done.errlines])
    assert done.ret == 0, text
    assert "--prompts-file" in text
    assert "Traceback (most" not in text


@pytest.mark.parametrize(
    ("option", "end"),
    [
        ("--prompts-file", ".jsonl"),
        ("--compare", ""),
        ("--shard", ":0"),
        ("--junitxml", ""),
        ("--against", ".toml"),
    ],
)
def test_a_path_that_no_system_takes_is_a_sentence(collect: Collect, option: str, end: str) -> None:
    done = collect(HEAD + NONE, f"{option}={'x' * 300}{end}")

    refused(done, "", "File name too long")


@pytest.mark.parametrize("word", ["--fixtures", "--fixtures-per-test", "--setup-plan"])
def test_what_measures_nothing_begins_no_run(collect: Collect, pytester: pytest.Pytester, word: str) -> None:
    collect(HEAD + NONE, "--server-url", "http://127.0.0.1:1", "-m", "chat and en", word, only=False)

    assert not (pytester.path / "results").exists()


def test_without_xdist_the_cells_are_the_same(collect: Collect) -> None:
    assert cells(collect(HEAD + NONE, "-p", "no:xdist")) == cells(collect(HEAD + NONE))


def test_nothing_lies_in_the_folder_afterwards(collect: Collect, pytester: pytest.Pytester) -> None:
    before = {path.name for path in pytester.path.iterdir()} | {"tiny.toml"}
    collect(HEAD + NONE, "-p", "pytest_benchmark.plugin")

    assert {path.name for path in pytester.path.iterdir()} == before


@pytest.mark.parametrize("suite", ["speed", "throughput", "lossless", "selfcheck"])
@pytest.mark.parametrize("workers", [(), ("-n", "1")])
def test_a_suite_that_starts_its_own_servers_is_not_attached(
    collect: Collect, suite: str, workers: tuple[str, ...]
) -> None:
    words = ("--server-url", "http://127.0.0.1:1", *workers)
    done = collect(HEAD + NONE + NGRAM, *words, path=f"/test_{suite}.py", only=not workers)
    text = "\n".join([*done.outlines, *done.errlines])

    assert done.ret != 0
    assert f"test_{suite}.py start servers of their own" in text
    assert "attach" not in text


def test_a_server_that_runs_has_one_k_and_no_curve(collect: Collect) -> None:
    done = collect(HEAD + NONE + NGRAM, "--server-url", "http://127.0.0.1:1", path="/test_curve.py")

    assert "has one k" in "\n".join(done.errlines)


@pytest.mark.parametrize(("asked", "said"), [("5000", True), ("8", False)])
def test_fewer_prompts_than_asked_for_are_said(collect: Collect, asked: str, *, said: bool) -> None:
    done = collect(HEAD + NONE, "--prompts", asked)

    assert (f"(of {asked} asked for" in "\n".join(done.outlines)) is said


def test_properties_of_a_junit_report_are_json(collect: Collect, pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("bench_suites/test_fixed.py").write_text(FIXED, encoding="utf-8")
    url = ("--server-url", "http://127.0.0.1:1", "--self-check", "off", "--junitxml", "report.xml")

    collect(HEAD + NONE, *url, "-m", "chat and en", path="/test_fixed.py", only=False)

    ((case,),) = JUnitXml.fromfile(str(pytester.path / "report.xml"))
    found = {one.name: one.value for one in case.properties()}
    assert json.loads(found["draftgate"]) == {"cell": "c", "tau": None, "rates": [0.5], "ok": True, "名": "’"}


FIXED = """
import pytest
from fixtures.bench import Judge
from harness.config.cells import Cell
from harness.suites.runner import Outcome, Suite

@pytest.mark.cells(Suite(name="fixed"))
def test_fixed(cell: Cell, judge: Judge) -> None:
    figures = {"cell": "c", "tau": None, "rates": [0.5], "ok": True, "名": "’"}
    judge(lambda *_: Outcome(suite="fixed", cell=str(cell), figures=figures, sentence="it's"))
"""


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ((), "option-value", "--against STACK"),
        (("--against", "tinny"), "unknown-name", "--against tinny"),
        (("--against", "old.toml", "--blocks", "1"), "option-value", "--blocks 1"),
        (("--against", "old.toml"), "stacks-differ", '"float32" -> "auto"'),
        (("--against", "old.toml", "--across", "engine"), "stacks-differ", "target.dtype"),
        (("--against", "other.toml"), "stacks-differ", "none of the drafters selected (none)"),
        (("--against", "old.toml", "bench_suites/test_acceptance.py"), "option-value", "--against"),
    ],
)
def test_two_stacks_that_cannot_be_compared_are_refused(
    collect: Collect, pytester: pytest.Pytester, words: tuple[str, ...], code: str, says: str
) -> None:
    old = HEAD.replace("tiny", "old", 1) + 'dtype = "float32"\n' + NONE + "[engine.args]\nmax_model_len = 9\n"
    pytester.path.joinpath("old.toml").write_text(old, encoding="utf-8")
    pytester.path.joinpath("other.toml").write_text(HEAD + NGRAM, encoding="utf-8")
    path = "/test_lossless.py" if "bench_suites/test_acceptance.py" in words else "/test_throughput.py"

    done = collect(HEAD + NONE + "[engine.args]\nmax_model_len = 10\n", *words, "-m", "none", path=path)

    refused(done, code, says)


def test_what_two_stacks_may_differ_in_is_said_in_the_plan(
    collect: Collect, pytester: pytest.Pytester
) -> None:
    old = HEAD.replace("tiny", "old", 1) + 'dtype = "float32"\n' + NONE + "[engine.args]\nmax_model_len = 9\n"
    pytester.path.joinpath("old.toml").write_text(old, encoding="utf-8")
    may = ("--across", "target.dtype", "--across", "engine.args")

    done = collect(HEAD + NONE, "--against", "old.toml", *may, path="/test_throughput.py")

    text = "\n".join(done.outlines)
    assert "test_throughput[raw-zh-instruct-none]" in text
    assert 'target.dtype: "float32" -> "auto"; engine.args.max_model_len: 9 -> (not set)' in text
    assert "26 starts" in text
