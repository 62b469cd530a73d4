from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from harness.config.cells import ServerSpec
from harness.config.variants import Target
from harness.engine import supervisor
from harness.engine.attached import attach
from harness.engine.facts import command_line, engine_facts, resolve_speculative, served_name
from harness.engine.process import reason
from harness.engine.server import Server, running
from harness.errors import PortTaken, ServerFailed
from tests.component.vllm_like import Reply, VllmLike, as_json, vllm_like
from tests.factories.records import server_spec

# The command line


def arguments(**args: object) -> list[str]:
    """What `[engine.args]` adds to the command line."""
    spec = server_spec(args=args)
    plain = command_line(server_spec(), model="/m", speculative=None, per_request=False)
    words = command_line(spec, model="/m", speculative=None, per_request=False)
    assert words[: len(plain)] == plain
    return words[len(plain) :]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (True, ["--max-model-len"]),
        (False, ["--no-max-model-len"]),
        (2048, ["--max-model-len", "2048"]),
        (0.65, ["--max-model-len", "0.65"]),
        ("fp8", ["--max-model-len", "fp8"]),
        ([1, "b"], ["--max-model-len", "1", "b"]),
        ({"mode": 0, "a": True}, ["--max-model-len", '{"a": true, "mode": 0}']),
    ],
)
def test_engine_arguments_become_flags(value: object, words: list[str]) -> None:
    assert arguments(max_model_len=value) == words


def test_a_plain_server_is_told_its_model_name_and_dtype() -> None:
    spec = server_spec(target=Target(model="org/tiny"))

    assert command_line(spec, model="org/tiny", speculative=None, per_request=True) == [
        "--model", "org/tiny", "--served-model-name", "tiny", "--dtype", "auto",
    ]  # fmt: skip


def test_all_that_a_target_says_is_passed_on() -> None:
    target = Target(
        model="org/tiny", revision="abc", tokenizer="org/tok", dtype="float16", quantization="fp8",
        served_name="mine", trust_remote_code=True,
    )  # fmt: skip

    words = command_line(
        server_spec(target=target), model="org/tiny", speculative={"method": "ngram"}, per_request=True
    )

    assert words == [
        "--model", "org/tiny", "--served-model-name", "mine", "--dtype", "float16", "--revision", "abc",
        "--tokenizer", "org/tok", "--quantization", "fp8", "--speculative-config", '{"method": "ngram"}',
        "--trust-remote-code", "--per-request-spec-decode-metrics", "detailed",
    ]  # fmt: skip


def test_an_older_engine_is_not_asked_for_acceptance_per_request() -> None:
    words = command_line(server_spec(), model="/m", speculative={}, per_request=False)

    assert "--per-request-spec-decode-metrics" not in words


@pytest.mark.parametrize(
    ("model", "name"),
    [("embedded:smollm2-135m-instruct", "smollm2-135m-instruct"), ("/models/tiny", "tiny"), ("org/x", "x")],
)
def test_a_target_is_served_under_its_last_name(model: str, name: str) -> None:
    assert served_name(server_spec(target=Target(model=model))) == name


def test_the_target_drafts_for_itself_where_the_stack_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    spec = server_spec(speculative={"method": "draft_model", "model": "target"})

    config = resolve_speculative(spec, target="/models/tiny", say=print)

    assert config == {"method": "draft_model", "model": "/models/tiny"}


def test_a_drafter_without_weights_is_named(tmp_path: Path) -> None:
    spec = server_spec(drafter="head", speculative={"method": "eagle3", "model": str(tmp_path)})

    with pytest.raises(Exception, match=f"drafter 'head': the model folder {tmp_path} holds no config.json"):
        resolve_speculative(spec, target="/m", say=print)


# Why it died

BIND = """\
(APIServer pid=4242) INFO 11-21 10:00:14 [api_server.py:1346] vLLM API server version 0.32.0
(APIServer pid=4242) Traceback (most recent call last):
(APIServer pid=4242)   File "<frozen runpy>", line 198, in _run_module_as_main
(APIServer pid=4242)   File "/v/lib/vllm/entrypoints/openai/api_server.py", line 1291, in create_server_socket
(APIServer pid=4242)     sock.bind(addr)
(APIServer pid=4242) OSError: [Errno 98] Address already in use
"""

