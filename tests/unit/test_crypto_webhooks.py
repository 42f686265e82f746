"""Signatures of webhooks: the published vectors, the libraries of others, and whatever bytes a stranger sends."""

import base64
import string
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
import standardwebhooks
import svix.webhooks
from hypothesis import given
from hypothesis import strategies as st

from relay.core.clock import MICROSECONDS
from relay.crypto import webhooks
from relay.crypto.webhooks import (
    MAX_SIGNATURES,
    SCHEMES,
    TOLERANCE_SECONDS,
    Header,
    Refused,
    Scheme,
    Verdict,
    Verified,
    decode_secret,
    key_of,
    new_secret,
    new_secret_for,
    sign_github,
    sign_legacy,
    sign_slack,
    sign_standard,
    sign_stripe,
    signed_headers,
    verify,
)

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # pragma: allowlist secret
MESSAGE = "msg_p5jXN8AQM9LWM0D4loKWxJek"
AT = 1614265330
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
NOW = AT * MICROSECONDS

LIBRARIES = [
    pytest.param(standardwebhooks.Webhook, id="standardwebhooks"),
    pytest.param(svix.webhooks.Webhook, id="svix"),
]
TIMED: tuple[Scheme, ...] = ("standard", "stripe", "slack")


def header_of(headers: Sequence[tuple[str | bytes, str | bytes]]) -> Header:
    raw = [tuple(part if isinstance(part, bytes) else part.encode() for part in pair) for pair in headers]

    def only(name: bytes) -> bytes | None:
        found = [value for key, value in raw if key.lower() == name]
        return found[0] if len(found) == 1 else None

    return only


def accepts(library, secret: str, headers: dict[str, str], body: bytes = BODY) -> bool:
    """Say whether a library verifies; what it returns then (the parsed body, or nothing) is its own affair."""
    try:
        library(secret).verify(body, headers)
    except (standardwebhooks.WebhookVerificationError, svix.webhooks.WebhookVerificationError):
        return False
    return True


def judged(
    scheme: Scheme, secrets: Sequence[str], headers: dict[str, str], body: bytes = BODY, now: int = NOW
) -> Verdict:
    return verify(scheme, [key_of(scheme, secret) for secret in secrets], header_of([*headers.items()]), body, now=now)


def signed(scheme: Scheme, secret: str, body: bytes = BODY, at: int = AT) -> dict[str, str]:
    return signed_headers(scheme, secret, body, id=MESSAGE, timestamp=at)


def test_the_vector_of_standard_webhooks() -> None:
    assert sign_standard(decode_secret(SECRET), MESSAGE, AT, BODY) == SIGNATURE
    headers = {"webhook-id": MESSAGE, "webhook-timestamp": str(AT), "webhook-signature": SIGNATURE}
    assert judged("standard", [SECRET], headers) == Verified(MESSAGE, NOW)


def test_the_vector_of_github() -> None:
    expected = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    key, body = b"It's a Secret to Everybody", b"Hello, World!"
    assert sign_github(key, body) == expected
    assert verify("github", [key], header_of([("x-hub-signature-256", expected)]), body, now=0) == Verified()


def test_the_vector_of_slack() -> None:
    key = b"8f742231b10e8888abcd99yyyzzz85a5"
    body = (
        b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V"
        b"&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text="
        b"&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN"
        b"&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
    )
    expected = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"
    assert sign_slack(key, 1531420618, body) == expected
    headers = header_of([("x-slack-request-timestamp", "1531420618"), ("x-slack-signature", expected)])
    assert verify("slack", [key], headers, body, now=1531420618 * MICROSECONDS) == Verified(
        None, 1531420618 * MICROSECONDS
    )


def test_stripe_signs_as_its_documentation_says() -> None:
    """Stripe publishes the construction and no vector: HMAC-SHA256 under the whole ``whsec_`` text, over ``t.body``."""
    import hashlib
    import hmac

    key = b"whsec_" + b"k1" * 16
    plain = hmac.new(key, b"%d." % AT + BODY, hashlib.sha256).hexdigest()
    assert sign_stripe(key, AT, BODY) == f"t={AT},v1={plain}"
    several = f"t={AT},v1={'0' * 64},v0={plain},v1={plain}"
    assert verify("stripe", [key], header_of([("stripe-signature", several)]), BODY, now=NOW) == Verified(None, NOW)
    only_v0 = f"t={AT},v0={plain}"
    assert isinstance(verify("stripe", [key], header_of([("stripe-signature", only_v0)]), BODY, now=NOW), Refused)


