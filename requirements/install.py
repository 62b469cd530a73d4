"""Makes an environment: installs locks that lie beside this file, and prints a line a step.

`install.py VENV` makes the one that `make` runs in, `install.py VENV quantize-env` that of llm-compressor.

It uses the standard library alone, since nothing is installed when it runs.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
TORCH = "https://download.pytorch.org/whl/cpu"
LOCKS = {
    "setup": (("cpu", "train", "dev"), "vLLM, the trainer, the tools"),
    "quantize-env": (("quantize",), "llm-compressor"),
}
"""Of each make target: what it installs, and in words."""
NOISE = "is ignored: it is neither a file nor a directory"
"""pip says so of each package and each index that does not have it."""
LAST = 12
"""Lines of pip that a failure shows."""


def install(venv: Path, target: str) -> None:
    """Make `venv` as the make target `target` wants it, or complete it.

    Raises:
        SystemExit: a step failed; its code is what the user reads.
    """
    python = str(venv / "bin" / "python")
    # --no-deps: the locks are complete, and pip left to itself would add CUDA builds.
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    torch = ["--retries", "0", "--extra-index-url", TORCH, "-r", str(HERE / "torch-cpu.lock")]
    names, words = LOCKS[target]
    locks = [HERE / f"{name}.lock" for name in names]
    packages = sum("==" in line for lock in locks for line in lock.read_text(encoding="utf-8").splitlines())
    others = [word for lock in locks for word in ("-r", str(lock))]
    editable = [*pip, "--no-build-isolation", "--editable", str(HERE.parent)]
    make = [sys.executable, "-m", "venv", str(venv)]
    steps = [
        (f"the environment {venv}", [] if _has_pip(python) else make),
        ("torch for the CPU", [*pip, *torch]),
        (f"{packages} packages: {words}", [*pip, *others]),
        *([("draftgate", editable)] if target == "setup" else []),
    ]
    began = time.monotonic()
    for number, (what, command) in enumerate(steps, start=1):
        print(f"draftgate: set-up {number} of {len(steps)}: {what} ... ", end="", flush=True)
        seconds = _step(command, log=venv / f"set-up-{number}.log", again=f"make {target}")
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


def _step(command: list[str], *, log: Path, again: str) -> float:
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
            f"indexes that `pip config list` shows; else to what it names. Then run `{again}` again: what "
            "is there already is not loaded again."
        )
    return time.monotonic() - began


if __name__ == "__main__":
    try:
        install(Path(sys.argv[1]), *(sys.argv[2:] or ["setup"]))
    except KeyboardInterrupt:
        sys.exit("\ndraftgate: set-up interrupted; the same command goes on from here")
