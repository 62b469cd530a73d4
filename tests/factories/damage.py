"""Damaged files and answers, and what every reader does with them: read, or refuse and say where.

A second's worth of inputs in every run; `DRAFTGATE_FUZZ=long` (make test-all): 100,000, others each time.
"""
# ruff: noqa: PT017 - a refusal is one of two good ends

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings, strategies as st

from harness.errors import DraftgateError
from harness.results import records
from tests.factories.runs import cell

TESTS = 28
"""In this file and `test_fuzz_instrument.py`."""
LONG = os.environ.get("DRAFTGATE_FUZZ") == "long"
fuzz = settings(
    settings.get_profile("long" if LONG else "draftgate"),
    max_examples=-(-100_000 // TESTS) if LONG else 10,
    suppress_health_check=list(HealthCheck),
)

# What a value may be that nobody meant.

NASTY_TEXT = (
    "",
    " ",
    "\0",
    "a\0b",
    "\ufeff",
    "\u202eabc",
    "\x1b[31m",
    "\x9b1m",
    "a\nb",
    "a\r\nb",
    "\u2028",
    "a|b",
    "<script>alert(1)</script>",
    "../../../etc/passwd",
    "/etc/passwd",
    "..",
    ".",
    "a/b",
    "a\\b",
    "~nobody-here/x",
    "./\0",
    "=1+1",
    "x" * 300,
    "{x}",
    "{",
    "%s",
    "\ud800",
    "1e999",
    "nan",
    "-1",
    "中文",
    "١",
)
HUGE = "@a number of 5000 digits@"
NASTY_NUMBERS = (0, -1, 1, 2, 2**31, 2**63, 10**30, 10**400, -(10**400), 0.5, 1e308, 5e-324)
NOT_NUMBERS = (float("nan"), float("inf"), float("-inf"))
nasty = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(NASTY_NUMBERS),
    st.sampled_from(NOT_NUMBERS),
    st.sampled_from(NASTY_TEXT),
    st.just(HUGE),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
)
junk = st.recursive(
    nasty,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NASTY_TEXT), inner, max_size=3)
    ),
    max_leaves=6,
)
DEEP = (b"[" * 100_000, b'{"a":' * 100_000, b'{"schema": 1,' + b'"a":{' * 50_000, b"a." * 1100 + b"a = 1")
NASTY_BYTES = (
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\r\n",
    b"\n",
    b"\\ud800",
    b"\xed\xa0\x80",
    b"{",
    b"}",
    b'"',
    b"NaN",
)


def places(value: Any) -> list[tuple[Any, ...]]:
    """The path of every value in a JSON value but itself."""
    found: list[tuple[Any, ...]] = []
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        found += [(key,), *((key, *path) for path in places(item))]
    return found


@st.composite
def mutated(draw: st.DrawFn, value: Any, *, most: int = 3) -> Any:
    """A JSON value with a few fields dropped, doubled, retyped, renamed or swapped."""
    value = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(1, most))):
        found = places(value)
        if not found:
            return draw(junk)
        *above, last = found[draw(st.integers(0, len(found) - 1))]
        at = value
        for key in above:
            at = at[key]
        change = draw(st.sampled_from(("drop", "put", "put", "put", "double", "swap")))
        if change == "drop":
            del at[last]
        elif change == "put":
            at[last] = draw(junk)
        elif change == "double" and isinstance(at, list):
            at.insert(last, at[last])
        elif change == "double":
            at[draw(st.sampled_from(NASTY_TEXT))] = at[last]
        else:
            other = draw(st.sampled_from(list(at) if isinstance(at, dict) else range(len(at))))
            at[last], at[other] = at[other], at[last]
    return value


def as_bytes(value: Any, *, escaped: bool = True) -> bytes:
    """JSON, with a number that Python itself would not write."""
    text = json.dumps(value, ensure_ascii=escaped).replace(json.dumps(HUGE), "9" * 5000)
    return text.encode("utf-8", "surrogatepass")


def json_of(value: Any) -> st.SearchStrategy[bytes]:
    return st.builds(as_bytes, mutated(value), escaped=st.booleans())


@st.composite
def damaged(draw: st.DrawFn, valid: bytes) -> bytes:
    """Bytes that were a file once."""
    how = draw(st.sampled_from(("any", "deep", "cut", "put", "lines", "lines", "encoded")))
    if how == "any":
        return draw(st.binary(max_size=64))
    if how == "deep":
        return draw(st.sampled_from(DEEP))
    if how == "encoded":
        text = valid.decode()
        return draw(
            st.sampled_from(
                (
                    b"\xef\xbb\xbf" + valid,
                    text.encode("utf-16"),
                    text.replace("\n", "\r\n").encode(),
                    valid.replace(b" ", b"\0"),
                    text.replace("\n", "\u2028").encode(),
                    valid + valid,
                )
            )
        )
    at = draw(st.integers(0, len(valid)))
    if how == "cut":
        return valid[:at]
    if how == "put":
        return valid[:at] + draw(st.sampled_from(NASTY_BYTES)) + valid[at + draw(st.integers(0, 5)) :]
    parts = valid.split(b"\n")
    first, second = (draw(st.integers(0, len(parts) - 1)) for _ in range(2))
    match draw(st.sampled_from(("drop", "double", "swap"))):
        case "drop":
            del parts[first]
        case "double":
            parts.insert(second, parts[first])
        case _:
            parts[first], parts[second] = parts[second], parts[first]
    return b"\n".join(parts)


def harmless(text: str) -> None:
    """It can be written anywhere, and holds nothing that a terminal obeys."""
    text.encode()
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff]", text)


def put(folder: Path, name: str, content: bytes) -> Path:
    """The only file of a folder."""
    shutil.rmtree(folder / "in", ignore_errors=True)
    path = folder / "in" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def read(path: Path, reading: Callable[[], Any]) -> Any:
    """What reading a file gives; None where it was refused in a sentence that names the file.

    The file is as it was, and nothing lies beside it.
    """
    before = path.read_bytes()
    found = None
    try:
        found = reading()
    except DraftgateError as error:
        assert path.name in str(error)
        assert len(str(error)) < 20_000
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    return found


# Records

CELL_FILE = records.dump_cell(cell("en", prompts=cell("en").prompts[:10])).encode()
CELL = json.loads(CELL_FILE)
