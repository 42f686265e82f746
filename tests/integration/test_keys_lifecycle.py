"""Keys over both databases: made, presented, rotated, revoked, listed, noted."""

import asyncio
import json

import pytest
from sqlalchemy import select

from relay.core.clock import DAY, HOUR, MINUTE, now
from relay.core.principal import SCOPES
from relay.core.problem import Conflict, Invalid, NotFound
from relay.crypto.envelope import EnvelopeError, Envelopes
from relay.identity import authenticate as authenticate_module
from relay.identity.api_keys import ApiKeys
from relay.identity.dev import dev_principal
from relay.identity.operator import operator
from relay.store import tables
from tests.keyring import REQUEST, open_keyring


@pytest.fixture
async def ring(target):
    async with open_keyring(target) as ring:
        yield ring


async def rows(ring, table):
    return [row._mapping for row in await ring.database.reader.all(select(table))]


async def test_a_new_key_opens_with_just_what_it_was_given(ring):
    record, text = await ring.make("actions:preview", "audit:read", workspace="acme", name="reports")
    who = await ring.api_keys.authenticate(text)
    assert who is not None
    assert (who.id, who.credential_id, who.kind, who.workspace_id) == (record.id, record.id, "agent", "acme")
    assert who.scopes == {"actions:preview", "audit:read"} and who.made_by == ("operator",)
    assert who.auth_method == "api_key"
    assert text.startswith(record.prefix) and text.endswith(record.last4)
    assert [row["id"] for row in await rows(ring, tables.workspaces)] == ["acme"]


async def test_neither_the_key_nor_its_hash_is_to_be_found_anywhere(ring):
    record, text = await ring.make()
    made = await ring.api_keys.rotate(operator(), record.id, request_id=REQUEST)
    [stored, successor] = sorted(await rows(ring, tables.api_keys), key=lambda row: row["id"])
    assert stored["hash"] not in repr(record) and made.key_text not in repr(made)
    dump = repr([await rows(ring, table) for table in tables.metadata.sorted_tables])
    page = await ring.api_keys.list("default")
    for secret in (text, text[15:40], made.key_text, made.key_text[15:40]):
        assert secret not in dump and secret not in repr(page)
    for found in (stored["hash"], successor["hash"]):
        assert dump.count(found) == 1 and found not in repr(page)


async def test_every_change_is_recorded_with_who_and_what(ring):
    maker = await ring.principal(*SCOPES, kind="person")
    record, _ = await ring.make("docs", maker=maker)
    made = await ring.api_keys.rotate(maker, record.id, request_id="req_rotate")
    await ring.api_keys.revoke(maker, made.record.id, request_id="req_revoke")
    await ring.api_keys.revoke(maker, made.record.id, request_id="req_again")
    events = sorted(await rows(ring, tables.audit_events), key=lambda row: row["seq"])
    told = [(row["tag"], row["target"], row["principal"], row["request_id"]) for row in events]
    assert told == [
        ("identity:key:created", maker.id, "operator", REQUEST),
        ("identity:key:created", record.id, maker.id, REQUEST),
        ("identity:key:rotated", record.id, maker.id, "req_rotate"),
        ("identity:key:revoked", made.record.id, maker.id, "req_revoke"),
    ]
    sealed = {row["record_id"]: bytes(row["body"]) for row in await rows(ring, tables.envelopes)}
    opened = ring.envelopes.open(sealed[events[1]["id"]], workspace="default", purpose="audit", record=events[1]["id"])
    details = json.loads(opened[16:])
    assert details["scopes"] == ["docs"] and details["kind"] == "agent" and details["expires_at"].endswith("Z")


async def test_an_expired_key_is_refused_from_the_cache_and_from_the_database(ring, monkeypatch):
    record, text = await ring.make(days=1)
    assert record.expires_at - record.created_at == DAY
    assert await ring.api_keys.authenticate(text) is not None
    assert await ring.api_keys.reload(record.id) is not None
    moments = iter([record.expires_at - 1, record.expires_at, record.expires_at])
    monkeypatch.setattr(authenticate_module, "now", lambda: next(moments))
    sent = len(ring.statements)
    assert await ring.api_keys.authenticate(text) is not None
    assert await ring.api_keys.authenticate(text) is None
    assert await ring.api_keys.reload(record.id) is None
    assert len(ring.statements) == sent  # all from the cache
    monkeypatch.setattr(authenticate_module, "now", lambda: record.expires_at)
    ring.database.generation.changed()
    assert await ring.api_keys.authenticate(text) is None
    assert await ring.api_keys.reload(record.id) is None
    assert len(ring.statements) > sent


