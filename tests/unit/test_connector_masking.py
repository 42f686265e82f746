"""Which values of a request are hidden from everything but the wire."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.connectors.masking import MAX_READ, looks_secret, mask_headers, mask_json, mask_text, mask_url

SECRET = """token access_token accessToken ACCESS-TOKEN refreshToken idtoken secret client_secret clientSecret password
passwd Password pwd pass passphrase key apikey api_key apiKey X-API-Key APIKey keys private_key sig signature
X-Amz-Signature X-Amz-Credential auth oauth authorization authentication jwt sas session session_id sessionId cookie
csrf otp pin bearer""".split()
PLAIN = """name keyboard monkey author authority description codec spin passenger compass tokyo sign signal subject
email page zipcode countryCode q limit turkey keyword opinion designer""".split()


@pytest.mark.parametrize("name", SECRET)
def test_secret_names(name: str) -> None:
    assert looks_secret(name)
    assert mask_url(f"https://x.y/p?a=1&{name}=hunter2&b=2") == f"https://x.y/p?a=1&{name}=***&b=2"
    assert mask_json([{"a": {name: {"deep": "hunter2"}}, "b": 1}]) == [{"a": {name: "***"}, "b": 1}]


@pytest.mark.parametrize("name", PLAIN)
def test_plain_names(name: str) -> None:
    assert not looks_secret(name)
    assert mask_url(f"https://x.y/p?{name}=shown") == f"https://x.y/p?{name}=shown"


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("https://x.y/p?%74oken=hunter2", "https://x.y/p?%74oken=***"),
        ("https://x.y/p?user[password]=hunter2", "https://x.y/p?user[password]=***"),
        ("https://x.y/p?token", "https://x.y/p?token"),
        ("/relative?token=hunter2#frag", "/relative?token=***#***"),
        ("https://hooks.slack.com/services/T/B/hunter2", "https://hooks.slack.com/***"),
        ("https://discord.com/api/webhooks/1/hunter2?wait=1", "https://discord.com/api/webhooks/***?wait=1"),
        ("https://api.telegram.org/bot1:hunter2/sendMessage", "https://api.telegram.org/bot***/sendMessage"),
        ("https://x.webhook.office.com/webhookb2/hunter2", "https://x.webhook.office.com/***"),
        ("https://x.y/#hunter2", "https://x.y/#***"),
    ],
)
def test_urls(url: str, masked: str) -> None:
    assert mask_url(url) == masked


def test_headers_are_hidden_unless_known_to_be_harmless() -> None:
    hidden = {"Authorization": "a", "X-Anything": "b", "Cookie": "c"}
    shown = {"Content-Type": "d", "accept": "e"}
    assert mask_headers({**hidden, **shown}) == {**dict.fromkeys(hidden, "***"), **shown}


@pytest.mark.parametrize(
    ("text", "kind", "shown"),
    [
        ("a=1&password=hunter2", "application/x-www-form-urlencoded", "a=1&password=***"),
        ('{"a": 1, "token": "hunter2"}', "application/json; charset=utf-8", '{"a": 1, "token": "***"}'),
        ('{"token": "hunter2"}', "application/merge-patch+json", '{"token": "***"}'),
        ("{broken", "application/json", "{broken"),
        ("token=shown", "text/plain", "token=shown"),
    ],
)
def test_text_bodies(text: str, kind: str, shown: str) -> None:
    assert mask_text(text, kind) == shown


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "application/json", "application/a+json"])
def test_what_is_too_long_to_be_taken_apart_is_hidden_as_a_whole(kind: str) -> None:
    assert mask_text("1" * MAX_READ, kind) != "***"
    assert mask_text("1" * MAX_READ + "&token=hunter2", kind) == "***"
    assert mask_text("1" * MAX_READ + "&token=shown", "text/plain").endswith("shown")


def test_json_that_is_nested_too_deeply_to_be_read_is_hidden() -> None:
    assert mask_text("[" * 100_000 + '{"token": "hunter2"}' + "]" * 100_000, "application/json") == "***"


LEAVES = st.none() | st.booleans() | st.integers() | st.text()
NAMES = st.sampled_from(["a", "b", "name"])


@given(st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner)))
def test_values_without_secret_names_are_untouched(value: object) -> None:
    assert mask_json(value) == value
