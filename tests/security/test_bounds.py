"""What a caller may make Relay do at once is bounded before it is done."""

import asyncio
import socket
import time
from typing import Any
from unittest import mock

import pytest

from relay.crypto.api_key import new_api_key
from relay.egress import resolver
from relay.egress.resolver import PooledResolver
from tests.gateway import Gateway

MANY = [b"[],", b"{},", b"[[],[]],", b'"",', b"1,", b'{"a":"b"},']


@pytest.mark.parametrize("piece", MANY)
async def test_a_large_body_of_many_values_is_refused_before_it_is_parsed(gateway: Gateway, piece: bytes) -> None:
    body = b'{"action":"relay.echo","params":{"message":[' + piece * (12_000_000 // len(piece)) + b"0]}}"
    with mock.patch("relay.surface.body.from_json", side_effect=AssertionError("it was parsed")):
        answer = await gateway.call("POST", "/actions/preview", data=body, key=gateway.admin)
    assert answer.status == 422
    assert "50000 values" in answer.json["detail"]


async def test_commas_and_brackets_inside_a_long_text_do_not_count(gateway: Gateway) -> None:
    text = '[,{"\\' * 400_000
    mail = {"to": ["you@example.com"], "subject": "Long", "text": text}
    (await gateway.post("/actions/preview", {"action": "email.send", "params": mail}, key=gateway.admin)).expect(200)


async def test_an_api_key_is_no_request_id(gateway: Gateway) -> None:
    key = new_api_key("test")
    answer = await gateway.get("/version", headers={"X-Request-ID": key})
    assert answer.headers["X-Request-ID"].startswith("req_")


async def test_names_that_do_not_resolve_hold_no_other_up(monkeypatch: pytest.MonkeyPatch) -> None:
    real = resolver._look_up

    def slow(host: str, *rest: Any) -> Any:
        if host.endswith(".slow.example"):
            time.sleep(3)
            raise socket.gaierror
        return real(host, *rest)

    monkeypatch.setattr(resolver, "_look_up", slow)
    names = PooledResolver()
    waiting = [asyncio.create_task(names.resolve(f"n{number}.slow.example", 80)) for number in range(32)]
    await asyncio.sleep(0.05)
    began = time.monotonic()
    [found] = await names.resolve("127.0.0.1", 80)
    assert (found["host"], found["port"]) == ("127.0.0.1", 80)
    assert time.monotonic() - began < 2.5
    assert all(isinstance(ended, OSError) for ended in await asyncio.gather(*waiting, return_exceptions=True))
