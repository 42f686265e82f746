"""Whoever owns the database changes it; verification says so."""

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.audit.chain import COLUMNS, GENESIS, row_hash
from relay.audit.notes import sign_head
from relay.audit.trust import Trust
from relay.audit.verify import Verification, verify_log
from relay.crypto.signing import HeadSigner
from relay.store.target import Target
from tests.audit_kit import Kit, all_rows, open_kit, own, replace_rows, sample

LENGTH = 8
SHARED = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


async def filled(kit: Kit, *, details: bool = False) -> None:
    for number in range(LENGTH):
        await kit.record(sample(number, details={"n": number} if details else None))


async def verified(kit: Kit, *, head: str | None = None, details: bool = False) -> Verification:
    trust = Trust((kit.signer.vkey,), head)
    return await verify_log(kit.database.reader, trust, envelopes=kit.envelopes if details else None)


def check(target: Target, *, head: str | None = None) -> Verification:
    async def run() -> Verification:
        async with open_kit(target) as kit:
            return await verified(kit, head=head)

    return asyncio.run(run())


def prepare(target: Target) -> tuple[list[tuple[Any, ...]], str]:
    """Fill the log, sign its end, forget the stored head; return the rows and the head, kept elsewhere."""

    async def run() -> str:
        async with open_kit(target) as kit:
            await filled(kit)
            note = await kit.heads.sign_now()
            assert note is not None
            return note

    note = asyncio.run(run())
    own(target, "DELETE FROM signed_heads")
    return all_rows(target), note


def rehashed(rows: list[list[Any]]) -> list[list[Any]]:
    """Make a fitting chain of any rows, as the owner of the database can."""
    previous, made = GENESIS, []
    for seq, row in enumerate(rows, 1):
        fresh = [seq, *row[1:13], previous]
        fresh.append(previous := row_hash(fresh))
        made.append(fresh)
    return made


def test_every_change_of_every_column_is_found(target: Target) -> None:
    rows, _ = prepare(target)

    @SHARED
    @given(st.integers(0, LENGTH - 1), st.integers(0, len(COLUMNS) - 1), st.data())
    def tamper(number: int, column: int, data: st.DataObject) -> None:
        old = rows[number][column]
        integer = st.integers(-(2**62), 2**62)
        text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
        new = data.draw((integer if isinstance(old, int) else text).filter(lambda value: value != old))
        if column == 0 and new in range(1, LENGTH + 1):
            return  # a number that another event has; the swap below is that
        changed = [list(row) for row in rows]
        changed[number][column] = new
        if len({row[13] for row in changed}) < LENGTH or len({row[1] for row in changed}) < LENGTH:
            return  # the table itself refuses that
        replace_rows(target, changed)
        found = check(target)
        assert not found.ok and found.finding is not None
        # Up to the change everything holds; a last row's hash shows at the head row.
        assert found.size <= number + (column == len(COLUMNS) - 1)

    tamper()
    replace_rows(target, rows)
    assert check(target).ok


def test_every_deletion_insertion_and_swap_is_found(target: Target) -> None:
    rows, _ = prepare(target)

    @SHARED
    @given(st.sampled_from(["delete", "insert", "swap", "renumbered deletion"]), st.integers(0, LENGTH - 2))
    def tamper(kind: str, place: int) -> None:
        changed = [list(row) for row in rows]
        if kind == "delete":
            del changed[place]
        elif kind == "renumbered deletion":
            del changed[place]
            changed = [[seq, *row[1:]] for seq, row in enumerate(changed, 1)]
        elif kind == "swap":
            changed[place][0], changed[place + 1][0] = changed[place + 1][0], changed[place][0]
        else:
            extra = [0, "aud_x", *rows[place][2:13], "x" * 64, "y" * 64]
            changed.insert(place, extra)
            changed = [[seq, *row[1:]] for seq, row in enumerate(changed, 1)]
        replace_rows(target, changed)
        assert not check(target).ok

    tamper()


@pytest.mark.parametrize("seq", [-5, 0, LENGTH + 1, LENGTH + 7])
def test_a_row_outside_of_the_log_is_found(target: Target, seq: int) -> None:
    rows, _ = prepare(target)
    extra = [seq, "aud_x", *rows[-1][2:13], rows[-1][14]]
    replace_rows(target, [*rows, [*extra, row_hash(extra)]])
    assert not check(target).ok


@pytest.mark.parametrize("kept", [0, 1, LENGTH - 1])
def test_truncation_is_found_by_the_head_row_and_behind_it_by_a_kept_head(target: Target, kept: int) -> None:
    rows, note = prepare(target)
    replace_rows(target, rows[:kept])
    assert not check(target).ok
    replace_rows(target, rows[:kept], (kept, rows[kept - 1][14] if kept else GENESIS))
    assert check(target).ok, "nothing in the database can show this"
    found = check(target, head=note)
    assert not found.ok and found.finding is not None and found.finding.seq == kept + 1


@pytest.mark.parametrize("place", [0, 4, LENGTH - 1])
def test_a_whole_rewriting_is_found_by_a_kept_head(target: Target, place: int) -> None:
    rows, note = prepare(target)
    changed = [list(row) for row in rows]
    changed[place][4] = "key_nobody"
    forged = rehashed(changed)
    replace_rows(target, forged, (LENGTH, forged[-1][14]))
    assert check(target).ok, "nothing in the database can show this"
    assert not check(target, head=note).ok
    # Longer than before, so that the head's size lies within.
    longer = rehashed([*changed, [0, "aud_more", *changed[0][2:]]])
    replace_rows(target, longer, (LENGTH + 1, longer[-1][14]))
    assert check(target).ok and not check(target, head=note).ok


