import asyncio
import io
import logging

import pytest

from relay.audit import heads as heads_module
from relay.audit import verify as verify_module
from relay.audit.chain import ChainBroken, row_hash
from relay.audit.export import export_log
from relay.audit.heads import HeadContradicted, HeadKeeper
from relay.audit.notes import check_note, from_text
from relay.audit.offline import verify_export
from relay.audit.trust import HeadKeys
from relay.audit.verify import Verification, Verifier
from relay.core.problem import Unavailable
from relay.store.target import Target
from tests.audit_kit import Kit, all_rows, open_kit, own, replace_rows, sample


def stored(target: Target) -> list[int]:
    return [size for (size,) in own(target, "SELECT size FROM signed_heads ORDER BY size")]


async def test_an_empty_log_has_no_head_to_sign(target: Target) -> None:
    async with open_kit(target) as kit:
        assert await kit.heads.sign_now() is None
    assert stored(target) == []


async def test_a_head_is_signed_when_it_moved_stored_and_logged(
    target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "relay.audit.head")
    async with open_kit(target) as kit:
        await kit.record(sample(), sample(1))
        note = await kit.heads.sign_now()
        assert note is not None
        found = check_note(note, (kit.signer.vkey,))
        assert (found.origin, found.size, found.root.hex()) == ("relay/ins_test", 2, all_rows(target)[1][14])
        assert await kit.heads.sign_now() == note
        (record,) = caplog.records
        assert "\n" not in record.getMessage()
        assert from_text(record.getMessage().partition(": ")[2]) == note
        await kit.record(sample(2))
        assert await kit.heads.sign_now() != note
    assert stored(target) == [2, 3]


async def test_replicas_sign_one_size_once(target: Target) -> None:
    async with open_kit(target) as one, open_kit(target) as other:
        await one.record(sample())
        notes = await asyncio.gather(one.heads.sign_now(), other.heads.sign_now())
        assert notes[0] == notes[1] is not None
    assert stored(target) == [1]


