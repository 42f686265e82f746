"""Which values of a request are hidden from everything but the wire."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.connectors.masking import MAX_READ, Masked, looks_secret, mask_headers, mask_json, mask_text, mask_url

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
    for secret in ("hunter2", 1234, 1.5):
        assert mask_json([{"a": {name: secret}, "b": 1}]) == [{"a": {name: "***"}, "b": 1}]
        assert mask_json({name: [secret, [secret], None, True]}) == {name: ["***", ["***"], None, True]}


@pytest.mark.parametrize("name", ["session", "keys", "auth", "key", "pass", "pin"])
def test_a_name_that_may_be_a_things_hides_nothing_but_its_own_values(name: str) -> None:
    asked = {"action": "delete everything", "amount": 10**6, "token": "hunter2", "parts": [{"what": "x"}]}
    assert mask_json({name: asked}) == {name: {**asked, "token": "***"}}
    assert mask_json({name: [{"what": "x"}, "hunter2"]}) == {name: [{"what": "x"}, "***"]}


@pytest.mark.parametrize("name", ["credentials", "client_secret", "accessToken", "passwords"])
def test_what_lies_within_a_secret_keeps_its_shape_alone(name: str) -> None:
    secret: dict[str, object] = {"value": "hunter2", "list": [1, {"id": 2}], "revoke": True, "none": None}
    assert mask_json({name: secret}) == {
        name: {"value": "***", "list": ["***", {"id": "***"}], "revoke": True, "none": None}
    }


@pytest.mark.parametrize("name", ["X-HTTP-Method-Override", "x-http-method", "X-Method-Override"])
def test_another_method_than_the_one_that_is_shown_is_shown_too(name: str) -> None:
    assert mask_headers({name: "DELETE"}) == {name: "DELETE"}


def test_what_is_masked_is_named() -> None:
    masked = Masked()
    assert Masked().warnings == ()
    mask_url("https://x.y/p?a=1&%74oken=hunter2", masked)
    assert masked.warnings == ("1 value is masked: /url (token).",)
    mask_headers({"authorization": "hunter2", "accept": "x"}, masked)
    mask_json({"session": {"token": "hunter2", "a/b": 1, "keys": ["hunter2"]}}, masked)
    assert masked.warnings == (
        "4 values are masked: /url (token), /headers/authorization, /body/session/token, /body/session/keys/0.",
    )
    other = Masked()
    mask_text("a=1&password=hunter2", "application/x-www-form-urlencoded", other)
    mask_text("1" * MAX_READ + "&a", "application/json", other)
    masked.join(other)
    assert masked.warnings[0].endswith("/keys/0, /body (password), /body.") and masked.count == 6


def test_names_of_masked_places_are_bounded_and_harmless() -> None:
    masked = Masked()
    mask_json({"token\n\u202e\ud800": "hunter2", "secret" * 1000: 1, "many_tokens": ["hunter2"] * 500}, masked)
    [warning] = masked.warnings
    assert warning.startswith("502 values are masked: /body/token\ufffd\ufffd\ufffd, /body/secretsecret")
    assert warning.endswith("/body/many_tokens/7 and 492 more.") and len(warning) < 600
    assert warning.isprintable() and "hunter2" not in warning


@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_every_masked_value_is_counted(value: object) -> None:
    def marks(found: object) -> int:
        if isinstance(found, dict):
            return sum(map(marks, found.values()))
        return sum(map(marks, found)) if isinstance(found, list) else found == "***"

    masked = Masked()
    assert marks(mask_json({"token": value}, masked)) == masked.count


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


def test_json_that_names_a_member_twice_is_not_shown_as_if_it_named_it_once() -> None:
    noted = Masked()
    assert mask_text('{"note": {"amount": 1, "amount": 1000}}', "application/json", noted) == "***"
    assert noted.places == ["/body"]
