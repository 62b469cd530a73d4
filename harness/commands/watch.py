"""The command `draftgate watch`: says whether a server works or hangs, and can have it restarted."""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

from harness.engine import metrics
from harness.engine.http import KEY, Http, NoAnswer, is_url, key_of_environment, shown
from harness.engine.server import unhealthy
from harness.engine.supervisor import GRACE_S
from harness.engine.watchdog import MOST_STALLS, STALL_SECONDS, Guard, Stall
from harness.errors import BadInput, BadOption, ServerFailed
from harness.text.arguments import seconds
from harness.text.console import complain, say

FIRST_ANSWER_S = 20.0
"""Where nothing has answered for so long, nothing is there."""
RESTART_PATIENCE_S = 1800.0
"""A large model may take so long to load."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the command's parser its options."""
    parser.description = (
        "Watch by its counters whether a vLLM server works or hangs. A key is taken from "
        f"{KEY}. Exit code: 1 it stalled (with --restart: {MOST_STALLS} times, or CMD failed), "
        "2 invalid, 0 ended with Ctrl-C."
    )
    add = parser.add_argument
    add("url", metavar="URL", help="where the server is, like http://127.0.0.1:8000")
    add("--restart", metavar="CMD", help="run this when it stalls; it must end that server and start another")
    stalled = f"a server that has work and does nothing for so long has stalled ({STALL_SECONDS})"
    add("--stall-seconds", metavar="N", type=seconds, default=STALL_SECONDS, help=stalled)
    between = "seconds between two readings (an eighth of --stall-seconds, at most 10)"
    add("--interval", metavar="N", type=seconds, help=between)


def run(options: argparse.Namespace) -> int:
    """Watch until there is an end to it; the exit code.

    Raises:
        BadInput: an option cannot be used.
    """
    url = options.url.rstrip("/").removesuffix("/v1")
    if not is_url(url):
        raise BadInput(
            f"{shown(url)!r} is not the URL of a server, like http://127.0.0.1:8000", code="not-a-url"
        )
    if options.interval and options.interval > options.stall_seconds / 4:
        raise BadOption(
            f"--interval {options.interval:g}: a stall of {options.stall_seconds:g} s needs four readings or "
            "more: use a shorter interval, or longer --stall-seconds"
        )
    server = Http(url, key_of_environment())
    command = None if options.restart is None else _command(options.restart)
    process = None
    try:
        try:
            metrics.fetch(server)
        except NoAnswer as error:  # it may still be starting
            if command is None:
                say(f"{error}; waiting {_patience_s(options):g} s for it")
        for number in range(1, MOST_STALLS + 1):
            stall, started = _until_stalled(server, options)
            say(f"{url} stalled: {stall.reason}")
            say(f"evidence: {stall.evidence}" if stall.evidence else "evidence could not be written")
            if command is None or number == MOST_STALLS:
                break
            _end(process)
            process = _restart(command, server, started)
            say(f"{url} was restarted ({number} of {MOST_STALLS - 1} times)")
    except KeyboardInterrupt:
        say(f"no longer watching {url}")
        return 0
    except metrics.NotMetrics as error:
        raise BadOption(str(error)) from None
    except ServerFailed as error:
        complain(error.shown)
        return 1
    complain(f"{url} stalled" + (f" {MOST_STALLS} times, at last" if command else "") + f": {stall.reason}")
    return 1


def _patience_s(options: argparse.Namespace) -> float:
    """How long a server that has never answered is waited for, where no command starts one."""
    return min(FIRST_ANSWER_S, float(options.stall_seconds))


def _until_stalled(server: Http, options: argparse.Namespace) -> tuple[Stall, float]:
    """Read until the server stalls, with a line for every change.

    Returns:
        The stall, and when the server started (0 where that is not known).

    Raises:
        ServerFailed: it has never answered, and there is no command to start it.
    """
    stamp = f"{dt.datetime.now(dt.UTC):%Y%m%d-%H%M%S}"
    guard = Guard(
        server,
        stall_seconds=options.stall_seconds,
        interval=options.interval,
        evidence=Path(f"draftgate-watch-{stamp}.stall.json"),
        note="draftgate watch",
    )
    watch, said = guard.watch, ""
    while True:
        stall = guard.read()
        silent = stall or watch.silent_s >= _patience_s(options)
        if silent and not (watch.answer or options.restart):
            if stall and stall.evidence:
                stall.evidence.unlink(missing_ok=True)
            raise ServerFailed(
                f"nothing has answered at {server.url} for {_patience_s(options):g} s: start the server "
                "first, or look at the address",
                code="watch-gave-up",
            )
        if stall:
            return stall, watch.answer.started if watch.answer else 0.0
        if watch.blind:
            state = "well by its /health, but its /metrics cannot be read"
        elif watch.silent_s or not watch.answer:
            state = "no answer"
        elif not watch.busy:
            state = "idle"
        else:
            state = "work, but nothing moves" if watch.still_s >= watch.stall_seconds / 4 else "working"
        if state != said:
            now = watch.answer
            seen = now and not (watch.blind or watch.silent_s)
            of = f": {now.running} running, {now.waiting} waiting" if now and seen else ""
            say(f"{server.url}: {state}{of}")
            said = state
        time.sleep(guard.interval)


def _command(text: str) -> list[str]:
    """The words of the command that restarts the server.

    Raises:
        BadInput: there is no such command.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise BadOption(f"--restart {text!r}: {error}") from None
    if not words or not shutil.which(words[0]):
        raise BadOption(f"--restart {text!r}: there is no such command: write its path")
    return words


def _end(process: subprocess.Popen[bytes] | None) -> None:
    """End what the command started last time: the command may be the server itself."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process and process.poll() is None:
            os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=GRACE_S)


def _restart(command: list[str], server: Http, started: float) -> subprocess.Popen[bytes]:
    """Run the command, and wait for a server instead of the one of `started` (0 where that is not known).

    Raises:
        ServerFailed: the command failed, or no new server answers.
    """
    # A session of its own: Ctrl-C ends the watching, not the server.
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        raise ServerFailed(
            f"cannot run {shlex.join(command)}: {error.strerror}; try it by hand", code="watch-gave-up"
        ) from None
    deadline, gone = time.monotonic() + RESTART_PATIENCE_S, False
    while time.monotonic() < deadline:
        if process.poll():
            raise ServerFailed(
                f"{shlex.join(command)} failed (exit code {process.returncode}): try it by hand",
                code="watch-gave-up",
            )
        with contextlib.suppress(TimeoutError, ServerFailed):
            dead = unhealthy(server)
            gone = gone or dead is not None
            # A server that hangs looks healthy until the command has ended it.
            now = metrics.fetch(server).started
            if not dead and (now != started if now and started else gone or process.returncode == 0):
                return process
        time.sleep(0.5)
    raise ServerFailed(
        f"no new server answers at {server.url} {RESTART_PATIENCE_S:.0f} s after {shlex.join(command)}: "
        "read its log",
        code="watch-gave-up",
    )
