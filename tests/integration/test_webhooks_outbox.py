"""The outbox: events commit with what they report or not at all, and nobody is missed when endpoints change."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select, update

from relay.audit import verify as verify_module
from relay.audit.record import EventRefused, event
from relay.core.clock import DAY, now
from relay.core.event import EventDraft
from relay.house import open_house
from relay.store.endpoints import EndpointRepository
from relay.store.query import Query
from relay.store.tables import api_keys, audit_events, envelopes, workspaces
from relay.store.tables.webhooks_out import webhook_deliveries, webhook_messages
from relay.store.target import Target
from relay.store.writer import Tx
from relay.webhooks.schedule import Schedule
from relay.webhooks.types import BY_NAME
from tests.gateway import Gateway, settings_for
from tests.receivers import open_receiver
from tests.schemas import check
from tests.sending_kit import act, endpoint, sending

PUBLIC = "https://hooks.example.invalid/"
IDLE = replace(Schedule(), sweep=3600 * 1_000_000)
_TOUCH = Query(update(workspaces).values(created_at=workspaces.c.created_at))


def finished(number: int, notice: dict[str, Any] | None = None) -> EventDraft:
    return event(
        "gate:action:outcome",
        workspace_id="default",
        target=f"att_{number:032x}",
        action="relay.echo",
        digest="0" * 64,
        outcome="succeeded",
        notice=notice,
    )


async def counts(gateway: Gateway) -> tuple[int, int, int, int]:
    """Return how many audit events of outcomes, messages, deliveries and message bodies there are."""
    reader = gateway.house.database.reader
    found = []
    for query in (
        select(func.count()).select_from(audit_events).where(audit_events.c.tag == "gate:action:outcome"),
        select(func.count()).select_from(webhook_messages),
        select(func.count()).select_from(webhook_deliveries),
        select(func.count()).select_from(envelopes).where(envelopes.c.purpose == "webhook-message"),
    ):
        row = await reader.one(query)
        assert row is not None
        found.append(int(row[0]))
    return found[0], found[1], found[2], found[3]


class Broken(Exception):
    """What a unit of these tests raises."""


def unit_of(number: int, kind: str) -> Callable[[Tx], int]:
    """Return a unit that records an outcome and then commits, or fails in one of the ways that there are."""

    def unit(tx: Tx) -> int:
        if kind == "refuses":
            raise Broken
        if kind == "unsendable":
            tx.record(finished(number, {"run_id": object()}))
            return number
        tx.record(finished(number))
        tx.run(_TOUCH)
        if kind == "breaks":
            raise Broken
        return number

    return unit


KINDS = st.lists(st.sampled_from(["commits", "refuses", "breaks", "unsendable"]), min_size=1, max_size=12)


async def test_a_message_is_there_exactly_when_what_it_reports_is(target: Target, tmp_path: Path) -> None:
    """Whatever units share a batch, each that commits leaves one event and two deliveries, each other one nothing."""
    async with sending(target, tmp_path, IDLE) as gateway:
        for _ in range(2):
            await endpoint(gateway, PUBLIC, "action.succeeded")
        run = gateway.house.database.writer.run

        async def batch(kinds: list[str]) -> None:
            before = await counts(gateway)
            done = await asyncio.gather(
                *(run(unit_of(number, kind)) for number, kind in enumerate(kinds)), return_exceptions=True
            )
            good = [number for number, kind in enumerate(kinds) if kind == "commits"]
            assert [number for number in done if not isinstance(number, BaseException)] == good
            after = await counts(gateway)
            assert tuple(b - a for a, b in zip(before, after, strict=True)) == (
                len(good),
                len(good),
                2 * len(good),
                len(good),
            )

        loop = asyncio.get_running_loop()

        @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(KINDS)
        def property_holds(kinds: list[str]) -> None:
            asyncio.run_coroutine_threadsafe(batch(kinds), loop).result(60)

        await asyncio.to_thread(property_holds)


async def test_without_endpoints_nothing_is_written(target: Target, tmp_path: Path) -> None:
    async with sending(target, tmp_path, IDLE) as gateway:
        await act(gateway)
        assert (await counts(gateway))[1:] == (0, 0, 0)


async def test_an_endpoint_whose_transaction_failed_gets_nothing_later(target: Target, tmp_path: Path) -> None:
    """What a rolled back transaction saw of endpoints is not kept."""
    async with sending(target, tmp_path, IDLE) as gateway:
        made = await endpoint(gateway, PUBLIC, "action.succeeded")
        outbox = gateway.house.outbox

        def breaks(tx: Tx) -> None:
            EndpointRepository("default").delete(tx, made["id"])
            outbox.routes_changed(tx)
            tx.record(finished(1))
            tx.record(event("no:such:tag", workspace_id="default"))  # refused after the outbox has had its turn

        with pytest.raises(EventRefused):
            await gateway.house.database.writer.run(breaks)
        await act(gateway)
        assert (await counts(gateway))[2] == 1


async def test_an_endpoint_made_by_another_process_is_not_missed(target: Target, tmp_path: Path) -> None:
    async with sending(target, tmp_path, IDLE) as gateway:
        made = await endpoint(gateway, PUBLIC, "key.created")
        await act(gateway)
        assert (await counts(gateway))[2] == 0
        async with open_house(settings_for(target, tmp_path / "data")) as house:

            def change(tx: Tx) -> None:
                repository = EndpointRepository("default")
                row = repository.lock(tx, made["id"])
                assert row is not None
                repository.change(tx, replace(row, events='["action.succeeded"]'))

            await house.database.writer.run(change)
        await asyncio.sleep(1.2)  # what PostgreSQL's replicas may be late
        await act(gateway)
        assert (await counts(gateway))[2] == 1


async def test_every_kind_of_event_fits_its_schema(target: Target, tmp_path: Path) -> None:
    async with open_receiver() as receiver, sending(target, tmp_path) as gateway:
        admin = gateway.admin
        doomed = await endpoint(gateway, PUBLIC, "key.*")
        everything = await endpoint(gateway, receiver.url, "*")
        await act(gateway)
        wrong = {"action": "webhook.save", "params": {"url": "http://127.0.0.1:9/", "payload": 1}}
        await gateway.post("/actions/execute", wrong, key=admin)
        run = (await gateway.post("/ai/execute", {"steps": [_step("hello")]}, key=admin)).expect(202)["run_id"]
        await gateway.post("/ai/execute", {"steps": [{"id": "s1", **wrong}]}, key=admin)
        key = (await gateway.post("/keys", {"scopes": ["audit:read"], "expires_days": 30}, key=admin)).expect(201)
        rotated = (await gateway.post(f"/keys/{key['id']}/rotate", key=admin)).expect(200)
        (await gateway.call("DELETE", f"/keys/{rotated['id']}", key=admin)).expect(200)
        await gateway.get("/version", key=rotated["key"])
        (await gateway.get("/keys", key=rotated["key"])).expect(401)
        await gateway.house.watch.look(now() + 80 * DAY)
        change = {"enabled": False}
        (await gateway.call("PATCH", f"/webhooks/endpoints/{doomed['id']}", json=change, key=admin)).expect(200)
        (await gateway.post(f"/webhooks/endpoints/{everything['id']}/test", key=admin)).expect(202)
        expected = {
            "action.succeeded",
            "action.failed",
            "run.created",
            "run.succeeded",
            "run.failed",
            "key.created",
            "key.rotated",
            "key.revoked",
            "key.expiring",
            "security.violation",
            "webhook.endpoint.disabled",
            "webhook.test",
        }
        async with asyncio.timeout(30):
            while not expected <= {one.event["type"] for one in receiver.received}:
                receiver.waiting.clear()
                await receiver.waiting.wait()
        for one in receiver.received:
            check(BY_NAME[one.event["type"]].schema(), one.event)
            assert len(one.body) < 20_000
        of_run = [one.event["data"] for one in receiver.of("action.succeeded") if "run_id" in one.event["data"]]
        assert of_run and (of_run[0]["run_id"], of_run[0]["step_id"]) == (run, "s1")
        (violation,) = receiver.of("security.violation")
        assert violation.event["data"]["kind"] == "revoked_key_used"
        assert violation.event["data"]["subject"] == rotated["id"]


def _step(message: str) -> dict[str, Any]:
    return {"id": "s1", "action": "relay.echo", "params": {"message": message}}


async def test_a_key_is_warned_of_twice_and_no_more(target: Target, tmp_path: Path) -> None:
    async with sending(target, tmp_path, IDLE) as gateway:
        await gateway.key("audit:read", days=2)  # never: it was made to end
        long = (await gateway.post("/keys", {"scopes": ["audit:read"], "expires_days": 60}, key=gateway.admin)).json
        reader = gateway.house.database.reader
        row = await reader.one(select(api_keys.c.expires_at).where(api_keys.c.id == long["id"]))
        assert row is not None
        end, look = row[0], gateway.house.watch.look
        for days, told in ((15, 0), (13.5, 1), (13.4, 1), (3.5, 1), (2.5, 2), (1, 2), (-1, 2)):
            await asyncio.gather(*(look(round(end - days * DAY)) for _ in range(2)))
            events = await gateway.events("identity:key:expiring", target=long["id"])
            assert len(events) == told, f"{days} days before the end"
        assert await gateway.events("identity:key:expiring") == events


async def test_use_of_a_revoked_key_is_recorded_once_a_day(target: Target, tmp_path: Path) -> None:
    async with sending(target, tmp_path, IDLE) as gateway:
        key = (await gateway.post("/keys", {"scopes": ["audit:read"]}, key=gateway.admin)).expect(201)
        (await gateway.get("/audit", key=key["key"])).expect(200)
        (await gateway.call("DELETE", f"/keys/{key['id']}", key=gateway.admin)).expect(200)
        for _ in range(5):
            (await gateway.get("/audit", key=key["key"])).expect(401)
        await gateway.house.watch.stop()
        (recorded,) = await gateway.events("identity:key:revoked_used")
        assert recorded["target"] == key["id"] and recorded["workspace_id"] == "default"


async def test_a_log_that_does_not_hold_is_told_once(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A server looks by itself soon after its start; what it has seen to hold it looks at again after an hour.
    monkeypatch.setattr(verify_module, "WHOLE_EVERY", 0)
    async with open_receiver() as receiver, sending(target, tmp_path) as gateway:
        await endpoint(gateway, receiver.url, "security.violation")
        forge = update(audit_events).where(audit_events.c.seq == 2).values(principal="somebody else")
        await gateway.house.database.writer.run(lambda tx: tx.run(Query(forge)))
        for _ in range(2):
            found = (await gateway.get("/audit/verify", key=gateway.admin)).expect(200)
            assert found["ok"] is False
            await asyncio.sleep(3.1)  # an answer is at most three seconds old
        (told,) = await receiver.arrived()
        assert told.event["data"]["kind"] == "audit_log_broken" and told.event["data"]["subject"] == "seq 2"
        recorded = await gateway.events("audit:log:broken")
        assert sorted(found["workspace_id"] for found in recorded) == ["", "default"]