def test_the_legacy_key_is_the_whole_text() -> None:
    import hashlib
    import hmac

    secret = new_secret()
    assert sign_legacy(secret, BODY) == hmac.new(secret.encode(), BODY, hashlib.sha256).hexdigest()
    assert key_of("legacy", secret) != key_of("standard", secret)


def test_a_legacy_signature_over_a_shaped_body_is_no_standard_one() -> None:
    shaped = f"{MESSAGE}.{AT}.".encode() + BODY
    forged = "v1," + base64.b64encode(bytes.fromhex(sign_legacy(SECRET, shaped))).decode()
    headers = {"webhook-id": MESSAGE, "webhook-timestamp": str(AT), "webhook-signature": forged}
    assert judged("standard", [SECRET], headers) == Refused("mismatch")


@pytest.mark.parametrize("library", LIBRARIES)
def test_libraries_verify_ours_and_we_theirs(library) -> None:
    secret, at = new_secret(), int(time.time())
    headers = signed("standard", secret, at=at)
    assert accepts(library, secret, headers)
    assert not accepts(library, secret, headers, BODY + b" ")
    theirs = library(secret).sign("msg_theirs", datetime.fromtimestamp(at, UTC), BODY.decode())
    given_headers = {"webhook-id": "msg_theirs", "webhook-timestamp": str(at), "webhook-signature": theirs}
    assert judged("standard", [secret], given_headers, now=at * MICROSECONDS) == Verified(
        "msg_theirs", at * MICROSECONDS
    )
    svix_names = {name.replace("webhook-", "svix-"): value for name, value in given_headers.items()}
    assert judged("standard", [secret], svix_names, now=at * MICROSECONDS) == Verified("msg_theirs", at * MICROSECONDS)


@pytest.mark.parametrize("library", LIBRARIES)
def test_during_a_rotation_both_secrets_verify_everywhere(library) -> None:
    old, new, at = new_secret(), new_secret(), int(time.time())
    both = " ".join(sign_standard(decode_secret(secret), MESSAGE, at, BODY) for secret in (new, old))
    headers = {"webhook-id": MESSAGE, "webhook-timestamp": str(at), "webhook-signature": both}
    for secret in (old, new):
        assert accepts(library, secret, headers)
        assert judged("standard", [secret], headers, now=at * MICROSECONDS) == Verified(MESSAGE, at * MICROSECONDS)
    assert not accepts(library, new_secret(), headers)
    stranger = judged("standard", [new_secret()], headers, now=at * MICROSECONDS)
    assert stranger == Refused("mismatch")


def test_names_of_the_two_families_are_not_mixed() -> None:
    headers = signed("standard", SECRET)
    mixed = {"svix-id": MESSAGE, **{name: headers[name] for name in ("webhook-timestamp", "webhook-signature")}}
    assert judged("standard", [SECRET], mixed) == Refused("missing")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_live_secret_verifies_and_no_other(scheme: Scheme) -> None:
    secrets = [new_secret_for(scheme) for _ in range(5)]
    for secret in secrets:
        assert isinstance(judged(scheme, secrets, signed(scheme, secret)), Verified)
    assert judged(scheme, secrets, signed(scheme, new_secret_for(scheme))) == Refused("mismatch")
    assert judged(scheme, [], signed(scheme, secrets[0])) == Refused("mismatch")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_signature_fits_its_own_scheme_alone(scheme: Scheme) -> None:
    secret = new_secret()
    for other in SCHEMES:
        verdict = judged(other, [secret], signed(scheme, secret))
        assert isinstance(verdict, Verified) == (other == scheme)


@pytest.mark.parametrize("scheme", TIMED)
@pytest.mark.parametrize("late", [TOLERANCE_SECONDS, -TOLERANCE_SECONDS])
def test_the_time_is_within_the_tolerance(scheme: Scheme, late: int) -> None:
    secret = new_secret_for(scheme)
    headers = signed(scheme, secret)
    further = 1 if late > 0 else -1
    assert isinstance(judged(scheme, [secret], headers, now=NOW + late * MICROSECONDS), Verified)
    assert judged(scheme, [secret], headers, now=NOW + late * MICROSECONDS + further) == Refused("stale")


