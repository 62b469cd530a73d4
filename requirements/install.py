"""Makes the environment that `make` runs in: installs the locks beside this file, and prints a line a step.

It uses the standard library alone, since nothing is installed when it runs.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
TORCH = "https://download.pytorch.org/whl/cpu"
LOCKS = ("cpu", "train", "dev")
NOISE = "is ignored: it is neither a file nor a directory"
"""pip says so of each package and each index that does not have it."""
LAST = 12
"""Lines of pip that a failure shows."""


def install(venv: Path) -> None:
    """Make `venv`, or complete it.

    Raises:
        SystemExit: a step failed; its code is what the user reads.
    """
    python = str(venv / "bin" / "python")
    # --no-deps: the locks are complete, and pip left to itself would add CUDA builds.
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    torch = ["--retries", "0", "--extra-index-url", TORCH, "-r", str(HERE / "torch-cpu.lock")]
    locks = [HERE / f"{name}.lock" for name in LOCKS]
    packages = sum("==" in line for lock in locks for line in lock.read_text(encoding="utf-8").splitlines())
    others = [word for lock in locks for word in ("-r", str(lock))]
    make = [sys.executable, "-m", "venv", str(venv)]
    steps = [
        (f"the environment {venv}", [] if _has_pip(python) else make),
        ("torch for the CPU", [*pip, *torch]),
        (f"{packages} packages: vLLM, the trainer, the tools", [*pip, *others]),
        ("draftgate", [*pip, "--no-build-isolation", "--editable", str(HERE.parent)]),
    ]
    began = time.monotonic()
    for number, (what, command) in enumerate(steps, start=1):
        print(f"draftgate: set-up {number} of {len(steps)}: {what} ... ", end="", flush=True)
        seconds = _step(command, log=venv / f"set-up-{number}.log")
        print(f"{seconds:.0f} s", flush=True)
    print(f"draftgate: set-up took {time.monotonic() - began:.0f} s")


def _has_pip(python: str) -> bool:
    """Whether an earlier set-up made the environment already, and was not interrupted while it did."""
    try:
        return not subprocess.run(
            [python, "-m", "pip", "--version"], capture_output=True, check=False
        ).returncode
    except OSError:
        return False


def _step(command: list[str], *, log: Path) -> float:
    """Run a command, if there is one, and keep all that it says in `log`; returns its seconds.

    Raises:
        SystemExit: it failed.
    """
    began = time.monotonic()
    if not command:
        return 0
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w+", encoding="utf-8", errors="replace") as file:
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
        file.seek(0)
        said = [line for line in file.read().splitlines() if line.strip() and NOISE not in line]
    if code:
        print("failed", flush=True)
        reason = "\n".join(f"  {line}" for line in said[-LAST:])
        raise SystemExit(
            f"{reason}\ndraftgate: set-up stopped: this command ended with exit code {code}:\n"
            f"  {' '.join(command)}\n"
            f"All that it said is in {log}. Where it found no version at all, see to the network and to the "
            "indexes that `pip config list` shows; else to what it names. Then run `make setup` again: what "
            "is there already is not loaded again."
        )
    return time.monotonic() - began


if __name__ == "__main__":
    try:
        install(Path(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit("\ndraftgate: set-up interrupted; `make setup` goes on from here")
