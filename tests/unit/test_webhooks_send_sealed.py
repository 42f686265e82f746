"""What a delivery is signed with."""

import base64
import hashlib
import hmac

import pytest
import standardwebhooks
from hypothesis import given
from hypothesis import strategies as st

from relay.core.clock import HOUR, MICROSECONDS, now
from relay.webhooks.sealed import MAX_LIVE, Sealed, Secret

URL = "https://hooks.example.com/canary-path"
PUBLISHED = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # pragma: allowlist secret


def test_the_published_vector() -> None:
    sealed = Sealed(URL, (Secret(PUBLISHED),))
    headers = sealed.headers(
        "msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}', 1614265330 * MICROSECONDS + 999_999, legacy=False
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert headers["webhook-timestamp"] == "1614265330" and headers["webhook-id"] == "msg_p5jXN8AQM9LWM0D4loKWxJek"


@given(st.binary(max_size=2000))
def test_any_body_verifies_under_both_schemes(body: bytes) -> None:
    sealed, text = Sealed.new(URL, 1), body.decode("latin-1").encode()
    headers = sealed.headers("msg_1", text, now(), legacy=True)
    secret = sealed.secrets[0].text
    signed = b"msg_1.%s.%s" % (headers["webhook-timestamp"].encode(), text)
    key = base64.b64decode(secret.removeprefix("whsec_"))
    expected = base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert headers["x-webhook-signature"] == hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()


def test_a_secret_signs_until_its_end_and_not_after() -> None:
    at = now()
    old = Sealed.new(URL, 1)
    rotated = old.rotated(at, at + HOUR)
    for moment, number in ((at, 2), (at + HOUR - 1, 2), (at + HOUR, 1), (at + 2 * HOUR, 1)):
        given_signatures = rotated.headers("msg_1", b"{}", moment, legacy=False)["webhook-signature"].split(" ")
        assert len(given_signatures) == number
    both = rotated.headers("msg_1", b"{}", at, legacy=False)
    for secret in (old.secrets[0].text, rotated.secrets[0].text):
        standardwebhooks.Webhook(secret).verify(b"{}", both)
    only = {**both, "webhook-signature": both["webhook-signature"].split(" ")[0]}
    standardwebhooks.Webhook(rotated.secrets[0].text).verify(b"{}", only)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(old.secrets[0].text).verify(b"{}", only)


def test_a_rotation_ends_every_secret_before_it() -> None:
    at = now()
    twice = Sealed.new(URL, 1).rotated(at, at + 100 * HOUR).rotated(at, at + HOUR)
    assert [secret.until for secret in twice.secrets] == [None, at + HOUR, at + HOUR]
    kept = Sealed.new(URL, 1).rotated(at, at + HOUR).rotated(at, at + 100 * HOUR)
    assert [secret.until for secret in kept.secrets] == [None, at + 100 * HOUR, at + HOUR]
    (alone,) = twice.rotated(at, at).secrets
    assert alone.text not in [secret.text for secret in twice.secrets], "a leaked secret signs on"


@given(st.lists(st.integers(0, 100), max_size=8))
def test_rotations_keep_the_newest_and_what_still_lives(hours: list[int]) -> None:
    sealed, at = Sealed.new(URL, 1), now()
    for overlap in hours:
        before = sealed.secrets[0].text
        sealed = sealed.rotated(at, at + overlap * HOUR)
        assert len(sealed.secrets) <= MAX_LIVE and sealed.secrets[0].until is None
        assert sealed.secrets[0].text != before
        assert (before in [secret.text for secret in sealed.secrets]) == (overlap > 0)
        assert all(secret.until is not None and secret.until > at for secret in sealed.secrets[1:])
        at += HOUR


def test_packing_keeps_everything_and_shows_nothing() -> None:
    sealed = Sealed.new(URL, 1).rotated(5, 9)
    assert Sealed.unpack(sealed.pack()) == sealed
    for secret in sealed.secrets:
        assert secret.text not in repr(sealed)
    assert "canary-path" not in repr(sealed)