@pytest.mark.parametrize("scheme", TIMED)
def test_the_time_is_signed(scheme: Scheme) -> None:
    secret = new_secret_for(scheme)
    fresh = {name: value.replace(str(AT), str(AT + 400)) for name, value in signed(scheme, secret).items()}
    assert judged(scheme, [secret], fresh, now=NOW + 400 * MICROSECONDS) == Refused("mismatch")


@pytest.mark.parametrize(
    "stamp", ["0", "-5", "+5", " 1614265330", "1614265330 ", "1e9", "٣", "1" * 13, "", "0x1", "1_0"]
)
@pytest.mark.parametrize("scheme", TIMED)
def test_a_timestamp_has_one_spelling(scheme: Scheme, stamp: str) -> None:
    secret = new_secret_for(scheme)
    headers = {name: value.replace(str(AT), stamp) for name, value in signed(scheme, secret).items()}
    assert judged(scheme, [secret], headers) == Refused("malformed")


def test_an_id_has_no_full_stop() -> None:
    """Else one signature would stand for two messages, of which one begins with the end of the id."""
    key = decode_secret(SECRET)
    with pytest.raises(ValueError, match="full stop"):
        sign_standard(key, "a.b", AT, BODY)
    forged = sign_standard(key, "a", AT, b"1614265330." + BODY)
    headers = {"webhook-id": f"a.{AT}", "webhook-timestamp": str(AT), "webhook-signature": forged}
    assert judged("standard", [SECRET], headers) == Refused("malformed")


@pytest.mark.parametrize("bad", ["", "a b", "é", "x" * 257, "a\nb", "a.b"])
def test_ids_that_cannot_be_signed(bad: str) -> None:
    with pytest.raises(ValueError, match="visible ASCII"):
        sign_standard(decode_secret(SECRET), bad, AT, BODY)


def test_a_header_given_twice_is_none() -> None:
    headers = [*signed("standard", SECRET).items()]
    for doubled in headers:
        verdict = verify("standard", [decode_secret(SECRET)], header_of([*headers, doubled]), BODY, now=NOW)
        assert verdict == Refused("missing")


def test_the_number_of_signatures_is_bounded() -> None:
    headers = signed("standard", SECRET)
    wrong = "v1," + base64.b64encode(b"x" * 32).decode()
    for count, verdict in ((MAX_SIGNATURES - 1, Verified(MESSAGE, NOW)), (MAX_SIGNATURES, Refused("malformed"))):
        many = {**headers, "webhook-signature": " ".join([*[wrong] * count, headers["webhook-signature"]])}
        assert judged("standard", [SECRET], many) == verdict


def test_other_versions_of_signature_do_not_count() -> None:
    plain = SIGNATURE.removeprefix("v1,")
    for other in (f"v2,{plain}", f"v1a,{plain}", plain, f"v1,{plain.rstrip('=')}", f"v1,{plain}=", f" {SIGNATURE}x"):
        headers = {"webhook-id": MESSAGE, "webhook-timestamp": str(AT), "webhook-signature": other}
        assert judged("standard", [SECRET], headers) == Refused("mismatch")


def test_the_version_of_the_legacy_scheme_chooses_nothing() -> None:
    secret = new_secret_for("legacy")
    headers = signed("legacy", secret)
    del headers["X-Webhook-Version"]
    assert judged("legacy", [secret], headers) == Verified()
    for version in ("2", "standard", "", "1 "):
        assert judged("legacy", [secret], {**headers, "X-Webhook-Version": version}) == Refused("malformed")
    assert judged("standard", [new_secret()], {**headers, "X-Webhook-Version": "1"}) == Refused("missing")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_key_meets_every_signature(scheme: Scheme, monkeypatch: pytest.MonkeyPatch) -> None:
    """No early exit: the number of comparisons is the same, whichever matches, and refusals are no cheaper."""
    secrets = [new_secret_for(scheme) for _ in range(3)]
    compared: list[int] = []

    def counted(a: bytes, b: bytes) -> bool:
        compared[-1] += 1
        return a == b

    monkeypatch.setattr(webhooks, "equal", counted)
    for headers in (*(signed(scheme, secret) for secret in secrets), signed(scheme, new_secret_for(scheme)), {}):
        compared.append(0)
        judged(scheme, secrets, headers)
    assert compared == [3] * 5


