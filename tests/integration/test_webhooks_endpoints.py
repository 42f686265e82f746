"""Endpoints over the API: what is refused, what is shown, what is told, and to whom."""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from relay.egress import resolver
from relay.egress import webhooks as egress_webhooks
from relay.egress.resolver import PooledResolver
from relay.store.tables import envelopes, metadata
from relay.store.target import Target
from relay.webhooks.endpoints import MAX_ENDPOINTS
from tests.gateway import Gateway
from tests.receivers import open_receiver, status
from tests.sending_kit import NEVER_AGAIN, act, deliveries, delivery, endpoint, sending, settled

PUBLIC = "https://hooks.example.com/relay"


@pytest.fixture
async def running(target: Target, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with sending(target, tmp_path) as gateway:
        yield gateway


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://hooks.example.com/", "https"),
        ("https://10.0.0.1/", "private"),
        ("https://169.254.169.254/latest/meta-data", "never"),
        ("http://[::1]:9/", "https"),
        ("https://localhost/", ""),
        ("https://user:password@example.com/", "user name"),
        ("ftp://example.com/", "http"),
        ("https://2130706433/", "IPv4"),
        ("not a url", ""),
    ],
)
async def test_a_url_that_egress_refuses_is_not_stored(
    sqlite_target: Target, tmp_path: Path, url: str, why: str
) -> None:
    async with sending(sqlite_target, tmp_path, EGRESS_ALLOW="192.0.2.1:9") as gateway:
        answer = await gateway.post("/webhooks/endpoints", {"url": url, "events": ["*"]}, key=gateway.admin)
        problem = answer.expect(422)
        assert problem["errors"][0]["pointer"] == "/url" and why in problem["errors"][0]["message"], problem
        assert "password@" not in answer.body.decode()
        assert (await gateway.get("/webhooks/endpoints", key=gateway.admin)).expect(200)["items"] == []
        made = await endpoint(gateway, PUBLIC)
        path = f"/webhooks/endpoints/{made['id']}"
        (await gateway.call("PATCH", path, json={"url": url}, key=gateway.admin)).expect(422)
        assert (await gateway.get(path, key=gateway.admin)).expect(200)["url"] == PUBLIC