async def test_start_minute_and_stop_each_sign_what_moved(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_kit(target) as kit:
        await kit.record(sample())
        await kit.heads.start()
        assert stored(target) == [1]
        await kit.record(sample())
        await kit.heads.stop()
        assert stored(target) == [1, 2]
        monkeypatch.setattr(heads_module, "SIGN_SECONDS", 0.05)
        keeper = HeadKeeper(kit.database, HeadKeys(kit.signer))
        await keeper.start()
        await kit.record(sample())
        for _ in range(250):
            if stored(target) == [1, 2, 3]:
                break
            await asyncio.sleep(0.02)
        assert stored(target) == [1, 2, 3]
        await keeper.stop()


def forge(target: Target) -> None:
    """Rewrite the only event, fittingly."""
    row = list(all_rows(target)[0])
    row[4] = "key_nobody"
    row[14] = row_hash(row)
    replace_rows(target, [row], (1, row[14]))


@pytest.mark.parametrize("forget", ["nothing", "stored heads", "memory"])
async def test_a_rewritten_log_is_not_signed(target: Target, forget: str, caplog: pytest.LogCaptureFixture) -> None:
    async with open_kit(target) as kit:
        await kit.record(sample())
        await kit.heads.sign_now()
        forge(target)
        if forget == "stored heads":
            own(target, "DELETE FROM signed_heads")
        keeper = HeadKeeper(kit.database, HeadKeys(kit.signer)) if forget == "memory" else kit.heads
        with pytest.raises(HeadContradicted):
            await keeper.sign_now()
        await keeper.start()
        await keeper.stop()
        with pytest.raises(HeadContradicted):
            await drained(kit, keeper)
    assert len(stored(target)) == (0 if forget == "stored heads" else 1)
    assert {record.levelname for record in caplog.records} == {"CRITICAL"}


@pytest.mark.parametrize(
    "statement", ["DELETE FROM audit_head", "UPDATE audit_head SET size = 7", "DELETE FROM audit_events"]
)
async def test_a_head_row_without_its_event_is_not_signed(target: Target, statement: str) -> None:
    async with open_kit(target) as kit:
        await kit.record(sample())
        own(target, statement)
        with pytest.raises(HeadContradicted):
            await kit.heads.sign_now()


async def drained(kit: Kit, keeper: HeadKeeper | None = None) -> bytes:
    pieces = [piece async for piece in export_log(kit.database.reader, keeper or kit.heads)]
    return "".join(pieces).encode()


@pytest.mark.parametrize("length", [0, 1, 450])
async def test_an_export_holds_every_row_and_verifies_offline(target: Target, length: int) -> None:
    async with open_kit(target) as kit:
        if length:
            await kit.record(*(sample(number, details={"secret": "s3cret"}) for number in range(length)))
        raw = await drained(kit)
        found = verify_export(io.BytesIO(raw), key=kit.signer.vkey)
    assert (found.ok, found.size, found.line) == (True, length, None)
    assert raw.count(b"\n") == length + 2 and b"s3cret" not in raw


async def test_an_earlier_head_of_the_same_log_is_a_beginning_of_a_later_export(target: Target) -> None:
    async with open_kit(target) as kit:
        await kit.record(sample(), sample())
        note = await kit.heads.sign_now()
        await kit.record(sample())
        assert verify_export(io.BytesIO(await drained(kit)), key=kit.signer.vkey, head=note).ok


async def test_a_broken_log_is_not_exported_with_a_signature(target: Target) -> None:
    async with open_kit(target) as kit:
        await kit.record(*(sample(number) for number in range(5)))
        own(target, "UPDATE audit_events SET action = 'other' WHERE seq = 3")
        with pytest.raises(ChainBroken) as broken:
            await drained(kit)
        assert broken.value.seq == 3


class TestVerifier:
    async def fresh(self, verifier: Verifier) -> Verification:
        verifier._asked = None  # as if some seconds had passed
        return await verifier.verify()

    async def test_an_answer_is_cached_for_some_seconds(self, target: Target) -> None:
        async with open_kit(target) as kit:
            verifier = Verifier(kit.database, kit.envelopes, HeadKeys(kit.signer))
            await kit.record(sample())
            first = await verifier.verify()
            await kit.record(sample())
            assert await verifier.verify() is first
            assert (await self.fresh(verifier)).size == 2

    async def test_it_goes_on_where_it_ended(self, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
        async with open_kit(target) as kit:
            verifier = Verifier(kit.database, kit.envelopes, HeadKeys(kit.signer))
            await kit.record(*(sample(number, details={"n": number}) for number in range(5)))
            assert (await verifier.verify()).details == 5
            await kit.record(sample(details={"n": 5}))
            await kit.heads.sign_now()
            found = await self.fresh(verifier)
            assert (found.ok, found.size, found.details, found.heads) == (True, 6, 1, 1)
            own(target, "UPDATE audit_events SET action = 'other' WHERE seq = 2")
            assert (await self.fresh(verifier)).ok, "what lies before is looked at once an hour"
            monkeypatch.setattr(verify_module, "WHOLE_EVERY", 0)
            found = await self.fresh(verifier)
            assert found.finding is not None and found.finding.seq == 2

    @pytest.mark.parametrize("seq", [3, 4, 5])
    async def test_it_finds_what_happened_at_and_after_that_place(self, target: Target, seq: int) -> None:
        async with open_kit(target) as kit:
            verifier = Verifier(kit.database, kit.envelopes, HeadKeys(kit.signer))
            await kit.record(*(sample(number) for number in range(3)))
            await verifier.verify()
            await kit.record(*(sample(number) for number in range(2)))
            row = list(all_rows(target)[seq - 1])
            row[8] = "other"
            own(target, ("UPDATE audit_events SET action = 'other', hash = ? WHERE seq = ?", (row_hash(row), seq)))
            for _ in range(2):
                found = await self.fresh(verifier)
                assert found.finding is not None and found.finding.seq == min(seq + (seq == 4), 5) and not found.ok

    async def test_a_log_that_became_shorter_is_found(self, target: Target) -> None:
        async with open_kit(target) as kit:
            verifier = Verifier(kit.database, kit.envelopes, HeadKeys(kit.signer))
            await kit.record(*(sample(number) for number in range(3)))
            await verifier.verify()
            rows = all_rows(target)
            replace_rows(target, rows[:2], (2, rows[1][14]))
            found = await self.fresh(verifier)
            assert found.finding is not None and found.finding.seq == 3

    async def test_a_crowd_shares_one_verification(self, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
        running = 0

        async def counted(*args: object, **kwargs: object) -> Verification:
            nonlocal running
            running += 1
            await asyncio.sleep(0.05)
            return await real(*args, **kwargs)

        real = verify_module.verify_log
        monkeypatch.setattr(verify_module, "verify_log", counted)
        async with open_kit(target) as kit:
            await kit.record(sample())
            verifier = Verifier(kit.database, kit.envelopes, HeadKeys(kit.signer))
            answers = await asyncio.gather(*(verifier.verify() for _ in range(20)))
            assert running == 1 and len({id(answer) for answer in answers}) == 1

    async def test_an_answer_covers_what_was_there_when_it_was_asked_for(
        self, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        looked, go = asyncio.Event(), asyncio.Event()

        async def held(*args: object, **kwargs: object) -> Verification:
            found = await real(*args, **kwargs)
            looked.set()
            await go.wait()
            return found

        real = verify_module.verify_log
        monkeypatch.setattr(verify_module, "verify_log", held)
        async with open_kit(target) as kit:
            await kit.record(sample())
            verifier = Verifier(kit.database, kit.envelopes, HeadKeys(kit.signer))
            await verifier.start(first=0)
            await looked.wait()
            await kit.record(sample())
            waiting = asyncio.create_task(verifier.verify())
            go.set()
            assert (await waiting).size == 2, "a look that the server began by itself before is not the answer"
            await verifier.stop()

    async def test_one_that_takes_long_goes_on_while_callers_are_sent_away(
        self, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        go = asyncio.Event()

        async def slow(*args: object, **kwargs: object) -> Verification:
            await go.wait()
            return await real(*args, **kwargs)

        real = verify_module.verify_log
        monkeypatch.setattr(verify_module, "verify_log", slow)
        monkeypatch.setattr(verify_module, "WAIT_SECONDS", 0.05)
        async with open_kit(target) as kit:
            await kit.record(sample())
            verifier = Verifier(kit.database, kit.envelopes, HeadKeys(kit.signer))
            for _ in range(2):
                with pytest.raises(Unavailable):
                    await verifier.verify()
            monkeypatch.setattr(verify_module, "WAIT_SECONDS", 5)
            go.set()
            assert (await verifier.verify()).ok
            go.clear()
            verifier._asked = None
            waiting = asyncio.create_task(verifier.verify())
            await asyncio.sleep(0.02)
            await verifier.stop()
            with pytest.raises(asyncio.CancelledError):
                await waiting
