"""Rotating secrets beside a gateway that works: on SQLite with keys of its own, on PostgreSQL with given ones."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import insert, select

from relay.core.clock import now
from relay.crypto.envelope import FERNET, Envelopes, kek_id
from relay.house import House, open_house
from relay.rotation.keyring import Keyring
from relay.rotation.places import FERNET_PURPOSES
from relay.rotation.rotate import NothingToRotate, RotationRefused
from relay.settings import SettingsError
from relay.settings.secret_text import decode_kek, generate_kek
from relay.store import schema
from relay.store.query import Query
from relay.store.retention import Purge
from relay.store.tables import envelopes as envelopes_table
from relay.store.tables import installation
from relay.store.target import Target
from relay.store.writer import StoreUnavailable
from tests.gateway import Gateway, environment, open_gateway, settings_for
from tests.rotation_kit import key_files, opened, rotation_of, states

NEW = generate_kek()
PLACE = {"workspace": "default", "purpose": "params", "record_id": "att_test"}


def old_key(target: Target, data: Path) -> str:
    return environment(target, data)["OAUTH_ENCRYPTION_KEY"]


@asynccontextmanager
async def beside(target: Target, data: Path, **more: str) -> AsyncIterator[House]:
    """Another process of the same installation, which on PostgreSQL is given the next key as well."""
    if target.kind == "postgres":
        if not schema.has_data(target):
            async with open_house(settings_for(target, data)):  # it is set up with the old key
                pass
        more = {"OAUTH_ENCRYPTION_KEY": NEW, "OAUTH_ENCRYPTION_KEY_PREVIOUS": old_key(target, data), **more}
    async with open_house(settings_for(target, data, **more)) as house:
        yield house


def next_key(target: Target) -> dict[str, str]:
    """What a server on PostgreSQL is given before the key may be used; on SQLite it finds the new one by itself."""
    return {"OAUTH_ENCRYPTION_KEY_PREVIOUS": NEW} if target.kind == "postgres" else {}


async def put(house: House, sealed: Any) -> None:
    await house.database.writer.run(lambda tx: house.vault.put(tx, sealed))


async def test_every_envelope_goes_over_while_requests_are_answered(target: Target, tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with open_gateway(target, data, **next_key(target)) as gateway:
        before = gateway.house.envelopes.current
        agent = await gateway.key("actions:preview", "actions:execute")
        ended, answers = asyncio.Event(), [0]

        async def load(number: int) -> None:
            while not ended.is_set():
                params = {"message": f"{number} {answers[0]}"}
                made = await gateway.post("/actions/preview", {"action": "relay.echo", "params": params}, key=agent)
                done = await gateway.post("/actions/execute", {"preview_id": made.expect(200)["preview_id"]}, key=agent)
                assert done.expect(200)["result"] == params
                answers[0] += 1

        callers = [asyncio.create_task(load(number)) for number in range(4)]
        while answers[0] < 20:
            await asyncio.sleep(0.01)
        async with beside(target, data) as house:
            report = await rotation_of(house).encryption()
            assert (report.changed, report.waiting, report.envelopes.broken) == (True, "", 0)
            assert report.envelopes.rewrapped >= 20 * 3
            after = house.envelopes.current
        seen = answers[0]
        while answers[0] < seen + 10:
            await asyncio.sleep(0.01)
        ended.set()
        await asyncio.gather(*callers)

        assert gateway.house.envelopes.current == after == report.key != before
        assert await states(gateway.house, "encryption") == {before: "retired", after: "current"}
        count, named = await opened(gateway.house)
        assert named == {after} and count >= report.envelopes.seen
        (told,) = await gateway.events("secrets:secret:rotated")
        assert (told["target"], told["workspace_id"]) == ("OAUTH_ENCRYPTION_KEY", "")
        assert len(await gateway.events("secrets:secret:retired")) == 1
        assert (await gateway.get("/audit/verify", key=gateway.admin)).expect(200)["ok"]
    if target.kind == "sqlite":
        assert key_files(data) == ["encryption_key", "secret_key", "webhook_signing_secret"]
        assert kek_id(decode_kek((data / "keys" / "encryption_key").read_text().strip())) == after
    else:
        with pytest.raises(SettingsError, match="OAUTH_ENCRYPTION_KEY: this is not the key"):
            async with open_house(settings_for(target, data)):
                pass
    alone = {"OAUTH_ENCRYPTION_KEY": NEW} if target.kind == "postgres" else {}
    async with open_house(settings_for(target, data, **alone)) as house:
        assert house.envelopes.ids == {after}, "nothing of the old key is here"
        assert (await opened(house))[1] == {after}


async def test_nothing_is_sealed_with_a_key_that_a_living_process_does_not_hold(
    postgres_target: Target, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    async with open_gateway(postgres_target, data) as gateway:
        before = gateway.house.envelopes.current
        async with beside(postgres_target, data) as house:
            assert house.envelopes.current == before, "a deployment that rolls goes on with the old key"
            with pytest.raises(RotationRefused, match=gateway.house.keyring.id):
                await rotation_of(house, wait=0).encryption()
            assert await states(house, "encryption") == {before: "current", kek_id(decode_kek(NEW)): "known"}
        assert (await opened(gateway.house))[1] == {before}


async def test_a_process_that_lacks_a_key_that_is_needed_does_not_start(
    postgres_target: Target, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    async with open_house(settings_for(postgres_target, data)) as house:
        await put(house, house.vault.seal(b"x", **PLACE, expires_at=None))
        broken = Query(insert(envelopes_table))
        foreign = Envelopes.of(b"f" * 32).seal(b"y", workspace="default", purpose="params", record="att_other")
        await house.database.writer.run(
            lambda tx: tx.run(
                broken,
                purpose="params",
                record_id="att_other",
                workspace_id="default",
                kek_id=kek_id(b"f" * 32),
                body=foreign,
                expires_at=None,
            )
        )
    async with beside(postgres_target, data) as house:
        report = await rotation_of(house).encryption()
        assert (report.ok, report.envelopes.broken) == (False, 1)
        assert "att_other" in report.envelopes.examples[0]
        assert "old" in (await states(house, "encryption")).values(), "the old key stays until all is in order"
    with pytest.raises(SettingsError, match="OAUTH_ENCRYPTION_KEY_PREVIOUS: the key .* is still needed"):
        async with beside(postgres_target, data, OAUTH_ENCRYPTION_KEY_PREVIOUS=""):
            pass


async def test_a_process_with_other_keys_does_not_start(postgres_target: Target, tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with open_house(settings_for(postgres_target, data)):
        pass
    for wrong in ({"OAUTH_ENCRYPTION_KEY": NEW}, {"SECRET_KEY": NEW}):
        with pytest.raises(SettingsError, match=f"{next(iter(wrong))}: this is not the key"):
            async with open_house(settings_for(postgres_target, data, **wrong)):
                pass


async def test_what_was_sealed_before_the_switch_is_stored_under_the_new_key(target: Target, tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with beside(target, data) as house:
        before = house.envelopes.current
        sealed = house.vault.seal(b"sealed early", **PLACE, expires_at=None)
        await rotation_of(house).encryption()
        await put(house, sealed)
        _, named = await opened(house)
        assert named == {house.envelopes.current} and before not in named
        assert await house.vault.open(**PLACE) == b"sealed early"


async def test_a_process_that_was_frozen_meanwhile_seals_with_the_key_that_is_current_now(
    target: Target, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    async with beside(target, data) as frozen, beside(target, data) as house:
        await freeze(frozen)
        if target.kind == "sqlite":
            frozen.keyring.folder.make("encryption")  # what it would have picked up
            frozen.keyring.read_folder()
        sealed = frozen.vault.seal(b"sealed early", **PLACE, expires_at=None)
        report = await rotation_of(house).encryption()
        assert report.changed and frozen.envelopes.current != report.key
        await put(frozen, sealed)
        assert (await opened(house, house.envelopes))[1] == {report.key}


async def test_a_frozen_process_that_lacks_the_new_key_stores_nothing(sqlite_target: Target, tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with beside(sqlite_target, data) as frozen, beside(sqlite_target, data) as house:
        await freeze(frozen)
        await rotation_of(house).encryption()
        with pytest.raises(StoreUnavailable):
            await put(frozen, frozen.vault.seal(b"too late", **PLACE, expires_at=None))
        await frozen.keyring.refresh()
        await put(frozen, frozen.vault.seal(b"awake", **PLACE, expires_at=None))
        assert await house.vault.open(**PLACE) == b"awake"


async def freeze(house: House) -> None:
    """Let a process be taken for gone, and let it know nothing of what happens."""
    keyring: Keyring = house.keyring
    assert keyring._task is not None
    keyring._task.cancel()
    await asyncio.gather(keyring._task, return_exceptions=True)
    keyring._fresh_until = float("-inf")
    from relay.store.rotation import leave

    await house.database.writer.run(lambda tx: leave(tx, keyring.id))


async def test_a_rotation_finds_rows_that_were_purged_or_changed_meanwhile(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    async with beside(target, data) as house:
        for number in range(6):
            place = PLACE | {"record_id": f"att_{number}"}
            await put(house, house.vault.seal(b"x", **place, expires_at=now() - 1 if number < 3 else None))
        rewrap, calls = house.envelopes.rewrap, []

        def slow(blob: bytes, **place: str) -> bytes:
            calls.append(place["record"])
            return rewrap(blob, **place)

        monkeypatch.setattr(house.envelopes, "rewrap", slow)
        purge = Purge(house.database.writer)
        gone = asyncio.create_task(purge.once(now()))  # waits in the writer's queue before the first batch
        report = await rotation_of(house).encryption()
        await gone
        assert calls and report.waiting == ""
        assert (await opened(house))[1] == {report.key}


async def test_fernet_tokens_are_read_and_written_anew(target: Target, tmp_path: Path) -> None:
    data, (purpose,) = tmp_path / "data", FERNET_PURPOSES
    async with open_house(settings_for(target, data)) as house:
        key = _kek_of(target, data)
        token = Fernet(base64.urlsafe_b64encode(key)).encrypt(b"an account's token")
        await house.database.writer.run(
            lambda tx: tx.run(
                Query(insert(envelopes_table)),
                purpose=purpose,
                record_id="con_1",
                workspace_id="default",
                kek_id=FERNET,
                body=token,
                expires_at=None,
            )
        )
        place = {"workspace": "default", "purpose": purpose, "record_id": "con_1"}
        assert await house.vault.open(**place) == b"an account's token"
    async with beside(target, data) as house:
        report = await rotation_of(house).encryption()
        assert await house.vault.open(**place) == b"an account's token"
        row = await house.database.reader.one(
            select(envelopes_table.c.kek_id, envelopes_table.c.body).where(envelopes_table.c.record_id == "con_1")
        )
        assert row is not None and row[0] == report.key and not bytes(row[1]).startswith(b"gAAAA")


def _kek_of(target: Target, data: Path) -> bytes:
    if target.kind == "postgres":
        return decode_kek(old_key(target, data))
    return decode_kek((data / "keys" / "encryption_key").read_text().strip())


async def test_given_keys_need_a_new_one(postgres_target: Target, tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with open_house(settings_for(postgres_target, data)) as house:
        rotation = rotation_of(house)
        report = await rotation.encryption()
        assert (report.changed, report.envelopes.rewrapped) == (False, 0)
        with pytest.raises(NothingToRotate, match="SECRET_KEY_PREVIOUS"):
            await rotation.signing()
        with pytest.raises(NothingToRotate, match="WEBHOOK_SIGNING_SECRET_PREVIOUS"):
            await rotation.webhook()
    async with beside(postgres_target, data) as house:
        await rotation_of(house).encryption()
    back = {"OAUTH_ENCRYPTION_KEY": old_key(postgres_target, data), "OAUTH_ENCRYPTION_KEY_PREVIOUS": NEW}
    async with open_house(settings_for(postgres_target, data, **back)) as house:
        with pytest.raises(RotationRefused, match="used before"):
            await rotation_of(house).encryption()


async def test_an_installation_from_before_is_taken_over_with_its_keys(target: Target, tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with open_house(settings_for(target, data)) as house:
        row = await house.database.reader.one(select(installation.c.kek_check))
        assert row is not None
        from sqlalchemy import delete

        from relay.store.tables.secrets import processes, secret_keys

        await house.database.writer.run(lambda tx: [tx.run(Query(delete(t))) for t in (secret_keys, processes)])
    async with open_house(settings_for(target, data)) as house:
        assert list((await states(house, "encryption")).values()) == ["current"]
        assert (await opened(house))[1] == {house.envelopes.current}


async def test_what_is_recorded_shows_no_key(gateway: Gateway) -> None:
    rows = await gateway.house.database.reader.all(select(envelopes_table.c.kek_id).distinct())
    assert [row[0] for row in rows] == [gateway.house.envelopes.current]
    shown = repr(gateway.house.keyring.holding("encryption")) + repr(gateway.house.keyring.folder.held())
    for secret in gateway.house.keyring.holding("encryption"):
        assert isinstance(secret.value, bytes) and repr(secret.value) not in shown and secret.id in shown
