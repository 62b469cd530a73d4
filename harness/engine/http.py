"""Asks a server over HTTP, for a page or for JSON, and says in one way what went wrong.

The key is sent to the server itself and not to where a redirect leads, and no message holds it. A server on
this machine is asked directly, whatever proxy the environment names.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import ipaddress
import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from harness.errors import ServerFailed

NO_KEY = "none"
"""The key of a server that wants none."""
_UNAUTHORIZED = 401
_EXCERPT, _READ_BYTES = 500, 20_000
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class NoAnswer(ServerFailed):
    """The server answered an error or something unusable, or did not answer at all."""

    code = "no-answer"

    def __init__(self, message: str, *, status: int | None = None, cause: object = None) -> None:
        """What to say; the HTTP status where the server answered an error; else what went wrong."""
        super().__init__(message)
        self.status, self.cause = status, cause


@dataclasses.dataclass(frozen=True)
class Http:
    """A server's address, and the key that it is asked with."""

    url: str
    """Without a slash at the end."""
    key: str | None = dataclasses.field(default=None, repr=False)

    def text(self, path: str, *, timeout_s: float = 10.0) -> str:
        """The page at `path`; bytes that are not UTF-8 are replaced.

        Raises:
            NoAnswer: the server answers an error, or not within `timeout_s`.
        """
        return self._ask(path, None, timeout_s).decode("utf-8", errors="replace")

    def json(
        self, path: str, body: dict[str, Any] | None = None, *, timeout_s: float = 10.0
    ) -> dict[str, Any]:
        """The JSON object at `path`; with a `body`, what the server answers to it (POST).

        Raises:
            NoAnswer: the server answers an error, no JSON object, or not within `timeout_s`.
        """
        answer = self._ask(path, None if body is None else json.dumps(body).encode(), timeout_s)
        try:
            data = json.loads(answer)
        except (ValueError, RecursionError) as error:
            raise NoAnswer(f"no usable answer from {self.url}{path}: not JSON: {error}") from None
        if not isinstance(data, dict):
            raise NoAnswer(f"no usable answer from {self.url}{path}: not a JSON object")
        return data

    def _ask(self, path: str, body: bytes | None, timeout_s: float) -> bytes:
        url = f"{self.url}{path}"
        try:
            request = urllib.request.Request(url, body, {"Content-Type": "application/json"} if body else {})
            if self.key and self.key != NO_KEY:
                request.add_unredirected_header("Authorization", f"Bearer {self.key}")
            ask = _DIRECT.open if _is_here(request.host) else urllib.request.urlopen
            with ask(request, timeout=timeout_s) as answer:
                found: bytes = answer.read()
                return found
        except urllib.error.HTTPError as error:
            message = f"{url} answers {error.code} {error.reason}"
            if body:  # vLLM says there what is wrong with a request
                message += f": {self._without_key(_said(error))[:_EXCERPT]}"
            if error.code == _UNAUTHORIZED:
                message += "; set DRAFTGATE_API_KEY to its key"
            raise NoAnswer(self._without_key(message), status=error.code) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            message = f"no usable answer from {url}: {cause}"
            raise NoAnswer(self._without_key(message), cause=cause) from None

    def _without_key(self, text: str) -> str:
        """Hide the key in what a server says: it may send our headers back."""
        return text if self.key in (None, "", NO_KEY) else text.replace(str(self.key), "***")


def is_url(text: str) -> bool:
    """Whether a server may be there: http or https, and a host."""
    with contextlib.suppress(ValueError):
        parts = urllib.parse.urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    return False


def _is_here(host: str) -> bool:
    """Whether `host:port` is this machine."""
    name = urllib.parse.urlsplit(f"//{host}").hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _said(error: urllib.error.HTTPError) -> str:
    """What came with an error, in one line; much more than we show, so that a key in it is whole."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        return " ".join(error.read(_READ_BYTES).decode("utf-8", errors="replace").split())
    return ""
