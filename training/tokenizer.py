"""Loads the target's own tokenizer."""

from __future__ import annotations

from typing import Any

from harness.errors import BadInput, reason_of


def tokenizer_of(target: str) -> Any:
    """Load the tokenizer of a folder or a hub id.

    Raises:
        BadInput: there is none.
    """
    from transformers import AutoTokenizer  # noqa: PLC0415 - seconds

    try:
        return AutoTokenizer.from_pretrained(target)
    except Exception as error:  # noqa: BLE001 - the tokenizers' code raises whatever it trips over
        raise BadInput(
            f"{target}: its tokenizer cannot be loaded ({reason_of(error)}): copy the folder anew, or name "
            "another",
            code="target-cannot-write",
        ) from None
