"""`draftgate run --ray` on a real Ray cluster of this machine, with the fake engine of `fake_engine`."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.cli import main
from harness.commands.ray_driver import refuse_unlike
from harness.commands.ray_task import Node
from harness.errors import BadInput
from harness.judge.collect import collect
from harness.results.conditions import Environment
from harness.suites.runner import kept
from tests.component.fake_engine import Fake, bench

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
HOST = "127.0.0.2"
"""Ray takes 127.0.0.1 for the machine's own address."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that measures nothing, and two nodes for a server each. Their tasks lie in `folder`."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster  # noqa: PLC0415

    kept = {"node_ip_address": HOST, "object_store_memory": 80_000_000}
    # Ray puts sockets there, whose paths may have 107 bytes: pytest's own folders are longer in a worker.
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        head = {**kept, "num_cpus": 0, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        cluster.folder = Path(folder)
        cluster.add = lambda: cluster.add_node(num_cpus=1, num_gpus=1, **kept)
        cluster.nodes = [cluster.add(), cluster.add()]
        yield cluster
        cluster.shutdown()


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    """Two servers; `fake/asked` gets a line for each prompt that one of them was asked."""
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "asked").touch()
    fake = Fake(tmp_path / "fake")
    fake.stack += '[drafters.ngram]\nmethod = "ngram"\nk = [2]\nprompt_lookup_max = 4\n'
    return fake


def words(fake: Fake, tmp_path: Path, *more: str) -> list[str]:
    stack = tmp_path / "tiny.toml"
    stack.write_text(fake.stack.format(model=fake.folder / "tiny", python=fake.python, freeze=fake.freeze))
    usual = {
        "--self-check": "off",
        "--gate": "off",
        "--prompts": "3",
        "--results": str(tmp_path / "clustered"),
    }
    unless_named = [word for option, value in usual.items() if option not in more for word in (option, value)]
    return ["acceptance", "--stack", str(stack), *unless_named, *more]


def start_run(cluster: Any, fake: Fake, tmp_path: Path, *more: str) -> subprocess.Popen[str]:
    with (tmp_path / "output").open("w") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "harness.cli", "run", "--ray", cluster.address,
             *words(fake, tmp_path, *more)],
            stdout=file, stderr=subprocess.STDOUT, text=True,
            # A shell that runs these tests in the background has Ctrl-C ignored, and would hand that down.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )  # fmt: skip


def output(tmp_path: Path) -> str:
    return (tmp_path / "output").read_text()


def answers(run: Path) -> dict[str, list[tuple[Any, ...]]]:
    cells = [json.loads(path.read_text()) for path in sorted(run.glob("acceptance/*.json"))]
    fields = ("prompt", "repeat", "text", "histogram", "output_tokens")
    return {
        str(cell["cell"]): [tuple(p[field] for field in fields) for p in cell["prompts"]] for cell in cells
    }


