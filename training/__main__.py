"""python -m training: `run` leads from a target to a served drafter, `target` to a changed target."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from harness.config.stack import DEFAULT_STACK
from harness.errors import BadInput, DraftgateError, shown
from harness.text.arguments import Parser, seconds
from harness.text.console import Rarely, Say, end_like_ctrl_c, redraws, settle_in
from training import stages
from training.recipe import find_recipe, load_recipe
from training.servers import open_servers

INVALID, INTERRUPTED = 2, 130
EXTRA = ("datasets", "hs_connectors", "matplotlib", "speculators", "tomli_w", "torch", "transformers")
"""Packages that the stages import: of the extra `train`, and of the engine beside it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; its exit code: 0 done, 1 a stage failed, 2 bad input, 130 interrupted."""
    settle_in()
    words = list(sys.argv[1:] if argv is None else argv)
    options = _parser().parse_args(words)
    end_like_ctrl_c()
    try:
        options.act(options)
    except KeyboardInterrupt:
        again = shlex.join(["python", "-m", "training", *words])
        sys.stderr.write(f"\ntraining: interrupted; {options.kept}: {again}\n")
        return INTERRUPTED
    except (DraftgateError, OSError) as error:
        sys.stderr.write(f"\ntraining: {shown(error)}\n")
        return INVALID if isinstance(error, BadInput | OSError) else 1
    return 0


def _run(options: argparse.Namespace) -> None:
    options.work = options.work.resolve()
    recipe = load_recipe(find_recipe(options.recipe), options.changes)
    check_extra()
    from training import pipeline  # noqa: PLC0415 - it imports what the extra installs
    from training.trainer import stage  # noqa: PLC0415

    stages.known(pipeline.STAGES, options.only, options.start)
    if options.dry_run:
        sys.stdout.write(pipeline.outlook(recipe, options.work) + "\n")
        return
    say = speaker(options.work / f"{recipe.name}.log")
    quiet(options.work / "libraries.log")
    names = ", ".join(stage.name for stage in pipeline.STAGES)
    say(f"recipe {recipe.name}: {recipe.about} (stages: {names})")
    base = stages.Context(
        recipe=recipe,
        work=options.work,
        servers=open_servers(recipe, options.work, say),
        say=say,
        stall_seconds=options.stall_seconds,
        keep_hidden_states=options.keep_hidden_states,
    )
    if options.only in {None, "train"}:
        pipeline.check_disk_space(recipe, options.work, say)
    try:
        stages.carry_out(pipeline.STAGES, base, only=options.only, start=options.start)
    finally:
        stage.end_rehearsal(base, wait_s=0)
        base.servers.close()


def _target(options: argparse.Namespace) -> None:
    from training.targets import make, recipe  # noqa: PLC0415

    path = find_recipe(options.recipe, recipe.TARGETS)
    check_extra()
    made = make.run(path, options.changes, output=options.output, dry_run=options.dry_run, say=speaker())
    sys.stdout.write(made + "\n")


def _smoke(options: argparse.Namespace) -> None:
    from training import smoke  # noqa: PLC0415

    smoke.check(smoke.run(options.folder, options.stack, say=speaker()))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m training", description="Make drafters from recipes.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    run = commands.add_parser("run", help="carry out a recipe", description="Carry out a recipe.")
    run.set_defaults(act=_run, kept="finished work is kept. To go on")
    add = run.add_argument
    add("recipe", metavar="RECIPE", help="a TOML file, or the name of one in training/recipes")
    work = Path("results/training")
    add("--work", type=Path, default=work, help="all folders go there (%(default)s)")
    add("--only", metavar="STAGE", help="this stage alone; those before it must be done")
    start = "this stage and all after it, also those that are done"
    add("--from", dest="start", metavar="STAGE", help=start)
    stalled = "a server with work that does nothing for this long is restarted (%(default)s)"
    add("--stall-seconds", type=seconds, default=180, help=stalled)
    add("--keep-hidden-states", action="store_true", help="leave them on the RAM disk for another recipe")
    target = commands.add_parser(
        "target", help="make a changed target", description="Make a changed target from a recipe."
    )
    target.set_defaults(act=_target, kept="nothing was made. To begin again")
    what = "a TOML file, or the name of one in training/recipes/targets"
    target.add_argument("recipe", metavar="RECIPE", help=what)
    target.add_argument("--output", type=Path, help="the folder to be made (results/targets/NAME)")
    smoke = commands.add_parser(
        "smoke",
        help="serve a target and ask it in each modality",
        description="Serve a target, and ask it in English, in Chinese, about an image and a recording.",
    )
    smoke.set_defaults(act=_smoke, kept="to ask again")
    smoke.add_argument("folder", metavar="FOLDER", help="of the target; or embedded:NAME")
    whose = "whose engine serves it: a name, or a TOML file (%(default)s)"
    smoke.add_argument("--stack", default=DEFAULT_STACK, help=whose)
    values = "a value instead of the recipe's, like train.epochs=2; may be given several times"
    for command in (run, target):
        add = command.add_argument
        add("--set", dest="changes", metavar="KEY=VALUE", action="append", default=[], help=values)
        add("--dry-run", action="store_true", help="say what would be done, and how much")
    return parser


def check_extra() -> None:
    """Check that the packages of the extra `train` are installed.

    Raises:
        BadInput: some are not.
    """
    if missing := [name for name in EXTRA if importlib.util.find_spec(name) is None]:
        raise BadInput(
            f"the Python package {', '.join(missing)} is not installed; install draftgate with its "
            "extra `train` beside `cpu` or `gpu`: pip install 'draftgate[cpu,train]'",
            code="extra-missing",
        )


def quiet(log: Path) -> None:
    """Keep libraries' messages off the terminal: notes go to a log, progress bars nowhere."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with contextlib.suppress(ImportError):  # speculators logs with it
        from loguru import logger  # noqa: PLC0415

        logger.remove()
        logger.add(log)


def speaker(log: Path | None = None) -> Say:
    """A function that writes progress to standard error; with a log, lines that stay go there too."""
    if log:
        log.parent.mkdir(parents=True, exist_ok=True)
    terminal, rarely = redraws(sys.stderr), Rarely()

    def say(text: str) -> None:
        text = text.rstrip("\n")
        if not text:
            return
        if text.startswith("\r"):
            if terminal:
                sys.stderr.write(f"\r\x1b[2K{text[1:]}")
            elif rarely():
                sys.stderr.write(f"{text[1:]}\n")
        else:
            sys.stderr.write(("\r\x1b[2K" if terminal else "") + text + "\n")
            if log:
                with log.open("a", encoding="utf-8") as lines:
                    lines.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
        sys.stderr.flush()

    return say


if __name__ == "__main__":
    sys.exit(main())
