"""Leaked keys: reported by anybody, by GitHub, by the operator; ended, and nothing told."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import event

from relay.crypto.api_key import new_api_key
from relay.settings import SettingsError
from relay.store.target import Target
from relay.store.writer import StoreUnavailable
from relay.web.api.leaks import ANSWER_SECONDS
from tests.gateway import Answer, Gateway, open_gateway, settings_for
from tests.receivers import open_receiver
from tests.sending_kit import endpoint, sending


@pytest.fixture
async def gate(target: Target, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with open_gateway(target, tmp_path / "data") as gateway:
        yield gateway


async def made(gateway: Gateway, *scopes: str) -> dict[str, Any]:
    return (await gateway.post("/keys", {"scopes": list(scopes)}, key=gateway.admin)).expect(201)


async def settled(gateway: Gateway) -> None:
    """Wait for what was reported to be done."""
    await gateway.house.api_keys._leaks.stop()


async def report(gateway: Gateway, value: Any, **options: Any) -> Answer:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    answer = await gateway.call("POST", "/keys/report-leak", data=data, **options)
    await settled(gateway)
    return answer


async def test_a_live_key_that_is_reported_ends_with_its_children(gate: Gateway) -> None:
    key = await made(gate, "developer")
    child = (await gate.post("/keys/children", {"scopes": ["docs"]}, key=key["key"])).expect(201)
    successor = (await gate.post(f"/keys/{key['id']}/rotate", key=gate.admin)).expect(200)
    (await report(gate, {"token": key["key"]})).expect(202)
    for dead in (key["key"], child["key"]):
        (await gate.get("/keys/children", key=dead)).expect(401)
    # A successor is another secret, which nobody has shown.
    (await gate.get("/keys/children", key=successor["key"])).expect(200)
    (leaked,) = await gate.events("identity:key:leaked")
    (revoked,) = await gate.events("identity:key:revoked")
    assert leaked["target"] == revoked["target"] == key["id"] and leaked["workspace_id"] == "default"
    assert key["key"] not in json.dumps((await gate.get("/audit?limit=200", key=gate.admin)).expect(200))
    (await report(gate, {"token": key["key"]})).expect(202)
    assert len(await gate.events("identity:key:leaked")) == 1


async def test_an_array_ends_every_key_in_it(gate: Gateway) -> None:
    keys = [await made(gate, "docs") for _ in range(3)]
    array: list[Any] = [{"token": each["key"], "type": "relay", "url": "u", "source": "commit"} for each in keys[:2]]
    (await report(gate, [None, 7, {"token": 1}, *array, {"token": new_api_key("test")}])).expect(202)
    statuses = [(await gate.get("/keys/children", key=each["key"])).status for each in keys]
    assert statuses == [401, 401, 200]


async def test_the_answer_tells_nothing(gate: Gateway) -> None:
    key, ended = await made(gate, "docs"), await made(gate, "docs")
    (await gate.call("DELETE", f"/keys/{ended['id']}", key=gate.admin)).expect(200)
    bodies: list[Any] = [
        {"token": key["key"]},
        {"token": ended["key"]},
        {"token": new_api_key("test")},
        {"token": "no key"},
        {"token": None},
        [],
        {},
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 5000,
        "relay",
    ]
    seen = set()
    for body in bodies:
        began = time.monotonic()
        answer = await report(gate, body)
        assert time.monotonic() - began >= ANSWER_SECONDS * 0.95
        names = frozenset(answer.headers) - {"X-Request-ID", "Date"}
        seen.add((answer.status, answer.body, names))
    assert seen == {(202, b'{"received":true}', next(iter(seen))[2])}
    (await gate.get("/keys/children", key=key["key"])).expect(401)


async def test_the_content_type_does_not_matter_and_a_credential_is_not_looked_at(gate: Gateway) -> None:
    key = await made(gate, "docs")
    headers = {"Content-Type": "text/plain", "Authorization": "Bearer nonsense"}
    (await report(gate, {"token": key["key"]}, headers=headers)).expect(202)
    (await gate.get("/keys/children", key=key["key"])).expect(401)


async def test_finding_nothing_and_finding_a_key_ask_the_database_the_same(gate: Gateway) -> None:
    key = await made(gate, "docs")
    asked: list[str] = []

    def note(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "api_keys" in statement:
            asked.append(statement)

    event.listen(gate.house.database.reader._engine.sync_engine, "before_cursor_execute", note)
    counts = []
    for token in (key["key"], new_api_key("test")):
        asked.clear()
        (await report(gate, [{"token": token}])).expect(202)
        counts.append(list(asked))
    assert counts[0] == counts[1] and len(counts[0]) == 1


async def test_reports_of_an_address_are_limited(sqlite_target: Target, tmp_path: Path) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data", RATE_LIMIT_LEAK_REPORTS_PER_MINUTE="2") as gateway:
        for status in (202, 202, 429):
            assert (await report(gateway, {})).status == status


async def test_a_body_beyond_the_bound_is_not_read(sqlite_target: Target, tmp_path: Path) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data") as gateway:
        assert (await report(gateway, b" " * (256 * 1024 + 1))).status == 413


async def test_what_cannot_be_written_at_once_is_written_later(
    sqlite_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.identity.leaks.RETRY_SECONDS", 0.01)
    async with open_gateway(sqlite_target, tmp_path / "data") as gateway:
        key = await made(gateway, "docs")
        writer, failures = gateway.house.database.writer, [StoreUnavailable("gone for a moment")] * 2
        real = writer.run

        async def run(unit: Any, **options: Any) -> Any:
            if failures:
                raise failures.pop()
            return await real(unit, **options)

        monkeypatch.setattr(writer, "run", run)
        (await report(gateway, {"token": key["key"]})).expect(202)
        monkeypatch.undo()
        assert not failures
        (await gateway.get("/keys/children", key=key["key"])).expect(401)


def public_file(path: Path, key: ec.EllipticCurvePrivateKey) -> str:
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    listed = [{"key_identifier": "gh1", "key": pem.decode(), "is_current": True}]
    path.write_text(json.dumps({"public_keys": listed}))
    return str(path)


async def test_github_is_believed_about_the_place_where_its_signature_is_right(target: Target, tmp_path: Path) -> None:
    signer = ec.generate_private_key(ec.SECP256R1())
    path = public_file(tmp_path / "github.json", signer)
    async with open_gateway(target, tmp_path / "data", LEAK_REPORT_KEYS_FILE=path) as gateway:
        for right in (True, False):
            key = await made(gateway, "docs")
            body = json.dumps(
                [{"token": key["key"], "type": "relay_api_key", "url": "https://github.com/x/1", "source": "commit"}]
            ).encode()
            signature = signer.sign(body if right else body + b" ", ec.ECDSA(hashes.SHA256()))
            headers = {
                "Github-Public-Key-Identifier": "gh1",
                "Github-Public-Key-Signature": base64.b64encode(signature).decode(),
            }
            (await report(gateway, body, headers=headers)).expect(202)
            # Whoever names a live key holds it: that is proof enough, signed or not.
            (await gateway.get("/keys/children", key=key["key"])).expect(401)
            (shown,) = (await gateway.get("/audit?tag=identity:key:leaked&limit=1", key=gateway.admin)).expect(200)[
                "items"
            ]
            place = {"type": "relay_api_key", "url": "https://github.com/x/1", "source": "commit"}
            expected = {"reported_by": "github", **place} if right else {"reported_by": "unsigned report"}
            assert shown["target"] == key["id"] and shown["details"] == expected


def test_a_file_that_holds_no_public_keys_stops_the_start(sqlite_target: Target, tmp_path: Path) -> None:
    async def start() -> None:
        async with open_gateway(sqlite_target, tmp_path / "data", LEAK_REPORT_KEYS_FILE=str(tmp_path / "keys")):
            pass

    (tmp_path / "keys").write_text('{"public_keys": []}')
    with pytest.raises(SettingsError, match="LEAK_REPORT_KEYS_FILE"):
        asyncio.run(start())
    with pytest.raises(SettingsError, match="LEAK_REPORT_KEYS_FILE"):
        settings_for(sqlite_target, tmp_path / "data", LEAK_REPORT_KEYS_FILE=str(tmp_path / "absent"))


async def test_endpoints_are_told(sqlite_target: Target, tmp_path: Path) -> None:
    async with open_receiver() as receiver, sending(sqlite_target, tmp_path) as gateway:
        await endpoint(gateway, receiver.url, "security.violation", "key.revoked")
        key = await made(gateway, "docs")
        (await report(gateway, {"token": key["key"]})).expect(202)
        told = {each.event["type"]: each.event["data"] for each in await receiver.arrived(2)}
        assert told["key.revoked"]["key_id"] == key["id"]
        violation = told["security.violation"]
        assert (violation["kind"], violation["severity"], violation["subject"]) == ("key_leaked", "critical", key["id"])