MISSING_MODEL = """\
(APIServer pid=4242) INFO 11-21 10:00:14 [utils.py:233] non-default args: {'model': 'org/nosuch'}
(APIServer pid=4242) Traceback (most recent call last):
(APIServer pid=4242)   File "/v/lib/transformers/utils/hub.py", line 479, in cached_files
(APIServer pid=4242)     hf_hub_download(
(APIServer pid=4242) huggingface_hub.errors.LocalEntryNotFoundError: Cannot find the files in the cache.

(APIServer pid=4242) The above exception was the direct cause of the following exception:

(APIServer pid=4242) Traceback (most recent call last):
(APIServer pid=4242)   File "/v/lib/vllm/transformers_utils/config.py", line 633, in get_config
(APIServer pid=4242) OSError: We couldn't connect to 'https://huggingface.co' to load the files.
(APIServer pid=4242) Check your internet connection or see how to run the library in offline mode.
"""

VALIDATION = """\
(APIServer pid=4242) INFO 11-21 10:00:14 [model.py:531] Resolved architecture: LlamaForCausalLM
(APIServer pid=4242) Traceback (most recent call last):
(APIServer pid=4242)   File "/v/lib/vllm/engine/arg_utils.py", line 1478, in create_engine_config
(APIServer pid=4242) pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
(APIServer pid=4242)   Value error, User-specified max_model_len (9999) is greater than the derived one.
(APIServer pid=4242)     For further information visit https://errors.pydantic.dev/2.12/v/value_error
"""

ENGINE_CORE = """\
(EngineCore pid=4250) ERROR 11-21 10:00:20 [core.py:946] EngineCore failed to start.
(EngineCore pid=4250) ERROR 11-21 10:00:20 [core.py:946] Traceback (most recent call last):
(EngineCore pid=4250) ERROR 11-21 10:00:20 [core.py:946] ValueError: No available memory for the cache blocks.
(EngineCore pid=4250) Traceback (most recent call last):
(EngineCore pid=4250) ValueError: No available memory for the cache blocks.
(APIServer pid=4242) Traceback (most recent call last):
(APIServer pid=4242) RuntimeError: Engine core initialization failed. See root cause above.
"""

WORKER = """\
(VllmWorker-0 pid=4260) ERROR 11-30 14:04:40 [executor.py:953] WorkerProc failed to start.
(VllmWorker-0 pid=4260) ERROR 11-30 14:04:40 [executor.py:953] ValueError: Too little memory on node 0
(EngineCore pid=4250) ERROR 11-30 14:04:40 [core.py:1510] EngineCore failed to start.
(EngineCore pid=4250) ERROR 11-30 14:04:40 [core.py:1510] Exception: WorkerProc initialization failed. See \
stack trace for root cause.
(APIServer pid=4242) RuntimeError: Engine core initialization failed. See root cause above.
"""

RAISED = """\
(Worker_PP0 pid=1667) ERROR 11-30 16:33:58 [multiproc_executor.py:1063] AttributeError: it has no 'drafter'
(EngineCore pid=1661) ERROR 11-30 16:33:58 [core.py:1510] RuntimeError: Worker failed with error 'it has no \
'drafter'', please check the stack trace above for the root cause
(EngineCore pid=1661) ERROR 11-30 16:34:00 [multiproc_executor.py:315] Worker proc VllmWorker-0 died \
unexpectedly (exit code: None), shutting down executor.
"""

KILLED = """\
(EngineCore pid=4250) ERROR 14:07:47 Worker proc VllmWorker-0 died unexpectedly (exit code: None)
(EngineCore pid=4250) ERROR 11-30 14:07:47 [core.py:1512] RuntimeError: Executor failed.
(APIServer pid=4242) EngineDeadError: An issue. See stack trace (above) for the root cause.
"""


