"""The document as one file of HTML: template, styles, scripts and data, and nothing from a network."""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from harness.report.html.answers import packed
from harness.report.html.page import WORDS
from harness.text import numbers
from harness.text.render import visible_lines

_MOST, _LEAST_ROOM = 1_950_000, 300_000
"""Bytes of a page, and of its answers where everything else alone is that large."""
_ANSWERS = "@answers@"


@dataclasses.dataclass(frozen=True)
class Library:
    """A script of somebody else, as it was published."""

    name: str
    version: str
    file: str
    license: str
    sha256: str
    """In base64. A browser runs no other script: it stands in the page's policy."""

    @property
    def text(self) -> str:
        """The script."""
        return _text(f"libraries/{self.file}")

    @property
    def license_text(self) -> str:
        """What goes with every copy of it."""
        return _text(f"libraries/{self.license}")


LIBRARIES = (
    Library(
        name="d3", version="7.9.2", file="d3-7.9.2.min.js", license="LICENSE.d3",
        sha256="kSERCY6plQOm9JZzYdK73J2/WM+cZ4yOJ+WwLRoH8ME=",
    ),
    Library(
        name="Observable Plot", version="0.6.17", file="plot-0.6.17.umd.min.js", license="LICENSE.plot",
        sha256="Q1gIZGd0B3fdeI1rJ6lc69uu/dUMcwowYBFwc71xNMs=",
    ),
)  # fmt: skip


def page(document: Mapping[str, Any], texts: Sequence[str]) -> str:
    """The file.

    Args:
        document: of `page.document`.
        texts: the texts that it names by number. The first ones go in, as many as there is room for.
    """
    script, shown = _text("page.js"), _clean(document)
    hashes = [library.sha256 for library in LIBRARIES] + [sha256(script)]
    whole = _template().render(
        shown, data=shown, libraries=LIBRARIES, hashes=hashes, script=Markup(script),  # noqa: S704
        style=Markup(_text("page.css")), words=WORDS, answers=_ANSWERS,  # noqa: S704
    )  # fmt: skip
    room = max(_LEAST_ROOM, _MOST - len(whole.encode()))
    before, _, after = whole.partition(_ANSWERS)
    return f"{before}{packed(texts, room)}{after}"


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_text), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=lambda value: numbers.DASH if value is None else value,
    )  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.filters |= {
        "number": numbers.number, "share": numbers.share, "signed": numbers.signed,
        "signed_interval": numbers.signed_interval, "interval": numbers.interval,
        "shares": numbers.share_interval,
    }  # fmt: skip
    return environment.get_template("page.html.j2")


def sha256(text: str) -> str:
    """As a Content-Security-Policy has it."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _text(name: str) -> str:
    return files("harness.report.html").joinpath(name).read_text(encoding="utf-8")


def _clean(value: Any) -> Any:
    """What a record held, as text that hides nothing and turns no direction, and numbers that JSON has."""
    if isinstance(value, str):
        return visible_lines(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {_clean(key): _clean(one) for key, one in value.items()}
    return [_clean(one) for one in value] if isinstance(value, list | tuple) else value
