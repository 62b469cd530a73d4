"""Whole runs on a fake engine where something is missing: encoding, terminal, home, cache, room, a reader."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from wcwidth import wcswidth

from harness.plugin import DATA
from harness.results.records import CellRecord, load
from tests.component import forked
from tests.component.fake_engine import TINY, Fake
from tests.factories.terminal import on_a_terminal

STRANGER = ("unshare", "--user", "--map-user=12345", "--map-group=12345")
"""A user whom the system does not know, with the rights of this one."""
CAN_BE_ONE = subprocess.run([*STRANGER, "true"], check=False, capture_output=True).returncode == 0


MOUNTS = ("unshare", "--mount", "--propagation", "private", "sh", "-c")
"""A shell whose mounts nobody else sees."""
CAN_MOUNT = subprocess.run([*MOUNTS, "true"], check=False, capture_output=True).returncode == 0
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && cd "$PWD" && exec "$@"'
FULL = 'mount -t tmpfs -o size={}k tmpfs "$0" && exec "$@"'


class Bench:
    """A run of one cell in an environment of its own."""

    def command(self, *words: str, checked: str = "off", gate: str = "off") -> list[str]:
        return [
            sys.executable, "-m", "pytest", *self.without, "bench_suites/test_acceptance.py",
            "--stack", str(self.stack), "--results", str(self.folder / "results"), "--gate", gate,
            "--baselines", str(self.folder / "baselines"), "--prompts", "3", "--self-check", checked, *words,
        ]  # fmt: skip

    def __init__(self, folder: Path) -> None:
        fake = Fake(folder)
        self.folder = folder
        self.without: tuple[str, ...] = ("-p", "no:cacheprovider")
        self.stack = folder / "tiny.toml"
        self.stack.write_text(TINY.format(model=folder / "tiny", python=fake.python, freeze=fake.freeze))
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "FORCE_", "LC_"))}

    def __call__(
        self, *words: str, above: tuple[str, ...] = (), to: str | None = None, checked: str = "off"
    ) -> tuple[int, str]:
        command = [*above, *self.command(*words, checked=checked)]
        with Path(to or self.folder / "out").open("wb") as out, (self.folder / "err").open("wb") as err:
            done = subprocess.run(
                command, cwd=DATA.parent, env=self.env, stdout=out, stderr=err, check=False, timeout=120
            )
        said = "" if to else (self.folder / "out").read_text(encoding="utf-8")
        return done.returncode, said + (self.folder / "err").read_text(encoding="utf-8")

    def forked(self, *words: str, checked: str = "off") -> tuple[int, str]:
        """The same where nothing is about the start of an interpreter, or about its streams."""
        environment = self.env | {"PYTEST_ADDOPTS": os.environ["PYTEST_ADDOPTS"]}
        _, _, *rest = self.command(*words, checked=checked)
        return forked.run(*rest, output=self.folder / "out", environment=environment)

    def measured(self) -> int:
        """Prompts of the cell on disk."""
        (path,) = (self.folder / "results").glob("*/acceptance/*.json")
        return len(load(path, CellRecord).prompts)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def fine(bench: Bench, found: tuple[int, str]) -> str:
    code, said = found
    assert code == 0, said
    assert "Traceback" not in said
    assert bench.measured() == 3
    return said


def test_what_an_encoding_lacks_is_replaced_alone(bench: Bench) -> None:
    bench.env |= {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    said = fine(bench, bench())
    assert said.isascii()
    assert "\\n" not in said
    assert any(line.split()[:3] == ["chat-en-instruct-none", "3", "1.00"] for line in said.splitlines()), said


@pytest.mark.parametrize("words", [("-p", "no:capture"), ("-s",), ("--capture=sys",)], ids=str)
def test_it_runs_however_pytest_captures(bench: Bench, words: tuple[str, ...]) -> None:
    assert "3 prompts in" in fine(bench, bench.forked(*words))


def test_a_log_in_colour_is_no_terminal(bench: Bench) -> None:
    bench.env |= {"FORCE_COLOR": "1", "CI": "true"}
    said = fine(bench, bench.forked())
    assert "\r" not in said
    assert "\x1b[2K" not in said
    assert "prompt 1 of 3" not in said


def on_the_terminal(bench: Bench, *words: str, **environment: str) -> str:
    text = on_a_terminal(bench.command(*words, gate="warn"), 80, cwd=DATA.parent, **bench.env, **environment)
    assert bench.measured() == 3, text
    return text


def test_a_run_on_a_terminal_has_colour_progress_and_tables_of_its_width(bench: Bench) -> None:
    bench.env.pop("NO_COLOR", None)
    text = on_the_terminal(bench)
    plain = re.sub(r"\x1b\[[\d;]*[mK]", "", text).replace("\r\n", "\n")
    table = plain.partition(" draftgate ===")[2].partition("records: ")[0]

    assert re.search(r"\x1b\[3\dm[✓✗]", text)
    assert re.search(r"\rdraftgate: .*prompt 1 of 3", plain), "progress goes over the last line"
    lines = [line for line in table.splitlines()[1:] if "/" not in line]  # a path is never broken
    assert max(map(wcswidth, lines)) <= 80
    assert "--wide shows all" in table
    assert plain.splitlines()[-1] == table.splitlines()[1], "the sentence is first and last"


@pytest.mark.parametrize(("words", "environment"), [((), {"NO_COLOR": "1"}), (("-q",), {}), (("-qq",), {})])
def test_a_terminal_can_have_less(bench: Bench, words: tuple[str, ...], environment: dict[str, str]) -> None:
    text = on_the_terminal(bench, *words, **environment)

    assert ("\x1b[3" in text) is not bool(environment)
    assert (" draftgate ===" in text) is not bool(words)
    assert "1 cell" in text.splitlines()[-1]


def test_a_cell_is_measured_where_nothing_can_be_printed(bench: Bench) -> None:
    said = fine(bench, bench(to="/dev/full"))
    assert said.count("cannot write to standard output") == 1


def test_a_cell_is_measured_where_python_leaves_assertions_out(bench: Bench) -> None:
    bench.env |= {"PYTHONOPTIMIZE": "1"}  # pytest warns of it before it reads anything else
    fine(bench, bench())


def test_draftgate_bench_finds_its_plugins_where_pytest_may_load_none_by_itself(bench: Bench) -> None:
    bench.env |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    python, _, _, *words = bench.command("-n", "0")
    words.remove("bench_suites/test_acceptance.py")
    command = [python, "-m", "harness.cli", "bench", "acceptance", *words]
    done = subprocess.run(
        command, cwd=bench.folder, env=bench.env, capture_output=True, text=True, check=False, timeout=120
    )
    fine(bench, (done.returncode, done.stdout + done.stderr))


def test_a_cell_is_measured_where_nobody_reads_on(bench: Bench) -> None:
    fine(bench, bench(above=("sh", "-c", '"$@" | head -1', "sh")))


@pytest.mark.parametrize("ctrl_c", [signal.SIG_DFL, signal.SIG_IGN], ids=["alone", "in-the-background"])
def test_sigterm_in_a_task_is_no_traceback(ctrl_c: signal.Handlers) -> None:
    code = """