@pytest.mark.parametrize(
    ("log", "line"),
    [
        pytest.param(WORKER, "ValueError: Too little memory on node 0", id="worker"),
        pytest.param(RAISED, "AttributeError: it has no 'drafter'", id="raised"),
        pytest.param(KILLED, "Worker proc VllmWorker-0 died unexpectedly (exit code: None)", id="killed"),
        pytest.param(BIND, "OSError: [Errno 98] Address already in use", id="bind"),
        pytest.param(
            MISSING_MODEL,
            "OSError: We couldn't connect to 'https://huggingface.co' to load the files.",
            id="missing model",
        ),
        pytest.param(
            VALIDATION,
            "Value error, User-specified max_model_len (9999) is greater than the derived one.",
            id="validation",
        ),
        pytest.param(ENGINE_CORE, "ValueError: No available memory for the cache blocks.", id="engine core"),
        pytest.param(
            "RuntimeError: Engine core initialization failed. See root cause above.\n",
            "RuntimeError: Engine core initialization failed. See root cause above.",
            id="nothing better",
        ),
        pytest.param(
            "usage: api_server.py [-h]\napi_server.py: error: unrecognized arguments: --max-modell-len 4\n",
            "error: unrecognized arguments: --max-modell-len 4",
            id="arguments",
        ),
        pytest.param("INFO loading\nKilled\n", "Killed", id="no error at all"),
        pytest.param("", "it wrote nothing", id="empty"),
    ],
)
def test_the_telling_line_of_a_log_is_picked(log: str, line: str) -> None:
    assert reason(log.strip().splitlines()) == line


def test_a_log_line_of_any_length_gives_a_short_reason() -> None:
    assert len(reason(["ValueError: " + "x" * 100_000])) == 400


# Which engine


def test_an_interpreter_that_is_not_there_is_named() -> None:
    with pytest.raises(ServerFailed, match="cannot ask /no/such/python which vLLM it has: "):
        engine_facts("/no/such/python")


def test_an_interpreter_that_fails_is_named() -> None:
    with pytest.raises(ServerFailed, match=r"cannot ask /bin/false which vLLM it has: .*exit status 1"):
        engine_facts("/bin/false")


def test_an_interpreter_without_vllm_is_told_what_to_do(tmp_path: Path) -> None:
    python = tmp_path / "python"
    # -S leaves site-packages out, and vLLM with them.
    python.write_text(f'#!/bin/sh\ncd / && exec {sys.executable} -I -S "$@"\n')
    python.chmod(0o755)

    with pytest.raises(ServerFailed, match=r"has no vLLM: run `make setup` .*engine.python in the stack"):
        engine_facts(str(python))


@pytest.fixture
def fake_python(tmp_path: Path) -> Path:
    """Named fake: an interpreter that says it has a vLLM which knows one method, and cannot run it."""
    folder = tmp_path / "vllm"
    (folder / "config").mkdir(parents=True)
    (folder / "config" / "speculative.py").write_text('Method = Literal["ngram", "eagle3"]\n')
    (folder / "config" / "observability.py").write_text("per_request_spec_decode_metrics: str\n")
    python = tmp_path / "python"
    said = json.dumps([str(folder), "0.99.0", "vllm-fake"])
    python.write_text(
        f"#!/bin/sh\nif [ \"$1\" = -c ]; then echo '{said}'; exit; fi\n"
        "echo '(APIServer pid=1) OSError: this is a fake'; exit 3\n"
    )
    python.chmod(0o755)
    return python


def test_an_engine_is_known_by_its_files(fake_python: Path) -> None:
    facts = engine_facts(str(fake_python))

    assert (facts.version, facts.package, facts.per_request) == ("0.99.0", "vllm-fake", True)
    assert facts.methods == {"ngram", "eagle3"}


def test_a_method_that_the_engine_does_not_know_is_refused_before_a_start(
    fake_python: Path, tmp_path: Path
) -> None:
    spec = server_spec(engine_python=str(fake_python), drafter="flash", speculative={"method": "dflash"})

    with (
        pytest.raises(
            ServerFailed, match=r"vllm-fake 0.99.0 does not know the method 'dflash' of drafter 'flash'"
        ),
        running(spec, folder=tmp_path / "log", say=print),
    ):
        pytest.fail("a server that cannot start has started")


def test_an_engine_that_dies_is_quoted(fake_python: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(ServerFailed) as caught,
        running(server_spec(engine_python=str(fake_python)), folder=tmp_path / "log", say=print),
    ):
        pytest.fail("a server that cannot start has started")

    first = str(caught.value).splitlines()[0]
    assert first == "server ngram-k4 died while loading (exit code 3): OSError: this is a fake"