WEAK = {
    "short when decoded": "whsec_" + base64.b64encode(bytes(range(100, 123))).decode(),
    "long when decoded": "whsec_" + base64.b64encode(bytes(range(65))).decode(),
    "no base64": "whsec_relay-secret!relay-secret!relay-secret!",
    "not padded": SECRET + "MfKQ9r",
    "not canonical": "whsec_" + base64.b64encode(bytes(range(0, 250, 10))).decode()[:-3] + "B==",
    "url-safe": "whsec_" + base64.urlsafe_b64encode(b"\xff\xfe\xfb" * 8).decode(),
    "all the same": "whsec_" + base64.b64encode(bytes(32)).decode(),
    "no prefix": SECRET.removeprefix("whsec_"),
    "white space": SECRET + " ",
    "line break": SECRET[:20] + "\n" + SECRET[20:],
    "not ASCII": "whsec_é" + SECRET[7:],
    "empty": "",
}


@pytest.mark.parametrize("about", WEAK)
def test_weak_standard_secrets_are_refused(about: str) -> None:
    with pytest.raises(ValueError) as refused:
        decode_secret(WEAK[about])
    assert not WEAK[about] or WEAK[about] not in str(refused.value)


@pytest.mark.parametrize("scheme", ["legacy", "github", "stripe", "slack"])
@pytest.mark.parametrize(
    "text", ["k" * 32, "short", "a1B2" * 8, "x" * 300, f" {SECRET}", f"{SECRET}\x07", "changeme" * 8]
)
def test_weak_text_secrets_are_refused(scheme: Scheme, text: str) -> None:
    with pytest.raises(ValueError) as refused:
        key_of(scheme, text)
    assert text not in str(refused.value)


def test_fresh_secrets_are_good_and_different() -> None:
    for scheme in SCHEMES:
        made = {new_secret_for(scheme) for _ in range(50)}
        assert len(made) == 50
        assert all(len(key_of(scheme, secret)) >= 32 for secret in made)


NAMES = sorted(webhooks.SIGNATURE_HEADERS | {b"x-webhook-version"})
TOKENS = st.sampled_from(
    [b"v1,", b"v0=", b"sha256=", b"t=", b"v1=", b",", b" ", b".", str(AT).encode(), b"\xff", b"\x00"]
)
VALUES = st.one_of(st.binary(max_size=80), st.lists(TOKENS | st.binary(max_size=6), max_size=12).map(b"".join))


@given(
    st.sampled_from(SCHEMES),
    st.lists(st.tuples(st.sampled_from(NAMES), VALUES), max_size=8),
    st.binary(max_size=200),
    st.integers(min_value=0, max_value=2**62),
)
def test_verification_is_total_and_strangers_are_refused(
    scheme: Scheme, headers: list[tuple[bytes, bytes]], body: bytes, now: int
) -> None:
    key = key_of(scheme, new_secret())
    assert isinstance(verify(scheme, [key], header_of(headers), body, now=now), Refused)


@given(st.sampled_from(SCHEMES), st.binary(max_size=500), st.data())
def test_any_changed_byte_is_refused(scheme: Scheme, body: bytes, data: st.DataObject) -> None:
    secret = new_secret()
    headers = signed(scheme, secret, body)
    assert isinstance(judged(scheme, [secret], headers, body), Verified)
    place = data.draw(st.integers(0, len(body)))
    changed = data.draw(
        st.sampled_from([body[:place] + b"x" + body[place:], body[:place] + body[place + 1 :], body + b"\n"])
    )
    if changed != body:
        assert isinstance(judged(scheme, [secret], headers, changed), Refused)
    for name, value in headers.items():
        if name == "X-Webhook-Version":
            continue
        at = data.draw(st.integers(0, len(value) - 1))
        other = data.draw(st.sampled_from([c for c in string.ascii_letters + string.digits if c != value[at]]))
        wrong = {**headers, name: value[:at] + other + value[at + 1 :]}
        assert isinstance(judged(scheme, [secret], wrong, body), Refused)
