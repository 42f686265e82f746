"""Rotating what is not the key-encryption key: the key of signed heads, the pepper, the webhook secret."""

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import select

from relay.audit.export import export_log
from relay.audit.heads import head_signer
from relay.audit.notes import sign_head
from relay.audit.offline import verify_export
from relay.audit.trust import PastKey, endorse, endorsed
from relay.audit.verify import verify_log
from relay.core.clock import DAY, HOUR, MICROSECONDS, iso, now
from relay.crypto.webhooks import signed_headers
from relay.house import House, open_house
from relay.rotation import rotate as rotate_module
from relay.rotation.rotate import NothingToRotate
from relay.settings import SettingsError, load_settings
from relay.settings.secret_text import generate_secret_key, generate_webhook_secret
from relay.store.tables import api_keys, peppers
from relay.store.target import Target
from tests.audit_kit import own
from tests.gateway import Answer, Gateway, environment, open_gateway, settings_for
from tests.rotation_kit import key_files, rotation_of, states

NEW = generate_secret_key()


@asynccontextmanager
async def beside(target: Target, data: Path, **more: str) -> AsyncIterator[House]:
    """Another process, which on PostgreSQL is given the next signing key as well."""
    if target.kind == "postgres":
        more = {"SECRET_KEY": NEW, "SECRET_KEY_PREVIOUS": environment(target, data)["SECRET_KEY"], **more}
    async with open_house(settings_for(target, data, **more)) as house:
        yield house


class TestSigning:
    async def test_heads_of_both_keys_verify_and_no_others(self, target: Target, tmp_path: Path) -> None:
        data = tmp_path / "data"
        more = {"SECRET_KEY_PREVIOUS": NEW} if target.kind == "postgres" else {}
        async with open_gateway(target, data, **more) as gateway:
            old = gateway.house.heads.signer
            await gateway.house.heads.sign_now()
            exported = [line async for line in export_log(gateway.house.database.reader, gateway.house.heads)]
            async with beside(target, data) as house:
                report = await rotation_of(house).signing()
            assert report.changed and gateway.house.heads.signer.vkey != old.vkey
            await gateway.key("audit:read")
            await gateway.house.heads.sign_now()
            await gateway.house.keyring.refresh()
            trust = gateway.house.heads.keys.trust()
            assert [past.vkey for past in trust.past] == [old.vkey] and trust.past[0].until is not None
            found = await verify_log(gateway.house.database.reader, trust, envelopes=gateway.house.envelopes)
            assert found.ok and found.heads >= 2
            assert (await gateway.get("/audit/verify", key=gateway.admin)).expect(200)["ok"]
            assert verify_export(io.BytesIO("".join(exported).encode()), key=old.vkey).ok

            # Whoever has the old key and the database cannot sign what came later.
            size, head = await gateway.house.heads._head()
            assert size > trust.past[0].until
            forged = sign_head(old, size, head)
            own(target, "DELETE FROM signed_heads")
            own(target, ("INSERT INTO signed_heads (size, note, signed_at) VALUES (?, ?, ?)", (size, forged, now())))
            found = await verify_log(gateway.house.database.reader, trust)
            assert not found.ok and found.finding is not None and "not signed by this key" in found.finding.reason
        alone = {"SECRET_KEY": NEW} if target.kind == "postgres" else {}
        async with open_house(settings_for(target, data, **alone)) as house:
            assert [past.vkey for past in house.heads.keys.trust().past] == [old.vkey], "without the old key itself"
        if target.kind == "sqlite":
            assert key_files(data) == ["encryption_key", "secret_key", "webhook_signing_secret"]

    async def test_a_key_that_is_being_replaced_must_be_held(self, postgres_target: Target, tmp_path: Path) -> None:
        data = tmp_path / "data"
        async with open_house(settings_for(postgres_target, data)):
            pass
        with pytest.raises(SettingsError, match="SECRET_KEY: this is not the key"):
            async with beside(postgres_target, data, SECRET_KEY_PREVIOUS=""):
                pass

    def test_a_key_vouches_for_the_one_before_through_the_next(self) -> None:
        one, two, three = (head_signer(bytes([number]) * 32, "ins_x") for number in (1, 2, 3))
        notes = [endorse(three, two.vkey, 20), endorse(two, one.vkey, 10)]
        assert endorsed(notes, three.vkey) == [PastKey(two.vkey, 20), PastKey(one.vkey, 10)]
        assert endorsed(notes[1:], three.vkey) == [], "nothing that it trusts signed this"
        assert endorsed([endorse(one, one.vkey, 99)], three.vkey) == []
        assert endorsed([sign_head(three, 5, "0" * 64)], three.vkey) == [], "a head is no such note"
        elsewhere = head_signer(b"\x03" * 32, "ins_y")
        assert endorsed([endorse(elsewhere, one.vkey, 99)], three.vkey) == []
        past = PastKey(one.vkey, 10)
        assert [past.counts_for(size) for size in (0, 10, 11)] == [True, True, False]