def test_a_head_that_was_kept_agrees_with_what_was_added_since(target: Target) -> None:
    _, note = prepare(target)

    async def more() -> None:
        async with open_kit(target) as kit:
            await kit.record(sample(50))

    asyncio.run(more())
    found = check(target, head=note)
    assert (found.ok, found.size, found.heads) == (True, LENGTH + 1, 1)


def test_a_head_that_somebody_else_signed_is_refused(target: Target) -> None:
    rows, note = prepare(target)
    forger = HeadSigner(b"f" * 32, "relay/ins_test")
    for wrong in (
        sign_head(forger, LENGTH, rows[-1][14]),
        note.replace("relay/ins_test\n", "relay/other\n", 1),
        "",
        "x",
    ):
        assert not check(target, head=wrong).ok


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_head SET size = size + 1",
        "UPDATE audit_head SET size = size - 1",
        "UPDATE audit_head SET size = -1",
        "UPDATE audit_head SET hash = 'ff'",
        "DELETE FROM audit_head",
    ],
)
def test_a_changed_head_row_is_found(target: Target, statement: str) -> None:
    prepare(target)
    own(target, statement)
    assert not check(target).ok


async def test_stored_heads_are_compared(target: Target) -> None:
    async with open_kit(target) as kit:
        for number in range(3):
            await kit.record(sample(number))
            await kit.heads.sign_now()
        assert (await verified(kit)).heads == 3
        rows = all_rows(target)
        (first,), (second,), (third,) = own(target, "SELECT note FROM signed_heads ORDER BY size")
        for wrong in (first, third, "", "garbage", second.replace("relay/ins_test", "relay/ins_else")):
            own(target, ("UPDATE signed_heads SET note = ? WHERE size = 2", (wrong,)))
            found = await verified(kit)
            assert found.finding is not None and found.finding.seq == 2
        own(target, ("UPDATE signed_heads SET note = ? WHERE size = 2", (second,)))
        changed = [list(row) for row in rows]
        changed[0][4] = "key_nobody"
        forged = rehashed(changed)
        replace_rows(target, forged, (3, forged[-1][14]))
        found = await verified(kit)
        assert found.finding is not None and found.finding.seq == 1
        replace_rows(target, forged[:2], (2, forged[1][14]))
        own(target, "DELETE FROM signed_heads WHERE size < 3")
        found = await verified(kit)
        assert found.finding is not None and found.finding.seq == 3


async def test_a_head_of_an_earlier_key_needs_that_key(target: Target) -> None:
    async with open_kit(target) as kit:
        await kit.record(sample())
        await kit.heads.sign_now()
        other = HeadSigner(b"o" * 32, "relay/ins_test")
        reader = kit.database.reader
        assert not (await verify_log(reader, Trust((other.vkey,)))).ok
        assert not (await verify_log(reader, Trust(()))).ok
        assert (await verify_log(reader, Trust((other.vkey, kit.signer.vkey)))).ok


async def test_details_are_opened_and_erased_ones_are_no_failure(target: Target) -> None:
    async with open_kit(target) as kit:
        await filled(kit, details=True)
        ids = [row[1] for row in all_rows(target)]
        assert (await verified(kit, details=True)).details == LENGTH
        own(target, ("DELETE FROM envelopes WHERE record_id = ?", (ids[2],)))
        found = await verified(kit, details=True)
        assert (found.ok, found.details, found.details_erased) == (True, LENGTH - 1, 1)
        copied = ("UPDATE envelopes SET body = (SELECT body FROM envelopes WHERE record_id = ?) WHERE record_id = ?",)
        own(target, (*copied, (ids[3], ids[5])))
        found = await verified(kit, details=True)
        assert found.finding is not None and found.finding.seq == 6
        assert (await verified(kit)).ok, "without the key the envelopes are not looked at"


async def test_details_that_the_key_holder_replaced_contradict_the_commitment(target: Target) -> None:
    async with open_kit(target) as kit:
        await filled(kit, details=True)
        event_id = all_rows(target)[4][1]
        forged = kit.envelopes.seal(b"s" * 16 + b'{"n":99}', workspace="default", purpose="audit", record=event_id)
        own(target, ("UPDATE envelopes SET body = ? WHERE record_id = ?", (forged, event_id)))
        found = await verified(kit, details=True)
        assert found.finding is not None and found.finding.seq == 5


def test_values_of_a_type_that_only_sqlite_lets_in_are_findings(sqlite_target: Target) -> None:
    rows, _ = prepare(sqlite_target)
    for statement in (
        "UPDATE audit_events SET target = x'ff00' WHERE seq = 3",
        "UPDATE audit_events SET occurred_at = 'soon' WHERE seq = 3",
        "UPDATE audit_events SET occurred_at = 1.5 WHERE seq = 3",
        "UPDATE audit_events SET hash = x'00' WHERE seq = 3",
        "UPDATE audit_head SET size = 'many'",
        "UPDATE audit_head SET hash = x'00'",
        "INSERT INTO signed_heads (size, note, signed_at) VALUES (3, x'00', 0)",
    ):
        own(sqlite_target, statement)
        assert not check(sqlite_target).ok, statement
        own(sqlite_target, "DELETE FROM signed_heads")
        replace_rows(sqlite_target, rows, (LENGTH, rows[-1][14]))
    assert check(sqlite_target).ok
