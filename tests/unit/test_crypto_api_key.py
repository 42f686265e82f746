"""API keys: form, checksum, total parsing, stored hash."""

import re
import zlib
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.crypto.api_key import API_KEY_PATTERN, KeyEnv, hash_api_key, new_api_key, new_pepper, parse_api_key

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ENVS = st.sampled_from(get_args(KeyEnv))


def _number(text: str) -> int:
    value = 0
    for char in text:
        value = value * 62 + ALPHABET.index(char)
    return value


@given(ENVS)
def test_a_new_key_has_the_form_and_parses(env: KeyEnv) -> None:
    key = new_api_key(env)
    assert re.fullmatch(rf"relay_sk_{env}_[0-9A-Za-z]{{49}}", key)
    assert _number(key[-6:]) == zlib.crc32(key[:-6].encode())
    assert _number(key[-49:-6]) < 2**256
    parsed = parse_api_key(key)
    assert parsed is not None
    assert (parsed.env, parsed.prefix, parsed.last4) == (env, f"relay_sk_{env}_", key[-4:])


def test_keys_use_the_whole_width() -> None:
    first = {new_api_key("live")[14] for _ in range(2000)}
    # 2**256 / 62**42 is a little over 60: all leading digits but the last one or two occur.
    assert len(first) > 55
    assert len({new_api_key("test") for _ in range(1000)}) == 1000


def test_an_unknown_environment_is_refused() -> None:
    with pytest.raises(ValueError):
        new_api_key("prod")


@given(ENVS, st.integers(0, 57), st.characters())
def test_one_changed_character_is_refused(env: KeyEnv, place: int, char: str) -> None:
    key = new_api_key(env)
    changed = key[:place] + char + key[place + 1 :]
    if changed != key:
        assert parse_api_key(changed) is None


@given(ENVS, st.data())
def test_neighbours_swapped_are_refused(env: KeyEnv, data: st.DataObject) -> None:
    key = new_api_key(env)
    at = data.draw(st.integers(len(f"relay_sk_{env}_"), len(key) - 2))
    swapped = key[:at] + key[at + 1] + key[at] + key[at + 2 :]
    if swapped != key:
        assert parse_api_key(swapped) is None


@given(st.text() | st.from_regex(r"relay_sk_(live|test|local)_[0-9A-Za-z]{40,52}", fullmatch=True))
def test_parse_is_total_and_refuses_what_was_not_made(text: str) -> None:
    assert parse_api_key(text) is None


@pytest.mark.parametrize("wrap", ["{}\n", "{} ", " {}", "{}\x00", "{}a", "x{}", "{}\ud800", "Bearer {}"])
def test_nothing_may_surround_a_key(wrap: str) -> None:
    assert parse_api_key(wrap.format(new_api_key("live"))) is None


def test_a_longer_text_with_a_checksum_of_its_own_is_no_key() -> None:
    key = new_api_key("live")
    number, digits = zlib.crc32(key.encode()), ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        digits = ALPHABET[digit] + digits
    assert parse_api_key(key + digits) is None
    assert parse_api_key(key + "é" * 7) is None


def test_digits_of_other_scripts_are_refused() -> None:
    key = new_api_key("live")
    assert parse_api_key(key[:-1] + "٣") is None


def test_the_stored_hash_is_hmac_sha256() -> None:
    import hashlib
    import hmac

    key, pepper = new_api_key("live"), b"\x0b" * 32
    assert hash_api_key(key, pepper) == hmac.new(pepper, key.encode(), hashlib.sha256).hexdigest()
    assert hash_api_key(key, pepper) == hash_api_key(key, pepper)


def test_the_stored_hash_depends_on_key_and_pepper() -> None:
    key = new_api_key("live")
    hashes = {hash_api_key(k, p) for k in (key, new_api_key("live")) for p in (new_pepper(), new_pepper())}
    assert len(hashes) == 4


def test_a_short_pepper_is_refused() -> None:
    assert len(new_pepper()) == 32
    for _ in range(2):
        with pytest.raises(ValueError):
            hash_api_key("relay_sk_x", b"short")


@given(st.text(st.characters(exclude_categories=[])))
def test_hashing_is_total(text: str) -> None:
    assert len(hash_api_key(text, b"p" * 32)) == 64


def test_the_scan_pattern_finds_whole_and_cut_keys_in_text() -> None:
    key = new_api_key("local")
    assert API_KEY_PATTERN.findall(f'{{"a":"{key}"}} Bearer {key}, {key[:40]}…') == [key, key, key[:40]]
    assert API_KEY_PATTERN.sub("[key]", f"x{key}y z") == "x[key] z"
    assert not API_KEY_PATTERN.search("relay_sk_live_… and relay_sk_<env>_")
