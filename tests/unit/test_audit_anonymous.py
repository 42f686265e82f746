import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.audit.anonymous import UNKNOWN, address_block


@pytest.mark.parametrize(
    ("client", "block"),
    [
        ("192.0.2.200", "192.0.2.0/24"),
        ("127.0.0.1", "127.0.0.0/24"),
        ("::ffff:192.0.2.7", "192.0.2.0/24"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1::/48"),
        ("2001:db8:1:ffff::", "2001:db8:1::/48"),
        ("fe80::1%eth0", "fe80::/48"),
        ("::1", "::/48"),
        ("", UNKNOWN),
        ("unix:", UNKNOWN),
        ("192.0.2.200:80", UNKNOWN),
        ("١٩٢.0.2.1", UNKNOWN),
    ],
)
def test_addresses_are_counted_by_block(client: str, block: str) -> None:
    assert address_block(client) == block


@given(st.text(max_size=60))
def test_any_text_has_a_block_that_is_short(client: str) -> None:
    assert len(address_block(client)) < 50


@given(st.ip_addresses())
def test_a_block_covers_at_least_256_addresses(client: object) -> None:
    assert address_block(str(client)).endswith(("/24", "/48"))
