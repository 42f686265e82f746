"""Digests, commitments and derived keys, against published vectors."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.crypto.digest import commitment, equal, new_salt, sha256, sha256_hex
from relay.crypto.keys import check_value, derive

ROOT = bytes(range(32))


def test_sha256_vector() -> None:
    # FIPS 180-4, "abc".
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_hex(b"abc") == expected
    assert sha256(b"abc").hex() == expected


def test_commitment_is_hmac_sha256() -> None:
    # RFC 4231, test case 1: a key of 20 times 0x0b.
    expected = "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
    assert commitment(b"\x0b" * 20, b"Hi There") == expected


def test_commitment_hides_and_binds() -> None:
    one, two = new_salt(), new_salt()
    assert one != two and len(one) == 16
    assert commitment(one, b"yes") != commitment(two, b"yes")
    assert commitment(one, b"yes") != commitment(one, b"no")
    with pytest.raises(ValueError):
        commitment(b"short", b"yes")


@given(st.binary(), st.binary())
def test_equal_is_equality_of_bytes(a: bytes, b: bytes) -> None:
    assert equal(a, b) is (a == b)
    assert equal(a, bytes(bytearray(a)))


def test_derive_is_hkdf_with_the_label_as_info() -> None:
    # Written out from RFC 5869, sections 2.2 and 2.3, with HMAC from the standard library.
    import hashlib
    import hmac

    extracted = hmac.new(b"relay/derive/v1", ROOT, hashlib.sha256).digest()
    expanded = hmac.new(extracted, b"audit/head\x01", hashlib.sha256).digest()
    assert derive(ROOT, "audit/head") == expanded
    assert derive(ROOT, "audit/head", 16) == expanded[:16]


def test_derived_keys_differ_by_root_and_label() -> None:
    keys = {derive(ROOT, "a"), derive(ROOT, "b"), derive(ROOT[::-1], "a")}
    assert len(keys) == 3 and ROOT not in keys


@pytest.mark.parametrize(("root", "label"), [(b"", "a"), (b"x" * 31, "a"), (ROOT, "")])
def test_derive_refuses_what_is_no_key(root: bytes, label: str) -> None:
    with pytest.raises(ValueError):
        derive(root, label)


def test_check_value_tells_keys_apart_and_is_none_of_them() -> None:
    value = check_value(ROOT)
    assert value == check_value(bytes(ROOT)) != check_value(ROOT[::-1])
    assert len(value) == 32
    assert value not in derive(ROOT, "other").hex() and value not in ROOT.hex()
