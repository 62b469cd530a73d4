"""The curve suite as a user runs it, on a fake engine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness.cli import main
from harness.engine import forward
from harness.errors import ServerFailed
from harness.suites.runner import kept
from tests.component.fake_engine import Fake, bench

WORDS = ("bench_suites/test_curve.py", "-k", "test_curve", "--levels", "1", "--ks", "2", "--pairs", "4")


WRITES = 'import sys; open(sys.argv[-1], "w").write("""{}""")'
FORWARD = """\
import json, re, sys
words = sys.argv
assert "served-model-name" in " ".join(words) and "--auto-tool" not in " ".join(words), words
found = []
for case in (words[i + 1] for i, word in enumerate(words) if word == "--case"):
    name, query, held, drafts = re.fullmatch(r"(\\w+)=\\d+\\*(\\d+)@(\\d+):?(\\d*)", case).groups()
    assert int(query) == int(drafts or 0) + 1 and int(held) > int(query), case
    found.append({"case": name, "requests": [], "median_us": 2000.0 + 1000 * int(drafts or 0), "ranks": []})
with open(words[words.index("--output-json") + 1], "w") as file:
    json.dump(found, file)
"""


@pytest.fixture
def times_forward(fake: Fake) -> Fake:
    """An engine that has `vllm bench forward`, which needs a GPU: it writes what vLLM 0.33 writes."""
    (fake.folder / "benchmarks" / "forward").mkdir(parents=True)
    (fake.folder / "benchmarks" / "forward" / "main.py").touch()
    (fake.folder / "forward.py").write_text(FORWARD)
    script = fake.python.read_text()
    own = f'case "$*" in *"bench forward"*) exec {sys.executable} {fake.folder}/forward.py "$@";; esac'
    fake.python.write_text(script.replace("\nexec ", f"\n{own}\nexec "))
    return fake


def test_a_curve_is_measured_and_printed_again_although_another_drafters_server_does_not_start(
    times_forward: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor can its engine time forward passes."""
    fake = times_forward
    (fake.folder / "forward.py").write_text("raise SystemExit('RuntimeError: no such device')")
    fake.stack += '[drafters.suffix]\nmethod = "suffix"\nk = [2]\n'
    script = fake.python.read_text()
    fake.python.write_text(
        script.replace("\nexec ", '\ncase "$*" in *suffix*) echo broken; exit 3;; esac\nexec ')
    )

    code, output = bench(fake, tmp_path, *WORDS)

    assert code == 1, output
    assert "vllm bench forward ended with exit code 1 for none: RuntimeError: no such device" in output
    (run,) = (path.parent for path in tmp_path.glob("results/*/run.json"))
    (outcome,) = kept(run).values()
    assert (outcome.cell, outcome.kind in ("fine", "unsure")) == ("chat-en-instruct-ngram-k2", True)
    assert [(p["in_flight"], p["k"]) for p in outcome.figures["points"]] == [(1, 0), (1, 2)]
    paths = [str(path.parent.relative_to(run / "curve")) for path in run.glob("curve/**/*.json")]
    assert set(paths) - {"pairs/none/01/01", "pairs/ngram/01/01"} == {"01", "once/01"}
    capsys.readouterr()
    assert main(["curve", str(run)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert all(part in said for part in " ".join(outcome.sentence.split()).split("; "))


def test_forward_passes_stand_beside_served_times_where_the_engine_times_them(
    times_forward: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, output = bench(times_forward, tmp_path, *WORDS)

    assert code == 0, output
    (run,) = (path.parent for path in tmp_path.glob("results/*/run.json"))
    assert [(one.k, one.seconds) for one in forward.kept_in(run)] == [(2, {1: 0.004}), (0, {1: 0.002})]
    capsys.readouterr()
    assert main(["curve", str(run)]) == 0
    (row,) = (
        line.split() for line in capsys.readouterr().out.splitlines() if line.split()[2:4] == ["4.00", "2.00"]
    )
    assert row[:2] == ["1", "2"]
    (run / "servers" / "none.forward.json").write_text("{")
    assert main(["curve", str(run)]) == 2
    said = capsys.readouterr()
    assert "tok/step" in said.out
    assert "none.forward.json, line 1" in said.err


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("raise SystemExit('RuntimeError: no such device')", "no such device"),
        ("", "cannot read"),
        (WRITES.format("[]"), "cannot read"),
        (WRITES.format('[{"case": "n4", "median_us": 0}]'), "times that are none"),
    ],
)
def test_what_is_no_time_of_a_pass_is_told_and_not_kept(
    times_forward: Fake, tmp_path: Path, script: str, why: str
) -> None:
    (times_forward.folder / "forward.py").write_text(script)

    with pytest.raises(ServerFailed, match=why):
        forward.measured(times_forward.spec(), [4], context=100, folder=tmp_path, say=lambda _: None)
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".json"]


def test_a_pass_that_was_timed_is_not_timed_again(times_forward: Fake, tmp_path: Path) -> None:
    found = [
        forward.measured(times_forward.spec(), levels, context=100, folder=tmp_path, say=lambda _: None)
        for levels in ([1, 4], [4], [1, 16])
    ]

    assert found[0] == found[1] != found[2]
    assert len([*tmp_path.glob("*.log")]) == 2