async def test_a_name_that_leads_to_refused_addresses_alone_is_not_stored(
    sqlite_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leads = {
        "inside.example": ["10.0.0.7", "fd00::7"],
        "metadata.example": ["169.254.169.254"],
        "both.example": ["10.0.0.7", "93.184.216.34"],
        "outside.example": ["93.184.216.34"],
        "opened.example": ["10.0.0.7"],
    }

    def look_up(host: str, port: int, family: int) -> list[tuple[int, int, int, str, tuple[object, ...]]]:
        if host not in leads:
            raise OSError("no such host")
        return [(socket.AF_INET6 if ":" in ip else socket.AF_INET, 1, 6, "", (ip, port, 0, 0)) for ip in leads[host]]

    monkeypatch.setattr(resolver, "_look_up", look_up)
    async with sending(sqlite_target, tmp_path, EGRESS_ALLOW="opened.example") as gateway:
        made = await endpoint(gateway, "https://outside.example/")
        path = f"/webhooks/endpoints/{made['id']}"
        for host, why in (("inside.example", "not public"), ("metadata.example", "never")):
            body = {"url": f"https://{host}/", "events": ["*"]}
            for answer in (
                await gateway.post("/webhooks/endpoints", body, key=gateway.admin),
                await gateway.call("PATCH", path, json={"url": body["url"]}, key=gateway.admin),
            ):
                (problem,) = answer.expect(422)["errors"]
                assert problem["pointer"] == "/url" and why in problem["message"] and host in problem["message"]
        for host in ("both.example", "opened.example", "not-there-yet.example"):
            await endpoint(gateway, f"https://{host}/")
        assert len((await gateway.get("/webhooks/endpoints", key=gateway.admin)).expect(200)["items"]) == 4


async def test_a_name_server_that_never_answers_holds_no_endpoint_up(
    sqlite_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()

    def look_up(*_: object) -> list[tuple[int, int, int, str, tuple[object, ...]]]:
        answers.wait(60)
        return []

    monkeypatch.setattr(resolver, "_look_up", look_up)
    monkeypatch.setattr(egress_webhooks, "LOOK_UP_SECONDS", 0.05)
    async with sending(sqlite_target, tmp_path) as gateway:
        try:
            async with asyncio.timeout(30):
                await endpoint(gateway, PUBLIC)
        finally:
            answers.set()


async def test_names_that_are_slow_to_look_up_keep_no_connection_from_being_made(
    sqlite_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, answers, begun = resolver._look_up, threading.Event(), threading.Semaphore(0)

    def look_up(host: str, *rest: Any) -> Any:
        if host.endswith(".slow.example"):
            begun.release()
            answers.wait(60)
            raise OSError("no such host")
        return real(host, *rest)

    monkeypatch.setattr(resolver, "_look_up", look_up)
    monkeypatch.setattr(egress_webhooks, "LOOK_UP_SECONDS", 0.5)
    body = {"events": ["*"]}
    async with sending(sqlite_target, tmp_path) as gateway:
        making = [
            asyncio.create_task(
                gateway.post("/webhooks/endpoints", {"url": f"https://n{n}.slow.example/", **body}, key=gateway.admin)
            )
            for n in range(resolver.LOOKUPS + resolver.CHECKS)
        ]
        try:
            await asyncio.gather(*making)
            assert begun.acquire(blocking=False)
            async with asyncio.timeout(30):
                assert await PooledResolver().resolve("127.0.0.1", 80)
        finally:
            answers.set()


async def test_plain_http_goes_to_a_host_that_is_named(sqlite_target: Target, tmp_path: Path) -> None:
    allow = "192.0.2.1:9,hooks.internal,198.51.100.0/24"
    async with sending(sqlite_target, tmp_path, EGRESS_ALLOW=allow) as gateway:
        for url in ("http://192.0.2.1:9/", "http://hooks.internal/", "http://198.51.100.7/"):
            await endpoint(gateway, url)
        for url in ("http://192.0.2.1:10/", "http://other.internal/", "http://198.51.101.7/"):
            (await gateway.post("/webhooks/endpoints", {"url": url, "events": ["*"]}, key=gateway.admin)).expect(422)


@pytest.mark.parametrize(
    "change",
    [
        {"events": ["nothing.such"]},
        {"events": []},
        {"events": ["action.*", "run"]},
        {"events": ["webhook.test"]},
        {"events": "*"},
        {"legacy_signature": 1},
        {"secret": "mine"},
    ],
)
async def test_what_is_not_valid_is_refused(running: Gateway, change: dict[str, Any]) -> None:
    wanted = {"url": PUBLIC, "events": ["*"], **change}
    (await running.post("/webhooks/endpoints", wanted, key=running.admin)).expect(422)


async def test_a_type_of_senders_is_told_how_it_is_asked_for(running: Gateway) -> None:
    wanted = {"url": PUBLIC, "events": ["run.*", "order.paid"]}
    refused = (await running.post("/webhooks/endpoints", wanted, key=running.admin)).expect(422)
    (error,) = refused["errors"]
    assert error["pointer"] == "/events/1" and "webhook.received:order.paid" in error["message"]
    asked = {**wanted, "events": ["run.*", "webhook.received:order.paid"]}
    made = (await running.post("/webhooks/endpoints", asked, key=running.admin)).expect(201)
    assert made["events"] == asked["events"]


async def test_a_secret_stands_in_the_answer_that_made_it_alone(running: Gateway) -> None:
    made = await endpoint(running, PUBLIC + "?token=canary-in-url")
    rotated = (await running.post(f"/webhooks/endpoints/{made['id']}/rotate", key=running.admin)).expect(200)
    path = f"/webhooks/endpoints/{made['id']}"
    answers = [
        await running.get("/webhooks/endpoints", key=running.admin),
        await running.get(path, key=running.admin),
        await running.call("PATCH", path, json={"description": "x"}, key=running.admin),
        await running.get("/audit?limit=200", key=running.admin),
    ]
    for answer in answers:
        answer.expect(200)
        assert made["secret"] not in answer.body.decode() and rotated["secret"] not in answer.body.decode()
    for table in metadata.sorted_tables:
        stored = repr(await running.house.database.reader.all(select(table)))
        for canary in (made["secret"], rotated["secret"], "canary-in-url"):
            assert canary not in stored, f"{table.name} holds it in the clear"


async def test_an_endpoint_gets_what_it_asks_for_and_nothing_else(target: Target, tmp_path: Path) -> None:
    async with open_receiver() as keys, open_receiver() as everything, sending(target, tmp_path) as gateway:
        await endpoint(gateway, keys.url, "key.*")
        await endpoint(gateway, everything.url, "*")
        await act(gateway)
        created = (await gateway.post("/keys", {"scopes": ["audit:read"]}, key=gateway.admin)).expect(201)
        await everything.arrived(2)
        (got,) = await keys.arrived(1)
        assert got.event["type"] == "key.created" and got.event["data"]["key_id"] == created["id"]
        assert sorted(one.event["type"] for one in everything.received) == ["action.succeeded", "key.created"]
        assert created["key"] not in got.body.decode()
        same = next(one for one in everything.received if one.event["type"] == "key.created")
        assert same.id == got.id, "one event has one id wherever it goes"


async def test_another_workspace_hears_nothing(target: Target, tmp_path: Path) -> None:
    async with open_receiver() as receiver, open_receiver() as theirs, sending(target, tmp_path) as gateway:
        other = await gateway.key("webhooks:manage", "actions:execute", workspace="other")
        await endpoint(gateway, receiver.url)
        await endpoint(gateway, theirs.url, key=other)
        await act(gateway)
        await act(gateway, key=other)
        for one, workspace in ((receiver, "default"), (theirs, "other")):
            await one.arrived()
            found = one.of("action.succeeded")
            assert [event.event["data"]["workspace_id"] for event in found] == [workspace]


async def test_the_objects_of_another_workspace_are_not_found_and_untouched(target: Target, tmp_path: Path) -> None:
    async with open_receiver(status(500)) as receiver, sending(target, tmp_path, NEVER_AGAIN) as gateway:
        made = await endpoint(gateway, receiver.url, "action.succeeded")
        await act(gateway)
        (row,) = await settled(gateway, 1, "dead")
        other = await gateway.key("webhooks:manage", workspace="other")
        mine = f"/webhooks/endpoints/{made['id']}"
        for method, path, body in (
            ("GET", mine, None),
            ("PATCH", mine, {"enabled": False}),
            ("DELETE", mine, None),
            ("POST", f"{mine}/rotate", None),
            ("POST", f"{mine}/test", None),
            ("POST", f"{mine}/replay", {"since": "2020-01-01T00:00:00Z"}),
            ("GET", f"/webhooks/deliveries/{row['id']}", None),
            ("POST", f"/webhooks/deliveries/{row['id']}/replay", None),
        ):
            (await gateway.call(method, path, json=body, key=other)).expect(404)
        assert (await deliveries(gateway, key=other)) == []
        assert (await gateway.get("/webhooks/endpoints", key=other)).expect(200)["items"] == []
        seen = (await gateway.get(mine, key=gateway.admin)).expect(200)
        assert seen["status"] == "enabled" and len(await deliveries(gateway)) == 1


async def test_changes_hold_for_the_next_event(target: Target, tmp_path: Path) -> None:
    async with open_receiver() as first, open_receiver() as second, sending(target, tmp_path) as gateway:
        made = await endpoint(gateway, first.url, "key.created")
        path = f"/webhooks/endpoints/{made['id']}"
        change = {"url": second.url, "events": ["action.succeeded"], "description": "moved", "legacy_signature": True}
        changed = (await gateway.call("PATCH", path, json=change, key=gateway.admin)).expect(200)
        assert {name: changed[name] for name in change} == change
        await act(gateway)
        (got,) = await second.arrived()
        assert "x-webhook-signature" in got.headers and first.received == []
        tags = [event["tag"] for event in await gateway.events(target=made["id"])]
        assert tags == ["webhooks:endpoint:created", "webhooks:endpoint:changed"]


async def test_a_change_that_changes_nothing_leaves_no_trace(running: Gateway) -> None:
    made = await endpoint(running, PUBLIC, "key.*")
    path = f"/webhooks/endpoints/{made['id']}"
    for change in ({}, {"url": PUBLIC, "events": ["key.*"], "enabled": True}):
        (await running.call("PATCH", path, json=change, key=running.admin)).expect(200)
    assert [event["tag"] for event in await running.events(target=made["id"])] == ["webhooks:endpoint:created"]


async def test_disabled_gets_nothing_and_enabled_again_gets_the_next(target: Target, tmp_path: Path) -> None:
    async with open_receiver() as receiver, sending(target, tmp_path) as gateway:
        made = await endpoint(gateway, receiver.url, "action.succeeded")
        path = f"/webhooks/endpoints/{made['id']}"
        off = (await gateway.call("PATCH", path, json={"enabled": False}, key=gateway.admin)).expect(200)
        assert (off["status"], off["disabled_reason"]) == ("disabled", "switched_off")
        await act(gateway, "unheard")
        (await gateway.post(f"{path}/test", key=gateway.admin)).expect(409)
        on = (await gateway.call("PATCH", path, json={"enabled": True}, key=gateway.admin)).expect(200)
        assert on["status"] == "enabled" and on["disabled_at"] is None
        heard = await act(gateway, "heard")
        (got,) = await receiver.arrived()
        assert got.event["data"]["attempt_id"] == heard
        tags = [event["tag"].rpartition(":")[2] for event in await gateway.events(target=made["id"])]
        assert tags == ["created", "disabled", "enabled"]


async def test_a_deleted_endpoint_is_gone_with_its_secrets(target: Target, tmp_path: Path) -> None:
    async with open_receiver(status(500)) as receiver, sending(target, tmp_path) as gateway:
        made = await endpoint(gateway, receiver.url, "action.succeeded")
        await act(gateway)
        await receiver.arrived()
        path = f"/webhooks/endpoints/{made['id']}"
        (await gateway.call("DELETE", path, key=gateway.admin)).expect(200)
        (await gateway.get(path, key=gateway.admin)).expect(404)
        rows = await gateway.house.database.reader.all(select(envelopes).where(envelopes.c.record_id == made["id"]))
        assert rows == []
        (row,) = await settled(gateway, 1, "dead")
        assert row["error"] in ("endpoint_deleted", "status_500")
        (await gateway.post(f"/webhooks/deliveries/{row['id']}/replay", key=gateway.admin)).expect(409)


async def test_the_test_event_goes_to_that_endpoint_whatever_it_asks_for(target: Target, tmp_path: Path) -> None:
    async with open_receiver() as receiver, open_receiver() as other, sending(target, tmp_path) as gateway:
        made = await endpoint(gateway, receiver.url, "run.*")
        await endpoint(gateway, other.url, "*")
        answer = (await gateway.post(f"/webhooks/endpoints/{made['id']}/test", key=gateway.admin)).expect(202)
        (got,) = await receiver.arrived()
        assert got.event["type"] == "webhook.test" and got.event["data"]["endpoint_id"] == made["id"]
        await settled(gateway, 1, "succeeded")
        found = await delivery(gateway, answer["delivery_id"])
        assert found["message_id"] == got.id and found["status"] == "succeeded"
        assert other.received == []


async def test_a_workspace_has_so_many_endpoints_and_no_more(running: Gateway) -> None:
    body = {"url": PUBLIC, "events": ["*"]}
    made = await asyncio.gather(
        *(running.post("/webhooks/endpoints", body, key=running.admin) for _ in range(MAX_ENDPOINTS + 3))
    )
    assert sorted(answer.status for answer in made) == [201] * MAX_ENDPOINTS + [409] * 3
    other = await running.key("webhooks:manage", workspace="other")
    await endpoint(running, PUBLIC, key=other)


async def test_twin_rotations_both_hold(running: Gateway) -> None:
    made = await endpoint(running, PUBLIC)
    path = f"/webhooks/endpoints/{made['id']}/rotate"
    twins = await asyncio.gather(*(running.post(path, key=running.admin) for _ in range(2)))
    secrets = {answer.expect(200)["secret"] for answer in twins}
    assert len(secrets) == 2
    row = await running.house.database.reader.one(
        select(envelopes.c.body).where(envelopes.c.record_id == made["id"], envelopes.c.purpose == "webhook-endpoint")
    )
    assert row is not None
    plain = running.house.envelopes.open(row[0], workspace="default", purpose="webhook-endpoint", record=made["id"])
    assert {text for text, _ in json.loads(plain)["secrets"]} == secrets | {made["secret"]}


@pytest.mark.parametrize("hours", [-1, 169, "24", 1.5])
async def test_an_overlap_has_bounds(running: Gateway, hours: Any) -> None:
    made = await endpoint(running, PUBLIC)
    path = f"/webhooks/endpoints/{made['id']}/rotate"
    (await running.post(path, {"overlap_hours": hours}, key=running.admin)).expect(422)