def test_a_port_in_use_is_named_before_a_start(fake_python: Path, tmp_path: Path) -> None:
    with vllm_like() as other:
        port = int(other.url.rpartition(":")[2])
        spec = server_spec(engine_python=str(fake_python), port=port)
        with (
            pytest.raises(PortTaken, match=f"port {port}: Address already in use"),
            running(spec, folder=tmp_path / "log", say=print),
        ):
            pytest.fail("a server without its port has started")


# A server that runs already

SPEC_METRICS = """\
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0"} 10.0
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1.7e+09
# TYPE vllm:spec_decode_num_drafts_total counter
vllm:spec_decode_num_drafts_total{engine="0"} 3.0
# TYPE vllm:spec_decode_num_accepted_tokens_per_pos_total counter
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",position="0"} 2.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",position="1"} 1.0
"""
PLAIN_METRICS = SPEC_METRICS[: SPEC_METRICS.index("# TYPE vllm:spec")]


@pytest.fixture
def vllm() -> Iterator[VllmLike]:
    """A server of `tiny` that drafts two tokens a step."""
    with vllm_like(
        v1_models=as_json({"object": "list", "data": [{"id": "tiny", "object": "model"}]}),
        version=as_json({"version": "0.32.0"}),
        metrics=Reply(SPEC_METRICS.encode(), kind="text/plain"),
    ) as fake:
        yield fake


def at_k2() -> ServerSpec:
    return server_spec(k=2)


def plain() -> ServerSpec:
    return server_spec(drafter="none", k=0, speculative=None)


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/"])
def test_a_server_that_fits_is_attached_to(vllm: VllmLike, ending: str) -> None:
    server = attach(vllm.url + ending, at_k2(), key="sk-mine")

    assert (server.url, server.model, server.version) == (vllm.url, "tiny", "0.32.0")
    assert (server.attached, server.per_request, server.start_id) == (True, True, "attached-1700000000")
    assert {headers.get("authorization") for path, headers, _ in vllm.requests if path != "/metrics"} == {
        "Bearer sk-mine"
    }


def test_a_server_does_not_show_its_key() -> None:
    with vllm_like(
        v1_models=as_json({"data": [{"id": "tiny"}]}),
        version=as_json({}),
        metrics=Reply(PLAIN_METRICS.encode()),
    ) as fake:
        server = attach(fake.url, plain(), key="sk-mine")

    assert "sk-mine" not in repr(server)
    assert server.version == "unverified"


def test_another_model_is_refused(vllm: VllmLike) -> None:
    spec = server_spec(k=2, target=Target(model="org/other"))

    with pytest.raises(ServerFailed, match=r"serves tiny, the stack wants 'other': set target.served_name"):
        attach(vllm.url, spec, key=None)


def test_a_server_that_drafts_is_not_measured_as_none(vllm: VllmLike) -> None:
    with pytest.raises(ServerFailed, match="drafts, but the cells are for drafter none, which does not"):
        attach(vllm.url, plain(), key=None)


def test_a_server_that_does_not_draft_is_not_measured_as_a_drafter(vllm: VllmLike) -> None:
    vllm.replies["/metrics"] = Reply(PLAIN_METRICS.encode())

    with pytest.raises(ServerFailed, match=r"has no speculative-decoding counters: .* drafter ngram-k2"):
        attach(vllm.url, at_k2(), key=None)


def test_another_k_is_refused(vllm: VllmLike) -> None:
    with pytest.raises(ServerFailed, match="drafts 2 tokens a step, the cells are for k = 4"):
        attach(vllm.url, server_spec(k=4), key=None)


def test_a_wrong_key_is_told_from_other_failures(vllm: VllmLike) -> None:
    vllm.replies["/v1/models"] = as_json({"error": "Unauthorized"}, 401)

    with pytest.raises(
        ServerFailed, match=r"answers 401 .*; it refuses the key in DRAFTGATE_API_KEY"
    ) as caught:
        attach(vllm.url, at_k2(), key="sk-wrong")
    assert "sk-wrong" not in str(caught.value)

    with pytest.raises(ServerFailed, match=r"answers 401 .*; set DRAFTGATE_API_KEY to its key"):
        attach(vllm.url, at_k2(), key=None)


