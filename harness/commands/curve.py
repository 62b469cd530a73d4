"""The command `draftgate curve`: the curves of a run, from its records."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.engine.forward import Forward, kept_in
from harness.errors import BadRecord, NoCells
from harness.suites.curve_report import alone, of_run, report
from harness.suites.load import Bound
from harness.text.arguments import whole
from harness.text.console import complain, show, width_of
from harness.text.render import WIDE, lay_out

_INCOMPLETE = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the command's parser its options."""
    parser.description = (
        "Print which k is best at which load, from the records of bench_suites/test_curve.py. "
        "Exit code: 0, or 2 where a curve is not whole, or the run holds none."
    )
    parser.add_argument("folder", metavar="RUN", type=Path, help="its folder")
    bound = Bound()
    for flag, seconds in (("--ttft-ms", bound.ttft_s), ("--tpot-ms", bound.tpot_s)):
        text = f"of a request that counts as good ({seconds * 1000:g})"
        parser.add_argument(flag, metavar="N", type=whole, default=round(seconds * 1000), help=text)
    parser.add_argument("--wide", action="store_true", help=WIDE)


def run(options: argparse.Namespace) -> int:
    """Print them; the exit code.

    Raises:
        BadInput: the run holds none that is whole.
    """
    bound = Bound(ttft_s=options.ttft_ms / 1000, tpot_s=options.tpot_ms / 1000)
    width = width_of(sys.stdout, wide=options.wide)
    curves, broken = of_run(options.folder)
    if not curves:
        raise NoCells("; ".join(map(str, broken)))
    timed = list[Forward]()
    try:
        timed = kept_in(options.folder)
    except BadRecord as error:
        broken.append(error)
    texts = [
        lay_out((*report(*found, bound, may_schedule=False), *alone(found[0], timed)), width)
        for found in curves
    ]
    show("\n\n".join(texts) + "\n")
    for why in broken:
        complain(str(why))
    return _INCOMPLETE if broken else 0