import asyncio, os, signal
from harness.text.console import end_like_ctrl_c
end_like_ctrl_c()
async def one():
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(10)
async def both():
    await asyncio.gather(one(), asyncio.sleep(10))
try:
    asyncio.run(both())
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, ctrl_c),
    )  # fmt: skip

    assert (done.stdout, done.stderr) == ("interrupted\n", "")


@pytest.mark.skipif(not CAN_BE_ONE, reason="no user namespaces here")
def test_a_user_whom_the_system_does_not_know_needs_no_home(bench: Bench) -> None:
    for name in ("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME", "DRAFTGATE_CACHE"):
        bench.env.pop(name, None)
    bench.env["TMPDIR"] = str(bench.folder)
    fine(bench, bench(above=STRANGER))


@pytest.mark.skipif(not CAN_BE_ONE, reason="no user namespaces here")
def test_a_home_that_its_user_may_not_enter_is_done_without(bench: Bench) -> None:
    home = bench.folder / "home"
    home.mkdir(mode=0)
    for name in ("XDG_CACHE_HOME", "DRAFTGATE_CACHE"):
        bench.env.pop(name, None)
    bench.env["HOME"] = str(home)
    fine(bench, bench(above=STRANGER, checked="warn"))


def test_a_cache_that_cannot_be_written_is_done_without(bench: Bench) -> None:
    (bench.folder / "file").write_text("")
    bench.env["DRAFTGATE_CACHE"] = str(bench.folder / "file" / "cache")
    fine(bench, bench.forked())


