"""What is no key costs no statement, and what is none of ours opens nothing."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.crypto.api_key import new_api_key
from relay.identity.operator import operator
from tests.keyring import REQUEST, Keyring, open_keyring


@pytest.fixture
async def ring(sqlite_target):
    async with open_keyring(sqlite_target) as ring:
        yield ring


async def attempt(ring: Keyring, text: str) -> int:
    """Present ``text``, which must open nothing; return how many statements that took."""
    sent = len(ring.statements)
    assert await ring.api_keys.authenticate(text) is None
    return len(ring.statements) - sent


async def test_garbage_never_reaches_the_database(ring):
    _, text = await ring.make()
    wrong = [
        "",
        "relay_sk_test_",
        text[:-1],
        text + "0",
        text.swapcase(),
        text[:-1] + ("0" if text[-1] != "0" else "1"),
        text.replace("_test_", "_live_"),
        text.replace("relay", "relаy"),  # a Cyrillic letter
        " " + text,
        text + "\n",
        "\x00" * 63,
        "\ud800" * 63,
        "' OR 1=1 --",
        "x" * 100_000,
    ]
    assert [await attempt(ring, each) for each in wrong] == [0] * len(wrong)


async def test_a_well_formed_stranger_is_looked_up_once_each_time_and_never_cached(ring):
    ring.api_keys._peppers._read_under = ring.database.generation.current()
    assert await attempt(ring, new_api_key("test")) == 1
    assert len(ring.api_keys._authenticator._by_hash) == 0


async def test_neither_id_nor_hash_of_a_key_is_a_key(ring):
    record, text = await ring.make()
    [key_hash] = ring.api_keys._peppers.hashes(text)
    assert [await attempt(ring, each) for each in (record.id, key_hash, record.prefix + record.last4)] == [0, 0, 0]


async def test_the_cache_is_bounded_by_living_keys_only(ring):
    made = [await ring.make("docs") for _ in range(3)]
    for record, text in made:
        assert (await ring.api_keys.authenticate(text)).id == record.id
    await ring.api_keys.revoke(operator(), made[0][0].id, request_id=REQUEST)
    for _, text in made:
        await ring.api_keys.authenticate(text)
    assert len(ring.api_keys._authenticator._by_hash) == 2


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(text=st.one_of(st.text(max_size=80), st.from_regex(r"relay_sk_(live|test|local)_[0-9A-Za-z]{40,60}")))
async def test_whatever_the_text_it_opens_nothing_and_breaks_nothing(ring, text):
    assert await attempt(ring, text) == 0
