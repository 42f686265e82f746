"""``http.request`` and ``webhook.save`` against real servers."""

import asyncio
import base64
import json
from typing import Any

import pytest
from pydantic import ValidationError
from pydantic_core import to_json

from relay.connectors import http, webhook
from relay.connectors.exchange import RESULT_BODY, Answer
from relay.core.action import Step
from relay.core.effect import EffectForbidden, EffectRefused, EffectUnknown
from relay.egress.http import HttpClient
from relay.egress.policy import EgressPolicy
from tests.outside import answer, http_server, make_permit, make_step

CLIENT = HttpClient(EgressPolicy(["127.0.0.0/8"]))
REQUEST = http.connector.actions["http.request"]
SAVE = webhook.connector.actions["webhook.save"]


def step(spec: Any, **params: Any) -> Step:
    return make_step(spec.name, spec.params.model_validate(params))


async def perform(spec: Any, **params: Any) -> Answer:
    given = step(spec, **params)
    result = await spec.handler(make_permit(given), given.params, CLIENT)
    assert isinstance(result, Answer)
    return result


def parts(request: bytes) -> tuple[str, dict[str, str], bytes]:
    head, _, body = request.partition(b"\r\n\r\n")
    line, *headers = head.decode().split("\r\n")
    return line, {name.lower(): value for name, _, value in (header.partition(": ") for header in headers)}, body


def shown_matches_sent(shown: dict[str, Any], request: bytes) -> None:
    line, headers, _ = parts(request)
    path = shown["url"].split("/", 3)[3]
    assert line == f"{shown['method']} /{path} HTTP/1.1"
    assert headers.pop("connection") == "close"
    assert headers == shown["headers"]


async def test_a_webhook_sends_what_its_preview_shows() -> None:
    async with http_server() as server:
        given = step(SAVE, url=f"{server.url}/in?x=1", payload={"b": 1.0, "a": ["ü", None]}, method="PUT")
        shown = SAVE.render(given, CLIENT)
        result = await SAVE.handler(make_permit(given), given.params, CLIENT)
    assert isinstance(result, Answer)
    shown_matches_sent(shown.body, server.requests[0])
    assert parts(server.requests[0])[2] == '{"a":["ü",null],"b":1}'.encode()
    assert shown.body["body"] == {"b": 1.0, "a": ["ü", None]}
    assert (result.status, result.body, result.encoding) == (200, "ok", "text")


@pytest.mark.parametrize("payload", [None, 0, "text", [], {}, False])
async def test_a_payload_is_any_json(payload: Any) -> None:
    async with http_server() as server:
        await perform(SAVE, url=server.url, payload=payload)
    assert json.loads(parts(server.requests[0])[2]) == payload


@pytest.mark.parametrize("payload", [float("nan"), 2**53, [{"a": -(2**53)}], "\ud800"])
def test_a_payload_without_canonical_form_is_refused(payload: Any) -> None:
    for spec, given in ((SAVE, {"payload": payload}), (REQUEST, {"method": "POST", "json": payload})):
        with pytest.raises(ValidationError):
            step(spec, url="https://x.y", **given)


async def test_a_request_sends_what_its_preview_shows() -> None:
    async with http_server() as server:
        given = step(
            REQUEST,
            method="PATCH",
            url=f"{server.url}/a?b=c",
            headers={"Accept-Language": "de", "Content-Type": "application/merge-patch+json"},
            query={"q": "a b&c=d/ü", "n": [1, 2.0, True], "e": ""},
            json={"x": 1},
        )
        shown = REQUEST.render(given, CLIENT)
        await REQUEST.handler(make_permit(given), given.params, CLIENT)
    shown_matches_sent(shown.body, server.requests[0])
    line, headers, body = parts(server.requests[0])
    assert line == "PATCH /a?b=c&q=a%20b%26c%3Dd%2F%C3%BC&n=1&n=2&n=true&e= HTTP/1.1"
    assert headers["content-type"] == "application/merge-patch+json"
    assert body == b'{"x":1}'


async def test_a_text_body() -> None:
    async with http_server() as server:
        await perform(REQUEST, method="POST", url=server.url, body="grüß\r\nGott")
        await perform(REQUEST, method="POST", url=server.url)
    _, headers, body = parts(server.requests[0])
    assert (headers["content-type"], body) == ("text/plain; charset=utf-8", "grüß\r\nGott".encode())
    _, headers, body = parts(server.requests[1])
    assert (headers["content-length"], body) == ("0", b"") and "content-type" not in headers


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
async def test_requests_without_a_body(method: str) -> None:
    body = "" if method == "HEAD" else "ok"
    async with http_server(answer(f"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{body}")) as server:
        result = await perform(REQUEST, method=method, url=server.url)
    assert parts(server.requests[0])[0] == f"{method} / HTTP/1.1"
    assert (result.status, result.body) == (200, body)


