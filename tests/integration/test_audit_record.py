import asyncio

import pytest

from relay.audit.details import DetailsUnreadable, open_details, sealed_details
from relay.audit.record import EventRefused
from relay.audit.trust import Trust
from relay.audit.verify import verify_log
from relay.store.target import Target
from relay.store.writer import StoreUnavailable, Tx
from tests.audit_kit import Kit, all_rows, open_kit, own, recorded, sample


async def holds(kit: Kit, size: int) -> bool:
    found = await verify_log(kit.database.reader, Trust((kit.signer.vkey,)), envelopes=kit.envelopes)
    return found.ok and found.size == size


async def test_events_that_come_at_once_have_no_gap_and_keep_their_content(target: Target) -> None:
    drafts = [sample(number, details={"n": number} if number % 3 == 0 else None) for number in range(64)]
    async with open_kit(target) as kit:
        await asyncio.gather(*(kit.record(draft) for draft in drafts))
        assert await holds(kit, 64)
    rows = all_rows(target)
    assert [row[0] for row in rows] == list(range(1, 65))
    assert {row[1]: row[4] for row in rows} == {draft.id: draft.principal for draft in drafts}
    assert [bool(row[12]) for row in rows] == [int(row[4].removeprefix("key_")) % 3 == 0 for row in rows]


async def test_the_events_of_one_unit_stand_together_in_order(target: Target) -> None:
    async with open_kit(target) as kit:
        groups = [[sample(10 * group + place) for place in range(3)] for group in range(20)]
        await asyncio.gather(*(kit.record(*group) for group in groups))
    places = {row[1]: row[0] for row in all_rows(target)}
    for group in groups:
        first = places[group[0].id]
        assert [places[draft.id] for draft in group] == [first, first + 1, first + 2]


async def test_a_unit_that_fails_after_it_wrote_takes_nobody_down(target: Target) -> None:
    def fails(tx: Tx) -> None:
        tx.record(sample(1000))
        raise RuntimeError("after a write")

    async with open_kit(target) as kit:
        good = [kit.record(sample(number)) for number in range(20)]
        answers = await asyncio.gather(*good[:10], kit.database.writer.run(fails), *good[10:], return_exceptions=True)
        assert [answer for answer in answers if answer is not None] == [answers[10]]
        assert isinstance(answers[10], RuntimeError)
        assert await holds(kit, 20)
    assert "key_1000" not in {row[4] for row in all_rows(target)}


@pytest.mark.parametrize(
    "fields",
    [
        {"tag": "nobody:knows:this"},
        {"target": "nul \0 inside"},
        {"target": "\ud800"},
        {"target": "x" * 9_000},
        {"target": "é" * 4_500},
        {"details": {"set": {1}}},
        {"details": {"nan": float("nan")}},
        {"details": {"surrogate": "\udfff"}},
        {"details": {"big": "x" * 70_000}},
    ],
    ids=["tag", "nul", "surrogate", "long", "many bytes", "no json", "nan", "detail surrogate", "big details"],
)
async def test_an_event_that_can_have_no_place_fails_alone(target: Target, fields: dict) -> None:
    async with open_kit(target) as kit:
        good = [kit.record(sample(number, details={"n": number})) for number in range(6)]
        answers = await asyncio.gather(*good[:3], kit.record(sample(99, **fields)), *good[3:], return_exceptions=True)
        assert isinstance(answers[3], EventRefused)
        assert str(fields.get("target", "~")) not in str(answers[3])
        assert [answer for answer in answers if answer is not None] == [answers[3]]
        assert await holds(kit, 6)


async def test_awkward_text_that_can_be_stored_is_stored_and_verifies(target: Target) -> None:
    texts = ['"\\', "\\u0000", "\x01\x1f\x7f", "😀\u2028\ufeff", "a\r\n\tb", "é" * 3_000]
    async with open_kit(target) as kit:
        await kit.record(*(sample(target=text) for text in texts))
        assert await holds(kit, len(texts))
    assert [row[7] for row in all_rows(target)] == texts


async def test_without_a_head_row_nothing_is_written(target: Target) -> None:
    async with open_kit(target) as kit:
        await kit.record(sample())
        own(target, "DELETE FROM audit_head")
        with pytest.raises(StoreUnavailable):
            await kit.record(sample(1))
    assert len(all_rows(target)) == 1


async def test_details_are_sealed_in_their_place_and_bound_to_their_row(target: Target) -> None:
    secret = {"subject": "quarterly figures", "n": [1, 2.5, None, True, {"é": "😀"}]}
    first, second = sample(details=secret), sample(1, details=secret)
    async with open_kit(target) as kit:
        await kit.record(first, second)
        sealed = await sealed_details(kit.database.reader, [first.id, second.id, "aud_none"])
        rows = {row[1]: row for row in all_rows(target)}
        place = {"workspace": "default", "event_id": first.id, "committed": rows[first.id][12]}
        assert open_details(kit.envelopes, sealed[first.id], **place) == secret
        assert sealed.keys() == {first.id, second.id}
        # Equal details do not look equal: the commitments are salted.
        assert rows[first.id][12] != rows[second.id][12]
        for wrong in ({"event_id": second.id}, {"workspace": "other"}, {"committed": rows[second.id][12]}):
            with pytest.raises(DetailsUnreadable):
                open_details(kit.envelopes, sealed[first.id], **{**place, **wrong})
    everything = repr(all_rows(target)) + repr(sealed)
    assert "quarterly" not in everything


async def test_a_draft_without_details_commits_to_nothing(target: Target) -> None:
    async with open_kit(target) as kit:
        await kit.record(sample(), sample(1, details={}))
    assert [row[12] for row in all_rows(target)] == ["", ""]
    assert own(target, "SELECT count(*) FROM envelopes") == [(0,)]


async def test_a_unit_that_is_run_twice_is_recorded_once(target: Target) -> None:
    runs = []

    def unit(tx: Tx) -> None:
        runs.append(1)
        recorded(tx, [sample(5)])

    def breaks(tx: Tx) -> None:
        tx.record(sample(6))
        raise RuntimeError

    async with open_kit(target) as kit:
        await asyncio.gather(kit.database.writer.run(unit), kit.database.writer.run(breaks), return_exceptions=True)
        assert len(runs) == 2
        assert await holds(kit, 1)
