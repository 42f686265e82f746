"""Envelopes while keys come and go, and Fernet tokens that are older than envelopes."""

import base64
import os

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from relay.crypto.envelope import FERNET, EnvelopeError, Envelopes, kek_id, sealed_with
from relay.crypto.fernet import is_fernet

KEYS = [bytes([number]) * 32 for number in range(1, 5)]
PLACE = {"workspace": "default", "purpose": "connection", "record": "con_1"}


def token(key: bytes, text: bytes = b"a token of an account") -> bytes:
    return Fernet(base64.urlsafe_b64encode(key)).encrypt(text)


class TestRing:
    def test_a_key_opens_before_it_seals_and_after_it_sealed(self) -> None:
        ring = Envelopes.of(KEYS[0])
        first = ring.seal(b"one", **PLACE)
        added = ring.add(KEYS[1])
        assert (ring.current, ring.ids) == (kek_id(KEYS[0]), frozenset({kek_id(KEYS[0]), added}))
        ring.promote(added)
        second = ring.seal(b"two", **PLACE)
        assert [sealed_with(blob) for blob in (first, second)] == [kek_id(KEYS[0]), added]
        assert [ring.open(blob, **PLACE) for blob in (first, second)] == [b"one", b"two"]
        ring.drop(kek_id(KEYS[0]))
        with pytest.raises(EnvelopeError, match="not here"):
            ring.open(first, **PLACE)

    def test_what_cannot_be_is_refused(self) -> None:
        ring = Envelopes.of(KEYS[0])
        with pytest.raises(ValueError, match="not here"):
            ring.promote(kek_id(KEYS[1]))
        with pytest.raises(ValueError, match="cannot be dropped"):
            ring.drop(ring.current)
        with pytest.raises(ValueError, match="32 bytes"):
            ring.add(b"short")
        assert ring.ids == {kek_id(KEYS[0])}

    @given(
        st.lists(st.tuples(st.sampled_from(["seal", "promote", "rewrap"]), st.integers(0, 3)), max_size=40),
        st.binary(max_size=60),
    )
    def test_whatever_is_sealed_opens_in_its_place_and_ends_under_the_last_key(
        self, steps: list[tuple[str, int]], text: bytes
    ) -> None:
        ring = Envelopes.of(KEYS[0], *KEYS[1:])
        blobs: list[tuple[bytes, bytes, str]] = []
        for number, (step, which) in enumerate(steps):
            if step == "seal":
                record = f"con_{number}"
                plain = text + bytes([number])
                sealed = ring.seal(plain, workspace="w", purpose="p", record=record)
                blobs.append((sealed, plain, record))
            elif step == "promote":
                ring.promote(kek_id(KEYS[which]))
            elif blobs:
                blob, plain, record = blobs[which % len(blobs)]
                moved = ring.rewrap(blob, workspace="w", purpose="p", record=record)
                blobs[which % len(blobs)] = (moved, plain, record)
        last = Envelopes.of(next(key for key in KEYS if kek_id(key) == ring.current))
        for blob, plain, record in blobs:
            assert ring.open(blob, workspace="w", purpose="p", record=record) == plain
            moved = ring.rewrap(blob, workspace="w", purpose="p", record=record)
            assert last.open(moved, workspace="w", purpose="p", record=record) == plain
            with pytest.raises(EnvelopeError):
                last.open(moved, workspace="w", purpose="p", record=record + "x")


class TestFernet:
    def test_a_token_opens_where_tokens_may_stand_whichever_key_made_it(self) -> None:
        ring = Envelopes.of(KEYS[1], KEYS[0], fernet={"connection"})
        for key in KEYS[:2]:
            assert ring.open(token(key), **PLACE) == b"a token of an account"
        assert sealed_with(token(KEYS[0])) == FERNET

    def test_it_opens_nowhere_else(self) -> None:
        ring = Envelopes.of(KEYS[0], fernet={"connection"})
        with pytest.raises(EnvelopeError):
            ring.open(token(KEYS[0]), **PLACE | {"purpose": "audit"})
        with pytest.raises(EnvelopeError):
            Envelopes.of(KEYS[0]).open(token(KEYS[0]), **PLACE)

    def test_it_is_written_anew_as_an_envelope_of_its_place(self) -> None:
        ring = Envelopes.of(KEYS[1], KEYS[0], fernet={"connection"})
        moved = ring.rewrap(token(KEYS[0]), **PLACE)
        assert not is_fernet(moved) and sealed_with(moved) == kek_id(KEYS[1])
        assert Envelopes.of(KEYS[1]).open(moved, **PLACE) == b"a token of an account"
        with pytest.raises(EnvelopeError):
            ring.open(moved, **PLACE | {"record": "con_2"})

    @pytest.mark.parametrize("change", ["bit", "end", "stranger"])
    def test_one_that_was_changed_or_made_by_another_does_not_open(self, change: str) -> None:
        ring = Envelopes.of(KEYS[0], fernet={"connection"})
        good = token(KEYS[0] if change != "stranger" else KEYS[2])
        raw = bytearray(base64.urlsafe_b64decode(good))
        if change == "bit":
            raw[30] ^= 1
        blob = base64.urlsafe_b64encode(bytes(raw)) if change == "bit" else good[:-4] if change == "end" else good
        for act in (ring.open, ring.rewrap):
            with pytest.raises(EnvelopeError):
                act(blob, **PLACE)

    @given(st.binary(max_size=400))
    def test_no_envelope_looks_like_a_token(self, text: bytes) -> None:
        sealed = Envelopes.of(os.urandom(32)).seal(text, **PLACE)
        assert not is_fernet(sealed) and sealed_with(sealed) != FERNET
