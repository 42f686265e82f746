"""Reports of leaked keys: their forms, and GitHub's signature over them."""

import base64
import json

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from relay.core.facts import RequestFacts
from relay.crypto.ecdsa import PublicKey
from relay.identity.leak_report import MAX_SOURCE, MAX_TOKENS, Signers, read_report

KEY = ec.generate_private_key(ec.SECP256R1())
BODY = json.dumps([{"token": "abc", "type": "relay_api_key", "url": "https://x/1", "source": "commit"}]).encode()


def pem(key) -> str:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def sign(body: bytes, key=KEY) -> str:
    return base64.b64encode(key.sign(body, ec.ECDSA(hashes.SHA256()))).decode()


def keys(*listed: dict) -> str:
    return json.dumps({"public_keys": list(listed)})


def entry(identifier: str = "one", key=KEY) -> dict:
    return {"key_identifier": identifier, "key": pem(key.public_key()), "is_current": True}


def facts(**headers: str | bytes) -> RequestFacts:
    sent = [
        (name.replace("_", "-").encode(), value if isinstance(value, bytes) else value.encode())
        for name, value in headers.items()
    ]
    return make_facts(sent)


def make_facts(headers: list[tuple[bytes, bytes]]) -> RequestFacts:
    return RequestFacts("req_1", "192.0.2.1", "POST", headers)


def test_a_signature_of_the_named_key_over_the_very_bytes_counts_and_no_other() -> None:
    signers = Signers.from_json(keys(entry(), entry("two", other := ec.generate_private_key(ec.SECP256R1()))))
    right = {"github_public_key_identifier": "one", "github_public_key_signature": sign(BODY)}
    assert signers.signed(facts(**right), BODY)
    assert not signers.signed(facts(**right), BODY + b" ")
    for wrong in (
        {"github_public_key_identifier": "two"},
        {"github_public_key_identifier": "three"},
        {"github_public_key_signature": sign(BODY, other)},
        {"github_public_key_signature": sign(b"")},
        {"github_public_key_signature": ""},
        {"github_public_key_signature": "é"},
        {"github_public_key_signature": sign(BODY) * 50},
        {"github_public_key_signature": base64.b64encode(b"0" * 64).decode()},
    ):
        assert not signers.signed(facts(**(right | wrong)), BODY), wrong
    for name in right:
        assert not signers.signed(facts(**{other: value for other, value in right.items() if other != name}), BODY)


def test_a_header_sent_twice_is_no_signature() -> None:
    signers = Signers.from_json(keys(entry()))
    pair = [(b"github-public-key-identifier", b"one"), (b"github-public-key-signature", sign(BODY).encode())]
    assert signers.signed(make_facts(pair), BODY)
    for repeated in pair:
        assert not signers.signed(make_facts([*pair, repeated]), BODY)


@given(st.text(max_size=300), st.binary(max_size=50))
def test_whatever_stands_there_is_no_signature(signature: str, body: bytes) -> None:
    assert not PublicKey(pem(KEY.public_key())).verifies(signature, body)


@given(st.integers(0, 71), st.integers(1, 255))
def test_a_signature_that_was_changed_is_none(place: int, flip: int) -> None:
    raw = bytearray(base64.b64decode(sign(BODY)))
    raw[place % len(raw)] ^= flip
    assert not PublicKey(pem(KEY.public_key())).verifies(base64.b64encode(bytes(raw)).decode(), BODY)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"public_keys": []}',
        '{"public_keys": {"key": 1}}',
        keys({"key_identifier": "one"}),
        keys({"key_identifier": "", "key": pem(KEY.public_key())}),
        keys({"key_identifier": 1, "key": pem(KEY.public_key())}),
        keys({"key_identifier": "one", "key": "-----BEGIN PUBLIC KEY-----\nhidden\n-----END PUBLIC KEY-----"}),
        keys({"key_identifier": "one", "key": pem(ec.generate_private_key(ec.SECP384R1()).public_key())}),
        keys({"key_identifier": "one", "key": pem(rsa.generate_private_key(65537, 2048).public_key())}),
    ],
)
def test_a_file_of_keys_that_is_none_is_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(ValueError, match="must|JSON|EOF|expected|value") as refused:
        Signers.from_json(text)
    assert "hidden" not in str(refused.value) and refused.value.__cause__ is None


def test_the_forms_of_a_report() -> None:
    assert [each.token for each in read_report(b'{"token": " abc "}', signed=False)] == ["abc"]
    (leaked,) = read_report(BODY, signed=True)
    assert leaked.where == {"type": "relay_api_key", "url": "https://x/1", "source": "commit"}
    (unsigned,) = read_report(BODY, signed=False)
    assert unsigned.token == "abc" and unsigned.where == {}  # pragma: allowlist secret
    assert "abc" not in repr(leaked)


def test_what_is_said_about_a_place_is_bounded_and_printable() -> None:
    body = json.dumps([{"token": "abc", "url": "x\n\x1b[31m" + "y" * 10_000, "source": ["commit"]}]).encode()
    (leaked,) = read_report(body, signed=True)
    assert (
        list(leaked.where) == ["url"] and len(leaked.where["url"]) == MAX_SOURCE and leaked.where["url"].isprintable()
    )


def test_no_more_tokens_are_looked_at_than_may_be() -> None:
    many = json.dumps([{"token": f"t{number // 2}"} for number in range(1000)]).encode()
    assert [each.token for each in read_report(many, signed=False)] == [f"t{number}" for number in range(MAX_TOKENS)]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["token", "url", "x"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()), st.booleans())
def test_no_body_is_wrong(body: bytes, signed: bool) -> None:
    for leaked in read_report(body, signed=signed):
        assert 0 < len(leaked.token) <= 200 and leaked.token == leaked.token.strip()
        assert signed or not leaked.where


def test_depth_and_size_break_nothing() -> None:
    assert read_report(b"[" * 100_000, signed=True) == []
    assert read_report(b'{"token":' * 50_000, signed=True) == []