SECRETS: dict[str, Any] = {
    "method": "POST",
    "url": "https://x.y/p?api_key=hunter2&a=1",
    "headers": {"Authorization": "Bearer hunter2", "X-Custom": "hunter2", "Accept": "text/plain"},
    "query": {"token": "hunter2", "page": 3},
    "json": {"password": "hunter2", "nested": [{"client_secret": {"a": "hunter2"}}], "shown": "yes"},
}


def test_secrets_are_masked_in_preview_and_redaction() -> None:
    given = step(REQUEST, **SECRETS)
    shown, redacted = REQUEST.render(given, CLIENT), REQUEST.redact(given.params)
    assert "hunter2" not in repr(shown) + repr(redacted)
    assert shown.body["url"] == "https://x.y/p?api_key=***&a=1&token=***&page=3"
    assert shown.body["headers"]["accept"] == "text/plain"
    assert shown.body["body"]["shown"] == redacted["json"]["shown"] == "yes"
    assert redacted["query"] == {"token": "***", "page": 3}
    assert shown.warnings == (
        "6 values are masked: /url (api_key), /url (token), /headers/authorization, /headers/x-custom, "
        "/body/password, /body/nested/0/client_secret/a.",
    )
    saved = step(SAVE, url=SECRETS["url"], payload=SECRETS["json"])
    assert "hunter2" not in repr(SAVE.render(saved, CLIENT)) + repr(SAVE.redact(saved.params))
    assert SAVE.render(saved, CLIENT).warnings == (
        "3 values are masked: /url (api_key), /body/password, /body/nested/0/client_secret/a.",
    )


async def test_secrets_are_not_masked_on_the_wire() -> None:
    async with http_server() as server:
        await perform(REQUEST, **{**SECRETS, "url": f"{server.url}/p?api_key=hunter2&a=1"})
    assert server.requests[0].count(b"hunter2") == 6


