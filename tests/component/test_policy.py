"""Every suite, under every gate, with every kind of outcome: one table says how the case ends."""

from __future__ import annotations

import importlib
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from harness.config.cells import Cell
from harness.plugin import DATA
from harness.results import prediction
from harness.suites import parity
from harness.suites.runner import Bench, Kind, Outcome, policy
from tests.component.in_process import PLUGINS

SUITES = sorted((DATA.parent / "bench_suites").glob("test_*.py"))
GATES = ("off", "warn", "on", "strict")
KINDS: tuple[Kind, ...] = get_args(Kind)
TABLE = {
    #               off     warn    on      strict
    "fine":       ("pass", "pass", "pass", "pass"),
    "noteworthy": ("pass", "warn", "warn", "warn"),
    "unsure":     ("pass", "warn", "warn", "fail"),
    "failed":     ("pass", "warn", "fail", "fail"),
    "invalid":    ("fail", "warn", "fail", "fail"),
    "unchecked":  ("skip", "skip", "skip", "skip"),
}  # fmt: skip
STACK = """\
schema = 1
name = "tiny"
endpoints = ["chat"]
languages = ["en"]
[target]
model = "org/tiny"
[drafters.none]
[drafters.head]
method = "eagle3"
model = "./drafter"
k = [1, 2, 3, 4, 5, 6]
"""


def test_the_table_is_the_policy() -> None:
    assert set(TABLE) == set(KINDS)
    assert {kind: tuple(policy(kind, gate) for gate in GATES) for kind in KINDS} == TABLE


pytestmark = pytest.mark.usefixtures("own_signals")


def questions(suite: Path) -> list[tuple[Any, str]]:
    """Module and name of what a suite's cases hand to the fixture that applies the gate."""
    text = suite.read_text(encoding="utf-8")
    asked = re.findall(r"^    judge\((\w+)\.(\w+)", text, flags=re.MULTILINE)
    cases = re.findall(r"^def test_", text, flags=re.MULTILINE)
    assert len(asked) == len(cases), f"{suite.name} has a case that does not hand its question to `judge`"
    return [(importlib.import_module(f"harness.suites.{module}"), name) for module, name in asked]


def answering(name: str, skip: int) -> Callable[..., Outcome]:
    """A question whose outcome is of the kind that its cell's k, or its place among the self-checks, says."""
    order = ("drafting_for_itself", "random_weights", "synthetic")

    def answer(_: Bench, *args: Any) -> Outcome:
        if args and isinstance(args[0], Cell):
            number = max(args[0].name.k - 1, 0) + skip
        else:
            number = order.index(name) + (args != (0.0,)) + skip
        kind = KINDS[number % len(KINDS)]
        return Outcome(suite=name, cell="a cell", kind=kind, sentence=f"it is {kind}")

    return answer


def ends(pytester: pytest.Pytester, *words: str) -> list[tuple[str, str, str]]:
    """File, kind of outcome, and how the case ended, for each case."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pytest.PytestAssertRewriteWarning)  # they are imported already
        done = pytester.inline_run(
            *(word for plugin in PLUGINS for word in ("-p", plugin)), "-p", "no:cacheprovider",
            "--stack", "./tiny.toml",
            "--self-check", "off", *words,
        )  # fmt: skip
    warned = {
        call.nodeid for call in done.getcalls("pytest_warning_recorded")
        if "it is" in str(call.warning_message.message)
    }  # fmt: skip
    found = []
    for report in done.getreports("pytest_runtest_logreport"):
        assert report.when == "call" or report.passed, report.longreprtext
        if report.when != "call":
            continue
        kind = next(v.partition("it is ")[2] for n, v in report.user_properties if n == "verdict")
        how = {"passed": "warn" if report.nodeid in warned else "pass", "failed": "fail", "skipped": "skip"}
        found.append((report.nodeid.partition("::")[0], kind, how[report.outcome]))
    return found


@pytest.mark.parametrize("gate", GATES)
def test_every_suite_ends_its_cases_as_the_table_says(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, gate: str
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # a search takes a tenth of the time
    pytester.path.joinpath("tiny.toml").write_text(STACK, encoding="utf-8")
    drafter = pytester.mkdir("drafter")
    drafter.joinpath(prediction.VALIDATION).write_text("")
    drafter.joinpath("config.json").write_text("{}")
    held_out = [(type("Held", (), {"language": "en"})(), None)]
    monkeypatch.setattr(parity, "_held_out", lambda _: held_out)
    folder = pytester.mkdir("bench_suites")
    wanted = {(suite.name, kind) for suite in SUITES for kind in KINDS}
    seen: set[tuple[str, str]] = set()
    for suite in SUITES:
        shutil.copy(suite, folder)
    for skip in range(len(KINDS)):  # some suites have fewer cases than there are kinds
        for suite in SUITES:
            for module, name in questions(suite):
                monkeypatch.setattr(module, name, answering(name, skip))
        files = sorted({f"bench_suites/{suite}" for suite, _ in wanted - seen})
        if not files:
            break
        against = ["--against", "./tiny.toml"] if "bench_suites/test_throughput.py" in files else []
        # A suite that takes one k of each drafter takes those that are named.
        named = (*against, "-m", "k1 or not k1")
        for file, kind, end in ends(pytester, "--gate", gate, *files, *named):
            assert end == TABLE[kind][GATES.index(gate)], (file, kind)
            seen.add((Path(file).name, kind))

    assert seen == wanted
