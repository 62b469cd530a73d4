"""Comparisons run by hand: they need cores that nobody else uses, and print figures instead of judging.

Each is `python -m tests.perf.NAME`. What goes wrong for a reason is one sentence on stderr and exit code 2;
the last line of standard output is one compact JSON document with the figures.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.config.stack import NONE, Drafter, Stack, find_stack, load_stack
from harness.errors import BadInput, DraftgateError

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "fixtures"


def parser_of(name: str, about: str | None) -> argparse.ArgumentParser:
    """A parser that knows what it is called."""
    return argparse.ArgumentParser(
        prog=f"python -m tests.perf.{name}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def options(name: str, about: str | None) -> argparse.ArgumentParser:
    """A parser with what every comparison of engines takes."""
    parser = parser_of(name, about)
    parser.add_argument("--stack", default="smollm2-cpu", help="name or TOML file (%(default)s)")
    parser.add_argument("--drafter", default=NONE, help="one of the stack's, ngram-k4 for its k = 4")
    parser.add_argument(
        "--results",
        type=Path,
        default=ROOT / "results" / "perf",
        help="logs and records go into a new folder there",
    )
    return parser


def positive(text: str) -> int:
    """An argparse type."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value


def load(name: str) -> Stack:
    """A stack by name or path.

    Raises:
        BadInput: there is none, or it cannot be used.
    """
    return load_stack(find_stack(name, DATA / "stacks"))


def drafter_of(stack: Stack, label: str) -> tuple[Drafter, int]:
    """Drafter and k of `ngram-k4`; `ngram` alone means its first k.

    Raises:
        BadInput: the stack has no such drafter.
    """
    known = {name: (drafter, drafter.k[0]) for name, drafter in stack.drafters.items()}
    known |= {
        f"{name}-k{k}": (drafter, k) for name, drafter in stack.drafters.items() for k in drafter.k if k
    }
    if label not in known:
        raise BadInput(f"--drafter {label}: stack {stack.name} has {', '.join(known)}")
    return known[label]


def new_folder(results: Path, name: str) -> Path:
    """A folder of this invocation's own.

    Raises:
        BadInput: it cannot be made.
    """
    folder = results.resolve() / f"{name}-{dt.datetime.now(dt.UTC):%Y%m%d-%H%M%S-%f}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise BadInput(f"cannot make {folder}: {error.strerror}") from None
    return folder


def say(text: str) -> None:
    """Progress, on stderr; a line that begins with a carriage return only where it can be overwritten."""
    if not text.startswith("\r"):
        print(text, file=sys.stderr, flush=True)
    elif sys.stderr.isatty():
        print(f"\r\x1b[2K{text[1:]}", end="", file=sys.stderr, flush=True)


def carry_out(job: Callable[[], dict[str, Any]]) -> int:
    """Run a comparison, print its figures as the last line; the exit code."""
    try:
        figures = job()
    except DraftgateError as error:
        print(f"draftgate: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(json.dumps(figures, ensure_ascii=False, separators=(",", ":")))
    return 0
