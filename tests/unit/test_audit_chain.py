from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.audit.chain import COLUMNS, GENESIS, ChainBroken, Walk, canonical_row, row_hash, row_line
from relay.crypto.digest import sha256_hex

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
INTEGER = st.integers(-(2**53 - 1), 2**53 - 1)
ROW = st.fixed_dictionaries(
    {name: INTEGER if name in ("seq", "occurred_at") else TEXT for name in COLUMNS if name != "hash"}
)


def in_order(row: dict[str, Any]) -> list[Any]:
    return [row[name] for name in COLUMNS if name != "hash"]


@given(ROW)
def test_the_canonical_form_is_rfc_8785(row: dict[str, Any]) -> None:
    assert canonical_row(**row).encode() == rfc8785.dumps(row)
    assert row_line([*in_order(row), "ab" * 32]).encode() == rfc8785.dumps({**row, "hash": "ab" * 32})


@given(ROW)
def test_the_hash_is_labelled_sha_256_over_the_canonical_form(row: dict[str, Any]) -> None:
    expected = sha256_hex(b"relay-audit-v1\n" + rfc8785.dumps(row))
    assert row_hash(in_order(row)) == expected
    assert row_hash([*in_order(row), "whatever hash"]) == expected


def test_the_hash_of_one_row_stays_what_it_is() -> None:
    row = [1, "aud_1", 1_700_000_000_000_000, "default", "key_1", "req_1", "gate:action:intent", "att_1", "email.send"]
    row += ["allow", "", "", "", GENESIS]
    assert row_hash(row) == "30f428cda2f8feebe70596a05b7c4412314044cc9b88c32dea62ab6b93a3b2b0"


def make_chain(length: int) -> list[list[Any]]:
    rows: list[list[Any]] = []
    previous = GENESIS
    for seq in range(1, length + 1):
        row: list[Any] = [seq, f"aud_{seq}", 10**15 + seq, "w", "p", "r", "t", "", "", "", "", "", "", previous]
        row.append(previous := row_hash(row))
        rows.append(row)
    return rows


@pytest.mark.parametrize("numbers", [[2, 3], [1, 3], [1, 1], [1, 2, 2], [0, 1], [1, 2, 4]])
def test_numbers_with_a_gap_or_a_repetition_are_found_though_every_hash_fits(numbers: list[int]) -> None:
    rows: list[list[Any]] = []
    previous = GENESIS
    for seq in numbers:
        row: list[Any] = [seq, f"aud_{len(rows)}", 10**15, "w", "p", "r", "t", *[""] * 6, previous]
        row.append(previous := row_hash(row))
        rows.append(row)
    with pytest.raises(ChainBroken):
        walk(rows)


def walk(rows: list[list[Any]]) -> Walk:
    found = Walk()
    for row in rows:
        found.follow(row)
    return found


def test_an_intact_chain_is_followed_to_its_end() -> None:
    rows = make_chain(5)
    found = walk(rows)
    assert (found.size, found.head) == (5, rows[-1][-1])


@given(st.data())
def test_a_change_of_any_column_of_any_row_is_found(data: st.DataObject) -> None:
    rows = make_chain(6)
    number, column = data.draw(st.integers(0, 5)), data.draw(st.integers(0, len(COLUMNS) - 1))
    old = rows[number][column]
    new: Any = data.draw(st.one_of(INTEGER, TEXT, st.none(), st.binary(max_size=3), st.just(float("nan"))))
    if type(new) is type(old) and new == old:
        return
    rows[number][column] = new
    with pytest.raises(ChainBroken) as broken:
        walk(rows)
    assert broken.value.seq == number + 1


@given(st.data())
def test_a_deletion_insertion_or_swap_is_found(data: st.DataObject) -> None:
    rows = make_chain(6)
    place = data.draw(st.integers(0, 4))
    kind = data.draw(st.sampled_from(["delete", "insert", "repeat", "swap", "swap and renumber"]))
    if kind == "delete":
        del rows[place]
    elif kind == "insert":
        rows.insert(place, make_chain(1)[0] if place else [*make_chain(2)[1][:1], "aud_x", *make_chain(2)[1][2:]])
    elif kind == "repeat":
        rows.insert(place, list(rows[place]))
    else:
        rows[place], rows[place + 1] = rows[place + 1], rows[place]
        if kind == "swap and renumber":
            rows[place][0], rows[place + 1][0] = place + 1, place + 2
    with pytest.raises(ChainBroken):
        walk(rows)


@settings(max_examples=20)
@given(st.integers(0, 5))
def test_a_row_that_was_rehashed_breaks_the_next_one(place: int) -> None:
    rows = make_chain(7)
    rows[place][6] = "other"
    rows[place][-1] = row_hash(rows[place])
    with pytest.raises(ChainBroken) as broken:
        walk(rows)
    assert broken.value.seq == place + 2


def test_a_lone_surrogate_breaks_the_chain_and_nothing_else() -> None:
    rows = make_chain(2)
    rows[1][4] = "\ud800"
    with pytest.raises(ChainBroken):
        walk(rows)
