"""The watch for unusual use on real databases: what is found, once, whoever looks, and what looking never does."""

import asyncio
import logging
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from sqlalchemy import func, literal, select

import relay.unusual.detector as detecting
from relay.core.clock import DAY, HOUR, MINUTE, now
from relay.house import House, open_house
from relay.identity.operator import operator
from relay.store.query import Query
from relay.store.retention import Purge
from relay.store.tables import api_keys, audit_events, envelopes
from relay.store.tables.unusual import unusual_cursor, unusual_sightings
from relay.store.target import Target
from relay.store.unusual import PURPOSE, LostLease, Place, keep_habits, leave, move, take_lease
from relay.store.vault import Sealed
from relay.store.writer import Tx
from relay.unusual.habits import KEPT_DAYS
from tests.gateway import Gateway, open_gateway, settings_for
from tests.process import eventually
from tests.sending_kit import act, endpoint
from tests.unusual_kit import began, denied, detector, explained, findings, habits, new_key, record, sight, succeeded

PUBLIC = "https://hooks.example.invalid/"


@pytest.fixture
async def house(target: Target, tmp_path: Path) -> AsyncIterator[House]:
    """An open installation with nothing that runs by itself."""
    async with open_house(settings_for(target, tmp_path / "data")) as opened:
        yield opened


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps follow one another at once."""
    monkeypatch.setattr(detecting, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(detecting, "PASS_SECONDS", 0.05)


async def since(house: House, at: int) -> None:
    """Have a detector look for the first time at a moment of the past: what comes later is reported."""
    with mock.patch.object(detecting, "now", return_value=at):
        watch = detector(house)
        await watch.once()
        await watch.stop()


async def look(house: House) -> None:
    """Have a further process take everything in, and give the lease back."""
    watch = detector(house)
    await watch.once()
    await watch.stop()


async def test_a_key_that_does_what_it_never_did_is_reported_once(house: House) -> None:
    key, start = await new_key(house), now() - 40 * DAY
    await since(house, start)
    await record(house, [began(key, "email.send", start + day * DAY) for day in range(30)])
    await record(house, [began(key, "files.delete", start + 30 * DAY + minute * MINUTE) for minute in range(3)])
    await look(house)
    assert await findings(house) == [("unusual:key:first_use", key)]
    (details,) = await explained(house)
    assert details["seen"] == "files.delete" and details["effect"] == "destructive"
    assert details["usual"] == ["email.send"] and details["new_to_workspace"] is True
    assert "files.delete" in details["explanation"] and "60 days" in details["explanation"]


async def test_a_key_is_left_alone_while_it_is_new(house: House) -> None:
    key, start = await new_key(house), now() - 40 * DAY
    await since(house, start)
    await record(house, [began(key, "email.send", start + DAY), began(key, "files.delete", start + 14 * DAY)])
    await look(house)
    assert await findings(house) == []
    await record(house, [began(key, "http.get", start + 15 * DAY)])
    await look(house)
    assert await findings(house) == [("unusual:key:first_use", key)]


async def test_what_happened_before_the_first_look_only_teaches(house: House) -> None:
    key = await new_key(house)
    past = [began(key, "email.send", now() - day * DAY) for day in range(30, 1, -1)]
    await record(house, [*past, began(key, "files.delete", now() - DAY)])
    await look(house)
    assert await findings(house) == []
    await record(house, [began(key, "files.delete", now()), began(key, "http.get", now())])
    await look(house)
    assert [details["seen"] for details in await explained(house)] == ["http.get"]


async def test_history_that_lies_too_far_back_is_not_read(house: House) -> None:
    key = await new_key(house)
    await record(house, [began(key, "email.send", now() - (90 - day) * DAY) for day in range(80)])
    await look(house)
    kept = await habits(house, key)
    assert kept is not None
    assert kept.since // DAY in (now() // DAY - 60, now() // DAY - 59)


async def test_a_burst_is_reported_with_its_numbers_once_a_day(house: House) -> None:
    key, start = await new_key(house), (now() - 40 * DAY) // DAY * DAY
    await since(house, start)
    usual = [began(key, "email.send", start + day * DAY + 9 * HOUR + n) for day in range(30) for n in range(20)]
    burst = [began(key, "email.send", start + 30 * DAY + 9 * HOUR + n) for n in range(200)]
    await record(house, [*usual, *burst])
    await look(house)
    assert await findings(house) == [("unusual:key:volume", key)]
    (details,) = await explained(house)
    assert (details["window"], details["seen"], details["usual"], details["limit"]) == ("hour", 41, 0, 40)
    await record(house, [began(key, "email.send", start + 30 * DAY + 11 * HOUR + n) for n in range(200)])
    await look(house)
    assert len(await findings(house)) == 1
    await record(house, [began(key, "email.send", start + 32 * DAY + 11 * HOUR + n) for n in range(200)])
    await look(house)
    assert len(await findings(house)) == 2


async def test_many_keys_that_each_do_little_are_too_many_together(house: House) -> None:
    keys, start = [await new_key(house) for _ in range(5)], (now() - 40 * DAY) // DAY * DAY
    await since(house, start)
    await record(
        house, [began(keys[0], "email.send", start + d * DAY + 9 * HOUR + n) for d in range(30) for n in range(20)]
    )
    await record(house, [began(key, "email.send", start + 30 * DAY + 9 * HOUR + n) for n in range(15) for key in keys])
    await look(house)
    assert await findings(house) == [("unusual:workspace:volume", "default")]


async def test_denials_and_then_a_success(house: House) -> None:
    key, start = await new_key(house), now() - 40 * DAY
    await since(house, start)
    await record(house, [began(key, "email.send", start + day * DAY) for day in range(30)])
    late = start + 30 * DAY
    await record(house, [denied(key, "email.send", late + n * MINUTE) for n in range(9)])
    await record(house, [succeeded(key, "email.send", late + 10 * MINUTE)])
    await look(house)
    assert await findings(house) == []
    await record(
        house, [denied(key, "email.send", late + 11 * MINUTE), succeeded(key, "email.send", late + 12 * MINUTE)]
    )
    await look(house)
    assert await findings(house) == [("unusual:key:denials_then_success", key)]
    assert (await explained(house))[0]["seen"] == 10


async def test_a_new_network_is_reported_and_a_known_one_is_not(house: House) -> None:
    key, other, start = await new_key(house), await new_key(house), now() - 40 * DAY
    await since(house, start)
    await sight(house, key, "192.0.2.0/24", start)
    watch = detector(house)
    await watch.once()
    for day in range(20, 24):  # where another key of the workspace has come from for days
        await sight(house, other, "198.51.100.0/24", start + day * DAY)
        await watch.once()
    await sight(house, key, "198.51.100.0/24", start + 25 * DAY)
    await sight(house, key, "192.0.2.0/24", start + 26 * DAY)
    await watch.once()
    assert await findings(house) == []
    await sight(house, key, "203.0.113.0/24", start + 27 * DAY)
    await watch.once()
    assert await findings(house) == [("unusual:key:new_network", key)]
    (details,) = await explained(house)
    assert details["seen"] == "203.0.113.0/24" and details["usual"] == ["192.0.2.0/24", "198.51.100.0/24"]
    row = await house.database.reader.one(select(func.count()).select_from(unusual_sightings))
    assert row is not None and row[0] == 0


async def test_a_rotated_key_and_a_child_token_have_the_habits_of_those_before_them(house: House) -> None:
    key, start = await new_key(house), now() - 40 * DAY
    await since(house, start)
    await record(house, [began(key, "email.send", start + day * DAY) for day in range(30)])
    rotation = await house.api_keys.rotate(operator(), key, request_id="req_test")
    successor = rotation.record.id
    child = f"key_{'0' * 31}7"
    await _child_of(house, successor, child)
    await record(
        house, [began(successor, "email.send", start + 31 * DAY), began(child, "email.send", start + 31 * DAY)]
    )
    watch = detector(house)
    await watch.once()
    assert await findings(house) == []
    await record(
        house, [began(child, "files.delete", start + 32 * DAY), began(successor, "files.delete", start + 33 * DAY)]
    )
    await watch.once()
    assert await findings(house) == [("unusual:key:first_use", child)]
    assert await habits(house, successor) is None and await habits(house, child) is None


async def _child_of(house: House, parent: str, child: str) -> None:
    values: dict[str, Any] = {column.name: column for column in api_keys.c}
    values |= {
        "id": literal(child),
        "hash": literal(child),
        "parent_id": literal(parent),
        "successor_id": literal(None),
    }
    copied = api_keys.insert().from_select(list(values), select(*values.values()).where(api_keys.c.id == parent))
    await house.database.writer.run(lambda tx: tx.run(Query(copied)))


async def test_several_detectors_count_each_event_once(house: House) -> None:
    keys, start = [await new_key(house) for _ in range(4)], now() - 3 * DAY
    watches = [detector(house) for _ in range(3)]
    for part in range(6):
        await record(house, [began(key, "email.send", start + part * MINUTE) for key in keys for _ in range(100)])
        await asyncio.gather(*(watch.once() for watch in watches))
    for watch in watches:
        await watch.once()
    for key in keys:
        kept = await habits(house, key)
        assert kept is not None and sum(map(sum, kept.days.values())) == 600


async def test_whoever_lost_the_lease_writes_nothing(house: House) -> None:
    key = await new_key(house)
    await record(house, [began(key, "email.send", now()) for _ in range(10)])
    slow, quick = detector(house), detector(house)
    judging, go_on = asyncio.Event(), asyncio.Event()
    real = asyncio.to_thread

    async def stalled(*args: object) -> object:
        judging.set()
        await go_on.wait()
        return await real(*args)

    with mock.patch.object(asyncio, "to_thread", stalled):
        late = asyncio.create_task(slow.once())
        await judging.wait()
    with mock.patch.object(detecting, "now", return_value=now() + 2 * MINUTE):  # the lease has run out meanwhile
        await quick.once()
    await record(house, [began(key, "email.send", now()) for _ in range(5)])
    go_on.set()
    await late
    kept = await habits(house, key)
    assert kept is not None and sum(map(sum, kept.days.values())) == 10
    with mock.patch.object(detecting, "now", return_value=now() + 4 * MINUTE):
        await slow.once()
    kept = await habits(house, key)
    assert kept is not None and sum(map(sum, kept.days.values())) == 15


async def test_a_lease_is_taken_by_one_and_changes_hands_under_another_fence(house: House) -> None:
    run, at = house.database.writer.run, now()
    first = await run(lambda tx: take_lease(tx, "one", at, at + MINUTE, 7))
    assert first == Place(7, at, 1)
    assert await run(lambda tx: take_lease(tx, "two", at + 1, at + MINUTE, 0)) is None
    assert await run(lambda tx: take_lease(tx, "one", at + 1, at + MINUTE, 0)) == first
    assert await run(lambda tx: take_lease(tx, "two", at + 2 * MINUTE, at + 3 * MINUTE, 0)) == Place(7, at, 2)
    with pytest.raises(LostLease):
        await run(lambda tx: move(tx, first, 8, at + 9 * MINUTE))
    await run(lambda tx: leave(tx, first))  # it is not its own to give back
    assert await run(lambda tx: take_lease(tx, "one", at + 2 * MINUTE, at + 3 * MINUTE, 0)) is None


async def test_the_backlog_of_a_downtime_is_taken_in_by_bounded_steps(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [await new_key(house) for _ in range(60)]
    await record(house, [began(key, "email.send", now()) for _ in range(20) for key in keys])
    most = [0]
    real = keep_habits

    def counted(tx: object, sealed: object) -> None:
        most[-1] += 1
        real(tx, sealed)

    def moved(*args: object) -> None:
        most.append(0)
        real_move(*args)

    real_move = move
    monkeypatch.setattr(detecting, "keep_habits", counted)
    monkeypatch.setattr(detecting, "move", moved)
    steps = await detector(house).once()
    assert steps >= 3 and max(most) <= detecting.MAX_HABITS + 1
    for key in keys:
        kept = await habits(house, key)
        assert kept is not None and sum(map(sum, kept.days.values())) == 20


async def test_nothing_is_written_while_nothing_happens(house: House) -> None:
    await record(house, [began(await new_key(house), "email.send", now())])
    watch = detector(house)
    await watch.once()
    with mock.patch.object(house.database.writer, "run", side_effect=AssertionError("written")):
        assert await watch.once() == 0


async def test_habits_are_sealed_bounded_in_time_and_purged(house: House) -> None:
    key = await new_key(house)
    await record(house, [began(key, "email.send", now())])
    await sight(house, key, "192.0.2.0/24", now())
    await look(house)
    query = select(envelopes.c.body, envelopes.c.expires_at).where(envelopes.c.purpose == PURPOSE)
    rows = await house.database.reader.all(query)
    assert len(rows) == 2
    for body, expires_at in rows:
        assert b"192.0.2" not in bytes(body) and b"email" not in bytes(body)
        assert now() + 59 * DAY < expires_at <= now() + 60 * DAY
    await sight(house, key, "198.51.100.0/24", now())
    await Purge(house.database.writer).once(now() + 61 * DAY)
    assert await house.database.reader.all(query) == []
    assert await house.database.reader.all(select(unusual_sightings.c.block)) == []


async def test_habits_that_were_tampered_with_are_learnt_anew(house: House, caplog: pytest.LogCaptureFixture) -> None:
    key = await new_key(house)
    await record(house, [began(key, "email.send", now())])
    watch = detector(house)
    await watch.once()
    spoilt = envelopes.update().where(envelopes.c.purpose == PURPOSE).values(body=b"\x01" + b"x" * 200)
    await house.database.writer.run(lambda tx: tx.run(Query(spoilt)))
    await record(house, [began(key, "email.send", now())])
    with caplog.at_level(logging.ERROR):
        await watch.once()
    assert "learnt anew" in caplog.text
    kept = await habits(house, key)
    assert kept is not None and sum(map(sum, kept.days.values())) == 1


async def test_habits_in_another_form_are_learnt_anew_and_hold_nobody_up(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    key, other = await new_key(house), await new_key(house)
    await record(house, [began(key, "email.send", now())])
    watch = detector(house)
    await watch.once()
    for body in (b'{"form": 2}', b"[]", b"no JSON", b'{"days": 7, "denied": {}}', b'{"days": {"x": []}, "denied": {}}'):
        strange = house.vault.seal(
            body, workspace="default", purpose=PURPOSE, record_id=key, expires_at=now() + KEPT_DAYS * DAY
        )
        await house.database.writer.run(partial(_keep, strange))
        await record(house, [began(key, "email.send", now()), began(other, "email.send", now())])
        with caplog.at_level(logging.ERROR):
            await watch.once()
        assert f"the habits of {key} cannot be read and are learnt anew" in caplog.text
        caplog.clear()
        kept = await habits(house, key)
        assert kept is not None and sum(map(sum, kept.days.values())) == 1
    kept = await habits(house, other)
    assert kept is not None and sum(map(sum, kept.days.values())) == 5


def _keep(strange: Sealed, tx: Tx) -> None:
    keep_habits(tx, strange)


async def _stored_past(target: Target, tmp_path: Path) -> tuple[str, str]:
    """Make a key that has been known for weeks, with a past in the log; return its id and text."""
    async with open_house(settings_for(target, tmp_path / "data")) as house:
        made, text = await house.api_keys.create(
            operator(), workspace="default", kind="agent", scopes=["developer", "auditor"], request_id="req_test"
        )
        await record(house, [began(made.id, "email.send", now() - day * DAY) for day in range(30, 0, -1)])
        await sight(house, made.id, "198.51.100.0/24", now() - 30 * DAY)
        return made.id, text


async def test_a_running_gateway_reports_what_its_callers_do(target: Target, tmp_path: Path) -> None:
    key_id, key = await _stored_past(target, tmp_path)
    async with open_gateway(target, tmp_path / "data") as gateway:
        await endpoint(gateway, PUBLIC, "security.unusual_use")
        await eventually(lambda: _looked(gateway))
        await act(gateway, key=key)

        async def found() -> bool:
            return len(await findings(gateway.house)) == 2

        await eventually(found)
        page = (await gateway.get("/audit?tag=unusual:*", key=key)).expect(200)["items"]
        by_tag = {item["tag"]: item for item in page}
        assert by_tag.keys() == {"unusual:key:first_use", "unusual:key:new_network"}
        assert {item["target"] for item in page} == {key_id}
        assert by_tag["unusual:key:first_use"]["details"]["seen"] == "relay.echo"
        assert by_tag["unusual:key:new_network"]["details"]["seen"] == "127.0.0.0/24"
        told = (await gateway.get("/webhooks/deliveries?type=security.unusual_use", key=gateway.admin)).expect(200)
        assert len(told["items"]) == 2


async def _looked(gateway: Gateway) -> bool:
    row = await gateway.house.database.reader.one(select(unusual_cursor.c.seq))
    return row is not None and row[0] > 30


async def test_requests_do_not_notice_a_watch_that_fails(
    sqlite_target: Target, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with mock.patch.object(detecting, "logged", side_effect=RuntimeError("broken")):
        async with open_gateway(sqlite_target, tmp_path / "data") as gateway:
            for _ in range(5):
                await act(gateway)
            await eventually(lambda: _async("looking for unusual use failed" in caplog.text))
            await act(gateway)
    async with open_gateway(sqlite_target, tmp_path / "data", admin=gateway.admin) as again:
        await eventually(lambda: _caught_up(again))  # nothing was lost


async def _async(truth: bool) -> bool:
    return truth


async def _caught_up(gateway: Gateway) -> bool:
    reader = gateway.house.database.reader
    row = await reader.one(select(unusual_cursor.c.seq))
    size = await reader.one(select(func.max(audit_events.c.seq)))
    return row is not None and size is not None and row[0] == size[0]


async def test_turned_off_nothing_is_noted_or_kept(sqlite_target: Target, tmp_path: Path) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data", UNUSUAL_USE="none") as gateway:
        await act(gateway)
    async with open_house(settings_for(sqlite_target, tmp_path / "data")) as house:
        assert await house.database.reader.all(select(unusual_cursor.c.seq)) == []
        assert await house.database.reader.all(select(unusual_sightings.c.block)) == []


async def test_what_was_seen_is_handed_over_at_the_end(sqlite_target: Target, tmp_path: Path) -> None:
    with mock.patch.object(detecting, "PASS_SECONDS", 3600.0):
        async with open_gateway(sqlite_target, tmp_path / "data") as gateway:
            await eventually(lambda: _looked_once(gateway))
            await gateway.get("/keys", key=gateway.admin)
    async with open_house(settings_for(sqlite_target, tmp_path / "data")) as house:
        assert [row[0] for row in await house.database.reader.all(select(unusual_sightings.c.block))] == [
            "127.0.0.0/24"
        ]


async def _looked_once(gateway: Gateway) -> bool:
    return await gateway.house.database.reader.one(select(unusual_cursor.c.seq)) is not None