class TestPepper:
    async def test_a_key_is_rehashed_when_it_is_used_and_the_old_pepper_goes_with_the_last(
        self, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = tmp_path / "data"
        async with open_gateway(target, data) as gateway:
            used, unused = await gateway.key("audit:read"), await gateway.key("audit:read")
            rehashed = await gateway.key("audit:read", name="other")
            async with open_house(settings_for(target, data)) as house:
                report = await rotation_of(house).pepper()
                assert report.changed and "4 of the living API keys" in report.waiting
                again = await rotation_of(house).pepper()
                assert not again.changed and again.key == report.key, "never a third one"
                made = await gateway.key("audit:read")
                for key in (used, rehashed, made, gateway.admin):
                    (await gateway.get("/audit", key=key)).expect(200)
                await gateway.house.api_keys._last_use.flush()
                rows = await house.database.reader.all(select(api_keys.c.pepper_id, api_keys.c.last4))
                assert {row[1] for row in rows if row[0] != report.key} == {unused[-4:]}
                for key in (used, rehashed, made, unused, gateway.admin):
                    (await gateway.get("/audit", key=key)).expect(200)
                await gateway.house.api_keys._last_use.flush()
                assert "rests" in (await rotation_of(house).pepper()).waiting
                monkeypatch.setattr(rotate_module, "REST", 0)
                assert (await rotation_of(house).pepper()).waiting == ""
                live = await house.database.reader.all(select(peppers.c.id).where(peppers.c.retired_at.is_(None)))
                assert [row[0] for row in live] == [report.key]
            for key in (used, rehashed, made, unused):
                (await gateway.get("/audit", key=key)).expect(200)
            assert len(await gateway.events("secrets:secret:rotated", target="pepper")) == 1
            assert len(await gateway.events("secrets:secret:retired", target="pepper")) == 1

    async def test_no_key_is_moved_before_every_process_holds_the_new_pepper(self, gateway: Gateway) -> None:
        house = gateway.house
        await rotation_of(house)._announce_pepper(None)
        assert len(house.keyring.peppers) == 2
        (await gateway.get("/audit", key=gateway.admin)).expect(200)
        made = await gateway.key("audit:read")
        (await gateway.get("/audit", key=made)).expect(200)
        assert house.api_keys._last_use.rehashed == {}
        rows = await house.database.reader.all(select(api_keys.c.pepper_id).distinct())
        assert [row[0] for row in rows] == [house.keyring.peppers[0].id]

    async def test_an_unused_key_keeps_the_old_pepper_until_it_ends(
        self, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rotate_module, "REST", 0)
        async with open_gateway(target, tmp_path / "data") as gateway:
            house = gateway.house
            (await gateway.get("/audit", key=gateway.admin)).expect(200)
            unused = await gateway.key("audit:read")
            report = await rotation_of(house).pepper()
            assert report.waiting.startswith("2 ")
            (await gateway.get("/audit", key=gateway.admin)).expect(200)
            await house.api_keys._last_use.flush()
            assert (await rotation_of(house).end_pepper()).startswith("1 ")
            own(target, ("UPDATE api_keys SET expires_at = ? WHERE last4 = ?", (now() - 1, unused[-4:])))
            assert await rotation_of(house).end_pepper() == ""
            (await gateway.get("/audit", key=gateway.admin)).expect(200)


async def deliver(gateway: Gateway, secret: str, name: str) -> Answer:
    body = b'{"type":"x.y","data":{}}'
    scheme = "standard" if secret.startswith("whsec_") else "legacy"
    headers = signed_headers(scheme, secret, body, id=name, timestamp=now() // MICROSECONDS)
    return await gateway.call(
        "POST", "/webhooks/relay", data=body, headers={**headers, "Content-Type": "application/json"}
    )


class TestWebhook:
    async def test_both_secrets_are_accepted_for_a_while(self, sqlite_target: Target, tmp_path: Path) -> None:
        data = tmp_path / "data"
        async with open_gateway(sqlite_target, data) as gateway:
            old = (data / "keys" / "webhook_signing_secret").read_text().strip()
            async with open_house(settings_for(sqlite_target, data)) as house:
                report = await rotation_of(house).webhook(overlap=HOUR)
                assert report.changed and "accepted until" in report.waiting
                with pytest.raises(NothingToRotate, match="still accepted"):
                    await rotation_of(house).webhook()
            new = (data / "keys" / "webhook_signing_secret").read_text().strip()
            assert new != old
            kept = {path.read_text().strip() for path in (data / "keys").glob("webhook_signing_secret*")}
            assert kept == {old, new}, "a restart would otherwise refuse what senders still sign with"
            for number, secret in enumerate((old, new)):
                (await deliver(gateway, secret, f"msg_{number}")).expect(200)
            (await deliver(gateway, generate_webhook_secret(), "msg_9")).expect(401)
            own(sqlite_target, ("UPDATE secret_keys SET ends_at = ? WHERE state = 'old'", (now() - 1,)))
            await gateway.house.keyring.refresh()
            (await deliver(gateway, old, "msg_3")).expect(401)
            (await deliver(gateway, new, "msg_4")).expect(200)
            await gateway.house.keyring.refresh()
            await rotation_of(gateway.house).end_webhook()
            care = rotation_of(gateway.house)
            assert (await care.webhook(overlap=0)).changed
            assert sorted((await states(gateway.house, "webhook")).values()) == ["current", "old", "retired"]
            (await deliver(gateway, new, "msg_5")).expect(401)

    async def test_one_that_has_leaked_ends_at_once(self, sqlite_target: Target, tmp_path: Path) -> None:
        keys = tmp_path / "data" / "keys"

        def current() -> str:
            return (keys / "webhook_signing_secret").read_text().strip()

        async with open_gateway(sqlite_target, tmp_path / "data") as gateway:
            rotation, old = rotation_of(gateway.house), current()
            assert (await rotation.webhook()).changed
            new = current()
            (await deliver(gateway, old, "msg_0")).expect(200)
            report = await rotation.webhook(overlap=0)
            assert not report.changed and report.waiting == "" and current() == new, "that ended one and made none"
            assert sorted((await states(gateway.house, "webhook")).values()) == ["current", "retired"]
            assert [path.name for path in keys.glob("webhook*")] == ["webhook_signing_secret"]
            (await deliver(gateway, old, "msg_1")).expect(401)
            (await deliver(gateway, new, "msg_2")).expect(200)
            assert (await rotation.webhook(overlap=0)).changed and current() != new
            (await deliver(gateway, new, "msg_3")).expect(401)
            (await deliver(gateway, current(), "msg_4")).expect(200)

    @pytest.mark.parametrize("days", [1, -1])
    async def test_given_ones_overlap_to_a_day(self, target: Target, tmp_path: Path, days: int) -> None:
        old, new = generate_webhook_secret(), generate_webhook_secret()
        until = iso(now() + days * DAY)[:10]
        given = {
            "WEBHOOK_SIGNING_SECRET": new,
            "WEBHOOK_SIGNING_SECRET_PREVIOUS": old,
            "WEBHOOK_SIGNING_SECRET_PREVIOUS_UNTIL": until,
        }
        async with open_gateway(target, tmp_path / "data", **given) as gateway:
            (await deliver(gateway, new, "msg_1")).expect(200)
            (await deliver(gateway, old, "msg_2")).expect(200 if days > 0 else 401)

    async def test_a_legacy_text_may_be_followed_by_a_standard_secret(self, target: Target, tmp_path: Path) -> None:
        text, new = generate_secret_key(), generate_webhook_secret()
        given = {
            "WEBHOOK_SIGNING_SECRET": new,
            "WEBHOOK_SIGNING_SECRET_PREVIOUS": text,
            "WEBHOOK_SIGNING_SECRET_PREVIOUS_UNTIL": iso(now() + DAY)[:10],
            "WEBHOOK_LEGACY_UNTIL": iso(now() + DAY)[:10],
        }
        async with open_gateway(target, tmp_path / "data", **given) as gateway:
            (await deliver(gateway, new, "msg_1")).expect(200)
            (await deliver(gateway, text, "msg_2")).expect(200)

    def test_a_previous_one_needs_an_end(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="WEBHOOK_SIGNING_SECRET_PREVIOUS_UNTIL"):
            load_settings({"WEBHOOK_SIGNING_SECRET_PREVIOUS": generate_webhook_secret()}, tmp_path)

    async def test_a_new_given_one_is_the_current_one_at_once(self, postgres_target: Target, tmp_path: Path) -> None:
        data, seen = tmp_path / "data", []
        for secret in (generate_webhook_secret(), generate_webhook_secret()):
            async with open_house(settings_for(postgres_target, data, WEBHOOK_SIGNING_SECRET=secret)) as house:
                row = house.keyring.current("webhook")
                assert row is not None and row.current_at is not None
                seen.append(row.id)
        assert len({*seen}) == 2


async def test_rotations_beside_each_other_do_not_meet(sqlite_target: Target, tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with (
        open_house(settings_for(sqlite_target, data)) as one,
        open_house(settings_for(sqlite_target, data)) as two,
    ):
        done = await asyncio.gather(
            rotation_of(one).encryption(), rotation_of(two).encryption(), return_exceptions=True
        )
        assert sorted(type(found).__name__ for found in done) in (["Report", "RotationRefused"], ["Report", "Report"])
        assert list((await states(one, "encryption")).values()).count("current") == 1
        assert "known" not in (await states(one, "encryption")).values()