@pytest.mark.parametrize(
    "change",
    [
        {"headers": {"Host": "evil"}}, {"headers": {"content-length": "3"}},
        {"headers": {"Transfer-Encoding": "chunked"}},
        {"headers": {"Proxy-Authorization": "x"}}, {"headers": {"X": "a\r\nHost: b"}}, {"headers": {"a b": "c"}},
        {"json": {}, "body": ""}, {"method": "GET", "json": {}}, {"method": "HEAD", "body": ""}, {"method": "TRACE"},
        {"method": "CONNECT"}, {"method": "post"}, {"url": "ftp://x.y"}, {"url": "https://u:p@x.y"},
        {"url": "https://x.y#f"},
        {"url": "https://x.y/" + "a" * 8192}, {"query": {"a": "b" * 8192}}, {"query": {"a": None}},
        {"query": {"a": {}}},
        {"body": "\ud800"}, {"unknown": 1}, {"json_body": {}},
    ],
)  # fmt: skip
def test_what_is_not_accepted(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        step(REQUEST, **{"method": "POST", "url": "https://x.y", **change})


@pytest.mark.parametrize(
    "params",
    [{"json": {"a": 1.0}, "query": {"b": 2.0}}, {"body": "x"}, {"json": None}, {}],
)
def test_parameters_survive_storage_with_the_same_bytes(params: dict[str, Any]) -> None:
    given = REQUEST.params.model_validate({"method": "POST", "url": "HTTPS://X.y?a", **params})
    again = REQUEST.params.model_validate(json.loads(json.dumps(given.model_dump(mode="json"))))
    assert isinstance(given, http.SendRequest) and isinstance(again, http.SendRequest)
    assert http.compose(given) == http.compose(again)


def status(code: int, *headers: str) -> str:
    return "\r\n".join([f"HTTP/1.1 {code} X", "Content-Length: 4", *headers, "", "body"])


@pytest.mark.parametrize("code", [400, 401, 404, 409, 429, 500, 503])
async def test_an_upstream_refusal_names_the_status_and_not_the_body(code: int) -> None:
    async with http_server(answer(status(code))) as server:
        for spec, given in ((SAVE, {"payload": 1}), (REQUEST, {"method": "POST"}), (REQUEST, {"method": "GET"})):
            with pytest.raises(EffectRefused) as raised:
                await perform(spec, url=f"{server.url}/p?token=hunter2", **given)
            assert raised.value.code == f"upstream_status_{code}"
            assert str(code) in raised.value.detail
            assert "body" not in raised.value.detail and "hunter2" not in raised.value.detail


@pytest.mark.parametrize("code", [502, 504])
async def test_a_gateway_that_lost_its_server_settles_nothing_that_writes(code: int) -> None:
    async with http_server(answer(status(code))) as server:
        with pytest.raises(EffectUnknown):
            await perform(SAVE, url=server.url, payload=1)
        with pytest.raises(EffectUnknown):
            await perform(REQUEST, url=server.url, method="DELETE")
        with pytest.raises(EffectRefused):
            await perform(REQUEST, url=server.url, method="GET")


async def test_a_redirect_is_a_result_of_a_request_and_a_failure_of_a_webhook() -> None:
    async with http_server(answer(status(302, "Location: /next?token=hunter2"))) as server:
        result = await perform(REQUEST, method="GET", url=server.url)
        assert (result.status, result.headers["location"]) == (302, "/next?token=***")
        with pytest.raises(EffectRefused) as raised:
            await perform(SAVE, url=server.url, payload=1)
    assert raised.value.code == "upstream_status_302"
    assert len(server.requests) == 2


async def test_only_harmless_headers_of_the_answer_are_kept() -> None:
    raw = status(200, "ETag: x", "Set-Cookie: a=hunter2", "X-Token: hunter2", "X-Request-Id: 7", "Content-Type: text/a")
    async with http_server(answer(raw)) as server:
        result = await perform(REQUEST, method="GET", url=server.url)
    assert result.headers == {"etag": "x", "x-request-id": "7", "content-type": "text/a", "content-length": "4"}


async def test_header_values_of_the_answer_can_always_be_recorded() -> None:
    raw = b'HTTP/1.1 201 Created\r\nETag: "a\xe9\xff"\r\nX-Request-Id: \xe2\x80\xae7\x7f\r\nContent-Length: 0\r\n'
    raw += b"Location: /\xff?token=hunter2\r\n\r\n"
    async with http_server(answer(raw)) as server:
        result = await perform(REQUEST, method="POST", url=server.url)
    assert to_json(result)
    assert result.headers == {
        "etag": '"a\ufffd\ufffd"',
        "x-request-id": "\ufffd7\ufffd",
        "content-length": "0",
        "location": "/\ufffd?token=***",
    }


@pytest.mark.parametrize(
    ("body", "kind", "text"),
    [
        ("ü".encode(), "text/plain", "ü"),
        ("ü".encode("latin-1"), "text/plain; charset=ISO-8859-1", "ü"),
        ("ü".encode("latin-1"), "text/plain", None),
        (b"a\0b", "text/plain", None),
        (b"\xff\xd8", "image/jpeg", None),
        (b"abc", "text/plain\r\nContent-Encoding: gzip", None),
        (b"abc", "text/plain; charset=utf-7", None),
    ],
)
async def test_bodies_are_text_or_base64(body: bytes, kind: str, text: str | None) -> None:
    raw = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    async with http_server(answer(raw)) as server:
        result = await perform(REQUEST, method="GET", url=server.url)
    expected = ("base64", base64.b64encode(body).decode()) if text is None else ("text", text)
    assert (result.encoding, result.body) == expected and not result.truncated


async def test_long_bodies_are_cut_between_characters() -> None:
    body = "x" + "ü" * RESULT_BODY
    raw = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body.encode())}\r\n\r\n{body}"
    async with http_server(answer(raw)) as server:
        result = await perform(REQUEST, method="GET", url=server.url)
    assert result.truncated and result.encoding == "text"
    assert result.body == body[: 1 + (RESULT_BODY - 1) // 2]


async def test_a_denied_destination_is_refused_at_preview_and_at_execution() -> None:
    closed = HttpClient(EgressPolicy())
    async with http_server() as server:
        for spec, more in ((SAVE, {"payload": 1}), (REQUEST, {"method": "GET"})):
            given = step(spec, url=server.url, **more)
            assert "loopback" in (spec.render(given, closed).refusal or "")
            with pytest.raises(EffectForbidden):
                await spec.handler(make_permit(given), given.params, closed)
        await asyncio.sleep(0.05)
    assert server.connections == 0


def test_an_unencrypted_connection_is_a_warning() -> None:
    assert REQUEST.render(step(REQUEST, method="GET", url="http://x.y"), CLIENT).warnings
    assert not REQUEST.render(step(REQUEST, method="GET", url="https://x.y"), CLIENT).warnings


def test_neither_is_ever_a_read_or_repeatable() -> None:
    for spec in (REQUEST, SAVE):
        assert (spec.effect, spec.idempotent) == ("write", False)
