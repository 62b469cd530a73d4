"""The command `draftgate`. Thin: what it does is in the modules below; it parses, prints and exits."""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from harness import baseline, export, formats, metrics
from harness.collect import collect
from harness.compare import compare
from harness.comparison import document
from harness.errors import BadInput, DraftgateError, ServerFailed
from harness.labels import Axis
from harness.records import write_atomically
from harness.server import unhealthy
from harness.supervisor import GRACE_S
from harness.watchdog import MOST_STALLS, STALL_SECONDS, Guard, Stall

INVALID = 2
RESTART_PATIENCE_S = 1800.0
"""A large model loads for so long."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; its exit code.

    Whatever a user gave that cannot be used ends in one sentence on standard error and exit code 2.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser, commands = _parsers()
    try:
        if argv and argv[0] in commands:
            # By itself a subparser takes no option between positionals, as in `compare BASE --across x NEW`.
            options = commands[argv[0]].parse_intermixed_args(argv[1:])
        else:
            options = parser.parse_args(argv)
        code: int = options.run(options)
    except SystemExit as stop:  # argparse has said why
        return int(stop.code or 0)
    except DraftgateError as error:
        _complain(str(error))
        return INVALID
    return code


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    parser = argparse.ArgumentParser(
        prog="draftgate", description="Judge speculative decoding by paired statistics."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    comparing = commands.add_parser(
        "compare",
        help="set runs, baselines or cells side by side",
        description="Set runs, baselines or cells side by side. "
        "Exit code: 0 nothing regressed, 1 regressed, 2 refused or invalid, 3 inconclusive under --strict.",
    )
    add = comparing.add_argument
    what = "BASE NEW [NEW...]: runs, folders of baselines or cells, or cell files; each NEW against BASE"
    add("paths", metavar="PATH", nargs="+", type=Path, help=what)
    across = (
        "a field of the identity that may differ, like endpoint or quantization; "
        "then there is no verdict, unless the stack of the new run declares it its subject"
    )
    add("--across", metavar="FIELD", action="append", default=[], help=across)
    add("--pivot", choices=get_args(Axis), help="make an axis columns of the table; one PATH is enough")
    add("--format", choices=("table", "markdown", "csv", "json"), default="table", help="(table)")
    add("--output", metavar="FILE", type=Path, help="write there, not to standard output")
    add("--strict", action="store_true", help="exit with 3 where a cell is inconclusive")
    comparing.set_defaults(run=_compare)
    moving = commands.add_parser(
        "anchor",
        help="make baselines the anchors of their cells",
        description="Make baselines the anchors of their cells, which every later run is judged against too.",
    )
    moving.add_argument(
        "baselines", metavar="BASELINE", nargs="+", type=Path, help="a cell file of baselines/"
    )
    moving.add_argument("--reason", metavar="TEXT", required=True, help="why; it is kept in the anchor")
    moving.set_defaults(run=_anchor)
    watching = commands.add_parser(
        "watch",
        help="tell whether a server works or hangs, and restart it",
        description="Tell whether a vLLM server works or hangs, by its counters. Exit code: 1 it stalled "
        f"(with --restart: {MOST_STALLS} times, or CMD failed), 2 invalid, 0 ended with Ctrl-C.",
    )
    add = watching.add_argument
    add("url", metavar="URL", help="where the server is, like http://127.0.0.1:8000")
    add("--restart", metavar="CMD", help="run this when it stalls; it must end that server and start another")
    stalled = f"work, and nothing done, for so long is a stall ({STALL_SECONDS})"
    add("--stall-seconds", metavar="N", type=_seconds, default=STALL_SECONDS, help=stalled)
    add("--interval", metavar="N", type=_seconds, help="between two readings (an eighth of it, 10 at most)")
    watching.set_defaults(run=_watch)
    return parser, {"compare": comparing, "anchor": moving, "watch": watching}


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: must be more than 0")
    return value


def _compare(options: argparse.Namespace) -> int:
    lines = options.format in ("csv", "json")
    if options.pivot and lines:
        raise BadInput(
            f"--pivot makes columns of a table; {options.format} has every cell apart, so leave --pivot out"
        )
    if len(options.paths) == 1 and not (options.pivot or lines):
        raise BadInput(f"{options.paths[0]} alone: name what to compare it with, or --pivot an axis")
    result = compare([collect(path) for path in options.paths], across=tuple(dict.fromkeys(options.across)))
    code = result.exit_code(strict=options.strict)
    if options.format == "json":
        text = formats.as_json(export.as_data(result, exit_code=code))
    elif options.format == "csv":
        text = formats.as_csv(*export.csv_rows(result))
    else:
        page = document(result, pivot=options.pivot)
        text = formats.as_text(page) if options.format == "table" else formats.as_markdown(page)
    if options.output:
        write_atomically(options.output, text)
    else:
        _print(text)
    return code


def _anchor(options: argparse.Namespace) -> int:
    for path in options.baselines:
        _print(formats.visible(f"anchor {baseline.move_anchor(path, options.reason)}") + "\n")
    return 0


def _watch(options: argparse.Namespace) -> int:
    url = options.url.rstrip("/").removesuffix("/v1")
    with contextlib.suppress(ValueError):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return _watched(url, options)
    raise BadInput(f"{options.url!r} is not the URL of a server, like http://127.0.0.1:8000")


def _watched(url: str, options: argparse.Namespace) -> int:
    if options.interval and options.interval > options.stall_seconds / 4:
        raise BadInput(
            f"--interval {options.interval:g}: a stall of {options.stall_seconds:g} s needs four readings or "
            "more: use a shorter interval, or longer --stall-seconds"
        )
    restart = None if options.restart is None else _Restart(options.restart, url)
    try:
        _check_vllm(url)
        for number in range(1, MOST_STALLS + 1):
            stall, started = _until_stalled(url, options)
            _say(f"{url} stalled: {stall.reason}")
            _say(f"evidence: {stall.evidence}" if stall.evidence else "evidence could not be written")
            if restart is None or number == MOST_STALLS:
                break
            restart.run(started)
            _say(f"{url} was restarted ({number} of {MOST_STALLS - 1} times)")
    except KeyboardInterrupt:
        _say(f"no longer watching {url}")
        return 0
    except metrics.NotMetrics as error:
        raise BadInput(str(error)) from None
    except ServerFailed as error:
        _complain(str(error))
        return 1
    _complain(f"{url} stalled" + (f" {MOST_STALLS} times, at last" if restart else "") + f": {stall.reason}")
    return 1


def _check_vllm(url: str) -> None:
    try:
        metrics.fetch(url)
    except metrics.NotMetrics:
        raise
    except ServerFailed:
        pass  # it may still be starting


def _until_stalled(url: str, options: argparse.Namespace) -> tuple[Stall, float]:
    """Read until it stalls, a line for every change; the stall, and when the server had started."""
    stamp = f"{dt.datetime.now(dt.UTC):%Y%m%d-%H%M%S}"
    guard = Guard(
        url,
        stall_seconds=options.stall_seconds,
        interval=options.interval,
        evidence=Path(f"draftgate-watch-{stamp}.stall.json"),
        note="draftgate watch",
    )
    watch, said = guard.watch, ""
    while not (stall := guard.read()):
        if watch.silent_s or not watch.answer:
            state = "no answer"
        elif not watch.busy:
            state = "idle"
        else:
            state = "work, but nothing moves" if watch.still_s >= watch.stall_seconds / 4 else "working"
        if state != said:
            now = watch.answer
            of = f": {now.running} running, {now.waiting} waiting" if now and state != "no answer" else ""
            _say(f"{url}: {state}{of}")
            said = state
        time.sleep(guard.interval)
    return stall, watch.answer.started if watch.answer else 0.0


class _Restart:
    """Runs the command that starts a server anew, and waits for that server."""

    def __init__(self, command: str, url: str) -> None:
        """Nothing is run yet.

        Raises:
            BadInput: there is no such command.
        """
        try:
            self._words = shlex.split(command)
        except ValueError as error:
            raise BadInput(f"--restart {command!r}: {error}") from None
        if not self._words or not shutil.which(self._words[0]):
            raise BadInput(f"--restart {command!r}: there is no such command")
        self._url = url
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, started: float) -> None:
        """Start a server in place of the one that had started at `started` (0: unknown).

        Raises:
            ServerFailed: the command failed, or no new server answers.
        """
        self._end_last()
        # A session of its own: Ctrl-C ends the watching, not the server.
        try:
            process = subprocess.Popen(self._words, stdin=subprocess.DEVNULL, start_new_session=True)
        except OSError as error:
            raise ServerFailed(f"cannot run {shlex.join(self._words)}: {error.strerror}") from None
        self._process = process
        deadline, gone = time.monotonic() + RESTART_PATIENCE_S, False
        while time.monotonic() < deadline:
            if process.poll():
                raise ServerFailed(f"{shlex.join(self._words)} failed (exit code {process.returncode})")
            with contextlib.suppress(TimeoutError, ServerFailed):
                dead = unhealthy(self._url)
                gone = gone or dead is not None
                # One that hangs is still healthy, until the command has ended it.
                now = metrics.fetch(self._url).started
                if not dead and (now != started if now and started else gone or process.returncode == 0):
                    return
            time.sleep(0.5)
        raise ServerFailed(
            f"no new server answers at {self._url} {RESTART_PATIENCE_S:.0f} s after {shlex.join(self._words)}"
        )

    def _end_last(self) -> None:
        """End what this command started last time, where the command is itself the server."""
        if self._process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is None:
                os.killpg(self._process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(timeout=GRACE_S)


def _say(text: str) -> None:
    _print(f"{dt.datetime.now().astimezone():%H:%M:%S} {formats.visible(text)}\n")


def _complain(text: str) -> None:
    sys.stderr.write(_plain(f"draftgate: {formats.visible(text)}\n", sys.stderr.encoding))


def _print(text: str) -> None:
    """Write to standard output.

    Raises:
        BadInput: it cannot be written to. A reader that stopped reading, like `head`, is no error.
    """
    try:
        sys.stdout.write(_plain(text, sys.stdout.encoding))
        sys.stdout.flush()
    except OSError as error:
        # Python would complain again when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise BadInput(f"cannot write to standard output: {error.strerror}") from None


def _plain(text: str, encoding: str | None) -> str:
    """What this stream can write: a terminal that has no em dash gets an escape, not a traceback."""
    encoding = encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


if __name__ == "__main__":
    sys.exit(main())
