"""What may stand in a setting that is secret, whichever it is; passwords within addresses among it."""

import secrets
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.settings.errors import SettingsError
from relay.settings.sources import load_settings
from relay.settings.strength import has_password, weakness

PLACEHOLDERS = [
    "changeme",
    "CHANGE-ME",
    "YOUR_KEY_HERE",
    "your-secret-key-goes-in-here-0123456",
    "replace_me_with_32_random_characters",
    "<insert a placeholder here>",
    "Kx8vT...q2Lm7ZpW4nR9sYc3Hf6Jd1Bg5Aa0Ee",
    "insecure-Kx8vTq2Lm7ZpW4nR9sYc3Hf6Jd1",
    "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",  # pragma: allowlist secret
    "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=",  # pragma: allowlist secret
]
WEAK = ["", "x", "hunter2", "correct horse", "a" * 64, "0123456789" * 4, "abcdefghijklmnopqrstuvwxyz012345", "ab" * 20]


@pytest.mark.parametrize("production", [True, False])
@pytest.mark.parametrize("text", PLACEHOLDERS)
def test_what_was_published_or_is_for_show_is_a_placeholder(text: str, production: bool) -> None:
    assert weakness(text, production=production) == "is a placeholder; give a real one"
    assert weakness(text, production=production, whole=False) == "is a placeholder; give a real one"


@pytest.mark.parametrize("text", WEAK)
def test_what_is_short_or_regular_is_refused_where_the_whole_is_secret(text: str) -> None:
    assert "too short or too regular" in (weakness(text, production=False) or "")
    assert weakness(text, production=True, whole=False) is None


def test_what_a_machine_makes_is_accepted() -> None:
    for _ in range(500):
        for text in (secrets.token_hex(16), secrets.token_urlsafe(24), "xoxb-" + secrets.token_urlsafe(18)):
            assert weakness(text, production=True) is None


@pytest.mark.parametrize(
    "password",
    [
        "password",
        "Password",
        "p%61ssword",
        "secret",
        "changeme",
        "YOUR_PASSWORD",
        "<password>",
        "${PASSWORD}",
        "%s",
        "xxxx",
        "***",
    ],
)
@pytest.mark.parametrize(
    "url", ["postgresql://relay:{}@h/d", "redis://:{}@h", "smtp://u:{}@h:587", "postgresql://h/d?password={}"]
)
def test_an_examples_password_is_refused_everywhere(url: str, password: str) -> None:
    for production in (True, False):
        assert weakness(url.format(password), production=production) == "has an example's password; give the real one"


@pytest.mark.parametrize("password", ["postgres", "admin", "123456", "me%2Fyou", "Me%2FYou"])
@pytest.mark.parametrize("url", ["postgresql://me%2Fyou:{}@h/d", "postgresql://h/d?user=me/you&password={}"])
def test_a_password_that_everybody_tries_is_refused_in_production(url: str, password: str) -> None:
    assert "everybody tries first" in (weakness(url.format(password), production=True) or "")
    assert weakness(url.format(password), production=False) is None


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:///relay?host=/run/postgresql",
        "postgresql://relay@db.example.com/relay",
        "postgresql://relay:pw@h/d",
        "postgresql://relay:Kx8vTq2Lm7@h/password",  # pragma: allowlist secret
        "redis://password-store:6379/0",
        "sqlite:////srv/example/secret.db",
        "rediss://h",
        "smtp://[not an address",
    ],
)
def test_other_addresses_are_not_judged(url: str) -> None:
    assert weakness(url, production=True) is None


@pytest.mark.parametrize(
    ("url", "has"),
    [
        ("postgresql://u:p@h/d", True),  # pragma: allowlist secret
        ("redis://:p@h", True),
        ("postgresql://h/d?user=u&password=p", True),
        ("postgresql://u@h/d", False),
        ("postgresql://u:@h/d", False),
        ("redis://h:6379", False),
        ("unix:///run/r.sock?password=p", True),
        ("smtp://[", False),
    ],
)
def test_addresses_with_a_password_are_known(url: str, has: bool) -> None:
    assert has_password(url) is has


@given(st.text(max_size=200), st.booleans(), st.booleans())
def test_no_text_makes_it_fail_and_none_is_shown(text: str, production: bool, whole: bool) -> None:
    for candidate in (text, f"x://{text}", f"x://u:{text}@h"):
        reason = weakness(candidate, production=production, whole=whole)
        assert reason is None or len(text) < 12 or text not in reason


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GOOGLE_API_KEY"])
def test_a_key_for_somebody_elses_door_may_be_a_word_and_no_example(name: str, tmp_path: Path) -> None:
    word = "ollama"
    settings = load_settings({name: word, "SECRETS_FROM_ENVIRONMENT": "accepted"}, tmp_path)
    assert getattr(settings, name.lower()).get_secret_value() == word
    for example in ("changeme", "YOUR_KEY_HERE"):
        with pytest.raises(SettingsError, match=f"{name}: is a placeholder"):
            load_settings({name: example, "SECRETS_FROM_ENVIRONMENT": "accepted"}, tmp_path)
