"""The headers of every answer, whatever made it: a route, the router, the stamp, or the HTTP parser."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.types import Receive, Scope, Send

from relay.store.target import Target
from relay.surface.stamp import Stamp
from tests.asgi import ask, scope_of
from tests.gateway import Gateway, open_gateway

ALWAYS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "strict-origin-when-cross-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
    "x-xss-protection": "0",
}
HSTS = "strict-transport-security"
SECURE = {"Host": "relay.example.com", "X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}


@pytest.fixture
async def gateway(sqlite_target: Target, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with open_gateway(sqlite_target, tmp_path / "data") as running:
        yield running


def parsed(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode("ascii").split("\r\n")
    pairs = [line.split(": ", 1) for line in lines]
    names = [name.lower() for name, _ in pairs]
    assert len(names) == len(set(names)), f"repeated: {names}"
    return int(status.split()[1]), {name.lower(): value for name, value in pairs}, body


REQUESTS: dict[str, tuple[int, bytes]] = {
    "a route": (200, b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"),
    "no credential": (401, b"GET /keys HTTP/1.1\r\nHost: x\r\n\r\n"),
    "no route": (404, b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"),
    "no method": (405, b"DELETE /version HTTP/1.1\r\nHost: x\r\n\r\n"),
    "another host": (421, b"GET /version HTTP/1.1\r\nHost: evil.example\r\n\r\n"),
    "no host": (400, b"GET /version HTTP/1.1\r\n\r\n"),
    "no HTTP": (400, b"hello\r\n\r\n"),
    "a TLS handshake": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    "two lengths": (400, b"POST /keys HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
    "a head that is too large": (431, b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: " + b"a" * 40_000 + b"\r\n\r\n"),
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_every_answer_carries_them(gateway: Gateway, name: str) -> None:
    expected, sent = REQUESTS[name]
    status, headers, body = parsed(await gateway.raw(sent))
    assert status == expected
    assert headers == {**headers, **ALWAYS}
    assert "camera=()" in headers["permissions-policy"]
    assert "server" not in headers and "x-powered-by" not in headers and HSTS not in headers
    assert re.fullmatch(r"req_[0-9a-f]{32}", headers["x-request-id"])
    if status >= 400:
        assert headers["content-type"] == "application/problem+json"
        problem = json.loads(body)
        assert problem["status"] == status and problem["request_id"] == headers["x-request-id"]
        assert int(headers["content-length"]) == len(body)


async def test_a_body_that_is_too_large(gateway: Gateway) -> None:
    key = gateway.admin.encode()
    sent = b"POST /keys HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + key + b"\r\nContent-Type: application/json\r\n"
    status, headers, _ = parsed(await gateway.raw(sent + b"Content-Length: 999999\r\n\r\n"))
    assert status == 413 and headers == {**headers, **ALWAYS}


async def test_a_defect() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("a secret")

    heard = await ask(Stamp(broken), scope_of())
    headers = {name.decode(): value.decode() for name, value in heard.messages[0]["headers"]}
    assert heard.status == 500 and headers == {**headers, **ALWAYS} and b"secret" not in heard.body


@pytest.mark.parametrize(
    ("env", "scheme", "sent"), [("production", "https", True), ("production", "http", False), ("test", "https", False)]
)
async def test_hsts_in_production_over_https_alone(
    env: str, scheme: str, sent: bool, sqlite_target: Target, tmp_path: Path
) -> None:
    options = {"RELAY_ENV": env, "RELAY_PUBLIC_URL": "https://relay.example.com", "TRUSTED_PROXIES": "127.0.0.1"}
    async with open_gateway(sqlite_target, tmp_path / "data", **options) as gateway:
        headers = {**SECURE, "X-Forwarded-Proto": scheme}
        for path, key in (("/keys", gateway.admin), ("/keys", None), ("/nowhere", None)):
            answer = await gateway.get(path, key=key, headers=headers)
            found = answer.headers.get("Strict-Transport-Security")
            assert found == ("max-age=31536000; includeSubDomains" if sent else None), (path, answer.status)


async def test_hsts_cannot_be_had_by_claiming_https(sqlite_target: Target, tmp_path: Path) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data", RELAY_ENV="production") as gateway:
        answer = await gateway.get("/version", headers={"X-Forwarded-Proto": "https", "Forwarded": "proto=https"})
        assert answer.status == 200 and HSTS not in {name.lower() for name in answer.headers}


async def test_the_page_has_one_style_by_nonce_and_nothing_else(sqlite_target: Target, tmp_path: Path) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data", RELAY_ENV="local") as gateway:
        first, second = await gateway.get("/docs"), await gateway.get("/docs")
        nonces = []
        for page in (first, second):
            policy = page.headers.getall("Content-Security-Policy")  # type: ignore[attr-defined]
            assert len(policy) == 1 and "unsafe" not in policy[0] and "frame-ancestors 'none'" in policy[0]
            match = re.search(r"style-src 'nonce-([\w-]{20,})'", policy[0])
            assert match is not None
            nonces.append(match[1])
            text = page.body.decode()
            assert f'<style nonce="{match[1]}">' in text
            assert "<script" not in text and 'style="' not in text and " on" not in re.sub(r">[^<]*<", "><", text)
        assert nonces[0] != nonces[1]