NO_HTTP = Reply(raw=b"SSH-2.0-OpenSSH_9.6\r\n")
"""Something that is no HTTP server; Python's own client leaves its socket open then."""
open_socket = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@open_socket
def test_something_that_is_no_http_server_is_refused(vllm: VllmLike) -> None:
    vllm.replies["/v1/models"] = NO_HTTP

    with pytest.raises(ServerFailed, match=f"no usable answer from {vllm.url}/v1/models: SSH-2.0"):
        attach(vllm.url, at_k2(), key=None)


@open_socket
def test_metrics_that_are_no_http_are_refused(vllm: VllmLike) -> None:
    vllm.replies["/metrics"] = NO_HTTP

    with pytest.raises(ServerFailed, match=f"no usable answer from {vllm.url}/metrics: SSH-2.0"):
        attach(vllm.url, at_k2(), key=None)
    gc.collect()


@pytest.mark.parametrize(
    "reply",
    [
        as_json({"error": "no"}, 503),
        Reply(b"<html>"),
        Reply(b"[]"),
        Reply(b'{"data": null}'),
        Reply(b'{"data": [4]}'),
        Reply(b"{", cut=True),
        Reply(b"\xff\xfe"),
        Reply(raw=b""),
    ],
)
def test_a_server_that_is_no_vllm_is_refused(vllm: VllmLike, reply: Reply) -> None:
    vllm.replies["/v1/models"] = reply

    with pytest.raises(ServerFailed, match=vllm.url):
        attach(vllm.url, at_k2(), key=None)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(b"<html>"),
        Reply(SPEC_METRICS.encode(), cut=True),
    ],
)
def test_metrics_that_cannot_be_read_are_refused(vllm: VllmLike, reply: Reply) -> None:
    vllm.replies["/metrics"] = reply

    with pytest.raises(ServerFailed, match="/metrics"):
        attach(vllm.url, at_k2(), key=None)


@pytest.mark.parametrize(
    "url", ["localhost", "http://localhost:port", "http://", "ftp://x/", "http://[", "::"]
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ServerFailed, match="no usable answer from"):
        attach(url, at_k2(), key=None)


# The supervisor

HARNESS = Path(supervisor.__file__).parent