async def test_a_known_key_costs_no_statement(ring):
    record, text = await ring.make()
    for _ in range(2):
        await ring.api_keys.authenticate(text)
        await ring.api_keys.reload(record.id)
    sent = len(ring.statements)
    for _ in range(50):
        assert await ring.api_keys.authenticate(text) is not None
        assert await ring.api_keys.reload(record.id) is not None
    # On PostgreSQL the poll of the generations goes on meanwhile.
    assert [text for text in ring.statements[sent:] if "generations" not in text] == []


async def test_rotation_makes_an_equal_successor_and_gives_the_old_key_an_end(ring):
    record, text = await ring.make("docs", "chat", days=30, name="bot", kind="person")
    await ring.api_keys.authenticate(text)
    before = now()
    made = await ring.api_keys.rotate(operator(), record.id, overlap_hours=2, request_id=REQUEST)
    new, old = made.record, made.predecessor
    assert (new.kind, new.scopes, new.name, new.workspace_id) == ("person", record.scopes, "bot", "default")
    assert new.expires_at - new.created_at == 30 * DAY
    assert new.made_by == ("operator", record.id)
    assert 2 * HOUR <= old.expires_at - before < 2 * HOUR + MINUTE and old.successor_id == new.id
    assert (await ring.api_keys.authenticate(text)).id == record.id
    assert (await ring.api_keys.authenticate(made.key_text)).id == new.id
    with pytest.raises(Conflict):
        await ring.api_keys.rotate(operator(), record.id, request_id=REQUEST)


async def test_rotation_never_lengthens_the_old_key(ring):
    record, _ = await ring.make(days=1)
    made = await ring.api_keys.rotate(operator(), record.id, overlap_hours=720, request_id=REQUEST)
    assert made.predecessor.expires_at == record.expires_at


async def test_an_overlap_of_nothing_ends_the_old_key_at_once(ring):
    record, text = await ring.make()
    assert await ring.api_keys.authenticate(text) is not None
    await ring.api_keys.rotate(operator(), record.id, overlap_hours=0, request_id=REQUEST)
    assert await ring.api_keys.authenticate(text) is None


async def test_of_eight_rotations_at_once_one_succeeds(ring, target):
    record, _ = await ring.make()
    async with open_keyring(target) as other:
        calls = [keys.rotate(operator(), record.id, request_id=REQUEST) for keys in [ring.api_keys, other.api_keys] * 4]
        results = await asyncio.gather(*calls, return_exceptions=True)
    refused = [result for result in results if isinstance(result, Conflict)]
    assert len(refused) == 7 and len(await rows(ring, tables.api_keys)) == 2


async def test_of_eight_revocations_at_once_one_is_recorded_and_all_answer_alike(ring, target):
    record, _ = await ring.make()
    async with open_keyring(target) as other:
        calls = [keys.revoke(operator(), record.id, request_id=REQUEST) for keys in [ring.api_keys, other.api_keys] * 4]
        results = await asyncio.gather(*calls)
    assert len({result.revoked_at for result in results}) == 1
    tags = [row["tag"] for row in await rows(ring, tables.audit_events)]
    assert tags.count("identity:key:revoked") == 1


