"""One address that tries many keys: told once an hour, in bounded memory, with no key in any of it."""

import asyncio
from pathlib import Path
from unittest import mock

import pytest
from sqlalchemy import select

import relay.unusual.many_keys as module
from relay.audit.log import Filters
from relay.core.clock import HOUR, MINUTE
from relay.crypto.api_key import new_api_key
from relay.house import open_house
from relay.store.tables.webhooks_out import webhook_notices
from relay.store.target import Target
from relay.unusual.many_keys import ManyKeys
from tests.gateway import Gateway, open_gateway, settings_for
from tests.process import eventually

TAG = "identity:address:many_keys"
START = 500_000 * HOUR


async def _try(gateway: Gateway, keys: list[str]) -> None:
    for key in keys:
        (await gateway.get("/keys", key=key)).expect(401)


async def test_many_keys_from_one_address_are_one_violation(gateway: Gateway) -> None:
    keys = [new_api_key("test") for _ in range(12)]
    await _try(gateway, keys[:9] * 3)
    await asyncio.sleep(0)
    assert await gateway.events(TAG) == []
    await _try(gateway, keys[9:10])
    await eventually(lambda: gateway.events(TAG))
    await _try(gateway, [new_api_key("test") for _ in range(15)])
    (event,) = await gateway.events(TAG)
    assert event["workspace_id"] == "" and event["target"] == "" and event["principal"] == ""
    page = await gateway.house.audit_log.everything().page(Filters(tag=TAG))
    (entry,) = page.entries
    assert entry.details == {"block": "127.0.0.0/24", "keys": 10, "minutes": 10}


async def test_a_valid_key_and_one_wrong_key_many_times_are_none(gateway: Gateway) -> None:
    wrong = new_api_key("test")
    for _ in range(25):
        (await gateway.get("/keys", key=gateway.admin)).expect(200)
        (await gateway.get("/keys", key=wrong)).expect(401)
    await gateway.server.house.database.writer.run(lambda tx: None)
    assert await gateway.events(TAG) == []


async def test_it_can_be_turned_off(sqlite_target: Target, tmp_path: Path) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data", INVALID_KEYS_PER_BLOCK="0") as gateway:
        await _try(gateway, [new_api_key("test") for _ in range(30)])
        assert await gateway.events(TAG) == []


class Clocked:
    """What watches, under a clock of its own."""

    def __init__(self, watch: ManyKeys, raised: list[tuple[str, int]]) -> None:
        self.watch, self.raised, self.at = watch, raised, START
        self._number = 0

    def attempt(self, block: int, count: int, *, again: bool = False) -> None:
        for number in range(count):
            self._number += 1
            key = f"key {number}" if again else f"key {self._number}"
            with mock.patch.object(module, "now", return_value=self.at):
                self.watch.refused(key, f"10.{block // 256}.{block % 256}.{number % 250}")


@pytest.fixture
def clocked() -> Clocked:
    raised: list[tuple[str, int]] = []
    watch = ManyKeys(mock.Mock(), 10)

    async def note(block: str, count: int, at: int) -> None:
        raised.append((block, at))

    watch._record = note  # type: ignore[method-assign]
    return Clocked(watch, raised)


async def test_what_lies_more_than_ten_minutes_apart_is_not_added_up(clocked: Clocked) -> None:
    for _ in range(20):
        clocked.attempt(1, 9)
        clocked.at += 11 * MINUTE
    clocked.attempt(1, 200, again=False)
    await asyncio.sleep(0)
    assert [block for block, _ in clocked.raised] == ["10.0.1.0/24"]


async def test_one_key_tried_again_and_again_is_one_key(clocked: Clocked) -> None:
    for _ in range(50):
        clocked.attempt(1, 9, again=True)
    await asyncio.sleep(0)
    assert clocked.raised == []


async def test_a_block_is_told_of_again_in_the_next_hour(clocked: Clocked) -> None:
    for _ in range(3):
        clocked.attempt(1, 10)
        clocked.attempt(1, 10)
        clocked.at += HOUR
    await asyncio.sleep(0)
    assert [at for _, at in clocked.raised] == [START, START + HOUR, START + 2 * HOUR]


async def test_memory_and_reports_are_bounded(clocked: Clocked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BLOCKS", 50)
    for block in range(500):
        clocked.attempt(block, 5)
    assert len(clocked.watch._blocks) == 50
    for block in range(500):
        clocked.attempt(block, 10)
    await asyncio.sleep(0)
    assert len(clocked.raised) == module.MAX_AN_HOUR
    assert len(clocked.watch._raised) <= module.MAX_AN_HOUR
    assert all(len(tried) < 10 for tried in clocked.watch._blocks.values())


async def test_no_key_is_kept(clocked: Clocked) -> None:
    clocked.watch.refused("relay_sk_live_" + "A" * 49, "192.0.2.1")
    clocked.watch.refused("\ud800 no text", "192.0.2.1")
    kept = repr(vars(clocked.watch)) + repr(clocked.watch._blocks)
    assert "AAAA" not in kept and len(clocked.watch._blocks["192.0.2.0/24"]) == 2


async def test_two_processes_tell_once(target: Target, tmp_path: Path) -> None:
    async with open_house(settings_for(target, tmp_path / "data")) as house:
        watches = [ManyKeys(house.database, 10) for _ in range(2)]
        with mock.patch.object(module, "now", return_value=START):
            for watch in watches:
                for number in range(10):
                    watch.refused(f"key {number}", "192.0.2.1")
        for watch in watches:
            await watch.stop()
        rows = await house.database.reader.all(select(webhook_notices.c.subject, webhook_notices.c.expires_at))
        assert [tuple(row) for row in rows] == [(f"many_keys:192.0.2.0/24:{START // HOUR}", START + 2 * HOUR)]
        page = await house.audit_log.everything().page(Filters(tag=TAG))
        assert len(page.entries) == 1
