"""Writes the card of a changed target from its records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.text.numbers import duration, share
from harness.text.render import markdown
from training.export.model_card import files_table, tabled


def text(records: Mapping[str, Any]) -> str:
    """README.md from target.json."""
    base, measured = records["base"], records["divergence"]
    rows = [[markdown(file), *_figures(of)] for file, of in measured["files"].items()]
    rows.append(["all", *_figures(measured)])
    header = ["texts of", "KL, nats per token", "95 % CI", "same likeliest token", "texts", "tokens"]
    weights = [[markdown(name), f"`{sha256}`"] for name, sha256 in base["sha256"].items()]
    made = (
        f"Made from {markdown(base['model'])} by a recipe of draftgate of kind `{records['kind']}`, in "
        f"{duration(records['seconds']['all'])}. Weights: {records['bytes'] / 1e6:,.1f} MB, "
        f"{base['bytes'] / 1e6:,.1f} MB before. All figures here are from target.json."
    )
    compared = (
        "KL divergence of its next tokens from the unchanged target's, on texts that had no part in the "
        "change. The interval is over texts."
    )
    sections = (
        f"# {markdown(records['name'])}",
        f"A changed target, to study speculative decoding with. {markdown(records['about'])}.",
        made,
        "## What was changed",
        tabled(["", ""], [[markdown(name), _said(value)] for name, value in records["change"].items()]),
        "## How far it is from the unchanged target",
        compared,
        tabled(header, rows),
        "## Files",
        files_table(records["files"]),
        "The unchanged target's weights, and the recipe:",
        tabled(["file", "SHA-256"], [*weights, ["recipe", f"`{records['recipe_sha256']}`"]]),
    )
    return "\n\n".join(sections) + "\n"


def summary(records: Mapping[str, Any]) -> str:
    """What was made, how far it is from the unchanged target, and in how many seconds."""
    kl, interval, same, texts, tokens = _figures(records["divergence"])
    return (
        f"{records['name']}: KL {kl} nats per token (95 % CI {interval}), {texts} texts, {tokens} tokens; "
        f"the same likeliest token at {same}; {records['seconds']['all']:.0f} s"
    )


def _figures(of: Mapping[str, Any]) -> list[str]:
    kl = [f"{of[name]:.4f}" if of[name] else "0" for name in ("mean", "low", "high")]
    return [kl[0], f"{kl[1]}..{kl[2]}", f"{share(of['same_best'])} %", str(of["texts"]), f"{of['tokens']:,}"]


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        counted = {str(of): list(value.values()).count(of) for of in value.values()}
        return "; ".join(f"{of}: {count} of them" for of, count in counted.items())
    return markdown(", ".join(map(str, value)) if isinstance(value, list) else str(value))