async def test_pages_go_from_new_to_old_and_stay_in_their_workspace(ring):
    made = [(await ring.make("docs", workspace="a"))[0].id for _ in range(5)]
    await ring.make("docs", workspace="b")
    found, cursor = [], None
    while True:
        page = await ring.api_keys.list("a", cursor=cursor, limit=2)
        found += [record.id for record in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert found == sorted(made, reverse=True)
    everywhere = await ring.api_keys.list_everywhere()
    assert len(everywhere.items) == 6 and everywhere.next_cursor is None
    for bad in ({"limit": 0}, {"limit": 201}, {"cursor": "key_'; --"}, {"cursor": "\x00"}):
        with pytest.raises(Invalid):
            await ring.api_keys.list("a", **bad)


async def test_what_is_no_key_is_not_found_whatever_its_text(ring):
    for key_id in ("", "key_", "key_" + "0" * 32, "key_" + "0" * 31 + "\x00", "é", "x" * 5000):
        with pytest.raises(NotFound):
            await ring.api_keys.revoke(operator(), key_id, request_id=REQUEST)
        with pytest.raises(NotFound):
            await ring.api_keys.rotate(operator(), key_id, request_id=REQUEST)


async def test_last_use_is_noted_to_the_minute_and_never_goes_back(ring, monkeypatch):
    record, text = await ring.make()
    await ring.api_keys.authenticate(text)
    assert (await ring.api_keys.list("default")).items[0].last_used_at is None
    await ring.api_keys._last_use.flush()
    noted = (await ring.api_keys.list("default")).items[0].last_used_at
    assert noted is not None and noted % MINUTE == 0 and 0 <= now() - noted < 2 * MINUTE
    ring.api_keys._last_use.noted[record.id] = noted - 10 * MINUTE
    await ring.api_keys._last_use.flush()
    assert (await ring.api_keys.list("default")).items[0].last_used_at == noted
    assert not ring.api_keys._last_use.noted


async def test_a_last_use_that_cannot_be_written_waits_and_troubles_nobody(ring, monkeypatch):
    record, text = await ring.make()
    await ring.api_keys.authenticate(text)
    with monkeypatch.context() as patch:
        patch.setattr(ring.database.writer, "_closing", True)  # it takes no more work
        await ring.api_keys._last_use.flush()
        assert set(ring.api_keys._last_use.noted) == {record.id}
        assert await ring.api_keys.authenticate(text) is not None
    await ring.api_keys._last_use.flush()
    assert not ring.api_keys._last_use.noted
    assert (await ring.api_keys.list("default")).items[0].last_used_at is not None


async def test_one_pepper_is_made_by_many_starts_at_once(ring, target):
    async with open_keyring(target) as second, open_keyring(target) as third:
        fresh = [ApiKeys(each.database, each.envelopes, "test") for each in (ring, second, third) for _ in range(2)]
        await ring.database.writer.run(lambda tx: tx.run(_FORGET_PEPPERS))
        await asyncio.gather(*(keys._peppers.refresh() for keys in fresh))
        assert len(await rows(ring, tables.peppers)) == 1
        record, text = await fresh[0].create(
            operator(), workspace="default", kind="agent", scopes=["docs"], request_id=REQUEST
        )
        for keys in fresh:
            assert (await keys.authenticate(text)).id == record.id


async def test_keys_of_the_older_pepper_go_on_and_new_keys_have_the_newer(ring, target):
    old, old_text = await ring.make()
    async with open_keyring(target) as other:
        await _add_pepper(other)
        ring.database.generation.changed()  # what adding one does in every process
        new, new_text = await ring.make()
        for keys in (ring.api_keys, other.api_keys):
            assert (await keys.authenticate(old_text)).id == old.id
            assert (await keys.authenticate(new_text)).id == new.id
        # Before the other process ends: it then writes the hashes of what it has seen used.
        by_id = {row["id"]: row["pepper_id"] for row in await rows(ring, tables.api_keys)}
        assert by_id[old.id] != by_id[new.id]
    sent = len(ring.statements)
    assert (await ring.api_keys.authenticate(old_text)).id == old.id
    assert [text for text in ring.statements[sent:] if "generations" not in text] == []


async def test_a_pepper_that_does_not_open_stops_the_start(ring):
    stranger = ApiKeys(ring.database, Envelopes.of(b"x" * 32), "test")
    with pytest.raises(EnvelopeError):
        await stranger.start()


async def test_a_standing_principal_needs_no_key_where_it_was_allowed(ring):
    dev = dev_principal()
    assert await ring.api_keys.reload("dev") is None
    allowed = ApiKeys(ring.database, ring.envelopes, "local", standing=[dev])
    assert await allowed.reload("dev") == dev
    assert await allowed.authenticate("dev") is None


async def test_the_first_key_is_made_once_whoever_starts(ring, target):
    async with open_keyring(target) as other:
        given = await asyncio.gather(
            *(keys.first_key(operator(), REQUEST) for keys in [ring.api_keys, other.api_keys] * 3)
        )
        [text] = [each for each in given if each is not None]
        for each in (ring, other):
            who = await each.api_keys.authenticate(text)
            assert who is not None
            assert (who.kind, who.workspace_id, who.scopes) == ("person", "default", frozenset(SCOPES))
        await ring.api_keys.revoke(operator(), who.id, request_id=REQUEST)
        assert await other.api_keys.first_key(operator(), REQUEST) is None
    [record] = (await ring.api_keys.list("default")).items
    assert record.expires_at - record.created_at == 90 * DAY


async def test_without_an_installation_there_is_no_first_key(ring):
    await ring.database.writer.run(lambda tx: tx.run(_FORGET_INSTALLATION))
    assert await ring.api_keys.first_key(operator(), REQUEST) is None
    assert not (await ring.api_keys.list_everywhere()).items


async def _add_pepper(ring):
    from relay.core.ids import new_id
    from relay.crypto.api_key import new_pepper

    pepper_id = new_id("pep")
    envelope = ring.envelopes.seal(new_pepper(), workspace="", purpose="pepper", record=pepper_id)

    def unit(tx):
        tx.run(_ADD_PEPPER, id=pepper_id, envelope=envelope, created_at=now(), retired_at=None, current_at=now())

    await ring.database.writer.run(unit)
    ring.database.generation.changed()


def _queries():
    from sqlalchemy import delete, insert

    from relay.store.query import Query

    return Query(delete(tables.peppers)), Query(delete(tables.installation)), Query(insert(tables.peppers))


_FORGET_PEPPERS, _FORGET_INSTALLATION, _ADD_PEPPER = _queries()
