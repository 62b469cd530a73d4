"""What a vLLM can do, read from its sources, not from its version number.

The sources are not imported: an import of vLLM takes eight seconds, and some versions need a GPU for it.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

EXACT = frozenset({"standard", "block", "strict", "probabilistic", "rejection_sampler"})
"""Ways to verify drafts that leave the target's distribution as it is: rejection sampling token by token
(Leviathan et al. 2023) or by block (Sun et al. 2024), under the names that vLLM has had for them."""
_VERIFICATION = ("rejection_sample_method", "spec_decoding_acceptance_method", "acceptance_method")
"""What versions call the field that names the way."""
_DYNAMIC = frozenset(
    {"num_speculative_tokens_per_batch_size", "disable_by_batch_size", "enable_adaptive_verification"}
)
"""What versions call the fields by which the engine drafts, or verifies, fewer tokens than k in a step."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Offers:
    """What a vLLM's sources say of it. Empty where they lie elsewhere."""

    per_request: bool = False
    """It can report acceptance in each response."""
    methods: frozenset[str] = frozenset()
    """Of speculative decoding."""
    verification: frozenset[str] = frozenset()
    """Ways to verify drafts."""
    drafter_fields: frozenset[str] = frozenset()
    """Of its speculative configuration."""
    arguments: frozenset[str] = frozenset()
    """Of `vllm serve`, by their names in Python, and a few that it does not take."""
    engine_arguments: frozenset[str] = frozenset()
    """Those of them that are the engine's own, not the server's."""
    forward: bool = False
    """It can time forward passes without a server (`vllm bench forward`)."""

    @property
    def dynamic_k(self) -> frozenset[str]:
        """Fields by which the engine itself chooses k."""
        return self.drafter_fields & _DYNAMIC


def verification_of(*configurations: Mapping[str, Any] | str | None) -> str | None:
    """How drafts are verified; None where nothing says.

    Args:
        configurations: the first that names a way counts: what the engine made of it, then what it was given.
    """
    for given in configurations:
        for name in _VERIFICATION:
            if isinstance(given, Mapping) and (way := given.get(name)) is not None:
                return str(way)
    return None


def lossy_verification(*configurations: Mapping[str, Any] | str | None) -> str | None:
    """The same, where the way is not exact; None where it is."""
    way = verification_of(*configurations)
    return None if way in EXACT else way


def dynamic_k(settings: Mapping[str, Any]) -> list[str]:
    """The fields of a drafter's settings by which the engine itself chooses k."""
    return sorted(name for name in _DYNAMIC if settings.get(name))


def offers_of(folder: Path) -> Offers:
    """Read the package in `folder`."""
    tree = _tree(folder / "config" / "speculative.py")
    literals = dict(_literals(tree))
    return Offers(
        per_request="per_request_spec_decode_metrics" in _source(folder / "config" / "observability.py"),
        # Where a version calls the list otherwise: the methods that it knows are among all words.
        methods=literals.get("SpeculativeMethod") or frozenset(_words(tree)),
        verification=literals.get("RejectionSampleMethod", frozenset()),
        drafter_fields=frozenset(_fields(tree, "SpeculativeConfig")),
        arguments=_arguments(folder),
        engine_arguments=frozenset(_fields(_tree(folder / "engine" / "arg_utils.py"), "EngineArgs")),
        forward=(folder / "benchmarks" / "forward" / "main.py").is_file(),
    )


def _words(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        value = node.value if isinstance(node, ast.Constant) else None
        if isinstance(value, str) and re.fullmatch("[a-z0-9_]+", value):
            yield value


def _literals(tree: ast.Module) -> Iterator[tuple[str, frozenset[str]]]:
    """The names that stand for `Literal[...]` in a module, and all values of each."""
    known: dict[str, frozenset[str]] = {}
    for node in tree.body:
        if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript)):
            continue
        values: set[str] = set()
        for part in ast.walk(node.value.slice):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                values.add(part.value)
            elif isinstance(part, ast.Name):
                values |= known.get(part.id, frozenset())
        for target in node.targets:
            if isinstance(target, ast.Name):
                known[target.id] = frozenset(values)
                yield target.id, known[target.id]


def _arguments(folder: Path) -> frozenset[str]:
    files = [folder / "engine" / "arg_utils.py", *folder.glob("entrypoints/**/cli_args.py")]
    files += folder.glob("entrypoints/cli/*.py")
    found = {name for file in files for name in _fields(_tree(file))}
    for file in files:
        found.update(flag.replace("-", "_") for flag in re.findall(r"[\"']--?([\w-]+)[\"']", _source(file)))
    return frozenset(found)


def _fields(tree: ast.Module, name: str = "") -> Iterator[str]:
    """The annotated fields of the classes in a module, or of one of them."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and name in ("", node.name):
            for one in node.body:
                if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
                    yield one.target.id


def _tree(file: Path) -> ast.Module:
    try:
        return ast.parse(_source(file))
    except (SyntaxError, ValueError):  # of a Python newer than this one
        return ast.Module(body=[], type_ignores=[])


def _source(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""
