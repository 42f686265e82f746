"""What is internal, and one form for every spelling of a domain or an address."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.domains import ascii_domain, comparable_address, domain_of
from relay.policy.reach import Reach

REACH = Reach(
    ("example.com", "*.corp.example", "xn--bcher-kva.example"),
    ("10.0.0.0/8", "fd00::/8", "partner.example", "api.example:8443", "192.0.2.7:25"),
)


@pytest.mark.parametrize(
    ("domain", "internal"),
    [
        ("example.com", True),
        ("mail.example.com", False),
        ("notexample.com", False),
        ("example.com.evil.example", False),
        ("a.corp.example", True),
        ("a.b.corp.example", True),
        ("corp.example", False),
        ("evilcorp.example", False),
        (".corp.example", True),
        ("xn--bcher-kva.example", True),
        ("partner.example", False),
        ("", False),
    ],
)
def test_recipients_go_by_their_domain(domain: str, internal: bool) -> None:
    address = f"a@{domain}"
    assert REACH.external_recipients([address]) == ([] if internal else [address])


@pytest.mark.parametrize(
    ("host", "port", "internal"),
    [
        ("example.com", 443, True),
        ("a.corp.example", None, True),
        ("partner.example", 443, True),
        ("www.partner.example", 443, False),
        ("api.example", 8443, True),
        ("api.example", 443, False),
        ("api.example", None, False),
        ("10.255.0.1", 80, True),
        ("11.0.0.1", 80, False),
        ("fd00::1", 80, True),
        ("fe00::1", 80, False),
        ("192.0.2.7", 25, True),
        ("192.0.2.7", 26, False),
        ("10.0.0.1.evil.example", 80, False),
    ],
)
def test_hosts_go_by_their_name_or_by_what_egress_opens(host: str, port: int | None, internal: bool) -> None:
    assert REACH.external_hosts([host], port) == ([] if internal else [host])


def test_nothing_is_internal_by_default() -> None:
    assert Reach().external_recipients(["a@example.com"]) == ["a@example.com"]
    assert Reach().external_hosts(["127.0.0.1", "localhost"], 80) == ["127.0.0.1", "localhost"]


@pytest.mark.parametrize(
    ("spelled", "compared"),
    [
        ("Bücher.EXAMPLE", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        ("stra\u00dfe.example", "xn--strae-oqa.example"),
        ("STRASSE.example", "strasse.example"),
        ("bu\u0308cher.example", "xn--bcher-kva.example"),
        ("\u0435xample.com", "xn--xample-2of.com"),
        ("example.com", "example.com"),
    ],
)
def test_a_domain_has_one_form(spelled: str, compared: str) -> None:
    assert ascii_domain(spelled) == compared == ascii_domain(compared)


def test_an_address_has_one_form() -> None:
    assert comparable_address("Boss@Example.COM") == "boss@example.com"
    assert comparable_address("a@Bücher.example") == "a@xn--bcher-kva.example"
    assert domain_of(comparable_address("a@Bücher.example")) == "xn--bcher-kva.example"


@given(st.text(max_size=20), st.text(max_size=20))
def test_one_form_stays_as_it_is(local: str, domain: str) -> None:
    once = comparable_address(f"{local}@{domain.replace('@', '')}")
    assert comparable_address(once) == once
    assert domain_of(once).isascii()
