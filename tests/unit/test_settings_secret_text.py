"""Secrets as text: made, decoded, and told from what is no secret."""

import base64
import secrets
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.settings.secret_text import (
    decode_kek,
    decode_secret_key,
    generate_kek,
    generate_secret_key,
    is_placeholder,
    is_regular,
)

IRREGULAR = bytes((place * 73 + 41) % 256 for place in range(32))
KEK = base64.urlsafe_b64encode(IRREGULAR).decode()


def test_generated_keys_decode() -> None:
    for _ in range(500):
        text = generate_secret_key()
        assert decode_secret_key(text) == text.encode() and len(text) == 43
        kek = generate_kek()
        assert base64.urlsafe_b64decode(kek) == decode_kek(kek) and len(decode_kek(kek)) == 32
    assert decode_kek(KEK) == IRREGULAR


def test_random_secrets_in_usual_forms_are_accepted() -> None:
    for _ in range(500):
        for text in (secrets.token_hex(16), secrets.token_hex(32), secrets.token_urlsafe(24)):
            assert decode_secret_key(text) == text.encode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "qZ4w",
        "Kx8vTq2Lm7ZpW4nR9sYc3Hf6",
        "a" * 64,
        "0123456789abcdef" * 4,
        "abcdefghijklmnopqrstuvwxyz0123456789",
        "passwordpasswordpasswordpassword",
        "aabbaabbabababbbaabbaaabbbabababaabb",
        "YOUR_SECRET_KEY_GOES_RIGHT_IN_HERE_PLEASE",
        "changeme-changeme-changeme-changed-x9Q",
        "Kx8vT...q2Lm7ZpW4nR9sYc3Hf6Jd1Bg5Aa0Ee",
    ],
)
def test_weak_secret_keys_are_refused_without_being_shown(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        decode_secret_key(text)
    assert not text or text not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        KEK[:-1],
        KEK + "=",
        " " + KEK,
        KEK[:-4] + "é===",
        base64.urlsafe_b64encode(IRREGULAR[:16]).decode(),
        base64.b64encode(b"\xfb\xef" + IRREGULAR[:30]).decode(),
        base64.urlsafe_b64encode(bytes(32)).decode(),
        base64.urlsafe_b64encode(b"password" * 4).decode(),
        "YOUR_FERNET_KEY",
    ],
)
def test_what_is_no_fernet_key_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        decode_kek(text)
    assert not text or text not in str(caught.value)


def test_a_second_spelling_of_a_key_is_refused() -> None:
    kek = generate_kek()
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    respelled = kek[:42] + alphabet[alphabet.index(kek[42]) ^ 1] + "="
    assert base64.urlsafe_b64decode(respelled) == base64.urlsafe_b64decode(kek)
    with pytest.raises(ValueError):
        decode_kek(respelled)


def _refusal(decode: Callable[[str], bytes], text: str) -> str:
    try:
        decode(text)
    except ValueError as error:
        return str(error)
    return ""


@given(st.text(st.characters(exclude_categories=[])))
def test_judging_text_is_total_and_says_the_same_whatever_the_text(text: str) -> None:
    is_placeholder(text), is_regular(text)
    samples = ("YOUR_KEY", "qZ4w", "Kx8vTq2Lm7ZpW4nR9sYc3Hf6", "Kx8vTq2Lm7ZpW4nR9sYc3Hf6Jd1Bg5Aa0Ee", KEK)
    for decode in (decode_kek, decode_secret_key):
        assert _refusal(decode, text) in {_refusal(decode, sample) for sample in samples}


@pytest.mark.parametrize("text", ["changeme", "ChangeMe!", "YOUR_KEY_HERE", "your-token", "sk-...", "replace_me"])
def test_placeholders(text: str) -> None:
    assert is_placeholder(text)