class Tree:
    """A command with children of its own, under the supervisor, and the pipe that keeps it alive."""

    def __init__(self, script: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, supervisor.__file__, "/bin/sh", "-c", script], stdin=subprocess.PIPE
        )

    def close_pipe(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()

    def end(self) -> None:
        if self.process.stdin:
            self.process.stdin.close()
        for process in below(self.process.pid):
            process.kill()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def tree() -> Iterator[Callable[[str], Tree]]:
    started: list[Tree] = []

    def start(script: str) -> Tree:
        started.append(Tree(script))
        return started[-1]

    yield start
    for one in started:
        one.end()


def below(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def until(done: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not done() and time.monotonic() < deadline:
        time.sleep(0.02)
    return done()


def grown(pid: int, command: str, count: int) -> list[psutil.Process]:
    """Wait until `count` processes with `command` in their command line run below `pid`."""

    def found() -> list[psutil.Process]:
        matching = []
        for process in below(pid):
            try:
                if command in process.cmdline():
                    matching.append(process)
            except psutil.Error:
                continue
        return matching

    assert until(lambda: len(found()) == count), [p.cmdline() for p in below(pid)]
    return found()


def runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it went between the two questions
        return False


def gone(processes: list[psutil.Process]) -> bool:
    def all_gone() -> bool:
        return not any(map(runs, processes))

    return until(all_gone)


def test_the_end_of_the_pipe_ends_the_whole_tree(tree: Callable[[str], Tree]) -> None:
    one = tree("sleep 1001 & sleep 1001")
    sleepers = grown(one.process.pid, "1001", 2)

    one.close_pipe()

    assert gone(sleepers)
    assert one.process.wait(timeout=20) == 128 + signal.SIGTERM


def test_a_frozen_child_is_ended_without_waiting_for_its_patience_to_end(
    tree: Callable[[str], Tree],
) -> None:
    one = tree("sleep 1009 & exec sleep 1009")
    sleepers = grown(one.process.pid, "1009", 2)
    for sleeper in sleepers:
        sleeper.suspend()

    one.close_pipe()

    assert one.process.wait(timeout=20) == 128 + signal.SIGTERM  # not SIGKILL
    assert gone(sleepers)


def test_a_child_that_left_its_parent_and_its_session_is_ended_too(tree: Callable[[str], Tree]) -> None:
    one = tree("setsid sh -c 'sleep 1002 & sleep 1002' & sleep 0.1; exec sleep 1003")
    sleepers = grown(one.process.pid, "1002", 2) + grown(one.process.pid, "1003", 1)

    one.close_pipe()

    assert gone(sleepers)


def test_a_killed_owner_of_the_pipe_ends_the_whole_tree(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys, time\n"
        f"p = subprocess.Popen([sys.executable, {supervisor.__file__!r}, 'sh', '-c', "
        "'sleep 1004 & sleep 1004'], stdin=subprocess.PIPE, start_new_session=True)\n"
        "time.sleep(1000)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", script])
    try:
        sleepers = grown(owner.pid, "1004", 2)
        family = below(owner.pid)
    finally:
        owner.kill()
        owner.wait()

    assert gone(sleepers)
    assert gone(family)


def test_a_killed_supervisor_takes_its_command_with_it(tree: Callable[[str], Tree]) -> None:
    one = tree("exec sleep 1005")
    sleepers = grown(one.process.pid, "1005", 1)

    one.process.kill()

    assert gone(sleepers)


def test_a_terminated_supervisor_ends_its_tree(tree: Callable[[str], Tree]) -> None:
    one = tree("sleep 1006 & sleep 1006")
    sleepers = grown(one.process.pid, "1006", 2)

    one.process.terminate()

    assert gone(sleepers)


def test_a_server_ends_with_all_that_it_started_though_its_supervisor_is_frozen(
    tree: Callable[[str], Tree],
) -> None:
    one = tree("sleep 1010 & exec sleep 1010")
    sleepers = grown(one.process.pid, "1010", 2)
    server = Server(
        url="http://127.0.0.1:1", key="", spec=plain(), model="tiny", start_id="1", version="0",
        attached=False, per_request=False, log=None, process=one.process,
    )  # fmt: skip
    assert server.ended() is None
    psutil.Process(one.process.pid).suspend()

    server.stop()
    server.stop()  # once more does no harm

    assert gone(sleepers)
    assert server.ended() == f"its process ended (exit code {128 + signal.SIGTERM})"


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 137)])
def test_the_exit_code_of_the_command_is_passed_on(
    tree: Callable[[str], Tree], script: str, code: int
) -> None:
    assert tree(script).process.wait(timeout=20) == code


def test_what_a_command_leaves_behind_is_ended(tree: Callable[[str], Tree], tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    one = tree(f"sleep 1007 & echo $! > {pid_file}; exit 3")

    assert one.process.wait(timeout=20) == 3
    assert not Path(f"/proc/{int(pid_file.read_text())}").exists()


def test_a_child_that_ignores_the_request_is_killed_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    # With no patience, so that the test need not wait for it.
    script = (
        f"import sys; sys.path.insert(0, {str(HARNESS)!r}); import supervisor; supervisor.GRACE_S = 0.3; "
    )
    script += "sys.exit(supervisor.main(sys.argv[1:]))"
    sleepers = "trap '' TERM; sleep 1008 & while :; do sleep 1008; done"
    process = subprocess.Popen([sys.executable, "-c", script, "sh", "-c", sleepers], stdin=subprocess.PIPE)
    try:
        stubborn = grown(process.pid, sleepers, 1) + grown(process.pid, "1008", 2)
        assert process.stdin
        process.stdin.close()

        assert gone(stubborn)
        assert process.wait(timeout=20) == 128 + signal.SIGKILL
    finally:
        process.kill()
        process.wait()


def test_the_supervisor_needs_nothing_but_the_standard_library() -> None:
    # It runs by its file, so that it also starts where draftgate is not installed.
    # Its pipe stays open: closed at once, it would end the command before that ends itself.
    with subprocess.Popen(
        [sys.executable, "-I", "-S", supervisor.__file__, "/bin/sh", "-c", "exit 5"],
        stdin=subprocess.PIPE, env={**os.environ, "PYTHONPATH": ""},
    ) as running:  # fmt: skip
        assert running.wait() == 5
