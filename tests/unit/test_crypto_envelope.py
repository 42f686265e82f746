"""Envelopes open in their own place only, with their own key only, unchanged only."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.crypto.envelope import EnvelopeError, Envelopes, kek_id, sealed_with

KEY, OTHER = bytes(range(32)), bytes(range(32, 64))
PLACE = {"workspace": "default", "purpose": "attempt.params", "record": "att_1"}
SECRET = b"a token that nobody may read"


@given(st.binary(max_size=2000), st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_what_is_sealed_opens(plaintext: bytes, workspace: str, purpose: str, record: str) -> None:
    envelopes = Envelopes.of(KEY)
    blob = envelopes.seal(plaintext, workspace=workspace, purpose=purpose, record=record)
    assert len(blob) == len(plaintext) + 93
    assert envelopes.open(blob, workspace=workspace, purpose=purpose, record=record) == plaintext


def test_sealing_twice_shares_nothing_but_the_head() -> None:
    envelopes = Envelopes.of(KEY)
    one, two = envelopes.seal(SECRET, **PLACE), envelopes.seal(SECRET, **PLACE)
    assert one[:5] == two[:5] == b"\x01" + bytes.fromhex(kek_id(KEY))
    assert one[5:17] != two[5:17] and one[17:65] != two[17:65] and one[65:77] != two[65:77]
    assert SECRET not in one


def test_every_changed_bit_is_refused() -> None:
    envelopes = Envelopes.of(KEY)
    blob = envelopes.seal(SECRET, **PLACE)
    for place in range(len(blob)):
        changed = bytearray(blob)
        changed[place] ^= 1
        with pytest.raises(EnvelopeError) as caught:
            envelopes.open(bytes(changed), **PLACE)
        assert SECRET.decode() not in str(caught.value)


@pytest.mark.parametrize("part", ["workspace", "purpose", "record"])
def test_another_place_is_refused(part: str) -> None:
    envelopes = Envelopes.of(KEY)
    blob = envelopes.seal(SECRET, **PLACE)
    with pytest.raises(EnvelopeError):
        envelopes.open(blob, **{**PLACE, part: "elsewhere"})


def test_parts_that_join_to_the_same_text_are_different_places() -> None:
    envelopes = Envelopes.of(KEY)
    blob = envelopes.seal(SECRET, workspace="ab", purpose="c", record="d")
    with pytest.raises(EnvelopeError):
        envelopes.open(blob, workspace="a", purpose="bc", record="d")
    with pytest.raises(EnvelopeError):
        envelopes.open(blob, workspace="ab", purpose="", record="cd")


def test_halves_of_two_envelopes_do_not_make_a_third() -> None:
    envelopes = Envelopes.of(KEY)
    one, two = envelopes.seal(b"pay 1", **PLACE), envelopes.seal(b"pay 9", **PLACE)
    with pytest.raises(EnvelopeError):
        envelopes.open(one[:65] + two[65:], **PLACE)


@given(st.binary(max_size=300))
def test_opening_anything_else_raises_only_envelope_errors(blob: bytes) -> None:
    for start in (b"", b"\x01" + bytes.fromhex(kek_id(KEY))):
        with pytest.raises(EnvelopeError):
            Envelopes.of(KEY).open(start + blob, **PLACE)


def test_the_error_carries_no_cause_and_no_content() -> None:
    envelopes = Envelopes.of(KEY)
    blob = envelopes.seal(SECRET, **PLACE)
    with pytest.raises(EnvelopeError) as caught:
        envelopes.open(blob, **{**PLACE, "record": "private-record-name"})
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    assert "private-record-name" not in str(caught.value)


def test_an_unknown_key_is_named_by_its_id() -> None:
    blob = Envelopes.of(OTHER).seal(SECRET, **PLACE)
    with pytest.raises(EnvelopeError, match=kek_id(OTHER)):
        Envelopes.of(KEY).open(blob, **PLACE)
    assert sealed_with(blob) == kek_id(OTHER)
    with pytest.raises(EnvelopeError):
        sealed_with(b"\x02" + blob[1:])


def test_rotation_opens_old_seals_new_and_rewraps_without_touching_the_content() -> None:
    old = Envelopes.of(KEY)
    blob = old.seal(SECRET, **PLACE)
    both = Envelopes.of(OTHER, KEY)
    assert both.open(blob, **PLACE) == SECRET
    assert sealed_with(both.seal(SECRET, **PLACE)) == kek_id(OTHER)
    moved = both.rewrap(blob, **PLACE)
    assert moved[65:] == blob[65:] and sealed_with(moved) == kek_id(OTHER)
    assert Envelopes.of(OTHER).open(moved, **PLACE) == SECRET
    with pytest.raises(EnvelopeError):
        both.rewrap(blob, **{**PLACE, "workspace": "elsewhere"})


def test_the_given_key_itself_seals_nothing() -> None:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    blob = Envelopes.of(KEY).seal(SECRET, **PLACE)
    parts = b"".join(len(part).to_bytes(4, "big") + part.encode() for part in PLACE.values())
    with pytest.raises(InvalidTag):
        AESGCM(KEY).decrypt(blob[5:17], blob[17:65], b"key" + parts)


def test_ids_and_keys_must_fit() -> None:
    good = {kek_id(KEY): KEY}
    assert Envelopes(good, kek_id(KEY)).current == kek_id(KEY)
    for keks, current in [
        (good, kek_id(OTHER)),
        ({kek_id(OTHER): KEY}, kek_id(OTHER)),
        ({"key-1": KEY}, "key-1"),
        ({kek_id(os.urandom(48)): os.urandom(48)}, kek_id(KEY)),
        ({}, kek_id(KEY)),
    ]:
        with pytest.raises(ValueError):
            Envelopes(keks, current)