def test_a_self_check_that_cannot_be_remembered_is_done_all_the_same(bench: Bench) -> None:
    (bench.folder / "file").write_text("")
    bench.env["DRAFTGATE_CACHE"] = str(bench.folder / "file" / "cache")
    said = fine(bench, bench.forked(checked="warn"))
    assert "in every run: cannot write" in said


@pytest.mark.parametrize(
    ("given", "gone"),
    [
        ({"HOME": "/", "TERM": "dumb", "COLUMNS": "20", "LC_ALL": "C", "PYTHONUTF8": "0"}, ()),
        ({"TMPDIR": "/no/such", "COLUMNS": "0"}, ("HOME", "USER", "LOGNAME", "TERM")),
    ],
)
def test_a_cell_is_measured_in_a_bare_environment(
    bench: Bench, given: dict[str, str], gone: tuple[str, ...]
) -> None:
    for name in gone:
        bench.env.pop(name, None)
    bench.env |= given
    fine(bench, bench())


HELP = """
import sys
from harness.cli import main
sys.exit(max(main([*word.split(), "--help"]) for word in sys.argv[1:]))
"""


def test_every_command_helps_in_a_bare_environment() -> None:
    bare = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "COLUMNS": "20", "TERM": "dumb", "HOME": "/no/such"}
    words = ["", "compare", "claims", "watch", "doctor", "import", "init", "anchor", "list"]
    done = subprocess.run(
        [sys.executable, "-c", HELP, *words], env={**os.environ, **bare}, cwd=DATA.parent,
        capture_output=True, check=False, timeout=60,
    )  # fmt: skip

    assert done.returncode == 0
    assert re.findall(rb"usage: draftgate ?([a-z]*)", done.stdout) == [word.encode() for word in words]
    assert done.stderr == b""


@pytest.mark.parametrize("option", ["--junitxml", "--benchmark-json"])
def test_a_report_that_cannot_be_written_is_refused_before_anything_is_measured(
    bench: Bench, option: str
) -> None:
    code, said = bench.forked(option, "/proc/report")

    assert code == pytest.ExitCode.USAGE_ERROR, said
    assert "cannot write /proc/report: " in said
    assert "[cannot-write]" in said
    assert "Traceback" not in said
    assert not (bench.folder / "results").exists()


@pytest.mark.skipif(not CAN_MOUNT, reason="no mounts of one's own here")
def test_a_read_only_checkout_is_enough(bench: Bench) -> None:
    bench.without = ()  # pytest wants to remember there what failed
    fine(bench, bench(above=(*MOUNTS, READ_ONLY, str(DATA.parent))))


@pytest.mark.skipif(not CAN_MOUNT, reason="no mounts of one's own here")
def test_results_on_a_read_only_mount_are_refused_before_anything_starts(bench: Bench) -> None:
    (bench.folder / "results").mkdir()
    code, said = bench(above=(*MOUNTS, READ_ONLY, str(bench.folder / "results")))

    assert code == pytest.ExitCode.USAGE_ERROR, said
    assert "[cannot-write]" in said
    assert "Traceback" not in said


@pytest.mark.skipif(not CAN_MOUNT, reason="no mounts of one's own here")
@pytest.mark.parametrize("kib", [4, 12, 20])
def test_a_results_folder_that_fills_up_ends_in_a_sentence(bench: Bench, kib: int) -> None:
    """With this room it is full before the first server, before the first prompt, before the cell."""
    (bench.folder / "results").mkdir()
    code, said = bench(above=(*MOUNTS, FULL.format(kib), str(bench.folder / "results")))

    assert code in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.USAGE_ERROR), said
    assert "No space left on device" in said
    assert "Traceback" not in said


@pytest.mark.skipif(not CAN_MOUNT, reason="no mounts of one's own here")
@pytest.mark.parametrize(
    ("options", "says"), [("size=12k", "No space left on device"), ("ro", "Read-only file system")]
)
def test_a_folder_that_cannot_be_written_is_left_as_it_was_by_init(
    tmp_path: Path, options: str, says: str
) -> None:
    script = f'mount -t tmpfs -o {options} tmpfs "$0" && cd "$0" && "$@"; ls "$0"'
    init = (
        f"import sys; sys.path.insert(0, {str(DATA.parent)!r}); from harness.cli import main; main(['init'])"
    )
    done = subprocess.run(
        [*MOUNTS, script, str(tmp_path), sys.executable, "-c", init],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    assert done.stdout == "", "ls shows what it left"
    assert says in done.stderr
    assert "[cannot-write]" in done.stderr
