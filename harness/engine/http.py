"""How every request reaches a server: with which key, through which proxy; and what is said of a failure.

The key is sent to the server itself and not to where a redirect leads, and no message holds it. A server on
this machine is asked directly, whatever proxy the environment names.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import ipaddress
import json
import os
import re
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness.errors import BadInput, ServerFailed
from harness.text.redaction import HIDDEN, keep_secret, without_keys

if TYPE_CHECKING:
    import openai

NO_KEY = "none"
"""The key of a server that wants none."""
KEY = "DRAFTGATE_API_KEY"
"""The variable that holds the key of a server that we did not start."""
NOT_SHOWN = frozenset({403, 404, 405, 501})
"""A gateway answers so for a page that it does not pass on."""
_UNAUTHORIZED = 401
_EXCERPT, _SHOWN, _READ_BYTES = 500, 60, 20_000
_CAN_BE_SENT = re.compile(r"[!-~]([ -~]*[!-~])?")
_HERE = ("localhost", "127.0.0.1", "::1")


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

    def __post_init__(self) -> None:
        """Remember what no message may hold.

        Raises:
            BadInput: the key cannot be sent.
        """
        for secret in (self.key if self.key != NO_KEY else None, _password(self.url)):
            if secret:
                keep_secret(secret)
        _check_key(self.key)

    @property
    def proxy(self) -> str | None:
        """The proxy that the environment names for this server; None where it is asked directly.

        Raises:
            NoAnswer: it is of a kind that we cannot use.
        """
        parts = urllib.parse.urlsplit(self.url)
        known = urllib.request.getproxies()
        proxy = known.get(parts.scheme) or known.get("all")
        if not proxy or _is_here(parts.hostname or "") or urllib.request.proxy_bypass(parts.netloc):
            return None
        proxy = proxy if "://" in proxy else f"http://{proxy}"
        if (password := _password(proxy)) is not None:
            keep_secret(password)
        if not proxy.startswith(("http://", "https://")):
            kind = proxy.partition("://")[0]
            raise NoAnswer(
                f"{self.url}: the environment names a {kind} proxy, and draftgate knows http proxies alone: "
                f"add {parts.hostname} to NO_PROXY, or name another proxy"
            )
        return proxy

    def openai(self, *, timeout_s: float, retries: int = 0) -> openai.AsyncOpenAI:
        """openai's client of this server, for many requests at a time.

        Raises:
            NoAnswer: see `proxy`.
        """
        import openai  # noqa: PLC0415 - takes half a second, and few commands need it

        return openai.AsyncOpenAI(
            base_url=f"{self.url}/v1",
            api_key=self.key or NO_KEY,
            max_retries=retries,
            timeout=timeout_s,
            # Without the environment: it would send requests to this machine through a proxy.
            http_client=openai.DefaultAioHttpClient(proxy=self.proxy, trust_env=False),
        )

    @property
    def headers(self) -> dict[str, str]:
        """The headers of every request: its key."""
        return {"Authorization": f"Bearer {self.key}"} if self.key and self.key != NO_KEY else {}

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
        except (ValueError, RecursionError):
            data = None
        if not isinstance(data, dict):
            came = " ".join(answer[:_READ_BYTES].decode("utf-8", errors="replace").split())
            what = without_keys(came)[:_SHOWN] or "nothing"
            raise NoAnswer(f"no usable answer from {self.url}{path}: no JSON object, but {what}")
        return data

    def _ask(self, path: str, body: bytes | None, timeout_s: float) -> bytes:
        url = f"{self.url}{path}"
        try:
            request = urllib.request.Request(url, body, {"Content-Type": "application/json"} if body else {})
            for name, value in self.headers.items():
                request.add_unredirected_header(name, value)
            proxies = {request.type: self.proxy} if self.proxy else {}
            ask = urllib.request.build_opener(urllib.request.ProxyHandler(proxies)).open
            with ask(request, timeout=timeout_s) as answer:
                found: bytes = answer.read()
                return found
        except urllib.error.HTTPError as error:
            message = f"{url} answers {error.code} {error.reason}"
            with error:
                if body:  # vLLM says there what is wrong with a request
                    message += f": {_said(error)[:_EXCERPT]}"
            if error.code == _UNAUTHORIZED:
                message += f"; it refuses the key in {KEY}" if self.headers else f"; set {KEY} to its key"
            raise NoAnswer(without_keys(message), status=error.code) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            message = f"no usable answer from {url}: {cause}"
            raise NoAnswer(without_keys(message), cause=cause) from None


def key_of_environment() -> str | None:
    """The key of a server that we did not start; None where it wants none.

    Raises:
        BadInput: the key cannot be sent.
    """
    key = os.environ.get(KEY) or None
    if key is not None and key != NO_KEY:
        keep_secret(key)
    _check_key(key)
    return key


def _check_key(key: str | None) -> None:
    if not key or _CAN_BE_SENT.fullmatch(key):
        return
    if key != key.strip():
        what = "a line break" if "\n" in key or "\r" in key else "a space"
        wrong = f"it {'ends' if key == key.lstrip() else 'begins'} with {what}"
    elif key.isascii():
        wrong = "it holds a control character"
    else:
        wrong = "it holds a character that is not ASCII"
    raise BadInput(f"the key in {KEY} cannot be sent: {wrong}; set it to the key alone", code="key-value")


def without_proxy(environment: Mapping[str, str]) -> dict[str, str]:
    """What to add to the environment of a command that asks servers on this machine."""
    known = environment.get("no_proxy") or environment.get("NO_PROXY")
    names = ",".join([*([known] if known else []), *_HERE])
    return {"no_proxy": names, "NO_PROXY": names}


def is_url(text: str) -> bool:
    """Whether a server may be there: http or https, and a host. A key does not stand in a URL."""
    with contextlib.suppress(ValueError):
        parts = urllib.parse.urlsplit(text)
        (parts.hostname or "").encode("idna")
        more = "@" in parts.netloc or parts.query or parts.fragment or re.search(r"\s", text)
        plain = parts.path.isascii() and not more
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and plain
    return False


def shown(url: str) -> str:
    """What was given as a URL, without what may be a key in it."""
    return re.sub(r"(?s)[?#].*", f"?{HIDDEN}", re.sub(r"(?s)(://|^).*@", rf"\1{HIDDEN}@", url))


def _is_here(name: str) -> bool:
    """Whether a host is this machine."""
    name = name.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        try:  # 127.1 and 0x7f000001 are addresses too
            address = ipaddress.ip_address(socket.inet_aton(name))
        except OSError:
            return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(mapped.is_loopback or mapped.is_unspecified)


def _password(url: str) -> str | None:
    with contextlib.suppress(ValueError):
        return urllib.parse.urlsplit(url).password
    return None


def _said(error: urllib.error.HTTPError) -> str:
    """What came with an error, in one line; much more than we show, so that a key in it is whole."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        said = without_keys(error.read(_READ_BYTES).decode("utf-8", errors="replace"))
        return " ".join(said.split())
    return ""
