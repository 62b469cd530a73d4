"""vLLM's own argument parser takes the command line of every server of every shipped stack."""

from __future__ import annotations

import json
import subprocess
import sys

from harness.config.cells import server_spec
from harness.config.shipped import DATA
from harness.config.stack import load_stack
from harness.engine.facts import command_line

PARSE = """
import dataclasses, json, sys, typing
from vllm.config.speculative import SpeculativeConfig, SpeculativeMethod
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
def words(kind):
    return {w for a in typing.get_args(kind) for w in ([a] if isinstance(a, str) else words(a))}
methods, fields = words(SpeculativeMethod), {f.name for f in dataclasses.fields(SpeculativeConfig)}
parser = make_arg_parser(FlexibleArgumentParser())
for line, speculative in json.load(sys.stdin):
    parser.parse_args(line)
    assert speculative is None or speculative["method"] in methods, speculative
    assert speculative is None or speculative.keys() <= fields, speculative
    print(line)
"""


def test_vllms_parser_takes_every_shipped_stack() -> None:
    specs = [
        server_spec(stack, drafter, k)
        for stack in map(load_stack, sorted((DATA / "stacks").glob("*.toml")))
        for drafter in stack.drafters.values()
        for k in drafter.k
    ]
    lines = [
        (command_line(spec, model="/model", speculative=spec.speculative, per_request=True), spec.speculative)
        for spec in specs
    ]
    done = subprocess.run(
        [sys.executable, "-c", PARSE], input=json.dumps(lines), capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr[-2000:]
    assert sum(line.startswith("['--model'") for line in done.stdout.splitlines()) == len(specs)