def until(true: Callable[[], Any], tmp_path: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, output(tmp_path)
        time.sleep(0.1)


def below(folder: Path) -> list[psutil.Process]:
    """Processes of tasks: pytest, its supervisor, the engine."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if Path(process.cwd()).is_relative_to(folder):
                found.append(process)
    return found


def came_back(tmp_path: Path) -> dict[str, bytes]:
    """The lines of each journal that the driver holds, without its head."""
    paths = (tmp_path / "clustered").glob("*-shards/*/*/acceptance/*.jsonl")
    return {path.stem: path.read_bytes().partition(b"\n")[2] for path in paths}


def until_some_came_back(tmp_path: Path) -> None:
    until(lambda: [text.count(b"\n") >= 4 for text in came_back(tmp_path).values()] == [True, True], tmp_path)


@pytest.mark.nightly
def test_a_cluster_measures_and_judges_what_one_process_does(
    cluster: Any, fake: Fake, tmp_path: Path
) -> None:
    prompts = tmp_path / "mine.jsonl"
    prompts.write_text(
        "".join(json.dumps({"text": f"Count to {i}.", "language": "en"}) + "\n" for i in range(16))
    )
    same = ["--prompts", "16", "--prompts-file", str(prompts), "--baselines", str(tmp_path / "baselines")]
    code, said = bench(fake, tmp_path, *same, "--update-baselines")
    assert code == 0, said
    (whole,) = (tmp_path / "results").iterdir()

    assert start_run(cluster, fake, tmp_path, *same, "--gate", "on").wait(120) == 0, output(tmp_path)

    (run,) = (tmp_path / "clustered").iterdir()
    assert answers(run) == answers(whole)
    assert {cell: len(prompts) for cell, prompts in answers(run).items()} == dict.fromkeys(answers(whole), 16)
    assert main(["compare", str(whole), str(run)]) == 0
    assert [entry.cell for entry in collect(run).entries] == [entry.cell for entry in collect(whole).entries]
    verdicts = [outcome.verdict for outcome in kept(run).values()]
    assert [verdict and verdict.kind for verdict in verdicts] == ["identical", "identical"]
    assert "\r" not in output(tmp_path)
    assert below(cluster.folder) == []


def kill_node(cluster: Any) -> None:
    cluster.remove_node(cluster.nodes.pop(), allow_graceful=False)


def kill_task(cluster: Any) -> None:
    """As Ray does where memory runs out."""
    tasks = below(cluster.folder)
    worker = next(process.parent() for process in tasks if process.ppid() not in [p.pid for p in tasks])
    assert worker.name().startswith("ray::")
    worker.kill()


@pytest.mark.nightly
@pytest.mark.parametrize("kill", [kill_node, kill_task])
def test_what_is_killed_loses_nothing_and_what_came_back_is_not_asked_again(
    cluster: Any, fake: Fake, tmp_path: Path, kill: Callable[[Any], None]
) -> None:
    running = start_run(cluster, fake, tmp_path, "--prompts", "24")
    until_some_came_back(tmp_path)
    fake.freeze.touch()  # the engines hang meanwhile
    time.sleep(3)
    kept_before = came_back(tmp_path)
    asked_before = Counter((fake.folder / "asked").read_text().splitlines())
    kill(cluster)
    fake.freeze.unlink()

    try:
        assert running.wait(180) == 0, output(tmp_path)
    finally:
        cluster.nodes += [cluster.add() for _ in range(2 - len(cluster.nodes))]

    (run,) = (tmp_path / "clustered").iterdir()
    assert re.findall(r"^[0-9:]+ (\d) \| lost", output(tmp_path), re.MULTILINE) in (["0"], ["1"])
    cells = [json.loads(path.read_text()) for path in sorted(run.glob("acceptance/*.json"))]
    assert [len(cell["prompts"]) for cell in cells] == [24, 24]
    for path, cell in zip(sorted(run.glob("acceptance/*.json")), cells, strict=True):
        had = [json.loads(line) for line in kept_before[path.stem].splitlines()]
        now = {record["prompt"]: record for record in cell["prompts"]}
        assert [now[record["prompt"]]["text"] for record in had] == [record["text"] for record in had]
    # The prompt that hung is asked again, and so are those that warm a server up: there are two of them.
    asked = Counter((fake.folder / "asked").read_text().splitlines())
    again = [prompt for prompt, times in asked.items() if times > asked_before[prompt] > 0]
    assert len(again) <= 3, again


@pytest.mark.nightly
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_engine_outlives_the_driver(
    cluster: Any, fake: Fake, tmp_path: Path, number: signal.Signals
) -> None:
    running = start_run(cluster, fake, tmp_path, "--prompts", "60")
    until_some_came_back(tmp_path)
    assert len(below(cluster.folder)) > 2

    running.send_signal(number)

    assert running.wait(30) == (-number if number is signal.SIGKILL else 130), output(tmp_path)
    until(lambda: not below(cluster.folder), tmp_path, seconds=15)
    assert all(came_back(tmp_path).values())
    if number is signal.SIGKILL:
        (plan,) = (tmp_path / "clustered").glob("*-shards/plan.json")
        goes_on = ["--results", str(plan.parent / "0"), "--shard", f"{plan}:0", "--resume"]
        command = [sys.executable, "-m", "harness.cli", "bench"]
        command += words(fake, tmp_path, "--prompts", "60", *goes_on)
        assert subprocess.run(command, check=False, timeout=120).returncode == 0


def refused(capsys: pytest.CaptureFixture[str], address: str, words: list[str]) -> str:
    """The code of the sentence that a command ends in, before anything starts."""
    assert main(["run", "--ray", address, *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.rpartition("[")[2].rstrip("]")


@pytest.mark.nightly
def test_a_cluster_that_lacks_what_a_server_takes(
    cluster: Any, fake: Fake, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fake.stack = fake.stack.replace("[engine.env]", "[engine.args]\ntensor_parallel_size = 4\n[engine.env]")

    assert refused(capfd, cluster.address, words(fake, tmp_path)) == "too-few-devices"
    assert (fake.folder / "asked").read_text() == ""
    assert not (tmp_path / "clustered").exists()


@pytest.mark.nightly
def test_ray_of_another_version(cluster: Any, fake: Fake, tmp_path: Path) -> None:
    older = (
        "import ray, sys, harness.cli; ray.__version__ = '2.0.0'; sys.exit(harness.cli.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", older, "run", "--ray", cluster.address, *words(fake, tmp_path)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    assert done.returncode == 2
    assert "[no-cluster]" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "address", [f"{HOST}:1", f"{HOST}:none", "ray://127.0.0.1:10001", "no.such.host:6379"]
)
def test_no_cluster_is_there(
    fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str], own_signals: None, address: str
) -> None:
    assert refused(capsys, address, words(fake, tmp_path)) == "no-cluster"


def test_ray_is_not_installed(
    fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)

    assert refused(capsys, f"{HOST}:1", words(fake, tmp_path)) == "extra-missing"


@pytest.mark.parametrize("word", ["--resume", "--update-baselines", "--server-url=http://127.0.0.1:1", "-n2"])
def test_what_is_for_one_machine(
    fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str], word: str
) -> None:
    assert refused(capsys, f"{HOST}:1", [*words(fake, tmp_path), word]) == "option-value"


@pytest.mark.parametrize(
    "change",
    [
        ('model = "', 'tokenizer = "./here"\nmodel = "'),
        ("[engine]", '[prompts.mine]\nfile = "../mine.jsonl"\n[engine]'),
    ],
)
def test_what_cannot_travel(
    fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str], own_signals: None, change: tuple[str, str]
) -> None:
    (tmp_path.parent / "mine.jsonl").write_text('{"text": "Count."}\n')
    fake.stack = fake.stack.replace(*change, 1)

    assert refused(capsys, f"{HOST}:1", words(fake, tmp_path)) == "cannot-travel"


def test_unlike_nodes_are_named() -> None:
    one, other = (
        Node(host=host, draftgate="1", environment=Environment(cpu=cpu))
        for host, cpu in (("a", "x"), ("b", "y"))
    )

    refuse_unlike(one, dataclasses.replace(one, host="c"))
    with pytest.raises(BadInput, match="a and b") as caught:
        refuse_unlike(one, other)

    assert caught.value.code == "other-node"
