from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.engine.http import NO_KEY, Http, NoAnswer, is_url
from tests.component.vllm_like import Reply, VllmLike, as_json, vllm_like

KEY = "sk-mine"


@pytest.fixture
def vllm() -> Iterator[VllmLike]:
    with vllm_like(page=as_json({"a": 1})) as fake:
        yield fake


def test_a_page_is_text_or_an_object(vllm: VllmLike) -> None:
    server = Http(vllm.url)
    assert server.text("/page") == '{"a": 1}'
    assert server.json("/page") == {"a": 1}
    assert server.json("/page", {"b": [2]}) == {"a": 1}
    assert [body for _, _, body in vllm.requests] == [None, None, {"b": [2]}]


@pytest.mark.parametrize(("key", "sent"), [(KEY, f"Bearer {KEY}"), (None, None), (NO_KEY, None), ("", None)])
def test_only_a_key_is_sent(vllm: VllmLike, key: str | None, sent: str | None) -> None:
    Http(vllm.url, key).text("/page")
    Http(vllm.url, key).json("/page", {})
    assert [headers.get("authorization") for _, headers, _ in vllm.requests] == [sent, sent]


@pytest.mark.parametrize(
    ("came", "says"),
    [
        (b"<html>\n<b>log in</b>", "no JSON object, but <html> <b>log in</b>"),
        (b"[1]", "no JSON object, but [1]"),
        (b"", "no JSON object, but nothing"),
        (b"\x1f\x8b\x08", "no JSON object, but "),
        (b"[" * 100_000, "no JSON object, but [[["),
        (b'{"key": "' + KEY.encode(), "no JSON object, but"),
    ],
)
def test_what_came_in_place_of_json_is_shown(vllm: VllmLike, came: bytes, says: str) -> None:
    vllm.replies["/page"] = Reply(came)

    with pytest.raises(NoAnswer) as caught:
        Http(vllm.url, KEY).json("/page")

    assert says in str(caught.value)
    assert KEY not in str(caught.value)
    for word in ("codec", "recursion", "char 0"):
        assert word not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://a b", "http://..", "http://.x", "http://h/ä", "http://h\t", "http://h/a b"]
)
def test_what_no_request_can_go_to_is_no_url(url: str) -> None:
    assert not is_url(url)
    assert is_url("http://bücher.example")


def test_a_redirected_request_leaves_its_key_behind(vllm: VllmLike) -> None:
    there = f"HTTP/1.1 302 Found\r\nLocation: {vllm.url}/page\r\nContent-Length: 0\r\n\r\n"
    with vllm_like(v1_completions=Reply(raw=there.encode())) as asked:
        assert Http(asked.url, KEY).json("/v1/completions", {"prompt": "x"}) == {"a": 1}
    assert asked.requests[0][1]["authorization"] == f"Bearer {KEY}"
    assert "authorization" not in vllm.requests[0][1]


def test_an_error_has_its_status_and_what_the_server_says_to_a_request(vllm: VllmLike) -> None:
    vllm.replies["/page"] = as_json({"error": f"max_tokens is wrong\n{KEY}"}, 400)
    with pytest.raises(NoAnswer, match=r"/page answers 400 Bad Request: .*max_tokens is wrong") as caught:
        Http(vllm.url, KEY).json("/page", {})
    assert caught.value.status == 400
    assert KEY not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("before", range(480, 501))
def test_no_part_of_a_key_is_shown_where_an_error_is_cut(vllm: VllmLike, before: int) -> None:
    vllm.replies["/page"] = Reply(b"x" * before + KEY.encode() + b"x" * 100, status=400)
    with pytest.raises(NoAnswer) as caught:
        Http(vllm.url, KEY).json("/page", {})
    assert "sk" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_server_that_wants_a_key_gets_a_hint(vllm: VllmLike) -> None:
    vllm.replies["/page"] = as_json({}, 401)
    with pytest.raises(NoAnswer, match="DRAFTGATE_API_KEY"):
        Http(vllm.url).text("/page")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"4", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_object_is_refused(vllm: VllmLike, body: bytes) -> None:
    vllm.replies["/page"] = Reply(body)
    with pytest.raises(NoAnswer, match=f"{vllm.url}/page") as caught:
        Http(vllm.url).json("/page")
    assert caught.value.status is None


def test_a_server_that_is_silent_is_not_one_that_is_gone(vllm: VllmLike) -> None:
    vllm.replies["/page"] = Reply(stall=True)
    with pytest.raises(NoAnswer) as silent:
        Http(vllm.url).text("/page", timeout_s=0.1)
    with vllm_like() as other:
        pass
    with pytest.raises(NoAnswer) as gone:
        Http(other.url).text("/page")
    assert isinstance(silent.value.cause, TimeoutError)
    assert isinstance(gone.value.cause, ConnectionRefusedError)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_a_server_on_this_machine_is_asked_without_a_proxy(
    vllm: VllmLike, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert Http(vllm.url.replace("127.0.0.1", name)).json("/page") == {"a": 1}


def test_a_key_is_not_shown() -> None:
    assert KEY not in repr(Http("http://127.0.0.1:1", KEY))
